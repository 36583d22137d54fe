"""Reads float tensors of a TensorFlow checkpoint without TensorFlow.

A checkpoint (tensorflow/core/util/tensor_bundle) is an index, a LevelDB table from variable
names to protocol buffers that say where each tensor lies, and a data file of raw values.
"""

from collections.abc import Iterator
import math
from typing import Any

import numpy as np

_MAGIC = 0xDB4775248B80FB57  # the last eight bytes of a LevelDB table
_FOOTER = 48
_DT_FLOAT = 1


def _varint(data: bytes, at: int) -> tuple[int, int]:
  """A base-128 integer at `at` -> (value, position behind it)."""
  value = shift = 0
  while True:
    byte = data[at]
    value |= (byte & 0x7F) << shift
    at, shift = at + 1, shift + 7
    if byte < 0x80:
      return value, at


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
  """(field number, value) pairs of a protocol buffer."""
  at = 0
  while at < len(message):
    key, at = _varint(message, at)
    number, kind = key >> 3, key & 7
    if kind == 0:
      value, at = _varint(message, at)
      yield number, value
      continue
    if kind == 2:
      size, at = _varint(message, at)
    else:
      size = {1: 8, 5: 4}[kind]
    yield number, message[at : at + size]
    at += size


def _block(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
  """(key, value) pairs of one block of the table."""
  if table[offset + size] != 0:
    raise ValueError("the checkpoint's index is compressed")
  data = table[offset : offset + size]
  restarts = int.from_bytes(data[-4:], "little")
  at, end, key = 0, size - 4 * (restarts + 1), b""
  while at < end:
    # LevelDB stores of each key only what differs from the key before it.
    shared, at = _varint(data, at)
    fresh, at = _varint(data, at)
    length, at = _varint(data, at)
    key = key[:shared] + data[at : at + fresh]
    at += fresh
    yield key, data[at : at + length]
    at += length


def _handle(data: bytes, at: int = 0) -> tuple[int, int, int]:
  offset, at = _varint(data, at)
  size, at = _varint(data, at)
  return offset, size, at


def _shape(message: bytes) -> tuple[int, ...]:
  sizes = []
  for number, value in _fields(message):
    if number == 2:
      sizes.append(next((int(v) for n, v in _fields(value) if n == 1), 0))
  return tuple(sizes)


def read_float_tensors(index: bytes, data: bytes) -> dict[str, np.ndarray]:
  """All float32 variables of a checkpoint with one data shard.

  Args:
    index: Contents of `<prefix>.index`.
    data: Contents of `<prefix>.data-00000-of-00001`.

  Returns:
    {variable name: float32 array of its own shape}; variables of other types are left out.

  Raises:
    ValueError: if these are not the files of such a checkpoint.
  """
  if len(index) < _FOOTER or int.from_bytes(index[-8:], "little") != _MAGIC:
    raise ValueError("not the index of a TensorFlow checkpoint")
  # The footer points to the index block, whose entries point to the blocks of variables.
  _, _, behind = _handle(index, len(index) - _FOOTER)
  offset, size, _ = _handle(index, behind)
  tensors = {}
  for _, handle in _block(index, offset, size):
    for key, entry in _block(index, *_handle(handle)[:2]):
      if not key:  # the header
        continue
      fields = dict(_fields(entry))
      if fields.get(1) != _DT_FLOAT:
        continue
      shape, start, length = _shape(fields.get(2, b"")), fields.get(4, 0), fields.get(5, 0)
      if length != 4 * math.prod(shape) or start + length > len(data):
        raise ValueError(f"checkpoint entry {key.decode()!r} does not fit its data file")
      # Copied: an array over the buffer would be read-only and keep the whole file in memory.
      flat = np.frombuffer(data, "<f4", math.prod(shape), start)
      tensors[key.decode()] = flat.reshape(shape).copy()
  return tensors
