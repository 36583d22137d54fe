"""Semantic tokeniser: Wav2Vec2-Conformer (docs/spec.md, section 4).

    python -m melody_jax.train --config=configs/wav2vec.py:nano --workdir=runs/wav2vec \
        --config.data.path=DATASETS
    python -m melody_jax.export --config=configs/wav2vec.py:nano --workdir=runs/wav2vec \
        --config.export.bundle=checkpoints/nano
    python -m melody_jax.fit --config=configs/fit.py:semantic \
        --config.bundle=checkpoints/nano --config.data.path=DATASETS

With --config.train.init_from=FILE a run begins with what fits of a public Wav2Vec2-Conformer.

Presets: paper (198.4 M parameters, not trained: cost and score not measured), nano, tiny (tests).

A number without a remark is the paper's where docs/spec.md says so; else it was not measured.
"""

import ml_collections

from melody_jax.config import training_config


def get_config(preset: str = "nano") -> ml_collections.ConfigDict:
  """Config of a training run; `preset` is paper, nano or tiny."""
  c = training_config("wav2vec", preset)
  c.loss = ml_collections.ConfigDict()
  c.loss.mask_start_probability = 0.065  # wav2vec 2.0: 49 % of the frames hidden
  c.loss.mask_span = 10  # frames, 0.4 s
  c.loss.n_distractors = 100  # docs/spec.md, section 4
  c.loss.contrastive_temperature = 0.1  # of the softmax over true frame and distractors
  c.loss.diversity_weight = 0.1  # of the use of all codewords
  c.loss.gumbel_start = 2.0  # temperature of the choice of codewords at first
  c.loss.gumbel_end = 0.5  # and at last
  c.loss.gumbel_decay = 0.999995  # a step
  c.loss.freeze_targets = False
  c.loss.teacher_weight = 0.0  # of the musical teacher, beside the contrastive loss; paper: none
  c.loss.teacher_visible = 0.5  # share that frames which are not hidden have in it
  {"paper": _paper, "nano": _nano, "tiny": _tiny}[preset](c)
  return c


def _paper(c: ml_collections.ConfigDict) -> None:
  c.model.update(
    conv_channels=[512] * 8,
    conv_kernels=[10, 6, 4, 4, 4, 4, 2, 2],
    conv_strides=[5, 3, 2, 2, 2, 2, 2, 2],  # 960 samples: 25 Hz
    front="conv",
    width=768,
    n_layers=14,
    n_heads=12,
    mlp_width=3072,  # the depth that fits 199.5 M (choice)
    kernel_size=31,
    positions="rotary",
    conv_norm="layer",
    dropout=0.1,
    remat=True,
    n_groups=2,
    n_codes=320,
    code_size=256,
    projection_size=256,  # as wav2vec 2.0 base
    tokens_layer=7,
    n_tokens=1024,
    dtype="bfloat16",
  )
  c.train.batch_size = 256
  c.train.steps = 400_000
  c.train.save_every = 5_000
  c.train.eval_every = 5_000
  c.optimizer.learning_rate = 5e-4
  c.optimizer.warmup_steps = 32_000
  c.optimizer.schedule = "linear"
  c.optimizer.final_scale = 0.0
  c.optimizer.b2 = 0.98
  c.optimizer.weight_decay = 0.01


def _nano(c: ml_collections.ConfigDict) -> None:
  c.model.update(
    # Quarter tones from 65 Hz to 10 kHz under windows of up to 180 ms, 50 times a second; then
    # one halving. 1.4 GFLOP for 10 s.
    conv_channels=[176, 384],
    conv_kernels=[4320, 4],
    conv_strides=[480, 2],
    front="constant_q",
    front_pool=5,  # 0.1 s at 50 Hz
    teacher_size=76,
    tokens_from="teacher",
    # Small fit, other clips: the head alone explains 40 % of log-mel and 47 % of chroma, this 55
    # and 47 %, the heard part alone 58 and 53 % at 0.3 nats more under a bigram model.
    heard_share=0.5,
    mel_weight=2.0,
    width=192,
    n_layers=3,  # with a teacher, tokens gain little from more
    n_heads=4,
    mlp_width=576,
    kernel_size=31,
    positions="rotary",
    conv_norm="layer",
    dropout=0.0,
    remat=False,
    n_groups=2,
    n_codes=128,
    code_size=128,
    projection_size=128,
    tokens_layer=3,  # not read: tokens come from the teacher's head
    n_tokens=1024,
    dtype="float32",
  )
  c.loss.gumbel_decay = 0.999  # the short run still reaches the end temperature
  # In a short run at small batches the encoder and the codes make the task easy instead of
  # learning it: after 1,100 steps the features had collapsed from 20 to 2 effective dimensions
  # (of 192), and tokens told the position in the clip. Fixed filters and a fixed random
  # projection give targets that can only be predicted (as in BEST-RQ, Chiu et al. 2022).
  c.loss.freeze_targets = True
  c.loss.teacher_weight = 4.0
  c.train.batch_size = 8
  c.train.steps = 2_000
  c.train.eval_every = 500
  c.train.save_every = 500
  c.optimizer.name = "muon"  # docs/experiments.md
  c.optimizer.learning_rate = 1e-3
  c.optimizer.warmup_steps = 100
  c.optimizer.b2 = 0.98


def _tiny(c: ml_collections.ConfigDict) -> None:
  _nano(c)
  c.window_seconds = 2.0
  c.model.update(
    conv_channels=[48, 16],
    width=16,
    n_layers=2,
    n_heads=2,
    mlp_width=32,
    kernel_size=5,
    n_codes=8,
    code_size=16,
    projection_size=16,
    tokens_layer=2,
    n_tokens=16,
  )
  c.loss.n_distractors = 8
  c.train.batch_size = 2
  c.train.steps = 4
  c.train.log_every = 2
  c.train.eval_every = 4
  c.train.eval_batches = 1
  c.train.save_every = 4
  c.optimizer.warmup_steps = 1
