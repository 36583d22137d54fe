"""The search for a mesh: what is tried, in which order, and what is taken."""

import types

import pytest

from melody_jax.errors import UserError
from melody_jax.planning import search, topology
from tests.configs import load_config


def slice_of(devices, slices=1):
  return topology.Topology("v5e", topology.CHIPS["v5e"], [None] * devices, slices)


def planner(bound, memory=lambda s: 1.0, fits=lambda s: True):
  """A planner that compiles nothing; it counts how often it is asked for the same."""
  asked = []

  def plan_step(config, devices):
    del devices
    s = types.SimpleNamespace(
      fsdp=config.mesh.fsdp, tensor=config.mesh.tensor, remat=config.model.remat,
      parts=config.train.accumulate,
    )  # fmt: skip
    if config.train.batch_size % (16 // s.tensor * s.parts):
      raise UserError("does not divide")
    asked.append((s.fsdp, s.tensor, s.remat, s.parts))
    return types.SimpleNamespace(
      fits=fits(s), mfu_bound=bound(s), peak_bytes=memory(s), step_seconds=1.0, binding="hbm",
      settings={},
    )  # fmt: skip

  return plan_step, asked


def lm(batch_size):
  config = load_config("lm", "tiny")
  config.train.batch_size = batch_size
  return config


def test_mesh_then_recomputation_then_parts_each_asked_once():
  plan_step, asked = planner(
    lambda s: 0.1 * (s.fsdp == 4) + 0.2 * (s.tensor == 2) + 0.3 * (s.remat == "dots") - s.parts / 99
  )
  said = []
  plans = search.search(lm(16), slice_of(16), said.append, plan_step)
  assert plans[0].settings == {
    "mesh.data": -1, "mesh.fsdp": 4, "mesh.tensor": 2, "model.remat": "dots", "train.accumulate": 1
  }  # fmt: skip
  assert len(asked) == len(set(asked)) == len(plans)
  bounds = [plan.mfu_bound for plan in plans]
  assert bounds == sorted(bounds, reverse=True)
  # On 8 lanes, 16 rows have one or two parts.
  assert {parts for *_, parts in asked} == {1, 2}
  assert any("does not fit" not in line and "--config.mesh.fsdp=4" in line for line in said)


def test_without_room_the_search_goes_where_memory_is_least():
  plan_step, _ = planner(
    lambda s: 1.0 / s.parts,
    memory=lambda s: 100 / s.fsdp / s.parts - 10 * (s.remat == "full"),
    fits=lambda s: s.fsdp == 16 and s.remat == "full" and s.parts >= 2,
  )
  plans = search.search(lm(64), slice_of(16), lambda line: None, plan_step)
  best = plans[0]
  assert best.fits and best.settings["mesh.fsdp"] == 16 and best.settings["train.accumulate"] == 2
  assert all(not plan.fits for plan in plans[-3:])
  assert search.row(plans[-1]).startswith("does not fit")


def test_meshes_of_several_slices_keep_fsdp_and_tensor_inside_one():
  inside = [s["mesh.fsdp"] * s["mesh.tensor"] for s in search.meshes(16, 4)]
  assert max(inside) == 4 and all(s["mesh.data"] == -1 for s in search.meshes(16, 4))


def test_a_batch_that_no_mesh_divides_is_told():
  plan_step, _ = planner(lambda s: 1.0)
  with pytest.raises(UserError, match="no mesh over 16 devices divides config.train.batch_size 1"):
    search.search(lm(1), slice_of(16), lambda line: None, plan_step)
