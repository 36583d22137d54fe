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
import os
import wave
import zipfile

import jax
import jax.export
import numpy as np


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


def _arrays(archive, name):
  with np.load(io.BytesIO(archive.read(name))) as arrays:
    return {key: arrays[key] for key in arrays.files}


class Sampler:
  """An exported sampler.

  Attributes:
    styles: {prompt: style tokens int32 [levels]} that came with the file.
    sample_rate: Sample rate in Hz.
    batch: Number of items of every call.
  """

  def __init__(self, program, params, meta, schedules):
    """Use `load`."""
    self._call = jax.jit(program.call)
    self._params = jax.device_put(params)
    self._meta, self._schedules = meta, schedules
    self.styles = {name: np.asarray(tokens, np.int32) for name, tokens in meta["styles"].items()}
    self.sample_rate, self.batch = meta["sample_rate"], meta["batch"]

  @classmethod
  def load(cls, path):
    """Reads the file; ValueError where it is not one, or not for this platform."""
    with zipfile.ZipFile(path) as archive:
      meta = json.loads(archive.read("meta.json"))
      program = jax.export.deserialize(bytearray(archive.read("program.jax")))
      params, schedules = (_arrays(archive, name) for name in ("params.npz", "schedules.npz"))
    here = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
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
    found = {k: np.asarray(v, dtype) for k, (dtype, v) in self._meta["controls"].items()}
    steps = int(found["n_steps"]) if steps is None else steps
    schedule = schedule or self._meta["schedule"]
    if schedule not in self._schedules:
      raise ValueError(f"schedule is {schedule!r}; it takes {', '.join(self._schedules)}")
    if not 1 <= steps <= len(found["omegas"]):
      raise ValueError(f"steps is {steps}; it takes 1 to {len(found['omegas'])}")
    found["omegas"] = self._schedules[schedule][steps - 1]
    found["n_steps"] = np.asarray(steps, np.int32)
    for name, number in numbers.items():
      if name not in found:
        raise ValueError(f"{name!r} was not exported; numbers that were: {', '.join(found)}")
      found[name] = np.asarray(number, found[name].dtype)
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
      ValueError: for a prompt, a setting or a number of steps that the file lacks.
    """
    if isinstance(style, str) and style not in self.styles:
      raise ValueError(f"no style {style!r} in this file; it has: {', '.join(self.styles)}")
    tokens = self.styles[style] if isinstance(style, str) else np.asarray(style, np.int32)
    controls, m = self.controls(**settings), self._meta
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
    return np.concatenate(pieces, axis=1)[:, :n_samples]

  def _next(self, window, made, chunk):
    """A chunk further on: all but the last is known."""
    m = self._meta
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


def write_wav(path, audio_T, sample_rate):
  """Writes samples float [T] as 16-bit mono WAV; the peak is brought to 0.99."""
  peak = max(float(np.max(np.abs(audio_T))), 1e-9)
  with wave.open(path, "wb") as f:
    f.setnchannels(1)
    f.setsampwidth(2)
    f.setframerate(sample_rate)
    f.writeframes((audio_T / peak * 0.99 * 32767).astype("<i2").tobytes())


def main():
  """The command."""
  parser = argparse.ArgumentParser()
  parser.add_argument("file", type=os.path.expanduser)
  parser.add_argument("--style", default="", help="a prompt of the file; default: its first")
  parser.add_argument("--seconds", type=float, default=10.0)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--steps", type=int, default=None)
  parser.add_argument("--out", default="sample.wav", type=os.path.expanduser)
  options = parser.parse_args()
  sampler = Sampler.load(options.file)
  style = options.style or next(iter(sampler.styles))
  audio = sampler(style, options.seconds, options.seed, steps=options.steps)
  write_wav(options.out, audio[0], sampler.sample_rate)


if __name__ == "__main__":
  main()
