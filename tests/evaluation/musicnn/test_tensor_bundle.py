"""The checkpoint reader against TensorFlow's own writer."""

import numpy as np
import pytest

from melody_jax.evaluation.musicnn.tensor_bundle import read_float_tensors


def test_reads_what_tensorflow_writes(tmp_path):
  tf = pytest.importorskip("tensorflow", reason="writes the checkpoint to be read")
  rng = np.random.default_rng(0)
  arrays = {
    f"scope/variable_{i}": rng.normal(size=shape).astype(np.float32)
    for i, shape in enumerate([(3, 4), (7,), (), *[(2, 1, 5)] * 40])
  }
  prefix = str(tmp_path / "model")
  tf.raw_ops.SaveV2(
    prefix=prefix,
    tensor_names=[*arrays, "step"],
    shape_and_slices=[""] * (len(arrays) + 1),
    tensors=[*arrays.values(), np.int64(3)],
  )
  read = read_float_tensors(
    (tmp_path / "model.index").read_bytes(), (tmp_path / "model.data-00000-of-00001").read_bytes()
  )
  assert set(read) == set(arrays)
  for name, value in arrays.items():
    np.testing.assert_array_equal(read[name], value)


def test_other_files_are_refused():
  with pytest.raises(ValueError, match="not the index"):
    read_float_tensors(b"x" * 100, b"")
