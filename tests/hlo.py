"""What a compiled program says of itself: collectives, and shapes of its arrays."""

import math
import re
from collections import Counter
from typing import NamedTuple

_KINDS = (
    "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    "|collective-broadcast"
)
_BYTES = {"pred": 1, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_ARRAY = re.compile(r"\b(pred|[suf]\d+)\[([\d,]*)\]")
_CALLED = re.compile(
    r"(?:to_apply|body|condition|calls|true_computation|false_computation)=%?([\w.-]+)"
)


class Program(NamedTuple):
    """The computations of a program, by name, and the one that it starts in."""

    computations: dict[str, list[str]]
    entry: str


def parse(text: str) -> Program:
    """Split the text of a compiled program into its computations."""
    computations: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$", line)
        if head:
            name = head[2]
            entry = name if head[1] else entry
            computations[name] = []
        elif name:
            computations[name].append(line.strip())
    return Program(computations, entry)


def collectives(text: str, *, loops: bool = True) -> Counter[tuple[str, int]]:
    """How often a program runs each collective, as (kind, bytes of the operand).

    A loop of a known number of steps counts its body that often, of other loops, such
    as the iterations of a solver, the body counts once (or, without `loops`, not at
    all), and all branches count.
    """
    program = parse(text)

    def count(name: str) -> Counter[tuple[str, int]]:
        found: Counter[tuple[str, int]] = Counter()
        for line in program.computations[name]:
            made = re.match(rf"(?:ROOT )?\S+ = (.*?) ({_KINDS})(-start)?\(", line)
            if made:
                found[made[2], _size(made[1])] += 1
                continue
            known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
            times = int(known[1]) if known else 1
            if " while(" in line and not known and not loops:
                continue
            branches = re.search(r"branch_computations=\{([^}]*)\}", line)
            names = _CALLED.findall(line)
            if branches:
                names += [part.strip(" %") for part in branches[1].split(",")]
            for called in names:
                for what, often in count(called).items():
                    found[what] += times * often
        return found

    return count(program.entry)


def shapes(text: str) -> set[tuple[int, ...]]:
    """Shapes of all arrays that stand in the program of one device."""
    return {
        tuple(int(size) for size in dims.split(",") if size)
        for _, dims in _ARRAY.findall(text)
    }


def _size(result: str) -> int:
    return sum(
        _BYTES[dtype] * math.prod(int(size) for size in dims.split(",") if size)
        for dtype, dims in _ARRAY.findall(result)
    )
