"""Splits by whole track: a stable, stratified assignment of groups to splits.

Near-duplicates (remixes, re-masters) share a group, and a group never straddles
two splits, so that no window of a held-out track is ever trained on.
"""

import hashlib
import re

TRAIN, VALIDATION, TEST = "train", "validation", "test"
TEST_OTHER = "test_other"  # whole packages that no model trains on

# (package, pattern on the track's path, group): tracks that are versions of one another.
_NEAR_DUPLICATES = (
  ("warzone2100-music", r"(\w+?)(_enhanced)?\.opus$", r"\1"),
  ("colobot-common-sounds", r"(Humanitarian|Hv2)\.ogg$", "humanitarian"),
  ("nexuiz-music", r"sixtyfour_\w*", "sixtyfour"),
  ("supertux-data", r"(airship|cave|fortress|voc-)\w*", r"\1"),
)


def group_of(package: str, path: str) -> str:
  """Returns the name of the group of near-duplicates that the track at `path` is in."""
  name = path.rsplit("/", 1)[-1]
  for where, pattern, group in _NEAR_DUPLICATES:
    match = re.match(pattern, name) if where == package else None
    if match:
      return match.expand(group)
  return path


def _rank(key: str) -> str:
  return hashlib.sha256(key.encode()).hexdigest()


def assign_splits(
  groups: list[str], validation: float = 0.05, test: float = 0.10
) -> dict[str, str]:
  """Maps every distinct group of one package (one stratum) to a split.

  Args:
    groups: group names, in any order, repeats allowed.
    validation: share of groups for validation; none where it rounds to zero.
    test: share of groups for the in-domain test split.

  Returns:
    {group: "train" | "validation" | "test"}. The assignment depends on the set of
    names only; it does not depend on order or on any random state.
  """
  ranked = sorted(set(groups), key=_rank)
  n_test = round(test * len(ranked))
  n_validation = round(validation * len(ranked))
  splits = dict.fromkeys(ranked, TRAIN)
  splits.update(dict.fromkeys(ranked[:n_test], TEST))
  splits.update(dict.fromkeys(ranked[n_test : n_test + n_validation], VALIDATION))
  return splits
