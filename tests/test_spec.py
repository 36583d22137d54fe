"""Every citation of docs/spec.md names a section that exists there."""

from collections.abc import Iterator
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SPEC = ROOT / "docs" / "spec.md"
PLACES = ("melody_jax", "configs", "data", "launch", "docs", "tests", "benchmarks", "README.md")
SUFFIXES = (".py", ".md", ".sh")

_NUMBER = r"\d+(?:\.\d+)*"
_NUMBERS = rf"sections?\s+({_NUMBER}(?:(?:,\s*(?:and\s+)?|\s+and\s+|\s+to\s+){_NUMBER})*)"
_HEADING = re.compile(rf"^#+ ({_NUMBER})\.? ", re.MULTILINE)
_CITATION = re.compile(rf"docs/spec\.md,?\s+{_NUMBERS}")
# Within the page the sections of the paper stand in brackets; all others are its own.
_OF_THE_PAPER = re.compile(r"\[paper[^\]]*\]")
_BARE = re.compile(r"\bSPEC(?:\.md)?,?\s+sections?\b")


def headings(page: str) -> set[str]:
  """Numbers of the page's headings, "6" and "6.1" among them."""
  return set(_HEADING.findall(page))


def problems(text: str, known: set[str], citation: re.Pattern = _CITATION) -> list[str]:
  """What is wrong with a text's citations; a citation may run over a line's end."""
  joined = re.sub(r"\s*\n\s*(?:#\s*)?", " ", text)
  found = [f"bare {match.group()!r}: name docs/spec.md" for match in _BARE.finditer(joined)]
  for match in citation.finditer(joined):
    cited = re.findall(_NUMBER, match.group(1))
    found += [f"{match.group()!r}: no section {number}" for number in cited if number not in known]
  return found


def files() -> Iterator[pathlib.Path]:
  """All files that may cite the page; this one holds made-up citations."""
  for place in PLACES:
    path = ROOT / place
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
      if file.suffix in SUFFIXES and file != pathlib.Path(__file__).resolve():
        yield file


def test_every_cited_section_exists():
  known = headings(SPEC.read_text())
  texts = {file: file.read_text() for file in files()}
  wrong = [
    f"{file.relative_to(ROOT)}: {problem}"
    for file, text in texts.items()
    for problem in problems(text, known)
  ]
  assert not wrong, "\n".join(wrong)
  citing = [file for file, text in texts.items() if _CITATION.search(text)]
  assert len(citing) >= 20, f"only {len(citing)} files cite docs/spec.md: does the pattern hold?"


def test_the_page_points_at_its_own_sections():
  page = SPEC.read_text()
  own = _OF_THE_PAPER.sub("", page)
  assert not problems(own, headings(page), re.compile(rf"(?i)\b{_NUMBERS}"))


def test_sections_rise_without_gaps():
  numbers = _HEADING.findall(SPEC.read_text())
  tops = [n for n in numbers if "." not in n]
  assert tops == [str(i) for i in range(1, 9)]
  for top in tops:
    below = [n for n in numbers if n.startswith(f"{top}.")]
    assert below == [f"{top}.{i}" for i in range(1, len(below) + 1)]


@pytest.mark.parametrize(
  ("text", "missing"),
  [
    ("as docs/spec.md, section 9 says", "9"),
    ("(docs/spec.md, sections 1 and 1.3)", "1.3"),
    ("# docs/spec.md, sections 1.1, 2 and\n  # 7.7", "7.7"),
    ("A docstring (docs/spec.md,\n  section 4).", "4"),
    ("a page of SPEC section 1", "bare"),
    ("SPEC.md,\nsections 1 and 2", "bare"),
  ],
)
def test_a_wrong_citation_is_found(text, missing):
  known = headings("# Title\n\n## 1. Data\n\n### 1.1 Rates\n\n## 2. Sizes\n")
  assert known == {"1", "1.1", "2"}
  found = problems(text, known)
  assert len(found) == 1
  assert missing in found[0]


def test_a_right_citation_is_not():
  assert not problems("docs/spec.md, sections 1 and\n  # 1.1; the page docs/spec.md", {"1", "1.1"})
