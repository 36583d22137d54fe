"""What a run says of its speed is the speed of its steps."""

import types

import ml_collections
import pytest

from melody_jax.training import metric_logger

CONFIG = ml_collections.ConfigDict(
  {"task": "toy", "window_seconds": 2.0, "sample_rate": 24_000}
  | {"train": {"steps": 40, "batch_size": 3}}
)


@pytest.mark.parametrize(
  ("kind", "shown"),
  [("TPU v5 lite", "MFU 25.0 %"), ("NVIDIA H100 80GB HBM3", "MFU 5.0 %"), ("cpu", "49.2 TFLOP/s")],
)
def test_a_line_tells_what_the_devices_do_and_what_the_input_costs(
  tmp_path, monkeypatch, capsys, kind, shown
):
  monkeypatch.setattr(
    metric_logger, "time", types.SimpleNamespace(monotonic=lambda: 100.0, time=lambda: 5.0)
  )
  device = types.SimpleNamespace(device_kind=kind, platform="tpu")
  monkeypatch.setattr(metric_logger.jax, "devices", lambda: [device])
  monkeypatch.setattr(metric_logger.jax, "device_count", lambda: 2)
  logger = metric_logger.MetricLogger(tmp_path, CONFIG)
  assert logger.wants_flops
  logger.flops = 0.25 * 2 * 197e12 * 4  # of a step that takes four seconds
  assert not logger.wants_flops
  logger.started(0)
  logger.waited(3.0)
  logger.waited(5.0)
  logger.train(10, {"loss": 2.0}, 140.0)
  logger.train(20, {"loss": 2.0}, 180.0)
  logger.close()
  said = capsys.readouterr().err.splitlines()
  assert said[1] == "first step done 40.0 s after the start"
  lines = [line for line in said if "audio-s/s" in line]
  assert all(shown in line for line in lines)
  assert "input 20 %" in lines[0] and "input 0 %" in lines[1]


def test_evaluation_does_not_lower_the_speed(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(
    metric_logger, "time", types.SimpleNamespace(monotonic=lambda: 100.0, time=lambda: 5.0)
  )
  logger = metric_logger.MetricLogger(tmp_path, CONFIG)
  logger.started(0)
  # Ten steps in 20 s beside half a minute of evaluation: half a step, 3 s of audio, a second.
  logger.evaluation(5, {"loss": 1.0}, 30.0)
  logger.train(10, {"loss": 2.0}, 150.0)
  logger.train(20, {"loss": 2.0}, 170.0)
  logger.close()
  lines = [line for line in capsys.readouterr().err.splitlines() if "audio-s/s" in line]
  assert [float(line.split("| ")[1].split()[0]) for line in lines] == pytest.approx([3.0, 3.0])
  assert lines[0].endswith("ETA 0:01:00") and lines[1].endswith("ETA 0:00:40")
