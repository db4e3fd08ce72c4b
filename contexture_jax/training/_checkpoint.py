"""Checkpoints of a run, by Orbax: whole or absent, whenever the process dies.

Orbax writes a checkpoint beside the others under a name that it does not read, in a
thread, and renames it once it is whole. An old one is deleted only after a newer one is
whole, so there is always one to go on from.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from contexture_jax._core.types import Array

__all__ = ["CheckpointError", "Progress", "Store", "key_words"]


class CheckpointError(ValueError):
    """A checkpoint is damaged, or that of another run."""


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


class Store:
    """The checkpoints in a directory.

    Args:
        directory: made if it is missing.
        keep_last: how many of the newest to keep, at least 1.
        keep_best: how many to keep of those with the best scores.
        mode: "min" or "max", which scores are good.
    """

    def __init__(
        self, directory: Path, *, keep_last: int, keep_best: int, mode: str
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._manager = ocp.CheckpointManager(
            directory.resolve(),
            options=ocp.CheckpointManagerOptions(cleanup_tmp_directories=True),
            item_names=("state", "progress", "form"),
        )
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._sign = -1.0 if mode == "max" else 1.0
        self._scores: dict[int, float] = {}
        self._between: set[int] = set()

    @property
    def directory(self) -> Path:
        """Where the checkpoints are."""
        return self._directory

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint that is whole; waits for one under way."""
        self._manager.wait_until_finished()
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The step of the checkpoint with the best score."""
        ranked = self._ranked(self._manager.all_steps())
        return ranked[0] if ranked else None

    def save(
        self, step: int, state: Any, progress: Progress, score: float | None
    ) -> None:
        """Begin to write a checkpoint; one under way is waited for.

        Args:
            step: its number.
            state: a pytree of arrays; Orbax has read them, or holds them against
                being overwritten, when this returns.
            progress: the rest; its scores are filled in here.
            score: the metric that decides which are the best, if there is one.
        """
        self.settle()
        if score is not None and np.isfinite(score):
            self._scores[step] = score
        if progress.between:
            self._between.add(step)
        named = _named(state)
        scores = {str(at): value for at, value in self._scores.items()}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(named),
                progress=ocp.args.JsonSave(progress._replace(scores=scores)._asdict()),
                form=ocp.args.JsonSave(_form(named)),
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
        held = self._restore(
            step, form=ocp.args.JsonRestore(), progress=ocp.args.JsonRestore()
        )
        self._check_form(step, held["form"], _form(_named(like)))
        progress = Progress(**held["progress"])
        progress = progress._replace(key=tuple(progress.key))
        if progress.key != key_words(key):
            msg = (
                f"the checkpoint of step {step} in {self._directory} belongs to a run"
                " with another key; expected the same key, or another directory"
            )
            raise CheckpointError(msg)
        self._scores = {int(at): s for at, s in (progress.scores or {}).items()}
        if progress.between:
            self._between.add(step)
        return progress._replace(between=False)

    def load(self, step: int, like: Any, sharding: Any) -> Any:
        """A state, bit for bit what was saved.

        Args:
            step: which checkpoint.
            like: a state of the same form, of arrays or their shapes.
            sharding: where its arrays go.

        Raises:
            CheckpointError: if it cannot be read.
        """
        wanted = _named(like)
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
            for name, leaf in wanted.items()
        }
        found = self._restore(step, state=ocp.args.StandardRestore(abstract))["state"]
        leaves = [found[name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def settle(self) -> None:
        """Wait for the checkpoint under way, then delete those not to be kept."""
        self._manager.wait_until_finished()
        steps = sorted(self._manager.all_steps())
        regular = [step for step in steps if step not in self._between]
        kept = {
            *steps[-1:],
            *regular[-self._keep_last :],
            *self._ranked(steps)[: self._keep_best],
        }
        for step in steps:
            if step not in kept:
                self._manager.delete(step)
        self._scores = {at: s for at, s in self._scores.items() if at in kept}

    def close(self) -> None:
        """Settle and end the threads."""
        try:
            self.settle()
        finally:
            self._manager.close()

    def _ranked(self, steps: Any) -> list[int]:
        scored = [step for step in steps if step in self._scores]
        return sorted(scored, key=lambda step: (self._sign * self._scores[step], step))

    def _check_form(self, step: int, held: Any, wanted: Any) -> None:
        if held == wanted:
            return
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

    def _restore(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax's are of many kinds
            folder = self._directory / str(step)
            reason = str(error).partition("\n")[0] or type(error).__name__
            msg = (
                f"the checkpoint in {folder} cannot be read ({reason}): delete that"
                " directory to go on from the one before it"
            )
            raise CheckpointError(msg) from error


def key_words(key: Array) -> tuple[int, ...]:
    """The words of a random key, on the host."""
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    data = jax.random.key_data(key) if typed else key
    return tuple(int(word) for word in np.asarray(data).ravel())


def _named(tree: Any) -> dict[str, Any]:
    """Leaves by path: Orbax then need not know of our classes or Optax's."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_path(path): leaf for path, leaf in leaves}


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path).replace("/", "|")


def _form(named: dict[str, Any]) -> dict[str, str]:
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in named.items()}
