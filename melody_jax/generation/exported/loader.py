"""Samples from a file of `melody_jax.export_sampler`, with jax and numpy and nothing else.

A copy of this page lies in every such file (a zip archive) as loader.py:

    unzip -j nano.sampler loader.py
    python loader.py nano.sampler --style="slow bossa nova" --seconds=10 --seed=0 --out=x.wav

    sampler = Sampler.load("nano.sampler")
    audio = sampler("slow bossa nova", seconds=10, seed=0)      # float32 [B, samples]

It holds the compiled program's code for the platforms that it was exported for, the parameters and
the style tokens of the prompts named then. What it draws is what the program draws that it was made
from: the same seed gives the same music.
"""

import argparse
import io
import json
import numbers
import os
import pathlib
import signal
import struct
import sys
import threading
import zipfile


def _end_when_told(program):
  """Ctrl-C and SIGTERM end the program at once, with one line.

  A thread does that: while the main one compiles, Python calls no handler.
  """
  words = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated (SIGTERM)"}
  reading, writing = os.pipe()
  os.set_blocking(writing, False)

  def end():
    number = os.read(reading, 1)[0]
    print(f"{program}: error: {words.get(number, 'ended')}", file=sys.stderr, flush=True)
    os._exit(128 + number)

  for number in words:
    signal.signal(number, lambda *_: None)
  signal.set_wakeup_fd(writing)
  threading.Thread(target=end, daemon=True).start()


if __name__ == "__main__":
  # The imports below take seconds, in which Ctrl-C would print where they are.
  _end_when_told(os.path.basename(sys.argv[0]))

import jax  # noqa: E402
import jax.export  # noqa: E402
import numpy as np  # noqa: E402


def reads(meta, begin):
  """Arguments that make the language model draw all tokens from `begin` on, in one go."""
  places = {name: np.zeros(meta["chunks"], np.int32) for name in ("begin", "end", "style")}
  places["begin"][0], places["end"][0] = begin, meta["tokens"]
  return {**places, "count": np.asarray(1, np.int32)}


def first_window(meta, tokens, seed):
  """A window of which nothing is known, for every item of the batch.

  Args:
    meta: Sizes that came with the file.
    tokens: Style tokens int32 [levels].
    seed: Seed of the first item.
  """
  b, zeros = meta["batch"], np.zeros(meta["batch"], np.int32)
  tokens = np.asarray(tokens, np.int32)
  return {
    "seeds": (np.arange(b) + seed).astype(np.uint32),
    "start_frame": zeros,
    "first_token": zeros,
    "style_tokens": np.broadcast_to(tokens, (b, meta["chunks"], len(tokens))).copy(),
    "negative_style": np.full((b, len(tokens)), meta["null_style"], np.int32),
    "reads": reads(meta, 0),
    "tokens": np.zeros((b, meta["tokens"]), np.int32),
    "tokens_known": np.zeros((b, meta["tokens"]), bool),
    "latents": np.zeros((b, meta["frames"], meta["latent_dim"]), np.float32),
    "known": np.zeros((b, meta["frames"]), np.float32),
    "end_frame": np.full(b, np.iinfo(np.int32).max, np.int32),
  }


def check_number(name, value, takes):
  """Refuses a number outside its range.

  Args:
    name: Name of the setting.
    value: What the user gave.
    takes: [smallest, largest or None, what is counted or measured, whether it must be whole], as
      `meta["ranges"]` has it.

  Raises:
    ValueError: naming the setting, its value and what it takes.
  """
  low, high, unit, whole = takes
  if isinstance(value, (np.ndarray, np.generic)) and np.ndim(value) == 0:
    value = value.item()
  # Written so that NaN, which compares false with everything, is refused.
  largest = sys.float_info.max if high is None else high
  if not (isinstance(value, numbers.Real) and low <= value <= largest):
    limits = f"{low} or more" if high is None else f"{low} to {high}"
    raise ValueError(f"{name} is {value}; it takes {limits} ({unit})")
  if whole and (isinstance(value, bool) or not isinstance(value, numbers.Integral)):
    raise ValueError(f"{name} is {value}; it takes whole numbers ({unit})")


def _platform():
  """Name of the platform that JAX runs on here; ValueError where it finds none."""
  try:
    found = jax.default_backend()
  except Exception as e:
    asked = os.environ.get("JAX_PLATFORMS", "")
    raise ValueError(
      f"JAX_PLATFORMS is {asked!r}, and JAX finds no such device here: install jax for it"
      " (jax[cuda12], jax[tpu]), or set JAX_PLATFORMS=cpu"
    ) from e
  return {"gpu": "cuda"}.get(found, found)


def _arrays(archive, name):
  with np.load(io.BytesIO(archive.read(name))) as arrays:
    return {key: arrays[key] for key in arrays.files}


class Sampler:
  """An exported sampler.

  Attributes:
    styles: {prompt: style tokens int32 [levels]} that came with the file.
    sample_rate: Sample rate in Hz.
    batch: Number of items of every call.
    meta: All that came with the file: sizes, ranges of numbers, the mark of its files.
  """

  def __init__(self, program, params, meta, schedules):
    """Use `load`."""
    self._call = jax.jit(program.call)
    self._params = jax.device_put(params)
    self.meta, self._schedules = meta, schedules
    self.styles = {name: np.asarray(tokens, np.int32) for name, tokens in meta["styles"].items()}
    self.sample_rate, self.batch = meta["sample_rate"], meta["batch"]

  @classmethod
  def load(cls, path):
    """Reads the file; ValueError where it is not one, or not for this platform."""
    try:
      with zipfile.ZipFile(path) as archive:
        meta = json.loads(archive.read("meta.json"))
        program = jax.export.deserialize(bytearray(archive.read("program.jax")))
        params, schedules = (_arrays(archive, name) for name in ("params.npz", "schedules.npz"))
    except (zipfile.BadZipFile, KeyError) as e:
      raise ValueError(f"{path} is no exported sampler, or is damaged: export it again") from e
    here = _platform()
    if here not in program.platforms:
      raise ValueError(f"{path} was exported for {', '.join(program.platforms)}, this is {here}")
    return cls(program, params, meta, schedules)

  def controls(self, steps=None, schedule=None, **numbers):
    """The program's settings, some of them changed: {name: array}.

    Args:
      steps: Denoising steps; None: those of the export.
      schedule: Name of the schedule of angles; None: that of the export.
      **numbers: Other settings that were exported, by name (guidance_scale, temperature, ...).
    """
    found = {k: np.asarray(v, dtype) for k, (dtype, v) in self.meta["controls"].items()}
    steps = int(found["n_steps"]) if steps is None else steps
    schedule = schedule or self.meta["schedule"]
    if schedule not in self._schedules:
      raise ValueError(f"schedule is {schedule!r}; it takes {', '.join(self._schedules)}")
    check_number("steps", steps, self.meta["ranges"]["steps"])
    found["omegas"] = self._schedules[schedule][steps - 1]
    found["n_steps"] = np.asarray(steps, np.int32)
    # Steps and their angles belong together: `steps` and `schedule` set them.
    free = {k: r for k, r in self.meta["free"].items() if k not in ("omegas", "n_steps")}
    for name, number in numbers.items():
      if name not in free:
        raise ValueError(f"{name!r} was not exported; numbers that were: {', '.join(free)}")
      if free[name]:
        check_number(name, number, free[name])
      array = np.asarray(number, found[name].dtype)
      if array.shape != found[name].shape or not np.all(np.isfinite(array)):
        raise ValueError(f"{name} is {number}; it takes finite numbers, {found[name].shape}")
      found[name] = array
    return found

  def __call__(self, style, seconds=10.0, seed=0, **settings):
    """Music in a style.

    Args:
      style: A prompt of `styles`, or style tokens int32 [levels].
      seconds: Length of the music.
      seed: Seed of the first item; the others take the numbers after it.
      **settings: Changed settings, as `controls` takes them.

    Returns:
      Audio float32 [B, samples] at `sample_rate`.

    Raises:
      ValueError: for a prompt or a setting that the file lacks, a number out of its range, or where
        the music is not finite.
    """
    tokens = self._tokens_of(style)
    m, (low, _, unit, _) = self.meta, self.meta["ranges"]["seconds"]
    # Python may make hours; the command has the limit of the package's own.
    check_number("seconds", seconds, [low, None, unit, False])
    low, high, unit, _ = m["ranges"]["seed"]
    check_number("seed", seed, [low, high - self.batch + 1, unit, True])
    controls = self.controls(**settings)
    n_samples = round(seconds * self.sample_rate)
    window = first_window(m, tokens, seed)
    made = self._call(self._params, window, controls)
    pieces, chunk = [np.asarray(made["audio"])], m["frames"] // m["chunks"]
    while sum(p.shape[1] for p in pieces) < n_samples:
      # What the decoder made of the last frames it did not know the future of is made anew.
      window = self._next(window, made, chunk)
      made = self._call(self._params, window, controls)
      keep, seam = chunk * m["hop"], m["reach"] * m["hop"]
      pieces[-1] = pieces[-1][:, : pieces[-1].shape[1] - seam]
      pieces.append(np.asarray(made["audio"])[:, -(keep + seam) :])
    audio = np.concatenate(pieces, axis=1)[:, :n_samples]
    if not np.isfinite(audio).all():
      raise ValueError("the music holds samples that are not finite: export the sampler again")
    return audio

  def _tokens_of(self, style):
    """Style tokens int32 [levels] of a prompt of the file, or such tokens themselves, checked."""
    if isinstance(style, str):
      if style not in self.styles:
        raise ValueError(f"no style {style!r} in this file; it has: {', '.join(self.styles)}")
      return self.styles[style]
    tokens, levels, size = np.asarray(style), self.meta["style_levels"], self.meta["style_vocab"]
    whole = tokens.shape == (levels,) and np.issubdtype(tokens.dtype, np.integer)
    if not whole or tokens.min() < 0 or tokens.max() >= size:
      raise ValueError(f"a style is a prompt of the file, or {levels} integers of 0 to {size - 1}")
    return tokens.astype(np.int32)

  def _next(self, window, made, chunk):
    """A chunk further on: all but the last is known."""
    m = self.meta
    start = window["start_frame"] + chunk
    first = start * m["tokens"] // m["frames"]
    moved = int(first[0] - window["first_token"][0])
    kept = m["tokens"] - moved
    tokens = np.pad(np.asarray(made["tokens"])[:, moved:], ((0, 0), (0, moved)))
    latents = np.pad(np.asarray(made["latents"])[:, chunk:], ((0, 0), (0, chunk), (0, 0)))
    known = np.arange(m["frames"]) < m["frames"] - chunk
    return {
      **window,
      "start_frame": start.astype(np.int32),
      "first_token": first.astype(np.int32),
      "reads": reads(m, kept),
      "tokens": tokens,
      "tokens_known": np.broadcast_to(np.arange(m["tokens"]) < kept, tokens.shape).copy(),
      "latents": latents,
      "known": np.broadcast_to(known, latents.shape[:2]).astype(np.float32),
    }


def wav_bytes(audio_T, sample_rate, mark):
  """Samples float [T] as a 16-bit mono WAV file; the peak is brought to 0.99.

  Args:
    audio_T: Samples.
    sample_rate: Sample rate in Hz.
    mark: Comment in the file, by which it is known again.
  """
  peak = max(float(np.max(np.abs(audio_T))), 1e-9)
  pcm = (audio_T / peak * 0.99 * 32767).astype("<i2").tobytes()
  comment = mark.encode() + b"\0" * (2 - len(mark) % 2)  # chunks have even lengths
  layout = struct.pack("<HHIIHH", 1, 1, sample_rate, 2 * sample_rate, 2, 16)
  chunks = [(b"fmt ", layout), (b"LIST", b"INFO" + _chunk(b"ICMT", comment)), (b"data", pcm)]
  return _chunk(b"RIFF", b"WAVE" + b"".join(_chunk(name, body) for name, body in chunks))


def _chunk(name, body):
  return name + struct.pack("<I", len(body)) + body


def check_out(path, source, mark, overwrite):
  """Refuses a file that cannot be written, or that somebody else wrote; before any work.

  Args:
    path: File to write.
    source: File of the sampler, which must not be overwritten.
    mark: Comment by which a file of this program is known.
    overwrite: Whether to replace other files too.

  Raises:
    ValueError: saying what is wrong and what to do.
  """
  if path.suffix.lower() != ".wav":
    raise ValueError(f"{str(path)!r} must end in .wav")
  if not path.parent.is_dir():
    raise ValueError(f"cannot write {path}: {path.parent} is no directory; create it first")
  if not path.parent.stat().st_mode & 0o222 or not os.access(path.parent, os.W_OK):
    raise ValueError(f"cannot write {path}: the directory is read-only; write elsewhere")
  try:
    path.stat()
  except FileNotFoundError:
    if path.is_symlink() and not overwrite:
      raise ValueError(f"{path} is a link to nowhere: write to another name") from None
    return
  if not path.is_file():
    raise ValueError(f"{path} is no ordinary file: name another one")
  if path.samefile(source):
    raise ValueError(f"{path} is the sampler itself: write to another name")
  with open(path, "rb") as f:
    head = f.read(1 << 16)
  if head and mark.encode() not in head and not overwrite:
    raise ValueError(
      f"{path} is there already and was not written by this program: write to another name, or"
      " allow it with --overwrite"
    )


def write_wavs(contents):
  """Writes {path: bytes}, each under a temporary name first: nothing half-written stays."""
  for path, content in contents.items():
    temporary = path.with_name(f".melody-{os.getpid()}.tmp")
    try:
      temporary.write_bytes(content)
      os.replace(temporary, path)
    finally:
      temporary.unlink(missing_ok=True)


def main():
  """The command."""
  parser = argparse.ArgumentParser(description="Makes music in the styles of an exported sampler.")
  parser.add_argument("file", type=os.path.expanduser, help="the sampler, *.sampler")
  parser.add_argument("--style", default="", help="a prompt of the file; default: its first")
  parser.add_argument("--seconds", type=float, default=10.0, help="seconds of music")
  parser.add_argument("--seed", type=int, default=0, help="another one, other music; -1: drawn")
  parser.add_argument("--steps", type=int, default=None, help="denoising steps")
  parser.add_argument(
    "--out",
    default="sample.wav",
    type=os.path.expanduser,
    help="*.wav; x-SEED.wav where it has a batch",
  )
  parser.add_argument(
    "--overwrite", action="store_true", help="replace files that this program did not write, too"
  )
  options = parser.parse_args()
  try:
    _run(options)
  except (ValueError, OSError) as e:
    print(f"{parser.prog}: error: {' '.join(str(e).split())}", file=sys.stderr)
    sys.exit(2)
  except MemoryError:
    print(f"{parser.prog}: error: out of memory: make less at once", file=sys.stderr)
    sys.exit(2)


def _run(options):
  sampler = Sampler.load(options.file)
  style = options.style or next(iter(sampler.styles))
  if options.seed == -1:
    options.seed = int.from_bytes(os.urandom(4), "little") % (2**32 - sampler.batch)
    print(f"seed {options.seed} was drawn", file=sys.stderr)
  check_number("--seconds", options.seconds, sampler.meta["ranges"]["seconds"])
  out = pathlib.Path(options.out)
  seeds = range(options.seed, options.seed + sampler.batch)
  several = [out.with_name(f"{out.stem}-{seed}{out.suffix}") for seed in seeds]
  paths = several if len(several) > 1 else [out]
  for path in paths:
    check_out(path, options.file, sampler.meta["mark"], options.overwrite)
  audio = sampler(style, options.seconds, options.seed, steps=options.steps)
  rate, mark = sampler.sample_rate, sampler.meta["mark"]
  write_wavs({path: wav_bytes(row, rate, mark) for path, row in zip(paths, audio, strict=True)})


if __name__ == "__main__":
  main()
