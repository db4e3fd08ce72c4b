"""From DATA to features and a target, and what tables of counts share with that."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from contexture_jax.data._columns import (
    Column,
    doubtful_points,
    encode,
    file_decimal,
    interpret,
)
from contexture_jax.data._messages import (
    InputError,
    as_option,
    closest,
    counted,
    enumerated,
    quoted,
)
from contexture_jax.data._notation import DECIMAL_COMMAS
from contexture_jax.data._read import read
from contexture_jax.data._source import (
    DEFAULT_DIALECT,
    DEFAULT_MISSING,
    Cells,
    Dialect,
    Source,
    is_repeated,
    repeated,
)
from contexture_jax.data._sparse import as_columns
from contexture_jax.data._texts import Texts

__all__ = [
    "Room",
    "Table",
    "Target",
    "check_names",
    "decimals",
    "dropped",
    "load_features",
    "notes_of",
    "split",
    "without",
    "without_values",
]

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
        features: shape (n, d), float64: encoded columns, or counts as they are; these
            may be a sparse matrix.
        feature_names: the names of the columns of `features`.
        target: what to judge against, or None.
        num_columns: how many columns of DATA the features come from.
        rows: which rows of DATA these are, counted from 0, shape (n,), int64.
        notes: what was done to the data that a reader should know.
        num_constant: how many further columns were left out as constant.
    """

    title: str
    features: Any
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
    dialect: Dialect = DEFAULT_DIALECT,
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
        dialect: how DATA is written, as far as the user says.

    Raises:
        InputError: if anything is wrong with the data or the names.
    """
    source = as_columns(read(data, dialect))
    check_names(source, categorical, "--categorical", beside=target)
    named = (target, *drop, *categorical)
    categorical = (*categorical, *source.categorical)
    source, notes = _without_index(source, named)
    notes = [*source.notes, *notes]
    source = dropped(source, drop, target)
    dialect, more = decimals(source, dialect, categorical)
    notes += more
    source, judged, rows, more = split(source, target, categorical, dialect)
    notes += more
    if len(rows) < 2:
        raise InputError(
            f"{source.title} has {counted(len(rows), 'row')} to compare; a context"
            " takes at least 2"
        )
    names, columns = [], []
    room = Room(len(rows), sum(not is_repeated(cells) for cells in source.columns))
    constant, filled, unknown = [], {}, {}
    for name, cells in zip(source.names, source.columns, strict=True):
        column = interpret(
            source,
            cells,
            name,
            categorical=name in categorical,
            dialect=dialect,
            feature=True,
        )
        block, block_names = encode(column)
        num_missing = int(column.missing.sum())
        if not block_names:
            constant.append(name)
        elif num_missing:
            (unknown if column.categories else filled)[name] = num_missing
        columns.append(without_values(column))
        room.add(block)
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
    notes += notes_of(columns, dialect)
    num_columns = len(source.names) - len(constant)
    features = room.columns
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


def decimals(
    source: Source, dialect: Dialect, categorical: Sequence[str]
) -> tuple[Dialect, list[str]]:
    """The decimal sign of the whole file, and what was found out about it.

    A file that says which cells are missing has no marks of such but those asked for.
    """
    if source.typed and dialect.missing == DEFAULT_MISSING:
        dialect = dialect._replace(missing=())
    cells = {
        name: cells
        for name, cells in zip(source.names, source.columns, strict=True)
        if name not in categorical
    }
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
                "points taken as before decimals (--decimal , if they are between"
                f" thousands), in: {enumerated(doubtful)}"
            )
    return dialect._replace(decimal=decimal, found=found, points=points), notes


def without_values(column: Column) -> Column:
    """What notes are made of; a copy of all values would be kept for that else."""
    return column._replace(values=np.empty(0), exact=None)


class Room:
    """Columns side by side, each put in its place as it comes.

    A large table is so never there twice. Memory is in the order of columns: it is
    first taken as it is written, and for zeros throughout not at all.
    """

    def __init__(self, num_rows: int, num_columns: int) -> None:
        self._room = np.zeros((num_rows, num_columns), order="F")
        self._used = 0

    def add(self, block: np.ndarray) -> None:
        """Put columns, shape (n, k), beside those that are there."""
        end = self._used + block.shape[1]
        if end > self._room.shape[1]:
            wider = np.zeros((len(self._room), 2 * end), order="F")
            wider[:, : self._used] = self.columns
            self._room = wider
        if not (block.shape[1] == 1 and is_repeated(block[:, 0]) and block[0, 0] == 0):
            self._room[:, self._used : end] = block
        self._used = end

    @property
    def columns(self) -> np.ndarray:
        """All that was put there."""
        return self._room[:, : self._used]


def notes_of(columns: Sequence[Column], dialect: Dialect) -> list[str]:
    """How numbers are written that are not as Python has them, and other remarks."""
    written: dict[str, list[str]] = {}
    for column in columns:
        # Of the whole file, which says so once.
        words = [
            w for w in column.words if w != DECIMAL_COMMAS or dialect.decimal != ","
        ]
        if words:
            written.setdefault(", ".join(words), []).append(column.name)
    notes = [
        f"numbers with {words}, in: {enumerated(names)}"
        for words, names in written.items()
    ]
    return notes + [note for column in columns for note in column.notes]


def check_names(
    source: Source, names: Sequence[str], option: str, *, beside: str | None = None
) -> None:
    """Refuse names that an option gives and no column has, but for one."""
    known = [name for name in source.names if name]
    for name in names:
        if name not in known and name != beside:
            raise InputError(
                f"{option}: {source.title} has no column {quoted(name)}"
                f"{closest(name, known)}; its columns are {enumerated(known)}"
            )


def without(source: Source, dropped: set[int]) -> Source:
    """Leave out columns by their numbers."""
    keep = [i for i in range(len(source.names)) if i not in dropped]
    return source._replace(
        names=[source.names[i] for i in keep],
        columns=[source.columns[i] for i in keep],
    )


def dropped(source: Source, drop: Sequence[str], target: str | None) -> Source:
    """Leave out what --drop names, before anything looks into it."""
    if target is not None and target in drop:
        raise InputError(f"--drop and --target both name {quoted(target)}")
    check_names(source, drop, "--drop")
    return without(source, {source.names.index(name) for name in drop})


def _counts_rows(source: Source, cells: Cells) -> bool:
    counted = [
        [str(i) for i in range(start, start + source.num_rows)] for start in (0, 1)
    ]
    return [str(cell) for cell in cells.tolist()] in counted


def _without_index(
    source: Source, named: Sequence[str | None]
) -> tuple[Source, list[str]]:
    """Leave out a saved index: what the file calls one, or a first column that counts.

    The latter has no name. An index that an option names stays.
    """
    index = {
        i
        for i, name in enumerate(source.names)
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


def split(
    source: Source, target: str | None, categorical: Sequence[str], dialect: Dialect
) -> tuple[Source, Target | None, np.ndarray, list[str]]:
    """Take the target out, and rows that have none."""
    if target is None:
        num_rows = source.num_rows if source.columns else 0
        return source, None, np.arange(num_rows), []
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
        source = without(source, {source.names.index(name)})
    notes = []
    if not present.all():
        marks = ", ".join(
            f"{quoted(mark) if mark else 'empty'}: {count:,}"
            for mark, count in column.marks.items()
        )
        notes.append(
            f"{counted(int((~present).sum()), 'row')} without a value of {quoted(name)}"
            f" left out ({marks})"
            + (
                "; --missing says what counts as one"
                if set(column.marks) - {"", "?"}
                else ""
            )
        )
        source = source._replace(
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
    if judged.kind == "classes" and column.exact is not None:
        column = column._replace(notes=())
    notes += notes_of([column], dialect)
    if judged.kind == "classes" and not column.categories:
        notes += _zeros_lost(name, cells, column)
    if (judged.values == judged.values[0]).all():
        raise InputError(
            f"target {quoted(name)} of {source.title} has the same value in all"
            f" {len(judged.values)} rows: there is nothing to judge; name another, or"
            f" leave --target out{''.join(f' ({note})' for note in notes)}"
        )
    return source, judged, np.flatnonzero(present), notes


def _kept(cells: Cells, kept: np.ndarray) -> Cells:
    """The cells where `kept`, shape (n,), bool, says so."""
    if isinstance(cells, Texts):
        return cells.take(kept)
    if is_repeated(cells):
        return repeated(cells[0], int(kept.sum()))
    return cells[kept]


def _zeros_lost(name: str, cells: Cells, column: Column) -> list[str]:
    """What to say where texts that differ by leading zeros make one class."""
    if not isinstance(cells, Texts) and cells.dtype.kind not in "UO":
        return []
    texts = cells if isinstance(cells, Texts) else Texts.of(cells)
    if not texts.any_matches(r"^[+-]?0\d"):
        return []
    distinct, codes = texts.distinct
    values = column.values if column.exact is None else column.exact
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
        f" {enumerated(same)} ({as_option('--categorical', name)} keeps them apart)"
    ]


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
            f"--target: {source.title} has no target {quoted(target)}; expected an"
            f" .npz with one value a row in an array of that name (found: {found})"
        )
    known = [name for name in (*source.names, *source.vectors) if name]
    raise InputError(
        f"--target: {source.title} has no column {quoted(target)}"
        f"{closest(target, known)}; its columns are {enumerated(known)}"
    )


def _numbers_or_classes(
    name: str, values: np.ndarray, exact: np.ndarray | None = None
) -> Target:
    """Few different integers are classes, anything else is numbers."""
    distinct, codes = np.unique(values if exact is None else exact, return_inverse=True)
    few = len(distinct) <= min(_MOST_CLASSES_OF_NUMBERS, len(values) // 2)
    if few and all(v == int(v) for v in distinct):
        return Target(name, codes, "classes", tuple(str(int(v)) for v in distinct))
    return Target(name, values, "numbers", ())
