"""The parser of the command `contexture`, and its exit statuses."""

from __future__ import annotations

import argparse
import io
import math
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, NoReturn

from contexture_jax import __version__
from contexture_jax.cli._options import (
    CONTEXTS,
    ENCODERS,
    LOSSES,
    METHODS,
    Options,
    TrainOptions,
)
from contexture_jax.cli._publish import remove_temporaries
from contexture_jax.cli._signals import Ending, Interrupted, ending_on_signals
from contexture_jax.data import DEFAULT_MISSING, InputError

__all__ = ["main"]

_DESCRIPTION = """\
The spectrum of a context: compute the leading singular functions of the expectation
operator of a context on DATA, judge it, and write spectrum.json, spectrum.npz and
pictures to a directory.
"""
_TRAIN = """\
Learn the singular functions of a context on DATA with an encoder, and compare them with
the exact ones. Writes train.json, train.npz and pictures to a directory, and metrics
and checkpoints to its subdirectory run; --resume goes on from the last checkpoint, bit
for bit as if the run had never ended (on other --devices: to rounding).
"""
_DATA = """\
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

exit status: 0 on success; 2 on bad input, a full disk, a directory in use or too little
memory (one line on stderr); 130 if ended by Ctrl-C, 143 by SIGTERM.
"""


class _Parser(argparse.ArgumentParser):
    """A parser that complains in one line, and leaves exiting to `main`."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status.

    Args:
        argv: the arguments after the program's name; None: those of the process.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that knows no Greek letters gets question marks, not a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    with ending_on_signals() as ending:
        ending.clean_up = remove_temporaries
        try:
            return _run(argv, ending)
        except Interrupted as interrupted:
            number = interrupted.number
        except KeyboardInterrupt:  # the second, while a run saves itself
            number = signal.SIGINT
        print(ending.words(number), file=sys.stderr)
        if argv is None:
            # Threads of XLA may be in a program still: the interpreter's own way out
            # has crashed under them.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(128 + number)
    return 128 + number


def _run(argv: Sequence[str] | None, ending: Ending) -> int:
    try:
        arguments = vars(_parser().parse_args(argv))
        given = sys.argv[1:] if argv is None else argv
        ending.command = shlex.join(["contexture", *given])
        _COMMANDS[arguments.pop("command")](arguments, ending)
    except InputError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.strerror or error}: {error.filename or 'the output'}"
        message += "" if error.filename else f"; {ending.kept()}"
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        message = f"out of memory; {ending.kept()}: take fewer rows or columns"
    else:
        return 0
    # One line, whatever a file name or a cell may hold.
    print(f"contexture: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _is_out_of_memory(error: Exception) -> bool:
    """By its words where it is JAX's, which is not to be loaded for this."""
    return isinstance(error, MemoryError) or (
        type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
        and "RESOURCE_EXHAUSTED" in str(error)
    )


def _spectrum(arguments: dict[str, Any], ending: Ending) -> None:
    from contexture_jax.cli._spectrum import run

    run(Options(**arguments), ending)


def _train(arguments: dict[str, Any], ending: Ending) -> None:
    from contexture_jax.cli._train import run

    shared = {name: arguments.pop(name) for name in Options._fields & arguments.keys()}
    run(TrainOptions(base=Options(**shared), **arguments), ending)


_COMMANDS = {"spectrum": _spectrum, "train": _train}


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="contexture",
        description="Contextures: what a context can teach, from the command line.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"contexture {__version__}"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, short, description in (
        ("spectrum", "the spectrum of a context on a table", _DESCRIPTION),
        ("train", "learn the spectrum of a context with an encoder", _TRAIN),
    ):
        command = commands.add_parser(
            name,
            help=short,
            description=description,
            epilog=_DATA,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_argument("data", metavar="DATA", help="a file or a built-in set")
        _add_data_options(command.add_argument_group("data"))
        _add_context_options(command.add_argument_group("context"))
        if name == "spectrum":
            solver = command.add_argument_group("solver")
            _add_rank_options(solver)
            _add_solver_options(solver)
        else:
            learning = command.add_argument_group("learning")
            _add_rank_options(learning)
            _add_learning_options(learning)
        _add_output_options(command.add_argument_group("output"))
    return parser


def _add_data_options(group: Any) -> None:
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
            action="append",
            default=[],
            metavar="COLUMN",
            help=f"{what}; once for each column",
        )

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
        type=_marks,
        default=DEFAULT_MISSING,
        metavar="MARK,MARK,…",
        help="what stands for a missing value beside an empty cell, in place of"
        f" {','.join(DEFAULT_MISSING)}; '' for nothing else, so that classes called"
        " None, NA or nan are kept, as text of Parquet and Feather is by default;"
        " numbers may be marks too: --missing=-999,NA",
    )


def _add_context_options(group: Any) -> None:
    group.add_argument(
        "--context", choices=CONTEXTS, default="knn", help="default: %(default)s"
    )
    group.add_argument(
        "--num-neighbors",
        type=_count,
        metavar="K",
        help="of knn, the row itself included; default: 30",
    )
    group.add_argument(
        "--gamma",
        type=_gamma,
        help="of rbf; a number above 0, or auto: 1 / number of columns; default: 1",
    )
    group.add_argument(
        "--lazy", action="store_true", help="of graph: stay with probability 1/2"
    )


def _add_rank_options(group: Any) -> None:
    group.add_argument(
        "--rank",
        type=_count,
        help="number of singular functions; default: 64, or as many as there are",
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        default="float32",
        help="default: %(default)s",
    )
    group.add_argument(
        "--devices",
        type=_count,
        default=1,
        metavar="N",
        help="share the rows (of a batch) among N devices of this machine; default: 1",
    )
    group.add_argument(
        "--seed", type=_seed, default=0, help="of all that is random; default: 0"
    )


def _add_solver_options(group: Any) -> None:
    group.add_argument("--method", choices=METHODS, default="auto", help="the solver")
    group.add_argument(
        "--tol",
        type=_tolerance,
        help="relative residual to stop at, between 0 and 1",
    )
    group.add_argument(
        "--max-passes",
        type=_count,
        metavar="N",
        help="bound on passes of the solver over the operator",
    )
    group.add_argument(
        "--bootstrap",
        type=_replicates,
        default=0,
        metavar="N",
        help="of joint, where DATA counts independent pairs: intervals for the law"
        " behind them from N resamples, and N random pairings; default: 0",
    )


def _add_learning_options(group: Any) -> None:
    group.add_argument(
        "--loss",
        choices=LOSSES,
        default="kise",
        help="default: %(default)s, from two views of a row",
    )
    group.add_argument(
        "--encoder",
        choices=ENCODERS,
        default="mlp",
        help="of features: all together, with skip connections (mlp, the default), or"
        " a token a column (transformer)",
    )
    group.add_argument(
        "--hidden",
        type=_widths,
        metavar="W,W,…",
        help="widths of the hidden layers of an mlp, or none; default: 512,512",
    )
    group.add_argument("--activation", choices=("tanh", "gelu", "relu"), default="tanh")
    group.add_argument(
        "--output",
        type=_count,
        metavar="D",
        help="width of the embedding; default: four times the rank, at most 512 and a"
        " quarter of a batch (joint_nesting: the rank)",
    )
    group.add_argument("--steps", type=_count, default=1000, help="default: 1000")
    group.add_argument(
        "--batch-size", type=_batch, default=1024, metavar="B", help="default: 1024"
    )
    group.add_argument(
        "--learning-rate", type=_positive, default=1e-3, help="default: 0.001"
    )
    group.add_argument(
        "--weight-decay", type=_not_negative, default=1e-5, help="default: 0.00001"
    )
    group.add_argument(
        "--strategy",
        choices=("jit", "shard_map", "pmap"),
        default="jit",
        help="how a step is compiled for several devices; default: %(default)s",
    )
    group.add_argument(
        "--resume", action="store_true", help="go on with the run that --out holds"
    )


def _add_output_options(group: Any) -> None:
    group.add_argument(
        "--out",
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


def _count(text: str) -> int:
    return _integer(text, 1, None)


def _batch(text: str) -> int:
    return _integer(text, 4, None)


def _separator(text: str) -> str:
    names = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "bar": "|"}
    names |= {"pipe": "|", "space": " ", "spaces": " "}
    character = names.get(text, text)
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


def _widths(text: str) -> tuple[int, ...]:
    if text == "none":
        return ()
    return tuple(_count(part.strip()) for part in text.split(","))


def _positive(text: str) -> float:
    return _number(text, "a finite number above 0", lambda x: 0 < x < math.inf)


def _not_negative(text: str) -> float:
    expected = "a finite number of at least 0"
    return _number(text, expected, lambda x: 0 <= x < math.inf)


def _replicates(text: str) -> int:
    count = _integer(text, 0, None)
    if count == 1:
        raise argparse.ArgumentTypeError(
            "expected 0 or an integer of at least 2; got 1"
        )
    return count


def _seed(text: str) -> int:
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


def _gamma(text: str) -> float | Literal["auto"]:
    if text == "auto":
        return "auto"
    expected = "a finite number above 0, or auto"
    return _number(text, expected, lambda x: 0 < x < math.inf)


def _tolerance(text: str) -> float:
    return _number(text, "a number above 0 and below 1", lambda x: 0 < x < 1)


def _number(text: str, expected: str, is_good: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan  # which no range holds
    if not is_good(value):
        raise argparse.ArgumentTypeError(f"expected {expected}; got {text!r}")
    return value
