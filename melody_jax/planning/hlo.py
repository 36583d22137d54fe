"""Counts what a compiled program moves, from its text (HLO).

XLA's own cost analysis looks at the body of a loop once, so a scan over 24 layers counts as one
layer. Here an instruction counts as often as it runs, loops included.
"""

from collections import defaultdict
from collections.abc import Iterator
import dataclasses
import math
import re

_BYTES = {
  "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4,
  "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16, "s4": 0.5, "u4": 0.5,
}  # fmt: skip
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# Instructions that move nothing: they name memory, or are part of another instruction.
_FREE = {
  "parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "conditional", "call",
  "after-all", "partition-id", "replica-id", "iota", "opt-barrier", "async-start",
}  # fmt: skip
_FREE_CALLS = {"AllocateBuffer", "ConcatBitcast"}  # custom calls that move nothing
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT\s+)?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One instruction, a line of HLO.

  Attributes:
    name: Name without %.
    opcode: Kind of instruction, for example "fusion".
    shape: Text of the result's shape, for example "f32[2,3]{1,0}".
    rest: Text of operands and attributes.
  """

  name: str
  opcode: str
  shape: str
  rest: str

  @property
  def operands(self) -> list[str]:
    """Names of the operands."""
    # Operands end at the matching bracket; attributes after it name computations, not operands.
    depth, end = 1, len(self.rest)
    for i, character in enumerate(self.rest):
      depth += (character in "({") - (character in ")}")
      if not depth:
        end = i
        break
    return re.findall(r"%([\w.\-]+)", self.rest[:end])

  def called(self, attribute: str) -> list[str]:
    """Names of the computations in an attribute such as body, calls or to_apply."""
    match = re.search(attribute + r"=(?:\{([^}]*)\}|%?([\w.\-]+))", self.rest)
    if not match:
      return []
    return re.findall(r"%?([\w.\-]+)", match[1] or match[2])

  @property
  def target(self) -> str:
    """Target of a custom call; "" for any other instruction."""
    match = re.search(r'custom_call_target="([^"]+)"', self.rest)
    return match[1] if match and self.opcode == "custom-call" else ""


def shape_bytes(shape: str, in_hbm_only: bool = False) -> float:
  """Bytes of a shape, or of a tuple of shapes.

  Args:
    shape: Text of the shape, for example "(f32[8]{0}, s32[])".
    in_hbm_only: Leaves out arrays that lie in another memory of the chip.
  """
  total = 0.0
  for kind, dimensions, layout in _ARRAY.findall(shape):
    # S(1) and above in a layout are on-chip memories, S(0) or nothing is HBM.
    if kind not in _BYTES or (in_hbm_only and re.search(r"S\([1-9]", layout)):
      continue
    total += _BYTES[kind] * math.prod(int(d) for d in dimensions.split(",") if d)
  return total


class Program:
  """The computations of a compiled module.

  Args:
    text: Result of `compiled.as_text()`.

  Attributes:
    computations: {computation: {name: instruction}}.
    roots: {computation: name of the instruction that is its result}.
    entry: Name of the computation that runs first.
  """

  def __init__(self, text: str):
    self.computations: dict[str, dict[str, Instruction]] = {}
    self.roots: dict[str, str] = {}
    self.entry = ""
    current: dict[str, Instruction] | None = None
    for line in text.splitlines():
      header = _COMPUTATION.match(line)
      if header:
        here = header[2]
        current = self.computations.setdefault(here, {})
        self.entry = here if header[1] else self.entry
        continue
      match = _INSTRUCTION.match(line) if current is not None else None
      if match and current is not None:
        name, shape, opcode, rest = match.groups()
        current[name] = Instruction(name, opcode, shape, rest)
        if line.lstrip().startswith("ROOT"):
          self.roots[here] = name

  def trips(self, loop: Instruction) -> int:
    """Number of iterations of a while loop; 1 where it cannot be found out.

    XLA for CPUs writes the number down. XLA for TPUs does not, but the loops of `lax.scan` count
    from 0 to the constant in their condition.
    """
    # What XLA itself says comes first; the rest is read off the condition.
    known = re.search(r'known_trip_count[^}]*?"n":"(\d+)"', loop.rest)
    if known:
      return int(known[1])
    (condition,) = loop.called("condition")
    here = self.computations[condition]
    root = here[self.roots[condition]]
    if root.opcode == "compare" and "direction=LT" in root.rest:
      limit = here.get(root.operands[1])
      if limit is not None and limit.opcode == "constant":
        return int(limit.rest.split(")")[0])
    return 1

  def walk(self, into_fusions: bool) -> Iterator[tuple[str, Instruction, int]]:
    """Visits everything that the entry reaches.

    Args:
      into_fusions: Visits the instructions inside fusions too. Leave them out to count traffic: a
        fusion keeps what lies between them in registers.

    Yields:
      (name of the computation, instruction, number of times it runs).
    """
    # A stack of (computation, times): what a loop calls runs as often as its loop, and loops nest.
    stack = [(self.entry, 1)]
    while stack:
      where, times = stack.pop()
      for instruction in self.computations.get(where, {}).values():
        yield where, instruction, times
        if instruction.opcode == "while":
          stack += [(name, times * self.trips(instruction)) for name in instruction.called("body")]
        elif instruction.opcode == "conditional":
          # Every branch counts, as it is not known which one is taken: an upper bound.
          branches = instruction.called("branch_computations") or (
            instruction.called("true_computation") + instruction.called("false_computation")
          )
          stack += [(name, times) for name in branches]
        elif instruction.opcode in ("call", "async-start"):
          # CPUs and TPUs name the called computation differently.
          attribute = "calls" if "calls=" in instruction.rest else "to_apply"
          stack += [(name, times) for name in instruction.called(attribute)]
        elif instruction.opcode == "fusion" and into_fusions:
          stack += [(name, times) for name in instruction.called("calls")]

  def collectives(self) -> dict[str, dict[str, float]]:
    """Collectives as {kind: {"count", "bytes"}}.

    Bytes are those of the results. A pair of start and done counts once.
    """
    found: dict[str, dict[str, float]] = defaultdict(lambda: {"count": 0, "bytes": 0.0})
    for _, instruction, times in self.walk(into_fusions=True):
      # The "-done" of a pair is no collective by this name, so a pair counts once.
      kind = instruction.opcode.removesuffix("-start")
      if kind not in COLLECTIVES:
        continue
      # An asynchronous start returns (operands, results, ...): the largest is what moves.
      arrays = [shape_bytes(m.group(0)) for m in _ARRAY.finditer(instruction.shape)]
      asynchronous = instruction.opcode.endswith("-start")
      size = max(arrays, default=0.0) if asynchronous else sum(arrays)
      found[kind]["count"] += times
      found[kind]["bytes"] += times * size
    return dict(found)

  def between_slices(self, slices: int) -> dict[str, float]:
    """What each device sends to other slices, as {"count", "bytes"}.

    The TPU compiler writes it as sends to the host, each with its kind of transfer.

    Args:
      slices: Number of slices n. A sum over them costs 2 (n - 1) / n of its bytes, as on a ring;
        what all others get is sent n - 1 times.
    """
    shares = {"ALL_REDUCE": 2 * (slices - 1) / slices, "ALL_GATHER": slices - 1}
    total = {"count": 0.0, "bytes": 0.0}
    for _, instruction, times in self.walk(into_fusions=True):
      kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.rest)
      array = _ARRAY.search(instruction.shape)
      if instruction.opcode != "send" or not kind or not array:
        continue
      total["count"] += times
      total["bytes"] += times * shape_bytes(array.group(0)) * shares.get(kind[1], 1)
    return total

  def hbm_bytes(self) -> float:
    """Bytes read from and written to HBM: operands and results of all instructions.

    A fusion counts as one instruction.
    """
    total = 0.0
    for where, instruction, times in self.walk(into_fusions=False):
      if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
        continue
      if instruction.target not in _FREE_CALLS:
        total += times * self._moved(self.computations[where], instruction)
    return total

  def _moved(self, here: dict[str, Instruction], instruction: Instruction) -> float:
    """Bytes that one instruction reads from and writes to HBM.

    Where it reads or writes a slice of an array, only the slice counts.
    """
    # Operands of other computations are counted there.
    sizes = [shape_bytes(here[o].shape, True) for o in instruction.operands if o in here]
    written = shape_bytes(instruction.shape, in_hbm_only=True)
    # Slices: a scan reads one layer of stacked parameters per iteration, not all of them.
    if instruction.opcode == "dynamic-slice":
      return min(sizes[0], shape_bytes(instruction.shape)) + written
    if instruction.opcode == "dynamic-update-slice":
      return sizes[1] + min(written, shape_bytes(here[instruction.operands[1]].shape))
    if instruction.opcode == "copy-start":  # (destination, source, a token)
      destination = _ARRAY.search(instruction.shape)
      return sizes[0] + (shape_bytes(destination.group(0), True) if destination else 0.0)
    if instruction.opcode == "fusion":
      (called,) = instruction.called("calls")
      read = [min(size, self._read(called, i)) for i, size in enumerate(sizes)]
      return sum(read) + self._written(called, instruction)
    return sum(sizes) + written

  def _read(self, fusion: str, parameter: int) -> float:
    """Bytes that a fusion reads of one parameter.

    Infinite where anything but slices of it is used; the caller then takes the whole parameter.
    """
    inner = self.computations[fusion]
    total, names = 0.0, [
      name for name, i in inner.items()
      if i.opcode == "parameter" and i.rest.split(")")[0] == str(parameter)
    ]  # fmt: skip
    while names:
      name = names.pop()
      for user in inner.values():
        for position in (i for i, operand in enumerate(user.operands) if operand == name):
          if user.opcode == "dynamic-slice" and position == 0:
            total += shape_bytes(user.shape)
          elif user.opcode == "bitcast":
            names.append(user.name)
          elif user.opcode == "fusion":
            total += self._read(user.called("calls")[0], position)
          # Updated in place: the old values are not read.
          elif user.opcode != "dynamic-update-slice" or position != 0:
            return math.inf
    return total

  def _written(self, fusion: str, instruction: Instruction) -> float:
    """Bytes that a fusion writes to HBM; of an array that is updated in place, the update only."""
    inner = self.computations[fusion]
    root = inner[self.roots[fusion]]
    results = root.operands if root.opcode == "tuple" else [root.name]
    # One array for each result, in their order.
    arrays = [match.group(0) for match in _ARRAY.finditer(instruction.shape)]
    if len(arrays) != len(results):  # its root is one instruction with several results
      return shape_bytes(instruction.shape, in_hbm_only=True)
    total = 0.0
    for array, name in zip(arrays, results, strict=True):
      result = inner[name]
      # A bitcast moves nothing; what it renames may be an update in place.
      while result.opcode == "bitcast":
        result = inner[result.operands[0]]
      if result.opcode == "dynamic-update-slice":
        result = inner[result.operands[1]]
      total += min(shape_bytes(array, in_hbm_only=True), shape_bytes(result.shape))
    return total

  def custom_calls(self) -> dict[str, int]:
    """Custom calls as {target: number of times it runs}."""
    found: dict[str, int] = defaultdict(int)
    for _, instruction, times in self.walk(into_fusions=True):
      if instruction.target:
        found[instruction.target] += times
    return dict(found)
