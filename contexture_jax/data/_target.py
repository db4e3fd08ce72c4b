"""Taking the target out of a table, as numbers or as classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from contexture_jax.data._columns import interpret
from contexture_jax.data._encoding import Column
from contexture_jax.data._messages import (
    InputError,
    closest,
    counted,
    enumerated,
    parameter,
    quoted,
)
from contexture_jax.data._remarks import notes_of
from contexture_jax.data._selection import without
from contexture_jax.data._source import Cells, Dialect, Source, is_repeated, repeated
from contexture_jax.data._table import Target
from contexture_jax.data._texts import Texts

__all__ = ["split"]

# More different integers are rather measured than named.
_MOST_CLASSES_OF_NUMBERS = 20


def split(
    source: Source,
    target: str | None,
    categorical: Sequence[str],
    dialect: Dialect,
    *,
    unlabelled: bool = False,
) -> tuple[Source, Target | None, np.ndarray, list[str]]:
    """Take the target out, and rows that have none unless `unlabelled` ones stay."""
    if target is None:
        num_rows = source.num_rows if source.columns else 0
        return source, None, np.arange(num_rows), []
    # An array beside the columns counts, under its own name or "target".
    cells, name = _target_cells(source, target)
    if not isinstance(cells, Texts) and cells.dtype.kind not in "biufUO":
        raise InputError(
            f"target {quoted(name)} of {source.title} has dtype {cells.dtype};"
            " expected numbers or text"
        )
    column = interpret(
        source, cells, name, categorical=target in categorical, dialect=dialect
    )
    present = ~column.missing
    if name in source.names:
        # A target among the features would be predicted by itself.
        source = without(source, {source.names.index(name)})
    has_left = not (unlabelled or present.all())
    notes = [] if present.all() else [_without_value(column, name, has_left)]
    if has_left:
        source = source._replace(
            # Rows without a target leave the table: they cannot be judged, and features
            # must match.
            columns=[_kept(cells, present) for cells in source.columns],
            lines=source.lines and source.lines.take(present),
        )
    if is_repeated(column.values):
        judged = Target(name, column.values, "numbers", ())
    elif column.categories:
        judged = Target(name, column.values[present], "classes", column.categories)
    else:
        exact = None if column.exact is None else column.exact[present]
        judged = _numbers_or_classes(name, column.values[present], exact)
    # As classes the integers are kept whole: nothing was rounded.
    if judged.kind == "classes" and column.exact is not None:
        column = column._replace(notes=())
    notes += notes_of([column], dialect)
    if judged.kind == "classes" and not column.categories:
        notes += _zeros_lost(name, cells, column)
    # After rows are gone: what is left may be constant where the column was not.
    if (judged.values == judged.values[0]).all():
        raise InputError(
            f"target {quoted(name)} of {source.title} has the same value in all"
            f" {len(judged.values)} rows: there is nothing to judge; name another, or"
            f" leave {parameter('target')} out{''.join(f' ({note})' for note in notes)}"
        )
    if unlabelled and not present.all():
        return source, _filled(judged, present), np.arange(len(present)), notes
    return source, judged, np.flatnonzero(present), notes


def _without_value(column: Column, name: str, has_left: bool) -> str:
    """What to say of rows without a target."""
    marks = ", ".join(
        f"{quoted(mark) if mark else 'empty'}: {count:,}"
        for mark, count in column.marks.items()
    )
    what = "left out" if has_left else "to predict"
    note = (
        f"{counted(int(column.missing.sum()), 'row')} without a value of"
        f" {quoted(name)} {what} ({marks})"
    )
    if set(column.marks) - {"", "?"}:
        note += f"; {parameter('missing')} says what counts as one"
    return note


def _filled(judged: Target, present: np.ndarray) -> Target:
    """With NaN or the class −1 in all rows but those `present`, shape (n,), bool."""
    filled = np.full(len(present), -1 if judged.kind == "classes" else np.nan)
    filled[present] = judged.values
    return judged._replace(values=filled.astype(judged.values.dtype))


def _kept(cells: Cells, kept: np.ndarray) -> Cells:
    """The cells where `kept`, shape (n,), bool, says so."""
    if isinstance(cells, Texts):
        return cells.take(kept)
    if is_repeated(cells):
        return repeated(cells[0], int(kept.sum()))
    return cells[kept]


def _target_cells(source: Source, target: str) -> tuple[Cells, str]:
    if target and target in source.names:
        return source.columns[source.names.index(target)], target
    aliases = ("target", "y") if target in ("target", "y") else ()
    for name in (target, *aliases):
        if name in source.vectors:
            return source.vectors[name], name
    if source.is_array:
        found = enumerated(source.vectors) or "none"
        raise InputError(
            f"{parameter('target')}: {source.title} has no target {quoted(target)};"
            " expected an .npz with one value a row in an array of that name (found:"
            f" {found})"
        )
    known = [name for name in (*source.names, *source.vectors) if name]
    raise InputError(
        f"{parameter('target')}: {source.title} has no column {quoted(target)}"
        f"{closest(target, known)}; its columns are {enumerated(known)}"
    )


def _numbers_or_classes(
    name: str, values: np.ndarray, exact: np.ndarray | None = None
) -> Target:
    """Few different integers are classes, anything else is numbers."""
    # By the exact integers, where float64 would join some.
    distinct, codes = np.unique(values if exact is None else exact, return_inverse=True)
    # With half as many classes as rows, hardly any would have two.
    few = len(distinct) <= min(_MOST_CLASSES_OF_NUMBERS, len(values) // 2)
    if few and all(v == int(v) for v in distinct):
        return Target(name, codes, "classes", tuple(str(int(v)) for v in distinct))
    return Target(name, values, "numbers", ())


def _zeros_lost(name: str, cells: Cells, column: Column) -> list[str]:
    """What to say where texts that differ by leading zeros make one class."""
    if not isinstance(cells, Texts) and cells.dtype.kind not in "UO":
        return []
    texts = cells if isinstance(cells, Texts) else Texts.of(cells)
    if not texts.any_matches(r"^[+-]?0\d"):
        return []
    distinct, codes = texts.distinct
    values = column.values if column.exact is None else column.exact
    # A row of each different text.
    rows = np.unique(codes, return_index=True)[1]
    alike: dict[Any, list[str]] = {}
    for text, row in zip(distinct, rows, strict=True):
        if not column.missing[row]:
            alike.setdefault(values[row], []).append(text)
    padded = re.compile(r"[+-]?0\d.*")
    same = [
        " and ".join(map(quoted, texts))
        for texts in alike.values()
        if len(texts) > 1 and any(padded.fullmatch(text) for text in texts)
    ]
    if not same:
        return []
    return [
        f"{quoted(name)} has texts that are one number, so one class:"
        f" {enumerated(same)} ({parameter('categorical', [name])} keeps them apart)"
    ]
