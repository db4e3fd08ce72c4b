"""From data to a table of counts or the weights of a graph, and a target."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence, Set
from typing import Any

import numpy as np

from contexture_jax.data._columns import interpret
from contexture_jax.data._decimals import decimals
from contexture_jax.data._encoding import Column
from contexture_jax.data._messages import (
    InputError,
    Message,
    counted,
    parameter,
    quoted,
)
from contexture_jax.data._read import read
from contexture_jax.data._remarks import notes_of, without_values
from contexture_jax.data._selection import check_names, dropped, without
from contexture_jax.data._source import (
    DEFAULT_MISSING,
    Cells,
    Dialect,
    Source,
    as_dialect,
    as_names,
)
from contexture_jax.data._sparse import as_columns, is_large
from contexture_jax.data._table import Room, Table
from contexture_jax.data._target import split
from contexture_jax.data._texts import Texts

__all__ = ["load_counts"]

# Names that columns have which number or name the rows.
_LABELS = re.compile(
    r"(?i)(?:^|[_ .-])(?:id|index|row|key|code|label|name|year|date)s?$"
    r"|^(?:user|customer|client|patient|subject|account|person|zip|post|postal)"
    r"[_ .-]?(?:id|no|nr|number|code)?$"
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def load_counts(
    path: str | os.PathLike[str],
    *,
    target: str | None = None,
    drop: Iterable[str] = (),
    categorical: Iterable[str] = (),
    separator: str | None = None,
    decimal: str | None = None,
    missing: Iterable[str] = DEFAULT_MISSING,
    graph: bool = False,
    sparse: bool = False,
    unlabelled: bool = False,
) -> Table:
    """Read a table of non-negative weights, which are left as they are.

    For `contexts.joint` and `contexts.graph`. A first column of texts, without a name,
    named in `categorical`, or beside a square table of a graph, is taken to label the
    rows.

    Args:
        path: as for `load_features`, and an .npz of `scipy.sparse.save_npz`.
        target: the column to leave out of the table and to judge against.
        drop: columns to leave out.
        categorical: the first column, to take it as labels, or the target.
        separator: as for `load_features`, and so are the next two.
        decimal: the sign before decimals.
        missing: the marks of a missing value.
        graph: whether the table must be a symmetric matrix, which is made exactly so.
        sparse: whether a sparse matrix of more than 2²² entries may stay one.
        unlabelled: as for `load_features`.

    Returns:
        A `Table` whose `features` are the weights, shape (n, m), float64, or a sparse
        array of SciPy's.

    Raises:
        TypeError: as for `load_features`.
        ValueError: as `InputError`, if a cell is missing, negative, infinite or no
            number, a graph not square or symmetric, or a name or the target unusable;
            if `separator` or `decimal` is no such sign.
    """
    drop, categorical = as_names(drop, "drop"), as_names(categorical, "categorical")
    dialect = as_dialect(separator, decimal, missing)
    source = read(os.fspath(path), dialect)
    # Before it is made dense, which a large one does not fit.
    if source.weights is not None and sparse and is_large(source):
        return _sparse_counts(source, target, (*drop, *categorical), graph=graph)
    source = as_columns(source)
    check_names(source, categorical, "categorical", beside=target)
    # As the file has it: `drop` may take it out before labels are looked for.
    first = source.names[0]
    source = dropped(source, drop, target)
    # After `drop`: a column that does not count has no say in how the others are read.
    dialect, notes = decimals(source, dialect, categorical)
    notes = [*source.notes, *notes]
    # "target" and "y" are names for one array of an .npz.
    beside = {target, *(("target", "y") if target in ("target", "y") else ())}
    _check_categorical(categorical, first, beside, graph=graph)
    # Labels first, then the target: a graph's square is counted without either.
    if first in source.names and first not in beside:
        source, more = _without_row_labels(
            source, dialect, asked=first in categorical, graph=graph, beside=beside
        )
        notes += more
    num_rows = source.num_rows if source.columns else 0
    source, judged, rows, more = split(
        source, target, categorical, dialect, unlabelled=unlabelled
    )
    notes += more
    if graph and len(rows) < num_rows:
        raise InputError(
            f"target {quoted(target or '')} of {source.title} is missing in"
            f" {counted(num_rows - len(rows), 'row')}; a graph keeps all its vertices,"
            " so each needs a value"
        )
    # All columns, with no encoding: the entries are the law itself.
    counts, columns = _weights(source, len(rows), first, dialect, graph=graph)
    notes += notes_of(columns, dialect)
    if graph:
        counts = _symmetric(source.title, counts)
    # A first column of numbers that was kept: it may label rows all the same.
    elif source.names[0] == first and not source.is_array:
        notes += _perhaps_labels(first, counts)
    return Table(
        source.title,
        counts,
        source.names,
        judged,
        len(source.names),
        rows,
        [Message(note) for note in notes],
    )


def _check_categorical(
    categorical: Sequence[str], first: str, beside: Set[str | None], *, graph: bool
) -> None:
    """Refuse categories among the weights."""
    for name in categorical:
        if name not in beside and name != first:
            raise InputError(
                f"{parameter('categorical')} {name}: the columns of a"
                f" {'graph' if graph else 'table of counts'} hold numbers; only its"
                f" first column, here {quoted(first)}, if that labels the rows, or the"
                " target can be categories"
            )


def _weights(
    source: Source, num_rows: int, first: str, dialect: Dialect, *, graph: bool
) -> tuple[np.ndarray, list[Column]]:
    """All columns side by side, shape (n, m), and what each is but for its values."""
    what = "weights" if graph else "counts"
    if not source.names:
        raise InputError(f"no columns of {what} are left of {source.title}")
    columns, room = [], Room(num_rows, len(source.columns))
    for name, cells in zip(source.names, source.columns, strict=True):
        # Not as a feature: any number will do, and texts are refused below.
        column = interpret(source, cells, name, dialect=dialect)
        if column.categories:
            raise InputError(
                f"column {quoted(name)} of {source.title} holds texts, such as"
                f" {quoted(column.categories[0])}; a"
                f" {'graph' if graph else 'table of counts'} holds numbers: leave it"
                f" out with {parameter('drop', [name])}"
            )
        of = "weights of a graph" if graph else "counts"
        _check_weights(source, name, column.values, of, labels=name == first)
        # Values go into the table at once: each column is held twice only while it is
        # read.
        columns.append(without_values(column))
        room.add(column.values[:, None])
    if not room.columns.any():
        raise InputError(f"all {what} of {source.title} are 0; expected some weight")
    return room.columns, columns


def _sparse_counts(
    source: Source, target: str | None, named: Sequence[str], *, graph: bool
) -> Table:
    """A large sparse matrix as counts, as it is."""
    weights, title = source.weights, source.title
    if target is not None or named:
        raise InputError(
            f"{title} is a sparse matrix, whose columns have no names; it takes no"
            f" {parameter('target')}, {parameter('drop')} or"
            f" {parameter('categorical')}"
        )
    if (weights.data < 0).any():
        raise InputError(
            f"{title} holds {weights.data.min():g}; expected weights of 0 or more"
        )
    if not weights.data.any():
        raise InputError(f"all weights of {title} are 0; expected some weight")
    # A stored 0 is no edge, and would be a pattern that its mirror lacks.
    weights.eliminate_zeros()
    if graph:
        weights = _symmetric(title, weights).tocsr()
    n, m = weights.shape
    names = [f"x{i}" for i in range(m)]
    return Table(
        title, weights, names, None, m, np.arange(n), list(map(Message, source.notes))
    )


def _symmetric(title: str, weights: Any) -> Any:
    """Weights that are symmetric but for rounding, made so.

    What is called rounding here need not be so in the precision of the work: the
    context checks that too, and finds nothing.
    """
    n, m = weights.shape
    if n != m:
        raise InputError(
            f"{parameter('graph', True)} needs a square matrix of weights; {title} has"
            f" {counted(n, 'row')} and {counted(m, 'column')}"
        )
    # Of each pair alone: beside a large weight a small edge is still one way.
    transposed = weights.T
    dense = isinstance(weights, np.ndarray)
    # (n, n), dense or sparse as the weights are.
    larger = np.maximum(weights, transposed) if dense else weights.maximum(transposed)
    excess = abs(weights - transposed) - 1e-6 * larger
    row, column = (int(i) for i in np.unravel_index(int(excess.argmax()), (n, n)))
    if excess[row, column] > 0:
        raise InputError(
            f"{parameter('graph', True)} needs a symmetric matrix of weights;"
            f" {title} has {weights[row, column]:g} at [{row}, {column}] and"
            f" {weights[column, row]:g} at [{column}, {row}]"
            f" ({parameter('graph', False)} takes a directed graph)"
        )
    # Halves first: the sum of two large weights may overflow.
    return weights * 0.5 + weights.T * 0.5


def _without_row_labels(
    source: Source,
    dialect: Dialect,
    *,
    asked: bool,
    graph: bool,
    beside: Set[str | None],
) -> tuple[Source, list[str]]:
    """Leave out a first column that labels the rows.

    Args:
        source: the table.
        dialect: as for `interpret`.
        asked: whether an option says that it does.
        graph: whether the other columns make a square if it does.
        beside: names of the target.
    """
    others = [name for name in source.names[1:] if name not in beside]
    if not others and not asked:
        return source, []
    name, cells = source.names[0], source.columns[0]
    call = f"the first column{' ' + quoted(name) if name else ''}"
    labels = asked or not name or name in source.index_names
    if not labels and graph and len(others) == source.num_rows:
        labels = True  # with it, the matrix would not be square
    if not labels and _is_blank(cells, dialect):
        labels = True
    if not labels:
        # Labels are texts that are no counts; `interpret` tells, and raises on a mix.
        column = interpret(source, cells, name, dialect=dialect)
        labels = bool(column.categories)
    if not labels:
        return source, []
    return without(source, {0}), [f"{call} labels the rows"]


def _is_blank(cells: Cells, dialect: Dialect) -> bool:
    marks = {"", *dialect.missing}
    return isinstance(cells, Texts) and marks.issuperset(cells.distinct[0])


def _perhaps_labels(name: str, counts: np.ndarray) -> list[str]:
    """What to say of a first column of counts that may label the rows.

    It may if it is called so, or holds whole numbers that are as years or the numbers
    of rows are: in order, or distinct and most of them larger than all else.
    """
    # It is all that there is to count.
    if counts.shape[1] == 1:
        return []
    values, rest = counts[:, 0], counts[:, 1:]
    steps = np.diff(values)
    alike = len(values) > 2 and bool((values == np.round(values)).all())
    ordered = alike and bool((steps > 0).all() or (steps < 0).all())
    distinct = alike and len(np.unique(values)) == len(values)
    larger = distinct and bool(np.median(values) > rest.max())
    if not (ordered or larger or _LABELS.search(_CAMEL.sub("_", name))):
        return []
    return [
        f"{quoted(name)} is taken as counts; {parameter('categorical', [name])} takes"
        f" it as labels, {parameter('drop', [name])} leaves it out"
    ]


def _check_weights(
    source: Source, name: str, values: np.ndarray, weights: str, *, labels: bool
) -> None:
    """Refuse what no weight is; `labels`: whether the column may label the rows."""
    for bad, what in ((np.isnan(values), "a missing cell"), (values < 0, "{:g}")):
        if bad.any():
            # The first, with its line: who corrects a file goes to it.
            row = int(np.argmax(bad))
            out = f"leave the column out with {parameter('drop', [name])}"
            if labels:
                out += f", or take it as labels with {parameter('categorical', [name])}"
            raise InputError(
                f"column {quoted(name)} of {source.title} has"
                f" {what.format(values[row])} on {source.place(row)}; {weights} must"
                f" be 0 or more: correct the cell, or {out}"
            )
