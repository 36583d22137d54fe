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

A name with `_tiny` after it is the size of tests. Cost: not measured. Scores: in the model card.

A number without a remark is the paper's where docs/spec.md says so; else it was not measured.
"""

import ml_collections

from melody_jax.config import check_preset, data_config
from melody_jax.places.config_pages import load


def get_config(preset: str = "semantic") -> ml_collections.ConfigDict:
  """Settings of one fit; `preset` is one of FITS, or one of them with _tiny."""
  check_preset(preset, (*FITS, *(f"{name}_tiny" for name in FITS)))
  c = ml_collections.ConfigDict()
  c.what, _, size = preset.partition("_")  # which fit
  c.bundle = "checkpoints/nano"  # directory of the model's file, which is updated
  c.sample_rate = 24_000  # Hz
  c.window_seconds = 10.0  # length of a clip, as in training
  c.seed = 0  # of the choice of clips

  c.data = data_config()

  c.train = ml_collections.ConfigDict()
  c.train.batch_size = 8  # clips a forward pass; does not change what is fitted
  c.eval_windows = 1_000_000  # clips of the validation split that are read at most: all
  if size == "tiny":
    c.train.batch_size = 2
    c.eval_windows = 4
    c.window_seconds = 2.0  # MuLan reads whole windows: its fits put 10 s back
  FITS[c.what](c, size == "tiny")
  if size == "tiny":
    c.windows = 16
  return c


def _semantic(c: ml_collections.ConfigDict, tiny: bool) -> None:
  c.windows = 2_000  # random clips: 500,000 frames, 490 for each centre, 384 MB at nano
  c.passes = 2 if tiny else 6  # over those frames; not measured
  c.points = 128 if tiny else 8_192  # frames of a mini-batch; a few times the number of centres


def _style(c: ml_collections.ConfigDict, tiny: bool) -> None:
  c.window_seconds = 10.0
  c.windows = 8_192  # random clips, one embedding each: 8 for each centre of a level
  c.n_levels = 12  # the paper's, at every size: prompts and reports count on them
  c.n_centres = 8 if tiny else 1_024  # the paper's
  c.iterations = 2 if tiny else 12  # Lloyd's algorithm, each level; not measured


def _prior(c: ml_collections.ConfigDict, tiny: bool) -> None:
  c.window_seconds = 10.0
  c.windows = 4_096  # random clips, one of the captions of each
  c.eval_windows = 4 if tiny else 1_024
  c.ridge = 2e-3  # against the variance of a unit vector's axis, about 1 / 128


def _latents(c: ml_collections.ConfigDict, tiny: bool) -> None:
  del tiny
  c.windows = 500  # random clips: 125,000 latent frames at nano, for two numbers a channel
  # Of a codec of principal axes; other latents are whitened wholly, as the paper's.
  c.whitening = 0.5  # strong axes stay stronger: roots of their spreads
  c.spread = 0.4  # root mean square of all channels, where noise has 1


def _axes(c: ml_collections.ConfigDict, tiny: bool) -> None:
  c.model = load("vae", "tiny" if tiny else "nano").model  # its sizes live on its own page
  c.windows = 1_000  # random clips: 250,000 latent frames, 80 for each stacked bin


FITS = {
  "semantic": _semantic,
  "style": _style,
  "prior": _prior,
  "latents": _latents,
  "axes": _axes,
}
