"""Reading a Parquet or a Feather file, with what pandas says of it, by Arrow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from contexture_jax.data._messages import InputError, quoted
from contexture_jax.data._source import Cells, Source
from contexture_jax.data._texts import Texts, as_numpy, compute

__all__ = ["read_feather", "read_parquet"]

_LARGEST_EXACT = 2**53


def read_parquet(path: Path) -> Source:
    """Read a Parquet file; see `_from_table`."""
    from pyarrow import parquet

    return _read(path, "Parquet", lambda: parquet.ParquetFile(path).read())


def read_feather(path: Path) -> Source:
    """Read a Feather file; see `_from_table`."""
    from pyarrow import feather

    return _read(path, "Feather", lambda: feather.read_table(path))


def _read(path: Path, kind: str, read: Any) -> Source:
    import pyarrow as pa

    try:
        table = read()
        # Arrow trusts offsets, codes of categories and the bytes of texts: damaged ones
        # would lead it out of its memory.
        table.validate(full=True)
        return _from_table(table, path.name)
    # Of our own making: says more already.
    except InputError:
        raise
    # Of Arrow, or of what pandas is made to say: any JSON, nested without end.
    except (
        pa.ArrowException,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"cannot read {path.name} as {kind}: it is damaged or of another format"
            f" ({reason})"
        ) from error


def _from_table(table: Any, title: str) -> Source:
    """Columns of an Arrow table: numbers as they are, all else as text.

    The columns of pandas' index come first, and are called one: a `RangeIndex` is none.
    What pandas calls categorical stays so, whatever the categories are.

    Raises:
        InputError: if there is no row or no column, or names repeat.
    """
    import pyarrow as pa

    index, categorical = _said_by_pandas(table)
    names = [str(name) for name in table.column_names]
    # A stable sort: the others stay in the order of the file.
    order = sorted(range(len(names)), key=lambda i: names[i] not in index)
    if not names or not table.num_rows:
        raise InputError(
            f"{title} has {table.num_rows} rows and {len(names)} columns; expected at"
            " least 1 of each"
        )
    # Options go by name.
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise InputError(
            f"several columns of {title} are called {quoted(repeated[0])}; expected"
            " distinct names"
        )
    columns = [_cells(table.column(i)) for i in order]
    # What pandas calls an index without a name.
    called = ["" if names[i].startswith("__index_level_") else names[i] for i in order]
    # Several without a name could not be told apart.
    if called.count("") > 1:
        called = [names[i] for i in order]
    renamed = dict(zip((names[i] for i in order), called, strict=True))
    categories = [
        name
        for name, i in zip(called, order, strict=True)
        if names[i] in categorical or pa.types.is_dictionary(table.column(i).type)
    ]
    return Source(
        title,
        called,
        columns,
        {},
        index_names=tuple(renamed[name] for name in index),
        categorical=tuple(categories),
        typed=True,
    )


def _said_by_pandas(table: Any) -> tuple[list[str], set[str]]:
    """The names of the columns of the index, and of the categorical ones."""
    # Arrow's own files have none.
    raw = (table.schema.metadata or {}).get(b"pandas")
    if raw is None:
        return [], set()
    said = json.loads(raw)
    index = [
        name
        for name in said.get("index_columns", [])
        # A `RangeIndex` is described by a dictionary, and is no column.
        if isinstance(name, str) and name in table.column_names
    ]
    categorical = {
        column.get("field_name")
        for column in said.get("columns", [])
        if column.get("pandas_type") == "categorical"
    }
    return index, categorical


def _cells(column: Any) -> Cells:
    """Cells as numbers or text; without content where they are neither."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        return Texts(column.cast(kind.value_type).cast(pa.string()))
    if pa.types.is_integer(kind):
        ends = compute().min_max(column).as_py()
        # `or 0`: of a column of nulls.
        large = max(abs(end or 0) for end in ends.values()) >= _LARGEST_EXACT
        if not column.null_count:
            return as_numpy(column)
        # Without a null they would be rounded: as text they are not.
        return Texts(column.cast(pa.string())) if large else _floats(column)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _floats(column)
    if pa.types.is_boolean(kind):
        # True and false are 1 and 0, as the encoding of two categories is the same.
        return _floats(column.cast(pa.uint8()))
    if pa.types.is_null(kind) or pa.types.is_string(kind):
        return Texts(column.cast(pa.string()))
    if (
        pa.types.is_large_string(kind)
        or pa.types.is_temporal(kind)
        or str(kind) == "string_view"
    ):
        return Texts(column.cast(pa.string()))
    return np.zeros(len(column), dtype="V1")  # refused where it is looked into


def _floats(column: Any) -> np.ndarray:
    import pyarrow as pa

    return as_numpy(column.cast(pa.float64()))
