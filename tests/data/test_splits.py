"""The split of a corpus never moves, and near-duplicates stay on one side."""

import numpy as np
import pytest

from data.splits import assign_splits, group_of


def test_assignment_depends_on_the_names_only():
  names = [f"track{i}.ogg" for i in range(40)]
  expected = assign_splits(names)
  shuffled = np.random.default_rng(0).permutation(names).tolist()
  assert assign_splits(shuffled + shuffled[:7]) == expected
  assert sorted(expected.values()).count("test") == 4
  assert sorted(expected.values()).count("validation") == 2


def test_known_tracks_keep_their_side():
  """Models were trained on this split: a change of it leaks test music into training."""
  splits = assign_splits([f"music/{i}.ogg" for i in range(20)])
  held_out = {name: split for name, split in splits.items() if split != "train"}
  assert held_out == {"music/14.ogg": "test", "music/3.ogg": "test", "music/17.ogg": "validation"}


@pytest.mark.parametrize(("package", "one", "other"), [
    ("warzone2100-music", "albums/a/track3.opus", "albums/b/track3_enhanced.opus"),
    ("colobot-common-sounds", "music/Humanitarian.ogg", "music/Hv2.ogg"),
    ("nexuiz-music", "sound/cdtracks/sixtyfour_.ogg", "sound/cdtracks/sixtyfour_revisited.ogg"),
    ("supertux-data", "music/antarctic/airship_2.ogg", "music/antarctic/airship_remix.ogg"),
    ("supertux-data", "music/retro/cave_old.ogg", "music/antarctic/cave.ogg"),
    ("supertux-data", "music/castle/fortress.ogg", "music/retro/fortress_old.ogg"),
    ("supertux-data", "music/antarctic/voc-dark.ogg", "music/antarctic/voc-night.ogg"),
])  # fmt: skip
def test_versions_of_one_piece_share_a_group(package, one, other):
  assert group_of(package, one) == group_of(package, other)
  assert group_of("another-package", one) != group_of("another-package", other)
