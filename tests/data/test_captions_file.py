"""Captions files as people and programs write them: read in full, or refused with the place."""

import codecs
import json

import pytest

from data.music_folder.captions_file import read_captions
from data.music_folder.matching import match
from melody_jax.errors import UserError

FILES = ("a.wav", "b.wav", "live/c.flac")


def read(tmp_path, content, name="c.csv", encoding="utf-8"):
  path = tmp_path / name
  path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
  return read_captions(path)


def captions_of(file):
  return {row.file: row.captions for row in file.rows}


GOOD = {
  "plain": "file,caption\na.wav,slow piano\n",
  "blank after the comma": "file, caption\na.wav, slow piano\n",
  "blanks around": " File , CAPTION \na.wav,slow piano\n",
  "byte order mark": "\ufefffile,caption\na.wav,slow piano\n",
  "quoted header": '"file","caption"\n"a.wav","slow piano"\n',
  "semicolons": "file;caption\na.wav;slow piano\n",
  "tabs": "file\tcaption\na.wav\tslow piano\n",
  "Excel's delimiter line": "sep=;\r\nfile;caption\r\na.wav;slow piano\r\n",
  "Windows lines": "file,caption\r\na.wav,slow piano\r\n",
  "old Mac lines": "file,caption\ra.wav,slow piano\r",
  "empty lines": "\nfile,caption\n\na.wav,slow piano\n\n,\n",
  "line break in a field": 'file,caption\na.wav,"slow\npiano"\n',
  "other ends of lines": "file,caption\na.wav,slow\u2028piano\n",
  "next line": 'file,caption\na.wav,"slow\x85\u2029piano"\n',
  "file_name, text": "file_name,text\na.wav,slow piano\n",
  "path, prompt": "Path,Prompt\na.wav,slow piano\n",
  "audio, description": "audio,description\na.wav,slow piano\n",
  "hyphen": "audio-path,text prompt\na.wav,slow piano\n",
  "empty columns of a spreadsheet": "file,caption,,\na.wav,slow piano,,\n",
  "more empty fields than columns": "file,caption\na.wav,slow piano,,\n",
}


@pytest.mark.parametrize("content", GOOD.values(), ids=GOOD)
def test_csv_as_people_write_it(tmp_path, content):
  file = read(tmp_path, content)
  assert captions_of(file) == {"a.wav": ["slow piano"]} and file.notes == []


JSON_FILES = {
  "lines": ("x.jsonl", '{"file": "a.wav", "caption": "slow piano"}\n'),
  "lines, other ends": ("x.jsonl", '{"file": "a.wav", "caption": "slow\u2028piano"}\r\n\r\n'),
  "array": ("x.json", '[\n {"file": "a.wav",\n  "captions": ["slow piano"]}\n]'),
  "array in .jsonl": ("x.jsonl", '[{"path": "a.wav", "text": "slow piano"}]'),
  "one object over lines": ("x.json", '{\n "file": "a.wav",\n "caption": "slow piano"\n}'),
  "files as names": ("x.json", '{"a.wav": "slow piano"}'),
  "files as names of objects": ("x.json", '{"a.wav": {"caption": "slow piano", "tags": []}}'),
  "empty values": ("x.json", '[{"file": "a.wav", "caption": "slow piano", "title": NaN}]'),
}


@pytest.mark.parametrize(("name", "content"), JSON_FILES.values(), ids=JSON_FILES)
def test_json_of_every_shape(tmp_path, name, content):
  assert captions_of(read(tmp_path, content, name)) == {"a.wav": ["slow piano"]}


REFUSED = {
  "empty": ("", "is empty"),
  "blank": (" \n\n", "is empty"),
  "no rows": ("file,caption\n", "has no rows"),
  "misspelt caption": ("file,captoin\na.wav,x\n", "'captoin' (did you mean 'caption'?)"),
  "misspelt file": ("fiel,caption\na.wav,x\n", "'fiel' (did you mean 'file'?)"),
  "misspelt split": ("file,caption,spilt\na.wav,x,test\n", "'spilt' (did you mean 'split'?)"),
  "no header": ("a.wav,slow piano\n b.wav,x\n", "line 1: no column 'file'"),
  "unquoted comma": (
    "file,caption\nb.wav,x\na.wav,slow, quiet piano\n",
    "line 3: 3 fields for 2 columns: put quotes around a text with commas",
  ),
  "unquoted line break": ("file,caption\na.wav,slow\npiano\n", "line 3: no field for column"),
  "unclosed quote": (
    'file,caption\nb.wav,x\na.wav,"slow piano\n',
    "line 3: unexpected end of data",
  ),
  "unclosed quote, later closed": (
    'file,caption\na.wav,"slow piano\nb.wav,fast drums"\n',
    "line 2, column 'caption': a quote is not closed: the text goes on into 'b.wav,fast drums",
  ),
  "quote inside quotes": ('file,caption\na.wav,"a "slow" one"\n', "line 2: ',' expected after"),
  "no file in a row": ("file,caption\na.wav,x\n,slow piano\n", "line 3: no 'file'"),
  "line numbers after a field of two lines": (
    'file,caption\na.wav,"slow\npiano"\nb.wav,x,y\n',
    "line 4: 3 fields",
  ),
  "zero bytes": (b"file,caption\na.wav,x\0y\n", "zero bytes"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_uncertain_is_refused_with_its_place(tmp_path, content, message):
  with pytest.raises(UserError) as error:
    read(tmp_path, content)
  assert message in str(error.value) and f"{tmp_path}/c.csv" in str(error.value)
  assert "\n" not in str(error.value)


JSON_REFUSED = {
  "third line": ('{"file": "a.wav"}\n\n{"file": "b.wav"\n', "line 3: malformed JSON"),
  "array, second line": ('[{"file": "a.wav"},\n {"file" "b.wav"}]', "line 2: malformed JSON"),
  "no object": ('{"file": "a.wav"}\n"b.wav"\n', "line 2: not an object"),
  "no file": ('{"file": "a.wav"}\n{"caption": "x"}\n', "line 2: no 'file'"),
  "no text": ('{"file": "a.wav", "caption": {"en": "x"}}\n', "line 1, column 'caption'"),
  "brackets without an end": ("[" * 100_000, "line 1: malformed JSON: brackets within brackets"),
  "misspelt": ('{"file": "a.wav", "captoin": "x"}\n', "did you mean 'caption'"),
}


@pytest.mark.parametrize(("content", "message"), JSON_REFUSED.values(), ids=JSON_REFUSED)
def test_wrong_json_names_the_line_of_the_file(tmp_path, content, message):
  with pytest.raises(UserError) as error:
    read(tmp_path, content, "c.jsonl")
  assert message in str(error.value)


WESTERN = "Café für zwei \u2013 naïve “jazz”"
UMLAUTS = f"file,caption\na.wav,{WESTERN}\n"


@pytest.mark.parametrize(("data", "name"), [
    (UMLAUTS.encode("cp1252"), "Latin-1"),
    (UMLAUTS.encode("utf-16"), "UTF-16"),
    (UMLAUTS.encode("utf-16-le"), "UTF-16"),
    (UMLAUTS.encode("utf-16-be"), "UTF-16"),
    (codecs.BOM_UTF32_LE + UMLAUTS.encode("utf-32-le"), "UTF-32"),
])  # fmt: skip
def test_other_encodings_are_read_and_named(tmp_path, data, name):
  file = read(tmp_path, data)
  assert file.rows[0].captions == [WESTERN]
  assert len(file.notes) == 1 and f"read as {name}" in file.notes[0]


@pytest.mark.parametrize(("text", "encoding"), [
    ("медленное", "cp1251"), ("медленное", "koi8-r"), ("αργό", "cp1253"), ("音乐", "gbk"),
    ("ピアノ", "shift_jis"), ("音樂", "big5"), ("피아노", "euc-kr"),
    ("Café", "mac_roman"), ("Café", "cp437"),
])  # fmt: skip
def test_encodings_that_cannot_be_told_are_refused(tmp_path, text, encoding):
  with pytest.raises(
    UserError, match="line 2: neither UTF-8 nor clearly Latin-1: save it as UTF-8"
  ):
    read(tmp_path, f"file,caption\na.wav,{text}\n", encoding=encoding)


def test_columns_that_are_not_understood_are_named(tmp_path):
  music_caps = (
    "ytid,start_s,end_s,aspect_list,caption,author_id\n"
    "a,30,40,\"['slow', 'soft piano']\",\"Slow, quiet piano.\",4\n"
    "a,30,40,\"['sad']\",A sad piano.,5\n"
  )
  file = read(tmp_path, music_caps)
  assert len(file.notes) == 1
  assert file.notes[0].endswith("not understood: 'start_s', 'end_s', 'author_id'")
  assert [row.tags for row in file.rows] == [["slow", "soft piano"], ["sad"]]
  about, notes = match(file, tmp_path / "c.csv", tmp_path, FILES)
  assert about["a.wav"].captions == ["Slow, quiet piano.", "A sad piano."]
  assert about["a.wav"].tags == ["slow", "soft piano", "sad"]
  assert notes == [f"captions file {tmp_path}/c.csv: 1 of 3 files have captions"]


def test_several_columns_of_captions_count_all(tmp_path):
  file = read(tmp_path, "file,caption,caption_2,caption\na.wav,one,two,three|four\n")
  assert captions_of(file) == {"a.wav": ["one", "three", "four", "two"]}


def test_rows_that_match_no_file_are_named(tmp_path):
  file = read(tmp_path, "file,caption\na.wav,x\ngone.wav,y\nlost.wav,z\n")
  _, notes = match(file, tmp_path / "c.csv", tmp_path, FILES)
  assert notes[1].endswith("rows that match no file (2): gone.wav (line 3), lost.wav (line 4)")
  with pytest.raises(UserError, match=r"2 files that are not in .* the first is x.wav \(line 2\)"):
    match(read(tmp_path, "file\nx.wav\ny.wav\n"), tmp_path / "c.csv", tmp_path, FILES)


@pytest.mark.parametrize(("name", "file"), [
    ("./a.wav", "a.wav"), ("A.WAV", "a.wav"), ("a", "a.wav"), ("live\\c.flac", "live/c.flac"),
    ("c.flac", "live/c.flac"), ("music/a.wav", "a.wav"), ("{folder}/live/c.flac", "live/c.flac"),
    ("other/a.wav", None), ("a.mp3", None),
])  # fmt: skip
def test_names_of_files(tmp_path, name, file):
  folder = tmp_path / "music"
  text = f"file,caption\n{name.format(folder=folder)},x\nb.wav,y\n"
  about, _ = match(read(tmp_path, text), tmp_path / "c.csv", folder, FILES)
  assert set(about) == ({"b.wav", file} if file else {"b.wav"})


def test_a_name_that_may_mean_two_files_means_none(tmp_path):
  file = read(tmp_path, "file,caption\nb.wav,y\nx,slow\n")
  about, notes = match(file, tmp_path, tmp_path, ("b.wav", "x.wav", "x.flac"))
  assert set(about) == {"b.wav"} and "rows that match no file (1): x (line 3)" in notes[1]


@pytest.mark.parametrize("field", ["split", "licence", "title", "author"])
def test_rows_that_contradict_each_other_are_refused(tmp_path, field):
  file = read(tmp_path, f"file,caption,{field}\na.wav,x,test\nb.wav,x,\n./a.wav,y,train\n")
  with pytest.raises(UserError, match=f"line 2 and line 4 give a.wav different values of {field}"):
    match(file, tmp_path / "c.csv", tmp_path, FILES)


def test_lists_in_json_keep_their_commas_and_bars(tmp_path):
  row = {"file": "a.wav", "captions": ["a|b", "c"], "tags": ["x, y"]}
  file = read(tmp_path, json.dumps(row), "c.jsonl")
  assert file.rows[0].captions == ["a|b", "c"] and file.rows[0].tags == ["x, y"]


def test_a_file_named_twice_in_an_object_has_both_captions(tmp_path):
  file = read(tmp_path, '{"a.wav": "slow piano", "b.wav": ["x"], "a.wav": "a waltz"}', "c.json")
  assert captions_of(file) == {"a.wav": ["slow piano", "a waltz"], "b.wav": ["x"]}
