"""Clips of a corpus in batches, and a function applied to all of them."""

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
  """Batches of clips [batch, samples], `windows` clips in all (the last batch is whole)."""
  source = make_source(config, _AudioWindows(config), split, shuffle)
  if not shuffle:
    windows = min(windows, source.windows)
  for _ in range(-(-windows // config.train.batch_size)):
    yield next(source)["audio"]


def collect(
  function: Callable[[jax.Array], jax.Array], batches: Iterator[np.ndarray], title: str
) -> np.ndarray:
  """Runs `function` over batches -> one array, with a progress line every ten seconds."""
  parts, began, last = [], time.monotonic(), time.monotonic()
  for audio in batches:
    parts.append(np.asarray(function(jnp.asarray(audio))))
    if time.monotonic() - last > 10.0:
      last = time.monotonic()
      clips = sum(map(len, parts))
      print(f"{title}: {clips} clips, {clips / (last - began):.1f} a second", flush=True)
  return np.concatenate(parts)
