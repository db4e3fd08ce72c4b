"""Checks of arguments: each raises with what was expected and what came.

Shapes and dtypes are known while JAX traces and are always checked. Values are known
only outside a trace: `check_values` looks at concrete arrays and lets tracers pass,
where the `status` of a result tells of trouble instead.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from contexture_jax._core.arrays import (
    as_array,
    as_device_array,
    as_floating,
    as_integers,
    as_real,
    floating_dtype,
)
from contexture_jax._core.processes import gathered, held_here, judged, spans_processes
from contexture_jax._core.types import Array, summary

__all__ = [
    "as_array",
    "as_device_array",
    "as_floating",
    "as_integers",
    "as_real",
    "as_rows",
    "check_coefficient",
    "check_concrete",
    "check_finite",
    "check_integer",
    "check_key",
    "check_mass",
    "check_ndim",
    "check_nonnegative",
    "check_number",
    "check_probabilities",
    "check_rows_have_mass",
    "check_values",
    "counted",
    "floating_dtype",
    "gap_of_laws",
    "gathered",
    "held_here",
    "holds_callers",
    "is_concrete",
    "is_traced",
    "on_cpu",
    "spans_processes",
]

# Whose values nobody closes over anything in.
_LIBRARIES = {"builtins", "contexture_jax", "jax", "jaxlib", "numpy"}


def is_concrete(*arrays: Any) -> bool:
    """Whether every array has values that this process can read now.

    None is a tracer, an abstract shape, or an array of several processes.
    """
    return not is_traced(arrays) and not any(
        map(spans_processes, jax.tree.leaves(arrays))
    )


def is_traced(*arrays: Any) -> bool:
    """Whether an array has no values yet: a tracer or an abstract shape."""
    return any(
        isinstance(a, (Tracer, jax.ShapeDtypeStruct)) for a in jax.tree.leaves(arrays)
    )


def holds_callers(tree: Any) -> bool:
    """Whether static fields of a pytree hold what is the caller's own, as a function.

    A program that is kept for all trees of one structure would keep that alive.
    """

    def is_callers(value: Any) -> bool:
        if isinstance(value, type):
            return False
        package = type(value).__module__.partition(".")[0]
        return callable(value) or package not in _LIBRARIES

    def in_node(node: Any) -> bool:
        data = node.node_data()
        fixed = [] if data is None else jax.tree.leaves(data[1])
        return any(map(is_callers, fixed)) or any(map(in_node, node.children()))

    return in_node(jax.tree.structure(tree))


def on_cpu(x: Array) -> bool:
    """Whether a concrete array lives on CPU devices."""
    return all(device.platform == "cpu" for device in x.devices())


def counted(count: Any, what: str) -> str:
    """`1 row`, `3 rows`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def check_concrete(arrays: Any, name: str) -> None:
    """Raise a `TypeError` if an array is traced: what is laid out on the host is not.

    Args:
        arrays: a pytree of arrays.
        name: what it is, for the message.
    """
    if is_traced(arrays):
        msg = (
            f"{name} is laid out on the host and must be concrete; got a tracer: build"
            " it outside jit, vmap or grad, and pass what is made of it inside"
        )
        raise TypeError(msg)


def as_rows(x: Any, name: str) -> jax.Array:
    """Convert to a device array; raise a `ValueError` unless it has a row or more."""
    rows = as_device_array(x, name)
    if rows.ndim == 0 or rows.shape[0] == 0:
        msg = f"{name} must have at least one row; got shape {tuple(rows.shape)}"
        raise ValueError(msg)
    return rows


def check_ndim(x: Any, ndim: int, name: str) -> None:
    """Raise a `ValueError` unless `x` has `ndim` dimensions."""
    if x.ndim != ndim:
        msg = f"{name} must have {ndim} dimension(s); got shape {tuple(x.shape)}"
        raise ValueError(msg)


def check_integer(value: Any, name: str, *, low: int, high: int | None = None) -> int:
    """Return `value` as an `int`; raise unless `low <= value <= high`.

    A 0-d array of an integer counts as one.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    # True is an index to Python; a float is none, whole or not.
    if number is None or isinstance(value, bool):
        msg = f"{name} must be an integer; got {summary(value)}"
        raise TypeError(msg)
    if number < low or (high is not None and number > high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        msg = f"{name} must be {bounds}; got {number}"
        raise ValueError(msg)
    return number


def check_number(value: Any, name: str) -> float:
    """Return `value` as a `float`; raise a `TypeError` unless it is one real number."""
    # Booleans and text are refused by their kind: neither is a number here.
    scalar = as_array(value, name) if is_concrete(value) else None
    if scalar is None or scalar.ndim or scalar.dtype.kind not in "iuf":
        msg = f"{name} must be one number; got {summary(value)}"
        raise TypeError(msg)
    return float(scalar)


def check_coefficient(value: Any, name: str, *, positive: bool = False) -> Any:
    """Return `value`; raise unless it is one finite number that is not negative.

    A traced number, as of a schedule, passes.

    Args:
        value: a number.
        name: what it is, for the message.
        positive: whether 0 is refused too.
    """
    if not is_concrete(value):
        return value
    number = check_number(value, name)
    in_range = number > 0 if positive else number >= 0
    if not (in_range and np.isfinite(number)):
        expected = "positive" if positive else "not negative"
        msg = f"{name} must be finite and {expected}; got {number}"
        raise ValueError(msg)
    return number


def check_key(key: Any) -> None:
    """Raise a `TypeError` unless `key` is one JAX random key."""
    # Of the typed kind, or raw as `jax.random.PRNGKey` makes them.
    is_key = isinstance(key, jax.Array) and (
        jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        or (key.dtype == jnp.uint32 and key.ndim >= 1)
    )
    if not is_key:
        msg = f"key must be a random key, as from jax.random.key(0); got {summary(key)}"
        raise TypeError(msg)
    # The last axis of a raw key is its words.
    batch = key.shape if key.dtype != jnp.uint32 else key.shape[:-1]
    if batch:
        msg = (
            f"key must be one random key; got a batch of shape {batch}: take one of"
            " them, or use jax.vmap; in a step with row_keys=True, wrap the sampler in"
            " training.per_row"
        )
        raise TypeError(msg)


def check_values(
    x: Any, name: str, ok: Callable[[np.ndarray], np.ndarray], expected: str
) -> None:
    """Raise a `ValueError` at the first entry of a concrete `x` where `ok` is false.

    Of an array of several processes each looks at its part, and all raise the same.
    """
    if is_traced(x):
        return
    start, total = 0, None
    if spans_processes(x):
        # Counts, which all can have; then the one row that is named.
        in_rows = _bad_in_rows(x, ok)
        if not in_rows.any():
            return
        start, total = int(np.argmax(in_rows > 0)), int(in_rows.sum())
        x = gathered(x[start : start + 1])
    values = np.asarray(x)
    # By what is not ok: NaN fails every comparison.
    bad = ~ok(values)
    if bad.any():
        # Integers of Python's, which print as such.
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        msg = f"{name} must be {expected}; got {values[where]}"
        if where:
            count = counted(bad.sum() if total is None else total, "bad value")
            where = (start + where[0], *where[1:])
            msg += f" at {name}[{', '.join(map(str, where))}] ({count})"
        raise ValueError(msg)


def _bad_in_rows(x: Array, ok: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """How many entries of each row of an array of several processes are not `ok`."""
    bad = judged(x, lambda values: ~ok(values))
    # (rows,): no process reads what another holds, and all come to one answer.
    counts = jnp.sum(bad, axis=tuple(range(1, bad.ndim)), dtype=jnp.int32)
    return gathered(counts).astype(np.int64)


def check_finite(x: Any, name: str) -> None:
    """Raise unless all entries are finite."""
    check_values(x, name, np.isfinite, "finite")


def check_nonnegative(x: Any, name: str) -> None:
    """Raise unless all entries are finite and non-negative."""
    check_values(
        x, name, lambda v: np.isfinite(v) & (v >= 0), "finite and non-negative"
    )


def check_probabilities(p: Any, name: str, size: int) -> None:
    """Raise unless `p` is a vector of `size` non-negative weights with mass."""
    check_ndim(p, 1, name)
    # First, since a trace knows it.
    if p.shape[0] != size:
        msg = f"{name} must have length {size}; got {p.shape[0]}"
        raise ValueError(msg)
    check_nonnegative(p, name)
    check_mass(p, name)


def check_mass(weights: Any, name: str) -> None:
    """Raise if all of a concrete array of weights are 0."""
    if is_traced(weights):
        return
    if spans_processes(weights):
        # Truth values leave a process, and no weights.
        some = bool(jnp.any(judged(weights, lambda values: values != 0)))
    else:
        # Not by a sum, which overflows or loses what is small.
        some = bool(np.asarray(weights).any())
    if not some:
        msg = f"{name} must have positive total mass; all its entries are 0"
        raise ValueError(msg)


def gap_of_laws(p: Any, q: Any) -> float:
    """Σ |p − q| of two concrete laws of one length; 0 where it may be rounding."""
    p, q = gathered(p), gathered(q)
    gap = float(np.abs(p.astype(np.float64) - q.astype(np.float64)).sum())
    # Both are sums of many rounded numbers: half of their digits.
    eps = max(float(np.finfo(law.dtype).eps) for law in (p, q))
    return gap if gap > np.sqrt(eps) else 0.0


def check_rows_have_mass(mass: Any, name: str) -> None:
    """Raise if a concrete vector of row masses has a zero: such a row is no law."""
    check_values(mass, name, lambda v: v > 0, "of positive mass in every row")
