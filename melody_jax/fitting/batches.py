"""Reads clips of a corpus in batches, and runs a function over them."""

from collections.abc import Callable, Iterator
import time

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from melody_jax.input_pipeline.source import make_source
from melody_jax.task import WindowFeature


class _AudioWindows:
  """Asks an input source for audio only."""

  def __init__(self, config: ml_collections.ConfigDict):
    self._samples = int(config.window_seconds * config.sample_rate)

  def input_features(self) -> dict[str, WindowFeature]:
    return {"audio": WindowFeature((self._samples,), "float32")}

  def tokenizer(self) -> None:
    return None


def clip_batches(
  config: ml_collections.ConfigDict, split: str, windows: int, shuffle: bool
) -> Iterator[np.ndarray]:
  """Reads clips of audio.

  Args:
    config: Config of the fit: window_seconds, sample_rate, data and train.batch_size are read.
    split: Name of the split.
    windows: Number of clips. The last batch is whole, so there may be a few more.
    shuffle: True draws random windows. False reads in order, each window at most once.

  Yields:
    float32 [batch, samples] in [-1, 1], mono at `config.sample_rate`.

  Raises:
    UserError: config.data names no data, or data without audio.
  """
  source = make_source(config, _AudioWindows(config), split, shuffle)
  # In order, a source starts again after its last window; clips must not count twice.
  if not shuffle:
    windows = min(windows, source.windows)
  for _ in range(-(-windows // config.train.batch_size)):
    yield next(source)["audio"]


def collect(
  function: Callable[[jax.Array], jax.Array], batches: Iterator[np.ndarray], title: str
) -> np.ndarray:
  """Runs a function over batches of audio. Prints a progress line every ten seconds.

  Args:
    function: Function from audio [batch, samples] to an array [batch, ...].
    batches: Batches of audio, each float32 [batch, samples].
    title: Name of the work, for the progress line.

  Returns:
    The results of all batches, [clips, ...], on the host.
  """
  parts, began, last = [], time.monotonic(), time.monotonic()
  for audio in batches:
    parts.append(np.asarray(function(jnp.asarray(audio))))
    # By time and not by batch: a fast machine would print a page.
    if time.monotonic() - last > 10.0:
      last = time.monotonic()
      clips = sum(map(len, parts))
      print(f"{title}: {clips} clips, {clips / (last - began):.1f} a second", flush=True)
  return np.concatenate(parts)
