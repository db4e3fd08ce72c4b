"""Telling on stderr what is going on: a bar on a terminal, a line a stage elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Advance", "Stages"]

# Of so much done, of a total, and words to show beside the bar.
Advance = Callable[..., None]


class Stages:
    """The stages of a run, and how long each took.

    Attributes:
        seconds: the seconds of each stage that has ended, by name.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.seconds: dict[str, float] = {}
        self._quiet = quiet
        self._start = time.perf_counter()

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    @contextmanager
    def stage(self, name: str) -> Iterator[Advance]:
        """Time a stage; gives a function to tell inside it how far it is."""
        start = time.perf_counter()
        if self._quiet or not sys.stderr.isatty():
            yield _ignore
        else:
            with _bar(name) as advance:
                yield advance
        # Not in a `finally`: a stage that failed has no time, and no line.
        self.seconds[name] = time.perf_counter() - start
        if not self._quiet:
            print(f"{name:<9}{self.seconds[name]:8.2f} s", file=sys.stderr, flush=True)


def _ignore(done: float | int, total: float | int, words: str = "") -> None:
    del done, total, words


@contextmanager
def _bar(name: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        "{task.description}",
        BarColumn(),
        TimeElapsedColumn(),
        "{task.fields[words]}",
    )
    # Transient: the line that is printed after it says all there is to keep.
    # On stderr, since stdout is for results.
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        # Without a total, which the first call tells, it only shows that it runs.
        task = progress.add_task(f"{name:<9}", total=None, words="")

        def advance(done: float | int, total: float | int, words: str = "") -> None:
            progress.update(task, completed=done, total=total, words=words)

        yield advance
