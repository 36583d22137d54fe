"""What a model in training makes of validation windows, heard by a trained MuLan.

A task says what its model makes of a batch and what it should have made (`Task.made`): audio (VAE),
latents (DPD) or semantic tokens (LM). The finished models of a bundle turn both into sound, by the
same way, so that what differs is the model in training alone. MuLan hears the sounds.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections
import numpy as np

from melody_jax import audio_io, sharding
from melody_jax.denoisers import choice
from melody_jax.denoisers.sampling import latents_of_tokens
from melody_jax.encoders.codec import Codec, decode_latents
from melody_jax.encoders.rows import map_rows
from melody_jax.encoders.style import StyleEncoder
from melody_jax.errors import UserError
from melody_jax.metrics.frechet import fit_gaussian, frechet_distance
from melody_jax.models.mulan import fill_window
from melody_jax.task import Task

Render = Callable[[Any, jax.Array, jax.Array], jax.Array]  # (parameters, made, key) -> audio [B, S]


def _renderer(bundle: str, kind: str) -> tuple[Render, Any]:
  """How what a model makes becomes sound, and the parameters of the models that do it.

  Raises:
    UserError: if the bundle lacks one of them, or it is not fitted.
  """
  if kind == "audio":
    return lambda _, audio, key: audio, {}
  codec = Codec.load(bundle)
  if kind == "latents":
    return lambda p, latents, key: decode_latents(codec.config, p["vae"], latents), {
      "vae": codec.params
    }
  network, denoiser = choice.load(bundle)

  def of_tokens(p, tokens, key):
    latents = latents_of_tokens(network, p["dpd"], tokens, key)
    return decode_latents(codec.config, p["vae"], latents)

  return of_tokens, {"vae": codec.params, "dpd": denoiser}


def make_judge(config: ml_collections.ConfigDict, task: Task, mesh: Mesh) -> "Judge | None":
  """The judge that `config.train.judge` asks for, if any.

  Raises:
    UserError: as `Judge`, and where no evaluation with media would ever ask it.
  """
  if not config.train.judge:
    return None
  if not (config.train.media and config.train.eval_every):
    raise UserError("config.train.judge listens at evaluations: set train.media and eval_every too")
  return Judge(config, task, mesh)


class Judge:
  """Scores of what a model makes, at every evaluation, over the same windows.

  Args:
    config: Config of the run; `train.judge` is the bundle, `train.judge_clips` the most windows.
    task: The model in training.
    mesh: Mesh of the run.

  Raises:
    UserError: if the model makes nothing that can be heard, or the bundle lacks what it takes.
  """

  def __init__(self, config: ml_collections.ConfigDict, task: Task, mesh: Mesh):
    if not task.makes:
      raise UserError(f"config.train.judge: a {config.task} makes nothing that one can listen to")
    bundle, clips = config.train.judge, config.train.judge_clips
    self._style = StyleEncoder.load(bundle, fitted=False, text=False)
    render, self._finished = _renderer(bundle, task.makes)

    # Both sounds begin with the same noise: equal tokens then sound equal.
    def made(params, finished, batch, rng):
      first = jax.tree.map(lambda x: x[:clips], batch)
      own, noise = jax.random.split(rng)
      return render(finished, task.made(params, first, own), noise)

    def wanted(finished, batch, rng):
      first = jax.tree.map(lambda x: x[:clips], batch)
      return render(finished, task.wanted(first), jax.random.split(rng)[1])

    # Whole on every device: each host listens by itself, and all come to the same numbers.
    whole = sharding.replicated(mesh)
    self._made, self._wanted = (
      jax.jit(sharding.under_mesh(mesh, f), out_shardings=whole) for f in (made, wanted)
    )
    self._wanted_NxC: np.ndarray | None = None

  def __call__(self, params: Any, batch: Any, rng: jax.Array) -> dict[str, float]:
    """Listens to what the model makes of a batch, which must be the same at every call.

    Returns:
      "fad", the Frechet distance of the embeddings of what it made and of what it should have made
      (biased, and so the more the fewer windows: for comparing evaluations of one run), and "mcc",
      the mean cosine of the two embeddings of a window.
    """
    if self._wanted_NxC is None:
      self._wanted_NxC = self._heard(self._wanted(self._finished, batch, rng))
    made_NxC = self._heard(self._made(params, self._finished, batch, rng))
    # A model that has just begun may make no number at all; the run itself watches for that.
    if not np.isfinite(made_NxC).all():
      return {"fad": float("inf"), "mcc": 0.0}
    distance = frechet_distance(fit_gaussian(made_NxC), fit_gaussian(self._wanted_NxC))
    return {"fad": distance, "mcc": float(np.sum(made_NxC * self._wanted_NxC, axis=-1).mean())}

  def _heard(self, audio_BxS: jax.Array) -> np.ndarray:
    """Unit embeddings [B, C] of clips, at the level that MuLan knows."""
    c = self._style.config
    level = audio_io.INPUT_LUFS
    clips = (audio_io.normalise_loudness(x, c.sample_rate, level) for x in np.asarray(audio_BxS))
    rows = np.stack([fill_window(clip, c.window_samples) for clip in clips])
    return map_rows(self._style.audio, rows.astype(np.float32))
