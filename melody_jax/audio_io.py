"""Audio files in and out, on the host: decoding, resampling, loudness, encoding, pictures.

Audio is mono, float32 [samples] in [-1, 1]. Heavy libraries (librosa, pyloudnorm, soundfile,
matplotlib) are imported inside the functions, so that the import of this module is fast.
"""

import io
import os
import pathlib
import warnings

import numpy as np

from melody_jax.errors import UserError
from melody_jax.host import decoding
from melody_jax.progress import print_progress
from melody_jax.provenance import MARK

SAMPLE_RATE = 24_000  # Hz; docs/spec.md, section 1
INPUT_LUFS = -20.0  # level of all audio that a model reads, in training and in use
OUTPUT_LUFS = -16.0  # level of audio files written for people
PEAK_LIMIT = 0.99  # under 1, because lossy formats overshoot a little
MIN_CLIP_SECONDS = 1.0
MAX_CLIP_SECONDS = 1200.0
SILENCE_DBFS = -60.0  # a root mean square under this counts as silence

# suffix -> (libsndfile format, subtype)
FORMATS = {
  ".wav": ("WAV", "PCM_16"),
  ".flac": ("FLAC", "PCM_16"),
  ".ogg": ("OGG", "VORBIS"),
  ".mp3": ("MP3", "MPEG_LAYER_III"),
}
# Frames per write: libsndfile's Vorbis encoder overflows its stack on long ones.
_BLOCK = 1 << 16


def import_writers() -> None:
  """Imports the libraries of `loudness`, `encode` and `spectrogram_png`.

  They take seconds to import. A caller hides that time while a device computes.
  """
  import librosa.feature  # noqa: F401
  import matplotlib.figure  # noqa: F401
  import pyloudnorm  # noqa: F401
  import soundfile  # noqa: F401


def probe_seconds(path: str | os.PathLike) -> float | None:
  """Duration of an audio file, from its header, without decoding it.

  Returns:
    Seconds, or None if the header does not say.

  Raises:
    UserError: if there is no such file, or it cannot be opened.
  """
  try:
    return decoding.seconds(_existing(path))
  except decoding.DamagedAudio:
    return None  # what is wrong with it, `load` says


def _existing(path: str | os.PathLike) -> pathlib.Path:
  path = pathlib.Path(path)
  if not path.is_file():
    state = "does not exist"
    if path.is_dir():
      state = "is a directory"
    elif path.exists():
      state = "is no ordinary file but a pipe or a device"
    elif path.is_symlink():
      state = "is a link to nowhere"
    raise UserError(f"audio file {path} {state}: check the path")
  return path


def _decode(path: pathlib.Path, max_seconds: float | None) -> tuple[np.ndarray, int]:
  """Decodes a file to (mono float32 [samples], sample rate in Hz); tells the user what is odd."""
  try:
    # One second more than allowed, so that the caller sees that the file is too long.
    sound = decoding.read(path, None if max_seconds is None else max_seconds + 1)
  except decoding.DamagedAudio as damaged:
    if damaged.reason == "truncated":
      hint = "export it again, or repair it"
      raise UserError(f"{path} is damaged: {damaged.detail}; {hint}") from damaged
    if damaged.reason == "drm":
      raise UserError(f"{path} is protected: {damaged.detail}") from damaged
    if damaged.reason == "samples":
      raise UserError(f"{path} {damaged.detail}: export it again") from damaged
    if damaged.reason == "garbled":
      raise UserError(f"{path} is garbled: {damaged.detail}; export it again") from damaged
    raise UserError(
      f"{path} is not audio that libsndfile or ffmpeg can read ({damaged.detail})"
    ) from damaged
  for note in sound.notes:
    print_progress(f"{path}: {note}")
  return sound.audio, sound.rate


def load_start(path: str | os.PathLike, max_seconds: float) -> tuple[np.ndarray, int, bool]:
  """Reads the beginning of any audio file as mono audio, at its own sample rate and level.

  Args:
    path: Audio file, see `load`.
    max_seconds: What follows after this is not decoded.

  Returns:
    (audio, float32 [samples]; its sample rate in Hz; whether the file goes on).

  Raises:
    UserError: as `load` does, but for long files.
  """
  audio, rate = _decode(_existing(path), max_seconds)
  limit = int(max_seconds * rate)
  return np.ascontiguousarray(audio[:limit], np.float32), rate, len(audio) > limit


def load(
  path: str | os.PathLike, sample_rate: int = SAMPLE_RATE, max_seconds: float | None = None
) -> np.ndarray:
  """Reads any audio file as mono audio, at the level of the file.

  libsndfile decodes. Formats that it does not know are left to ffmpeg, if that is installed.

  Args:
    path: Audio file of any sample rate and any number of channels; channels are averaged, or one
      is taken where they cancel each other. A constant part of the signal is taken away.
    sample_rate: Sample rate of the result in Hz; librosa resamples (soxr, high quality).
    max_seconds: Longer files are refused, before decoding if the header says how long they are.

  Returns:
    Audio, float32 [samples].

  Raises:
    UserError: if the file is missing, damaged, not audio, empty, too long, or holds samples that
      are not finite or absurdly large; or if a decoder is missing or does not work.
  """
  path = _existing(path)
  seconds = probe_seconds(path)
  if max_seconds is not None and seconds is not None and seconds > max_seconds:
    raise UserError(
      f"{path} is {seconds:.0f} s long; the limit is {max_seconds:.0f} s: cut it first"
    )
  audio, rate = _decode(path, max_seconds)
  # Again after decoding: a header may lie, or say nothing.
  if max_seconds is not None and len(audio) > max_seconds * rate:
    raise UserError(f"{path} is longer than the limit of {max_seconds:.0f} s: cut it first")
  if not len(audio):
    raise UserError(f"{path} holds no audio samples")
  if rate != sample_rate:
    import librosa

    # Exact in integers.
    samples = -(-len(audio) * sample_rate // rate)
    audio = librosa.resample(audio, orig_sr=rate, target_sr=sample_rate, res_type="soxr_hq")
    audio = audio[:samples]  # librosa rounds its length in floating point, at times one too many
  return np.ascontiguousarray(audio, np.float32)


def is_silent(audio: np.ndarray) -> bool:
  """Whether the root mean square of audio [samples] is under SILENCE_DBFS."""
  rms = float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if len(audio) else 0.0
  return rms < 10 ** (SILENCE_DBFS / 20)


def load_clip(
  path: str | os.PathLike,
  sample_rate: int = SAMPLE_RATE,
  min_seconds: float = MIN_CLIP_SECONDS,
  max_seconds: float = MAX_CLIP_SECONDS,
) -> np.ndarray:
  """Reads a user's clip for a model, at the level that models know from training (INPUT_LUFS).

  Args:
    path: Audio file, see `load`.
    sample_rate: Sample rate of the result in Hz.
    min_seconds: Shorter clips are refused.
    max_seconds: Longer clips are refused.

  Returns:
    Mono audio, float32 [samples].

  Raises:
    UserError: if the clip is silent, too short or too long, or cannot be read by `load`.
  """
  audio = load(path, sample_rate, max_seconds)
  if len(audio) < min_seconds * sample_rate:
    raise UserError(
      f"{path} is {len(audio) / sample_rate:.2f} s long; at least {min_seconds:g} s is needed"
    )
  if is_silent(audio):
    raise UserError(f"{path} is silent (under {SILENCE_DBFS:g} dBFS): give a clip with music in it")
  return normalise_loudness(audio, sample_rate, INPUT_LUFS)


def loudness(audio: np.ndarray, sample_rate: int = SAMPLE_RATE) -> float:
  """Integrated loudness of audio [samples] in LUFS (ITU-R BS.1770-4).

  It is -inf for silence, and for audio shorter than one block of the standard (0.4 s).
  """
  if len(audio) < 0.4 * sample_rate + 1:
    return float("-inf")
  import pyloudnorm

  # Silence has the loudness -inf, which is an answer and no fault.
  with np.errstate(divide="ignore"):
    return float(pyloudnorm.Meter(sample_rate).integrated_loudness(audio.astype(np.float64)))


def normalise_loudness(
  audio: np.ndarray,
  sample_rate: int = SAMPLE_RATE,
  lufs: float = OUTPUT_LUFS,
  peak: float = PEAK_LIMIT,
) -> np.ndarray:
  """Scales audio [samples] to a loudness; by less where its peak would pass the limit.

  Args:
    audio: Audio, float32 [samples]. Silence is returned unchanged.
    sample_rate: Sample rate in Hz.
    lufs: Loudness of the result in LUFS.
    peak: Largest absolute sample of the result.

  Returns:
    Audio, float32 [samples].
  """
  # The peak decides where loudness would clip: quieter is better than distorted.
  highest = float(np.max(np.abs(audio), initial=0.0))
  now = loudness(audio, sample_rate)
  # Silence has no loudness to scale.
  if highest == 0.0:
    return audio
  # Clips under 0.4 s have no loudness; only their peak can be limited.
  gain = 10 ** ((lufs - now) / 20) if np.isfinite(now) else 1.0
  return (audio * min(gain, peak / highest)).astype(np.float32)


def encode(audio: np.ndarray, suffix: str, sample_rate: int = SAMPLE_RATE) -> bytes:
  """Encodes audio [samples] as the bytes of an audio file.

  Args:
    audio: Audio [samples]; values beyond [-1, 1] are clipped.
    suffix: Format, a key of FORMATS.
    sample_rate: Sample rate in Hz.
  """
  import soundfile

  container, subtype = FORMATS[suffix]
  buffer = io.BytesIO()
  with soundfile.SoundFile(
    buffer, "w", samplerate=sample_rate, channels=1, format=container, subtype=subtype
  ) as f:
    f.comment = MARK
    for start in range(0, len(audio), _BLOCK):
      # Clipped here: integer formats would wrap around, which is a loud crack.
      f.write(np.clip(audio[start : start + _BLOCK], -1.0, 1.0))
  return buffer.getvalue()


def mel_decibels(audio: np.ndarray, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
  """Log-mel spectrogram [128, frames] of audio [samples], in dB from -80 to 20, for pictures.

  A fixed range, so that pictures of different clips can be compared.
  """
  import librosa

  hop = max(512, len(audio) // 4000 // 512 * 512)  # at most about 4,000 columns, however long
  mel = librosa.feature.melspectrogram(
    y=audio, sr=sample_rate, n_fft=2048, hop_length=hop, n_mels=128
  )
  return librosa.power_to_db(mel, ref=1.0, top_db=None).clip(-80.0, 20.0)


def spectrogram_png(audio: np.ndarray, sample_rate: int = SAMPLE_RATE, title: str = "") -> bytes:
  """Draws the log-mel spectrogram (128 mels) of audio [samples], as the bytes of a PNG file."""
  import librosa
  from matplotlib.figure import Figure

  decibels = mel_decibels(audio, sample_rate)
  # Without pyplot: it would ask for a window system and keep the figure in memory.
  figure = Figure(figsize=(10, 4), dpi=100, layout="constrained")
  axes = figure.add_subplot()
  seconds = len(audio) / sample_rate
  image = axes.imshow(decibels, origin="lower", aspect="auto", extent=(0, seconds, 0, 128))
  ticks = [hz for hz in (125, 250, 500, 1000, 2000, 4000, 8000) if hz < sample_rate / 2]
  top = librosa.hz_to_mel(sample_rate / 2)
  axes.set_yticks([128 * librosa.hz_to_mel(hz) / top for hz in ticks], [str(hz) for hz in ticks])
  axes.set(xlabel="seconds", ylabel="Hz")
  # Dollar signs would start a formula in a title.
  axes.set_title(title[:100].replace("$", r"\$"), fontsize=9)
  figure.colorbar(image, label="dB")
  buffer = io.BytesIO()
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a glyph that the font lacks is drawn as a box
    figure.savefig(buffer, format="png", metadata={"Comment": MARK})
  return buffer.getvalue()
