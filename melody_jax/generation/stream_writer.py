"""The command's mode "stream": chunks to a file or to standard output while they are made."""

from collections.abc import Iterator
import contextlib
import errno
import os
import pathlib
import signal
import sys
import time
from typing import Any, Protocol

import numpy as np

from melody_jax import audio_io, output_files
from melody_jax.command_line.streams import StdoutError, stdout_errors
from melody_jax.errors import UserError
from melody_jax.generation import report
from melody_jax.generation.config import STDOUT, prompt_of
from melody_jax.generation.leveller import StreamLeveller
from melody_jax.generation.stream import Stream
from melody_jax.progress import Progress
from melody_jax.provenance import MARK


class Sink(Protocol):
  """Where chunks go.

  Attributes:
    samples: Number of samples taken so far.
  """

  samples: int

  def write(self, audio_T: np.ndarray) -> None:
    """Takes the next samples, float32 [T]."""

  def close(self, keep: bool) -> None:
    """Ends what was written; nothing more comes. Where nothing was made, nothing is kept."""


class FileSink:
  """An audio file that grows under a hidden name and gets its own at the end."""

  def __init__(self, path: str, sample_rate: int):
    import soundfile

    self._path = pathlib.Path(path)
    # Of the name 50 letters: in UTF-8 they take up to 200 of the 255 bytes that a name may have.
    hidden = f".{self._path.stem[:50]}.{os.getpid()}.part{self._path.suffix}"
    self._part = self._path.with_name(hidden)
    container, subtype = audio_io.FORMATS[self._path.suffix.lower()]
    try:
      self._file = soundfile.SoundFile(
        self._part, "w", samplerate=sample_rate, channels=1, format=container, subtype=subtype
      )
    except (OSError, RuntimeError) as e:
      raise UserError(f"cannot write {self._path}: {e}") from e
    self._file.comment = MARK
    self.samples = 0

  def write(self, audio_T: np.ndarray) -> None:
    try:
      self._file.write(audio_T)
      # A player may read along, and a kill loses no more than a chunk.
      self._file.flush()
    except (OSError, RuntimeError) as e:
      raise UserError(f"cannot write {self._path}: {e}; what was made so far is kept") from e
    self.samples += len(audio_T)

  def close(self, keep: bool) -> None:
    self._file.close()
    if keep:
      os.replace(self._part, self._path)
    self._part.unlink(missing_ok=True)


class PcmSink:
  """16-bit little-endian samples to a binary stream such as standard output."""

  def __init__(self, stream):
    self._stream = stream
    self.samples = 0

  def write(self, audio_T: np.ndarray) -> None:
    with stdout_errors():
      # Clipped first: beyond full scale 16 bits would wrap around.
      self._stream.write((np.clip(audio_T, -1.0, 1.0) * 32767.0).astype("<i2").tobytes())
      self._stream.flush()
    self.samples += len(audio_T)

  def close(self, keep: bool) -> None:
    with contextlib.suppress(OSError):  # told when it was written to
      self._stream.flush()


@contextlib.contextmanager
def _ends_the_stream() -> Iterator[None]:
  """Ctrl-C and SIGTERM end a stream that has begun; what it made so far is kept."""

  def interrupt(*_):
    raise KeyboardInterrupt

  # Handlers of our own, too, where the command's are: those end a process that takes its time.
  before = {n: signal.signal(n, interrupt) for n in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def run(config, melody, requests, settings, clips, progress: Progress) -> dict[str, Any]:
  """Streams until config.seconds, an interrupt, or a closed pipe; then writes the report.

  Args:
    config: Keys of configs/sample.py.
    melody: A `Melody`, loaded.
    requests: One request; not read where a saved stream goes on.
    settings: How to sample.
    clips: Audio files of the config.
    progress: Told what happens, a line at a time.

  Returns:
    The report.

  Raises:
    UserError: if a saved state cannot be read, samples are not finite, or the disk is full.
  """
  if config.stream.resume:
    stream = _resumed(config, melody, settings, clips, progress)
  else:
    stream = melody.stream(requests[0], settings, progress)
    stream.asked = report.asked(config) | report.unheard(config, melody)
  sink = _open_sink(config.out, melody.sample_rate)
  progress("streaming; Ctrl-C ends it" if not config.seconds else "streaming")
  began, compiled = time.monotonic(), melody.programs.compile_seconds
  first_chunk, slowest = 0.0, 0.0
  # A stream has no end of its own: an interrupt or a closed pipe is how it is meant to stop.
  try:
    with contextlib.ExitStack() as stack:
      for wave, seconds in _levelled(config, melody, stream):
        if not sink.samples:
          stack.enter_context(_ends_the_stream())
          first_chunk = seconds
          progress(f"first chunk after {seconds:.2f} s")
        else:
          slowest = max(slowest, seconds)
        try:
          sink.write(wave)
        except UserError:  # the disk is full: the state may still find room elsewhere
          _save(config, stream)
          raise
  except (KeyboardInterrupt, StdoutError) as e:
    if not sink.samples or (isinstance(e, StdoutError) and e.errno != errno.EPIPE):
      raise
    progress("interrupted: the stream ends here")
  finally:
    sink.close(keep=sink.samples > 0)
  compile_seconds = melody.programs.compile_seconds - compiled
  seconds = max(time.monotonic() - began - compile_seconds, 1e-9)
  cost = {
    "seconds": sink.samples / melody.sample_rate,
    "sample_rate": melody.sample_rate,
    "nfe": int(stream.state.nfe) if stream.state is not None else 0,
    "compile_seconds": compile_seconds,
    "generation_seconds": seconds,
    "real_time_factor": sink.samples / melody.sample_rate / seconds,
    "chunk_seconds": stream.chunk_seconds,
    "first_chunk_seconds": first_chunk,
    "slowest_later_chunk_seconds": slowest,
  }
  return _finish(config, melody, stream, cost, progress)


def _open_sink(out: str, sample_rate: int) -> Sink:
  return PcmSink(sys.stdout.buffer) if out == STDOUT else FileSink(out, sample_rate)


def _resumed(config, melody, settings, clips, progress: Progress) -> Stream:
  """The saved stream; it brings its own style and seed, and only a prompt given now takes over."""
  stream = melody.resume(config.stream.resume)
  if not stream.single:
    raise UserError(
      f"{config.stream.resume} holds {len(stream.state.seeds)} streams side by side: go on with"
      " Melody.resume from Python; the command writes one"
    )
  stream.settings = settings
  seed = int(stream.state.seeds[0])
  progress(f"the stream goes on with its own seed, {seed}")
  now = report.asked(config)
  # How to sample is asked for anew; what to make is what was asked for then.
  kept = ("prompt", "music_prompt", "weights", "times", "negative_prompt", "audio", "not_heard")
  stream.asked = now | {k: v for k, v in stream.asked.items() if k in kept} | {"seed": seed}
  if config.prompt.strip() or config.music_prompt:
    given = prompt_of(config, clips, config.prompt)["prompt"]
    stream.steer(given, progress)
    stream.asked |= {k: now[k] for k in ("prompt", "music_prompt", "weights", "times")}
    stream.asked |= report.unheard(config, melody)
  return stream


def _save(config, stream: Stream) -> None:
  if config.stream.save and stream.state is not None:
    stream.save(config.stream.save, config.overwrite)


def _levelled(config, melody, stream: Stream) -> Iterator[tuple[np.ndarray, float]]:
  """Chunks ready to be written, with the seconds each took; the last one is cut to length."""
  left = round(config.seconds * melody.sample_rate) if config.seconds else sys.maxsize
  level = StreamLeveller(melody.sample_rate, config.loudness if config.normalise else None)
  while left > 0:
    began = time.monotonic()
    wave = next(stream)
    took = time.monotonic() - began
    if not np.isfinite(wave).all():
      raise UserError(
        f"{config.checkpoint} gave samples that are not finite: train or export it again"
      )
    assert stream.state is not None
    yield level(wave, stream.state.audio[0])[:left], took
    left -= len(wave)


def _finish(
  config, melody, stream: Stream, cost: dict[str, Any], progress: Progress
) -> dict[str, Any]:
  """Writes what lies beside the audio; returns the report."""
  resumed = {"resumed": config.stream.resume} if config.stream.resume else {}
  contents = {**stream.asked, **resumed, **cost, **report.made_by(config, melody)}
  try:
    _save(config, stream)
  finally:
    if config.out != STDOUT:
      path = pathlib.Path(config.out).with_suffix(".json")
      output_files.write_files({path: report.to_json(contents)})
  progress(
    f"{config.out}: {cost['seconds']:.1f} s of audio in {cost['generation_seconds']:.1f} s"
    f" ({cost['real_time_factor']:.1f}x real time), compiling {cost['compile_seconds']:.1f} s"
  )
  return contents
