"""The contexts that `contexture diagnose` ranks: how they are told, and made."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from contexture_jax.cli._arguments import as_words, count, gamma
from contexture_jax.cli._contexts import build_context, plan_context
from contexture_jax.cli._mix_words import Mix, Part, mix_of_file
from contexture_jax.cli._rank_data import column_values
from contexture_jax.data import (
    InputError,
    Table,
    counted,
    load_counts,
    load_matrix,
    of_order_1,
    quoted,
    quoted_path,
)

if TYPE_CHECKING:
    from contexture_jax.cli._diagnose import DiagnoseOptions

__all__ = [
    "AGAINST",
    "Told",
    "as_told",
    "check_against",
    "contexts_of",
    "read_against",
    "told_as_input",
]

AGAINST = """\
--against CONTEXT, once for each: knn:10 has ten neighbours, rbf:0.5 that bandwidth,
labels the classes of --target, teacher the whitened columns of DATA; column=NAME takes
the classes of a column, or the rows that are near in it. Of files with a row for each
embedded one, in the same order, teacher=FILE takes features, joint=FILE counts of
whatever goes with a row, and graph=FILE a symmetric matrix of weights. FILE.json is a
mixture of knn, rbf, labels and teacher, as of contexture train --mix.
"""
_OF_TABLE = ("knn", "rbf", "labels", "teacher")
_OF_FILES = ("teacher", "joint", "graph")
_NEIGHBORS = 30
# What a message of `cx.data` advises, where a file is taken as it is: options name
# columns of DATA.
_BY_HAND = {
    "drop": "a copy of the file that lacks it",
    "categorical": "numbers in their place",
    "graph": "the kind (graph=FILE or joint=FILE)",
}


class Told(NamedTuple):
    """A context as it was told.

    Attributes:
        text: the words, by which it is named in results.
        kind: "knn", "rbf", "labels", "teacher", "column", "joint", "graph" or "mix".
        value: neighbours, a bandwidth, a column, a path or a `Mix`; None: by default.
    """

    text: str
    kind: str
    value: Any = None

    @property
    def is_of_table(self) -> bool:
        """Whether it is made of DATA."""
        return self.kind not in _OF_FILES or self.value is None


def as_told(text: str) -> Told:
    """What an argument of `--against` says.

    Raises:
        ArgumentTypeError: if it says nothing that is known.
    """
    kind, equals, value = text.partition("=")
    if equals and kind in (*_OF_FILES, "column") and value:
        return Told(text, kind, value)
    kind, colon, value = text.partition(":")
    if kind in _OF_TABLE and not colon:
        return Told(text, kind)
    if kind == "knn":
        return Told(text, kind, count(value))
    if kind == "rbf":
        return Told(text, kind, gamma(value))
    if text.endswith(".json"):
        return Told(text, "mix", mix_of_file(text))
    raise argparse.ArgumentTypeError(
        "expected knn, knn:K, rbf, rbf:GAMMA, labels, teacher, column=NAME,"
        f" teacher=FILE, joint=FILE, graph=FILE or a FILE.json; got {text!r}"
    )


def check_against(options: DiagnoseOptions, table: Table | None) -> None:
    """Refuse contexts that are made of DATA where there are none.

    Raises:
        InputError: then, or if a column is none of DATA.
    """
    for told in options.against:
        if told.is_of_table and table is None:
            raise InputError(
                f"--against {told.text} is made of the table that the rows embed: say"
                " which with --context-of"
            )
        names = [] if table is None else [e.name for e in table.encodings]
        if told.kind == "column" and told.value not in names:
            known = ", ".join(map(quoted, names[:9])) + (", …" if names[9:] else "")
            raise InputError(
                f"--against {told.text}: there is no such column that varies; expected"
                f" one of {known}"
            )


def read_against(options: DiagnoseOptions, num_rows: int) -> dict[str, np.ndarray]:
    """What files hold that contexts are made of, by what was told.

    Args:
        options: what was asked for.
        num_rows: of the embeddings.

    Raises:
        InputError: if one cannot be read, or has other rows.
    """
    found = {}
    for told in options.against:
        if not told.is_of_table:
            with told_as_input(told.text):
                found[told.text] = _read(options, told, num_rows)
    return found


def contexts_of(
    options: DiagnoseOptions,
    rows: np.ndarray,
    files: dict[str, np.ndarray],
    table: Table | None,
) -> dict[str, Callable[[], Any]]:
    """The contexts to rank by their names, made when called.

    Args:
        options: what was asked for.
        rows: the embedded rows that are looked at.
        files: from `read_against`.
        table: DATA at these, or None.
    """
    told = list(options.against)
    if not told:
        told = [Told(name, name) for name in ("knn", "rbf", "teacher")]
        target = None if table is None else table.target
        if target is not None and target.kind == "classes":
            told.append(Told("labels", "labels"))
    return {one.text: _maker(options, one, rows, files, table) for one in told}


@contextmanager
def told_as_input(name: str) -> Iterator[None]:
    """Errors of a context that is made of the user's data, as those of the input."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise InputError(f"context {name}: {error}") from error


def _maker(
    options: DiagnoseOptions,
    told: Told,
    rows: np.ndarray,
    files: dict[str, np.ndarray],
    table: Table | None,
) -> Callable[[], Any]:
    if not told.is_of_table:
        return lambda: _of_file(told.kind, files[told.text], rows)
    assert table is not None  # `check_against` has seen to it
    if told.kind == "column":
        return lambda: _of_column(table, told.value)
    if told.kind == "mix":
        return lambda: _mixed(options, told.value, table)
    return lambda: _of_table(options, told.kind, told.value, table)


def _of_table(options: Any, kind: str, value: Any, table: Table) -> Any:
    settings: dict[str, Any] = {"context": kind}
    if kind == "knn":
        settings["num_neighbors"] = value
    if kind == "rbf":
        settings["gamma"] = "auto" if value is None else value
    own = dataclasses.replace(options, **settings)
    return build_context(plan_context(own, table), table, "float32")


def _of_column(table: Table, name: str) -> Any:
    from contexture_jax import contexts

    values = column_values(table, name)
    if values.dtype.kind == "i":
        codes = np.unique(values, return_inverse=True)[1]
        return contexts.labels(codes.astype(np.int32))
    num = min(_NEIGHBORS, max(1, len(values) // 2))
    return contexts.knn(values.astype(np.float32)[:, None], num_neighbors=num)


def _mixed(options: Any, told: Mix | Part, table: Table) -> Any:
    from contexture_jax import contexts

    if isinstance(told, Part):
        if told.context not in _OF_TABLE:
            raise InputError(
                f"{told.context} is drawn from and has no table; expected"
                f" {', '.join(_OF_TABLE)}"
            )
        value = told.num_neighbors if told.context == "knn" else told.gamma
        return _of_table(options, told.context, value, table)
    if told.weights == "minmax":
        raise InputError("minmax weights are found by training; expected numbers")
    parts = [_mixed(options, part, table) for part in told.contexts]
    if told.mix == "convex":
        return contexts.convex_combination(parts, told.weights)
    if told.mix == "mixture":
        return contexts.mixture(parts, told.weights)
    if told.mix == "join":
        return contexts.join(parts)
    return getattr(contexts, told.mix)(*parts)


def _read(options: Any, told: Told, num_rows: int) -> np.ndarray:
    written = {
        "separator": options.separator,
        "decimal": options.decimal,
        "missing": options.missing,
    }
    try:
        if told.kind == "teacher":
            found = load_matrix(told.value, **written)
        else:
            is_graph = told.kind == "graph"
            found = load_counts(told.value, graph=is_graph, **written).features
    except InputError as error:
        words = error.message.worded(
            lambda name, value: _BY_HAND.get(name) or as_words(name, value)
        )
        raise InputError(words) from error
    if len(found) != num_rows:
        raise InputError(
            f"{quoted_path(told.value)} has {counted(len(found), 'row')} and the"
            f" embeddings {num_rows:,}; expected a row for each, in the same order"
        )
    return found


def _of_file(kind: str, found: np.ndarray, rows: np.ndarray) -> Any:
    """Of a file with a row for each of the embeddings, which `rows` are some of."""
    from contexture_jax import contexts

    if kind == "teacher":
        return contexts.teacher(_of_size_1(found[rows]).astype(np.float32))
    is_graph = kind == "graph"
    weights = found[np.ix_(rows, rows)] if is_graph else found[rows]
    if not weights.any():
        raise InputError("the rows that are looked at have no weight at all")
    # Before the cast, which could overflow.
    weights = of_order_1(weights).astype(np.float32)
    return contexts.graph(weights) if is_graph else contexts.joint(weights)


def _of_size_1(x: np.ndarray) -> np.ndarray:
    x = x - x.mean(axis=0)
    largest = np.abs(x).max()
    return x / largest if largest else x
