"""Dual-path diffusion (docs/spec.md, section 6): tokens -> latents.

    python -m melody_jax.train --config=configs/dpd.py:nano --config.data.path=DIR --workdir=DIR

DIR is a dataset that `python -m melody_jax.encode` wrote (semantic_tokens, latents).

Choices where the paper is silent, made so that `paper` has 296.6 M parameters within 2 %:
feed-forward inner size 4 x width, SRU hidden size = width per direction, FiLM inner size 896.

nano, by arithmetic (one pass over 10 s, L = 250, S = 33): the coarse paths see 33 x 28 columns
at 2 x (6 W^2 + 2 W F) weights each and attend to 250 tokens, the fine paths 33 x 16 frames in 6
blocks at 8 W^2: half of what latents of 50 Hz would cost. Ten guided steps are 20 passes.
Training costs about three passes a window.

`model.denoiser` puts another network in its place, to compare with (docs/spec.md, section 6.9): a
UNet-1D or a UNet-2D of as many parameters, with the same conditions, loss and loop.

Its cost and score: in the model card. Cost and score of paper: not measured.

A number without a remark is the paper's where docs/spec.md says so; else it was not measured.
"""

import ml_collections

from melody_jax.config import training_config


def get_config(preset: str = "nano") -> ml_collections.ConfigDict:
  """The run's config; `preset` is "paper", "nano" or "tiny"."""
  presets = {"paper": _paper, "nano": _nano, "tiny": _tiny}
  c = training_config(task="dpd", preset=preset)
  c.model = dict(
    denoiser="dpd",  # or "unet_1d", "unet_2d"; whose sizes are below, under their names
    vocab_size=1024,
    chunks=4,
    coarse_layers=2,
    sru_layers=2,
    fine_path="sru",  # or "attention", to compare with
    angle_width=256,
    latent_std=1.0,
    norms="sums",
    edge_kernel=1,
    filter_taps=0,
    remat=False,
    dtype="float32",
    unet_1d=dict(bands=1, blocks=2),  # a frame is one place of the picture
    unet_2d=dict(blocks=2),
  )
  c.conditioning = ml_collections.ConfigDict()
  c.conditioning.drop = 0.1  # rows trained without semantic tokens: classifier-free guidance
  c.conditioning.tokens = "right"  # or "shuffled" (another row's), "none": what they are worth
  c.loss = ml_collections.ConfigDict()
  c.loss.weighting = "velocity"  # the paper's; "unit": every angle counts alike
  c.train.ema_decay = 0.999
  c.optimizer.weight_decay = 0.01
  presets[preset](c)
  return c


def _paper(c: ml_collections.ConfigDict) -> None:
  """298.0 M parameters (the paper: 296.6 M); latents of 250 Hz, D = 16."""
  c.latent_rate = 250.0  # Hz
  c.model.update(
    latent_dim=16,
    frames_per_token=10.0,  # latents of 250 Hz, tokens of 25
    segment_size=64,
    n_blocks=8,
    width=768,
    n_heads=12,
    ffn_width=3072,
    sru_width=768,  # of each direction
    film_width=896,  # what fits the paper's count of parameters
    dtype="bfloat16",
    remat=True,
  )
  # 296.7 M parameters and 0.25 TFLOP a pass over 10 s; the DPD has 1.49.
  c.model.unet_1d.update(
    width=256,
    multipliers=(1, 2, 3, 4, 4),
    attention=(0, 0, 1, 1, 1),
    n_heads=8,
    ffn_factor=4,
    embed_width=512,
  )
  # 298.3 M parameters and 1.94 TFLOP a pass.
  c.model.unet_2d.update(
    bands=16,  # every channel is a place: the picture has 2,500 x 16
    width=240,
    multipliers=(1, 2, 3, 4),
    attention=(0, 0, 1, 1),
    n_heads=8,
    ffn_factor=4,
    embed_width=896,
  )
  c.train.batch_size = 256
  c.train.steps = 300_000
  c.train.eval_every = 2000
  c.train.save_every = 2000
  c.train.ema_decay = 0.9999
  c.optimizer.learning_rate = 2e-4
  c.optimizer.warmup_steps = 2000


def _nano(c: ml_collections.ConfigDict) -> None:
  """The small size: 9.6 M parameters; latents of 25 Hz, D = 128."""
  c.latent_rate = 25.0
  c.model.update(
    latent_dim=128,  # as in configs/vae.py
    frames_per_token=1.0,  # both have 25 Hz
    segment_size=16,  # 0.64 s: about a beat
    n_blocks=6,
    width=192,  # the page's docstring has the cost
    n_heads=4,
    ffn_width=512,
    sru_width=96,  # of each direction: both together are as wide as the stream
    film_width=192,
    chunks=5,  # of 50 frames; 250 have no quarters
    # In units of the best linear predictor, 400 steps: the paper's form 0.85, with the filter 0.74,
    # with the residual stream 0.73, with both 0.70.
    norms="inputs",
    edge_kernel=7,
    filter_taps=9,
    # The root mean square of the channels' spreads. Without this most of a short run goes into
    # the best linear predictor, and the error of angles near pi/2, where the tokens decide what
    # comes out, weighs a ninth of that near 0.
    latent_std=0.4,
  )
  # 9.6 M parameters like the DPD, and 2.6 GFLOP a pass over 10 s; the DPD has 4.7.
  c.model.unet_1d.update(
    width=104,
    multipliers=(1, 2, 2),
    attention=(0, 1, 1),
    n_heads=4,
    ffn_factor=2,
    embed_width=208,
  )
  # 9.7 M parameters, 5.5 GFLOP.
  c.model.unet_2d.update(
    bands=8,  # of 16 neighbouring principal axes; 16 bands would cost twice the DPD's
    width=54,
    multipliers=(1, 2, 4),
    attention=(0, 0, 1),
    n_heads=4,
    ffn_factor=2,
    embed_width=176,
  )
  c.loss.weighting = "unit"
  c.train.batch_size = 8
  c.train.steps = 4000
  c.train.eval_every = 250
  c.train.save_every = 100
  c.optimizer.name = "muon"
  c.optimizer.learning_rate = 1e-3
  c.optimizer.warmup_steps = 100
  c.optimizer.final_scale = 0.02


def _tiny(c: ml_collections.ConfigDict) -> None:
  """Tests: seconds."""
  c.latent_rate = 50.0
  c.model.update(
    vocab_size=16,  # those of configs/wav2vec.py:tiny
    latent_dim=8,
    frames_per_token=2.0,
    segment_size=8,
    n_blocks=3,
    coarse_layers=1,
    width=32,
    n_heads=2,
    ffn_width=48,
    sru_width=16,
    film_width=32,
    angle_width=16,
  )
  unet = dict(
    width=8, multipliers=(1, 2), attention=(0, 1), blocks=1, n_heads=2, ffn_factor=2, embed_width=16
  )  # fmt: skip
  c.model.unet_1d.update(unet)
  c.model.unet_2d.update(bands=4, **unet)
  c.train.batch_size = 4
  c.train.steps = 10
  c.optimizer.learning_rate = 3e-3
  c.optimizer.warmup_steps = 4
