"""What `contexture rank` reads: features, and what other contexts are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from contexture_jax.cli._arguments import as_option, as_words
from contexture_jax.data import (
    InputError,
    Message,
    Table,
    counted,
    load_features,
    quoted,
    quoted_path,
)

if TYPE_CHECKING:
    from contexture_jax.cli._rank import RankOptions

__all__ = ["Beside", "column_values", "columns_of", "load"]

_MOST_CLASSES = 20  # whole numbers of more values are near or far, as `data` has it


class Beside(NamedTuple):
    """What of DATA is in a context and not in the features, row by row.

    Attributes:
        columns: of each column classes, shape (n,), integers, or numbers.
        teachers: features of each teacher, shape (n, d).
        names: all columns of DATA that vary, but the target.
        all_features: features of all rows, shape (N, d), where the n are drawn of them;
            else None.
    """

    columns: dict[str, np.ndarray]
    teachers: dict[str, np.ndarray]
    names: list[str]
    all_features: np.ndarray | None = None


def load(options: RankOptions) -> tuple[Table, Beside]:
    """Read DATA and what stands beside it, and draw rows if there are too many.

    Raises:
        InputError: if files or names do not fit.
    """
    table = _read(options, options.data, options.target)
    # In words of options, where the library speaks of parameters.
    notes = [Message(note.worded(as_words)) for note in table.notes]
    table = table._replace(notes=notes)
    places = _places(table)
    for option, names in (
        ("--context-column", options.context_column),
        ("--teacher-column", options.teacher_column),
    ):
        for name in names:
            _check_column(options, table, option, name, list(places))
    columns = {name: column_values(table, name) for name in options.context_column}
    teachers = {path: _teacher(options, table, path) for path in options.teacher}
    if options.teacher_column:
        own = np.any([places[name] for name in options.teacher_column], axis=0)
        teachers["+".join(options.teacher_column)] = table.features[:, own]
    table = _without(table, {*options.context_column, *options.teacher_column})
    return _drawn(options, table, Beside(columns, teachers, list(places)))


def columns_of(table: Table) -> np.ndarray:
    """The number of the column of DATA that each feature comes from."""
    widths = [len(encoding.feature_names) for encoding in table.encodings]
    return np.repeat(np.arange(len(widths)), widths)


def _read(options: RankOptions, path: str, target: str | None) -> Table:
    own = path == options.data
    return load_features(
        path,
        target=target,
        drop=options.drop if own else (),
        categorical=options.categorical if own else (),
        separator=options.separator,
        decimal=options.decimal,
        missing=options.missing,
    )


def _check_column(
    options: RankOptions, table: Table, option: str, name: str, known: Sequence[str]
) -> None:
    words = as_option(option, name)
    if name == options.target:
        raise InputError(
            f"{words} is the target, by which contexts are judged: none may hold it"
        )
    if name not in known:
        named = ", ".join(map(quoted, known[:9])) + (", …" if len(known) > 9 else "")
        raise InputError(
            f"{words}: {table.title} has no such column that varies; expected one of"
            f" {named}"
        )


def _places(table: Table) -> dict[str, np.ndarray]:
    """Of each column of DATA which features are its own."""
    return {e.name: columns_of(table) == i for i, e in enumerate(table.encodings)}


def column_values(table: Table, name: str) -> np.ndarray:
    """Classes as integers, of categories and of few whole numbers; or numbers."""
    features = table.features[:, _places(table)[name]]
    encoding = next(e for e in table.encodings if e.name == name)
    if encoding.categories:
        return features.argmax(axis=1)
    numbers = features[:, 0] * encoding.deviation + encoding.mean
    numbers = numbers * encoding.unit
    distinct, codes = np.unique(features[:, 0], return_inverse=True)
    is_whole = np.allclose(numbers, numbers.round(), rtol=0, atol=1e-6)
    if is_whole and len(distinct) <= min(_MOST_CLASSES, len(codes) // 2):
        return codes
    return features[:, 0]


def _teacher(options: RankOptions, table: Table, path: str) -> np.ndarray:
    """The features of a file at the rows of DATA, which it has line by line."""
    found = _read(options, path, None)
    num_rows = len(_read(options, options.data, None).rows)
    if len(found.rows) != num_rows:
        raise InputError(
            f"--teacher {quoted_path(path)} has {counted(len(found.rows), 'row')} and"
            f" {table.title} {num_rows:,}; expected one for each, in the same order"
        )
    return found.features[table.rows]


def _without(table: Table, names: set[str]) -> Table:
    """Leave columns out of the features."""
    if not names:
        return table
    kept = [e.name not in names for e in table.encodings]
    if not any(kept):
        raise InputError(
            f"{table.title} has no column left for features: --context-column and"
            " --teacher-column take all"
        )
    of_features = np.array(kept)[columns_of(table)]
    encodings = tuple(e for e in table.encodings if e.name not in names)
    return table._replace(
        features=table.features[:, of_features],
        feature_names=[name for e in encodings for name in e.feature_names],
        num_columns=len(encodings),
        encodings=encodings,
    )


def _drawn(options: RankOptions, table: Table, beside: Beside) -> tuple[Table, Beside]:
    n = len(table.rows)
    if n <= options.max_rows:
        return table, beside
    # Leading eigenvalues of d0 functions take about d0 log d0 rows (theory.md §3.1).
    chosen = np.random.default_rng(options.seed).permutation(n)[: options.max_rows]
    chosen.sort()

    def at(values: dict[str, Any]) -> dict[str, Any]:
        return {name: value[chosen] for name, value in values.items()}

    target = table.target
    if target is not None:
        target = target._replace(values=target.values[chosen])
    words = f"{options.max_rows:,} of {n:,} rows drawn: --max-rows takes more"
    if not options.subsets:
        words += ", and --subsets 8 tells τ of all rows with an interval"
    beside = Beside(
        at(beside.columns), at(beside.teachers), beside.names, table.features
    )
    table = table._replace(
        features=table.features[chosen],
        rows=table.rows[chosen],
        target=target,
        notes=[*table.notes, Message(words)],
    )
    return table, beside
