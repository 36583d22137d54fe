"""Tags out, sentences in."""

import json
import sys

import pytest

from data import captions_export
from data.build import build_dataset
from data.music_folder.corpus import FolderCorpus
from data.retold import RetoldCorpus, read_sentences
from melody_jax.errors import UserError
from melody_jax.input_pipeline.dataset import Dataset
from melody_jax.input_pipeline.shards import shards_of


def records_of(root):
  return [record for split in shards_of(root) for record, _ in Dataset(root, split)]


def test_sentences_go_around_through_a_file(sounds, tmp_path, monkeypatch):
  build_dataset(FolderCorpus(sounds), tmp_path / "d")
  file = tmp_path / "tags.jsonl"
  monkeypatch.setattr(sys, "argv", ["x", f"--source={tmp_path / 'd'}", f"--out={file}"])
  captions_export.main()
  rows = [json.loads(line) for line in file.read_text().splitlines()]
  before = records_of(tmp_path / "d")
  assert {row["track"] for row in rows} == {record["track"] for record in before}
  assert all(row["tags"] and row["captions"] == [] and "title" not in row for row in rows)
  with pytest.raises(UserError, match="is there already"):
    captions_export.main()  # sentences may have been written into it
  rows[0]["captions"] = ["A bell  rings.", "A bell rings.", ""]
  file.write_text("".join(json.dumps(row) + "\n" for row in rows))
  retold = RetoldCorpus(FolderCorpus(sounds), file)
  assert retold.identity() != FolderCorpus(sounds).identity()
  assert any(f"captions of 1 of {len(retold.tracks())}" in note for note in retold.notes)
  build_dataset(retold, tmp_path / "r")
  for old, new in zip(before, records_of(tmp_path / "r"), strict=True):
    told = ["A bell rings."] if new["track"] == rows[0]["track"] else old["captions"]
    assert new == old | {"captions": told}


@pytest.mark.parametrize(("text", "message"), [
    ("{", "line 1: not JSON"), ("[]", "line 1: not an object"),
    ('{"track": "a", "captions": "x"}', "not a list of texts"),
    ('{"track": "a"}\n\n{"track": "a"}', "line 3: track a has a line already"),
])  # fmt: skip
def test_a_file_that_is_not_as_it_should_be_is_told_with_its_line(tmp_path, text, message):
  (tmp_path / "x.jsonl").write_text(text)
  with pytest.raises(UserError, match=message):
    read_sentences(tmp_path / "x.jsonl")


def test_sentences_of_another_corpus_are_refused(sounds, tmp_path):
  (tmp_path / "x.jsonl").write_text('{"track": "zzz", "captions": ["Hm."]}')
  with pytest.raises(UserError, match="no track of .* is named 'zzz'"):
    RetoldCorpus(FolderCorpus(sounds), tmp_path / "x.jsonl")
