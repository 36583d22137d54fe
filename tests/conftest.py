"""CPU, strict rank promotion, a compilation cache, one tiny bundle, parity tests, peak memory."""

import ctypes
import gc
import os
from pathlib import Path
import resource
import runpy
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
REPOSITORY = Path(__file__).resolve().parent.parent
# Tests compile hundreds of small programs. Both workers, the processes that tests start, and the
# next run of the suite find them here; hence through the environment.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(REPOSITORY / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
# Most of the suite's time is compiling programs that run once. Set to 0 (as .ci/run does) to test
# programs as optimised as those that users run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest

from tests import tiny_bundle

jax.config.update("jax_numpy_rank_promotion", "raise")

# What `make test` is to take of a user's machine; printed in red where it takes more.
PEAK_LIMIT_GB = 3.0

# Begun first, so that no worker ends with one of them while the other has nothing left to do.
LONG_FILES = (
  "training/test_mesh.py",
  "test_chain.py",
  "test_documented_commands.py",
  "generation/test_melody.py",
  "training/test_multihost.py",
  "training/test_seqio_runs.py",
  "training/test_recovery.py",
  "test_bad_environments.py",
)

# Rooms whose programs are compiled as users' are, where the suite is asked to: numbers are tested
# there, or commands as printed. The others compare runs with runs, or what is told.
AS_FOR_USERS = (
  "denoisers", "encoders", "generation", "kernels", "losses", "metrics", "models", "planning",
  "tasks", "test_diffusion.py", "test_documented_commands.py", "test_spectral.py",
)  # fmt: skip

REQUIRE_PARITY = os.environ.get("MELODY_REQUIRE_PARITY", "") not in ("", "0")
_skipped_parity: list[str] = []
_peaks_gb: dict[str, float] = {}


def pytest_collection_modifyitems(items):
  order = {REPOSITORY / "tests" / name: i for i, name in enumerate(LONG_FILES)}
  items.sort(key=lambda item: order.get(item.path, len(order)))


def _note_skip(report, is_parity: bool) -> None:
  if REQUIRE_PARITY and report.skipped and is_parity:
    _skipped_parity.append(report.nodeid)


def pytest_collectreport(report):
  # A whole file skips when torch cannot be imported: its marks are never seen, its reason is.
  _note_skip(report, "[parity]" in str(report.longrepr))


def pytest_runtest_logreport(report):
  _note_skip(report, "parity" in report.keywords or "[parity]" in str(report.longrepr))


def pytest_sessionfinish(session):
  unit = 1 if sys.platform == "darwin" else 1024
  peak_gb = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9
  if hasattr(session.config, "workeroutput"):
    session.config.workeroutput["peak_gb"] = peak_gb
  else:
    _peaks_gb["main"] = peak_gb
  if _skipped_parity and session.exitstatus in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
    session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)  # a hook of pytest-xdist
def pytest_testnodedown(node, error):
  if "peak_gb" in getattr(node, "workeroutput", {}):
    _peaks_gb[node.gateway.id] = node.workeroutput["peak_gb"]


def pytest_terminal_summary(terminalreporter):
  peaks = ", ".join(f"{name} {gb:.1f}" for name, gb in sorted(_peaks_gb.items()))
  over = max(_peaks_gb.values(), default=0) > PEAK_LIMIT_GB
  terminalreporter.write_line(
    f"peak memory in GB: {peaks}; the limit is {PEAK_LIMIT_GB:.0f} a process", red=over
  )
  if _skipped_parity:
    terminalreporter.section("parity tests are required here and were skipped", red=True)
    for nodeid in _skipped_parity:
      terminalreporter.write_line(nodeid)


@pytest.fixture(scope="session")
def repository() -> Path:
  """The checkout, for tests that run commands or read configs."""
  return REPOSITORY


@pytest.fixture(scope="module", autouse=True)
def in_haste(request):
  """Compiles in haste outside AS_FOR_USERS, in this process and in those that tests start."""
  if request.path.relative_to(REPOSITORY / "tests").parts[0] in AS_FOR_USERS:
    yield
    return
  name = "JAX_DISABLE_MOST_OPTIMIZATIONS"
  usual = jax.config.read(name.lower())
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv(name, "1")
    jax.config.update(name.lower(), True)
    yield
    jax.config.update(name.lower(), usual)


@pytest.fixture(scope="module", autouse=True)
def forget_programs(in_haste):
  """What a file compiled is dropped at its end, and its memory handed back."""
  yield
  jax.clear_caches()
  gc.collect()
  if sys.platform == "linux":
    ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def run_module(monkeypatch):
  """Runs a module in this process as `python -m MODULE ...` does: run_module(name, *arguments)."""

  def run(module: str, *arguments: str) -> None:
    # Imported already by another test, it would be run with a warning.
    for name in (module, f"{module}.__main__"):
      monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    runpy.run_module(module, run_name="__main__", alter_sys=True)

  return run


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> Path:
  """A bundle of five untrained tiny models, for reading only."""
  return tiny_bundle.write(tmp_path_factory.mktemp("bundle"))
