"""The sampler's modes on a tiny bundle with random weights."""

import dataclasses
import json

import numpy as np
import pytest

from melody_jax import Melody, Prompt, Request, audio_io, bundle
from melody_jax.encoders.windows import overlapping_windows
from melody_jax.errors import UserError
from melody_jax.models.vae import decoder_reach
from tests.configs import load_config

RATE = 24_000
TEXT = "slow bossa nova"


@pytest.fixture(scope="module")
def piece(melody, settings):
  return melody.generate(Request(TEXT, seed=6), settings)


def assert_close(a, b, atol=1e-4):
  assert np.shape(a) == np.shape(b)
  np.testing.assert_allclose(a, b, atol=atol)


def test_length_rate_and_passes(melody, settings, piece):
  assert piece.audio.shape == (240_000,) and piece.audio.dtype == np.float32
  assert np.isfinite(piece.audio).all() and np.std(piece.audio) > 0
  assert piece.nfe == 250 + 2  # LM passes and DPD steps: 25 a second, and the steps
  short = melody.generate(Request(TEXT, seed=6, seconds=1.25), settings)
  assert short.audio.shape == (30_000,)
  assert short.compile_seconds == 0  # the same program
  np.testing.assert_array_equal(short.audio, piece.audio[:30_000])


def test_numbers_do_not_compile_again(melody, settings, piece):
  before = piece.audio
  for change in (
    {"steps": 7}, {"schedule": "uniform"}, {"solver": "ab2", "steps": 3}, {"guidance_scale": 4.0},
    {"guidance_rescale": 0.7},
  ):  # fmt: skip
    music = melody.generate(Request(TEXT, seed=6), dataclasses.replace(settings, **change))
    assert music.compile_seconds == 0
    assert np.abs(music.audio - before).max() > 1e-6, change
    assert music.nfe == 250 + change.get("steps", 2)


def test_seed_style_and_mixture_steer(melody, settings, piece):
  def differs(request):
    return np.abs(melody.generate(request, settings).audio - piece.audio).max() > 1e-3

  assert differs(Request(TEXT, seed=7))
  assert differs(Request("fast techno", seed=6))
  same = Request([Prompt(TEXT, weight=2.0), Prompt("fast techno", weight=0.0)], seed=6)
  assert_close(melody.generate(same, settings).audio, piece.audio)


def test_a_mixture_is_the_weighted_mean_of_unit_vectors(melody, clip):
  styles = melody.styles
  a, b = (styles.embed((Prompt(t),)) for t in (TEXT, "fast techno"))
  c = styles.embed((Prompt(audio=clip),))
  mixed = styles.embed(
    (Prompt(TEXT, weight=0.5), Prompt("fast techno", weight=2.0), Prompt(audio=clip, weight=-0.3))
  )
  want = 0.5 * a + 2.0 * b - 0.3 * c
  assert_close(mixed, want / np.linalg.norm(want), 1e-5)
  assert_close(np.linalg.norm(mixed), 1.0, 1e-5)
  tokens = styles.tokens(mixed)
  assert tokens.shape == (12,) and tokens.min() >= 0 and tokens.max() < 8
  with pytest.raises(UserError, match="cancel"):
    styles.embed((Prompt(TEXT), Prompt(TEXT, weight=-1.0)))


def test_prompts_over_time_change_the_music_when_they_come(melody, settings):
  still = melody.generate(Request(TEXT, seed=6, seconds=16), settings)
  moving = Request(timeline=[(0.0, TEXT), (11.25, TEXT), (11.3, "fast techno")], seed=6, seconds=16)
  moved = melody.generate(moving, settings)
  assert_close(moved.audio[: 9 * RATE], still.audio[: 9 * RATE])
  assert np.abs(moved.audio[13 * RATE :] - still.audio[13 * RATE :]).max() > 1e-3
  assert moved.nfe == still.nfe == 437 + 4 * 2


def test_longer_music_begins_like_shorter_music(melody, settings, piece):
  long = melody.generate(Request(TEXT, seed=6, seconds=16), settings)
  assert long.audio.shape == (16 * RATE,)
  until = round(9.3 * RATE)  # the decoder hears what follows, a little
  assert_close(long.audio[:until], piece.audio[:until])
  assert np.std(long.audio[12 * RATE :]) > 0


def test_an_item_does_not_depend_on_its_batch(melody, settings, piece, clip):
  three = [Request("a", seed=1), Request(TEXT, seed=6), Request("b", seed=2)]
  made = melody.generate(three, settings)
  assert_close(made[1].audio, piece.audio)
  for neighbour in (made[0], made[2]):  # an item that was another's would be seen
    assert np.abs(neighbour.audio - piece.audio).max() > 1e-3
  edited = Request(audio=clip, regions=[(2, 3)], seed=4)
  alone = melody.generate(edited, settings)
  mixed = melody.generate([Request(TEXT, seed=6), edited, Request("c", seconds=13)], settings)
  assert_close(mixed[0].audio, piece.audio)
  assert_close(mixed[1].audio, alone.audio)
  sixteen = [Request(TEXT, seed=s) for s in range(16)]
  assert_close(melody.generate(sixteen, settings)[6].audio, piece.audio)


def test_continuing_begins_with_the_audio_through_the_codec(melody, settings, clip):
  heard = melody.reconstruct(clip).audio
  music = melody.generate(Request(TEXT, audio=clip, seconds=7), settings)
  assert music.audio.shape == (15 * RATE,)
  until = 8 * RATE - decoder_reach(melody.codec.config) * 480
  assert_close(music.audio[:until], heard[:until])
  assert np.std(music.audio[9 * RATE :]) > 0
  other = melody.generate(Request(TEXT, audio=clip, seconds=7, seed=1), settings)
  assert_close(other.audio[:until], heard[:until])
  assert np.abs(other.audio - music.audio).max() > 1e-3
  assert music.nfe == (250 - 200) + 62 + 63 + 3 * 2


@pytest.mark.parametrize("region", [(0.0, 1.5), (3.0, 4.2), (6.9, 8.0)])
def test_inpainting_leaves_the_rest_as_the_codec_has_it(melody, settings, clip, region):
  heard = melody.reconstruct(clip).audio
  made = melody.generate(Request(audio=clip, regions=[region]), settings).audio
  assert made.shape == clip.shape
  reach = decoder_reach(melody.codec.config) * 480
  begin, end = (round(t * RATE) for t in region)
  before, after = slice(0, max(begin - reach, 0)), slice(min(end + reach, len(made)), None)
  assert_close(made[before], heard[before])
  assert_close(made[after], heard[after])
  inside = slice(begin + reach * (begin > 0), end - reach * (end < len(made)))
  assert np.abs(made[inside] - heard[inside]).max() > 1e-3


def test_known_latents_and_tokens_pass_through_unchanged(melody, settings, clip):
  from melody_jax.generation import piece as piece_plan

  request = Request(TEXT, audio=clip, regions=[(3, 4.2)])
  planned = melody.plan(request, settings, lambda message: None)
  latents, known = planned.latents[:500].copy(), planned.known[:500] == 1
  tokens, tokens_known = planned.tokens[:250].copy(), planned.tokens_known[:250].copy()
  made = melody.run(piece_plan.stack([planned.window(melody.networks, 0)]), settings)
  np.testing.assert_array_equal(np.asarray(made.latents)[0][known], latents[known])
  np.testing.assert_array_equal(np.asarray(made.tokens)[0][tokens_known], tokens[tokens_known])
  assert np.abs(np.asarray(made.latents)[0][~known] - latents[~known]).max() > 1e-3


def test_inpainting_in_the_midst_of_a_long_piece(melody, settings, clip):
  long = np.concatenate([clip, clip[::-1], clip])
  heard = melody.reconstruct(long).audio
  music = melody.generate(Request(audio=long, regions=[(11, 12)]), settings)
  begin, end, reach = 11 * RATE, 12 * RATE, decoder_reach(melody.codec.config) * 480
  assert_close(music.audio[: begin - reach], heard[: begin - reach])
  assert_close(music.audio[end + reach :], heard[end + reach :])
  assert np.abs(music.audio[begin:end] - heard[begin:end]).max() > 1e-3
  assert music.nfe == 25 + 2  # the tokens of one second, and one window


def test_variation_moves_away_with_strength(melody, settings, clip, monkeypatch):
  made, run = [], melody.run
  monkeypatch.setattr(melody, "run", lambda *args: made.append(run(*args)) or made[-1])
  frames = len(clip) // melody.codec.config.hop_length
  heard = melody.encode(clip)[:frames]

  def distance(strength):
    music = melody.generate(Request(audio=clip, strength=strength), settings)
    assert music.audio.shape == clip.shape
    # Of latents: what strength moves. The phase of the waveform is found anew each time.
    return np.sqrt(np.mean((np.asarray(made[-1].latents)[0, :frames] - heard) ** 2)), music.nfe

  (least, passes), (more, _), (most, all_passes) = (distance(s) for s in (0.02, 0.3, 1.0))
  assert 0 < least < 0.2 * min(more, most)  # random weights promise no more
  assert passes == 50 + 2  # the audio's tokens stay; what follows its end is drawn for the window
  assert all_passes == 250 + 2


def test_guidance_switches(melody, settings, piece):
  plain = dataclasses.replace(settings, guidance_scale=1.0)
  a = melody.generate(Request(TEXT, seed=6), plain)
  assert a.nfe == 252 and np.abs(a.audio - piece.audio).max() > 1e-4
  near_one = dataclasses.replace(settings, guidance_scale=1.0 + 1e-7)
  assert_close(melody.generate(Request(TEXT, seed=6), near_one).audio, a.audio)
  # Angles before the steps are pi/2 and 0.61 pi/2 here: only the first step is guided.
  partly = dataclasses.replace(settings, guidance_interval=(0.7, 1.0))
  b = melody.generate(Request(TEXT, seed=6), partly)
  assert b.nfe == 252
  assert min(np.abs(b.audio - x.audio).max() for x in (a, piece)) > 1e-5
  everywhere = dataclasses.replace(settings, guidance_interval=(0.0, 0.999999))
  all_but_first = melody.generate(Request(TEXT, seed=6), everywhere)
  assert np.abs(all_but_first.audio - b.audio).max() > 1e-5


def test_the_lm_is_steered_by_negative_prompts_filters_and_the_guard(melody, settings):
  guided = dataclasses.replace(
    settings, lm_guidance_scale=3.0, top_k=12, top_p=0.95, repetition_penalty=0.5
  )
  request = Request(TEXT, seed=6)
  with_null = melody.generate(request, guided)
  negative = dataclasses.replace(request, negative="fast techno")
  away = melody.generate(negative, guided)
  assert away.compile_seconds == 0 and np.abs(away.audio - with_null.audio).max() > 1e-3
  with pytest.raises(UserError, match="lm_guidance_scale above 1"):
    melody.generate(negative, settings)


def test_bfloat16_is_near_float32(melody, settings, piece):
  music = melody.generate(
    Request(TEXT, seed=6, seconds=2), dataclasses.replace(settings, dtype="bfloat16")
  )
  assert music.audio.dtype == np.float32 and np.isfinite(music.audio).all()
  params = melody.params_in("bfloat16")
  assert params["lm"]["head"]["projection"]["kernel"].dtype == "bfloat16"


@pytest.mark.parametrize("seconds", [3.0, 25.3])
def test_codec_in_windows_equals_codec_in_one_piece(melody, seconds):
  n = round(seconds * RATE)
  noise = 0.1 * np.random.default_rng(1).normal(size=n).astype(np.float32)
  made = melody.reconstruct(noise)
  assert made.audio.shape == (n,) and made.nfe == 0
  padded = np.pad(noise, (0, -n % 480))
  whole = np.asarray(melody.codec.decode(melody.codec.encode(padded[None])))[0, :n]
  inside = slice(None, n - RATE)  # at its end a short clip is followed by silence
  assert_close(made.audio[inside], whole[inside])


def test_models_that_do_not_fit_are_refused(tiny_models, tmp_path):
  for path in tiny_models.iterdir():
    (tmp_path / path.name).write_bytes(path.read_bytes())
  codebooks = np.zeros((3, 8, 128), np.float32)
  bundle.update(tmp_path / "mulan.safetensors", {"rvq": {"codebooks": codebooks}}, {})
  with pytest.raises(UserError, match="3 style levels, lm 12"):
    Melody.load(tmp_path)
  (tmp_path / "lm.safetensors").unlink()
  with pytest.raises(UserError, match="no checkpoint at"):
    Melody.load(tmp_path)
  codec = Melody.load(tmp_path, generates=False)
  with pytest.raises(UserError, match="codec alone"):
    codec.generate(Request(TEXT))


def configured(tiny_models, **keys):
  config = load_config("sample")
  config.update(checkpoint=str(tiny_models), steps=2, **keys)
  config.lm.guidance_scale = 1.0  # as in `settings`, whose programs are compiled already
  return config


def test_the_command_writes_audio_picture_and_report(tiny_models, tmp_path):
  from melody_jax.sample import sample

  report = sample(configured(tiny_models, prompt=TEXT, seed=3, out=str(tmp_path / "x.ogg")))
  assert audio_io.probe_seconds(tmp_path / "x.ogg") == pytest.approx(10.0, abs=1e-3)
  assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
  written = json.loads((tmp_path / "x.json").read_text())
  assert written["prompt"] == TEXT and written["seed"] == 3 and written["steps"] == 2
  assert written["nfe"] == report["nfe"] == 252 and written["guidance_scale"] == 1.5
  assert written["checkpoint_sha256"] == bundle.digest(tiny_models)
  for key in ("compile_seconds", "generation_seconds", "real_time_factor", "device", "versions"):
    assert written[key]
  assert len(list(tmp_path.iterdir())) == 3


def test_the_command_in_its_other_modes(loaded, tiny_models, tmp_path, clip):
  from melody_jax.sample import sample

  path = tmp_path / "clip.wav"
  path.write_bytes(audio_io.encode(clip, ".wav"))
  for mode, keys, seconds in (
    ("reconstruct", {}, 8.0),
    ("continue", {"seconds": 2.0}, 10.0),
    ("inpaint", {"regions": "1-2, 7.5-8", "prompt": "a | b", "weights": "1, 0.5"}, 8.0),
    ("vary", {"strength": 0.4, "music_prompt": str(path)}, 8.0),
  ):
    out = tmp_path / f"{mode}.wav"
    report = sample(configured(tiny_models, mode=mode, audio=str(path), out=str(out), **keys))
    assert report["seconds"] == audio_io.probe_seconds(out) == seconds
    assert report["mode"] == mode and out.with_suffix(".json").is_file()


def test_several_pieces_of_successive_seeds(loaded, tiny_models, tmp_path):
  from melody_jax.sample import sample

  keys = {"prompt": TEXT, "seconds": 1.0, "seed": 5, "count": 3, "out": str(tmp_path / "x.wav")}
  sample(configured(tiny_models, **keys))
  assert {p.name for p in tmp_path.iterdir()} == {
    f"x-{seed}.{suffix}" for seed in (5, 6, 7) for suffix in ("wav", "png", "json")
  }
  keys |= {"seed": 6, "count": 1, "out": str(tmp_path / "y.wav")}
  sample(configured(tiny_models, **keys))
  assert_close(audio_io.load(tmp_path / "y.wav"), audio_io.load(tmp_path / "x-6.wav"))


@pytest.mark.parametrize(
  ("n", "length", "context"), [(10, 10, 2), (11, 10, 2), (57, 10, 2), (57, 9, 0)]
)
def test_windows_cover_without_gaps(n, length, context):
  windows = overlapping_windows(n, length, context)
  assert [w.begin for w in windows] == [0] + [w.end for w in windows[:-1]]
  assert windows[-1].end == n
  for w in windows:
    assert w.start >= 0 and w.start + length <= n
    assert w.begin - w.start >= context or w.start == 0
    assert w.start + length - w.end >= context or w.start + length == n
