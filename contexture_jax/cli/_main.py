"""The command `contexture`: from its arguments to a command, and its exit statuses."""

from __future__ import annotations

import argparse
import gc
import io
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from contexture_jax import __version__
from contexture_jax.cli import (
    _bench,
    _diagnose,
    _embed,
    _plan,
    _predict,
    _rank,
    _spectrum,
    _train,
)
from contexture_jax.cli._arguments import DATA, as_words
from contexture_jax.cli.session import (
    Ending,
    Interrupted,
    ending_on_signals,
    remove_temporaries,
)
from contexture_jax.data import InputError

__all__ = ["main"]

_OBJECTS = 100_000  # that are made between two looks for garbage


class _Parser(argparse.ArgumentParser):
    """A parser that complains in one line, and leaves exiting to `main`."""

    def error(self, message: str) -> NoReturn:
        # argparse would print the usage as well and end the process of a caller.
        raise InputError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status.

    Args:
        argv: the arguments after the program's name; None: those of the process.
    """
    if argv is None:
        # Of a process of its own: what it loads and traces stays, and would be looked
        # through for garbage again and again.
        gc.set_threshold(_OBJECTS)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that knows no Greek letters gets question marks, not a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    with ending_on_signals() as ending:
        # In place before anything is written.
        ending.clean_up = remove_temporaries
        try:
            status = _run(argv, ending)
        except Interrupted as interrupted:
            number = interrupted.number
        except KeyboardInterrupt:  # the second, while a run saves itself
            number = signal.SIGINT
        else:
            # Others are not there to part from, and would be waited for at an exit.
            if ending.leaves and argv is None:
                _leave(status)
            return status
        print(ending.words(number), file=sys.stderr)
        # A caller in this process gets the status, and goes on.
        if argv is None:
            # Threads of XLA may be in a program still: the interpreter's own way out
            # has crashed under them.
            _leave(128 + number)
    return 128 + number


def _leave(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _run(argv: Sequence[str] | None, ending: Ending) -> int:
    try:
        arguments = vars(_parser().parse_args(argv))
        given = sys.argv[1:] if argv is None else argv
        # As a shell takes it: a run that is ended says by it how to go on.
        ending.command = shlex.join(["contexture", *given])
        _, command, options = _COMMANDS[arguments.pop("command")]
        result = command.run(options(**arguments), ending)
    except InputError as error:
        message = error.message.worded(as_words)
    # Files raise `InputError`, mostly; without a name it is stdout, full or closed.
    except OSError as error:
        message = f"{error.strerror or error}: {error.filename or 'the output'}"
        message += "" if error.filename else f"; {ending.kept()}"
    except Exception as error:
        if _is_of_a_peer(error):
            # Before the watch has seen it: on a busy machine, or as they meet.
            words = "a connection to another process of the run was lost"
            print(f"contexture: error: {words}; {ending.kept()}", file=sys.stderr)
            if ending.leaves and argv is None:
                _leave(1)
            return 1
        # An error of the program keeps its traceback.
        if not _is_out_of_memory(error):
            if ending.leaves and argv is None:
                traceback.print_exc()
                _leave(1)
            raise
        message = f"out of memory; {ending.kept()}: take fewer rows or columns"
    else:
        # Those that judge say so by their status.
        return command.status(result) if hasattr(command, "status") else 0
    # One line, whatever a file name or a cell may hold.
    print(f"contexture: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or _says(error, "RESOURCE_EXHAUSTED")


def _is_of_a_peer(error: Exception) -> bool:
    return _says(error, "by peer")


def _says(error: Exception, words: str) -> bool:
    """Whether JAX raised it with such words; JAX is not to be loaded for this."""
    names = "JaxRuntimeError", "XlaRuntimeError"
    return type(error).__name__ in names and words in str(error)


# None of these modules imports JAX before its command runs: --help and bad input are
# told at once.
_COMMANDS = {
    "spectrum": (
        "the spectrum of a context on a table",
        _spectrum,
        _spectrum.SpectrumOptions,
    ),
    "rank": ("which of many contexts is worth training on", _rank, _rank.RankOptions),
    "predict": (
        "predict a column from a context and few labels, with the error to expect",
        _predict,
        _predict.PredictOptions,
    ),
    "diagnose": (
        "what embeddings of the same rows share, know and look like",
        _diagnose,
        _diagnose.DiagnoseOptions,
    ),
    "train": (
        "learn the spectrum of a context with an encoder",
        _train,
        _train.TrainOptions,
    ),
    "embed": ("what was learned, at rows of new data", _embed, _embed.EmbedOptions),
    "plan": ("what a problem takes on chips by name", _plan, _plan.PlanOptions),
    "bench": (
        "how fast this is here, and whether that has changed",
        _bench,
        _bench.BenchOptions,
    ),
}
_WITHOUT_DATA = (_plan, _bench)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="contexture",
        description="Contextures: what a context can teach, from the command line.",
        # An abbreviation would change its meaning with the next option.
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"contexture {__version__}"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (short, module, _) in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=short,
            description=module.DESCRIPTION,
            epilog=None if module in _WITHOUT_DATA else DATA,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if module is _embed:
            what = "model.npz of contexture train"
            command.add_argument("model", metavar="MODEL", help=what)
        if module is _diagnose:
            what = "files of embeddings, one row an example"
            command.add_argument(
                "embeddings", metavar="EMBEDDINGS", nargs="+", help=what
            )
        elif module not in _WITHOUT_DATA:
            what = "a file or a built-in set"
            command.add_argument("data", metavar="DATA", help=what)
        module.add_options(command)
    return parser
