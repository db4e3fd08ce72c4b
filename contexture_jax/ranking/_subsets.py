"""Spectra of contexts on a part of the rows, from which τ of all is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from contexture_jax._core.checks import as_array, check_integer, check_ndim
from contexture_jax._core.types import ArrayLike, Float, Int
from contexture_jax.ranking._family import ContextSpec, NamedContext
from contexture_jax.ranking._judged import Solved
from contexture_jax.ranking._rank import rank_contexts

__all__ = ["spectra_of_rows"]


def spectra_of_rows(
    x: ArrayLike,
    specs: Sequence[ContextSpec],
    rows: Int[np.ndarray, " m"],
    *,
    num_rows: int,
    columns: ArrayLike | None = None,
    max_dim: int = 512,
    tol: float = 0.03,
    seed: int = 0,
) -> Float[np.ndarray, "c r"]:
    """The leading singular values of contexts made of some rows of a table.

    As `evaluation.subset_usefulness` takes them. A context on fewer rows is of the same
    kind: of k neighbours in `num_rows` rows there are k m / num_rows in m, rounded, at
    least one; γ stays.

    Args:
        x: the rows, shape (n, d), as for `rank_contexts`.
        specs: contexts of `num_rows` rows, c of them.
        rows: which rows of x, shape (m,).
        num_rows: of how many rows the numbers of neighbours are.
        columns: as for `rank_contexts`.
        max_dim: d0; one value more is given.
        tol: as for `rank_contexts`.
        seed: of masks and solver, as for `rank_contexts`.

    Returns:
        Shape (c, max_dim + 1), float32, descending, 0 where there are no more values.
        NaN for a context that fails or whose values are all 0.

    Raises:
        TypeError: if a context is none of a `ContextSpec`, which alone says how it is
            made of other rows.
        ValueError: as `rank_contexts`.
    """
    whole = as_array(x, "x")
    check_ndim(whole, 2, "x")
    num_rows = check_integer(num_rows, "num_rows", low=1)
    others = [spec for spec in specs if not isinstance(spec, ContextSpec)]
    if others:
        msg = f"specs must be ContextSpec; got a {type(others[0]).__name__}"
        raise TypeError(msg)
    share = len(rows) / num_rows
    scaled = [_scaled(spec, share) for spec in specs]
    found: dict[str, np.ndarray] = {}

    def keep(spec: ContextSpec | NamedContext, solved: Solved) -> None:
        values = np.zeros(max_dim + 1, np.float32)
        told = solved.above_rounding[: max_dim + 1]
        values[: len(told)] = told
        if values.any():
            found[spec.name] = values

    rank_contexts(
        np.asarray(whole)[rows],
        # Few neighbours round to the same.
        list({spec.name: spec for spec in scaled}.values()),
        columns=columns,
        max_dim=max_dim,
        tol=tol,
        seed=seed,
        on_solved=keep,
    )
    nothing = np.full(max_dim + 1, np.nan, np.float32)
    return np.stack([found.get(spec.name, nothing) for spec in scaled])


def _scaled(spec: ContextSpec, share: float) -> ContextSpec:
    if spec.kind != "knn":
        return spec
    count = max(1, round(spec.parameter * share))
    return dataclasses.replace(spec, parameter=count)
