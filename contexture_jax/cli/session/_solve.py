"""A solve that is watched: what it shows, keeps and says between two passes."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from contexture_jax.cli.session._processes import Processes
from contexture_jax.cli.session._progress import Advance
from contexture_jax.cli.session._publish import SETTINGS, made_inside, replacing
from contexture_jax.cli.session._run import check_same, resumed
from contexture_jax.cli.session._signals import Ending
from contexture_jax.data import InputError, quoted_path

__all__ = ["SOLVE", "WatchedSolve"]

SOLVE = "solve"  # the directory of a solve, among the results
_STATE = "state.npz"
_BETWEEN = 10.0  # seconds from one saved state to the next, or
_SHARE = 0.05  # so much of the time spent on saving, whichever is more rare


class WatchedSolve:
    """A solve whose state is kept in the directory of the results.

    Used as a context, from which it is left when the results have been written.

    Args:
        out: the directory, which need not exist, and is claimed.
        ending: asked between two passes whether to end, and told what is kept.
        processes: that solve together, of which the first one writes.

    Attributes:
        signal: the number of the signal that it was told to end by; 0: none.
    """

    def __init__(
        self, out: Path, ending: Ending, processes: Processes | None = None
    ) -> None:
        self.signal = 0
        self._processes = Processes() if processes is None else processes
        self._out, self._folder = out, out / SOLVE
        self._ending = ending
        self._claim, self._patience = contextlib.ExitStack(), contextlib.ExitStack()
        self._is_told: Any = lambda: 0
        self._has_begun, self._may_save = False, True
        self._passes, self._first = 0.0, 0.0
        # From now on, so that a short solve keeps nothing.
        self._saved_at, self._cost = time.monotonic(), 0.0

    def __enter__(self) -> WatchedSolve:
        return self

    def __exit__(self, *_: object) -> None:
        self._patience.close()
        self._claim.close()

    def check(self, settings: dict[str, Any]) -> None:
        """Find out, before any work, whether a state that is there is of this solve.

        Args:
            settings: as in `begin`, as far as they are known.

        Raises:
            InputError: if it is of another.
        """
        if (self._folder / _STATE).exists():
            check_same(self._folder / SETTINGS, settings)

    def folder(self, settings: dict[str, Any]) -> Path:
        """The directory of the solve, made now: for what else is kept of its passes.

        Args:
            settings: as in `begin`, as far as they are known.

        Raises:
            InputError: if the file system refuses.
        """
        if not self._folder.exists():
            self._settings = settings
            self._make_folder()
        return self._folder

    def begin(self, settings: dict[str, Any], advance: Advance, *, resume: bool) -> Any:
        """What to go on from: the state of the same solve if it is there, else None.

        Args:
            settings: what makes the solve the solve that it is.
            advance: shown the passes.
            resume: whether to look for a state.

        Raises:
            InputError: if there is one of another solve, or it is damaged.
        """
        from contexture_jax.solvers import load_state

        self._settings, self._advance = settings, advance
        path = self._folder / _STATE
        if not path.exists():
            if self._has_begun:
                # Of a folder made before all of them were known.
                self._write_settings()
            return None
        if not resume and not self._processes.is_first:
            return None
        if not resume:
            print(
                f"contexture: note: {quoted_path(self._folder)} holds the state of a"
                " solve that was ended, which --resume goes on from; this one begins"
                " anew",
                file=sys.stderr,
            )
            return None
        # Before the state, whose shapes would tell less of what differs.
        check_same(self._folder / SETTINGS, self._settings)
        try:
            state = load_state(path)
        except ValueError as error:
            raise InputError(
                f"{error}; expected {quoted_path(self._folder)} deleted, or no --resume"
            ) from error
        # The folder is this solve's: its settings need not be written again.
        self._has_begun = True
        return state

    def on_step(self, progress: Any) -> bool:
        """Show and keep a state; whether to end with it."""
        if not self._passes:
            # There is something to keep from now on.
            self._is_told = self._patience.enter_context(self._ending.asked())
        self._passes = progress.num_passes
        self._show(progress)
        due = max(_BETWEEN, self._cost / _SHARE)
        is_due = self._processes.is_first and time.monotonic() - self._saved_at >= due
        # Of several processes all end where one is told to, and all gather the state
        # that the first one saves.
        told = [self._is_told(), int(is_due)]
        self.signal, is_due = self._processes.largest(told)
        # A signal may be the last chance to keep what was found.
        if self._may_save and (self.signal or is_due):
            self._save(progress.state)
        return bool(self.signal)

    def end_of_passes(self) -> None:
        """From here on a signal ends the run as at any other time."""
        # One that came after the last pass ends the run once results are written.
        self.signal = self._processes.largest([self.signal or self._is_told()])[0]
        self._patience.close()

    def is_published(self, stopped_after: float | None) -> None:
        """The results are there.

        Args:
            stopped_after: how many passes they are of, if more were to come; None if
                not, and no state is needed any more.
        """
        if stopped_after is None:
            if self._processes.is_first:
                shutil.rmtree(self._folder, ignore_errors=True)
        # Without a state that was kept there is nothing to go on from.
        elif self._has_begun:
            self._ending.kept = lambda: (
                f"the results of {stopped_after:g} passes are in"
                f" {quoted_path(self._out)}; go on with:"
                f" {resumed(self._ending.command)}"
            )

    def _show(self, progress: Any) -> None:
        """The way to the tolerance, on a scale on which it is covered evenly."""
        scale = float(np.max(progress.singular_values, initial=0))
        worst = float(np.max(progress.residuals, initial=0))
        words = f"{progress.num_passes:g} passes"
        if not (scale > 0 and math.isfinite(worst)):
            self._advance(0, 1, words)
            return
        tol = progress.state.plan.tol or np.finfo(np.float32).eps
        # A residual of 0 has no logarithm.
        left = max(math.log(max(worst / scale, 1e-300) / tol), 0.0)
        # The largest so far, as residuals may rise at first: the bar never goes back
        # beyond its start.
        self._first = max(self._first, left)
        words += f", residual {worst / scale:.1e} of {tol:.1e}"
        self._advance(self._first - left, self._first or 1, words)

    def _save(self, state: Any) -> None:
        from contexture_jax.solvers import save_state

        start = time.monotonic()
        if not self._has_begun:
            with self._trying():
                if self._processes.is_first:
                    self._make_folder()
            self._has_begun = self._may_save
        # Gathered by all, if all can go on.
        if self._may_save:
            with self._trying():
                save_state(self._folder / _STATE, state)
        if not self._may_save:
            return
        passes, folder = self._passes, quoted_path(self._folder)
        self._ending.kept = lambda: (
            f"no results were written; the state after {passes:g} passes is kept in"
            f" {folder}; go on from it with: {resumed(self._ending.command)}"
        )
        self._saved_at = time.monotonic()
        # Of the last state: they are all of a size.
        self._cost = self._saved_at - start

    @contextlib.contextmanager
    def _trying(self) -> Iterator[None]:
        """Keep nothing from now on if it fails in a process, which says so."""
        try:
            yield
        except (OSError, InputError) as error:
            # A result that is near is worth more than what it may be needed for.
            self._may_save = False
            print(
                f"contexture: warning: the state of the solve cannot be kept: {error}",
                file=sys.stderr,
            )
        self._may_save = not self._processes.largest([int(not self._may_save)])[0]

    def _make_folder(self) -> None:
        made_inside(self._out, SOLVE, self._claim)
        # Before the settings: an old state beside new ones would pass for theirs.
        (self._folder / _STATE).unlink(missing_ok=True)
        self._write_settings()
        self._has_begun = True

    def _write_settings(self) -> None:
        with replacing(self._folder / SETTINGS) as path:
            path.write_text(json.dumps(self._settings) + "\n", encoding="utf-8")
