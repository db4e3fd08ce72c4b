"""Methods in steps, and who drives them: a program under a transformation, or Python.

A step is written once. What it decides is a number of NumPy where Python drives, and a
traced one inside a program.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from contexture_jax._core.checks import gathered, is_traced
from contexture_jax._core.either import is_plain
from contexture_jax.solvers._linear_map import LinearMap
from contexture_jax.solvers._plan import Plan
from contexture_jax.solvers._random import Seed
from contexture_jax.solvers._triples import Triples

__all__ = ["Solver", "choose", "drive", "in_trace", "read", "when", "zeros"]

_T = TypeVar("_T")


class Solver(NamedTuple):
    """A method, as functions of its state: a NamedTuple of arrays.

    Each state has `passes`, how many are done; `is_open`, whether the method goes on;
    `s` and `residuals`, the values last found and how exact they are.

    Attributes:
        state: the type of the state.
        init: (a, plan, seed, start) to the state before any pass; `start`, shape (m,
            width) or None, is what to begin with.
        step: (a, plan, state, in_place=False) to the state after one pass more; where
            `in_place`, arrays of the last one may be written over.
        complete: (a, plan, state) to a state that has the triples of its passes,
            whatever that still takes; for those who stop early.
        extract: the triples of a state, `plan.rank` of them or more.
        decides: whether values decide what a step does and when the last one was.
    """

    state: type
    init: Callable[[LinearMap, Plan, Seed, Any], Any]
    step: Callable[..., Any]
    complete: Callable[[LinearMap, Plan, Any], Any]
    extract: Callable[[Any], Triples]
    decides: bool = True


def drive(
    solver: Solver,
    a: LinearMap,
    plan: Plan,
    state: Any,
    *,
    traced: bool,
    on_pass: Callable[[Any], bool] | None = None,
) -> tuple[Any, bool]:
    """Step until the method is done, or `on_pass(state)` says to stop.

    Args:
        solver: the method.
        a: the matrix.
        plan: its widths and goals.
        state: to go on from.
        traced: whether something is traced, so that there are no values to read.
        on_pass: called after each pass, outside of a trace.

    Returns:
        The last state; whether it was stopped before its time.
    """
    # One program, whose size does not grow with the passes. Methods that decide nothing
    # run below in a trace, too: their one or two passes are unrolled.
    if traced and solver.decides:
        step = functools.partial(solver.step, a, plan)
        return jax.lax.while_loop(lambda now: now.is_open, step, state), False
    in_place = False
    while state.is_open:
        state = solver.step(a, plan, state, in_place=in_place)
        if on_pass is None:
            # What the caller went on from is its own; the rest nobody else has seen.
            in_place = not traced
            continue
        # Who is told of a pass finds it done, and may measure time.
        jax.block_until_ready(state)
        # A solve that ended by itself was not stopped.
        if on_pass(state) and state.is_open:
            return state, True
    return state, False


def choose(condition: Any, yes: Callable[[], _T], no: Callable[[], _T]) -> _T:
    """One of two, by a value or, inside a program, by a conditional."""
    # Under `vmap` both run, and one is taken.
    if isinstance(condition, Tracer):
        return jax.lax.cond(condition, yes, no)
    return yes() if condition else no()


def when(condition: Any, function: Callable[[_T], _T], state: _T) -> _T:
    """function(state) if the condition holds, else the state as it is.

    Inside a program by a loop of no turns, which copies nothing of what it hands on.
    """
    if not isinstance(condition, Tracer):
        return function(state) if condition else state
    turns = condition.astype(jnp.int32)
    return jax.lax.fori_loop(0, turns, lambda _, now: function(now), state)


def read(*values: Any) -> tuple[Any, ...]:
    """Small arrays and numbers as values of NumPy; traced ones as they are."""
    if is_plain(*values):
        return tuple(None if x is None else np.asarray(x)[()] for x in values)
    if is_traced(values):
        return values
    # An array of no axes becomes a number, which decides in Python as one.
    return tuple(None if x is None else np.asarray(gathered(x))[()] for x in values)


def zeros(shape: tuple[int, ...], dtype: Any, like: Any) -> Any:
    """Zeros for a state: traced if `like` is, else of no memory."""
    if isinstance(like, Tracer):
        return jnp.zeros(shape, dtype)
    # Read-only, by strides of 0: states are replaced and never written into.
    return np.broadcast_to(np.zeros((), dtype), shape)


def in_trace(*trees: Any) -> bool:
    """Whether something is traced, or what is made here would be."""
    # What is put on a device in a trace is traced, and outside compiles nothing.
    return is_traced(trees) or isinstance(jax.device_put(np.zeros(())), Tracer)
