"""Imports follow the order of rooms in docs/architecture.md, and run in no circle."""

import ast
from pathlib import Path
import re

import pytest

Graph = dict[str, set[str]]


def order_of_rooms(page: str) -> dict[str, int]:
  """{"melody_jax/models/": number of its row} from the table of the page."""
  rows = re.findall(r"^\| (\d+) \| (.+?) \|", page, re.MULTILINE)
  assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
  rooms = {}
  for number, names in rows:
    for name in re.findall(r"`(.+?)`", names):
      rooms[name if name == "data/" else f"melody_jax/{name}"] = int(number)
  return rooms


def room_of(path: str, rooms: dict[str, int]) -> str:
  """The room of a file: the file itself, or the longest folder that is one."""
  found = [r for r in rooms if path == r or (r.endswith("/") and path.startswith(r))]
  assert found, f"{path} is in no room of docs/architecture.md"
  return max(found, key=len)


def import_graph(sources: dict[str, str]) -> Graph:
  """{file: files that it imports, anywhere in it} among `sources`, {path: text}."""
  of_module = {
    path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in sources
  }
  graph: Graph = {}
  for path, text in sources.items():
    modules: set[str] = set()
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, ast.Import):
        modules |= {alias.name for alias in node.names}
      elif isinstance(node, ast.ImportFrom):
        assert not node.level, f"{path}: imports are absolute here"
        for alias in node.names:
          whole = f"{node.module}.{alias.name}"
          modules.add(whole if whole in of_module else str(node.module))
    graph[path] = {of_module[m] for m in modules if m in of_module} - {path}
  return graph


def upward_imports(graph: Graph, rooms: dict[str, int]) -> list[str]:
  """Imports of a later room by an earlier one, as lines."""
  return [
    f"{path} imports {other}"
    for path, others in sorted(graph.items())
    for other in sorted(others)
    if rooms[room_of(other, rooms)] > rooms[room_of(path, rooms)]
  ]


def circle(graph: Graph) -> list[str]:
  """One circle of imports, or nothing: files without imports are taken away until none is left."""
  left = {path: set(others) for path, others in graph.items()}
  while free := [path for path, others in left.items() if not others & left.keys()]:
    for path in free:
      del left[path]
  if not left:
    return []
  way = [next(iter(left))]
  while len(set(way)) == len(way):
    way.append(min(left[way[-1]] & left.keys()))
  return way[way.index(way[-1]) :]


@pytest.fixture(scope="module")
def page(repository):
  return (repository / "docs" / "architecture.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def graph(repository):
  paths = [p for room in ("melody_jax", "data") for p in (repository / room).rglob("*.py")]
  return import_graph({str(p.relative_to(repository)): p.read_text("utf-8") for p in paths})


def test_every_file_has_a_room_and_every_room_a_file(page, graph):
  rooms = order_of_rooms(page)
  assert {room_of(path, rooms) for path in graph} == set(rooms)


def test_no_room_imports_a_later_one(page, graph):
  assert sum(map(len, graph.values())) > 200, "the graph was not read"
  assert upward_imports(graph, order_of_rooms(page)) == []


def test_no_circle(graph):
  assert circle(graph) == []


def test_the_top_of_the_package_is_small(repository):
  assert len(list((repository / "melody_jax").glob("*.py"))) < 24


def test_files_named_on_the_page_exist(repository, page):
  named = {name for name in re.findall(r"`([\w/]+\.py)`", page) if "NAME" not in name}
  assert len(named) > 50
  roots = (repository, repository / "melody_jax")
  assert [n for n in named if not any((root / n).is_file() for root in roots)] == []


def test_tests_mirror_the_rooms(repository, page):
  for room in order_of_rooms(page):
    if room.endswith("/"):
      mirror = repository / "tests" / room.removeprefix("melody_jax/")
      assert list(mirror.glob("test_*.py")), f"no tests of {room}"


def test_made_up_mistakes_are_found():
  rooms = {"melody_jax/low.py": 1, "melody_jax/mid/": 2, "melody_jax/mid/deep/": 3}
  sources = {
    "melody_jax/low.py": "def f():\n  from melody_jax.mid import a",
    "melody_jax/mid/a.py": "import melody_jax.mid.b",
    "melody_jax/mid/b.py": "from melody_jax.mid.a import x\nfrom melody_jax import low",
    "melody_jax/mid/deep/__init__.py": "import melody_jax.low",
  }
  graph = import_graph(sources)
  assert upward_imports(graph, rooms) == ["melody_jax/low.py imports melody_jax/mid/a.py"]
  found = circle(graph)
  assert found[0] == found[-1] and len(found) > 2
  sources["melody_jax/low.py"] = "import os"
  graph = import_graph(sources)
  assert upward_imports(graph, rooms) == []
  assert set(circle(graph)) == {"melody_jax/mid/a.py", "melody_jax/mid/b.py"}
  sources["melody_jax/mid/a.py"] = ""
  assert circle(import_graph(sources)) == []
  with pytest.raises(AssertionError, match="in no room"):
    room_of(str(Path("melody_jax") / "new.py"), rooms)
