"""Functions of arrays of NumPy, of JAX and of tracers alike.

What is small beside the products with an operator is done by NumPy where it can read
the arrays for nothing: on a CPU a program for it takes longer to compile than to run a
thousand times.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from contexture_jax._core.numerics import mm

__all__ = ["Either", "at_hand", "compiled_unless_numpy", "fold", "namespace", "product"]

Either: TypeAlias = Any  # an array of JAX or of NumPy

_P = ParamSpec("_P")
_T = TypeVar("_T")


def namespace(x: Either) -> Any:
    """The module with the functions of an array."""
    return np if isinstance(x, (np.ndarray, np.generic)) else jnp


def at_hand(tree: Any) -> Any:
    """Arrays as NumPy's, without a copy, if all lie on the one CPU of this process."""
    leaves = jax.tree.leaves(tree)
    if all(map(_is_at_hand, leaves)):
        return jax.tree.map(np.asarray, tree)
    return tree


def _is_at_hand(x: Any) -> bool:
    if isinstance(x, Tracer):
        return False
    if not isinstance(x, jax.Array):
        return isinstance(x, (np.ndarray, np.generic))
    # On one CPU `np.asarray` is a view of the same memory.
    devices = x.devices()
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"


def compiled_unless_numpy(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Let a function of arrays be a program of its own, but for arrays of NumPy."""
    program = jax.jit(function)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        # One array of JAX is enough for a program: NumPy would bring it to the host.
        ours = all(namespace(x) is np for x in jax.tree.leaves((args, kwargs)))
        # As JAX, which says nothing of 0 / 0: a status or a bound tells of it.
        with np.errstate(all="ignore"):
            return (function if ours else program)(*args, **kwargs)

    return call


def product(a: Either, b: Either) -> Either:
    """The matrix product, at full precision of the dtype."""
    return np.matmul(a, b) if namespace(a) is np else mm(a, b)


def fold(
    step: Callable[[tuple, tuple], tuple], carry: tuple, columns: tuple[Either, ...]
) -> tuple:
    """The carry after a step for each row of some columns."""
    # The step is compiled once, and not once a row.
    if namespace(columns[0]) is jnp:
        return jax.lax.scan(lambda now, x: (step(now, x), None), carry, columns)[0]
    for row in zip(*columns, strict=True):
        carry = step(carry, row)
    return carry
