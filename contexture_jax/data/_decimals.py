"""The decimal sign of a file, found out from its columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from contexture_jax.data._cells import is_missing, is_nan, present_texts
from contexture_jax.data._messages import enumerated, parameter
from contexture_jax.data._notation import read_numbers
from contexture_jax.data._source import DEFAULT_MISSING, Cells, Dialect, Source
from contexture_jax.data._texts import Texts

__all__ = ["decimals"]

# A point that no thousands have behind it, so that it is before decimals.
_DECIMAL_POINT = r"^[+-]?(?:0?\.\d+|\d*\.\d{1,2}|\d*\.\d{4,}|\d{4,}\.\d+)$"


def decimals(
    source: Source, dialect: Dialect, categorical: Sequence[str]
) -> tuple[Dialect, list[str]]:
    """The decimal sign of the whole file, and what was found out about it.

    A file that says which cells are missing has no marks of such but those asked for.
    """
    # In Parquet "NA" is a text like others, as nulls are marked.
    if source.typed and dialect.missing == DEFAULT_MISSING:
        dialect = dialect._replace(missing=())
    cells = {
        name: cells
        for name, cells in zip(source.names, source.columns, strict=True)
        # What is taken as texts has no decimal sign.
        if name not in categorical
    }
    # One sign for all: whoever wrote the file wrote all columns.
    decimal = file_decimal(cells.values(), dialect)
    said = [f"separator {source.separator}"] if source.separator else []
    if dialect.decimal is None and decimal == ",":
        said.append("decimal comma")
    found = dialect.decimal is None and decimal is not None
    notes = [", ".join(said)] if said else []
    # Where commas are between cells, whoever wrote them had points before decimals.
    between = source.separator or dialect.separator or ","
    points = found and decimal == "," and between == ","
    if points or (
        # Where commas are before decimals, semicolons are between cells.
        decimal is None and ";" in (source.separator, dialect.separator)
    ):
        doubtful = [name for name, column in cells.items() if doubtful_points(column)]
        if doubtful:
            notes.append(
                f"points taken as before decimals ({parameter('decimal', ',')} if they"
                f" are between thousands), in: {enumerated(doubtful)}"
            )
    return dialect._replace(decimal=decimal, found=found, points=points), notes


def file_decimal(columns: Iterable[Cells], dialect: Dialect) -> str | None:
    """The decimal sign of a file: what its columns have that allow one alone.

    Returns:
        A comma if some column has decimal commas beyond doubt and none has points, the
        other way round a point, and None where nothing or both is seen.
    """
    if dialect.decimal is not None:
        return dialect.decimal
    texts = [cells for cells in columns if isinstance(cells, Texts)]
    # No comma between digits anywhere: nothing to find out, which is the rule.
    if not any(cells.any_matches(r"\d,\d|^[+-]?,\d") for cells in texts):
        return None
    marks = frozenset(dialect.missing) | {""}
    seen: set[str] = set()
    for cells in texts:
        # Python's numbers: evidence only if a point cannot be between thousands.
        if cells.numbers(marks) is not None:
            if cells.any_matches(_DECIMAL_POINT):
                seen.add(".")
            continue
        distinct, codes = cells.distinct
        numeric = [not (is_missing(t, marks) or is_nan(t)) for t in distinct]
        present, weights = present_texts(distinct, codes, np.array(numeric, dtype=bool))
        if present:
            # A column that both signs fit says nothing.
            decimals = read_numbers(present, weights).decimals
            seen |= decimals if len(decimals) == 1 else set()
    return seen.pop() if len(seen) == 1 else None


def doubtful_points(cells: Cells) -> bool:
    """Whether all points in a column may be between thousands."""
    return (
        isinstance(cells, Texts)
        and cells.any_matches(r"^[+-]?[1-9]\d{0,2}\.\d{3}$")
        and not cells.any_matches(_DECIMAL_POINT)
    )
