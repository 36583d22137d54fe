"""`Melody`: a bundle of trained models, ready to make music.

    melody = Melody.load("checkpoints/nano")
    music = melody.generate(Request(prompt="slow bossa nova", seconds=10, seed=1))
    music.audio                                             # float32 [samples], 24 kHz

Every mode (`request.Request`) is the one program of `window` with other arguments. A list of
requests is a batch, whatever their modes, styles and lengths; an item's result does not depend on
the others.

Shape letters: B items, T samples, N latent frames, D latent channels.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import os
import time
from typing import overload

import numpy as np

from melody_jax.errors import UserError
from melody_jax.generation import piece as piece_plan
from melody_jax.generation.engine import Engine
from melody_jax.generation.request import Request, Settings
from melody_jax.generation.stream import Stream
from melody_jax.progress import Progress, silent

DEFAULTS = Settings()


@dataclasses.dataclass(frozen=True, eq=False)
class Music:
  """One result.

  Attributes:
    audio: Waveform, float32 [T].
    sample_rate: Sample rate in Hz.
    nfe: Network passes of LM and DPD in the call that made it; a guided pass is one, and the items
      of a batch share theirs.
    compile_seconds: Time that the call spent compiling, or loading compiled programs from the
      cache.
    generation_seconds: All other time that the call took.
  """

  audio: np.ndarray
  sample_rate: int
  nfe: int
  compile_seconds: float
  generation_seconds: float


class Melody(Engine):
  """Models of a bundle as one sampler; see `Engine` for its attributes."""

  @classmethod
  def load(cls, directory: str | os.PathLike, generates: bool = True) -> "Melody":
    """From a bundle directory.

    Args:
      directory: Bundle as written by melody_jax.export and melody_jax.fit, as a directory, a .zip
        file or the address of one.
      generates: Whether to read the generator too; False reads the codec alone, for
        `reconstruct`.

    Raises:
      UserError: if a model is missing, damaged, or does not fit the others.
    """
    return cls(directory, generates)

  @overload
  def generate(
    self, requests: Request, settings: Settings = ..., progress: Progress = ...
  ) -> Music: ...
  @overload
  def generate(
    self, requests: Sequence[Request], settings: Settings = ..., progress: Progress = ...
  ) -> list[Music]: ...
  def generate(self, requests, settings=DEFAULTS, progress=silent):
    """Makes one piece of music, or a batch of them.

    Args:
      requests: What is asked for, one or several.
      settings: How to sample.
      progress: Told what happens, a line at a time.

    Returns:
      A `Music` (audio [T]) for one request, a list of them for several.

    Raises:
      UserError: if the bundle was read without its generator, prompts cancel out, or memory does
        not suffice.
    """
    if isinstance(requests, Request):
      return self.generate([requests], settings, progress)[0]
    began, compiled = time.monotonic(), self.programs.compile_seconds
    # All plans first: a prompt that cannot be read stops the call before anything is generated.
    pieces = [self.plan(request, settings, progress) for request in requests]
    self.tell_unheard([text for request in requests for text in request.texts], progress)
    n_windows = max(len(piece.starts) for piece in pieces)
    progress(f"{n_windows} window{'s' * (n_windows > 1)}: compiling (or loading) and generating")
    # Items of a batch share their passes: the count is that of the call.
    nfe = 0
    for i in _progress_bar(range(n_windows), n_windows > 1 and progress is not silent):
      inputs = piece_plan.stack([piece.window(self._generator, i) for piece in pieces])
      made = self.run(inputs, settings)
      tokens, latents = np.asarray(made.tokens), np.asarray(made.latents)
      for piece, of_tokens, of_latents in zip(pieces, tokens, latents, strict=True):
        piece.take(self._generator, i, of_tokens, of_latents)
      nfe += int(made.nfe)
    # Music of one window is decoded by the program already; longer music is decoded once more as a
    # whole, which leaves no seam between windows.
    waves = list(np.asarray(made.audio))
    for b, piece in enumerate(pieces):
      if len(piece.latents) > self._generator.frames:
        # As the codec has it where a changed piece ends.
        waves[b] = self.decode(piece.latents[: piece.end_frame])
    compile_seconds = self.programs.compile_seconds - compiled
    seconds = time.monotonic() - began - compile_seconds
    return [
      Music(wave[: request.n_samples], self.sample_rate, nfe, compile_seconds, seconds)
      for wave, request in zip(waves, requests, strict=True)
    ]

  def stream(
    self,
    requests: Request | Sequence[Request],
    settings: Settings = DEFAULTS,
    progress: Progress = silent,
  ) -> Stream:
    """Music without an end, in chunks of 2 s (`nano`) or 2.5 s (`paper`); see `stream.Stream`.

    Args:
      requests: What is asked for, one or several; `seconds` is not used. With `audio` the stream
        goes on right after it.
      settings: How to sample; fewer steps make chunks sooner.
      progress: Told what happens, a line at a time.

    Raises:
      UserError: for requests that change existing audio, and as `generate`.
    """
    listed = [requests] if isinstance(requests, Request) else list(requests)
    for request in listed:
      if request.mode not in ("generate", "continue"):
        raise UserError(f"a stream goes on without an end: it cannot {request.mode} audio")
    pieces = [self.plan(request, settings, progress) for request in listed]
    self.tell_unheard([text for request in listed for text in request.texts], progress)
    return Stream.begin(self, pieces, listed, settings, isinstance(requests, Request))

  def resume(self, path: str | os.PathLike) -> Stream:
    """The stream that `Stream.save` wrote, with the same music to come.

    Raises:
      UserError: for a file that is missing, damaged or of another bundle.
    """
    return Stream.restore(self, path)

  def reconstruct(self, audio_T: np.ndarray, progress: Progress = silent) -> Music:
    """A clip [T] through encoder and decoder, at the latents that the DPD is trained on."""
    began, compiled = time.monotonic(), self.programs.compile_seconds
    progress("encoding")
    latents = self.encode(audio_T)
    progress("decoding")
    # The codec works in whole frames and windows; what fills them is cut off.
    audio = self.decode(latents)[: len(audio_T)]
    compile_seconds = self.programs.compile_seconds - compiled
    seconds = time.monotonic() - began - compile_seconds
    return Music(audio, self.sample_rate, 0, compile_seconds, seconds)


def _progress_bar(windows: Iterable[int], shown: bool) -> Iterable[int]:
  from tqdm import tqdm

  return tqdm(windows, "generating", unit="window", disable=not shown)
