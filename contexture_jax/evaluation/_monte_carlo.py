"""How far the spectrum of a Monte Carlo operator is from that of the context."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import check_finite, check_integer, check_key
from contexture_jax._core.intervals import Interval, check_level
from contexture_jax._core.numerics import PRECISIONS, mm, safe_reciprocal, safe_sqrt
from contexture_jax._core.types import Array, Float, short_repr
from contexture_jax.operators import (
    AssociationOperator,
    DenseOperator,
    DrawnOperator,
    check_monte_carlo,
    symmetrised_matrix,
)

__all__ = ["MonteCarloError", "jackknife", "monte_carlo_error"]


@short_repr
class MonteCarloError(NamedTuple):
    """Error of singular values that comes from drawing m context values alone.

    Attributes:
        band: the values of the operator, shape (rank,), and an interval for all at
            once.
        estimate: the values less the jackknife's estimate of their bias, within
            [0, 1], shape (rank,).
        standard_errors: of each value, shape (rank,).
        replicates: the values without each of the B batches, shape (B, rank): the
            `jackknife` of a symmetric function of tied values, such as their mean
            square, is regular where single values are not.
    """

    band: Interval
    estimate: Float[Array, " rank"]
    standard_errors: Float[Array, " rank"]
    replicates: Float[Array, "b rank"]


def jackknife(
    estimate: Float[Array, "*s"],
    replicates: Float[Array, "b *s"],  # noqa: F821 - a shape, no product of names
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """Bias and standard error of a statistic from its values without each batch.

    bias = (B − 1)(mean of replicates − estimate), and the standard error is
    √((B − 1) · mean of (replicate − mean)²) (Efron & Tibshirani 1993, ch. 11).

    Returns:
        (bias, standard error), each of the shape of `estimate`.

    Raises:
        ValueError: if a number is not finite.
    """
    check_finite(estimate, "estimate")
    check_finite(replicates, "replicates")
    # Replicates differ by one batch in B, hence (B − 1) where a bootstrap has 1.
    num = replicates.shape[0]
    mean = replicates.mean(axis=0)
    variance = ((replicates - mean[None]) ** 2).mean(axis=0)
    return (num - 1) * (mean - estimate), safe_sqrt((num - 1) * variance)


def monte_carlo_error(
    op: AssociationOperator,
    rank: int,
    *,
    key: Array,
    level: float = 0.9,
    num_replicates: int = 40,
) -> MonteCarloError:
    """Standard errors, bias and a band for the singular values of `op`.

    The truth is the spectrum of the context on the *same* inputs x_1..x_n, with all of
    P_A; what another sample of inputs would say is not part of it.

    * Each value alone: the delete-one-batch jackknife. Standard errors are for values
      that are apart from each other by more than they say; the plug-in values of a tie
      are spread out by the noise, and those near 0 are too large.
    * All values at once, ties or not: |ŝ_i² − s_i²| ≤ ‖M̂M̂ᵀ − MMᵀ‖ (Weyl), whose law
      is estimated by that of ‖Σ_b ε_b M̂_b M̂_bᵀ‖ with the parts of the batches and
      random signs ε that add up to 0 (theory.md §4.8).

    Args:
        op: from `monte_carlo_operator(context, x, num_samples, key=...)`.
        rank: how many values, at most min(n, m) − 1. Static.
        key: random key for the signs.
        level: of the band, between 0 and 1.
        num_replicates: sets of signs. Costs one eigenvalue problem of size n each, as
            does each batch.

    Returns:
        A `MonteCarloError`. Works under `jit`.

    Raises:
        TypeError: if `op` is not a Monte Carlo operator.
        ValueError: if it has fewer than two batches, or an argument is out of range.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> x = jax.random.normal(jax.random.key(0), (50, 1))
        >>> noise = cx.contexts.gaussian_noise(0.75)
        >>> key = jax.random.key(1)
        >>> op = cx.operators.monte_carlo_operator(noise, x, 1000, key=key)
        >>> error = cx.evaluation.monte_carlo_error(op, 2, key=jax.random.key(2))
        >>> bool((error.band.lower <= error.band.estimate).all())
        True
    """
    if not isinstance(op, DrawnOperator):
        op = check_monte_carlo(op)
    check_key(key)
    level = check_level(level)
    rank = check_integer(rank, "rank", low=1, high=min(op.shape) - 1)
    num_replicates = check_integer(num_replicates, "num_replicates", low=1)
    num = op.num_batches
    if num < 2:
        msg = f"the error needs at least 2 batches; got num_batches = {num}"
        raise ValueError(msg)
    # Parts that are joins are laid out on the host: theirs is not one program.
    grams = _grams_of_parts(op) if isinstance(op, DrawnOperator) else _grams(op)
    values, replicates, deviations = _measured(
        grams, op.p_x, key, rank=rank, num_replicates=num_replicates
    )
    bias, errors = jackknife(values, replicates)
    radius = jnp.quantile(deviations, level)
    lower, upper = (
        safe_sqrt(jnp.clip(values**2 + reach, 0.0, 1.0)) for reach in (-radius, radius)
    )
    return MonteCarloError(
        Interval(values, lower, upper, level),
        jnp.clip(values - bias, 0.0, 1.0),
        errors,
        replicates,
    )


@functools.partial(jax.jit, static_argnames=("rank", "num_replicates"))
def _measured(
    grams: tuple[Array, Array, Array],
    p_x: Float[Array, " n"],
    key: Array,
    *,
    rank: int,
    num_replicates: int,
) -> tuple[Array, Array, Array]:
    """Values, those without each batch, and ‖Σ_b ε_b M̂_b M̂_bᵀ‖ for random signs."""
    total, others, laws = grams
    num = others.shape[0]
    values = _values(total, p_x, rank)
    # (B, rank)
    replicates = jax.lax.map(lambda one: _values(one[0], one[1], rank), (others, laws))
    root = jnp.sqrt(p_x)
    # Signs add up to 0: of a sum over batches this is −Σ_b ε_b G_b (theory.md §4.8).
    inverse = (1.0 - 1.0 / num) * safe_reciprocal(root)
    scaled = others * (inverse[:, None] * safe_reciprocal(root)[None, :])[None]

    def deviation(signs: Array) -> Array:
        noise = jnp.tensordot(signs, scaled, axes=1, precision=PRECISIONS["exact"])
        # (I − r rᵀ) N (I − r rᵀ), r = √p_x: the trivial pair is none of the values.
        side = mm(noise, root)
        noise = noise - root[:, None] * side[None, :] - side[:, None] * root[None, :]
        noise = noise + jnp.sum(root * side) * root[:, None] * root[None, :]
        return jnp.abs(jnp.linalg.eigvalsh(noise)).max()

    signs = _signs(key, num_replicates, num, values.dtype)
    return values, replicates, jax.lax.map(deviation, signs)


@jax.jit
def _grams(op: Any) -> tuple[Array, Array, Array]:
    """P D_A⁻¹ Pᵀ, the same without each batch, (B, n, n), and the P_X of that, (B, n).

    By subtraction: the Gram matrix is a sum over batches.
    """
    n, m = op.shape
    num = op.num_batches
    # Of (n, m / B) each: draws lie batch by batch.
    tables = op.joint[:n].reshape(n, num, m // num).swapaxes(0, 1)
    weights = safe_reciprocal(op.p_a).reshape(num, 1, m // num)
    # (B, n, n): P_b D_A⁻¹ P_bᵀ.
    parts = jax.lax.map(
        lambda pair: mm(pair[0] * pair[1], pair[0].T), (tables, weights)
    )
    total, masses = parts.sum(axis=0), tables.sum(axis=2)
    # What is left is a law again: its mass is (B − 1) / B of all.
    share = num / (num - 1)
    laws = share * (op.p_x[None, :] - masses)
    return total, share * (total[None] - parts), laws


def _grams_of_parts(op: Any) -> tuple[Array, Array, Array]:
    """The same of an operator made of several, some of which are drawn."""
    rest = [op.without(batch) for batch in range(op.num_batches)]
    laws = jnp.stack([operator.p_x for operator in rest])
    return _gram(op.operator), jnp.stack([_gram(operator) for operator in rest]), laws


@jax.jit
def _gram(op: Any) -> Float[Array, "n n"]:
    """P D_A⁻¹ Pᵀ = D_X T T*."""
    eye = jnp.eye(op.shape[0], dtype=op.dtype)
    return op.p_x[:, None] * op.matmat(op.rmatmat(eye))


def _values(
    gram: Float[Array, "n n"], p_x: Float[Array, " n"], rank: int
) -> Float[Array, " rank"]:
    """The leading non-trivial singular values, from P D_A⁻¹ Pᵀ and p_x."""
    # The Gram matrix has the margins p_x on both sides, as √p_x is its trivial vector.
    matrix = symmetrised_matrix(DenseOperator(gram, p_x, p_x), deflated=True)
    return safe_sqrt(jnp.clip(jnp.linalg.eigvalsh(matrix)[::-1][:rank], 0.0, 1.0))


def _signs(key: Array, num_replicates: int, num: int, dtype: jnp.dtype) -> Array:
    """Random signs of sum 0, (num_replicates, num), whose squares add up to `num`.

    For odd `num` one of them is 0.
    """
    half = num // 2
    # One order of ±1 and its permutations: every draw adds up to 0.
    signs = jnp.concatenate(
        [jnp.ones(half), -jnp.ones(half), jnp.zeros(num - 2 * half)]
    )
    # For odd B one batch sits out, and the others make up for it.
    signs = ((num / (2 * half)) ** 0.5 * signs).astype(dtype)
    keys = jax.random.split(key, num_replicates)
    return jax.vmap(jax.random.permutation, in_axes=(0, None))(keys, signs)
