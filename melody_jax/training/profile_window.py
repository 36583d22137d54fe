"""Profiles of a few steps of a run, for TensorBoard's profile page and for Perfetto."""

import contextlib
import os
import pathlib
from typing import Any

from etils import epath
import jax

from melody_jax.config import profile_steps
from melody_jax.places import buckets


class ProfileWindow:
  """Records what host and devices do from one step to another.

  Every process writes the profile of its own devices to `<workdir>/profile`.

  Args:
    steps: `config.train.profile`: "100:105" are the steps 100 to 105; "" records nothing.
    workdir: Directory of the run.

  Raises:
    UserError: if `steps` is no such range.
  """

  def __init__(self, steps: str, workdir: str | os.PathLike):
    self._steps = profile_steps(steps)
    self._target = epath.Path(workdir) / "profile"
    self._folder = contextlib.ExitStack()
    self._local: pathlib.Path | None = None  # of a recording under way

  def before(self, step: int) -> None:
    """Begins at the first step of the range that the run takes."""
    if self._steps is None or self._local is not None:
      return
    first, last = self._steps
    if first <= step <= last:
      # The profiler writes to local disks only; the workdir may be a bucket.
      self._local = self._folder.enter_context(buckets.writable(self._target))
      jax.profiler.start_trace(str(self._local))

  def after(self, step: int, state: Any) -> bool:
    """Ends after the last step of the range; returns whether a profile was written.

    Args:
      step: Step that was taken.
      state: What it makes; waited for, so that the profile holds all of it.
    """
    if self._local is None or self._steps is None or step < self._steps[1]:
      return False
    jax.block_until_ready(state)
    self.close()
    self._steps = None
    return True

  def close(self) -> None:
    """Ends a recording under way, and writes it."""
    if self._local is None:
      return
    jax.profiler.stop_trace()
    buckets.upload(self._local, self._target)
    self._folder.close()
    self._local = None
