"""Docstrings in plain English, with shapes where arrays go in or out.

Two rules over all of melody_jax/ and data/, by the text of the files alone:

1. No docstring and no entry of one (Args, Attributes, Returns ...) begins with "of".
2. A public function, method or class with an array in its signature or fields says its shape: its
   docstring, or its class's, holds a bracket with a letter ([B, T], [samples]) or one of the words
   scalar, shape; or every array in it bears its shape in its name (x_BxTxD, audio_S).

An array is what is annotated jax.Array or np.ndarray, alone, optional, or in a tuple or list; what
bears a shape in its name; or what a network's `__call__` takes without an annotation. A dict of
arrays (parameters, a batch) and a function of arrays have no one shape and are left out, and so are
keys of random numbers (rng, key).
"""

import ast
from collections.abc import Iterator
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = sorted([*ROOT.glob("melody_jax/**/*.py"), *ROOT.glob("data/**/*.py")])

# An entry is one or more names and a colon at the start of a line: "seed:", "a, b:", "Returns:".
ENTRY = r"^[ ]*\*{0,2}\w+(?:, \*{0,2}\w+)*:"
BEGINS_WITH_OF = re.compile(rf"(?:\A|{ENTRY})\s*(of\b.*)", re.IGNORECASE | re.MULTILINE)
SHAPE_IN_NAME = re.compile(r"_(?:[A-Z]|[A-Z0-9](?:x?[A-Z0-9])+)$")  # _S, _BT, _BxTxD, _Bx1
SHAPE_IN_TEXT = re.compile(r"\[[^\]\n]*[A-Za-z][^\]\n]*\]|\b(?:scalars?|shapes?)\b", re.IGNORECASE)
RANDOM_KEY = re.compile(r"(?:^|_)(?:rng|key)$")
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def definitions(tree: ast.AST) -> Iterator[tuple[Definition, ast.ClassDef | None]]:
  """Yields (definition, class around it or None), not those inside functions."""
  for node in getattr(tree, "body", []):
    if isinstance(node, Definition):
      yield node, tree if isinstance(tree, ast.ClassDef) else None
    if isinstance(node, ast.ClassDef):
      yield from definitions(node)


def is_public(name: str) -> bool:
  return not name.startswith("_") or name in ("__call__", "__init__")


def is_array(annotation: ast.expr | None) -> bool:
  """Whether an annotation is an array, alone, optional, or in a tuple or list."""
  if isinstance(annotation, ast.Attribute):
    return ast.unparse(annotation) in ("jax.Array", "jnp.ndarray", "np.ndarray")
  if isinstance(annotation, ast.BinOp):
    return is_array(annotation.left) or is_array(annotation.right)
  if isinstance(annotation, ast.Tuple):
    return any(map(is_array, annotation.elts))
  if isinstance(annotation, ast.Subscript):
    in_order = ast.unparse(annotation.value) in ("tuple", "list", "Sequence", "Iterator")
    return in_order and is_array(annotation.slice)
  return False


def is_network(node: ast.ClassDef | None) -> bool:
  return node is not None and any(ast.unparse(base) == "nn.Module" for base in node.bases)


def arrays_of(node: Definition, around: ast.ClassDef | None = None) -> list[str]:
  """Names of the arrays in a signature or in the fields of a class; "return" for a result."""
  if isinstance(node, ast.ClassDef):
    fields = [
      (ast.unparse(f.target), f.annotation) for f in node.body if isinstance(f, ast.AnnAssign)
    ]
    named = [(name, annotation) for name, annotation in fields if is_public(name)]
  else:
    a = node.args
    named = [(p.arg, p.annotation) for p in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
    named.append(("return", node.returns))
    if is_network(around) and node.name == "__call__":
      bare = [name for name, annotation in named[1:-1] if annotation is None]
      return bare + [name for name, annotation in named if is_array(annotation)]
  return [
    name
    for name, annotation in named
    if (is_array(annotation) or SHAPE_IN_NAME.search(name)) and not RANDOM_KEY.search(name)
  ]


def entries_with_of(source: str) -> list[str]:
  """Rule 1: "line: text" of every docstring entry that begins with "of"."""
  found = []
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, Definition | ast.Module):
      text = ast.get_docstring(node, clean=False) or ""
      line = node.body[0].lineno if text else 0
      found += [
        f"{line + text.count(chr(10), 0, m.start(1))}: {m[1]}"
        for m in BEGINS_WITH_OF.finditer(text)
      ]
  return found


def without_shapes(source: str) -> list[str]:
  """Rule 2: "line: name" of every public definition that leaves its arrays' shapes unsaid."""
  found = []
  for node, around in definitions(ast.parse(source)):
    if not is_public(node.name) or (around and not is_public(around.name)):
      continue
    arrays = arrays_of(node, around)
    inputs = [name for name in arrays if name != "return"]
    text = " ".join(ast.get_docstring(n) or "" for n in (node, around) if n)
    in_names = bool(inputs) and all(map(SHAPE_IN_NAME.search, inputs))
    if arrays and not in_names and not SHAPE_IN_TEXT.search(text):
      found.append(f"{node.lineno}: {around.name + '.' if around else ''}{node.name}")
  return found


def everywhere(rule) -> str:
  return "\n".join(
    f"{path.relative_to(ROOT)}:{found}" for path in FILES for found in rule(path.read_text("utf-8"))
  )


def test_no_docstring_entry_begins_with_of():
  assert not everywhere(entries_with_of)


def test_public_docstrings_say_the_shapes_of_arrays():
  assert not everywhere(without_shapes)


@pytest.mark.parametrize(
  "docstring, wrong",
  [
    ("Args:\n    seed: of the draws.", 1),
    ("Attributes:\n    a, b: of both.\n    c:\n      of it.", 2),
    ("Returns:\n    of all, the first.", 1),
    ("Of a custom call.", 1),
    ("Args:\n    seed: Seed of the draws.", 0),
    ("Sums.\n\n  All that is needed: of each row the first.", 0),
  ],
)
def test_of_is_found_where_an_entry_begins(docstring, wrong):
  source = f'def f():\n  """{docstring}"""\n'
  assert len(entries_with_of(source)) == wrong


@pytest.mark.parametrize(
  "source, wrong",
  [
    ('def f(x: jax.Array):\n  """Doubles."""', True),
    ('def f(x: np.ndarray | None):\n  """Doubles what lies in [0, 1]."""', True),
    ('def f(n: int) -> tuple[jax.Array, int]:\n  """Zeros."""', True),
    ('def f(x_BxT, y: jax.Array):\n  """Adds."""', True),
    ("def f(x: jax.Array): ...", True),
    ('class A:\n  """Data."""\n  x: jax.Array', True),
    ('class A:\n  """Net."""\n  def __call__(self, x: jax.Array): ...', True),
    ('def f(x: jax.Array):\n  """Doubles [B, T]."""', False),
    ('def f(x: jax.Array):\n  """A scalar, doubled."""', False),
    ('def f(x_BxT: jax.Array) -> jax.Array:\n  """Doubles."""', False),
    ('class A:\n  """Net: [B, T] -> [B, T]."""\n  def __call__(self, x: jax.Array): ...', False),
    ('class A(nn.Module):\n  """Net."""\n  def __call__(self, x): ...', True),
    ('class A(nn.Module):\n  """Net: [B, C]."""\n  def __call__(self, x): ...', False),
    ('class A:\n  """Rule."""\n  def __call__(self, x): ...', False),
    ('def _f(x: jax.Array):\n  """Doubles."""', False),
    ('def f(rng: jax.Array, params: dict[str, jax.Array]):\n  """Draws."""', False),
    ('def f(velocity: Callable[[jax.Array], jax.Array]):\n  """Integrates."""', False),
  ],
)
def test_arrays_without_shapes_are_found(source, wrong):
  assert bool(without_shapes(source)) == wrong
