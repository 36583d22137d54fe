"""Semantic LM: docs/spec.md, section 5.

    python -m melody_jax.train --config=configs/lm.py:nano --workdir=DIR \
      --config.data.path=ENCODED --config.conditioning.style_codebooks=BUNDLE/mulan.safetensors

ENCODED is a dataset that `melody_jax.encode` wrote (style_tokens, semantic_tokens). The second path
may be left out; then style embeddings start at random.

Size of nano, by arithmetic. One core of a 2-core AMD EPYC does 41 GFLOP/s in this step, gradients
included; 20 minutes of it are 4.9e13 FLOP. Training costs 6 N FLOP a token, where N counts the
weights that are multiplied. The corpus has 25 h, which are 9,000 windows of 261 positions. So one
pass over it affords N = 4.9e13 / (6 x 9,000 x 261) = 3.5 M. A layer has 4 D^2 + 3 D F weights. With
D = 256, F = 640, 4 layers and a head over the semantic vocabulary alone (0.26 M), N = 3.3 M. The
table (3.4 M) is looked up, not multiplied.

| preset | parameters | cost | score |
| --- | --- | --- | --- |
| paper | 430.0 M | not measured | not measured |
| nano | 6.8 M | 1.03 s of one core's time a step, 21 minutes in all | not measured |
| tiny | tests | seconds | none |

The shipped checkpoint was trained with other options; checkpoints/nano/README.md has them and its
score.

A number without a remark is the paper's where docs/spec.md says so; else it was not measured.
"""

import ml_collections

from melody_jax.config import training_config


def get_config(preset: str = "nano") -> ml_collections.ConfigDict:
  """Config of a training run; `preset` is "paper", "nano" or "tiny"."""
  presets = {"paper": _paper, "nano": _nano, "tiny": _tiny}
  c = training_config(task="lm", preset=preset)
  c.model = dict(
    style_levels=12,  # the paper's
    style_vocab=1024,  # the paper's
    semantic_vocab=1024,  # the paper's
    window_tokens=250,  # 10 s at 25 Hz
    fixed_styles=False,
    summed_styles=False,
    dropout=0.0,
    attention="auto",
    remat="none",
    dtype="float32",
  )
  c.conditioning = ml_collections.ConfigDict()
  # Share of rows without any style: classifier-free guidance needs them. Not measured.
  c.conditioning.style_dropout = 0.1
  c.conditioning.style_truncation = 0.0  # share of rows that keep only their first RVQ levels
  c.conditioning.style_token_dropout = 0.0  # chance of each level to be hidden
  c.conditioning.style_codebooks = ""  # mulan.safetensors whose RVQ the style rows start from
  c.optimizer.b2 = 0.95  # LLaMA's
  c.optimizer.weight_decay = 0.1  # LLaMA's
  presets[preset](c)
  return c


def _paper(c: ml_collections.ConfigDict) -> None:
  """The paper's size: 429.5 M parameters in its table, 430.0 M here (a test counts them)."""
  c.model.n_layers = 24
  c.model.width = 1024
  c.model.n_heads = 16
  c.model.mlp_width = 4096
  c.model.head = "all"  # over the whole table, as the paper counts its parameters
  c.model.dtype = "bfloat16"
  # Nothing is computed again: of eight rows a chip the activations fit into the 16 GB of a v5e.
  # Parameters and their state are shared out over 16 chips; over all 256 of a slice a step is
  # bound to take a third longer (launch/README.md).
  c.mesh.fsdp = 16
  # 0.51 M tokens, as for GPT-3's models of this size (Brown et al. 2020, table 2.1). A quarter of
  # it would leave v5e-256 waiting for its weights (launch/README.md).
  c.train.batch_size = 2048
  c.train.steps = 50_000  # 25.6 billion tokens: 1.11 passes over 257,000 hours
  c.train.eval_every = 2000
  c.train.save_every = 2000
  c.optimizer.learning_rate = 3e-4  # LLaMA's for 7 B and below, and GPT-3's for this size and batch
  c.optimizer.warmup_steps = 2000  # LLaMA's


def _nano(c: ml_collections.ConfigDict) -> None:
  """A small size that two CPU cores can train. The page's docstring derives it."""
  c.model.n_layers = 4
  c.model.width = 256
  c.model.n_heads = 4  # heads of 64, as in the paper's size
  c.model.mlp_width = 640
  c.model.head = "semantic"  # nothing else is predicted, and the rest would cost 13 times as much
  # 12 x 1024 learned rows would see a handful of clips each; this way all clips share a map.
  c.model.fixed_styles = True
  # Rows of single codewords made the right style worse than none on a window's first tokens.
  c.model.summed_styles = True
  c.model.dropout = 0.1
  # Text never yields exactly the tokens of a training clip, least of all at the fine levels.
  c.conditioning.style_truncation = 0.3
  c.conditioning.style_token_dropout = 0.05
  c.train.batch_size = 8  # not measured
  c.train.steps = 1500  # 12,000 windows: about one pass over 34 h
  c.train.eval_every = 300
  c.train.save_every = 300
  c.train.ema_decay = 0.99  # a mean over about 100 steps; in 1,200 a longer one lags behind
  c.optimizer.name = "muon"  # docs/experiments.md
  c.optimizer.learning_rate = 1.5e-3  # not measured
  c.optimizer.warmup_steps = 60  # not measured
  c.optimizer.final_scale = 0.05  # not measured


def _tiny(c: ml_collections.ConfigDict) -> None:
  """For tests: trains in seconds."""
  c.model.style_vocab = 8  # those of configs/fit.py:style_tiny
  c.model.semantic_vocab = 16  # those of configs/wav2vec.py:tiny
  c.model.n_layers = 2
  c.model.width = 32
  c.model.n_heads = 2
  c.model.mlp_width = 64
  c.model.head = "semantic"
  c.model.fixed_styles = True
  c.model.summed_styles = True
  c.train.batch_size = 4
  c.train.steps = 20
  c.optimizer.learning_rate = 3e-3
  c.optimizer.warmup_steps = 4
