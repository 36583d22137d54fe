"""Defaults of a training run; a file in configs/ changes what its model needs."""

import ml_collections


def distributed_config() -> ml_collections.ConfigDict:
  """How the processes of a run find each other: `melody_jax.multihost.membership.Settings`."""
  c = ml_collections.ConfigDict()
  c.coordinator = ""  # host:port of process 0; empty: MELODY_COORDINATOR, or found out
  c.num_processes = 0  # 0: found out
  c.process_id = -1  # -1: found out
  c.start_timeout = 300  # s for all processes to show up
  c.heartbeat_timeout = 25  # s of silence after which a process counts as dead
  return c


def training_config(task: str, preset: str) -> ml_collections.ConfigDict:
  """The config of a training run of `task`, to be completed by configs/<model>.py."""
  c = ml_collections.ConfigDict()
  c.task = task
  c.preset = preset
  c.sample_rate = 24_000  # Hz, mono
  c.window_seconds = 10.0  # docs/spec.md, section 1
  c.seed = 0

  c.model = ml_collections.ConfigDict()  # becomes the model's frozen dataclass

  c.data = ml_collections.ConfigDict()
  c.data.source = "array"  # "array" needs no TensorFlow; "seqio" reads TFDS datasets
  c.data.path = ""  # array: directories, comma-separated; seqio: mixture or task name
  c.data.weights = ""  # array: comma-separated sampling weights; empty: by hours
  c.data.tfds_dir = ""  # seqio: where the TFDS datasets were built
  c.data.split = "train"
  c.data.eval_split = "validation"

  c.train = ml_collections.ConfigDict()
  c.train.init_from = ""  # begin with the parameters of this .safetensors file of a bundle
  c.train.batch_size = 8  # rows of a step, over all hosts
  c.train.accumulate = 1  # parts a batch is cut into, one after another (less memory)
  c.train.on_nonfinite = "stop"  # or "skip": what a loss of NaN or infinity does
  c.train.steps = 1000
  c.train.log_every = 20
  c.train.eval_every = 500
  c.train.eval_batches = 8
  c.train.save_every = 500
  c.train.keep = 2  # checkpoints kept
  c.train.ema_decay = 0.0  # 0: no average
  c.train.media = False  # audio and spectrograms to TensorBoard at evaluation

  c.optimizer = ml_collections.ConfigDict()
  c.optimizer.name = "adamw"  # or "muon": learns faster a step where most weights are matrices
  c.optimizer.learning_rate = 1e-3
  c.optimizer.warmup_steps = 100
  c.optimizer.schedule = "cosine"  # "cosine", "linear" or "constant"
  c.optimizer.final_scale = 0.1  # of learning_rate, at the last step
  c.optimizer.b1 = 0.9
  c.optimizer.b2 = 0.99
  c.optimizer.eps = 1e-8
  c.optimizer.weight_decay = 0.0
  c.optimizer.clip_norm = 1.0

  c.export = ml_collections.ConfigDict()
  c.export.bundle = ""  # melody_jax.export writes <bundle>/<task>.safetensors
  c.export.dtype = "float16"  # of floating parameters in it

  c.mesh = ml_collections.ConfigDict()
  c.mesh.data = -1  # -1: whatever devices remain
  c.mesh.fsdp = 1
  c.mesh.tensor = 1
  c.distributed = distributed_config()
  return c
