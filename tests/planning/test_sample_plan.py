"""The sampler's plan: its shapes are those of the program, its counts those of the networks."""

import json

import jax
import pytest

from melody_jax import Settings
from melody_jax import plan as plan_command
from melody_jax.errors import UserError
from melody_jax.planning import sample_plan, topology
from tests.configs import load_config


@pytest.fixture(scope="module")
def networks():
  models = [load_config(model, "tiny").model for model in ("lm", "dpd", "vae")]
  return sample_plan.networks_of(*models, "float32")


def test_parameters_have_the_shapes_of_the_models(networks):
  params = sample_plan.abstract_params(networks, "bfloat16")
  assert set(params) == {"lm", "dpd", "vae"}
  assert params["lm"]["head"]["projection"]["kernel"].dtype == "bfloat16"
  assert params["vae"]["latent_scale"]["sigma_D"].shape == (networks.codec.latent_dim,)
  assert "encoder" not in params["vae"]


def test_a_window_that_is_no_whole_number_of_chunks_is_refused():
  models = [load_config(model, "tiny").model for model in ("lm", "dpd", "vae")]
  models[1].chunks = 7
  with pytest.raises(UserError, match="a window of 500 frames is not 7 equal chunks"):
    sample_plan.networks_of(*models, "float32")


def test_stages_count_their_passes(networks):
  params = sample_plan.abstract_params(networks, "float32")

  def stages(batch, **settings):
    found = sample_plan._stages(networks, params, batch, Settings(**settings))
    return {stage.name: stage for stage in found}

  one, more = stages(1), stages(4, steps=20)
  assert [s.passes for s in one.values()] == [250, 10, 1]
  assert more["dpd"].flops == pytest.approx(8 * one["dpd"].flops)
  assert more["decoder"].flops == pytest.approx(4 * one["decoder"].flops)
  assert more["lm"].weight_bytes == one["lm"].weight_bytes
  assert stages(1, guidance_scale=1.0)["dpd"].flops < 0.6 * one["dpd"].flops
  assert one["lm"].flops == pytest.approx(2 * stages(1, lm_guidance_scale=1.0)["lm"].flops)


def test_the_command_plans_for_a_virtual_device(repository, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(repository)
  monkeypatch.setattr(topology, "open_topology", _here)
  config = load_config("sample")
  config.update(count=2, steps=3)
  plan_command.main(config, "cpu:1", "tiny", str(tmp_path / "x.json"))
  plan = json.loads((tmp_path / "x.json").read_text())
  assert plan["fits"] and plan["batch_size"] == 2 and plan["largest_batch"] > 2
  assert 0 < plan["parameter_bytes"] < plan["peak_bytes"] < plan["hbm_bytes"]
  assert plan["real_time_factor_bound"] > 0 and "fits" in capsys.readouterr().out
  with pytest.raises(UserError, match="must be one of paper"):
    plan_command.main(config, "cpu:1", "huge", "")
  with pytest.raises(UserError, match="topology"):
    plan_command.main(config, "", "tiny", "")


def _here(name):
  from melody_jax.planning.topology import CPU, Topology

  return Topology(name, CPU, jax.devices())
