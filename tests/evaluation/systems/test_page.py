"""The page in a browser: players play, nothing is complained of, nothing is asked for."""

import pytest

from melody_jax import audio_io
from melody_jax.evaluation.systems import page, plots
from melody_jax.evaluation.systems.page import Page, Player, render
from tests.evaluation.systems.browser import PROGRAM, Browser
from tests.evaluation.systems.songs import RATE, song


def _player(i, seconds=2.0):
  audio = song(i, seconds)
  return Player(
    f"<{i}>.wav", "a & b", audio_io.encode(audio, ".mp3"), plots.spectrogram(audio, RATE), seconds
  )


def _page(players):
  return Page(
    title="A <b> page",
    lead=["Lead."],
    cautions=["Mind <this>."],
    scores=(("measure", "generated", "reference"), [("FAD", 1.5, None)]),
    plots=[("A plot.", plots.distributions({"x": [1.0, 2.0]}, {"x": [3.0]}))],
    players=[("Generated", players), ("Reference", players[:1])],
    clips=(("file", "x"), [("b", 10.0), ("a", 9.0), ("c", None)]),
    details=["Details."],
  )


def test_text_is_escaped_and_what_is_missing_is_a_dash():
  text = render(_page([_player(0)])).decode()
  assert "<b> page" not in text and "Mind &lt;this&gt;." in text and "&lt;0&gt;.wav" in text
  assert '<td class="n">-</td>' in text and text.count("<audio") == 2


def test_players_without_room_are_left_out_and_it_says_so(monkeypatch):
  players = [_player(i) for i in range(5)]
  whole = len(render(_page(players)))
  monkeypatch.setattr(page, "MAX_BYTES", page._RESERVED + whole - 3 * players[0].size)
  text = render(_page(players)).decode()
  assert len(text) < whole and "more have no room in this page" in text
  # Both groups are heard.
  assert 2 <= text.count("<audio") < 6 and text.count("&lt;0&gt;.wav</b>") == 2


_PLAY = """
(async () => {
  const results = [];
  for (const audio of document.querySelectorAll("audio")) {
    audio.muted = true;
    await audio.play();
    await new Promise((done, failed) => {
      audio.ontimeupdate = () => audio.currentTime > 0.05 && done();
      setTimeout(() => failed(new Error("does not play")), 10000);
    });
    audio.pause();
    results.push(audio.duration);
  }
  const images = [...document.images].map(image => image.naturalWidth);
  const head = document.querySelectorAll("table.sort th")[1];
  head.click();
  const rows = [...document.querySelectorAll("table.sort tbody tr")];
  const files = rows.map(row => row.cells[0].textContent);
  return {results, images, files};
})()
"""


@pytest.mark.skipif(PROGRAM is None, reason="needs chromium (apt-get install chromium)")
def test_in_a_browser(tmp_path):
  (tmp_path / "page.html").write_bytes(render(_page([_player(i) for i in range(3)])))
  browser = Browser(tmp_path / "profile")
  try:
    target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
    session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Page", "Runtime", "Network", "Log"):
      browser.ask(f"{domain}.enable", session)
    browser.ask("Page.navigate", session, url=(tmp_path / "page.html").as_uri())
    ready = "new Promise(done => document.readyState === 'complete' ? done(location.protocol)"
    ready += " : addEventListener('load', () => done(location.protocol)))"
    while True:
      found = browser.ask("Runtime.evaluate", session, expression=ready, awaitPromise=True)
      if found["result"].get("value") == "file:":
        break
    found = browser.ask(
      "Runtime.evaluate", session, expression=_PLAY, awaitPromise=True, returnByValue=True
    )
  finally:
    browser.close()
  assert "exceptionDetails" not in found, found
  value = found["result"]["value"]
  assert len(value["results"]) == 4 and all(1.9 < x < 2.3 for x in value["results"])
  assert len(value["images"]) == 5 and all(value["images"])
  assert value["files"] == ["c", "a", "b"]  # by number: none, 9, 10
  told = [e for e in browser.events if e["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
  told += [e for e in browser.events if e["method"] == "Runtime.consoleAPICalled"]
  assert told == []
  asked = {
    e["params"]["request"]["url"]
    for e in browser.events
    if e["method"] == "Network.requestWillBeSent"
  }
  assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
  assert len([url for url in asked if url.startswith("file:")]) == 1
