"""Streams: seams, state, prompts that change, and what the command writes."""

import io
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from melody_jax import Melody, Request, audio_io
from melody_jax.errors import UserError
from melody_jax.generation import stream_writer
from melody_jax.generation.leveller import MAX_STEP_DB, StreamLeveller, soft_limit
from tests.configs import load_config

RATE, CHUNK = 24_000, 60_000
TEXT = "slow bossa nova"


def take(stream, n):
  return np.concatenate([next(stream) for _ in range(n)], axis=-1)


@pytest.fixture(scope="module")
def whole(melody, settings):
  """25 s in one piece: what a stream's first 9 chunks must equal."""
  return melody.generate(Request(TEXT, seed=6, seconds=25), settings).audio[: 9 * CHUNK]


def test_chunks_are_what_a_piece_is_made_of(melody, settings, whole):
  stream = melody.stream(Request(TEXT, seed=6), settings)
  assert stream.chunk_seconds == 2.5 and stream.state is None
  chunk = next(stream)
  assert chunk.shape == (CHUNK,) and chunk.dtype == np.float32
  np.testing.assert_allclose(chunk, whole[:CHUNK], atol=1e-4)
  np.testing.assert_allclose(take(stream, 8), whole[CHUNK:], atol=1e-4)
  # 10 s in the first window, a chunk more for each of chunks 4 to 9.
  assert stream.state.nfe == 250 + 6 * 62 + 3 + 7 * 2


def test_chunks_decoded_apart_equal_latents_decoded_as_one(melody, settings):
  stream = melody.stream(Request(TEXT, seed=6), settings)
  latents, audio = [], []
  for k in range(8):
    audio.append(next(stream))
    if k == 0:
      latents.append(stream.state.latents[0])
      at = int(stream.state.start_frame[0])
    elif stream.state.start_frame[0] > at:
      at = int(stream.state.start_frame[0])
      latents.append(stream.state.latents[0, -125:])
  decoded = np.asarray(melody.codec.decode(np.concatenate(latents)[None]))[0, : 8 * CHUNK]
  np.testing.assert_allclose(np.concatenate(audio), decoded, atol=1e-4)


def test_state_has_a_constant_size(melody, settings):
  stream = melody.stream(Request(TEXT, seed=6), settings)
  next(stream)
  first = jax.tree.map(lambda x: (x.shape, x.dtype), stream.state)
  take(stream, 6)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), stream.state) == first
  compiled = melody.programs.compile_seconds
  take(stream, 2)
  assert melody.programs.compile_seconds == compiled  # every chunk is the one program


def test_restored_streams_go_on_exactly(melody, tiny_models, settings, tmp_path, whole):
  stream = melody.stream(Request(TEXT, seed=6), settings)
  take(stream, 3)
  stream.save(tmp_path / "x.state")
  rest = take(stream, 4)
  np.testing.assert_array_equal(take(melody.resume(tmp_path / "x.state"), 4), rest)
  # And in another process, which a fresh Melody stands for.
  again = Melody.load(tiny_models)
  again.programs = melody.programs
  np.testing.assert_array_equal(take(again.resume(tmp_path / "x.state"), 4), rest)
  np.testing.assert_allclose(rest, whole[3 * CHUNK : 7 * CHUNK], atol=1e-4)


def test_branches_share_the_past_only(melody, settings):
  stream = melody.stream(Request(TEXT, seed=6), settings)
  with pytest.raises(UserError, match="first chunk"):
    stream.branch()
  take(stream, 2)
  twin, other = stream.branch(), stream.branch(seeds=9)
  rest = take(stream, 4)
  np.testing.assert_array_equal(take(twin, 4), rest)
  changed = take(other, 4)
  np.testing.assert_allclose(changed[:CHUNK], rest[:CHUNK], atol=1e-4)  # made before the branch
  assert np.abs(changed[2 * CHUNK :] - rest[2 * CHUNK :]).max() > 1e-3
  with pytest.raises(UserError, match="2 seeds for a stream of 1 items"):
    stream.branch(seeds=[1, 2])


def test_prompts_change_between_chunks(melody, settings):
  stream = melody.stream(Request(TEXT, seed=6), settings)
  take(stream, 3)
  steered = stream.branch()
  steered.steer("fast techno")
  plain, changed = take(stream, 4), take(steered, 4)
  np.testing.assert_allclose(changed[: CHUNK - 10_000], plain[: CHUNK - 10_000], atol=1e-4)
  assert np.abs(changed[CHUNK:] - plain[CHUNK:]).max() > 1e-3
  early = melody.stream(Request("fast techno", seed=6), settings)
  early.steer(TEXT)
  np.testing.assert_array_equal(next(early), next(melody.stream(Request(TEXT, seed=6), settings)))


def test_a_style_over_time_travels_with_the_state(melody, settings, tmp_path):
  request = Request(timeline=[(0, TEXT), (30, "fast techno")], seed=6)
  stream = melody.stream(request, settings)
  take(stream, 4)
  stream.save(tmp_path / "x.state")
  rest = take(stream, 2)
  np.testing.assert_array_equal(take(melody.resume(tmp_path / "x.state"), 2), rest)
  piece = melody.generate(Request(timeline=request.timeline, seed=6, seconds=17.5), settings)
  np.testing.assert_allclose(rest, piece.audio[4 * CHUNK : 6 * CHUNK], atol=1e-4)


def test_a_batch_of_streams(melody, settings, clip, whole):
  requests = [Request("a", seed=1), Request(TEXT, seed=6), Request(TEXT, audio=clip, seed=3)]
  stream = melody.stream(requests, settings)
  audio = take(stream, 5)
  assert audio.shape == (3, 5 * CHUNK)
  np.testing.assert_allclose(audio[1], whole[: 5 * CHUNK], atol=1e-4)
  # The third goes on right after its audio, as a piece does.
  piece = melody.generate(Request(TEXT, audio=clip, seed=3, seconds=14.5), settings).audio
  np.testing.assert_allclose(
    audio[2][: 5 * CHUNK - 12_000], piece[len(clip) :][: 5 * CHUNK - 12_000], atol=1e-4
  )
  with pytest.raises(UserError, match="1 prompts for a stream of 3"):
    stream.steer(["a"])


def test_bad_streams(melody, settings, clip, tmp_path):
  with pytest.raises(UserError, match="cannot inpaint"):
    melody.stream(Request(audio=clip, regions=[(1, 2)]), settings)
  with pytest.raises(UserError, match="first chunk"):
    melody.stream(Request(TEXT), settings).save(tmp_path / "x")
  with pytest.raises(UserError, match="no saved stream"):
    melody.resume(tmp_path / "none")
  (tmp_path / "bad").write_bytes(b"abc")
  with pytest.raises(UserError, match="damaged"):
    melody.resume(tmp_path / "bad")
  stream = melody.stream(Request(TEXT), settings)
  next(stream)
  stream.save(tmp_path / "x")
  assert [p.name for p in sorted(tmp_path.iterdir())] == ["bad", "x"]
  digest, melody.digest = melody.digest, "another"
  try:
    with pytest.raises(UserError, match="another checkpoint"):
      melody.resume(tmp_path / "x")
  finally:
    melody.digest = digest


def test_peaks_are_bent_under_full_scale():
  x = np.linspace(-3, 3, 1001).astype(np.float32)
  y = soft_limit(x)
  assert np.abs(y).max() <= audio_io.PEAK_LIMIT and (np.diff(y) >= 0).all()
  np.testing.assert_array_equal(y[np.abs(x) < 0.9], x[np.abs(x) < 0.9])


def test_a_stream_that_swells_is_written_at_one_loudness():
  chunk, rng = 5 * RATE // 2, np.random.default_rng(1)
  swell_db = np.repeat([0] * 4 + [4, 8, 12] + [16] * 6 + [8, 0] + [-8] * 12, chunk)
  raw = (0.02 * 10 ** (swell_db / 20) * rng.normal(size=swell_db.size)).astype(np.float32)
  level, written = StreamLeveller(RATE, -20.0), []
  for end in range(chunk, raw.size + 1, chunk):
    written.append(
      level(raw[end - chunk : end], raw[max(end - 4 * chunk, 0) : max(end, 4 * chunk)])
    )
  written = np.concatenate(written)
  spans = [(0, 4), (10, 13), (24, 27)]  # chunks, once the window is through each change
  heard = [audio_io.loudness(written[a * chunk : b * chunk], RATE) for a, b in spans]
  np.testing.assert_allclose(heard, -20.0, atol=1.0)
  # Between neighbouring samples the gain hardly moves, at chunks' borders too.
  gain_db = 20 * np.log10(np.abs(written / raw)[np.abs(written) < 0.9])
  assert np.abs(np.diff(gain_db)).max() < 2 * MAX_STEP_DB / chunk + 1e-4
  # Silence is not turned up.
  assert not level(0 * raw[:chunk], 0 * raw[: 4 * chunk]).any()
  assert StreamLeveller(RATE, None)(raw[:chunk], raw[: 4 * chunk]) == pytest.approx(raw[:chunk])


def configured(tiny_models, **keys):
  config = load_config("sample")
  config.update(mode="stream", checkpoint=str(tiny_models), steps=2, prompt=TEXT, seed=6)
  config.update(**keys)
  config.lm.guidance_scale = 1.0  # as in `settings`, whose programs are compiled already
  return config


def test_the_command_streams_to_a_file_and_goes_on(loaded, tiny_models, tmp_path):
  from melody_jax.sample import sample

  config = configured(tiny_models, out=str(tmp_path / "x.wav"), seconds=12.0)
  config.stream.save = str(tmp_path / "x.state")
  report = sample(config)
  audio = audio_io.load(tmp_path / "x.wav")
  assert len(audio) == 12 * RATE == report["seconds"] * RATE
  written = json.loads((tmp_path / "x.json").read_text())
  for key in ("first_chunk_seconds", "slowest_later_chunk_seconds", "chunk_seconds", "nfe"):
    assert written[key] > 0
  assert {p.name for p in tmp_path.iterdir()} == {"x.wav", "x.json", "x.state"}
  config.stream.update(save="", resume=str(tmp_path / "x.state"))
  config.update(prompt="", out=str(tmp_path / "y.flac"), seconds=2.5)
  sample(config)
  assert len(audio_io.load(tmp_path / "y.flac")) == CHUNK


def test_the_command_writes_pcm_until_its_reader_leaves(tiny_models, repository):
  command = [
    sys.executable, "-m", "melody_jax.sample", "--config=configs/sample.py", "--config.mode=stream",
    f"--config.checkpoint={tiny_models}", "--config.prompt=" + TEXT, "--config.steps=2",
    "--config.seed=6", "--config.out=-", "--config.seconds=0", "--config.lm.guidance_scale=1",
  ]  # fmt: skip
  with subprocess.Popen(
    command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE
  ) as process:
    pcm = process.stdout.read(2 * CHUNK * 2)
    process.stdout.close()
    errors = process.stderr.read().decode()
    assert process.wait(120) == 0, errors
  samples = np.frombuffer(pcm, "<i2")
  assert len(samples) == 2 * CHUNK and np.std(samples) > 100
  assert "Traceback" not in errors and "the stream ends here" in errors


def test_an_interrupted_file_is_whole(loaded, tiny_models, tmp_path, monkeypatch):
  from melody_jax.sample import sample

  write = stream_writer.FileSink.write

  def interrupted(self, audio):
    write(self, audio)
    raise KeyboardInterrupt

  monkeypatch.setattr(stream_writer.FileSink, "write", interrupted)
  report = sample(configured(tiny_models, out=str(tmp_path / "x.wav"), seconds=0.0))
  assert report["seconds"] == 2.5 and len(audio_io.load(tmp_path / "x.wav")) == CHUNK
  assert {p.name for p in tmp_path.iterdir()} == {"x.wav", "x.json"}


def test_nothing_is_left_where_nothing_was_made(loaded, tiny_models, tmp_path, monkeypatch):
  from melody_jax.generation.stream import Stream
  from melody_jax.sample import sample

  monkeypatch.setattr(Stream, "__next__", lambda self: np.full(CHUNK, np.nan, np.float32))
  with pytest.raises(UserError, match="not finite"):
    sample(configured(tiny_models, out=str(tmp_path / "x.wav")))
  assert not list(tmp_path.iterdir())


def test_pcm_is_little_endian_and_clipped():
  from melody_jax.generation.stream_writer import PcmSink

  buffer = io.BytesIO()
  PcmSink(buffer).write(np.asarray([0.0, 1.0, -2.0, 0.5], np.float32))
  np.testing.assert_array_equal(np.frombuffer(buffer.getvalue(), "<i2"), [0, 32767, -32767, 16383])
