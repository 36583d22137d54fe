"""One HTML page that holds all it shows: tables, plots, players. It asks nothing of a network."""

import base64
from collections.abc import Sequence
import dataclasses
import html
from typing import Any

from melody_jax.evaluation.finding import cell
from melody_jax.provenance import MARK

MAX_BYTES = 20_000_000  # of a page that mail and code hosts still take
_RESERVED = 1_500_000  # for what stands around players

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left; }
td.n, th.n { text-align: right; } th { cursor: default; } table.sort th { cursor: pointer; }
.scroll { overflow-x: auto; }
.long { max-height: 32rem; overflow-y: auto; white-space: nowrap; }
.caution { background: #f59e0b22; border-left: 4px solid #f59e0b; padding: .6rem 1rem; }
.players { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1rem; }
.player { background: var(--soft); border-radius: 8px; padding: .7rem; }
.player img { width: 100%; height: 128px; image-rendering: auto; display: block; }
.player audio { width: 100%; margin-top: .4rem; }
.player p { margin: .3rem 0 0; font-size: .85rem; }
img.plot { max-width: 100%; background: white; } .small { font-size: .85rem; opacity: .8; }
"""

# Sorts a table by the column whose head is clicked.
_SCRIPT = """
for (const table of document.querySelectorAll("table.sort"))
  table.querySelectorAll("th").forEach((head, column) => head.addEventListener("click", () => {
    const up = head.dataset.up !== "1", body = table.tBodies[0];
    table.querySelectorAll("th").forEach(h => delete h.dataset.up);
    head.dataset.up = up ? "1" : "0";
    const key = row => row.cells[column].dataset.v ?? row.cells[column].textContent;
    const order = (a, b) => a === b ? 0 : isNaN(a) || isNaN(b) ? (a < b ? -1 : 1) : a - b;
    [...body.rows].sort((a, b) => (up ? 1 : -1) * order(key(a), key(b)))
      .forEach(row => body.append(row));
  }));
"""

# Even a mistake in this page could not make a browser ask for anything.
_POLICY = (
  "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline';"
  " script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)


@dataclasses.dataclass(frozen=True)
class Player:
  """A clip to be heard.

  Attributes:
    title: Its name.
    text: What is told of it.
    sound: An MP3 file.
    picture: A PNG file, its spectrogram.
    seconds: Length of the sound.
  """

  title: str
  text: str
  sound: bytes
  picture: bytes
  seconds: float

  @property
  def size(self) -> int:
    """Bytes that it takes in the page."""
    return (len(self.sound) + len(self.picture)) * 4 // 3 + 1000


Table = tuple[tuple[str, ...], list[tuple[Any, ...]]]


@dataclasses.dataclass(frozen=True)
class Page:
  """What a page shows.

  Attributes:
    title: Its head.
    lead: Sentences under the head.
    cautions: What a reader must know first.
    scores: Table of what was measured.
    plots: (caption, PNG file) each.
    players: (head, players) each.
    clips: Table of the clips, sortable.
    details: Last lines: settings, hashes, versions.
  """

  title: str
  lead: Sequence[str]
  cautions: Sequence[str]
  scores: Table
  plots: Sequence[tuple[str, bytes]]
  players: Sequence[tuple[str, list[Player]]]
  clips: Table
  details: Sequence[str]


def _data(kind: str, content: bytes) -> str:
  return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _text(value: Any) -> str:
  return html.escape(str(value))


def _table(table: Table, is_sortable: bool = False) -> str:
  head, rows = table
  # A number may be missing from some rows of its column.
  numeric = [
    all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(head))
  ]
  kinds = [' class="n"' if n else "" for n in numeric]
  around, own = ("scroll long", ' class="sort"') if is_sortable else ("scroll", "")
  lines = [f'<div class="{around}"><table{own}><thead><tr>']
  lines += [f"<th{kind}>{_text(name)}</th>" for kind, name in zip(kinds, head, strict=True)]
  lines.append("</tr></thead><tbody>")
  for row in rows:
    cells = []
    for kind, value in zip(kinds, row, strict=True):
      shown = "-" if value is None else _text(cell(value))
      exact = f' data-v="{value!r}"' if isinstance(value, float) else ""
      cells.append(f"<td{kind}{exact}>{shown}</td>")
    lines.append(f"<tr>{''.join(cells)}</tr>")
  return "".join(lines) + "</tbody></table></div>"


def _player(player: Player) -> str:
  title = _text(player.title)
  return (
    f'<div class="player"><img alt="spectrogram of {title}" src="'
    f'{_data("image/png", player.picture)}">'
    f'<audio controls preload="metadata" src="{_data("audio/mpeg", player.sound)}"></audio>'
    f"<p><b>{title}</b> {_text(player.text)}</p></div>"
  )


def _that_fit(
  groups: Sequence[tuple[str, list[Player]]], budget: int
) -> list[tuple[str, list[Player], int]]:
  """Players while there is room, one of each group in turn: (head, players, number left out)."""
  kept: list[list[Player]] = [[] for _ in groups]
  for i in range(max((len(players) for _, players in groups), default=0)):
    for (_, players), chosen in zip(groups, kept, strict=True):
      # Those behind one that does not fit may be shorter, but an order is easier to explain.
      if i < len(players) and len(chosen) == i and players[i].size <= budget:
        budget -= players[i].size
        chosen.append(players[i])
  return [
    (head, chosen, len(players) - len(chosen))
    for (head, players), chosen in zip(groups, kept, strict=True)
  ]


def render(page: Page) -> bytes:
  """The page as UTF-8 HTML, under 20 MB: players that do not fit are left out, and it says so."""
  parts = [
    '<!doctype html><html lang="en"><head><meta charset="utf-8">',
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    # Without an icon of its own a browser asks the server for one.
    '<link rel="icon" href="data:,">',
    f"<title>{_text(page.title)}</title><style>{_STYLE}</style></head><body>",
    f"<h1>{_text(page.title)}</h1>",
    *(f"<p>{_text(line)}</p>" for line in page.lead),
  ]
  if page.cautions:
    items = "".join(f"<li>{_text(line)}</li>" for line in page.cautions)
    parts.append(f'<div class="caution"><b>Before reading on</b><ul>{items}</ul></div>')
  parts += ["<h2>Scores</h2>", _table(page.scores)]
  plots = [
    f'<figure><img class="plot" alt="{_text(caption)}" src="{_data("image/png", png)}">'
    f'<figcaption class="small">{_text(caption)}</figcaption></figure>'
    for caption, png in page.plots
  ]
  tail = ["<h2>All clips</h2>", _table(page.clips, is_sortable=True)]
  tail += [
    "<h2>How this was made</h2>",
    *(f'<p class="small">{_text(d)}</p>' for d in page.details),
  ]
  tail.append(f"<script>{_SCRIPT}</script><!-- {MARK} --></body></html>\n")
  taken = sum(len(part.encode()) for part in (*parts, *plots, *tail))
  for head, players, left_out in _that_fit(page.players, MAX_BYTES - _RESERVED - taken):
    parts.append(f"<h2>{_text(head)}</h2>")
    if left_out:
      parts.append(f'<p class="small">{left_out} more have no room in this page.</p>')
    parts.append(f'<div class="players">{"".join(map(_player, players))}</div>')
  parts += ["<h2>Plots</h2>", *plots, *tail]
  return "".join(parts).encode()
