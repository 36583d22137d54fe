"""Fitting of quantisers and other constants on a corpus (docs/spec.md, sections 3, 4 and 7).

    python -m melody_jax.fit --config=configs/fit.py:semantic \
        --config.bundle=checkpoints/nano --config.data.path=DATASETS
    python -m melody_jax.fit --config=configs/fit.py:style \
        --config.bundle=checkpoints/nano --config.data.path=DATASETS

semantic: k-means of the wav2vec model's features, added to wav2vec.safetensors.
style: residual k-means of MuLan's music embeddings, added to mulan.safetensors.
prior: linear map from captions to their music in MuLan's space, added to mulan.safetensors.
latents: mean and spread of the VAE's latents, added to vae.safetensors.
axes: principal axes of spectra, a new vae.safetensors that training begins with.
`_tiny` after either is the size of tests.
"""

import ml_collections

KINDS = ("semantic", "style", "prior", "latents", "axes")


def get_config(preset: str = "semantic") -> ml_collections.ConfigDict:
  """Settings of one fit; `preset` is one of KINDS, with _tiny for tests."""
  c = ml_collections.ConfigDict()
  c.what, _, size = preset.partition("_")
  if c.what not in KINDS or size not in ("", "tiny"):
    raise ValueError(f"preset {preset!r} is none of {', '.join(KINDS)}, or these with _tiny")
  c.bundle = "checkpoints/nano"  # directory of the model's file, which is updated
  c.sample_rate = 24_000  # Hz
  c.window_seconds = 10.0  # length of a clip, as in training
  c.seed = 0

  c.data = ml_collections.ConfigDict()
  c.data.source = "array"
  c.data.path = ""  # as in training
  c.data.weights = ""
  c.data.tfds_dir = ""
  c.data.split = "train"
  c.data.eval_split = "validation"

  c.train = ml_collections.ConfigDict()
  c.train.batch_size = 8  # clips a forward pass
  c.eval_windows = 1_000_000  # clips of the validation split that are read at most

  if c.what == "semantic":
    c.windows = 2_000  # random clips: 500,000 frames, 490 a centre, 384 MB at nano
    c.passes = 6  # over those frames
    c.points = 8_192  # frames a mini-batch; a few times the number of centres
  elif c.what == "prior":
    c.windows = 4_096  # random clips, one of the captions of each
    c.eval_windows = 1_024
    c.ridge = 2e-3  # a unit vector has a variance of about 1 / 128 an axis
  elif c.what == "axes":
    from configs import vae  # the codec's sizes live on its own page

    c.model = vae.get_config(size or "nano").model
    c.windows = 1_000  # random clips: 250,000 latent frames, 80 a stacked bin
  elif c.what == "latents":
    c.windows = 500  # random clips: 250,000 latent frames at nano
  else:
    c.windows = 8_192  # random clips, one embedding each
    c.n_levels = 12
    c.n_centres = 1_024
    c.iterations = 12  # of Lloyd's algorithm, each level
  if size == "tiny":
    c.train.batch_size = 2
    c.window_seconds = 2.0
    c.windows = 16
    c.eval_windows = 4
    if c.what == "semantic":
      c.points = 128
      c.passes = 2
    elif c.what == "prior":
      c.window_seconds = 10.0
    elif c.what == "style":
      c.n_levels = 2
      c.n_centres = 8
      c.iterations = 2
      c.window_seconds = 10.0
  return c
