"""Assigns whole tracks to splits, package by package, and always in the same way.

Versions of one piece (remixes, re-masters) form a group, and all of a group go to one split.
Otherwise a model could train on a piece that the test split asks about.
"""

import hashlib
import re

TRAIN, VALIDATION, TEST = "train", "validation", "test"
TEST_OTHER = "test_other"  # whole packages that no model trains on

# (package, pattern of a file name, name of the group). A list by hand, since no metadata says which
# tracks are versions of one piece.
_NEAR_DUPLICATES = (
  ("warzone2100-music", r"(\w+?)(_enhanced)?\.opus$", r"\1"),
  ("colobot-common-sounds", r"(Humanitarian|Hv2)\.ogg$", "humanitarian"),
  ("nexuiz-music", r"sixtyfour_\w*", "sixtyfour"),
  ("supertux-data", r"(airship|cave|fortress|voc-)\w*", r"\1"),
)


def group_of(package: str, path: str) -> str:
  """Name of the group of near-duplicates that a track belongs to.

  Args:
    package: Name of the Debian package.
    path: Path of the track inside the package.

  Returns:
    The group's name; `path` itself if the track has no near-duplicates.
  """
  name = path.rsplit("/", 1)[-1]
  for where, pattern, group in _NEAR_DUPLICATES:
    match = re.match(pattern, name) if where == package else None
    if match:
      return match.expand(group)
  return path


def _rank(key: str) -> str:
  # A hash in place of random draws: the order is the same on every machine and in every version.
  return hashlib.sha256(key.encode()).hexdigest()


def assign_splits(
  groups: list[str], validation: float = 0.05, test: float = 0.10
) -> dict[str, str]:
  """Maps each group of one package to a split.

  Args:
    groups: Names of groups, in any order. Repeats are allowed.
    validation: Share of the groups for validation. A share that rounds to zero gives none.
    test: Share of the groups for the test split.

  Returns:
    {group: "train" | "validation" | "test"}. It depends only on the set of names, not on their
    order and not on a random state.
  """
  ranked = sorted(set(groups), key=_rank)
  n_test = round(test * len(ranked))
  n_validation = round(validation * len(ranked))
  splits = dict.fromkeys(ranked, TRAIN)
  splits.update(dict.fromkeys(ranked[:n_test], TEST))
  splits.update(dict.fromkeys(ranked[n_test : n_test + n_validation], VALIDATION))
  return splits
