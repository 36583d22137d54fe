"""The text tower against transformers' BERT, through a checkpoint file."""

import jax
import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.models.bert import Bert, BertConfig, params_from_safetensors

torch = pytest.importorskip("torch", reason="parity tests need the [parity] extra")
transformers = pytest.importorskip("transformers", reason="parity tests need the [parity] extra")
pytestmark = pytest.mark.parity

CONFIG = BertConfig(
  vocab_size=101, width=32, layers=3, heads=4, mlp_size=48, max_positions=24, pooler=True
)


@pytest.fixture(scope="module")
def reference():
  torch.manual_seed(0)
  config = transformers.BertConfig(
    vocab_size=101, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
    intermediate_size=48, max_position_embeddings=24, initializer_range=0.2,
  )  # fmt: skip
  model = transformers.BertModel(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  return model


@pytest.fixture(scope="module")
def checkpoint(reference, tmp_path_factory):
  from safetensors.torch import save_file

  path = tmp_path_factory.mktemp("bert") / "model.safetensors"
  save_file({k: v.contiguous() for k, v in reference.state_dict().items()}, path)
  return path


@pytest.fixture(scope="module")
def texts():
  rng = np.random.default_rng(0)
  ids = rng.integers(0, 101, (3, 20)).astype(np.int32)
  mask = np.arange(20)[None, :] < np.array([20, 9, 3])[:, None]
  return ids, mask


@pytest.fixture(scope="module")
def ours(checkpoint):
  params = params_from_safetensors(checkpoint, CONFIG)
  return jax.jit(lambda ids, mask: Bert(CONFIG).apply({"params": params}, ids, mask))


def test_matches_transformers(reference, texts, ours):
  ids, mask = texts
  with torch.no_grad():
    expected = reference(torch.tensor(ids).long(), torch.tensor(mask).long())
  hidden, pooled = ours(ids, mask)
  difference = np.abs(np.asarray(hidden) - expected.last_hidden_state.numpy())[mask]
  assert difference.max() < 1e-4
  assert np.abs(np.asarray(pooled) - expected.pooler_output.numpy()).max() < 1e-4


def test_padding_does_not_reach_the_output(texts, ours):
  ids, mask = texts
  other = np.where(mask, ids, 7).astype(np.int32)
  np.testing.assert_allclose(
    np.asarray(ours(ids, mask)[0])[mask], np.asarray(ours(other, mask)[0])[mask], atol=1e-6
  )


def test_prefixed_names_with_gamma_and_beta_load_the_same(reference, checkpoint, tmp_path):
  from safetensors.torch import save_file

  def old(name):
    if "LayerNorm" in name:
      name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
    return f"bert.{name}"

  save_file(
    {old(k): v.contiguous() for k, v in reference.state_dict().items()}, tmp_path / "m.safetensors"
  )
  a = params_from_safetensors(checkpoint, CONFIG)
  b = params_from_safetensors(tmp_path / "m.safetensors", CONFIG)
  assert jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_wrong_sizes_and_files_are_user_errors(checkpoint, tmp_path):
  import dataclasses

  with pytest.raises(UserError, match="has shape"):
    params_from_safetensors(checkpoint, dataclasses.replace(CONFIG, mlp_size=64))
  with pytest.raises(UserError, match=r"encoder\.layer\.3"):
    params_from_safetensors(checkpoint, dataclasses.replace(CONFIG, layers=4))
  with pytest.raises(UserError, match="cannot read"):
    params_from_safetensors(tmp_path / "none.safetensors", CONFIG)
  (tmp_path / "torn.safetensors").write_bytes(b"not a checkpoint")
  with pytest.raises(UserError, match="cannot read"):
    params_from_safetensors(tmp_path / "torn.safetensors", CONFIG)


def test_another_number_of_heads_shows_in_no_shape_and_is_refused(checkpoint, tmp_path):
  (tmp_path / "model.safetensors").write_bytes(checkpoint.read_bytes())
  (tmp_path / "config.json").write_text('{"num_attention_heads": 8}')
  with pytest.raises(UserError, match=r"num_attention_heads = 8, config\.model\.text_heads is 4"):
    params_from_safetensors(tmp_path / "model.safetensors", CONFIG)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_files_load(reference, tmp_path, dtype):
  from safetensors.torch import save_file

  path = tmp_path / "model.safetensors"
  state = reference.state_dict()
  save_file({k: v.to(getattr(torch, dtype)).contiguous() for k, v in state.items()}, path)
  words = params_from_safetensors(path, CONFIG)["words"]["embedding"]
  assert words.dtype == np.float32
  expected = state["embeddings.word_embeddings.weight"].to(getattr(torch, dtype)).float().numpy()
  np.testing.assert_array_equal(words, expected)
