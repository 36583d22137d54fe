"""The judge of notes: its passes, its file, and the same figures as the agreed procedure."""

import zipfile

import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.evaluation import basic_pitch
from melody_jax.evaluation.basic_pitch import FRAME_RATE, HOP, SAMPLE_RATE, NoteModel, find
from melody_jax.metrics.notes import note_use
from tests.evaluation.onnx_networks import means_over_time


class _Loudness:
  """Stands in for the network: the level of each frame in all pitches."""

  def run(self, outputs, feeds):
    window = feeds[basic_pitch._INPUT][0, :, 0]
    frames = np.abs(np.pad(window, (0, HOP))[: 172 * HOP].reshape(172, HOP)).mean(axis=1)
    return [np.repeat(frames[None, :, None], 88, axis=2)] * len(outputs)


def test_passes_join_without_a_seam():
  model = NoteModel.__new__(NoteModel)
  model._session = _Loudness()
  time = np.arange(5 * SAMPLE_RATE) / SAMPLE_RATE
  audio = np.sin(2 * np.pi * 440 * time) * np.linspace(0.1, 1, len(time))
  frames = model(audio).notes_TxP[:, 0]
  assert len(frames) >= 5 * FRAME_RATE and len(frames) % (172 - 30) == 0
  own = frames[: int(5 * FRAME_RATE)]
  # A steady rise: a seam would be a step, a gap or a repetition.
  assert (np.diff(own[::10]) > 0).all() and frames[-1] == 0.0
  assert own[-1] / own[0] == pytest.approx(10, rel=0.05)


def test_its_file_is_found_or_named(tmp_path, monkeypatch):
  monkeypatch.setattr(basic_pitch.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match="pip install --no-deps basic-pitch"):
    find()
  with pytest.raises(UserError, match="no file"):
    find(tmp_path / "none.onnx")
  folder = tmp_path / basic_pitch._FILE
  folder.parent.mkdir(parents=True)
  folder.write_bytes(b"x")
  assert find(tmp_path) == folder
  with pytest.raises(UserError, match="no intact ONNX file"):
    NoteModel(tmp_path)
  means_over_time(tmp_path / "other.onnx", "a", "b", (4, 5))
  with pytest.raises(UserError, match="takes a and gives b"):
    NoteModel(tmp_path / "other.onnx")
  with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
    wheel.writestr("nothing", "")
  with pytest.raises(UserError, match="no wheel of basic-pitch"):
    NoteModel(tmp_path / "x.whl")


@pytest.fixture(scope="module")
def model():
  try:
    return NoteModel()
  except UserError as error:
    pytest.skip(str(error))


def _tones(seconds=6):
  """Chords of plucked tones, each held for half a second."""
  audio = np.zeros(seconds * SAMPLE_RATE)
  time = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
  for i in range(2 * seconds):
    for midi in ((60, 64, 67), (57, 60, 64), (53, 57, 60), (55, 59, 62))[i % 4]:
      hz = 440 * 2 ** ((midi - 69) / 12)
      tone = sum(np.sin(2 * np.pi * hz * k * time) / k for k in (1, 2, 3)) * np.exp(-2 * time)
      audio[i * len(time) : (i + 1) * len(time)] += 0.1 * tone
  return audio.astype(np.float32)


def _procedure(session, x):
  """The first figures' procedure, written down once more: (held notes a second, share, top)."""
  x = x / (np.sqrt((x**2).mean()) + 1e-9) * 0.1
  window, over = 22050 * 2 - 256, 30 * 256 // 2
  padded, out = np.pad(x, (over, window)), []
  for a in range(0, len(padded) - window, window - 2 * over):
    results = session.run(None, {"serving_default_input_2:0": padded[None, a : a + window, None]})
    out.append([r[0][15:-15] for r in results if r.shape[-1] == 88])
  first, second = (np.concatenate([o[i] for o in out]) for i in (0, 1))
  frame = first if first.mean() > second.mean() else second
  need, on, notes = round(0.25 * 22050 / 256), frame > 0.3, 0
  for k in range(88):
    d = np.diff(np.concatenate([[0], on[:, k].astype(int), [0]]))
    notes += int(((np.where(d == -1)[0] - np.where(d == 1)[0]) >= need).sum())
  return notes / (len(x) / 22050), float(on.any(1).mean()), float(frame.max(1).mean())


def test_agrees_with_the_first_procedure(model):
  rng = np.random.default_rng(0)
  noise = (rng.normal(size=3 * SAMPLE_RATE) * 0.1).astype(np.float32)
  for audio, is_notes in ((_tones(), True), (noise, False)):
    seconds, posteriors = len(audio) / SAMPLE_RATE, model(audio)
    assert (posteriors.denser_TxP is posteriors.notes_TxP) == is_notes
    use = note_use(posteriors.denser_TxP, seconds, FRAME_RATE)
    found = (use.held_notes_per_second, use.frames_with_note, use.top_posterior)
    assert found == pytest.approx(_procedure(model._session, audio), abs=1e-6)


def test_a_held_tone_is_a_note_to_its_end_and_an_onset_at_its_start(model):
  time = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
  tone = sum(np.sin(2 * np.pi * 440 * k * time) / k for k in (1, 2, 3)) * (time > 1)
  posteriors = model(tone.astype(np.float32))
  held = slice(round(1.5 * FRAME_RATE), round(3.5 * FRAME_RATE))
  a4 = 69 - 21
  assert posteriors.notes_TxP[held, a4].min() > 0.5 > posteriors.onsets_TxP[held, a4].max()


def test_hears_chords_and_no_notes_in_noise(model):
  chords = note_use(model(_tones()).notes_TxP, 6.0, FRAME_RATE)
  noise = model(np.random.default_rng(0).normal(size=6 * SAMPLE_RATE).astype(np.float32))
  assert chords.held_notes_per_second > 2 and chords.frames_with_note_in_clip > 0.9
  # The chords of C major's I, vi, IV and V.
  assert chords.key == "C major" and chords.key_clarity > 0.7
  assert note_use(noise.notes_TxP, 6.0, FRAME_RATE).held_notes_per_second < 0.4
