"""A solve between two passes: what a caller sees of it, keeps, and goes on from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.archives import read_archive, write_archive
from contexture_jax._core.checks import gathered
from contexture_jax._core.fingerprint import of_one_law
from contexture_jax._core.types import Float, pytree_dataclass, static_field, summary
from contexture_jax.solvers._plan import Plan
from contexture_jax.solvers._run import METHODS, Begun, solver_of

__all__ = [
    "OnStep",
    "Progress",
    "SolveState",
    "begun_of",
    "check_untraced",
    "load_state",
    "observed",
    "save_state",
]

# Of the file: another one where states or plans have other fields.
_VERSION = 3


@pytree_dataclass
class SolveState:
    """All that a solve goes on from; a tree of arrays.

    Attributes:
        inner: the state of the method, a NamedTuple (`solvers._randomized` and beside).
        stage: 1 after the coarse solve that `range_dtype` asks for, or after one that
            may lack copies of equal values, else 0, shape ().
        earlier: passes of the stages before, shape ().
        fingerprint: of what is solved, shape (8,); None if not known.
        plan: method, widths and goals.
        shape: (n, m).
        dtype: name of the dtype of the work.
    """

    inner: Any
    stage: Any
    earlier: Any
    fingerprint: Any = None
    plan: Plan = static_field(default=None)
    shape: tuple[int, int] = static_field(default=(0, 0))
    dtype: str = static_field(default="")


class Progress(NamedTuple):
    """What `on_step` is told after a pass.

    Attributes:
        num_passes: over the operator so far.
        singular_values: those last found, shape (rank,); zeros before the first.
        residuals: how exact they are, shape (rank,); infinite before the first.
        state: to save, or to go on from with `state=`.
    """

    num_passes: float
    singular_values: Float[np.ndarray, " rank"]
    residuals: Float[np.ndarray, " rank"]
    state: SolveState


OnStep = Callable[[Progress], Any]


def observed(
    on_step: OnStep | None, empty: SolveState, scale: Any = 1.0
) -> Callable[[Begun], bool] | None:
    """`on_step` as what a solver calls.

    Args:
        on_step: of the caller.
        empty: a state with all that stays the same.
        scale: what values are multiples of.
    """
    if on_step is None:
        return None

    def look(begun: Begun) -> bool:
        inner, rank = begun.state, empty.plan.rank
        s, residuals = (
            # Bases that few passes fill may hold fewer values; the shape stays.
            float(scale) * np.resize(gathered(x), max(len(x), rank))[:rank]
            for x in (inner.s, inner.residuals)
        )
        # The half pass that iterations begin with.
        half = 0.0 if empty.plan.method == "exact" else 0.5
        passes = float(begun.earlier + inner.passes + half)
        state = _filled(empty, begun)
        # Not whatever is true: a callback may return what it likes.
        return on_step(Progress(passes, s, residuals, state)) is True

    return look


def _filled(empty: SolveState, begun: Begun) -> SolveState:
    return SolveState(
        begun.state,
        np.int32(begun.stage),
        np.int32(begun.earlier),
        empty.fingerprint,
        empty.plan,
        empty.shape,
        empty.dtype,
    )


def check_untraced(on_step: Any, state: Any) -> None:
    """Raise a `TypeError` if something is asked for that a program cannot do."""
    for name, value in (("on_step", on_step), ("state", state)):
        if value is not None:
            msg = (
                f"{name} must be None inside jit, vmap or another transformation, where"
                " one program runs all passes and none can be seen; got"
                f" {summary(value)}: call it outside"
            )
            raise TypeError(msg)


def begun_of(state: Any, expected: SolveState, beside: Any) -> Begun | None:
    """What to go on from; None if there is no state.

    Args:
        state: as it came.
        expected: what it must be of.
        beside: the arrays of the matrix, on whose devices it goes on.

    Raises:
        TypeError: if it is no state.
        ValueError: if it is that of another solve; says what differs.
    """
    if state is None:
        return None
    _check_kind(state)
    ours, theirs = _description(expected), _description(state)
    # Option by option, so that the message names the one that differs.
    for name, value in ours.items():
        if theirs.get(name) != value:
            msg = (
                f"state must be that of the same solve, {name} {value}; got one of"
                f" {name} {theirs.get(name)}"
            )
            raise ValueError(msg)
    # Equal sizes and options do not make it the same matrix.
    of_one_law(
        expected.fingerprint,
        state.fingerprint,
        "state must be that of the same operator or matrix",
    )
    inner = state.inner
    # Numbers that decide are NumPy's, the rest lies on the device.
    arrays = [x for x in jax.tree.leaves(beside) if isinstance(x, jax.Array)]
    devices = set().union(*(x.devices() for x in arrays))
    parts = {name: _placed(x, devices) for name, x in inner._asdict().items()}
    # The stage picks a method: a number of Python's.
    return Begun(inner._replace(**parts), int(state.stage), np.int32(state.earlier))


def _placed(x: Any, devices: set[Any]) -> Any:
    if isinstance(x, tuple):
        # A copy: parts that are full are let go at the end.
        return tuple(jnp.array(_placed(part, devices)) for part in x)
    # Arrays on other devices do not meet: by way of the host, as from a file.
    if isinstance(x, jax.Array) and devices and x.devices() != devices:
        x = gathered(x)
    return np.asarray(x)[()] if np.ndim(x) == 0 else jax.device_put(x)


def _check_kind(state: Any) -> None:
    if not isinstance(state, SolveState):
        msg = f"state must be one that on_step was given; got {type(state).__name__}"
        raise TypeError(msg)


def _description(state: SolveState) -> dict[str, Any]:
    """What two states of one solve share, in words and numbers."""
    # Words decide nothing.
    plan = state.plan._replace(reason="")._asdict()
    return {"shape": tuple(state.shape), "dtype": state.dtype, **plan}


def save_state(path: str | os.PathLike[str], state: SolveState) -> None:
    """Save a state in one file, without pickle; whole or not at all.

    In several processes all call it, and the first one writes.

    Args:
        path: of the file, an `.npz` whatever its name.
        state: from `on_step`.

    Raises:
        TypeError: if it is no state.
        OSError: if the file cannot be written.
    """
    _check_kind(state)
    # Before the others leave: what is cut over processes is gathered by all of them.
    arrays = {}
    for name, x in state.inner._asdict().items():
        # A basis in parts is saved part by part, and how many they are.
        several = isinstance(x, tuple)
        arrays[name] = np.asarray(len(x)) if several else gathered(x)
        arrays.update(
            (f"{name} {i}", gathered(part))
            for i, part in enumerate(x if several else ())
        )
    header = {"version": _VERSION, **_description(state)}
    parts = {
        "header": np.array(json.dumps(header)),
        "stage": np.asarray(state.stage),
        "earlier": np.asarray(state.earlier),
        **{f"state {name}": x for name, x in arrays.items()},
    }
    # A map has none.
    if state.fingerprint is not None:
        parts["fingerprint"] = np.asarray(state.fingerprint)
    if jax.process_index():
        return
    write_archive(Path(path), parts)


def load_state(path: str | os.PathLike[str]) -> SolveState:
    """The state in a file of `save_state`.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, no such file, or of another version.
    """
    path = Path(path)
    try:
        parts = read_archive(path)
        header = json.loads(str(parts.pop("header")))
        # First of all: a file of another version may have other parts.
        version = header.pop("version")
        if version == _VERSION:
            return _rebuilt(header, parts)
    except FileNotFoundError:
        raise
    # Whatever is missing, or not as it was written.
    except Exception as error:
        msg = f"{path} must be a file of save_state; it is damaged or another's"
        raise ValueError(msg) from error
    msg = f"{path} must be a state of version {_VERSION}; got version {version}"
    raise ValueError(msg)


def _rebuilt(header: dict[str, Any], parts: dict[str, np.ndarray]) -> SolveState:
    shape, dtype = tuple(header.pop("shape")), header.pop("dtype")
    plan = Plan(**header)
    # The second stage of such a plan is subspace iteration (`_run._stages`).
    is_again = plan.guards_clusters and int(parts["stage"]) > 0
    kind = (METHODS["randomized"] if is_again else solver_of(plan)).state
    inner = kind(**{name: _part(parts, f"state {name}") for name in kind._fields})
    mark = parts.get("fingerprint")
    return SolveState(inner, parts["stage"], parts["earlier"], mark, plan, shape, dtype)


def _part(parts: dict[str, np.ndarray], name: str) -> Any:
    """An array, or those that follow where it has parts."""
    if f"{name} 0" not in parts:
        return () if name == "state right" and parts[name].ndim == 0 else parts[name]
    return tuple(parts[f"{name} {i}"] for i in range(int(parts[name])))
