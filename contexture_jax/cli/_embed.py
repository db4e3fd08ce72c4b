"""`contexture embed`: what `contexture train` learned, at rows of new data."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from contexture_jax.cli._arguments import add_notation_options
from contexture_jax.cli.session import Ending, computing, replacing
from contexture_jax.data import (
    DEFAULT_MISSING,
    Encoding,
    InputError,
    as_encodings,
    counted,
    load_like,
    quoted_path,
)

__all__ = ["DESCRIPTION", "EmbedOptions", "add_options", "run"]

DESCRIPTION = """\
The functions that contexture train learned, at the rows of DATA, as an .npy of one row
a row and one column a function. MODEL is its model.npz. DATA has the columns that were
learned from, in any order; other columns do not count. They are encoded as there, by
the medians, means and categories of the data that were learned from. MODEL holds an
encoder; after --loss kise, spectral_contrastive or vicreg, whose functions are averages
over neighbours, it holds the rows that were learned from as well.
"""
_BLOCK = 8192  # rows at a time


@dataclasses.dataclass(frozen=True)
class EmbedOptions:
    """The arguments of the command.

    Attributes:
        model: the file that `contexture train` wrote.
        data: a path or the name of a built-in set.
        out: the file to write.
        separator: as of the other commands.
        decimal: likewise.
        missing: likewise.
        quiet: whether to print nothing but errors.
    """

    model: str
    data: str
    out: str
    separator: str | None = None
    decimal: str | None = None
    missing: tuple[str, ...] = DEFAULT_MISSING
    quiet: bool = False


def add_options(parser: Any) -> None:
    """Add the options of the command to its parser."""
    add_notation_options(parser.add_argument_group("data"))
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", required=True, metavar="FILE", help="the .npy to write, replaced"
    )
    output.add_argument("--quiet", action="store_true", help="print errors only")


def run(options: EmbedOptions, ending: Ending) -> Path:
    """Read the model and the data, and write the functions.

    Raises:
        InputError: if either is not what it should be, or do not go together.
    """
    del ending  # nothing is kept of a command that is ended
    out = Path(options.out)
    # Before any work.
    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"--out {quoted_path(out)} is no file in a directory that is")
    # JAX is told its precision before the model's arrays are made.
    dtype = _dtype(options.model)
    with computing(dtype):
        learned = _load(options.model)
        table = load_like(
            options.data,
            _encodings(learned.preprocessing, options.model),
            separator=options.separator,
            decimal=options.decimal,
            missing=options.missing,
        )
        # Finite in float64: what float32 cannot hold is ∞ now.
        x = table.features.astype(dtype)
        if not np.isfinite(x).all():
            raise InputError(
                f"{table.title} holds numbers too far from what was learned for {dtype}"
            )
        parts = [
            np.asarray(learned.transform(x[start : start + _BLOCK]))
            for start in range(0, len(x), _BLOCK)
        ]
        # Opened, as `save` would end a path with .npy.
        with replacing(out) as path, path.open("wb") as file:
            np.save(file, np.concatenate(parts))
    if not options.quiet:
        rank = len(learned.singular_values)
        print(
            f"{table.title}: {counted(len(x), 'row')}, {counted(rank, 'function')} in"
            f" {options.out}"
        )
        for note in table.notes:
            print(f"note: {note}")
    return out


def _dtype(model: str) -> str:
    """The precision of a model, which is set before it is loaded."""
    try:
        with np.load(model, allow_pickle=False) as file:
            return file["mean"].dtype.name
    except FileNotFoundError:
        raise InputError(f"no such file: {quoted_path(model)}") from None
    except IsADirectoryError:
        raise InputError(f"{quoted_path(model)} is a directory") from None
    except Exception:  # damaged bytes raise errors of any kind
        return "float32"  # loading it says what is wrong


def _load(model: str) -> Any:
    # Not at the top, since it imports JAX.
    from contexture_jax.learning import load

    try:
        return load(model)
    except ValueError as error:
        raise InputError(str(error)) from error


def _encodings(preprocessing: Any, model: str) -> list[Encoding]:
    """How columns become features.

    Raises:
        InputError: if the model is not of features.
    """
    # `Learned.save` writes whatever it is given, or None.
    held = preprocessing if isinstance(preprocessing, dict) else {}
    if "takes" not in held:
        raise InputError(
            f"{quoted_path(model)} does not say how columns become features: it has no"
            " preprocessing, as contexture train saves it; of a model learned in Python"
            " cx.learning.load(MODEL).transform(x) takes arrays"
        )
    if held["takes"] != "features":
        raise InputError(
            f"{quoted_path(model)} is not of features, but of {held['takes']}: it has"
            " no functions at new rows; expected one of contexture train"
            " --context knn, rbf or teacher, or --context labels --loss svme"
        )
    return as_encodings(held["columns"])
