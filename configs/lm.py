"""Semantic LM: docs/spec.md, section 5.

    python -m melody_jax.train --config=configs/lm.py:nano --workdir=DIR \
      --config.data.path=ENCODED --config.conditioning.style_codebooks=BUNDLE/mulan.safetensors

ENCODED is a dataset that `melody_jax.encode` wrote (style_tokens, semantic_tokens); the second
path may be left out, then style embeddings start at random.

nano, by arithmetic. One core of a 2-core EPYC multiplies at 41 GFLOP/s in this step, gradients
included; 20 minutes of it are 4.9e13 FLOP. Training costs 6 N a token, N the weights that are
multiplied, and the corpus is 25 h = 9,000 windows of 261 positions. One pass over it then affords
N = 4.9e13 / (6 x 9,000 x 261) = 3.5 M. A layer has 4 D^2 + 3 D F weights: D = 256, F = 640,
4 layers and a head over the semantic vocabulary alone (0.26 M) make N = 3.3 M. The table (3.4 M)
is looked up, not multiplied. Sampling reads 3.3 M x 4 bytes and makes 4 x 7 small products a
token. A longer run should turn dropout on.

Cost of nano: 1.03 s of one core's time a step of 8 windows, 21 minutes in all. Its score: in the
model card. Cost and score of paper: not measured.
"""

import ml_collections

from melody_jax.config import training_config


def get_config(preset: str = "nano") -> ml_collections.ConfigDict:
  """The run's config; `preset` is "paper", "nano" or "tiny"."""
  presets = {"paper": _paper, "nano": _nano, "tiny": _tiny}
  c = training_config(task="lm", preset=preset)
  c.model = dict(
    style_levels=12,
    style_vocab=1024,
    semantic_vocab=1024,
    window_tokens=250,
    fixed_styles=False,
    summed_styles=False,
    dropout=0.0,
    attention="auto",
    remat="none",
    dtype="float32",
  )
  c.conditioning = ml_collections.ConfigDict()
  c.conditioning.style_dropout = 0.1  # rows without any style: classifier-free guidance
  c.conditioning.style_truncation = 0.0  # rows that keep only their first RVQ levels
  c.conditioning.style_token_dropout = 0.0  # single levels
  c.conditioning.style_codebooks = ""  # mulan.safetensors whose RVQ the style rows start from
  c.optimizer.b2 = 0.95
  c.optimizer.weight_decay = 0.1
  presets[preset](c)
  return c


def _paper(c: ml_collections.ConfigDict) -> None:
  """429.5 M parameters in the paper's table, 430.0 M here (test_lm.py counts them)."""
  c.model.update(n_layers=24, width=1024, n_heads=16, mlp_width=4096, head="all")
  c.model.update(dtype="bfloat16", remat="dots")
  c.train.batch_size = 512
  c.train.steps = 200_000
  c.train.eval_every = 2000
  c.train.save_every = 2000
  c.optimizer.learning_rate = 3e-4  # LLaMA's, for 7 B and below
  c.optimizer.warmup_steps = 2000


def _nano(c: ml_collections.ConfigDict) -> None:
  """The shipped size."""
  c.model.update(n_layers=4, width=256, n_heads=4, mlp_width=640, head="semantic")
  c.model.fixed_styles = True
  # Rows of single codewords made the right style worse than none on a window's first tokens.
  c.model.summed_styles = True
  c.model.dropout = 0.1
  # Text never yields exactly the tokens of a training clip, least of all at the fine levels.
  c.conditioning.style_truncation = 0.3
  c.conditioning.style_token_dropout = 0.05
  c.train.batch_size = 8
  c.train.steps = 1200  # 9,600 windows
  c.train.eval_every = 300
  c.train.save_every = 300
  c.train.ema_decay = 0.99
  c.optimizer.learning_rate = 2e-3
  c.optimizer.warmup_steps = 60
  c.optimizer.final_scale = 0.05


def _tiny(c: ml_collections.ConfigDict) -> None:
  """Tests: seconds."""
  c.model.update(n_layers=2, width=32, n_heads=2, mlp_width=64, head="semantic")
  c.model.fixed_styles = True
  c.model.summed_styles = True
  c.train.batch_size = 4
  c.train.steps = 20
  c.optimizer.learning_rate = 3e-3
  c.optimizer.warmup_steps = 4
