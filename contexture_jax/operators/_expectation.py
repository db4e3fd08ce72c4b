"""T g at the rows of a context, without the rest of its operator.

New points need one product and no adjoint: neither its layout, which differs in shape
from one set of points to the next, nor P_A and a norm.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    as_device_array,
    as_floating,
    check_ndim,
    is_concrete,
    is_traced,
)
from contexture_jax._core.fingerprint import of_one_law
from contexture_jax._core.numerics import mm, safe_divide
from contexture_jax._core.programs import program_of
from contexture_jax._core.types import Array, ArrayLike, Float, Int
from contexture_jax.contexts import (
    Context,
    Labels,
    Neighbors,
    SoftmaxContext,
    SparseJoint,
    all_log_densities,
    as_context,
)
from contexture_jax.kernels import Bucket, Form, add_rows, sum_slots
from contexture_jax.operators._build import association_operator
from contexture_jax.operators._kernel import TILE_SIZE, kernel_operator
from contexture_jax.operators._monte_carlo import (
    MonteCarloOperator,
    ShardedMonteCarloOperator,
    check_monte_carlo,
)

__all__ = ["conditional_expectation", "monte_carlo_expectation"]

_CHUNK = 4096  # entries of a sparse law that are gathered at a time


def conditional_expectation(
    context: Context | Any, g: ArrayLike
) -> Float[Array, "n r"]:
    """E[g(A)|x] at each x of a context, shape (n, r), 0 at rows without mass.

    Outside a trace one program is compiled for each kind of context and shapes.
    Gradients are in reverse mode only where the context is kept in tiles or slots.

    Args:
        context: any that has an operator.
        g: functions of A, shape (m, r), real numbers.

    Raises:
        TypeError: if `context` is no context, or `g` does not hold real numbers.
        ValueError: if `g` has another shape.
    """
    block = as_floating(g, "g")
    check_ndim(block, 2, "g")
    return expectation(as_context(context), block)


def monte_carlo_expectation(
    op: MonteCarloOperator | ShardedMonteCarloOperator,
    context: Context | Any,
    x: ArrayLike,
    g: ArrayLike,
) -> Float[Array, "k r"]:
    """E[g(A)|x] at any inputs, from the draws of a Monte Carlo operator.

    With w_j = P⁺(a_j|x) / P_A(a_j) that is Σ_j w_j g_j / Σ_j w_j. At the inputs of the
    operator it is T g to rounding.

    Args:
        op: of `monte_carlo_operator`, on one device or over a mesh.
        context: what it was built from; the density suffices.
        x: inputs, leading axis k.
        g: functions of A at the draws, shape (m, r).

    Raises:
        CapabilityError: if the context has no `log_density`.
        TypeError: if `op` is another operator, or `g` does not hold real numbers.
        ValueError: if the context is another one, `g` has another shape, or no draw is
            possible at some x; NaN there inside a trace.
    """
    check_monte_carlo(op)
    context = as_context(context, needs=("log_density",))
    expected = "context must be the one of the operator"
    # Its source: the mark of the operator itself is of inputs and draws as well.
    same = of_one_law(op.source, context.fingerprint, expected)
    block, x = as_floating(g, "g"), as_device_array(x, "x")
    check_ndim(block, 2, "g")
    _check_rows(block, op.shape[1])
    if x.ndim == 0:
        raise ValueError("x must have a leading axis, one entry an input; got a scalar")
    found = _program(context)(op.samples, op.log_p_a, x, block)
    if not is_traced(found):
        # A softmax of nothing but −∞ is 0 / 0.
        lost = np.isnan(np.asarray(found)).any(axis=1)
        if lost.any():
            msg = (
                "x must be where some draw of the operator is possible; the density at"
                f" row {int(np.argmax(lost))} is 0 or no number at all of them"
            )
            raise ValueError(msg)
    return jnp.where(same, found, jnp.nan)


def _program(context: Context) -> Callable[..., Array]:
    """`_by_draws` of a context, compiled if it is a pytree."""
    # A context of the user's own may hold what no program takes.
    leaves = jax.tree.leaves(context)
    if not all(isinstance(v, (jax.Array, np.ndarray, float, int)) for v in leaves):
        return functools.partial(_by_draws, context)
    return program_of(_compiled_by_draws, context)


def _by_draws(
    context: Context, samples: Any, log_p_a: Array, x: Array, g: Array
) -> Float[Array, "k r"]:
    # (m, k): log P⁺(a_j|x_i).
    logs = all_log_densities(context, samples, x, log_p_a.shape[0])
    # In logarithms: a density of many coordinates leaves the range of the dtype. The
    # sum over draws is divided out, so that g = 1 gives 1 exactly.
    weights = jax.nn.softmax(logs - log_p_a[:, None], axis=0)
    return mm(weights.T.astype(g.dtype), g)


_compiled_by_draws = jax.jit(_by_draws)


@functools.singledispatch
def expectation(context: Any, g: Array) -> Array:
    return association_operator(context).matmat(g)


@expectation.register
def _(context: SoftmaxContext, g: Array) -> Array:
    return program_of(_by_tiles, context, form=context.form())(g)


@expectation.register
def _(context: Neighbors, g: Array) -> Array:
    _check_rows(g, context.num_points)
    return _by_slots(context.indices, context.weights, g)


@expectation.register
def _(context: Labels, g: Array) -> Array:
    _check_rows(g, context.num_classes)
    # A slot for each input: its class.
    return _by_slots(context.codes[:, None], None, g)


@expectation.register
def _(context: SparseJoint, g: Array) -> Array:
    if not is_concrete(context):
        return association_operator(context).matmat(g)  # which says why not
    _check_rows(g, context.shape[1])
    size = context.weights.shape[0]
    # Of few lengths, since each is a program.
    padding = (0, _CHUNK * 2 ** int(np.ceil(np.log2(max(size / _CHUNK, 1)))) - size)
    # Padding has weight 0 and adds nothing to row 0.
    entries = (
        np.pad(np.asarray(entry), padding)
        for entry in (context.rows, context.columns, context.weights)
    )
    return _by_entries(*entries, g, num_rows=context.shape[0])


def _check_rows(g: Any, num_rows: int) -> None:
    # A gather from an index that is out of range says nothing.
    if g.shape[0] != num_rows:
        msg = f"g must have shape ({num_rows}, r); got shape {tuple(g.shape)}"
        raise ValueError(msg)


@functools.partial(jax.jit, static_argnames="form")
def _by_tiles(
    context: SoftmaxContext, g: Float[Array, "m r"], *, form: Form
) -> Float[Array, "n r"]:
    # The compiler drops what only T* and the norm would need.
    return kernel_operator(context, TILE_SIZE, form).matmat(g)


@jax.jit
def _by_slots(
    indices: Int[Array, "n k"], weights: Float[Array, "n k"] | None, g: Array
) -> Float[Array, "n r"]:
    # (K, n), slot-major.
    slots = Bucket(indices.T, None if weights is None else weights.T)
    total = sum_slots(slots, g)
    return total / indices.shape[1] if weights is None else total


@functools.partial(jax.jit, static_argnames="num_rows")
def _by_entries(
    rows: Any, columns: Any, weights: Any, g: Array, *, num_rows: int
) -> Float[Array, "n r"]:
    def add(state: Any, chunk: Any) -> tuple[Any, None]:
        total, mass = state
        row, column, weight = chunk
        # A chunk at a time: nnz · r numbers may be far more than the result.
        total = add_rows(total, row, weight[:, None] * g[column])
        return (total, mass.at[row].add(weight)), None

    chunks = jax.tree.map(lambda x: x.reshape(-1, _CHUNK), (rows, columns, weights))
    start = jnp.zeros((num_rows, g.shape[1]), g.dtype), jnp.zeros(num_rows, g.dtype)
    (total, mass), _ = jax.lax.scan(add, start, chunks)
    # Weights are of the joint law; the row's mass makes them conditional.
    return safe_divide(total, mass[:, None])
