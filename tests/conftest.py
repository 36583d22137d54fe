"""CPU, strict rank promotion, a compilation cache, and a switch that requires parity tests."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
REPOSITORY = Path(__file__).resolve().parent.parent
# Tests compile dozens of small programs; the second run of the suite finds them here.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(REPOSITORY / ".cache" / "jax"))

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

REQUIRE_PARITY = os.environ.get("MELODY_REQUIRE_PARITY", "") not in ("", "0")
_skipped_parity: list[str] = []


def _note_skip(report, is_parity: bool) -> None:
  if REQUIRE_PARITY and report.skipped and is_parity:
    _skipped_parity.append(report.nodeid)


def pytest_collectreport(report):
  # A whole file skips when torch cannot be imported: its marks are never seen, its reason is.
  _note_skip(report, "[parity]" in str(report.longrepr))


def pytest_runtest_logreport(report):
  _note_skip(report, "parity" in report.keywords or "[parity]" in str(report.longrepr))


def pytest_sessionfinish(session):
  if _skipped_parity and session.exitstatus in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
    session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
  if _skipped_parity:
    terminalreporter.section("parity tests are required here and were skipped", red=True)
    for nodeid in _skipped_parity:
      terminalreporter.write_line(nodeid)


@pytest.fixture(scope="session")
def repository() -> Path:
  """The checkout, for tests that run commands or read configs."""
  return REPOSITORY
