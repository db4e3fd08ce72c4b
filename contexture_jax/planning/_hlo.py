"""The collectives in the text of a compiled program."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

__all__ = ["Found", "collectives"]

_KINDS = (
    "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    "|collective-broadcast"
)
# A line such as `%x = f32[8,4]{1,0} all-reduce(%y), replica_groups=…`. What is named
# `-done` ends one that has been counted.
_LINE = re.compile(rf"= (.*?) ({_KINDS})(-start)?\((.*)$")
_ARRAY = re.compile(r"\b(pred|bf16|[sufc]\d+)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$")
_TRIPS = re.compile(r'body=%?([\w.-]+).*known_trip_count":\{"n":"(\d+)"')
_CALLED = re.compile(
    r"(?:to_apply|body|calls|true_computation|false_computation)=%?([\w.-]+)"
    r"|branch_computations=\{([^}]*)\}"
)


class Found(NamedTuple):
    """A collective as it stands in a program.

    Attributes:
        kind: its name in XLA.
        bytes: of the array that it makes, or, of a hop, that it sends.
        group: how many devices take part in one; 0: all.
        times: how often, at least: bodies of loops whose number of steps is not in the
            text count once.
        in_pass: whether it is within the loop over the passes of a solver.
    """

    kind: str
    bytes: int
    group: int
    times: int
    in_pass: bool


def collectives(text: str) -> list[Found]:
    """All collectives of a compiled program, in the order of its text."""
    times = _times(text)
    found, name = [], ""
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            name = head[1]
        made = _LINE.search(line)
        if not made:
            continue
        arrays, kind, starts, rest = made.groups()
        sizes = [_size(*array) for array in _ARRAY.findall(arrays)]
        if starts and kind in ("collective-permute", "all-gather") and len(sizes) > 1:
            # What it takes, what it makes, and two marks of the schedule.
            sizes = sizes[1:2]
        in_pass = re.search(r'op_name="[^"/]*/while/body', rest) is not None
        found.append(Found(kind, sum(sizes), _group(rest), times.get(name, 1), in_pass))
    return found


def _times(text: str) -> dict[str, int]:
    """How often each computation runs, by the loops whose number of steps is said."""
    inside: dict[str, list[tuple[str, int]]] = {}
    name = entry = ""
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            name = head[1]
            entry = name if line.startswith("ENTRY") else entry
        known = _TRIPS.search(line)
        for one, several in _CALLED.findall(line):
            for called in [one] if one else several.split(","):
                called = called.strip(" %")
                often = int(known[2]) if known and known[1] == called else 1
                inside.setdefault(name, []).append((called, often))
    found: dict[str, int] = {}

    def walk(name: str, times: int) -> None:
        # Called from several places: as often as from the busiest.
        if found.get(name, 0) >= times:
            return
        found[name] = times
        for called, often in inside.get(name, []):
            walk(called, times * often)

    walk(entry, 1)
    return found


def _group(rest: str) -> int:
    """Devices of one group, in any of the forms in which XLA writes them; 0: all."""
    named = re.search(r"replica_groups=mesh\[([^\]]*)\](?: \{([^}]*)\})?", rest)
    if named:
        sides = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        axes = re.findall(r"'(\w+)'", named[2] or "")
        return math.prod(int(sides[axis]) for axis in axes) if axes else 0
    counted = re.search(r"replica_groups=\[\d+,(\d+)\]", rest)
    if counted:
        return int(counted[1])
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", rest)
    if listed:
        return len(listed[1].split(","))
    pairs = re.search(r"source_target_pairs=\{(\{[\d,{}]*\})\}", rest)
    return pairs[1].count("{") if pairs else 0


def _size(dtype: str, dims: str) -> int:
    bits = re.sub(r"\D", "", dtype)
    item = max(int(bits) // 8, 1) if bits else 1
    return item * math.prod(int(size) for size in dims.split(",") if size)
