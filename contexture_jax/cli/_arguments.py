"""What commands share: options, their types, and how an option is told."""

from __future__ import annotations

import argparse
import dataclasses
import math
import shlex
from collections.abc import Callable, Sequence
from typing import Any, Literal

from contexture_jax.data import DEFAULT_MISSING

__all__ = [
    "CONTEXTS",
    "DATA",
    "Options",
    "add_context_options",
    "add_data_options",
    "add_notation_options",
    "add_output_options",
    "add_process_options",
    "add_rank_options",
    "as_option",
    "as_words",
    "batch",
    "count",
    "gamma",
    "not_negative",
    "positive",
    "replicates",
    "seed",
    "tolerance",
    "widths",
]

CONTEXTS = ("knn", "rbf", "labels", "joint", "graph", "teacher")
_WORDS = {
    ("path", None): "DATA",
    ("graph", True): "--context graph",
    ("graph", False): "--context joint",
    ("sparse", True): "contexture spectrum --context joint or graph",
}
DATA = """\
DATA:
  a .csv (or .tsv, .txt; UTF-8) with a line of names; a .parquet or .feather file, as
  pandas writes them; an .npy (rows × columns), an .npz (array x, or the only 2-D array;
  vectors such as y or target can be targets), or one of scipy.sparse.save_npz; or a
  built-in set: digits, wine, breast_cancer.

how a CSV is read:
  What separates cells is found out (comma, semicolon, tab, bar or runs of spaces), and
  so is a decimal comma, from numbers that allow nothing else, such as 62,5 or 1.234,5;
  a note says what was found. --separator and --decimal say it instead.
  A column is numbers if all of its cells are, written in one way: 1,234,567 or 1 234,5
  or 1'234; U+2212 for minus; one unit, sign or currency throughout, as in 5.5%, 12 kg,
  $3. A note says so. A column whose numbers can be read in two ways (1,234, and nothing
  else in the file tells) is refused, and so is a column of features that looks like
  numbers but is written in several ways, or like dates, times, fractions or ranges,
  where it would be nearly one category a row: --drop it, or take it with --categorical.
  An empty cell is missing, nan among numbers, and what --missing lists. Spaces around a
  cell do not count. TRUE, True and true are one category; other categories that differ
  by case only are noted.

features:
  Every column gets mean 0 and total variance 1. Numbers are standardised, missing ones
  set to the median of the column before. Categories are one-hot, divided by
  sqrt(1 - sum of squared shares), so that a column of two values weighs the same
  written as 0/1 or as no/yes; a missing category is a category of its own. Constant
  columns are left out, and so are an index that pandas wrote and rows without a value
  of the target; a note counts these by mark. A target of at most 20 different integers
  is taken as classes.

contexts:
  knn      A is one of the --num-neighbors nearest rows of X
  rbf      A is a row of weight exp(-gamma |x - a|^2)
  labels   A is the target, which must be of classes
  joint    DATA is itself a table of counts of (X, A); a first column of texts, without
           a name, or that --categorical names labels the rows
  graph    DATA is a symmetric matrix of weights: A is a neighbour of X on the graph;
           a column before a square matrix labels the rows
  teacher  the kernel of the features, whitened
  scarf    A is the row with features replaced by those of other rows (train only)

exit status: 0 on success; 2 on bad input, a full disk, a directory in use or too little
memory (one line on stderr); 1 if another process of the run is gone; 130 if ended by
Ctrl-C, 143 by SIGTERM.
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """The arguments that commands share; None stands for a default to work out.

    Attributes:
        data: a path or the name of a built-in set.
        target: the column to judge against.
        drop: columns to leave out.
        categorical: columns to take as categories.
        separator: what is between the cells of a CSV; a space stands for any number.
        decimal: what is before the decimals of a number, "." or ",".
        missing: the marks of a missing value, beside an empty cell.
        context: the kind of context.
        num_neighbors: K of a k-NN context.
        gamma: γ of a Gaussian-kernel context, or "auto".
        lazy: whether a walk on a graph is lazy.
        rank: the number of singular triples.
        dtype: the precision of the work.
        seed: the seed of everything random.
        devices: how many local devices share the rows.
        processes: how many processes do, or "auto": as their launcher says; None: one.
        coordinator: where process 0 listens.
        process_id: which of the processes this one is.
        patience: seconds to wait for another one.
        out: the directory to write to.
        plots: whether to draw.
        quiet: whether to print nothing but errors and warnings.
    """

    data: str
    target: str | None = None
    drop: Sequence[str] = ()
    categorical: Sequence[str] = ()
    separator: str | None = None
    decimal: str | None = None
    missing: tuple[str, ...] = DEFAULT_MISSING
    context: str = "knn"
    num_neighbors: int | None = None
    gamma: float | Literal["auto"] | None = None
    lazy: bool = False
    rank: int | None = None
    dtype: str = "float32"
    seed: int = 0
    devices: int = 1
    processes: int | Literal["auto"] | None = None
    coordinator: str | None = None
    process_id: int | None = None
    patience: float = 45.0
    out: str = "contexture-out"
    plots: bool = True
    quiet: bool = False


def as_option(name: str, value: str) -> str:
    """An option and its value as a shell takes them, on one line."""
    # Also those beyond ASCII, which `splitlines` knows: an error is one line.
    breaks = [c for c in value if ord(c) < 32 or len(f"a{c}a".splitlines()) > 1]
    word = shlex.quote(value)
    if breaks:
        word = value.replace("\\", "\\\\").replace("'", "\\'")
        for c in breaks:
            word = word.replace(c, f"\\u{ord(c):04x}")
        # The quotes of bash, in which a line break has a name.
        word = f"$'{word}'"
    # argparse takes a word with a dash in front for an option, unless = joins it.
    return f"{name}{'=' if value.startswith('-') else ' '}{word}"


def as_words(name: str, value: Any) -> str:
    """What the command calls a parameter of `cx.data`, for `Message.worded`."""
    if value is None or isinstance(value, bool):
        return _WORDS.get((name, value), f"--{name}")
    # An empty list stands for the option by itself.
    values = [value] if isinstance(value, str) else value or [""]
    return " ".join(as_option(f"--{name}", one) for one in values)


def add_data_options(group: Any) -> None:
    """Add what says how DATA is read."""
    group.add_argument(
        "--target",
        metavar="COLUMN",
        help="the column to judge against, left out of the features",
    )
    for option, what in (
        ("--drop", "leave this column out"),
        ("--categorical", "take this column as categories even if it holds numbers"),
    ):
        group.add_argument(
            option,
            # Not a list with commas, which names of columns may hold.
            action="append",
            default=[],
            metavar="COLUMN",
            help=f"{what}; once for each column",
        )
    add_notation_options(group)


def add_notation_options(group: Any) -> None:
    """Add what says how the cells of DATA are written."""
    group.add_argument(
        "--separator",
        type=_separator,
        metavar="CHARACTER",
        help="what is between the cells of a CSV: one character, or comma, semicolon,"
        " tab, bar, or space, which stands for any number; default: found out",
    )
    group.add_argument(
        "--decimal",
        type=_decimal,
        metavar="SIGN",
        help="what is before decimals: . or , (the other is between thousands);"
        " default: found out",
    )
    group.add_argument(
        "--missing",
        # One list, so that an empty one can say that there are no marks.
        type=_marks,
        default=DEFAULT_MISSING,
        metavar="MARK,MARK,…",
        help="what stands for a missing value beside an empty cell, in place of"
        f" {','.join(DEFAULT_MISSING)}; '' for nothing else, so that classes called"
        " None, NA or nan are kept, as text of Parquet and Feather is by default;"
        " numbers may be marks too: --missing=-999,NA",
    )


def add_context_options(group: Any, **named: Any) -> None:
    """Add the context, perhaps `named` otherwise, and its parameters."""
    one = {"choices": CONTEXTS, "help": "default: %(default)s"}
    group.add_argument("--context", default="knn", **(named or one))
    group.add_argument(
        "--num-neighbors",
        type=count,
        metavar="K",
        help="of knn, the row itself included; default: 30",
    )
    group.add_argument(
        "--gamma",
        type=gamma,
        help="of rbf; a number above 0, or auto: 1 / number of columns; default: 1",
    )
    group.add_argument(
        "--lazy", action="store_true", help="of graph: stay with probability 1/2"
    )


def add_rank_options(group: Any, *, devices: bool = True) -> None:
    """Add the rank, the precision, perhaps the devices, and the seed."""
    group.add_argument(
        "--rank",
        type=count,
        help="number of singular functions; default: 64, or as many as there are",
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        default="float32",
        help="default: %(default)s",
    )
    if devices:
        group.add_argument(
            "--devices",
            type=count,
            default=1,
            metavar="N",
            help="share the rows (of a batch) among N devices of this machine; default:"
            " 1",
        )
    group.add_argument(
        "--seed", type=seed, default=0, help="of all that is random; default: 0"
    )


def add_process_options(group: Any) -> None:
    """Add what makes a process one of several."""
    group.add_argument(
        "--processes",
        type=_processes,
        metavar="N",
        help="share the rows among N processes, which all run this command; or auto, as"
        " SLURM, Open MPI, Kubernetes or a TPU says",
    )
    group.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="where process 0 listens, the same for all",
    )
    group.add_argument(
        "--process-id",
        type=lambda text: _integer(text, 0, None),
        metavar="I",
        help="which of them this one is, from 0",
    )
    group.add_argument(
        "--patience",
        type=positive,
        default=45.0,
        metavar="SECONDS",
        help="how long another may be silent, or behind, before the run ends; default:"
        " %(default)g",
    )


def add_output_options(group: Any) -> None:
    """Add where to write, and how much to say."""
    group.add_argument(
        "--out",
        # Not the current directory: files of the same names are replaced.
        default="contexture-out",
        metavar="DIR",
        help="where to write; spectrum replaces results that are there, train goes on"
        " with its run if told to --resume; default: %(default)s",
    )
    group.add_argument(
        "--no-plots", dest="plots", action="store_false", help="draw no pictures"
    )
    group.add_argument(
        "--quiet", action="store_true", help="print errors and warnings only"
    )


def count(text: str) -> int:
    """An integer of at least 1."""
    return _integer(text, 1, None)


def several(text: str) -> int:
    """An integer of at least 2."""
    return _integer(text, 2, None)


def _processes(text: str) -> int | Literal["auto"]:
    """An integer of at least 1, or "auto"."""
    return "auto" if text == "auto" else count(text)


def batch(text: str) -> int:
    """An integer of at least 4."""
    # Estimates without bias halve a batch, and a covariance takes two rows (theory.md
    # §7.7).
    return _integer(text, 4, None)


def _separator(text: str) -> str:
    names = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "bar": "|"}
    names |= {"pipe": "|", "space": " ", "spaces": " "}
    character = names.get(text, text)
    # A letter, a digit or a quotation mark is part of cells.
    if len(character) != 1 or character in '"\r\n' or character.isalnum():
        raise argparse.ArgumentTypeError(
            "expected one character that is no letter, digit or quotation mark, or"
            f" comma, semicolon, tab, bar or space; got {text!r}"
        )
    return character


def _decimal(text: str) -> str:
    sign = {"point": ".", "dot": ".", "comma": ","}.get(text, text)
    if sign not in (".", ","):
        raise argparse.ArgumentTypeError(f"expected . or ,; got {text!r}")
    return sign


def _marks(text: str) -> tuple[str, ...]:
    return tuple(mark for part in text.split(",") if (mark := part.strip()))


def widths(text: str) -> tuple[int, ...]:
    """Integers of at least 1 with commas between them, or none."""
    if text == "none":
        return ()
    return tuple(count(part.strip()) for part in text.split(","))


def positive(text: str) -> float:
    """A finite number above 0."""
    return _number(text, "a finite number above 0", lambda x: 0 < x < math.inf)


def not_negative(text: str) -> float:
    """A finite number of at least 0."""
    expected = "a finite number of at least 0"
    return _number(text, expected, lambda x: 0 <= x < math.inf)


def replicates(text: str) -> int:
    """0, or an integer of at least 2."""
    count = _integer(text, 0, None)
    # A single resample has no standard deviation.
    if count == 1:
        raise argparse.ArgumentTypeError(
            "expected 0 or an integer of at least 2; got 1"
        )
    return count


def seed(text: str) -> int:
    """An integer of 32 bits."""
    # Of a larger one JAX drops the upper bits, unless 64-bit types are on.
    return _integer(text, 0, 2**32 - 1)


def _integer(text: str, low: int, high: int | None) -> int:
    expected = f"expected an integer of at least {low}"
    if high is not None:
        expected = f"expected an integer between {low} and {high}"
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{expected}; got {text!r}") from None
    if value < low or (high is not None and value > high):
        raise argparse.ArgumentTypeError(f"{expected}; got {text}")
    return value


def gamma(text: str) -> float | Literal["auto"]:
    """A finite number above 0, or "auto"."""
    if text == "auto":
        return "auto"
    expected = "a finite number above 0, or auto"
    return _number(text, expected, lambda x: 0 < x < math.inf)


def tolerance(text: str) -> float:
    """A number above 0 and below 1."""
    return _number(text, "a number above 0 and below 1", lambda x: 0 < x < 1)


def _number(text: str, expected: str, is_good: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan  # which no range holds
    if not is_good(value):
        raise argparse.ArgumentTypeError(f"expected {expected}; got {text!r}")
    return value
