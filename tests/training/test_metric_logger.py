"""What a run says of its speed is the speed of its steps."""

import types

import ml_collections
import pytest

from melody_jax.training import metric_logger


def test_evaluation_does_not_lower_the_speed(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(metric_logger, "time", types.SimpleNamespace(monotonic=lambda: 100.0))
  config = ml_collections.ConfigDict(
    {"task": "toy", "window_seconds": 2.0, "sample_rate": 24_000}
    | {"train": {"steps": 40, "batch_size": 3}}
  )
  logger = metric_logger.MetricLogger(tmp_path, config)
  logger.started(0)
  # Ten steps in 20 s beside half a minute of evaluation: half a step, 3 s of audio, a second.
  logger.evaluation(5, {"loss": 1.0}, 30.0)
  logger.train(10, {"loss": 2.0}, 150.0)
  logger.train(20, {"loss": 2.0}, 170.0)
  logger.close()
  lines = [line for line in capsys.readouterr().err.splitlines() if "audio-s/s" in line]
  assert [float(line.split("| ")[1].split()[0]) for line in lines] == pytest.approx([3.0, 3.0])
  assert lines[0].endswith("ETA 0:01:00") and lines[1].endswith("ETA 0:00:40")
