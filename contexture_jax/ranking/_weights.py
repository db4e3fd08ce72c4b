"""Weights of a convex combination that are found: by min–max, or by a criterion."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_concrete, check_integer
from contexture_jax._core.forms import of_a_list
from contexture_jax._core.types import Float, short_repr, summary
from contexture_jax.contexts import Context, parts_on_one_input
from contexture_jax.operators import association_operator, symmetrised_products

__all__ = ["Criterion", "FoundWeights", "criterion_weights", "min_max_weights"]

# Of singular values, shape (r,), and functions of X, shape (n, r): lower is better.
Criterion = Callable[[Any, Any], float]

_BLOCK = 256  # columns of a dual kernel at a time, as many each time
_ALIKE = 1e-6  # of the rank: losses that are as near are equal
_STILL = 1e-9  # of weights: a linear program tells no more
_TOLERANCES = "primal_feasibility_tolerance", "dual_feasibility_tolerance"


@short_repr
class FoundWeights(NamedTuple):
    """Weights for `contexts.convex_combination`, and those that were tried for them.

    Attributes:
        weights: w_j, shape (j,), float64, summing to 1: the first of `tried` with the
            least score.
        score: its score.
        tried: in the order in which they were tried, shape (t, j).
        scores: of each, shape (t,); NaN where the criterion said nothing.
    """

    weights: Float[np.ndarray, " j"]
    score: float
    tried: Float[np.ndarray, "t j"]
    scores: Float[np.ndarray, " t"]


@of_a_list
def min_max_weights(
    contexts: Sequence[Context | Any],
    rank: int,
    *,
    num_rounds: int = 30,
    excess: bool = False,
) -> FoundWeights:
    """Weights whose functions serve the context that they serve worst.

    The min–max rule of the dissertation, Algorithm 2, with Φ exact in place of trained.
    Of an encoder with d functions the losses in each context are, of SVME at its best
    Ψ_j,

        L_j(Φ) = d − Σ_{i≤d} ‖T_j* φ_i‖²,

    and Σ_j w_j L_j is least for the leading functions of Σ_j w_j T_j T_j*. That minimum
    is concave in w, and where it is largest no encoder, nor a mixture of some, has a
    smaller largest loss (theory.md §7.8). Algorithm 2 climbs it by steps
    w_j ∝ w_j exp(η ℓ_j), which go round the top. Here each round adds an encoder, and
    the next weights are half the way from the best so far to those of the matrix game
    against all encoders that were found, a linear program of one variable a context
    (cutting planes: Kelley 1960, *J. SIAM* 8; half the way: Ben-Ameur & Neto 2007,
    *Networks* 49). Rounds end where the largest loss is within 1e-6 d of what no
    encoder betters (in 30 rounds within 1e-6 for two contexts of a table, 2e-3 for
    seven, where the steps left 0.2). The weights told are those of the round whose
    largest loss is least: where losses jump, since the encoder of the best weights is
    not unique, it stays above.

    L_j is at least d − Σ_{i≤d} s_i² of that context, whatever Φ. Where one context is
    much weaker than the others its loss is the largest in any case, and all weight goes
    to it. `excess` takes L_j above that bound, what is lost by sharing Φ, and so
    depends on no association.

    Args:
        contexts: as for `contexts.convex_combination`, finite, or joins of finite ones.
        rank: d, at most n − 1.
        num_rounds: at most; each takes the eigenvalues of an n × n matrix.
        excess: whether losses are above what the context alone allows.

    Returns:
        The weights; a score is the largest loss over the contexts.

    Raises:
        TypeError: as `convex_combination`, or if a context is traced.
        ValueError: likewise, or if a number is out of its range.

    Example:
        >>> import contexture_jax as cx
        >>> parts = [cx.contexts.joint([[3, 1], [1, 3]]), cx.contexts.labels([0, 1])]
        >>> found = cx.ranking.min_max_weights(parts, 1)
        >>> bool(found.weights.sum().round(6) == 1)
        True
    """
    num_rounds = check_integer(num_rounds, "num_rounds", low=1)
    kernels, root, _ = _dual_kernels(contexts, rank, "min_max_weights")
    least = np.zeros(len(kernels))
    if excess:
        own = [_leading(kernel, root, rank)[0] for kernel in kernels]
        least = rank - (np.array(own) ** 2).sum(axis=1)
    weights = best = np.full(len(kernels), 1.0 / len(kernels))
    tried, scores, played, value = [], [], [], -np.inf
    for _ in range(num_rounds):
        _, left = _leading(np.tensordot(weights, kernels, 1), root, rank)
        vectors = root[:, None] * left
        held = [float((vectors * (k @ vectors)).sum()) for k in kernels]
        losses = rank - np.array(held) - least
        tried.append(weights)
        scores.append(losses.max())
        played.append(losses)
        # Of the best encoder for these weights: a bound from below.
        if weights @ losses > value:
            value, best = weights @ losses, weights
        following = (best + _answer(np.array(played))) / 2
        is_still = np.abs(following - weights).max() <= _STILL
        if is_still or min(scores) - value <= _ALIKE * rank:
            break
        weights = following
    return _best(tried, scores)


def _answer(losses: Float[np.ndarray, "t j"]) -> Float[np.ndarray, " j"]:
    """The weights w whose least w · ℓ_k, over some encoders k, is largest."""
    # Here: with JAX it comes in any case, but is slow to import.
    from scipy.optimize import linprog

    num_encoders, num_contexts = losses.shape
    found = linprog(
        np.append(np.zeros(num_contexts), -1.0),
        A_ub=np.column_stack([-losses, np.ones(num_encoders)]),
        b_ub=np.zeros(num_encoders),
        A_eq=np.append(np.ones(num_contexts), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * num_contexts + [(None, None)],
        # Losses are flat at the top: weights are as exact as the root of that.
        options=dict.fromkeys(_TOLERANCES, _STILL),
    )
    weights = np.clip(found.x[:-1], 0.0, None)
    return weights / weights.sum()


@of_a_list
def criterion_weights(
    contexts: Sequence[Context | Any],
    rank: int,
    criterion: Criterion,
    *,
    num_steps: int = 4,
) -> FoundWeights:
    """Weights by a criterion of the spectrum and functions of the combination.

    All w_j that are multiples of 1 / `num_steps` and sum to 1 are tried, the most even
    first and each context alone last; each takes the eigenvalues of an n × n matrix. A
    criterion without labels is τ, as in the example; one with labels is the error of a
    probe on rows that are not those it is judged by.

    Args:
        contexts: as for `contexts.convex_combination`, finite, or joins of finite ones.
        rank: r, at most n − 1, which is all.
        criterion: called with s_1, …, s_r, descending, shape (r,), and the functions of
            X, orthonormal in L²(P_X), shape (n, r), arrays of NumPy in the dtype of the
            contexts; gives a number, lower for better, or NaN to abstain. Functions of
            equal values are any of their span, and those of values near 0 rounding.
        num_steps: of each weight; C(num_steps + j − 1, j − 1) combinations are tried.

    Raises:
        TypeError: as `convex_combination`, or if a context is traced, or the criterion
            gave no number.
        ValueError: likewise, if a number is out of its range, or the criterion gave no
            number below infinity.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> x = jax.numpy.arange(12.0)[:, None]
        >>> parts = [cx.contexts.knn(x, 3), cx.contexts.labels([0, 1] * 6)]
        >>> tau = lambda s, left: cx.evaluation.usefulness(s, complete=True).tau
        >>> cx.ranking.criterion_weights(parts, 11, tau).weights.shape
        (2,)
    """
    num_steps = check_integer(num_steps, "num_steps", low=1)
    kernels, root, dtype = _dual_kernels(contexts, rank, "criterion_weights")
    steps = itertools.product(range(num_steps + 1), repeat=len(kernels))
    counts = np.array([c for c in steps if sum(c) == num_steps])
    # Of equal scores the most even weights are taken.
    counts = counts[np.argsort((counts**2).sum(axis=1), kind="stable")]
    tried, scores = [*(counts / num_steps)], []
    for weights in tried:
        found = _leading(np.tensordot(weights, kernels, 1), root, rank)
        score = criterion(*(array.astype(dtype) for array in found))
        if np.ndim(score) or not np.issubdtype(np.asarray(score).dtype, np.number):
            msg = f"criterion must give a number; it gave {summary(score)}"
            raise TypeError(msg)
        scores.append(float(score))
    return _best(tried, scores)


def _best(tried: list[np.ndarray], scores: list[float]) -> FoundWeights:
    told = np.where(np.isnan(scores), np.inf, scores)
    if not (told < np.inf).any():
        msg = (
            "criterion must give a number below infinity for some weights; it gave"
            f" none for {len(scores)}"
        )
        raise ValueError(msg)
    best = int(told.argmin())
    return FoundWeights(
        tried[best], float(told[best]), np.array(tried), np.array(scores)
    )


def _dual_kernels(
    contexts: Any, rank: int, word: str
) -> tuple[np.ndarray, np.ndarray, Any]:
    """D^{1/2} (k_j − 1) D^{1/2} of each context, √p, and the dtype of the contexts.

    Shapes (j, n, n) and (n,), in float64 on the host; by products, so that no part lays
    out a table that it does not have.
    """
    check_concrete(contexts, "a list of contexts whose weights are found")
    parts = parts_on_one_input(contexts, word)
    ops = [association_operator(part) for part in parts]
    n = ops[0].shape[0]
    check_integer(rank, "rank", low=1, high=n - 1)
    root = np.sqrt(np.asarray(ops[0].p_x, np.float64))
    kernels = np.empty((len(ops), n, n))
    for kernel, op in zip(kernels, ops, strict=True):
        forward, adjoint = symmetrised_products(op)
        for start in range(0, n, _BLOCK):
            # Of one shape, and 0 beyond the last column: a program for each context.
            unit = jnp.eye(n, min(_BLOCK, n), -start, dtype=op.dtype)
            block = np.asarray(forward(adjoint(unit)))
            kernel[:, start : start + _BLOCK] = block[:, : n - start]
        kernel -= np.outer(root, root)
    # As `convex_combination`: no more exact than the least exact of them.
    dtype = min((np.dtype(op.dtype) for op in ops), key=lambda d: d.itemsize)
    return kernels, root, dtype


def _leading(
    kernel: np.ndarray, root: np.ndarray, rank: int
) -> tuple[np.ndarray, np.ndarray]:
    """The r largest singular values, shape (r,), and their functions of X, (n, r)."""
    energies, vectors = np.linalg.eigh((kernel + kernel.T) / 2)
    left = vectors[:, : -rank - 1 : -1]
    scale = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
    values = np.sqrt(np.clip(energies[: -rank - 1 : -1], 0.0, 1.0))
    return values, left * scale[:, None]
