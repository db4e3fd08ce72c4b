"""From data to features of each row, and a target."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import numpy as np

from contexture_jax.data._columns import interpret
from contexture_jax.data._decimals import decimals
from contexture_jax.data._encoding import Column, Encoding, encode
from contexture_jax.data._messages import InputError, Message, counted, enumerated
from contexture_jax.data._read import read
from contexture_jax.data._remarks import notes_of, without_values
from contexture_jax.data._selection import check_names, dropped, without_index
from contexture_jax.data._source import (
    DEFAULT_MISSING,
    Dialect,
    Source,
    as_dialect,
    as_names,
    is_repeated,
)
from contexture_jax.data._sparse import as_columns
from contexture_jax.data._table import Room, Table
from contexture_jax.data._target import split

__all__ = ["load_features"]


def load_features(
    path: str | os.PathLike[str],
    *,
    target: str | None = None,
    drop: Iterable[str] = (),
    categorical: Iterable[str] = (),
    separator: str | None = None,
    decimal: str | None = None,
    missing: Iterable[str] = DEFAULT_MISSING,
    unlabelled: bool = False,
) -> Table:
    """Read a table and encode each column as features of mean 0 and total variance 1.

    A column is numbers if all of its cells are, in one notation; anything else is
    categories. Numbers are standardised, missing ones after they became the median of
    their column. Categories are one-hot, centred and divided by √(1 − Σ_k p_k²), p_k
    the share of category k; a missing one is a category of its own. Constant columns
    are left out, and so are a saved index and rows without a target. `Table.notes` says
    what was done.

    Args:
        path: a .csv (.tsv, .txt; UTF-8), .npy, .npz, .parquet or .feather file, or the
            name of a built-in set: digits, wine, breast_cancer.
        target: the column to leave out of the features and to judge against; of an
            .npz an array beside x, of a built-in set "target". At most 20 different
            integers are taken as classes.
        drop: columns to leave out altogether.
        categorical: columns to take as categories even if they hold numbers.
        separator: what is between the cells of a CSV, a space for any number of them;
            None: found out.
        decimal: what is before decimals, "." or ","; None: found out.
        missing: what stands for a missing value beside an empty cell.
        unlabelled: whether rows without a target stay, with NaN or the class −1.

    Returns:
        A `Table` with features of shape (n, d), float64, and what they are.

    Raises:
        TypeError: if `drop`, `categorical` or `missing` is one text.
        ValueError: as `InputError`, if anything is wrong with the data or the names;
            if `separator` or `decimal` is no such sign.

    Example:
        >>> import contexture_jax as cx
        >>> table = cx.data.load_features("wine", target="target", drop=["hue"])
        >>> table.features.shape, table.target.class_names
        ((178, 12), ('class_0', 'class_1', 'class_2'))
        >>> context = cx.contexts.rbf(
        ...     table.features.astype("float32"), gamma=cx.data.auto_gamma(table)
        ... )
    """
    drop, categorical = as_names(drop, "drop"), as_names(categorical, "categorical")
    dialect = as_dialect(separator, decimal, missing)
    source = as_columns(read(os.fspath(path), dialect))
    check_names(source, categorical, "categorical", beside=target)
    # An index that an option names is data.
    named = (target, *drop, *categorical)
    # What the file itself says, after the names of the user have been checked.
    categorical = (*categorical, *source.categorical)
    # Before `dropped`, which takes out an index that `drop` names.
    source, notes = without_index(source, named)
    notes = [*source.notes, *notes]
    source = dropped(source, drop, target)
    dialect, more = decimals(source, dialect, categorical)
    notes += more
    source, judged, rows, more = split(
        source, target, categorical, dialect, unlabelled=unlabelled
    )
    notes += more
    # After rows without a target are gone.
    if len(rows) < 2:
        raise InputError(
            f"{source.title} has {counted(len(rows), 'row')} to compare; a context"
            " takes at least 2"
        )
    features, found, columns, more = _encoded(source, len(rows), categorical, dialect)
    notes += more + notes_of(columns, dialect)
    return Table(
        source.title,
        features,
        [name for encoding in found.values() for name in encoding.feature_names],
        judged,
        len(found),
        rows,
        [Message(note) for note in notes],
        len(columns) - len(found),
        tuple(found.values()),
    )


def _encoded(
    source: Source, num_rows: int, categorical: Sequence[str], dialect: Dialect
) -> tuple[np.ndarray, dict[str, Encoding], list[Column], list[str]]:
    """All columns as features.

    Returns:
        (features, encodings, columns, notes): shape (n, d); how each column that is not
        constant was encoded; what each column is, but for its values.

    Raises:
        InputError: if no features are left.
    """
    encodings: dict[str, Encoding] = {}
    columns, filled, unknown = [], {}, {}
    # Widened where categories need more; constant columns need none.
    room = Room(num_rows, sum(not is_repeated(cells) for cells in source.columns))
    for name, cells in zip(source.names, source.columns, strict=True):
        column = interpret(
            source,
            cells,
            name,
            categorical=name in categorical,
            dialect=dialect,
            feature=True,
        )
        block, encoding = encode(column)
        num_missing = int(column.missing.sum())
        if encoding is not None:
            encodings[name] = encoding
            if num_missing:
                # Numbers and texts are treated differently, and so told apart.
                (unknown if column.categories else filled)[name] = num_missing
        columns.append(without_values(column))
        # At once, so that only one column is held beside the features.
        room.add(block)
    constant = [name for name in source.names if name not in encodings]
    if not encodings:
        left = f"constant columns: {enumerated(constant)}" if constant else "no columns"
        raise InputError(f"no features are left of {source.title}: {left}")
    notes = []
    if constant:
        number = counted(len(constant), "constant column")
        notes.append(f"{number} left out: {enumerated(constant)}")
    for found, what, became in (
        (filled, "missing number", "replaced by the median of the column"),
        (unknown, "missing text", "taken as a category of its own"),
    ):
        if found:
            number = counted(sum(found.values()), what)
            notes.append(f"{number} {became}, in: {enumerated(found)}")
    return room.columns, encodings, columns, notes
