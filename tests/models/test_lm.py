"""Semantic LM: sizes, causality, cache, loss; parity with transformers."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import lm as lm_config
from melody_jax import bundle, sharding
from melody_jax.errors import UserError
from melody_jax.models import layers, lm
from melody_jax.tasks import lm as lm_task

SMALL = lm.LMConfig(
  n_layers=2,
  width=32,
  n_heads=2,
  mlp_width=48,
  style_levels=3,
  style_vocab=7,
  semantic_vocab=11,
  window_tokens=12,
)


def make(config, seed=0):
  model = lm.SemanticLM(config)
  ids = jnp.zeros((1, config.style_levels + 1), jnp.int32)
  params = nn.unbox(jax.jit(model.init)(jax.random.key(seed), ids)["params"])
  return model, params


def tokens(config, batch=2, length=9, seed=1):
  a, b = jax.random.split(jax.random.key(seed))
  style = jax.random.randint(a, (batch, config.style_levels), 0, config.style_vocab)
  return style, jax.random.randint(b, (batch, length), 0, config.semantic_vocab)


@functools.cache
def small():
  return make(SMALL)


@functools.partial(jax.jit, static_argnames="model")
def forward(model, params, style, semantic):
  return lm.forward(model, params, style, semantic)


def count(preset):
  task = lm_task.LMTask(lm_config.get_config(preset))
  boxed = jax.eval_shape(task.init, jax.random.key(0))
  for leaf in jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)):
    assert isinstance(leaf, nn.LogicallyPartitioned)
    assert len(leaf.names) == leaf.value.ndim
    sharding.mesh_axes_of(leaf.names)
  return sum(leaf.size for leaf in jax.tree.leaves(nn.unbox(boxed)))


def test_parameter_counts():
  paper, nano = count("paper"), count("nano")
  print(f"lm parameters: paper {paper:,} (the paper: 429.5 M), nano {nano:,}")
  assert abs(paper / 429.5e6 - 1) < 0.02
  assert 3e6 < nano < 10e6


def test_every_level_and_semantics_have_rows_of_their_own():
  full = jnp.tile(jnp.arange(SMALL.style_vocab + 1)[:, None], (1, SMALL.style_levels))
  ids = np.concatenate(
    [
      np.ravel(lm.style_ids(SMALL, full)),
      np.ravel(lm.semantic_ids(SMALL, jnp.arange(SMALL.semantic_vocab))),
    ]
  )
  np.testing.assert_array_equal(np.sort(ids), np.arange(SMALL.vocab_size))


def test_causal():
  model, params = small()
  style, semantic = tokens(SMALL)
  before = forward(model, params, style, semantic)
  after = forward(model, params, style, semantic.at[:, 4].add(1) % SMALL.semantic_vocab)
  np.testing.assert_array_equal(before[:, :5], after[:, :5])
  assert np.abs(before[:, 5:] - after[:, 5:]).max() > 1e-4
  restyled = forward(model, params, (style + 1) % SMALL.style_vocab, semantic)
  assert np.all(np.abs(before - restyled).max(-1) > 1e-5)


@pytest.mark.parametrize("head", ["all", "semantic"])
def test_cached_decode_equals_full_forward(head):
  config = lm.LMConfig(**{**vars(SMALL), "head": head, "fixed_styles": head == "semantic"})
  model, params = make(config)
  style, semantic = tokens(config)
  want = forward(model, params, style, semantic)[..., -config.semantic_vocab :]
  known = 3
  # Columns beyond `known` are padding that must not be seen.
  padded = jnp.where(jnp.arange(6)[None, :] < known, semantic[:, :6], 5)
  length = config.style_levels + known
  ids = lm.sequence_ids(config, style, padded)
  logits, cache = jax.jit(lm.prefill, static_argnums=(0, 4))(model, params, ids, length, 14)
  np.testing.assert_allclose(logits, want[:, known], atol=1e-5)
  step = jax.jit(lm.decode_step, static_argnums=0)
  shapes = jax.tree.map(jnp.shape, cache)
  for t in range(known, semantic.shape[1] - 1):
    row = lm.semantic_ids(config, semantic[:, t])
    logits, cache = step(model, params, row, config.style_levels + t, cache)
    np.testing.assert_allclose(logits, want[:, t + 1], atol=1e-5)
  assert jax.tree.map(jnp.shape, cache) == shapes


def test_decode_of_many_rows_equals_few():
  x = jax.random.normal(jax.random.key(0), (6, 1, 16))
  kernel = jax.random.normal(jax.random.key(1), (16, 8))
  matmul = functools.partial(layers.matmul, dtype=jnp.float32)
  whole = jax.jit(matmul)(x, kernel)
  few = jnp.concatenate([jax.jit(matmul)(part, kernel) for part in (x[:2], x[2:])])
  np.testing.assert_allclose(whole, few, atol=1e-5)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_changes_nothing(remat):
  model, params = small()
  style, semantic = tokens(SMALL)
  other = lm.SemanticLM(lm.LMConfig(**{**vars(SMALL), "remat": remat}))

  @functools.partial(jax.jit, static_argnums=0)
  def gradient(model, params):
    return jax.grad(lambda p: jnp.sum(lm.forward(model, p, style, semantic) ** 2))(params)

  close = functools.partial(np.allclose, rtol=1e-4, atol=1e-4)
  assert jax.tree.all(jax.tree.map(close, gradient(other, params), gradient(model, params)))


def tiny_task(**model):
  config = lm_config.get_config("tiny")
  config.model.update(
    dict(style_levels=3, style_vocab=7, semantic_vocab=11, window_tokens=9) | model
  )
  return lm_task.LMTask(config)


@pytest.mark.parametrize("head", ["all", "semantic"])
def test_loss_is_cross_entropy_of_semantic_positions(head):
  task = tiny_task(head=head)
  c = task.model_config
  params = nn.unbox(task.init(jax.random.key(0)))
  style, semantic = tokens(c)
  batch = {"style_tokens": style, "semantic_tokens": semantic}
  loss, metrics = task.loss(params, batch, jax.random.key(1), jnp.asarray(0), train=False)
  logits = np.asarray(lm.forward(task.model, params, style, semantic), np.float64)
  assert logits.shape[:2] == semantic.shape  # style tokens are not predicted
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  labels = np.asarray(semantic) + (c.semantic_offset if head == "all" else 0)
  want = -np.take_along_axis(log_p, labels[..., None], -1).mean()
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  assert set(metrics) == {"loss", "accuracy", "loss_without_style"}


def test_training_loss_falls_and_fixed_rows_get_no_gradient():
  task = tiny_task(dropout=0.1)
  params = nn.unbox(task.init(jax.random.key(0)))
  style, semantic = tokens(task.model_config, batch=4)
  batch = {"style_tokens": style, "semantic_tokens": semantic}

  @jax.jit
  def step(params, rng):
    (loss, _), grads = jax.value_and_grad(task.loss, has_aux=True)(params, batch, rng, 0)
    return jax.tree.map(lambda p, g: p - 0.5 * g, params, grads), loss, grads

  losses = []
  for i in range(30):
    params, loss, grads = step(params, jax.random.key(i))
    losses.append(float(loss))
  assert losses[-1] < losses[0] - 0.3
  c = task.model_config
  rows = grads["embed"]["table"]["embedding"]
  level_rows = rows[: c.semantic_offset].reshape(c.style_levels, c.style_vocab + 1, -1)
  assert np.all(level_rows[:, :-1] == 0)
  assert np.any(rows[c.semantic_offset :] != 0)


def test_corrupt_style():
  style = jnp.tile(jnp.arange(12)[None, :], (4000, 1))
  corrupt = functools.partial(lm_task.corrupt_style, jax.random.key(0), style, 99)
  same = corrupt(dropout=0.0, truncation=0.0, token_dropout=0.0)
  np.testing.assert_array_equal(same, style)
  dropped = np.asarray(corrupt(dropout=0.1, truncation=0.0, token_dropout=0.0)) == 99
  assert np.all(dropped.all(1) == dropped.any(1))
  assert abs(dropped.all(1).mean() - 0.1) < 0.02
  cut = np.asarray(corrupt(dropout=0.0, truncation=1.0, token_dropout=0.0)) == 99
  assert not cut[:, 0].any() and cut[:, -1].all()
  assert np.all(np.diff(cut.astype(int), axis=1) >= 0)  # a prefix stays


def test_rows_from_codebooks_keep_geometry():
  books = jax.random.normal(jax.random.key(0), (3, 7, 5))
  books = books * jnp.asarray([4.0, 1.0, 0.1])[:, None, None]
  config = lm.LMConfig(**{**vars(SMALL), "width": 512})
  rows = lm.rows_from_codebooks(config, jax.random.key(1), books).reshape(3, 8, 512)
  # "No style" has rows of its own: zeros in front of a norm have gradients without bounds.
  np.testing.assert_allclose(np.std(rows[:, -1]), 0.02, rtol=0.1)
  rms = np.sqrt(np.mean(np.square(rows[:, :-1]), axis=(1, 2)))
  np.testing.assert_allclose(rms, 0.02, rtol=1e-4)
  gram = np.asarray(rows[0, :-1] @ rows[0, :-1].T)
  want = np.asarray(books[0] @ books[0].T)
  assert np.corrcoef(gram.ravel(), want.ravel())[0, 1] > 0.95
  # Rows that are to be summed keep the codewords' own sizes.
  summed = lm.LMConfig(**{**vars(config), "fixed_styles": True, "summed_styles": True})
  rows = lm.rows_from_codebooks(summed, jax.random.key(1), books).reshape(3, 8, 512)
  sizes = np.sqrt(np.mean(np.square(rows[:, :-1]), axis=(1, 2)))
  np.testing.assert_allclose(sizes / sizes[0], [1.0, 0.25, 0.025], rtol=0.3)
  with pytest.raises(ValueError, match="codebooks"):
    lm.rows_from_codebooks(config, jax.random.key(1), books[:2])


def test_style_positions_add_up():
  """The position of level n hears codewords up to n; a hidden level adds nothing."""
  config = lm.LMConfig(**{**vars(SMALL), "fixed_styles": True, "summed_styles": True})
  model = lm.TokenEmbedding(config)
  levels = config.style_levels
  ids = lm.style_ids(config, jnp.arange(levels)[None])
  params = nn.unbox(model.init(jax.random.key(0), ids, levels))
  table = params["params"]["table"]["embedding"]
  project = params["params"]["style"]["kernel"]
  expected = np.cumsum(np.asarray(table)[np.asarray(ids[0])], axis=0) @ np.asarray(project)
  np.testing.assert_allclose(model.apply(params, ids, levels)[0], expected, atol=1e-5)
  hidden = ids.at[0, 1].set(config.style_vocab + (config.style_vocab + 1))
  out = model.apply(params, hidden, levels)[0]
  null = np.asarray(table)[int(hidden[0, 1])]
  np.testing.assert_allclose(out[1], expected[0] + null, atol=1e-5)


def test_init_reads_the_codebooks(tmp_path):
  books = np.random.default_rng(0).normal(size=(3, 7, 5)).astype(np.float32)
  path = tmp_path / "mulan.safetensors"
  bundle.save(path, {"rvq": {"codebooks": books}}, {"model_config": {}})
  task = tiny_task()
  task.config.conditioning.style_codebooks = str(path)
  rng = jax.random.key(0)
  table = nn.unbox(task.init(rng))["embed"]["table"]["embedding"]
  task.config.conditioning.style_codebooks = ""
  plain = nn.unbox(task.init(rng))["embed"]["table"]["embedding"]
  offset = task.model_config.semantic_offset
  np.testing.assert_array_equal(table[offset:], plain[offset:])
  np.testing.assert_array_equal(
    table[:offset], lm.rows_from_codebooks(task.model_config, jax.random.fold_in(rng, 1), books)
  )
  bundle.save(path, {"other": books}, {"model_config": {}})
  task.config.conditioning.style_codebooks = str(path)
  with pytest.raises(UserError, match="rvq/codebooks"):
    task.init(rng)


@pytest.mark.parity
def test_parity_with_transformers_llama():
  reason = "parity tests need the [parity] extra"
  torch = pytest.importorskip("torch", reason=reason)
  transformers = pytest.importorskip("transformers", reason=reason)
  c = SMALL
  model, params = small()
  reference = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      vocab_size=c.vocab_size,
      hidden_size=c.width,
      intermediate_size=c.mlp_width,
      num_hidden_layers=c.n_layers,
      num_attention_heads=c.n_heads,
      num_key_value_heads=c.n_heads,
      rms_norm_eps=c.norm_epsilon,
      max_position_embeddings=64,
      tie_word_embeddings=False,
      attention_bias=False,
      mlp_bias=False,
      hidden_act="silu",
      pad_token_id=None,
    )
  ).eval()
  # Random everywhere, norm scales too, so that no parameter can be swapped unnoticed.
  keys = iter(jax.random.split(jax.random.key(3), 100))
  params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), params)

  stack = params["layers"]["layer"]
  state = {
    "model.embed_tokens.weight": params["embed"]["table"]["embedding"],
    "model.norm.weight": params["head"]["norm"]["scale"],
    "lm_head.weight": params["head"]["projection"]["kernel"].T,
  }
  for i in range(c.n_layers):
    names = {
      "self_attn.q_proj": stack["attention"]["query"],
      "self_attn.k_proj": stack["attention"]["key"],
      "self_attn.v_proj": stack["attention"]["value"],
      "self_attn.o_proj": stack["attention"]["out"],
      "mlp.gate_proj": stack["mlp"]["gate"],
      "mlp.up_proj": stack["mlp"]["up"],
      "mlp.down_proj": stack["mlp"]["down"],
    }
    for name, weights in names.items():
      state[f"model.layers.{i}.{name}.weight"] = weights["kernel"][i].T
    state[f"model.layers.{i}.input_layernorm.weight"] = stack["attention_norm"]["scale"][i]
    state[f"model.layers.{i}.post_attention_layernorm.weight"] = stack["mlp_norm"]["scale"][i]
  state = {k: torch.from_numpy(np.array(v, np.float32)) for k, v in state.items()}
  missing = reference.load_state_dict(state, strict=False)
  assert not missing.unexpected_keys
  assert all("rotary" in key for key in missing.missing_keys)

  style, semantic = tokens(c, batch=3, length=12)
  ids = lm.sequence_ids(c, style, semantic)
  got, _ = jax.jit(lambda p: model.apply({"params": p}, ids))(params)
  with torch.no_grad():
    want = reference(torch.from_numpy(np.array(ids)).long()).logits.numpy()
  difference = np.abs(np.asarray(got) - want).max()
  print(f"largest difference from LlamaForCausalLM: {difference:.2e}")
  assert np.abs(want).max() > 1
  assert difference < 1e-4
