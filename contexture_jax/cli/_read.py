"""Reading DATA: a CSV, an `.npy`, an `.npz` or a built-in set, as named columns.

Nothing is interpreted here beyond what the format says; `_data` makes features of it.
Arrays are never unpickled.
"""

import csv
import io
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from contexture_jax.cli._messages import InputError, enumerated, quoted, quoted_path

__all__ = ["BUILT_INS", "Source", "read"]

BUILT_INS = ("breast_cancer", "digits", "wine")
_DELIMITERS = (",", ";", "\t")
_ACCEPTED = f"a .csv, an .npy, an .npz or one of {', '.join(BUILT_INS)}"


class Source(NamedTuple):
    """What DATA holds.

    Attributes:
        title: what to call it.
        names: the names of the columns.
        columns: one array a column, shape (n,): text (dtype object) from a CSV,
            finite float64 otherwise.
        vectors: arrays beside the columns that can serve as a target, shape (n,).
        lines: the line in the file on which each row ends; None where rows are not
            lines.
    """

    title: str
    names: list[str]
    columns: list[np.ndarray]
    vectors: dict[str, np.ndarray]
    lines: list[int] | None

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return len(self.columns[0])

    def place(self, row: int) -> str:
        """How a message calls row `row`, counted from 0."""
        return f"row {row}" if self.lines is None else f"line {self.lines[row]}"


def read(data: str) -> Source:
    """Read DATA, whose kind its name tells.

    Raises:
        InputError: if it is absent, unreadable, of no known kind, or malformed.
    """
    if data in BUILT_INS:
        return _read_built_in(data)
    path = Path(data)
    readers = {".csv": _read_csv, ".npy": _read_npy, ".npz": _read_npz}
    reader = readers.get(path.suffix.lower())
    name = quoted_path(data)
    try:
        if not data or not path.exists():
            raise InputError(f"no such file: {name}; DATA is {_ACCEPTED}")
        if path.is_dir():
            raise InputError(f"{name} is a directory; DATA is {_ACCEPTED}")
        if reader is None:
            raise InputError(f"cannot tell what {name} is; DATA is {_ACCEPTED}")
        return reader(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot read {name}: {reason}") from error


def _read_csv(path: Path) -> Source:
    rows, lines = _csv_rows(path)
    if not rows:
        raise InputError(f"{path.name} is empty; expected a line of column names")
    _check_separators(rows[0], path.name)
    names = _header(rows[0], path.name)
    if len(rows) == 1:
        raise InputError(f"{path.name} has a header but no rows below it")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(names):
            raise InputError(
                f"line {line} of {path.name} has {len(row)} cells; the header names"
                f" {len(names)} columns (a comma inside a cell needs quotes around it)"
            )
    columns = [np.array(cells, dtype=object) for cells in zip(*rows[1:], strict=True)]
    return Source(path.name, names, columns, {}, lines[1:])


def _check_separators(first: list[str], title: str) -> None:
    """Tell columns that are separated by spaces from one column."""
    words = first[0].split() if len(first) == 1 else []
    if len(words) > 1 and all(_is_number(word) for word in words):
        raise InputError(
            f"the first line of {title} holds {len(words)} numbers with spaces between"
            " them; expected the names of the columns, and commas, semicolons or tabs"
        )


def _csv_rows(path: Path) -> tuple[list[list[str]], list[int]]:
    """The stripped cells of each row that is not blank, and the line it ends on.

    The delimiter is the comma, or the semicolon or tab if the first line has that and
    no comma. This is the standard library's reader and not pandas', because that fills
    rows that are too short, and does not tell the line of a cell.
    """
    text = _text(path)
    first = text.partition("\n")[0]
    delimiter = next((d for d in _DELIMITERS if d in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, lines = [], []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            # A blank line is a missing cell if there is one column, but for those at
            # the end, which are removed below.
            if any(cells) or (rows and len(rows[0]) == 1):
                rows.append(cells or [""])
                lines.append(reader.line_num)
    except csv.Error as error:
        if "field limit" in str(error):
            raise InputError(
                f"line {lines[-1] + 1 if lines else 1} of {path.name} starts a row with"
                f" a cell of more than {csv.field_size_limit():,} characters; shorten"
                " it, or close the quotation mark that it starts with"
            ) from error
        raise InputError(
            f"line {lines[-1] + 1 if lines else 1} of {path.name} starts a row that is"
            f" malformed CSV: {error}"
        ) from error
    while rows and not any(rows[-1]):
        rows.pop()
        lines.pop()
    return rows, lines


def _text(path: Path) -> str:
    raw = path.read_bytes()
    if b"\0" in raw[:4096]:
        raise InputError(f"{path.name} is binary; expected a CSV saved as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"line {line} of {path.name} is not UTF-8 (byte {raw[error.start]:#04x});"
            " expected a CSV saved as UTF-8"
        ) from error


def _header(names: list[str], title: str) -> list[str]:
    if all(_is_number(name) for name in names) and names != [
        str(i) for i in range(len(names))
    ]:
        raise InputError(
            f"the first line of {title} holds numbers, starting with"
            f" {quoted(names[0])}; expected the names of the columns"
        )
    seen: dict[str, int] = {}
    for position, name in enumerate(names, start=1):
        # A first column without a name is a saved index or row labels: `_data` decides.
        if not name and position > 1:
            raise InputError(
                f"column {position} of {title} has no name; expected one in the header"
            )
        if name in seen:
            raise InputError(
                f"columns {seen[name]} and {position} of {title} are both called"
                f" {quoted(name)}; expected distinct names"
            )
        seen[name] = position
    return names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_npy(path: Path) -> Source:
    x = _load(path)
    if isinstance(x, dict):
        raise InputError(f"{path.name} is an archive of arrays: call it .npz")
    return _from_matrix(x, path.name, path.name, {})


def _read_npz(path: Path) -> Source:
    arrays = _load(path)
    if not isinstance(arrays, dict):
        raise InputError(f"{path.name} is one array: call it .npy")
    for name in ("x", "y", "target"):
        if name in arrays and arrays[name].dtype.kind == "O":
            raise InputError(
                f"array {quoted(name)} of {path.name} holds Python objects; expected"
                " numbers or text"
            )
    matrices = [name for name, a in arrays.items() if a.ndim == 2]
    name = "x" if "x" in arrays else matrices[0] if len(matrices) == 1 else None
    if name is None:
        raise InputError(
            f"{path.name} holds {len(matrices)} 2-D arrays and none called x; expected"
            f" features in x (arrays: {enumerated(arrays) or 'none'})"
        )
    x = arrays.pop(name)
    vectors = {
        key: a.reshape(-1)
        for key, a in arrays.items()
        if x.ndim == 2 and a.shape in ((x.shape[0],), (x.shape[0], 1))
    }
    for key in ("y", "target"):
        if key in arrays and key not in vectors and x.ndim == 2:
            raise InputError(
                f"array {quoted(key)} of {path.name} has shape {arrays[key].shape};"
                f" expected ({x.shape[0]},), as array {quoted(name)} has"
                f" {x.shape[0]} rows"
            )
    return _from_matrix(x, f"array {quoted(name)} of {path.name}", path.name, vectors)


def _load(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """The array or the arrays of a file; one of Python objects comes back empty."""
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            return {name: _member(loaded, name) for name in loaded.files}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        hint = (
            "it holds Python objects"
            if "Object arrays" in str(error)
            else "it is damaged, pickled or of another format"
        )
        raise InputError(
            f"cannot read {path.name}: {hint}; expected what numpy.save or numpy.savez"
            " writes from arrays of numbers"
        ) from error


def _member(archive: Any, name: str) -> np.ndarray:
    try:
        return archive[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        return np.empty(0, dtype=object)


def _from_matrix(
    x: np.ndarray, what: str, title: str, vectors: dict[str, np.ndarray]
) -> Source:
    if x.dtype.kind not in "biuf":
        raise InputError(f"{what} has dtype {x.dtype}; expected real numbers")
    if x.ndim != 2 or 0 in x.shape:
        raise InputError(
            f"{what} has shape {x.shape}; expected (rows, columns), at least 1 of each"
        )
    x = x.astype(np.float64)
    bad = ~np.isfinite(x)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise InputError(
            f"{what} holds {x[row, column]} at [{row}, {column}] ({bad.sum()} such"
            " values); expected finite numbers: fill or remove them"
        )
    names = [f"x{i}" for i in range(x.shape[1])]
    return Source(title, names, list(x.T), vectors, None)


def _read_built_in(name: str) -> Source:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise InputError(
            f"the built-in set {name} needs scikit-learn:"
            " pip install 'contexture_jax[cli]'"
        ) from error
    bunch = getattr(datasets, f"load_{name}")()
    classes = np.array([str(c) for c in bunch.target_names])[bunch.target]
    names = [str(c) for c in bunch.feature_names]
    columns = list(np.asarray(bunch.data, dtype=np.float64).T)
    return Source(name, names, columns, {"target": classes}, None)
