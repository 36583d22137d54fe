"""Rendered corpus: composition, MIDI facts, captions; the real renderers where installed."""

import collections
import os
import shutil

import numpy as np
import pytest

from data.rendered import corpus as rendered
from data.rendered.composition import CHORD_VOICES, KEYS, LEAD_VOICES, compose
from data.rendered.grooves import Groove
from data.rendered.midi import PROGRAMS, MidiFacts, read_facts
from data.rendered.styles import STYLES
from data.rendered.synthesis import HELD_OUT_SOUNDFONT, render, require_program, run_mma
from data.rendered.voices import VOICE_PROGRAMS, listener_name
from data.rendered.words import describe_piece
from data.tracks import SAMPLE_RATE, Ledger, QuarantineError, examples
from melody_jax.errors import UserError

BOSSA = Groove(
  "BossaNova", "bossanova", "Standard beat.", 4, 4, "4/4", ("CHORD",), frozenset({"jazzguitar"})
)


def variable_length(n):
  return bytes([n]) if n < 128 else bytes([n >> 7 | 0x80, n & 0x7F])


def midi_file(path):
  """Two bars: flute notes on channel 0 (running status), drums, 90 bpm."""
  notes = bytes([0, 0xC0, 73]) + bytes([0, 0xFF, 0x51, 3]) + round(60e6 / 90).to_bytes(3, "big")
  for _ in range(10):
    notes += bytes([0, 0x90, 60, 90]) + variable_length(240) + bytes([60, 0])
    notes += bytes([0, 0x99, 36, 100, 0, 0x89, 36, 0])
  notes += bytes([0, 0xC1, 0, 0, 0x91, 64, 80, 0, 64, 0])  # one piano note
  notes += bytes([0, 0xFF, 0x2F, 0])
  header = b"MThd" + (6).to_bytes(4, "big") + bytes([0, 0, 0, 1, 0, 240])
  path.write_bytes(header + b"MTrk" + len(notes).to_bytes(4, "big") + notes)


def test_midi_facts(tmp_path):
  midi_file(tmp_path / "x.mid")
  facts = read_facts(tmp_path / "x.mid")
  assert facts.instruments == ("flute", "piano") and facts.programs == (73, 0)
  assert facts.drums and abs(facts.tempo - 90) < 0.01
  assert abs(facts.seconds - 10 * 60 / 90) < 0.01
  (tmp_path / "y.mid").write_bytes(b"not MIDI at all")
  with pytest.raises(ValueError, match="not a MIDI file"):
    read_facts(tmp_path / "y.mid")


def test_tables_agree():
  assert len(PROGRAMS) == 128 and len(STYLES) == 123
  assert {*CHORD_VOICES, *LEAD_VOICES} <= set(VOICE_PROGRAMS)
  assert listener_name("NylonGuitar") == "nylon guitar" and listener_name("") == ""
  assert set(rendered.HELD_OUT_STYLES) <= set(STYLES) and len(rendered.HELD_OUT_STYLES) == 12
  assert all(style.tempo[0] < style.tempo[1] for style in STYLES.values())


def beats_of(melody):
  lengths = {"2": 2, "4": 1, "8": 0.5}
  return sum(lengths[note[0]] for note in melody.strip("{}").split(";") if note)


@pytest.mark.parametrize("seed", range(8))
def test_compositions_are_repeatable_and_fill_their_bars(seed):
  piece = compose(f"p{seed}", BOSSA, "NylonGuitar", "Flute")
  assert piece == compose(f"p{seed}", BOSSA, "NylonGuitar", "Flute")
  assert piece != compose(f"q{seed}", BOSSA, "NylonGuitar", "Flute")
  assert "CHORD Voice NylonGuitar" in piece.score and piece.key in KEYS
  low, high = STYLES["bossanova"].tempo
  assert low <= piece.tempo <= high and f"Tempo {piece.tempo}\n" in piece.score
  bars = [line for line in piece.score.splitlines() if line[0].isdigit()]
  assert 25 < len(bars) * 4 * 60 / piece.tempo <= 29
  melodies = [line.split(" ", 2)[2] for line in bars if "{" in line]
  assert melodies and all(beats_of(melody) == 4 for melody in melodies)


def test_felt_tempo_is_not_what_mma_counts_in_compound_time():
  groove = Groove("68Swing", "68swing", "", 6, 2, "6/8", (), frozenset())
  piece = compose("x", groove)
  assert f"Tempo {3 * piece.tempo}\n" in piece.score and piece.metre == "6/8"


def test_captions_state_the_facts():
  midi = MidiFacts(("nylon guitar", "flute", "double bass"), (24, 73, 32), True, 84.0, 28.0)
  seen = collections.Counter()
  for seed in range(20):
    rng = np.random.default_rng(seed)
    style = STYLES["bossanova"]
    described = describe_piece(
      rng, style.name, style.tags, midi, 84, "flute", "Eb", "minor", "4/4", "Light brushes."
    )
    text = " | ".join(described.captions)
    assert (
      "bossa nova" in text.lower()
      and "E flat minor" in text
      and "84 bpm" in text
      and "4/4 time" in text
    )
    assert "flute" in text and "piano" not in text and "bright" not in text
    assert {"nylon guitar", "flute", "slow", "drums", "minor key"} <= set(described.tags)
    assert len(set(described.captions)) == len(described.captions) >= 5
    seen.update(described.captions)
  assert len(seen) > 30, "captions vary"


def test_missing_program_is_one_clear_line():
  with pytest.raises(
    UserError, match="no-such-program is not installed: apt-get install the-package"
  ):
    require_program("no-such-program", "the-package")


@pytest.mark.parametrize(("script", "message"), [
    ("exit 1", "does not work here: status 1"), ("exit 0", "does not work here: status 0"),
    ("kill -9 $$", "was killed by signal 9"),
])  # fmt: skip
@pytest.mark.parametrize("program", ["mma", "fluidsynth"])
def test_a_program_that_fails_at_everything_blames_no_piece(
  tmp_path, monkeypatch, program, script, message
):
  (tmp_path / program).write_text(f"#!/bin/sh\n{script}\n")
  (tmp_path / program).chmod(0o755)
  monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
  midi_file(tmp_path / "x.mid")
  with pytest.raises(UserError, match=f"{program} {message}"):
    if program == "mma":
      run_mma(tmp_path / "x.mma", tmp_path / "y.mid")
    else:
      render(tmp_path / "x.mid", tmp_path / "x.wav", tmp_path / "x.sf2")


@pytest.mark.skipif(not shutil.which("mma"), reason="needs mma")
def test_a_score_that_mma_rejects_is_the_scores_fault(tmp_path):
  (tmp_path / "x.mma").write_text("NoSuchCommand 3\n")
  with pytest.raises(QuarantineError, match="mma: "):
    run_mma(tmp_path / "x.mma", tmp_path / "x.mid")


@pytest.mark.skipif(
  not (shutil.which("mma") and shutil.which("fluidsynth")), reason="needs mma and fluidsynth"
)
def test_a_held_out_pair_renders(tmp_path, monkeypatch):
  from data.rendered.grooves import LIBRARY, _library_file
  from data.rendered.synthesis import soundfont

  try:
    soundfont(*HELD_OUT_SOUNDFONT)
  except UserError as error:
    pytest.skip(str(error))
  monkeypatch.setattr(rendered, "catalogue", lambda: {"hymn": _library_file(LIBRARY / "hymn.mma")})
  monkeypatch.setattr(rendered, "TRAIN_SOUNDFONT", HELD_OUT_SOUNDFONT)  # the small one loads faster
  midi_file(tmp_path / "x.mid")
  corpus = rendered.RenderedCorpus({"a/x.mid": tmp_path / "x.mid"}, per_style=1)
  tracks = corpus.tracks()
  assert {t.split for t in tracks} >= {"train", "validation", "test"}
  ledger = Ledger()
  (track,) = (t for t in tracks if t.split == "train" and t.path is None)
  ((_, record, pcm),) = examples(corpus, [track], ledger)
  assert not ledger.quarantined and 24 < len(pcm) / SAMPLE_RATE <= 30
  assert "hymn" in record["captions"][0].lower() and record["held_out"] == []
  assert record["instruments"] and abs(int(pcm.max())) > 1000


def test_so_many_pieces_that_the_hours_come_out(monkeypatch):
  monkeypatch.setattr(rendered, "catalogue", lambda: {"bossanova": (BOSSA,), "calypso": (BOSSA,)})
  corpus = rendered.RenderedCorpus({}, rendered.pieces_for(2))
  counts = [n for split, _, n in corpus._counts("bossanova") if split == "train"]
  assert counts == [241]  # of half a minute each; calypso is for testing alone


def test_a_texture_gets_its_share_of_the_hours(monkeypatch):
  styles = {"bossanova": (BOSSA,), "texture-harp": (BOSSA,)}
  monkeypatch.setattr(rendered, "catalogue", lambda: styles)
  corpus = rendered.RenderedCorpus({}, rendered.pieces_for(2, 9), 9)
  harp, bossa = (
    sum(n for split, _, n in corpus._counts(style) if split == "train")
    for style in ("texture-harp", "bossanova")
  )
  assert bossa == 25 and harp == 9 * bossa  # 250 halves of a minute are over two hours


def test_voice_of_a_held_out_pair_is_foreign_to_the_style(monkeypatch):
  monkeypatch.setattr(rendered, "catalogue", lambda: {"bossanova": (BOSSA,)})
  voice = rendered.held_out_voice("bossanova")
  assert voice in CHORD_VOICES and voice != "JazzGuitar"
  assert voice == rendered.held_out_voice("bossanova")
