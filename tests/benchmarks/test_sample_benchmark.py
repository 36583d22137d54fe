"""The sampling benchmark: passes are counted by loops, floors follow from sizes, files get written.

No test looks at a time.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import floor, generator, measure, report, sample, stages
from benchmarks.baselines import cascade, musicgen
from melody_jax.errors import UserError
from melody_jax.generation.token_sampler import Greedy
from melody_jax.models import lm

STEPS = 20


def fixed_rates():
  """A device whose rates nobody measures: no test depends on a clock."""
  return floor.Device(lambda dtype: 1e9, lambda size: 1e9)


def thin_configs():
  """The tiny preset, thinner still: loops stay whole, what they call is nearly nothing."""
  configs = generator.preset_configs("tiny")
  thin = {
    "lm": dict(n_layers=1, width=8, n_heads=2, mlp_width=8),
    "dpd": dict(n_blocks=1, width=8, n_heads=2, ffn_width=8, sru_width=4, film_width=8),
  }
  return {n: dataclasses.replace(c, **thin.get(n, {})) for n, c in configs.items()}


@functools.cache
def thin():
  return generator.random_generator(thin_configs())


@functools.cache
def measured(seconds):
  """Rows of MeLoDy and of the cascade."""
  with pytest.MonkeyPatch.context() as patch:
    # One compiled decoding loop a window instead of several: this counts passes, not caches.
    patch.setattr(cascade, "CACHE_STEP", 4096)
    bench = measure.Bench(thin(), fixed_rates(), measure.BenchSettings(repeats=1))
    return bench.measure(seconds, 1, STEPS), bench.measure_cascade(seconds, 1)


@pytest.mark.parametrize(
  "seconds,lm_passes,dpd_passes,cascade_passes",
  # Past 10 s the DPD denoises a window for every 2.5 s: 1 + 8 of them make 30 s.
  [(10, 250, 20, 6250), (30, 750, 9 * 20, 18750)],
)
def test_counted_passes(seconds, lm_passes, dpd_passes, cascade_passes):
  ours, theirs = measured(seconds)
  assert ours["seconds"] == theirs["seconds"] == seconds
  assert ours["stages"]["lm"]["passes"] == lm_passes
  assert ours["stages"]["dpd"]["passes"] == dpd_passes
  assert ours["nfe"] == lm_passes + dpd_passes
  assert theirs["nfe"] == cascade_passes
  by_stage = {name: row["passes"] for name, row in theirs["stages"].items()}
  assert by_stage == {"semantic": 25 * seconds, "coarse": 200 * seconds, "fine": 400 * seconds}


def test_fewer_passes_than_the_cascade():
  ours, theirs = measured(10)
  (c,) = report.comparisons({"melody": [ours], "cascade": [theirs]})
  assert (c["nfe"], c["cascade_nfe"]) == (270, 6250)
  assert f"{100 * c['fewer']:.1f}" == f"{100 * c['formula_fewer']:.1f}" == "95.7"
  ratio = theirs["warm_seconds"] / ours["warm_seconds"]
  assert c["wall_time_ratio"] == pytest.approx(ratio)


def dense_sizes(config: lm.LMConfig) -> int:
  """Weights that a token is multiplied with."""
  return config.n_layers * (4 * config.width**2 + 3 * config.width * config.mlp_width)


def test_lm_floor_follows_from_sizes():
  g = thin()
  c, batch, capacity = g.lm.config, 3, 77
  step = floor.decode_pass(g.lm, g.params["lm"], batch, capacity, count=5)
  head = c.width * c.semantic_vocab
  attention = 2 * c.n_layers * c.width * capacity
  assert step.flops == 2 * batch * (dense_sizes(c) + head + attention)
  assert step.cache_bytes == 4 * 2 * c.n_layers * batch * c.width * capacity
  norms = (2 * c.n_layers + 1) * c.width
  rows = batch * c.width
  # The map of style tokens (`fixed_styles`) is not among them: a new token has no use for it.
  assert step.weight_bytes == 4 * (dense_sizes(c) + head + norms + rows)


def test_floor_takes_the_slower_of_compute_and_memory():
  device = floor.Device(lambda dtype: 100.0, lambda size: 10.0)
  bound_by_compute = floor.Pass(2, flops=400.0, weight_bytes=5.0, cache_bytes=5.0)
  bound_by_memory = floor.Pass(3, flops=100.0, weight_bytes=40.0, cache_bytes=20.0)
  f = device.floor([bound_by_compute, bound_by_memory], "float32")
  assert (f.passes, f.flops, f.weight_bytes, f.cache_bytes) == (5, 1100.0, 130.0, 70.0)
  assert (f.compute_seconds, f.memory_seconds) == (11.0, 20.0)
  assert f.seconds == 2 * 4.0 + 3 * 6.0


def test_floors_grow_with_batch_steps_and_length():
  bench = measure.Bench(thin(), fixed_rates(), measure.BenchSettings())
  base = {stage: bench.floor_of(stage, 10, 1, 5) for stage in measure.STAGES}
  assert all(f.flops > 0 and f.seconds > 0 and f.weight_bytes > 0 for f in base.values())
  for stage, f in base.items():
    batched = bench.floor_of(stage, 10, 4, 5)
    assert batched.flops == pytest.approx(4 * f.flops)
    assert batched.passes == f.passes
  assert bench.floor_of("dpd", 10, 1, 20).flops == 4 * base["dpd"].flops
  assert bench.floor_of("dpd", 30, 1, 5).flops == 9 * base["dpd"].flops


def test_cascade_decoding_equals_reading_everything_again():
  """Greedy tokens with growing caches and two windows equal those of one pass a token."""
  stage = dataclasses.replace(cascade.COARSE, window=8, hop=2)
  config = dataclasses.replace(thin().lm.config, style_vocab=16, semantic_vocab=16)
  model, params = stage.model_of(config), cascade.init(stage, config, jax.random.key(1))
  frames, n_levels, rng = 10, stage.levels, np.random.default_rng(0)
  style = jnp.asarray(rng.integers(0, 16, (2, cascade.STYLE_TOKENS)))
  semantic = jnp.asarray(rng.integers(0, 16, (2, frames // 2)))
  keys = jax.random.split(jax.random.key(0), 2)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(cascade, "CACHE_STEP", 20)
    run = jax.jit(cascade.program(stage, model, frames, Greedy()))
    tokens, passes = run(params, keys, style, semantic)
  assert passes == frames * n_levels
  assert len(np.unique(np.asarray(tokens))) > 4

  rows, own = config.style_vocab + 1, cascade.STYLE_TOKENS + 1
  window = cascade.STYLE_TOKENS + stage.window // 2 + stage.window * n_levels

  @jax.jit
  def predict(ids, length, level):
    return lm.prefill(model, cascade._with_head(params, level), ids, length, window)[0]

  for j in range(frames * n_levels):
    start = 0 if j < stage.window * n_levels else stage.hop
    condition = semantic[:, start // 2 : (start + stage.window) // 2] + 12 * rows
    own_rows = (own + np.arange(j - start * n_levels) % n_levels) * rows
    own_part = tokens[:, start * n_levels : j] + own_rows[None]
    ids = jnp.concatenate([style + np.arange(12)[None] * rows, condition, own_part], axis=1)
    length = ids.shape[1]
    logits = predict(jnp.pad(ids, ((0, 0), (0, window - length))), length, j % n_levels)
    np.testing.assert_array_equal(jnp.argmax(logits, axis=-1), tokens[:, j])


def test_paper_size_cascade_has_the_lm_body():
  """Shapes only: every stage has the layers of the semantic LM, and 1,024 logits a position."""
  config = generator.preset_configs("paper")["lm"]
  for stage in (cascade.COARSE, cascade.FINE):
    model = stage.model_of(config)
    params = jax.eval_shape(lambda key, s=stage: cascade.init(s, config, key), jax.random.key(0))
    layers = sum(x.size for x in jax.tree.leaves(params["layers"]))
    norms = 2 * config.n_layers * config.width
    assert layers == dense_sizes(config) + norms
    assert params["head"]["projection"]["kernel"].shape == (stage.levels, config.width, 1024)
    assert model.config.semantic_offset == (model.config.style_levels) * 1025


def test_pieces_cover_the_music():
  g = thin()
  for seconds in (1, 9.7, 10, 12.5, 30, 61):
    piece = stages.PieceLayout.of(g, seconds)
    asked = min(seconds, piece.n_tokens / 25)
    assert piece.n_tokens >= round(25 * asked)
    assert piece.frame_starts[-1] + piece.window_frames == piece.n_frames
    kept = piece.decoder_windows
    assert kept[0].begin == 0 and kept[-1].end == piece.n_frames
    assert piece.n_frames == pytest.approx(piece.n_tokens * 2, abs=1)


def test_command_prints_the_floor_first_and_writes(tmp_path, capsys, monkeypatch):
  # The programs of `measured`, so that the compilation cache has them.
  monkeypatch.setattr(sample, "load_generator", lambda *_: thin())
  monkeypatch.setattr(cascade, "CACHE_STEP", 4096)

  def missing(platform):
    raise musicgen.Unavailable("torch is not installed: pip install -e '.[parity]'")

  monkeypatch.setattr(musicgen, "choose_device", missing)
  arguments = ["--preset=tiny", "--batches=1", f"--steps={STEPS}", "--seconds=10", "--repeats=1"]
  arguments = sample.parser().parse_args([*arguments, f"--out={tmp_path / 'run'}"])
  result = sample.run(arguments, fixed_rates(), musicgen.SMALL)

  printed = capsys.readouterr().out
  assert printed.index("Floor") < printed.index("Measured") < printed.index("cascade")
  page = (tmp_path / "run" / "sample.md").read_text()
  assert "MusicGen was not run: torch is not installed" in page
  assert "| MeLoDy | 10.0 | 1 | 20 | 270 |" in page
  assert "| 10.0 | 1 | 20 | 270 | 6250 | 95.7 % | 95.7 % | 95.7 % |" in page
  saved = json.loads((tmp_path / "run" / "sample.json").read_text())
  assert saved["comparisons"] == json.loads(json.dumps(report.comparisons(result)))
  assert {"device", "versions", "matmul_rates", "bandwidths"} <= saved.keys()
  assert (tmp_path / "run" / "sample.png").stat().st_size > 1000


def test_memory_that_is_too_small_is_a_row_and_other_errors_are_raised():
  def fail(error):
    raise error

  place = {"asked_seconds": 1.0, "batch": 16}
  row = sample.attempt(fail, (RuntimeError("RESOURCE_EXHAUSTED: 99 GB"),), place)
  assert row == place | {"failed": "out of memory"}
  with pytest.raises(RuntimeError, match="shapes"):
    sample.attempt(fail, (RuntimeError("shapes differ"),), place)


@pytest.mark.parametrize("text", ["", "0", "4,-1", "x"])
def test_numbers_are_checked(text):
  with pytest.raises(UserError, match="--batches: .*positive numbers"):
    sample.parser().parse_args([f"--batches={text}"])


@pytest.mark.parity
def test_musicgen_makes_the_audio_that_was_asked_for():
  pytest.importorskip("transformers", reason="needs the [parity] extra")
  pytest.importorskip("torch", reason="needs the [parity] extra")
  thin_shape = musicgen.Shape(1, 32, 2, 32, 1, 32, 2, 64, filters=2)
  model = musicgen.build(thin_shape, musicgen.choose_device("cpu"), "float32")
  made = musicgen.generate(model, 0.2, batch=2)
  assert made.seconds == 0.2 and made.batch == 2
  # Ten frames; the last codebook lags three behind; the library may make its first pass twice.
  assert 13 <= made.passes <= 14


def test_small_shape_is_the_public_one():
  s = musicgen.SMALL
  assert (s.layers, s.width, s.heads, s.ffn_width) == (24, 1024, 16, 4096)
