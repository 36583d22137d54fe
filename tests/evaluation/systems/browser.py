"""A headless Chromium, asked over its debugging pipe what a page does."""

import json
import os
import shutil
import subprocess

PROGRAM = next(
  filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


class Browser:
  """Opens one page and keeps what it asked for and complained of."""

  def __init__(self, profile):
    # The browser reads commands at its descriptor 3 and writes at 4; a zero byte ends a message.
    to_browser, self._out = os.pipe()
    self._in, from_browser = os.pipe()
    # By a shell: Python's own way to rearrange descriptors forks, which JAX's threads do not like.
    begin = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
    self._process = subprocess.Popen(
      [
        "bash", "-c", begin, PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu",
        "--remote-debugging-pipe", "--autoplay-policy=no-user-gesture-required", "--mute-audio",
        "--no-first-run", "--disable-background-networking", f"--user-data-dir={profile}",
      ],
      pass_fds=(to_browser, from_browser), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(to_browser), os.close(from_browser)
    self._number, self._rest, self.events = 0, b"", []

  def ask(self, method, session=None, **parameters):
    """Sends a command and waits for its result; events in between are kept."""
    self._number += 1
    message = {"id": self._number, "method": method, "params": parameters}
    message |= {"sessionId": session} if session else {}
    os.write(self._out, json.dumps(message).encode() + b"\0")
    while True:
      while b"\0" not in self._rest:
        block = os.read(self._in, 1 << 20)
        assert block, "the browser went away"
        self._rest += block
      line, _, self._rest = self._rest.partition(b"\0")
      found = json.loads(line)
      if found.get("id") == self._number:
        assert "error" not in found, found
        return found["result"]
      self.events.append(found)

  def close(self):
    self._process.kill()
    self._process.wait()
    os.close(self._out), os.close(self._in)
