"""The operator of a context on a sample of inputs, from draws of its context values."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from contexture_jax._core.checks import (
    as_device_array,
    as_rows,
    check_finite,
    check_integer,
    check_key,
    check_values,
    is_concrete,
)
from contexture_jax._core.fingerprint import fingerprint
from contexture_jax._core.intervals import Interval, check_level, normal_interval
from contexture_jax._core.meshes import beside_context, tree_on_auto_axes
from contexture_jax._core.numerics import mm, safe_sqrt
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    pytree_dataclass,
    static_field,
)
from contexture_jax.contexts import (
    Context,
    DensityCheck,
    OnRows,
    all_log_densities,
    as_context,
    check_density,
    judge_density,
    row_law,
)
from contexture_jax.operators._dense import DenseOperator
from contexture_jax.operators._drawn import (
    DrawnOperator,
    drawn_kernel,
    drawn_operator,
)
from contexture_jax.operators.sharded._common import check_mesh, place_whole
from contexture_jax.operators.sharded._dense import ShardedDenseOperator, shard_dense

__all__ = [
    "Draws",
    "MonteCarloOperator",
    "ShardedMonteCarloOperator",
    "check_draws",
    "check_monte_carlo",
    "draw_values",
    "monte_carlo_kernel",
    "monte_carlo_operator",
]

# The level of either test of a density; their p-values are bounds, mostly far above.
_UNBELIEVABLE = 1e-6
_OWN_DRAWS = 0x6A0D  # folded into the key
_UNEVEN = 1e-4  # relative difference of masses that are equal but for rounding


@pytree_dataclass
class MonteCarloOperator(DenseOperator):
    """T on inputs x_1..x_n and draws a_1..a_m from their P_A, as a dense table.

    Attributes:
        joint: (1 / n m) P(a_j|x_i) / P_A(a_j), shape (n, m).
        p_x: its row sums, 1 / n up to the error of the draws, shape (n,).
        p_a: its column sums, 1 / m, shape (m,).
        transposed: as in `DenseOperator`.
        samples: a_1..a_m, leading axis m, batch by batch.
        num_batches: how many independent and equally large batches they are. Static.
        log_p_a: log P_A(a_j), the densities of which are mixed there, shape (m,).
        source: the fingerprint of the context, shape (8,); None if it has none.
    """

    samples: Any = None
    num_batches: int = static_field(default=1)
    log_p_a: Any = None
    source: Any = None


@pytree_dataclass
class ShardedMonteCarloOperator(ShardedDenseOperator):
    """The same table with its rows cut over a mesh.

    Attributes:
        joint: with padding, shape (n2, m), rows sharded.
        p_x: shape (n,).
        p_a: shape (m,).
        mesh: the devices. Static.
        axis: the axis of the mesh that cuts the rows. Static.
        samples: a_1..a_m, on every device.
        num_batches: as in `MonteCarloOperator`. Static.
        log_p_a: likewise, on every device.
        source: likewise.
    """

    samples: Any = None
    num_batches: int = static_field(default=1)
    log_p_a: Any = None
    source: Any = None


@beside_context
def monte_carlo_operator(
    context: Context | Any,
    x: ArrayLike | None,
    num_samples: int,
    *,
    key: Array,
    num_batches: int = 10,
    mesh: Mesh | None = None,
    axis: str = "x",
) -> Any:  # one of three kinds, as the context decides
    """T of a context with a density, on a sample, by Monte Carlo over a ~ P_A.

    With P_X the uniform law on x_1..x_n, P_A is the mixture (1/n) Σ_i P⁺(·|x_i), from
    which a_1..a_m are drawn. The table

        P_ij = (1 / n m) P⁺(a_j|x_i) / P_A(a_j),  P_A(a) = (1/n) Σ_i P⁺(a|x_i),

    has the column sums 1 / m, and n² m Σ_j P_ij P_i'j is an unbiased estimate of the
    dual kernel k_X⁺(x_i, x_i') for every pair (theory.md §4.8). The error of singular
    values is of order m^{-1/2}: `evaluation.monte_carlo_error`.

    Draws come in independent batches. Within one, they go round the inputs
    systematically, m / (n num_batches) for each up to rounding, which has the same mean
    as inputs at random and less variance.

    A context that steps back from values of a law `on_rows` to the rows, as
    `convolve(on_rows(law, x), …)`, has no density. Its operator is made of its finite
    parts, exactly, and of such a table for each law on rows, whose rows are normalised:
    consistent, with a bias of order 1 / m, which the error counts.

    Args:
        context: one with `sample` and `log_density`, of whatever class, or one made of
            finite contexts and of such laws `on_rows`.
        x: inputs, leading axis n; None: all rows of a context of numbered rows, each
            equally likely.
        num_samples: m, a multiple of `num_batches`.
        key: random key.
        num_batches: at least 1; the error needs several.
        mesh: devices to cut the rows over, as in `association_operator`; None: one.
        axis: the axis of the mesh that cuts the rows.

    Returns:
        A `MonteCarloOperator`, over a mesh sharded; without a density of the whole a
        `DrawnOperator`.

    Raises:
        CapabilityError: if the context has no `sample` or no `log_density`.
        TypeError: if `x` is None and the rows have no numbers.
        ValueError: if m is no multiple of `num_batches`, `x` is None and rows are not
            equally likely, `x` or a mesh is given with a context without a density, or
            densities or samples have
            another shape than x calls for, or they do not belong together: these
            draws, or the 1,024 that `contexts.check_density` takes by a key of its
            own, have a p-value below 1e-6 under the density, so that of 500,000 right
            ones at most one is refused (`check_density` tells more; a trace does not
            see values and makes no check).
    """
    num_samples, num_batches = check_draws(key, num_samples, num_batches)
    context = tree_on_auto_axes(as_context(context))
    for need in ("sample", "log_density"):
        if need not in context.capabilities:
            return _by_parts(context, x, num_samples, key, num_batches, mesh, need)
    x = _all_rows(context) if x is None else as_rows(x, "x")
    draws = draw_values(context, x, num_samples, key, num_batches)
    # A difference of logarithms: a density alone may overflow.
    joint = jnp.exp(draws.log_ratios).T / (x.shape[0] * num_samples)
    op = MonteCarloOperator(
        joint,
        # Not 1 / n, which it is in the mean: adjoint for the table as it is.
        joint.sum(axis=1),
        joint.sum(axis=0),
        None,
        draws.samples,
        num_batches,
        draws.log_p_a,
        context.fingerprint,
        fingerprint=fingerprint((context.fingerprint, x, draws.samples)),
    )
    # Cut last: draws are the same on any number of devices.
    return op if mesh is None else _shard(op, check_mesh(mesh, axis), axis)


def check_draws(key: Array, num_samples: int, num_batches: int) -> tuple[int, int]:
    """The numbers of draws and of batches, of which the first is to be a multiple.

    Raises:
        TypeError: if a number is no integer, or `key` no key.
        ValueError: if they do not fit together.
    """
    check_key(key)
    num_batches = check_integer(num_batches, "num_batches", low=1)
    num_samples = check_integer(num_samples, "num_samples", low=1)
    if num_samples % num_batches:
        msg = (
            f"num_samples must be a multiple of num_batches, {num_batches}; got"
            f" {num_samples}"
        )
        raise ValueError(msg)
    return num_samples, num_batches


class Draws(NamedTuple):
    """Draws from the mixture of P⁺(·|x_i) over inputs, and what densities say of them.

    Attributes:
        samples: a_1..a_m, leading axis m, batch by batch.
        log_ratios: log P⁺(a_j|x_i) − log P_A(a_j), shape (m, n).
        log_p_a: log P_A(a_j), exact for these inputs, shape (m,).
    """

    samples: Any
    log_ratios: Float[Array, "m n"]
    log_p_a: Float[Array, " m"]


def draw_values(
    context: Context, x: Array, num_samples: int, key: Array, num_batches: int
) -> Draws:
    """Draws as `monte_carlo_operator` takes them, its arguments checked.

    Raises:
        ValueError: if `log_density` is not that of `sample`, or has another shape.
    """
    n = x.shape[0]
    key_rows, key_values = jax.random.split(key)
    rows = _systematic(key_rows, n, num_samples // num_batches, num_batches)
    samples = context.sample(key_values, x[rows])
    logs = all_log_densities(context, samples, x, num_samples)
    log_p_a = jax.nn.logsumexp(logs, axis=1) - math.log(n)
    # Each draw is from one of the rows, and has a density there.
    check_finite(log_p_a, "the mixture of log_density at what `sample` drew")
    if is_concrete(samples, rows, logs):
        _refuse_wrong(judge_density(samples, rows, logs))
        # By draws of its own, too: those at hand may be too few to tell.
        own = jax.random.fold_in(key, _OWN_DRAWS)
        _refuse_wrong(check_density(context, x, key=own))
    return Draws(samples, logs - log_p_a[:, None], log_p_a)


def _all_rows(context: Context) -> Array:
    """The numbers of all rows, which are to be equally likely."""
    law = row_law(context)
    if law is None:
        msg = (
            "x must hold inputs of a law of A at any x; None is all rows of a context"
            f" of numbered rows, as cx.contexts.on_rows; got a {context._kind}"
        )
        raise TypeError(msg)
    if is_concrete(law) and np.ptp(np.asarray(law)) > _UNEVEN / law.shape[0]:
        msg = (
            "x must be given where rows are not equally likely, as those that are drawn"
            " for; got None"
        )
        raise ValueError(msg)
    return jnp.arange(law.shape[0], dtype=jnp.int32)


def _by_parts(
    context: Context,
    x: Any,
    num_samples: int,
    key: Array,
    num_batches: int,
    mesh: Mesh | None,
    need: str,
) -> DrawnOperator:
    """The operator of a context that lacks what is needed by those of its parts."""

    def draw(own: Array, part: OnRows) -> Array:
        drawn: Any = monte_carlo_operator(
            part.law, part.x, num_samples, key=own, num_batches=num_batches
        )
        return drawn.joint

    op = drawn_operator(context, draw, key, num_batches)
    if op is None:
        raise context._lacks(need)
    is_all = x is None or np.array_equal(np.asarray(x), np.arange(op.shape[0]))
    if not is_all or mesh is not None:
        what = "mesh" if is_all else "x"
        msg = f"{what} must be None for a context without `log_density`; got one"
        raise ValueError(msg)
    return op


def _refuse_wrong(found: DensityCheck) -> None:
    if found.p_value < _UNBELIEVABLE:
        msg = (
            "log_density must be that of what `sample` draws; under it the draws have a"
            f" p-value of {found.p_value:.1e}, {found.num_impossible} of"
            f" {found.num_draws} have the density 0, and scores are"
            f" {np.round(found.scores, 1).tolist()}: see contexts.check_density"
        )
        raise ValueError(msg)


def _systematic(key: Array, n: int, size: int, num_batches: int) -> Array:
    """Rows (b size,): batches that go evenly round 0..n − 1 from a random start."""
    # A start for each batch: they stay independent, and the error is told by them.
    start = jax.random.uniform(key, (num_batches, 1))
    places = (jnp.arange(size)[None, :] + start) * (n / size)
    # Rounding may take the last place to n.
    return jnp.clip(places.astype(jnp.int32), 0, n - 1).reshape(-1)


def _shard(op: MonteCarloOperator, mesh: Mesh, axis: str) -> ShardedMonteCarloOperator:
    dense = shard_dense(op, mesh, axis)
    return ShardedMonteCarloOperator(
        dense.joint,
        dense.p_x,
        dense.p_a,
        mesh,
        axis,
        jax.tree.map(lambda leaf: place_whole(leaf, mesh), op.samples),
        op.num_batches,
        place_whole(op.log_p_a, mesh),
        op.source,
        fingerprint=op.fingerprint,
    )


def monte_carlo_kernel(
    op: MonteCarloOperator | ShardedMonteCarloOperator | DrawnOperator,
    x: ArrayLike,
    x2: ArrayLike,
    *,
    level: float = 0.9,
) -> Interval:
    """The dual kernel of a context that has a sampler and a density, with its error.

    k_X⁺(x, x2) = E[r(A) r2(A)] over A ~ P_A, with r(a) = P⁺(a|x) / P_A(a): the mean
    over the draws of the operator, for which P_A is the mixture over its inputs. The
    interval of each value is that of the normal law, from the scatter of the B batches;
    of few batches it is too narrow (of ten, one of 0.9 holds 0.87). The error is that
    of drawing A alone, as in `evaluation.monte_carlo_error`.

    Args:
        op: of `monte_carlo_operator`, with two batches at least.
        x: numbers of its inputs, shape (k,).
        x2: the same, shape (l,).
        level: the confidence of each value by itself.

    Returns:
        An `evaluation.Interval`, shape (k, l); its estimate is unbiased, that of a
        `DrawnOperator` but for terms of order m⁻².

    Raises:
        TypeError: if `op` is another operator, or the numbers are no integers.
        ValueError: if a number is out of range, or all draws are one batch.
    """
    if not isinstance(op, DrawnOperator):
        op = check_monte_carlo(op)
    level = check_level(level)
    if op.num_batches < 2:
        msg = f"op must have at least 2 batches; got num_batches = {op.num_batches}"
        raise ValueError(msg)
    n, m = op.shape
    if isinstance(op, DrawnOperator):
        numbers = _numbers(x, "x", n), _numbers(x2, "x2", n)
        return normal_interval(*drawn_kernel(op, *numbers), level)

    def ratios(numbers: ArrayLike, name: str) -> Array:
        # (B, k, m / B): P⁺(a_j|x) / P_A(a_j), batch by batch.
        rows = n * m * op.joint[_numbers(numbers, name, n)]
        return jnp.moveaxis(rows.reshape(len(rows), op.num_batches, -1), 1, 0)

    one, two = ratios(x, "x"), ratios(x2, "x2")
    # (B, k, l): each batch alone is unbiased.
    means = jax.vmap(lambda r, r2: mm(r, r2.T) / r.shape[1])(one, two)
    mean = means.mean(axis=0)
    # Between batches: what depends on each other within one is counted as well.
    scatter = ((means - mean[None]) ** 2).sum(axis=0) / (op.num_batches - 1)
    return normal_interval(mean, safe_sqrt(scatter / op.num_batches), level)


def check_monte_carlo(op: Any) -> MonteCarloOperator | ShardedMonteCarloOperator:
    """The operator as it is; a `TypeError` unless it is a Monte Carlo operator."""
    if isinstance(op, (MonteCarloOperator, ShardedMonteCarloOperator)):
        return op
    msg = (
        "op must be an operator as from cx.operators.monte_carlo_operator, of a context"
        f" with `log_density`; got {type(op).__name__}"
    )
    raise TypeError(msg)


def _numbers(numbers: ArrayLike, name: str, size: int) -> Array:
    """Numbers of inputs, shape (k,), checked."""
    # Checked, since a gather of JAX clips what is out of range.
    index = as_device_array(numbers, name)
    if index.ndim != 1 or not jnp.issubdtype(index.dtype, jnp.integer):
        msg = (
            f"{name} must hold numbers of inputs, shape (k,); got dtype {index.dtype},"
            f" shape {tuple(index.shape)}"
        )
        raise TypeError(msg)
    check_values(
        index, name, lambda v: (v >= 0) & (v < size), f"between 0 and {size - 1}"
    )
    return index
