"""Leading singular triples of a large table by NumPy, with bounds on its values.

Golub & Kahan's process in blocks (Golub, Luk & Overton 1981), with all vectors kept and
cleaned off each other twice, and no restart: where a product is n² operations a column
that costs little beside it. Each column is multiplied once, where subspace iteration
multiplies all of them in each of its passes.
`solvers` holds bases of a fixed size, which programs need, and multiplies by all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from contexture_jax._core.remainder import remainder_norm
from contexture_jax._core.types import Float
from contexture_jax.ranking._table import TableMap

__all__ = ["Triples", "leading_triples"]

_WIDTH = 128  # columns of a block
# Of a basis, unless more values are asked for. Where 500 values lie close below 1 half
# as many more do not separate them either, and take twice the time: bounds tell.
_MOST_COLUMNS = 2048
_NOTHING = 1e-4  # values below: no functions are looked for behind them
_DEPENDENT = 1e-5  # of the largest eigenvalue of a Gram matrix in float32
_MOST_ROUNDS = 4
# Of a unit vector, in the worst case, what a round has to leave to be the last: what
# rounding leaves on the basis is over that, ten times eps.
_LEFT = 0.1
_WELL_CONDITIONED = 0.5
_GROWTH = 1.25  # of the basis between two looks at it, which take its cube
_NUM_PROBES, _NUM_PASSES, _FAILURE = 8, 10, 1e-6  # as `certify`


class Triples(NamedTuple):
    """What `leading_triples` finds.

    Attributes:
        values: descending, shape (rank,); 0 where none was found.
        lower: each is at least this, shape (rank,).
        upper: and at most this, shape (rank,).
        left: orthonormal columns that belong to the first values, shape (n, k).
        status: "converged" if all residuals are below the goal, "enough" if the caller
            needed no more, else "max passes".
    """

    values: Float[np.ndarray, " rank"]
    lower: Float[np.ndarray, " rank"]
    upper: Float[np.ndarray, " rank"]
    left: Float[np.ndarray, "n k"]
    status: str


def leading_triples(
    a: TableMap,
    rank: int,
    *,
    tol: float,
    seed: int,
    is_enough: Callable[[np.ndarray], bool] | None = None,
) -> Triples:
    """The largest singular values of M, 0 ≤ s_i ≤ 1, until residuals are small.

    M V = U B holds by construction and Mᵀ U = V Bᵀ + V₊ L E₋ᵀ, so that of the triples
    of B the residual ‖Mᵀ u_i − s_i v_i‖ is that of L on the last block of w_i: at most
    tol · s_1 is asked for where s_i is above 10⁻⁴, below which no more values are
    looked for. The same spectra come out whatever the number of threads.

    Args:
        a: M.
        rank: how many, below n and m.
        tol: relative residual.
        seed: of the first block, and of the probes of the bounds.
        is_enough: whether no more need be known, from lower bounds on `rank` values.
    """
    n, m = a.shape
    room = min(n, m) - 1
    width = min(_WIDTH, room)
    most = max(_MOST_COLUMNS, rank + 2 * width)
    eps = float(np.finfo(np.float32).eps)
    rounding = eps * (10 + max(n, m) ** 0.5)
    rng = np.random.default_rng(seed)
    # Vectors are rows, so that the first of them are an array; what is not written to
    # takes no memory.
    u, v = (np.empty((min(most + width, room), size), np.float32) for size in (n, m))
    small = np.zeros((len(u), len(u)))
    before, own, look_at = slice(0, 0), slice(0, width), 2 * width
    v[own] = _orthonormal(rng.standard_normal((m, width)), v[:0], a.off_right, rng).T
    link = np.zeros((width, 0))
    while True:
        image = a.matmat(v[own].T)
        block = _orthonormal(image, u[: own.start], a.off_left, rng)
        u[own] = block.T
        small[before, own] = link.T
        small[own, own] = u[own] @ image
        image = a.rmatmat(block)
        filled = own.stop
        # All that is left, at the end of the space.
        following = slice(filled, min(filled + width, room))
        size = following.stop - filled
        v[following] = _orthonormal(image[:, :size], v[:filled], a.off_right, rng).T
        link = (v[following] @ image).astype(np.float64)
        is_full = size == 0 or following.stop > most
        before, own = own, following
        if filled < look_at and not is_full:
            continue
        s, w = _decomposed(small[:filled, :filled])
        # (b, k): Mᵀ u_i − s_i v_i in V₊.
        rest = link @ w[before, :rank]
        counts = s[:rank] > _NOTHING
        # Half of what is asked: bounds are then no wider than those of `svd` and
        # `certify`, whose passes are coarser steps and end further below.
        goal = max(0.5 * tol * s[0], 10 * eps)
        are_small = not (np.linalg.norm(rest, axis=0)[counts] > goal).any()
        if are_small and (filled >= rank or s[-1] <= _NOTHING):
            status = "converged"
            break
        if is_enough is not None and filled >= rank and is_enough(s[:rank] - rounding):
            status = "enough"
            break
        if is_full:
            status = "max passes"
            break
        look_at = max(filled + width, round(_GROWTH * filled))
    s, left = s[:rank], (w[:, :rank].T.astype(np.float32) @ u[:filled]).T
    beyond = _beyond(a, left, rng)
    upper = _upper(s, rest, beyond) + rounding
    lacks = (0, rank - len(s))
    upper = np.pad(upper, lacks, constant_values=beyond + rounding)
    s, lower = (np.pad(x, lacks) for x in (s, s - rounding))
    return Triples(
        np.clip(s, 0.0, 1.0),
        np.clip(lower, 0.0, 1.0),
        np.clip(np.maximum(upper, s), 0.0, 1.0),
        left,
        status,
    )


def _decomposed(small: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Singular values, descending, and left vectors, by the Gram matrix in float64."""
    squares, w = np.linalg.eigh(small @ small.T)
    return np.sqrt(np.maximum(squares[::-1], 0.0)), w[:, ::-1]


def _orthonormal(
    block: np.ndarray,
    basis: Float[np.ndarray, "l n"],
    project: Callable[[Any], Any],
    rng: np.random.Generator,
) -> Float[np.ndarray, "n b"]:
    """Orthonormal columns whose span holds that of a block, off the rows of a basis.

    Where columns depend on others random ones take their place.
    """
    block = block.astype(np.float32)
    if block.shape[1] == 0:
        return block
    for _ in range(_MOST_ROUNDS):
        before = np.linalg.norm(block, axis=0)
        block = project(block)
        block = block - basis.T @ (basis @ block)
        lengths = np.linalg.norm(block, axis=0)
        block, squares = _whitened(block / np.where(lengths > 0, lengths, 1))
        there = squares > _DEPENDENT * squares[-1]
        if not there.all():
            size = len(block), int((~there).sum())
            block[:, ~there] = rng.standard_normal(size) / len(block) ** 0.5
            continue
        if squares[0] < _WELL_CONDITIONED:
            block, _ = _whitened(block)
        if (lengths / before).min() * squares[0] ** 0.5 > _LEFT:
            break
    return block


def _whitened(block: Float[np.ndarray, "n b"]) -> tuple[np.ndarray, np.ndarray]:
    """Columns times G^{-1/2} for their Gram matrix G, and its eigenvalues, rising.

    But for a rotation; of dependent columns what is left is not orthonormal.
    """
    squares, w = np.linalg.eigh((block.T @ block).astype(np.float64))
    there = squares > _DEPENDENT * squares[-1]
    w = w / np.sqrt(np.where(there, squares, 1.0))
    return block @ w.astype(np.float32), squares


def _beyond(a: TableMap, left: np.ndarray, rng: np.random.Generator) -> float:
    """What ‖(I − U Uᵀ) M‖ is at most, but for once in a million."""
    probes = rng.uniform(-(3**0.5), 3**0.5, (a.shape[1], _NUM_PROBES))
    none = np.zeros((a.shape[1], 0), np.float32)
    found = remainder_norm(
        a,
        left,
        none,
        probes.astype(np.float32),
        num_passes=_NUM_PASSES,
        failure_probability=_FAILURE,
    )
    return float(found)


def _upper(
    s: Float[np.ndarray, " k"], rest: Float[np.ndarray, "b k"], beyond: float
) -> Float[np.ndarray, " k"]:
    """Upper bounds on the first singular values, as `certify` has them.

    Off U and V, M is [[S, F], [0, M₂₂]]. Without its first k − 1 rows, and columns that
    are then 0, no value is larger than the norm h of [[s_k, ‖F_{k..j}‖], [0, t_j]], t_j
    a bound on what is left off the first j triples.
    """
    squares = np.concatenate([[0.0], np.cumsum((rest**2).sum(axis=0))])
    whole = float(np.linalg.norm(rest, 2)) if rest.size else 0.0
    # (k, k): ‖F_{k..j}‖ for j ≥ k.
    f = np.sqrt(np.maximum(squares[None, 1:] - squares[:-1, None], 0.0))
    f = np.minimum(f, whole)
    last = _norm(s, f[:, -1], beyond)
    t = np.append(last[1:], beyond)
    bounds = np.where(np.tri(len(s), k=-1, dtype=bool), np.inf, _norm(s[:, None], f, t))
    return np.minimum(last, bounds.min(axis=1))


def _norm(a: Any, f: Any, t: Any) -> Any:
    """Of [[a, f], [0, t]]."""
    return (np.hypot(a + t, f) + np.hypot(a - t, f)) / 2
