"""The music tower of a bundle's MuLan as an embedding, and its text tower for MCC."""

import numpy as np

from melody_jax import audio_io, bundle
from melody_jax.encoders.rows import map_rows
from melody_jax.encoders.style import StyleEncoder
from melody_jax.evaluation.embeddings.adapter import cut_windows, digest_of


class MulanEmbedding:
  """MuLan's unit vectors, one for every window, half a window apart.

  Clips are brought to the level that the towers know (docs/spec.md, section 1.2).

  Args:
    directory: The bundle.

  Raises:
    UserError: if the bundle has no whole MuLan.
  """

  name = "MuLan"

  def __init__(self, directory: str):
    self._directory = directory
    self._style = StyleEncoder.load(directory, fitted=False, text=False)
    self.sample_rate = self._style.config.sample_rate
    path = bundle.path_of(directory, "mulan")
    self.digest = digest_of(path.read_bytes())

  def __call__(self, audio_S: np.ndarray) -> np.ndarray:
    """Audio [samples] -> unit vectors float32 [windows, C]."""
    window = self._style.config.window_samples
    audio_S = audio_io.normalise_loudness(audio_S, self.sample_rate, audio_io.INPUT_LUFS)
    return map_rows(self._style.audio, cut_windows(audio_S, window, window // 2))

  def text(self, prompts: list[str]) -> np.ndarray:
    """Prompts -> unit vectors float32 [N, C].

    Raises:
      UserError: if the text tower's public part is not installed.
    """
    # Loaded late: most comparisons have no prompts, and the text tower is the larger one.
    style = StyleEncoder.load(self._directory, fitted=False)
    # One at a time, so that one program serves any number.
    return np.concatenate([np.asarray(style.text([prompt])) for prompt in prompts])
