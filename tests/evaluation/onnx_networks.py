"""Small networks as ONNX files, for tests of what reads such files."""

import pytest


def means_over_time(path, given, result, shape):
  """Writes a network that takes [B, *shape] and gives its mean over all but the last axis."""
  onnx = pytest.importorskip("onnx", reason="writes a small network")
  from onnx import TensorProto, helper

  axes = helper.make_tensor("axes", TensorProto.INT64, [len(shape) - 1], range(1, len(shape)))
  graph = helper.make_graph(
    [helper.make_node("ReduceMean", [given, "axes"], [result], keepdims=0)],
    "means",
    [helper.make_tensor_value_info(given, TensorProto.FLOAT, ["B", *shape])],
    [helper.make_tensor_value_info(result, TensorProto.FLOAT, ["B", shape[-1]])],
    [axes],
  )
  model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
  onnx.save(model, str(path))
