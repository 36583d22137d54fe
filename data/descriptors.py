"""Measures a clip and turns the numbers into caption words.

Recordings come with little text. Their captions therefore use measurements: tempo, how busy and
how percussive the music is, how bright it sounds, and its mode. A word is used only where the
measurement is clear.
"""

import dataclasses

import librosa
import numpy as np
from scipy import ndimage

_N_FFT, _HOP, _N_MELS = 2048, 512, 96
_MEDIAN = 31  # frames, and bands, over which tones and beats are told apart
_TUNING_EVERY = 8  # a clip is tuned to one pitch: looking for it in every frame is most of the work
# How well each of the twelve notes fits a major and a minor key, as listeners rated it: the
# probe-tone profiles of Krumhansl and Kessler (1982).
_MAJOR = np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88])
_MINOR = np.array([6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17])

# A word needs a value below the first or above the second number. These are about the lower and the
# upper fifth of the recorded corpus. They are constants, so that a word means the same everywhere.
_BUSY = (0.88, 1.5)  # flux, dB
_BRIGHT = (850.0, 2050.0)  # spectral centroid, Hz
_PERCUSSIVE = (0.035, 0.15)  # share of energy
_MODE = (-0.12, 0.08)  # difference of the key profiles' correlations
_PULSE = (0.15, 0.4)  # how periodic the onsets are


@dataclasses.dataclass(frozen=True)
class Descriptors:
  """Measurements of one clip.

  Attributes:
    tempo: Tempo in beats per minute.
    tempo_strength: How regular the onsets are at that tempo, from 0 to 1.
    flux: How busy the clip is: mean rise of the log-mel spectrum from frame to frame, in dB.
    centroid: Median of the spectral centroid, in Hz.
    percussive: Share of the mel energy in the percussive part, from 0 to 1.
    mode_margin: Correlation with the best major key minus that with the best minor key. Positive
      means major.
  """

  tempo: float
  tempo_strength: float
  flux: float
  centroid: float
  percussive: float
  mode_margin: float


def _key_margin(chroma_12: np.ndarray) -> float:
  def best(profile: np.ndarray) -> float:
    return max(np.corrcoef(np.roll(profile, k), chroma_12)[0, 1] for k in range(12))

  # A flat chroma correlates with nothing: no key is claimed.
  return float(best(_MAJOR) - best(_MINOR)) if chroma_12.std() > 0 else 0.0


def _running_median(rows: np.ndarray) -> np.ndarray:
  """Median over 31 neighbours along the last axis of [rows, columns], mirrored at the ends."""
  half = _MEDIAN // 2
  padded = np.pad(rows, ((0, 0), (half, half)), mode="symmetric")
  # All rows in one: SciPy's filter of one dimension keeps its window sorted and is ten times as
  # fast as its filter of two. The margins keep neighbouring rows apart.
  line = ndimage.median_filter(padded.ravel(), size=_MEDIAN)
  return line.reshape(padded.shape)[:, half:-half]


def percussive_share(mel: np.ndarray) -> float:
  """Share of the energy that stands across the bands and not along time, from 0 to 1.

  Median filters along time and across bands with soft masks (Fitzgerald 2010), as
  `librosa.decompose.hpss` has them with its defaults.

  Args:
    mel: Mel spectrogram of power, float [bands, frames]. On 96 bands: on all 1,025 bins the filters
      would have ten times as much to do.
  """
  magnitude = np.sqrt(mel)
  harmonic = _running_median(magnitude) ** 2
  percussive = _running_median(magnitude.T).T ** 2
  both = harmonic + percussive
  # Where neither filter finds anything, each gets half.
  mask = np.divide(percussive, both, out=np.full_like(both, 0.5), where=both > 0)
  beats, tones = float((mel * mask**2).sum()), float((mel * (1 - mask) ** 2).sum())
  return beats / max(beats + tones, 1e-9)


def _tuning(power: np.ndarray, sample_rate: int) -> float:
  """Deviation from A440 in semitones, by every eighth frame of [bins, frames]; 0 without a tone."""
  pitch, strength = librosa.piptrack(S=power[:, ::_TUNING_EVERY], sr=sample_rate, n_fft=_N_FFT)
  found = pitch > 0
  if not found.any():
    return 0.0
  clear = found & (strength >= np.median(strength[found]))
  return float(librosa.pitch_tuning(pitch[clear], bins_per_octave=12))


def measure(audio: np.ndarray, sample_rate: int, expected_tempo: float = 120.0) -> Descriptors:
  """Measures a mono clip. It should last at least a few seconds.

  Args:
    audio: Waveform, float [samples].
    sample_rate: Sample rate in Hz.
    expected_tempo: Likely tempo in beats per minute. The same beat can be counted at a tempo or at
      twice that tempo; the estimate prefers the one near this value.
  """
  magnitude = np.abs(librosa.stft(audio, n_fft=_N_FFT, hop_length=_HOP))
  power = magnitude**2
  mel = librosa.feature.melspectrogram(S=power, sr=sample_rate, n_mels=_N_MELS)
  envelope = librosa.onset.onset_strength(
    S=librosa.power_to_db(mel), sr=sample_rate, hop_length=_HOP
  )
  tempo = float(
    librosa.feature.tempo(
      onset_envelope=envelope, sr=sample_rate, hop_length=_HOP, start_bpm=expected_tempo
    )[0]
  )
  # The tempo estimator always answers. Only the autocorrelation at its lag tells whether there is a
  # beat at all.
  centred = envelope - envelope.mean()
  correlation = librosa.autocorrelate(centred) / max(float(centred @ centred), 1e-9)
  # The lag of one beat, in frames of the envelope; its neighbours count as well, since a beat is
  # seldom a whole number of frames.
  lag = round(60.0 / max(tempo, 1.0) * sample_rate / _HOP)
  frequencies = librosa.fft_frequencies(sr=sample_rate, n_fft=_N_FFT)
  centroid = frequencies @ magnitude / np.maximum(magnitude.sum(axis=0), np.finfo(np.float32).tiny)
  chroma = librosa.feature.chroma_stft(S=power, sr=sample_rate, tuning=_tuning(power, sample_rate))
  return Descriptors(
    tempo=tempo,
    tempo_strength=float(np.clip(correlation[max(lag - 1, 0) : lag + 2].max(initial=0.0), 0, 1)),
    flux=float(envelope.mean()),
    centroid=float(np.median(centroid)),
    percussive=percussive_share(mel),
    mode_margin=_key_margin(chroma.mean(axis=1)),
  )


@dataclasses.dataclass(frozen=True)
class ClipWords:
  """Words for the measurements of one clip. A word is "" where the measurement is not clear.

  Attributes:
    energy: "calm" or "energetic".
    colour: "dark-toned" or "bright".
    percussion: "with little percussion" or "with strong percussion".
    pulse: "with no clear beat", or "".
    mode: "major" or "minor".
    tempo: Tempo in beats per minute, or 0 where no beat is clear.
  """

  energy: str
  colour: str
  percussion: str
  pulse: str
  mode: str
  tempo: int


def _outside(value: float, limits: tuple[float, float], low: str, high: str) -> str:
  return low if value < limits[0] else high if value > limits[1] else ""


def words(measured: Descriptors) -> ClipWords:
  """Turns measurements into words. What is not clear gets no word."""
  return ClipWords(
    energy=_outside(measured.flux, _BUSY, "calm", "energetic"),
    colour=_outside(measured.centroid, _BRIGHT, "dark-toned", "bright"),
    percussion=_outside(
      measured.percussive, _PERCUSSIVE, "with little percussion", "with strong percussion"
    ),
    pulse="with no clear beat" if measured.tempo_strength < _PULSE[0] else "",
    mode=_outside(measured.mode_margin, _MODE, "minor", "major"),
    tempo=round(measured.tempo) if measured.tempo_strength > _PULSE[1] else 0,
  )
