"""Progress of a training run: one line on the terminal, the rest to TensorBoard."""

import contextlib
import os
import sys
import time
from typing import Any

from etils import epath
import jax
import ml_collections
import numpy as np

from melody_jax.host.chips import peak_flops
from melody_jax.places import buckets
from melody_jax.training import run_record

SOUNDS = 4  # of a batch that are kept: TensorBoard holds every one of every evaluation


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
    self._workdir = workdir
    self._writer = None
    self._speaks = jax.process_index() == 0
    # (step, time) of the last line: the printed speed is that since then, not since the start.
    self._last: tuple[int, float] | None = None
    self._progress: dict[str, Any] = {}
    self._waited = 0.0  # seconds since then that the loop waited for batches
    self._began: float | None = time.monotonic()
    # Matmul operations of a step over all devices, without what is computed twice.
    self.flops: float | None = None
    self._peak = peak_flops(jax.devices()[0].device_kind)
    if self._speaks:
      directory = epath.Path(workdir)  # a bucket's name as well as a directory
      run_record.write(workdir, config)
      try:
        # Optional: a run without it still trains and prints.
        from tensorboardX import SummaryWriter

        # In a bucket nothing can be appended to: the files grow here and are copied there.
        self._folder = contextlib.ExitStack()
        self._local = self._folder.enter_context(buckets.writable(directory / "tensorboard"))
        self._writer = SummaryWriter(str(self._local))
      except ImportError:
        self._print("tensorboardX is not installed: scalars go to this terminal only")

  def _print(self, line: str) -> None:
    if self._speaks:
      print(line, file=sys.stderr, flush=True)

  @property
  def wants_flops(self) -> bool:
    """Whether `flops` is still to be set here: by the first host, which prints."""
    return self._speaks and self.flops is None

  def waited(self, seconds: float) -> None:
    """Notes that the loop waited so long for a batch."""
    self._waited += seconds

  def profiled(self, step: int) -> None:
    """Prints where the profile is that ended with `step`."""
    self._print(f"step {step}: profile written to {epath.Path(self._workdir) / 'profile'}")

  def _utilisation(self, rate: float) -> tuple[str, dict[str, float]]:
    """What the steps achieve of the devices, as text and as scalars.

    MFU (model FLOPs utilisation) is against the peak in bfloat16, whatever a run computes in. Where
    the peak is unknown, as of a CPU, the speed alone is told.
    """
    if self.flops is None:
      return "", {}
    achieved = rate * self.flops / jax.device_count()
    if self._peak is None:
      return f", {achieved / 1e12:.3g} TFLOP/s a device", {"tflops_per_device": achieved / 1e12}
    mfu = achieved / self._peak
    return f", MFU {100 * mfu:.1f} %", {"mfu": mfu, "tflops_per_device": achieved / 1e12}

  def started(self, step: int) -> None:
    """Notes the step at which the run begins, and prints it."""
    self._last = (step, time.monotonic())
    self._print(
      f"{self._config.task}: step {step} of {self._config.train.steps} on {jax.device_count()}"
      f" {jax.devices()[0].platform} device(s)"
    )

  def train(self, step: int, metrics: dict[str, float], now: float) -> None:
    """Prints one progress line: step, metrics, speed, share of waiting for data, time left.

    The speed is told in seconds of audio per second and as MFU. The share is that of the time since
    the last line in which the loop waited for a batch; devices may still have been at work then, so
    it is the most that faster input could save.

    Args:
      step: Number of the step.
      metrics: {name: value} of the step.
      now: Time of `time.monotonic()` when the step was done, in seconds.
    """
    before, then = self._last or (step, now)
    rate = (step - before) / max(now - then, 1e-9)
    waiting = min(self._waited / max(now - then, 1e-9), 1.0)
    self._last, self._waited = (step, now), 0.0
    if self._began is not None:
      # Until here programs were compiled, or loaded from the cache.
      self._print(f"first step done {now - self._began:.1f} s after the start")
      self._began = None
    work, scalars = self._utilisation(rate)
    audio = rate * self._config.train.batch_size * self._config.window_seconds
    left = (self._config.train.steps - step) / max(rate, 1e-9)
    shown = " ".join(f"{k} {v:.4g}" for k, v in metrics.items())
    self._print(
      f"step {step}/{self._config.train.steps} {shown} | {audio:.1f} audio-s/s{work},"
      f" input {100 * waiting:.0f} %, ETA {_clock(left)}"
    )
    scalars |= {"audio_seconds_per_second": audio, "input_wait_share": waiting}
    self._scalars(step, metrics | scalars, "train")
    self._note(step, train=metrics, eta_seconds=left)

  def _note(self, step: int, **values: Any) -> None:
    """Keeps where the run is for `launch/nano.sh status`."""
    if self._speaks:
      self._progress |= {"step": step, "steps": self._config.train.steps, "time": time.time()}
      self._progress |= values
      run_record.write_progress(self._workdir, self._progress)

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
    self._note(step, validation=metrics, validation_step=step)
    if self._writer:
      self._bring_away()
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
    """Writes sound ("audio/...", [B, T]) and pictures ("image/...", [H, W]) to TensorBoard.

    Args:
      step: Steps taken so far.
      media: {name: array}; of several hosts, each array whole on every device.
    """
    if not self._writer:
      return
    for name, value in jax.device_get(media).items():
      if name.startswith("audio/"):
        for i, row in enumerate(np.clip(value[:SOUNDS], -1, 1)):
          self._writer.add_audio(f"{name}/{i}", row[:, None], step, self._config.sample_rate)
      else:
        # Each picture in its own range: log spectrograms have no common one.
        low, high = value.min(), value.max()
        self._writer.add_image(name, (value[None] - low) / max(high - low, 1e-9), step)

  def close(self) -> None:
    if self._writer:
      self._writer.close()
      self._bring_away()
      self._folder.close()

  def _bring_away(self) -> None:
    buckets.upload(self._local, epath.Path(self._workdir) / "tensorboard")
