"""From DATA to what a context is made of: features or counts, and a target."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from contexture_jax.cli._columns import encode, interpret
from contexture_jax.cli._messages import (
    InputError,
    closest,
    counted,
    enumerated,
    quoted,
)
from contexture_jax.cli._read import BUILT_INS, read
from contexture_jax.cli._source import Source

__all__ = ["Table", "Target", "load_counts", "load_features"]

_MOST_CLASSES_OF_NUMBERS = 20


class Target(NamedTuple):
    """What the functions of a context are judged against.

    Attributes:
        name: the name of the column.
        values: numbers, shape (n,), float64; or the class of each row as an index into
            `class_names`, shape (n,), int64.
        kind: whether `values` are numbers or classes.
        class_names: the classes; empty for numbers.
    """

    name: str
    values: np.ndarray
    kind: Literal["classes", "numbers"]
    class_names: tuple[str, ...]


class Table(NamedTuple):
    """DATA, ready for a context.

    Attributes:
        title: what to call it.
        features: shape (n, d), float64: encoded columns, or counts as they are.
        feature_names: the names of the columns of `features`.
        target: what to judge against, or None.
        num_columns: how many columns of DATA the features come from.
        rows: which rows of DATA these are, counted from 0, shape (n,), int64.
        notes: what was done to the data that a reader should know.
        num_constant: how many further columns were left out as constant.
    """

    title: str
    features: np.ndarray
    feature_names: list[str]
    target: Target | None
    num_columns: int
    rows: np.ndarray
    notes: list[str]
    num_constant: int = 0


def load_features(
    data: str,
    *,
    target: str | None = None,
    drop: Sequence[str] = (),
    categorical: Sequence[str] = (),
) -> Table:
    """Read DATA and encode each column as features of mean 0 and total variance 1.

    Numbers are standardised, missing ones after they became the median of their column;
    categories are one-hot (see `_columns`). Constant columns are left out, and rows
    without a target too.

    Args:
        data: a path or the name of a built-in set.
        target: the column to leave out of the features and to judge against.
        drop: columns to leave out altogether.
        categorical: columns to take as categories even if they hold numbers.

    Raises:
        InputError: if anything is wrong with the data or the names.
    """
    source = read(data)
    _check_names(source, categorical, "--categorical", beside=target)
    source, notes = _without_index(source)
    notes = [*source.notes, *notes]
    source, judged, rows, more = _split(source, target, drop, categorical)
    notes += more
    if len(rows) < 2:
        raise InputError(
            f"{source.title} has {counted(len(rows), 'row')} to compare; a context"
            " takes at least 2"
        )
    blocks, names, constant, filled, unknown = [], [], [], {}, {}
    for name, cells in zip(source.names, source.columns, strict=True):
        column = interpret(source, cells, name, categorical=name in categorical)
        block, block_names = encode(column)
        num_missing = int(column.missing.sum())
        if not block_names:
            constant.append(name)
        elif num_missing:
            (unknown if column.categories else filled)[name] = num_missing
        blocks.append(block)
        names += block_names
    if not names:
        raise InputError(
            f"no features are left of {source.title}: "
            + (
                f"constant columns: {enumerated(constant)}"
                if constant
                else "no columns"
            )
        )
    if constant:
        number = counted(len(constant), "constant column")
        notes.append(f"{number} left out: {enumerated(constant)}")
    if filled:
        notes.append(
            f"{counted(sum(filled.values()), 'missing number')} replaced by the median"
            f" of the column, in: {enumerated(filled)}"
        )
    if unknown:
        notes.append(
            f"{counted(sum(unknown.values()), 'missing text')} taken as a category of"
            f" its own, in: {enumerated(unknown)}"
        )
    num_columns = len(source.names) - len(constant)
    features = np.concatenate(blocks, axis=1)
    return Table(
        source.title,
        features,
        names,
        judged,
        num_columns,
        rows,
        notes,
        num_constant=len(constant),
    )


def load_counts(
    data: str,
    *,
    target: str | None = None,
    drop: Sequence[str] = (),
    graph: bool = False,
) -> Table:
    """Read DATA as a table of non-negative weights, which are left as they are.

    A first column of texts, or without a name, is taken to label the rows.

    Args:
        data: a path or the name of a built-in set.
        target: the column to leave out of the table and to judge against.
        drop: columns to leave out.
        graph: whether the table must be a symmetric matrix.

    Raises:
        InputError: if a cell is missing, negative, infinite or no number, or a row or
            the target is unusable.
    """
    source, notes = _without_row_labels(read(data))
    notes = [*source.notes, *notes]
    num_rows = source.num_rows
    source, judged, rows, more = _split(source, target, drop, ())
    if graph and len(rows) < num_rows:
        raise InputError(
            f"target {quoted(target or '')} of {source.title} is missing in"
            f" {counted(num_rows - len(rows), 'row')}; a graph keeps all its vertices,"
            " so each needs a value"
        )
    if not source.names:
        raise InputError(
            f"no columns of {'weights' if graph else 'counts'} are left of"
            f" {source.title}"
        )
    values = []
    for name, cells in zip(source.names, source.columns, strict=True):
        column = interpret(source, cells, name, categorical=False)
        if column.categories:
            raise InputError(
                f"column {quoted(name)} of {source.title} holds texts, such as"
                f" {quoted(column.categories[0])}; a"
                f" {'graph' if graph else 'table of counts'} holds numbers"
            )
        what = "weights of a graph" if graph else "counts"
        _check_weights(source, name, column.values, what)
        values.append(column.values)
    counts = np.stack(values, axis=1)
    if not counts.any():
        what = "weights" if graph else "counts"
        raise InputError(f"all {what} of {source.title} are 0; expected some weight")
    if graph:
        _check_graph(source.title, counts)
    return Table(
        source.title,
        counts,
        source.names,
        judged,
        len(source.names),
        rows,
        notes + more,
    )


def _check_graph(title: str, weights: np.ndarray) -> None:
    n, m = weights.shape
    if n != m:
        raise InputError(
            f"--context graph needs a square matrix of weights; {title} has"
            f" {counted(n, 'row')} and {counted(m, 'column')}"
        )
    difference = np.abs(weights - weights.T)
    row, column = np.unravel_index(np.argmax(difference), (n, n))
    if difference[row, column] > 1e-6 * weights.max():
        raise InputError(
            "--context graph needs a symmetric matrix of weights;"
            f" {title} has {weights[row, column]:g} at [{row}, {column}] and"
            f" {weights[column, row]:g} at [{column}, {row}] (--context joint takes a"
            " directed graph)"
        )


def _check_names(
    source: Source, names: Sequence[str], option: str, *, beside: str | None = None
) -> None:
    known = [name for name in source.names if name]
    for name in names:
        if name not in known and name != beside:
            raise InputError(
                f"{option}: {source.title} has no column {quoted(name)}"
                f"{closest(name, known)}; its columns are {enumerated(known)}"
            )


def _without(source: Source, dropped: set[int]) -> Source:
    keep = [i for i in range(len(source.names)) if i not in dropped]
    return source._replace(
        names=[source.names[i] for i in keep],
        columns=[source.columns[i] for i in keep],
    )


def _without_index(source: Source) -> tuple[Source, list[str]]:
    """Leave out a saved index: a first column without a name that counts the rows."""
    if source.names[0]:
        return source, []
    counted = [
        [str(i) for i in range(start, start + source.num_rows)] for start in (0, 1)
    ]
    if source.columns[0].tolist() not in counted:
        raise InputError(
            f"column 1 of {source.title} has no name; expected one in the header"
        )
    note = "the first column has no name and numbers the rows: left out"
    return _without(source, {0}), [note]


def _without_row_labels(source: Source) -> tuple[Source, list[str]]:
    if len(source.names) == 1:
        return source, []
    name, cells = source.names[0], source.columns[0]
    if name:
        # Labels are texts that are no counts; `interpret` tells, and raises on a mix.
        column = interpret(source, cells, name, categorical=False)
        if not column.categories:
            return source, []
    note = f"the first column{' ' + quoted(name) if name else ''} labels the rows"
    return _without(source, {0}), [note]


def _split(
    source: Source,
    target: str | None,
    drop: Sequence[str],
    categorical: Sequence[str],
) -> tuple[Source, Target | None, np.ndarray, list[str]]:
    """Take the target and the dropped columns out, and rows that have no target."""
    if target is not None and target in drop:
        raise InputError(f"--drop and --target both name {quoted(target)}")
    _check_names(source, drop, "--drop")
    dropped = {source.names.index(name) for name in drop}
    if target is None:
        return _without(source, dropped), None, np.arange(source.num_rows), []
    cells, name = _target_cells(source, target)
    if name in source.names:
        dropped.add(source.names.index(name))
    if cells.dtype.kind not in "biufUO":
        raise InputError(
            f"target {quoted(name)} of {source.title} has dtype {cells.dtype};"
            " expected numbers or text"
        )
    column = interpret(source, cells, name, categorical=target in categorical)
    present = ~column.missing
    source = _without(source, dropped)
    notes = []
    if not present.all():
        notes.append(
            f"{counted(int((~present).sum()), 'row')} without a value of {quoted(name)}"
            " left out"
        )
        source = source._replace(
            columns=[c[present] for c in source.columns],
            lines=source.lines
            and [line for line, p in zip(source.lines, present, strict=True) if p],
        )
    if column.categories:
        judged = Target(name, column.values[present], "classes", column.categories)
    else:
        judged = _numbers_or_classes(name, column.values[present])
    if (judged.values == judged.values[0]).all():
        raise InputError(
            f"target {quoted(name)} of {source.title} has the same value in all"
            f" {len(judged.values)} rows: there is nothing to judge; name another, or"
            " leave --target out"
        )
    return source, judged, np.flatnonzero(present), notes


def _target_cells(source: Source, target: str) -> tuple[np.ndarray, str]:
    if target and target in source.names:
        return source.columns[source.names.index(target)], target
    aliases = ("target", "y") if target in ("target", "y") else ()
    for name in (target, *aliases):
        if name in source.vectors:
            return source.vectors[name], name
    if source.lines is None and source.title not in BUILT_INS:
        found = enumerated(source.vectors) or "none"
        raise InputError(
            f"--target: {source.title} has no target {quoted(target)}; expected an"
            f" .npz with one value a row in an array of that name (found: {found})"
        )
    known = [name for name in (*source.names, *source.vectors) if name]
    raise InputError(
        f"--target: {source.title} has no column {quoted(target)}"
        f"{closest(target, known)}; its columns are {enumerated(known)}"
    )


def _numbers_or_classes(name: str, values: np.ndarray) -> Target:
    """Few different integers are classes, anything else is numbers."""
    distinct, codes = np.unique(values, return_inverse=True)
    few = len(distinct) <= min(_MOST_CLASSES_OF_NUMBERS, len(values) // 2)
    if few and (distinct == np.round(distinct)).all():
        names = tuple(str(int(v)) for v in distinct)
        return Target(name, codes, "classes", names)
    return Target(name, values, "numbers", ())


def _check_weights(source: Source, name: str, values: np.ndarray, weights: str) -> None:
    for bad, what in ((np.isnan(values), "a missing cell"), (values < 0, "{:g}")):
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(
                f"column {quoted(name)} of {source.title} has"
                f" {what.format(values[row])} on {source.place(row)}; {weights} must"
                " be 0 or more"
            )
