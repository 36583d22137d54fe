"""Progress of a training run: one line on the terminal, the rest to TensorBoard."""

import os
import sys
import time
from typing import Any

from etils import epath
import jax
import ml_collections
import numpy as np

from melody_jax.training import run_record


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}"


class MetricLogger:
  """Writes scalars, audio and pictures of a run. Hosts other than the first write nothing.

  Args:
    workdir: Directory of the run; TensorBoard files go to `<workdir>/tensorboard`.
    config: Config of the run.
  """

  def __init__(self, workdir: str | os.PathLike, config: ml_collections.ConfigDict):
    self._config = config
    self._writer = None
    self._speaks = jax.process_index() == 0
    # (step, time) of the last line: the printed speed is that since then, not since the start.
    self._last: tuple[int, float] | None = None
    if self._speaks:
      directory = epath.Path(workdir)  # a bucket's name as well as a directory
      run_record.write(workdir, config)
      try:
        # Optional: a run without it still trains and prints.
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory / "tensorboard"))
      except ImportError:
        self._print("tensorboardX is not installed: scalars go to this terminal only")

  def _print(self, line: str) -> None:
    if self._speaks:
      print(line, file=sys.stderr, flush=True)

  def started(self, step: int) -> None:
    """Notes the step at which the run begins, and prints it."""
    self._last = (step, time.monotonic())
    self._print(
      f"{self._config.task}: step {step} of {self._config.train.steps} on {jax.device_count()}"
      f" {jax.devices()[0].platform} device(s)"
    )

  def train(self, step: int, metrics: dict[str, float], now: float) -> None:
    """Prints one progress line: step, metrics, seconds of audio per second, time left.

    Args:
      step: Number of the step.
      metrics: {name: value} of the step.
      now: Time of `time.monotonic()` when the step was done, in seconds.
    """
    before, then = self._last or (step, now)
    rate = (step - before) / max(now - then, 1e-9)
    self._last = (step, now)
    audio = rate * self._config.train.batch_size * self._config.window_seconds
    left = (self._config.train.steps - step) / max(rate, 1e-9)
    shown = " ".join(f"{k} {v:.4g}" for k, v in metrics.items())
    self._print(
      f"step {step}/{self._config.train.steps} {shown} | {audio:.1f} audio-s/s, ETA {_clock(left)}"
    )
    self._scalars(step, metrics | {"audio_seconds_per_second": audio}, "train")

  def evaluation(self, step: int, metrics: dict[str, float], seconds: float) -> None:
    """One line of validation means.

    Args:
      step: Steps taken so far.
      metrics: Validation means by name.
      seconds: What the evaluation took. It does not count as training time: the speed and the
        time left that `train` prints are those of the steps alone.
    """
    self._print(f"step {step} validation " + " ".join(f"{k} {v:.4g}" for k, v in metrics.items()))
    self._scalars(step, metrics, "validation")
    if self._last:
      before, then = self._last
      self._last = (before, then + seconds)

  def preempted(self, step: int) -> None:
    """Prints that the run ends early, and how to go on."""
    self._print(f"step {step}: told to stop (SIGTERM); saved. The same command goes on from here")

  def _scalars(self, step: int, metrics: dict[str, float], prefix: str) -> None:
    if self._writer:
      for name, value in metrics.items():
        self._writer.add_scalar(f"{prefix}/{name}", value, step)
      # At once: a killed run keeps its curves.
      self._writer.flush()

  def media(self, step: int, media: dict[str, Any]) -> None:
    """Writes sound ("audio/...", [B, T]) and pictures ("image/...", [H, W]) to TensorBoard."""
    if not self._writer:
      return
    for name, value in jax.device_get(media).items():
      if name.startswith("audio/"):
        # Four sounds: TensorBoard keeps every one of every evaluation.
        for i, row in enumerate(np.clip(value[:4], -1, 1)):
          self._writer.add_audio(f"{name}/{i}", row[:, None], step, self._config.sample_rate)
      else:
        # Each picture in its own range: log spectrograms have no common one.
        low, high = value.min(), value.max()
        self._writer.add_image(name, (value[None] - low) / max(high - low, 1e-9), step)

  def close(self) -> None:
    if self._writer:
      self._writer.close()
