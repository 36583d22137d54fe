"""A piece of music under way: what of it is known, and which windows are still to be made.

Host arrays, filled window by window by the program of `window`. Frames and tokens count from the
beginning of the piece.

Shape letters: N frames of the piece, D latent channels, M its semantic tokens.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from melody_jax.audio_io import SAMPLE_RATE
from melody_jax.generation.request import REDRAW_STRENGTH, Request
from melody_jax.generation.style import Styles, StyleTrack
from melody_jax.generation.window import SEMANTIC_RATE, Networks, Window, plan_reads

NEVER = np.iinfo(np.int32).max  # a frame that no piece reaches


@dataclasses.dataclass(frozen=True, eq=False)
class Steering:
  """What the LM follows in one item.

  Attributes:
    styles: Makes tokens of embeddings.
    track: Style over time.
    negative: Style to avoid, int32 [levels].
  """

  styles: Styles
  track: StyleTrack
  negative: np.ndarray

  def of_window(self, networks: Networks, start_frame: int) -> np.ndarray:
    """Style tokens of the window's chunks, each by its middle: int32 [C, levels]."""
    chunk_seconds = networks.seconds / networks.chunks
    start = start_frame * networks.codec.hop_length / SAMPLE_RATE
    middles = [start + (c + 0.5) * chunk_seconds for c in range(networks.chunks)]
    # The usual case, one style all along: the RVQ is asked once.
    if len(self.track.times) == 1:
      middles = middles[:1]
    tokens = np.stack([self.styles.tokens(self.track.at(t)) for t in middles])
    return np.broadcast_to(tokens, (networks.chunks, tokens.shape[1]))


@dataclasses.dataclass(eq=False)
class Piece:
  """One item; arrays change as windows are made.

  Attributes:
    seed: Seed of its random draws.
    steering: What its LM follows.
    latents: Latents, float32 [N, D].
    known: Share of each frame that is known, float32 [N], as in `Window`.
    tokens: Semantic tokens, int32 [M].
    tokens_known: Which tokens are known, bool [M].
    end_frame: End of a changed piece, as in `Window`.
    starts: First frames of the windows to be made, in this order.
  """

  seed: int
  steering: Steering
  latents: np.ndarray
  known: np.ndarray
  tokens: np.ndarray
  tokens_known: np.ndarray
  end_frame: int = NEVER
  starts: list[int] = dataclasses.field(default_factory=list)

  @classmethod
  def blank(cls, networks: Networks, seed: int, steering: Steering, n_frames: int) -> "Piece":
    """Nothing known; whole chunks, and a window at least."""
    # Whole chunks, because a window moves by one; what goes beyond the request is cut off at the
    # end.
    chunks = max(-(-n_frames // networks.chunk_frames), networks.chunks)
    frames = chunks * networks.chunk_frames
    tokens = networks.token_of(frames - networks.frames) + networks.tokens
    piece = cls(
      seed=seed,
      steering=steering,
      latents=np.zeros((frames, networks.codec.latent_dim), np.float32),
      known=np.zeros(frames, np.float32),
      tokens=np.zeros(tokens, np.int32),
      tokens_known=np.zeros(tokens, bool),
    )
    piece.starts = _by_chunks(networks, 0, frames)
    return piece

  def window(self, networks: Networks, index: int) -> dict[str, Any]:
    """The fields of `Window` for this item; past its last window that one again, all known."""
    # A batch makes as many windows as its longest piece; the others pass along, already known.
    start = self.starts[min(index, len(self.starts) - 1)]
    first = networks.token_of(start)
    frames, tokens = slice(start, start + networks.frames), slice(first, first + networks.tokens)
    return {
      "seeds": np.uint32(self.seed),
      "start_frame": np.int32(start),
      "first_token": np.int32(first),
      "style_tokens": self.steering.of_window(networks, start),
      "negative_style": self.steering.negative,
      "tokens": self.tokens[tokens],
      "tokens_known": self.tokens_known[tokens],
      "latents": self.latents[frames],
      "known": self.known[frames],
      "end_frame": np.int32(self.end_frame),
    }

  def take(self, networks: Networks, index: int, tokens: np.ndarray, latents: np.ndarray) -> None:
    """Keeps what the program made of `window(index)`; from then on it is known.

    Args:
      networks: Sizes of a window.
      index: Number of the window.
      tokens: Semantic tokens of the window, int32 [W].
      latents: Latents of the window, float32 [L, D].
    """
    # Pieces of a batch differ in length; the shorter ones have made theirs already.
    if index >= len(self.starts):
      return
    start = self.starts[index]
    first = networks.token_of(start)
    # What lies after the end of a changed piece was made for its own sake only.
    stop = min(start + networks.frames, self.end_frame)
    self.latents[start:stop] = latents[: stop - start]
    self.known[start : start + networks.frames] = 1.0
    self.tokens[first : first + networks.tokens] = tokens
    self.tokens_known[first : first + networks.tokens] = True


def stack(windows: Sequence[dict[str, Any]]) -> Window:
  """Windows of B items, each without a batch axis, as one batch for the program."""
  arrays = {name: np.stack([w[name] for w in windows]) for name in windows[0]}
  return Window(reads=plan_reads(arrays["tokens_known"], arrays["style_tokens"]), **arrays)


def plan(
  networks: Networks,
  request: Request,
  steering: Steering,
  latents_ND: np.ndarray | None,
  tokens_M: np.ndarray | None,
) -> Piece:
  """A request as a piece with windows to be made.

  Args:
    networks: Sizes of a window.
    request: What is asked for.
    steering: Style of the request.
    latents_ND: Latents of `request.audio` from the codec, the silence after its end included.
    tokens_M: Semantic tokens of `request.audio`.
  """
  hop = networks.codec.hop_length
  piece = Piece.blank(networks, request.seed, steering, -(-request.n_samples // hop))
  if request.audio is None or latents_ND is None or tokens_M is None:
    return piece
  # The codec rounds up to windows and may know more frames than the piece has.
  total = len(piece.latents)
  piece.latents[: len(latents_ND)] = latents_ND[:total]
  n_tokens = min(len(tokens_M), len(piece.tokens))
  piece.tokens[:n_tokens] = tokens_M[:n_tokens]
  if request.mode == "continue":
    n_frames = len(request.audio) // hop
    piece.known[:n_frames] = 1.0
    piece.tokens_known[:n_tokens] = True
    piece.starts = _by_chunks(networks, n_frames, total)
    return piece
  # A changed piece ends within a window; what the program makes after its end is thrown away.
  piece.end_frame = -(-len(request.audio) // hop)
  piece.known[: piece.end_frame] = 1.0
  piece.tokens_known[:n_tokens] = True
  # Nothing said: made anew altogether.
  strength = 1.0 if request.strength is None else request.strength
  length = len(request.audio) / SAMPLE_RATE
  rate = SAMPLE_RATE / hop
  for begin, end in request.regions or ((0.0, length),):
    # Rounded before they are cut, so that 0.58 s at 50 Hz is frame 29 and not 28.
    frames = slice(_floor(begin * rate), min(_ceil(end * rate), piece.end_frame))
    piece.known[frames] = 1.0 - strength
    # With little noise the latents still hold the tune; with much of it new tokens write a new one.
    if strength >= REDRAW_STRENGTH:
      tokens = slice(_floor(begin * SEMANTIC_RATE), min(_ceil(end * SEMANTIC_RATE), n_tokens))
      piece.tokens_known[tokens] = False
  if request.mode == "inpaint":
    piece.starts = _around_holes(networks, piece.known[: piece.end_frame], total)
  return piece


def _floor(x: float) -> int:
  # Seconds times a rate are seldom whole in floating point: 0.58 * 50 is 28.999999999999996.
  return int(np.floor(round(x, 6)))


def _ceil(x: float) -> int:
  return int(np.ceil(round(x, 6)))


def _by_chunks(networks: Networks, first_unknown: int, total: int) -> list[int]:
  """Windows a chunk apart; the first has `first_unknown` in its last chunk, or begins the piece."""
  chunk = networks.chunk_frames
  # The unknown begins in the window's last chunk, so that it hears as much of the past as can be.
  start = max(first_unknown // chunk - (networks.chunks - 1), 0) * chunk
  return list(range(min(start, total - networks.frames), total - networks.frames + 1, chunk))


def _around_holes(networks: Networks, known_N: np.ndarray, total: int) -> list[int]:
  """Windows that see what lies on both sides of the frames to be made.

  A hole of up to half a window is put into the middle of one; a longer one is begun with a chunk
  of what came before, and continued chunk by chunk.
  """
  length, chunk = networks.frames, networks.chunk_frames
  step = max(length // networks.tokens, 1)  # a window begins with a whole token
  unknown = known_N < 1.0
  starts: list[int] = []
  while unknown.any():
    first = int(np.argmax(unknown))
    rest = np.flatnonzero(~unknown[first:])
    hole = int(rest[0]) if len(rest) else len(unknown) - first
    if hole <= length // 2:
      # A short hole in the middle hears as much before as after it.
      start = first - (length - hole) // 2
    elif starts and first == starts[-1] + length:
      start = first - (length - chunk)
    else:
      start = first - chunk
    start = min(max(start, 0) // step * step, total - length)
    starts.append(start)
    # All that the window makes counts as done, also where it reaches into the next hole.
    unknown[start : start + length] = False
  return starts
