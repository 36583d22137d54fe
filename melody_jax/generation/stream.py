"""Unbounded music, a chunk at a time, from a state that can be saved, restored and branched.

A stream calls the compiled program of `window` with all of the window known but its last chunk
(docs/spec.md, section 6). Its state is one window of tokens, latents and audio, of constant size.
It gives what `Melody.generate` gives for the same request, in pieces: chunks are cut where the
decoder has heard enough of what follows, so there is no seam. For that a stream is ahead of what it
has given: by one chunk with `paper`, by two with `nano`, whose decoder reaches further (2.5 s) than
a chunk lasts (2 s). A new prompt is heard one to two chunks later with `paper`, two to three with
`nano`.

Shape letters: B items, W tokens, L frames and T samples of a window, K points of a style over
time, C size of the joint space, D latent channels.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import json
import os
import pathlib
from typing import Any

import flax
import numpy as np

from melody_jax.errors import UserError
from melody_jax.generation import piece as piece_plan
from melody_jax.generation.engine import Engine
from melody_jax.generation.options import check_option
from melody_jax.generation.piece import Piece, Steering
from melody_jax.generation.request import Request, Settings, mixture
from melody_jax.generation.style import StyleTrack
from melody_jax.models import vae as vae_model
from melody_jax.output_files import check_outputs, write_files
from melody_jax.progress import Progress, silent
from melody_jax.provenance import MARK

_KIND = "melody_jax stream"  # marks its files


@flax.struct.dataclass
class StreamState:
  """All that a stream remembers; host arrays of constant shapes.

  Attributes:
    seeds: Seed of each item, uint32 [B].
    start_frame: First frame of the window in the piece, int64 [B].
    position: Frame before which all audio has been given, int64 [B].
    tokens: Semantic tokens of the window, int32 [B, W].
    latents: Latents of the window, float32 [B, L, D].
    audio: Audio decoded from these latents, float32 [B, T].
    style_times: Times of the style's points in seconds, float64 [B, K].
    style_points: Unit embeddings at these times, float32 [B, K, C].
    negative_style: Style to avoid, int32 [B, levels].
    nfe: Network passes so far, int64 scalar.
  """

  seeds: np.ndarray
  start_frame: np.ndarray
  position: np.ndarray
  tokens: np.ndarray
  latents: np.ndarray
  audio: np.ndarray
  style_times: np.ndarray
  style_points: np.ndarray
  negative_style: np.ndarray
  nfe: np.ndarray


class Stream(Iterator[np.ndarray]):
  """An iterator over chunks: float32 [samples] for one request, [B, samples] for several.

  Nothing is computed before the first chunk is asked for. The state may be read, kept and
  given to another stream at any time between chunks: it is never changed in place.

  Attributes:
    state: What the stream remembers; None before the first chunk.
    settings: How to sample; may be replaced between chunks.
    chunk_seconds: Length of a chunk in seconds.
    asked: What was asked for, in words, for reports; saved with the state. Empty where nobody said.
  """

  def __init__(
    self, engine: Engine, settings: Settings, single: bool, state: StreamState | None = None,
    first: Sequence[Piece] = (), position: Sequence[int] = (),
  ):  # fmt: skip
    """Use `Melody.stream` or `Melody.resume`."""
    # Asked here, not at the first chunk: a stream may be begun long before it is heard.
    if engine.networks is None:
      raise UserError("this bundle was loaded for its codec alone")
    self._engine, self._networks = engine, engine.networks
    self._first, self._position = tuple(first), np.asarray(position, np.int64)
    self.settings, self.single, self.state = settings, single, state
    self.asked: dict[str, Any] = {}
    # A frame is given only once the decoder has heard as far beyond it as it can hear.
    self._reach = vae_model.decoder_reach(self._networks.codec)
    self._tracks = [piece.steering.track for piece in first]
    if state is not None:
      self._tracks = [
        StyleTrack(*track) for track in zip(state.style_times, state.style_points, strict=True)
      ]
    hop = self._networks.codec.hop_length
    self.chunk_seconds = self._networks.chunk_frames * hop / engine.sample_rate

  @classmethod
  def begin(
    cls, engine: Engine, pieces: Sequence[Piece], requests: Sequence[Request],
    settings: Settings, single: bool,
  ) -> "Stream":  # fmt: skip
    """A stream before its first chunk, from the first windows of `pieces`."""
    hop = engine.codec.config.hop_length
    # The audio that a stream goes on from was heard already and is not given again.
    position = [0 if r.audio is None else len(r.audio) // hop for r in requests]
    return cls(engine, settings, single, first=pieces, position=position)

  def __next__(self) -> np.ndarray:
    if self.state is None:
      self.state = self._first_window()
    chunk, hop = self._networks.chunk_frames, self._networks.codec.hop_length
    state = self.state
    # Items of a batch differ in place where they go on from audio of different lengths.
    while np.any(needs := self._needs_window(state)):
      state = self._advance(state, needs)
    # Each row at its own place: items that go on from audio began at different frames.
    begin = (state.position - state.start_frame) * hop
    audio = np.stack([row[b : b + chunk * hop] for row, b in zip(state.audio, begin, strict=True)])
    # A new state, never a changed one: a branch or a copy made before stays valid.
    self.state = dataclasses.replace(state, position=state.position + chunk)
    return audio[0] if self.single else audio

  def steer(self, prompts: Any, progress: Progress = silent) -> None:
    """Another prompt from the next window on.

    Args:
      prompts: A `PromptLike` for one request; for several a list with one for each item.
      progress: Told what of the texts the models cannot hear, a line at a time.
    """
    listed: list[Any] = [prompts] if self.single else list(prompts)
    self._engine.tell_unheard([p.text for given in listed for p in mixture(given)], progress)
    tracks = [self._engine.styles.track(prompt) for prompt in listed]
    if len(tracks) != len(self._tracks):
      raise UserError(f"{len(tracks)} prompts for a stream of {len(self._tracks)} items")
    self._tracks = tracks
    if self.state is None:
      for piece, track in zip(self._first, tracks, strict=True):
        piece.steering = dataclasses.replace(piece.steering, track=track)
    else:
      self.state = dataclasses.replace(self.state, **_as_arrays(tracks))

  def branch(self, seeds: int | Sequence[int] | None = None) -> "Stream":
    """A second stream that goes on from here; with other seeds to other music.

    Args:
      seeds: One seed for each item; None keeps those of this stream.

    Raises:
      UserError: before the first chunk, where there is nothing to go on from.
    """
    if self.state is None:
      raise UserError("a stream can be branched once it has given its first chunk")
    state = self.state
    if seeds is not None:
      listed = [seeds] if isinstance(seeds, int) else list(seeds)
      if len(listed) != len(state.seeds):
        raise UserError(f"{len(listed)} seeds for a stream of {len(state.seeds)} items")
      for seed in listed:
        check_option("seed", seed)
      state = dataclasses.replace(state, seeds=np.asarray(listed, np.uint32))
    other = Stream(self._engine, self.settings, self.single, state)
    other.asked = dict(self.asked)
    return other

  def save(self, path: str | os.PathLike, overwrite: bool = False) -> None:
    """Writes state and settings to a safetensors file; `Melody.resume` reads it.

    Args:
      path: File to write.
      overwrite: Whether to replace a file that melody_jax did not write.

    Raises:
      UserError: before the first chunk, or where the file cannot be written or may not be replaced.
    """
    from safetensors.numpy import save

    if self.state is None:
      raise UserError("a stream can be saved once it has given its first chunk")
    arrays = {
      field.name: np.asarray(getattr(self.state, field.name), order="C")
      for field in dataclasses.fields(StreamState)
    }
    metadata = {
      "kind": _KIND,
      "written_by": MARK,
      "asked": json.dumps(self.asked),
      "bundle": self._engine.digest,
      "single": json.dumps(self.single),
      "settings": json.dumps(dataclasses.asdict(self.settings)),
    }
    check_outputs([path], overwrite=overwrite)
    write_files({pathlib.Path(path): save(arrays, metadata)})

  @classmethod
  def restore(cls, engine: Engine, path: str | os.PathLike) -> "Stream":
    """See `Melody.resume`."""
    from safetensors import SafetensorError, safe_open

    if not pathlib.Path(path).is_file():
      raise UserError(f"no saved stream at {path}")
    try:
      with safe_open(path, framework="numpy") as f:
        metadata = f.metadata() or {}
        arrays = {name: f.get_tensor(name) for name in f.keys()}
    except (SafetensorError, OSError, ValueError) as e:
      raise UserError(f"saved stream {path} is truncated or damaged ({e}): save it again") from e
    fields = {field.name for field in dataclasses.fields(StreamState)}
    if metadata.get("kind") != _KIND or set(arrays) != fields:
      raise UserError(
        f"{path} is a safetensors file but not a saved stream: name a file of config.stream.save"
      )
    # Tokens and latents mean nothing to other models, and would sound like noise without a word.
    if metadata["bundle"] != engine.digest:
      raise UserError(f"stream {path} was saved with another checkpoint: load the one that made it")
    settings = json.loads(metadata["settings"])
    # JSON has lists only, and settings are hashed.
    settings["guidance_interval"] = tuple(settings["guidance_interval"])
    single = json.loads(metadata["single"])
    stream = cls(engine, Settings(**settings), single, StreamState(**arrays))
    stream.asked = json.loads(metadata.get("asked", "{}"))
    return stream

  def _first_window(self) -> StreamState:
    windows = [piece.window(self._networks, 0) for piece in self._first]
    made = self._engine.run(piece_plan.stack(windows), self.settings)
    return StreamState(
      seeds=np.stack([w["seeds"] for w in windows]),
      start_frame=np.asarray([w["start_frame"] for w in windows], np.int64),
      position=self._position,
      tokens=np.asarray(made.tokens),
      latents=np.asarray(made.latents),
      audio=np.asarray(made.audio),
      negative_style=np.stack([w["negative_style"] for w in windows]),
      nfe=np.asarray(made.nfe, np.int64),
      **_as_arrays(self._tracks),
    )

  def _needs_window(self, state: StreamState) -> np.ndarray:
    """Whether an item's window ends before its next chunk and the decoder's reach: bool [B]."""
    chunk, frames = self._networks.chunk_frames, self._networks.frames
    # The decoder hears what follows a chunk; it is given only when that can no longer change.
    return state.position + chunk + self._reach > state.start_frame + frames

  def _advance(self, state: StreamState, moves_B: np.ndarray) -> StreamState:
    """The window a chunk further on, all of it known but its last chunk, of items that move.

    The others get their own window again, all known: it comes out as it went in.
    """
    networks = self._networks
    windows = []
    for b, track in enumerate(self._tracks):
      chunk = networks.chunk_frames if moves_B[b] else 0
      start = int(state.start_frame[b]) + chunk
      first = networks.token_of(start)
      # A difference of two places: the tokens of a chunk need not be a whole number.
      kept = networks.tokens - (first - networks.token_of(start - chunk))
      known = np.arange(networks.frames) < networks.frames - chunk
      steering = Steering(self._engine.styles, track, state.negative_style[b])
      windows.append(
        {
          "seeds": state.seeds[b],
          "start_frame": np.int32(start),
          "first_token": np.int32(first),
          "style_tokens": steering.of_window(networks, start),
          "negative_style": state.negative_style[b],
          "tokens": np.pad(state.tokens[b, -kept:], (0, networks.tokens - kept)),
          "tokens_known": np.arange(networks.tokens) < kept,
          "latents": np.pad(state.latents[b, chunk:], ((0, chunk), (0, 0))),
          "known": known.astype(np.float32),
          "end_frame": np.int32(piece_plan.NEVER),
        }
      )
    made = self._engine.run(piece_plan.stack(windows), self.settings)
    return dataclasses.replace(
      state,
      start_frame=state.start_frame + networks.chunk_frames * moves_B,
      tokens=np.asarray(made.tokens),
      latents=np.asarray(made.latents),
      audio=np.asarray(made.audio),
      nfe=state.nfe + int(made.nfe),
    )


def _as_arrays(tracks: Sequence[StyleTrack]) -> dict[str, Any]:
  """Fields of the state; shorter tracks are filled up with their last point, later on."""
  longest = max(len(track.times) for track in tracks)
  # Arrays of one shape for all items. The added times lie after the last one, where style no longer
  # changes.
  times = [
    np.concatenate([t.times, t.times[-1] + 1 + np.arange(longest - len(t.times))]) for t in tracks
  ]
  points = [
    np.concatenate([t.points, np.repeat(t.points[-1:], longest - len(t.times), axis=0)])
    for t in tracks
  ]
  return {"style_times": np.stack(times), "style_points": np.stack(points)}
