"""Which columns of a table are taken: by name, and without an index."""

from __future__ import annotations

from collections.abc import Sequence

from contexture_jax.data._messages import (
    InputError,
    closest,
    enumerated,
    parameter,
    quoted,
)
from contexture_jax.data._source import Cells, Source

__all__ = ["check_names", "dropped", "without", "without_index"]


def check_names(
    source: Source, names: Sequence[str], option: str, *, beside: str | None = None
) -> None:
    """Refuse names that a parameter gives and no column has, but for one."""
    # A column without a name cannot be called by one.
    known = [name for name in source.names if name]
    for name in names:
        if name not in known and name != beside:
            raise InputError(
                f"{parameter(option)}: {source.title} has no column {quoted(name)}"
                f"{closest(name, known)}; its columns are {enumerated(known)}"
            )


def dropped(source: Source, drop: Sequence[str], target: str | None) -> Source:
    """Leave out what `drop` names, before anything looks into it."""
    # Both is a slip of the hand, whichever was meant.
    if target is not None and target in drop:
        raise InputError(
            f"{parameter('drop')} and {parameter('target')} both name {quoted(target)}"
        )
    check_names(source, drop, "drop")
    # By number from here on.
    return without(source, {source.names.index(name) for name in drop})


def without(source: Source, dropped: set[int]) -> Source:
    """Leave out columns by their numbers."""
    keep = [i for i in range(len(source.names)) if i not in dropped]
    return source._replace(
        names=[source.names[i] for i in keep],
        columns=[source.columns[i] for i in keep],
    )


def without_index(
    source: Source, named: Sequence[str | None]
) -> tuple[Source, list[str]]:
    """Leave out a saved index: what the file calls one, or a first column that counts.

    The latter has no name. An index that an option names stays.
    """
    index = {
        i
        for i, name in enumerate(source.names)
        # What the file calls an index labels rows, unless it is asked for.
        if name in source.index_names and name not in named
    }
    notes = []
    if index:
        names = enumerated(source.names[i] or "without a name" for i in sorted(index))
        notes.append(f"the index of the rows left out: {names}")
        source = without(source, index)
    if not source.names or source.names[0]:
        return source, notes
    if not _counts_rows(source, source.columns[0]):
        raise InputError(
            f"column 1 of {source.title} has no name; expected one in the header"
        )
    notes.append("the first column has no name and numbers the rows: left out")
    return without(source, {0}), notes


def _counts_rows(source: Source, cells: Cells) -> bool:
    counted = [
        # 0, 1, … or 1, 2, …: a saved index; anything else needs a name.
        [str(i) for i in range(start, start + source.num_rows)]
        for start in (0, 1)
    ]
    return [str(cell) for cell in cells.tolist()] in counted
