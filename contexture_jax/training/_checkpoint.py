"""Checkpoints of a run, by Orbax: whole or absent, whenever the process dies.

Orbax writes a checkpoint beside the others under a name that it does not read, in a
thread, and renames it once it is whole. It deletes an old one only after a newer one is
whole, so there is always one to go on from; `Retention` says which. Orbax does not tell
a bit of an array that has flipped; sums over the bits of each do, and a digest of all
else.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from contexture_jax._core.types import Array
from contexture_jax.training._bits import examined, named
from contexture_jax.training._errors import CheckpointError, reason
from contexture_jax.training._retention import Retention

__all__ = ["Progress", "Store", "key_words", "newest_in", "told_what_is_whole"]

# Threads of Orbax that have failed may write once more after they are asked to stop.
_TRIES = 3
_SECONDS_BETWEEN_TRIES = 0.1


class Progress(NamedTuple):
    """What a run knows beside its state; as JSON in a checkpoint.

    Attributes:
        key: the words of the key of the run.
        position: where the data stand, for iterators that can tell.
        best: the best value so far of the metric that is watched, or None.
        stale: how many values have come since.
        scores: that metric at each checkpoint that is kept, by step.
        between: whether the run was interrupted here, at a step that a whole run does
            not save; such a checkpoint is kept while it is the newest.
    """

    key: tuple[int, ...]
    position: str | None = None
    best: float | None = None
    stale: int = 0
    scores: dict[str, Any] | None = None
    between: bool = False


def newest_in(directory: Path) -> int | None:
    """The step of the newest checkpoint that is whole, without waiting for another."""
    try:
        # What Orbax has begun has a suffix, so that a name of digits alone is whole.
        names = [path.name for path in directory.iterdir()]
    except OSError:
        names = []
    return max((int(name) for name in names if name.isdigit()), default=None)


class Store:
    """The checkpoints in a directory.

    Args:
        directory: made if it is missing.
        retention: which of them are kept.
        is_ours: whether the directory is still that of this run; None: not known.
    """

    def __init__(
        self,
        directory: Path,
        retention: Retention,
        is_ours: Callable[[], bool] | None = None,
    ) -> None:
        self._directory = directory
        self._is_ours = is_ours or (lambda: True)
        self._is_broken = False
        self._retention = retention
        # `_told` below asks for `whole`, which reads it even if the next lines fail.
        self._manager: Any = None
        # A run that cannot keep what it learns is to end before its first step.
        with self._told(f"checkpoints cannot be kept in {directory}"):
            directory.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(
                directory.resolve(),
                options=ocp.CheckpointManagerOptions(
                    # What a process that was killed had begun; nothing else would ever
                    # remove it.
                    cleanup_tmp_directories=True,
                    preservation_policy=retention,
                ),
                # Three items: what the run is (form) and where it stands (progress) can
                # be read, and refused, before gigabytes of state are.
                item_names=("state", "progress", "form"),
            )
        # From `_described` to `load`, of the same step.
        self._sums: dict[int, dict[str, int] | None] = {}
        self._saving: int | None = None

    @property
    def directory(self) -> Path:
        """Where the checkpoints are."""
        return self._directory

    @property
    def whole(self) -> str:
        """Which checkpoint a run can go on from, in words; waits for one under way."""
        with suppress(Exception):  # what it would say has been said, or will be
            self._manager.wait_until_finished()
        here, step = self._directory, newest_in(self._directory)
        if step is None:
            return f"there is no checkpoint in {here} to go on from"
        return f"that of step {step} in {here} is whole: a run can go on from it"

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint that is whole; waits for one under way."""
        self.wait()
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The step of the checkpoint with the best score."""
        ranked = self._retention.ranked(self._manager.all_steps())
        return ranked[0] if ranked else None

    def check(self) -> None:
        """Find out whether the directory is still there, and not another run's.

        Raises:
            CheckpointError: if it was removed or replaced.
        """
        if self._is_ours():
            return
        self._is_broken = True
        root = self._directory.parent
        kept = (
            "nothing of the run is kept"
            if newest_in(self._directory) is None
            else ("what is there may not be whole")
        )
        msg = f"{root} was removed or replaced while the run trained in it: {kept}"
        raise CheckpointError(msg)

    def save(
        self,
        step: int,
        state: Any,
        progress: Progress,
        score: float | None,
        sums: dict[str, int] | None = None,
    ) -> None:
        """Begin to write a checkpoint; one under way is waited for.

        Args:
            step: its number.
            state: a pytree of arrays; Orbax has read them, or holds them against
                being overwritten, when this returns.
            progress: the rest; its scores are filled in here.
            score: the metric that decides which are the best, if there is one.
            sums: of the state, as from `examined`; None: found here.

        Raises:
            CheckpointError: if this one or the one under way cannot be written, or
                the directory is gone.
        """
        self.check()
        self.wait()
        # After `wait`, which leaves the one before whole; before `save`, in which Orbax
        # asks what to delete.
        self._retention.add(step, score, between=progress.between)
        arrays = named(state)
        scores = {str(at): value for at, value in self._retention.scores.items()}
        held = {
            # JSON has no numbers for keys.
            **progress._replace(scores=scores)._asdict(),
            "step": step,
            "sums": examined(state)[1] if sums is None else sums,
        }
        self._saving = step
        with self._told(f"the checkpoint of step {step} cannot be written"):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays),
                    # The digest covers the sums, and those the arrays.
                    progress=ocp.args.JsonSave({**held, "digest": _digest(held)}),
                    form=ocp.args.JsonSave(_form(arrays)),
                ),
            )

    def progress(self, step: int, like: Any, key: Array) -> Progress:
        """What a checkpoint holds beside the state, once it is known to be this run's.

        Args:
            step: which checkpoint.
            like: a state of the form that it is to have.
            key: the key of the run, which must be that of the checkpoint.

        Raises:
            CheckpointError: if the checkpoint is that of another model or another key,
                or cannot be read.
        """
        with self._read(step):
            form, held = self._described(step)
            # First what it is, then whose: the message of another model's run says more
            # than that of another key.
            self._check_form(step, form, _form(named(like)))
            progress = Progress(**held)
            progress = progress._replace(key=tuple(progress.key))
            scores = {int(at): s for at, s in (progress.scores or {}).items()}
        # Another key would go on with other noise and other rows, in one history.
        if progress.key != key_words(key):
            msg = (
                f"the checkpoint of step {step} in {self._directory} belongs to a run"
                " with another key; expected the same key, or another directory"
            )
            raise CheckpointError(msg)
        # As the run that wrote it knew them: a resume keeps and deletes what a whole
        # run would.
        self._retention.scores = scores
        if progress.between:
            self._retention.between.add(step)
        # That it was saved between is a fact of that checkpoint, not of the ones to
        # come.
        return progress._replace(between=False)

    def load(self, step: int, like: Any, sharding: Any) -> Any:
        """A state, bit for bit what was saved.

        Args:
            step: which checkpoint.
            like: a state of the same form, of arrays or their shapes.
            sharding: where its arrays go.

        Raises:
            CheckpointError: if it cannot be read, or is not what was saved.
        """
        wanted = named(like)
        # Shapes and a sharding: Orbax reads straight onto the devices.
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
            for name, leaf in wanted.items()
        }
        with self._read(step):
            # The sums may be those of another step, or not read yet.
            self._described(step)
            found = self._restored(step, state=ocp.args.StandardRestore(abstract))
            # In the order of this tree; names of both have been compared by `progress`.
            leaves = [found["state"][name] for name in wanted]
            state = jax.tree.unflatten(jax.tree.structure(like), leaves)
            sums = self._sums.get(step)
            # None: written by a version that kept none.
            if sums is not None and sums != examined(state)[1]:
                msg = "its arrays are not those that were saved"
                raise ValueError(msg)
        return state

    def wait(self) -> None:
        """Wait until the checkpoint under way is whole and old ones are deleted.

        Raises:
            CheckpointError: if it could not be written, or they not be deleted.
        """
        here, step = self._directory, self._saving
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            # Errors of writing and of deleting both come out of this call; what lies
            # there tells which it was.
            is_whole = newest_in(here) == step
            self._fail(
                f"old checkpoints in {here} cannot be deleted"
                if is_whole
                else f"the checkpoint of step {step} cannot be written",
                error,
            )

    def close(self) -> None:
        """Wait and end the threads; quietly if the store has failed before."""
        try:
            if not self._is_broken:
                self.wait()
        finally:
            # Threads end whatever has happened; only what was not told yet is told
            # here.
            with (
                suppress(Exception)
                if self._is_broken
                else self._told(
                    f"the checkpoints in {self._directory} cannot be closed"
                )
            ):
                self._manager.close()
            # One process alone, and never in a directory that is another run's now.
            if self._is_broken and self._is_ours() and jax.process_index() == 0:
                self._remove_partial()

    def _remove_partial(self) -> None:
        """Remove checkpoints that were begun; threads of Orbax may still write some."""
        for _ in range(_TRIES):
            partial = [*self._directory.glob("*.orbax-checkpoint-tmp")]
            for path in partial:
                shutil.rmtree(path, ignore_errors=True)
            time.sleep(_SECONDS_BETWEEN_TRIES)

    def _check_form(self, step: int, held: Any, wanted: Any) -> None:
        if held == wanted:
            return
        # All that differ, for their number; the first in the alphabet is named.
        names = sorted(
            name
            for name in {*held, *wanted}
            if held.get(name, "nothing") != wanted.get(name, "nothing")
        )
        name = names[0]
        msg = (
            f"the checkpoint of step {step} in {self._directory} belongs to another"
            f" model or optimiser: {name} is {held.get(name, 'nothing')} there and"
            f" {wanted.get(name, 'nothing')} here ({len(names)} such); expected the"
            " same, or another directory"
        )
        raise CheckpointError(msg)

    def _described(self, step: int) -> tuple[Any, dict[str, Any]]:
        """The form of a checkpoint, and the fields of its `Progress`."""
        held = self._restored(
            step, form=ocp.args.JsonRestore(), progress=ocp.args.JsonRestore()
        )
        fields = dict(held["progress"])
        digest = fields.pop("digest", None)
        # Versions before the digest wrote neither that nor sums.
        # A digest that has gone missing beside sums is damage too.
        if (digest is not None or "sums" in fields) and digest != _digest(fields):
            msg = "its description is not what was saved"
            raise ValueError(msg)
        # A folder that was copied or renamed: the arrays are whole, but not those of
        # this step.
        if fields.pop("step", step) != step:
            msg = "it is that of another step"
            raise ValueError(msg)
        self._sums[step] = fields.pop("sums", None)
        return held["form"], fields

    def _restored(self, step: int, **items: Any) -> Any:
        return self._manager.restore(step, args=ocp.args.Composite(**items))

    @contextmanager
    def _read(self, step: int) -> Iterator[None]:
        """Tell in one line that a checkpoint cannot be read."""
        try:
            yield
        except CheckpointError:
            raise
        # `CheckpointError`s from within say more already, and pass above.
        except Exception as error:  # Orbax's are of many kinds
            folder = self._directory / str(step)
            msg = (
                f"the checkpoint in {folder} cannot be read ({reason(error)}): delete"
                " that directory to go on from the one before it"
            )
            raise CheckpointError(msg) from error

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Tell in one line that something failed, and which checkpoint is whole."""
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:
            self._fail(what, error)

    def _fail(self, what: str, error: Exception) -> NoReturn:
        self._is_broken = True
        # That the directory is gone explains whatever failed in it, and is told in its
        # place.
        self.check()
        raise CheckpointError(f"{what} ({reason(error)}); {self.whole}") from error


@contextmanager
def told_what_is_whole(store: Store | None) -> Iterator[None]:
    """Add to what goes wrong with the directory which checkpoint is whole."""
    try:
        yield
    except CheckpointError as error:
        msg = str(error) if store is None else f"{error}; {store.whole}"
        raise CheckpointError(msg) from error


def _digest(held: dict[str, Any]) -> str:
    # Sorted: what is read back need not come in the order of what was written.
    text = json.dumps(held, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def key_words(key: Array) -> tuple[int, ...]:
    """The words of a random key, on the host."""
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    data = jax.random.key_data(key) if typed else key
    return tuple(int(word) for word in np.asarray(data).ravel())


def _form(arrays: dict[str, Any]) -> dict[str, str]:
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in arrays.items()}
