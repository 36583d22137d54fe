"""Whatever the machine does to a command: one line, a status that says which, no traceback."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from melody_jax.command_line import endings, streams
from melody_jax.errors import ChoiceError, UserError

DISK = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x.wav")


@pytest.mark.parametrize(
  ("raised", "status", "said"),
  [
    (UserError("no\nmore"), 2, "p: error: no more"),
    (KeyboardInterrupt(), 130, "p: error: interrupted"),
    (DISK, 2, "'x.wav': No space left on device; free some space"),
    (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "'/x': Permission denied; check"),
    (OSError(errno.EFBIG, "File too large"), 2, "ulimit -f"),
    (MemoryError(), 2, "out of memory"),
    (UnicodeEncodeError("ascii", "é", 0, 1, "no"), 2, "is not UTF-8"),
    # As safetensors, TensorFlow and Orbax say it.
    (RuntimeError("I/O error: No space left on device (os error 28)"), 2, "free some space"),
    (streams.StdoutError(errno.ENOSPC, "No space left"), 2, "cannot write to standard output"),
  ],
)
def test_one_line(raised, status, said, capsys):
  with pytest.raises(SystemExit) as exit_, endings.one_line("p"):
    raise raised
  assert exit_.value.code == status
  errors = capsys.readouterr().err
  assert errors.count("\n") == 1 and errors.startswith("p: error: ") and said in errors


def test_a_bug_keeps_its_traceback():
  with pytest.raises(ZeroDivisionError), endings.one_line("p"):
    raise ZeroDivisionError
  before = signal.getsignal(signal.SIGINT)
  with endings.one_line("p"):
    assert signal.getsignal(signal.SIGINT) is not before
  assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
  ("asked", "said"),
  [("cuda", "the extra 'cuda'"), ("tpu", "the extra 'tpu'"), ("cdua", "did you mean 'cuda'")],
)
def test_a_missing_device_names_the_extra(asked, said, monkeypatch):
  def backends():
    raise AssertionError  # what JAX does where its plugin for CUDA is not installed

  monkeypatch.setenv("JAX_PLATFORMS", asked)
  code = compile("def backends():\n  raise AssertionError", "/x/xla_bridge.py", "exec")
  names: dict = {}
  exec(code, names)
  with pytest.raises(AssertionError) as error:
    names["backends"]()
  assert said in endings.explain(error.value)
  with pytest.raises(AssertionError) as error:
    backends()
  assert endings.explain(error.value) is None


def test_arguments_that_are_no_text():
  with pytest.raises(UserError, match="udcff.*not UTF-8"):
    endings.check_text(["é", "--prompt=\udcff"])


def test_utf_8_in_a_shell_that_does_not_know_it():
  assert endings.decoded(["a", "é", "caf\udcc3\udca9"]) == ["a", "é", "café"]
  assert endings.decoded(["\udcff"]) == ["\udcff"]


def test_a_choice_survives_a_process():
  error = pickle.loads(pickle.dumps(ChoiceError("x", "cosin", ("cosine", "linear"))))
  assert error.known == ("cosine", "linear") and "did you mean 'cosine'?" in str(error)


# What a command does, in a process of its own that imports nothing large.
COMMAND = """
import sys, time, signal
from melody_jax.command_line.endings import one_line
with one_line("p"):
  {body}
"""
# A long call into C, as a compilation is one: Python runs no handler in it. (A sleep would not do:
# the system wakes it at a signal.)
DEAF = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"


def start(body: str, **how) -> subprocess.Popen:
  code = COMMAND.format(body=textwrap.indent(body, "  ").strip())
  return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, **how)


@pytest.mark.parametrize(
  ("number", "presses", "body", "said"),
  [
    (signal.SIGINT, 1, "time.sleep(60)", "p: error: interrupted\n"),
    (signal.SIGTERM, 1, "time.sleep(60)", "p: error: terminated (SIGTERM)\n"),
    # While something compiles, and an interrupt that a library swallows.
    (signal.SIGINT, 1, DEAF, "p: error: interrupted\n"),
    (signal.SIGINT, 2, DEAF, "p: error: interrupted\n"),
    # Once, lost in a callback, and taken for a failure of its own by a library.
    (
      signal.SIGINT,
      1,
      "class A:\n  def __del__(self): time.sleep(60)\na = A()\ndel a\ntime.sleep(60)",
      "p: error: interrupted\n",
    ),
    (
      signal.SIGINT,
      1,
      "try: time.sleep(60)\nexcept BaseException: time.sleep(0.1)",
      "p: error: interrupted\n",
    ),
    (
      signal.SIGINT,
      2,
      "try: time.sleep(60)\nexcept BaseException: time.sleep(60)",
      "p: error: interrupted\n",
    ),
  ],
)
def test_signals(number, presses, body, said):
  process = start(f"print('ready', flush=True)\n{body}", stdout=subprocess.PIPE)
  assert process.stdout is not None and process.stdout.readline() == "ready\n"
  began = time.monotonic()
  for _ in range(presses):
    time.sleep(0.3)
    process.send_signal(number)
  assert process.communicate(timeout=30)[1] == said
  assert process.returncode == 128 + number
  assert time.monotonic() - began < 8


def test_a_handler_of_somebody_else_is_left_alone():
  body = (
    "signal.signal(signal.SIGINT, lambda *_: None)\n"
    "print('ready', flush=True)\ntime.sleep(4)\nprint('done', flush=True)"
  )
  process = start(body, stdout=subprocess.PIPE)
  assert process.stdout is not None and process.stdout.readline() == "ready\n"
  process.send_signal(signal.SIGINT)
  assert process.communicate(timeout=30) == ("done\n", "") and process.returncode == 0


@pytest.mark.parametrize(
  ("redirections", "status", "said"),
  [
    (">&-", 0, ""),
    (">/dev/full", 2, "p: error: cannot write to standard output: No space left on device"),
    ("| true", 141, ""),
    ("2>&-", 0, ""),
    ("2>/dev/full", 0, ""),
    (">&- 2>&-", 0, ""),
    ("<&- >/dev/null", 0, ""),
  ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_standard_streams(redirections, status, said, unbuffered, tmp_path):
  body = (
    "open('x.txt', 'w').write('mine')\n"
    "print('progress é', file=sys.stderr, flush=True)\n"
    "time.sleep(0.2)\nprint('result é')"
  )
  (tmp_path / "p.py").write_text(COMMAND.format(body=textwrap.indent(body, "  ").strip()))
  done = subprocess.run(
    ["bash", "-c", f"{sys.executable} p.py {redirections}; exit ${{PIPESTATUS[0]}}"],
    cwd=tmp_path,
    env={**os.environ, "PYTHONUNBUFFERED": unbuffered, "PYTHONIOENCODING": "ascii"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == status, done.stderr
  lines = [line for line in done.stderr.splitlines() if not line.startswith("progress")]
  assert len(lines) == bool(said) and all(said in line for line in lines)
  assert (tmp_path / "x.txt").read_text() == "mine"
