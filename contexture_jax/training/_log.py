"""Where the metrics of a run go: memory, a CSV file, TensorBoard, a progress bar."""

from __future__ import annotations

import csv
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from contexture_jax.training._errors import CheckpointError, reason

__all__ = ["History", "progress_bar", "tensorboard_writer"]

Row = dict[str, Any]


class History:
    """Rows of metrics, in memory and, if there is a path, in a CSV file.

    A row is in the file once `append` returns. Numbers are written so that they are
    read back exactly; columns come as they are first seen, and a row that lacks one has
    an empty cell.

    Raises `CheckpointError` where the file cannot be read or written.

    Args:
        path: of the file; None: memory alone.
        writes: whether this process writes it; else it only reads what is there.
    """

    def __init__(self, path: Path | None, *, writes: bool = True) -> None:
        self._path = path
        # All processes hold the rows, as all decide on them; one writes.
        self._writes = writes and path is not None
        self._columns: list[str] = ["step"]
        self._rows: list[Row] = []

    def restart(self, step: int) -> None:
        """Take over the rows of the file up to a step, and drop what is after it."""
        self._rows = []
        # A run from its start does not read what an earlier one may have left.
        if step and self._path is not None and self._path.exists():
            self._rows = [row for row in _read(self._path) if row["step"] <= step]
        self._columns = ["step"]
        for row in self._rows:
            self._columns += [name for name in row if name not in self._columns]
        # Also where nothing is dropped: half a line at the end of the file goes.
        self._rewrite()

    def append(self, row: Row) -> None:
        """Add a row, which has a "step"."""
        new = [name for name in row if name not in self._columns]
        self._columns += new
        self._rows.append(row)
        # A column more changes the head of the file, which lies before all rows.
        if new:
            self._rewrite()
        elif self._writes and self._path is not None:
            with (
                _told(self._path, "written"),
                # Opened and closed for each row: it is on disk for whoever reads along,
                # or if we die.
                self._path.open("a", encoding="utf-8", newline="") as file,
            ):
                csv.writer(file).writerow(self._cells(row))

    def columns(self) -> dict[str, np.ndarray]:
        """Each column as a float64 array (steps int64), NaN where a row lacks it."""
        table: dict[str, np.ndarray] = {
            name: np.array([row.get(name, np.nan) for row in self._rows], np.float64)
            for name in self._columns
        }
        table["step"] = table["step"].astype(np.int64)
        return table

    def _rewrite(self) -> None:
        if not self._writes or self._path is None:
            return
        with _told(self._path, "written"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Written beside and renamed: a process that dies here leaves the old file
            # or the new one, never a part.
            beside = self._path.with_suffix(".tmp")
            with beside.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(self._columns)
                writer.writerows(self._cells(row) for row in self._rows)
            os.replace(beside, self._path)

    def _cells(self, row: Row) -> list[Any]:
        return [
            "" if name not in row else _exact(name, row[name]) for name in self._columns
        ]


def _ignore(*args: Any) -> None:
    del args


def _exact(name: str, value: Any) -> Any:
    # `repr` is the shortest text that is read back as the same float64.
    return int(value) if name == "step" else repr(float(value))


def _read(path: Path) -> list[Row]:
    with _told(path, "read", "; delete it to go on without the rows so far"):
        # A process that died may have left half a line at the end.
        text = path.read_bytes().decode("utf-8")
        whole = text[: text.rfind("\n") + 1]
        # Strict: a quote that was cut in two is an error, not a very long cell.
        columns, *lines = csv.reader(io.StringIO(whole, newline=""), strict=True)
        if "step" not in columns or any(len(line) != len(columns) for line in lines):
            msg = "it is no table of rows with a step each"
            raise ValueError(msg)
        return [
            {
                name: int(cell) if name == "step" else float(cell)
                for name, cell in zip(columns, line, strict=True)
                # Absent, and not NaN: a row may lack a metric that is only evaluated
                # now and then.
                if cell != ""
            }
            for line in lines
        ]


@contextmanager
def _told(path: Path, what: str, otherwise: str = "") -> Iterator[None]:
    try:
        yield
    # UnicodeDecodeError is a ValueError: bytes that are no text are told like the rest.
    except (OSError, ValueError, csv.Error) as error:
        msg = f"{path} cannot be {what} ({reason(error)}){otherwise}"
        raise CheckpointError(msg) from error


@contextmanager
def tensorboard_writer(
    directory: Path | None, start: int
) -> Iterator[Callable[[Row], None]]:
    """A function that writes a row for TensorBoard; nothing without a directory.

    Args:
        directory: of the event files, or None.
        start: the step that a run goes on from: later points of earlier runs are
            hidden.

    Raises:
        ModuleNotFoundError: without tensorboardX.
    """
    if directory is None:
        yield _ignore
        return
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError as error:
        msg = (
            "tensorboard=True needs tensorboardX, which the extra `train` installs:"
            " pip install tensorboardX"
        )
        raise ModuleNotFoundError(msg, name=error.name) from error
    # Points after the step that is gone back to would stay in the curves beside the new
    # ones.
    writer = SummaryWriter(str(directory), purge_step=start + 1 if start else None)

    def write(row: Row) -> None:
        step = int(row["step"])
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(name, value, step)
        writer.flush()

    try:
        yield write
    finally:
        writer.close()


@contextmanager
def progress_bar(
    shown: bool | None, total: int, start: int
) -> Iterator[Callable[[int, Row], None]]:
    """A function of (step, last row) that moves a bar on stderr.

    Args:
        shown: None: on a terminal, where rich is installed.
        total: steps of the run.
        start: steps that are done.

    Raises:
        ModuleNotFoundError: without rich, if the bar was asked for.
    """
    if shown is None:
        # In a file or a pipe a bar is a line for each move.
        shown = sys.stderr.isatty() and importlib.util.find_spec("rich") is not None
    if not shown:
        yield _ignore
        return
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )
    except ModuleNotFoundError as error:
        msg = "progress=True needs rich, which the extra `train` installs"
        raise ModuleNotFoundError(msg, name=error.name) from error
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    # On stderr: stdout is for what a program prints as its result.
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("train", total=total, completed=start)

        def move(step: int, row: Row) -> None:
            text = f"loss {row['loss']:.5g}" if "loss" in row else "train"
            bar.update(task, completed=step, description=text)

        yield move
