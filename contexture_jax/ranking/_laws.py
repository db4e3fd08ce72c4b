"""Laws P⁺(a|x) of many contexts of one table at once, which share its distances."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from contexture_jax._core.threads import single_threaded_numpy
from contexture_jax.ranking._family import ContextSpec

__all__ = ["groups", "laws", "masks"]

_BLOCK = 2**17  # entries of distances that a thread works on, which a cache holds
_ALIKE = 64 * np.finfo(np.float64).eps  # of the largest squared length
_LEAST_EXPONENT = -70.0  # what follows would be denormal, and slow for nothing


def groups(
    specs: Sequence[ContextSpec], num_rows: int, num_bytes: int
) -> list[list[ContextSpec]]:
    """Contexts whose laws are made together: of one type, and in so many bytes."""
    by_type: dict[tuple[str, float, int], list[ContextSpec]] = {}
    for spec in specs:
        key = spec.kind, spec.mask_share, spec.num_masks
        by_type.setdefault(key, []).append(spec)
    # Counts of neighbours take a byte, or two; probabilities four.
    found = []
    for (kind, _, num_masks), members in by_type.items():
        entry = 4 if kind == "rbf" else np.min_scalar_type(num_masks).itemsize
        size = max(1, num_bytes // (entry * num_rows**2))
        found += [members[i : i + size] for i in range(0, len(members), size)]
    return found


def masks(spec: ContextSpec, columns: np.ndarray, seed: int) -> list[np.ndarray]:
    """Which features each mask keeps: whole columns of the table, by their numbers."""
    names = np.unique(columns)
    if not spec.mask_share or len(names) == 1:
        return [np.ones(len(columns), bool)]
    hidden = min(max(round(spec.mask_share * len(names)), 1), len(names) - 1)
    rng = np.random.default_rng(seed)
    # One seed for all settings, which so differ by their parameters alone.
    chosen = (rng.permutation(names)[:hidden] for _ in range(spec.num_masks))
    return [~np.isin(columns, names) for names in chosen]


def laws(
    specs: Sequence[ContextSpec], x: np.ndarray, columns: np.ndarray, seed: int
) -> np.ndarray:
    """What `specs`, one of `groups`, gather over the masks: laws but for a factor.

    Of RBF contexts Σ over masks of P⁺(a|x), float32; of k-NN ones in how many masks a
    is among the neighbours of x. `_judged` divides by the sums of rows.

    Args:
        specs: of one type.
        x: the rows, shape (n, d), float64.
        columns: the number of the column that each feature comes from, shape (d,).
        seed: of the masks.

    Returns:
        One table for each context, shape (len(specs), n, n).

    Raises:
        ValueError: if a context has more neighbours than there are rows.
    """
    # Of few columns most masks are drawn more than once.
    kept, times = np.unique(masks(specs[0], columns, seed), axis=0, return_counts=True)
    n = len(x)
    is_knn = specs[0].kind == "knn"
    dtype = np.min_scalar_type(times.sum()) if is_knn else np.dtype(np.float32)
    views = [_with_lengths(x[:, mask]) for mask in kept]
    parameters = np.array([spec.parameter for spec in specs])
    if is_knn and parameters.max() > n:
        raise ValueError(f"{parameters.max()} neighbours are more than {n} rows")
    gathered = np.zeros((len(specs), n, n), dtype)
    add = _add_neighbors if is_knn else _add_kernels
    rows = max(1, _BLOCK // n)

    def work(start: int) -> None:
        part = slice(start, start + rows)
        for view, count in zip(views, times.tolist(), strict=True):
            add(gathered[:, part], _distances(view, part), parameters, count)

    # Threads of Python share the rows, so that BLAS is not to have its own.
    cores = len(os.sched_getaffinity(0))
    with single_threaded_numpy(), ThreadPoolExecutor(cores) as pool:
        list(pool.map(work, range(0, n, rows)))
    return gathered


def _with_lengths(x: np.ndarray) -> np.ndarray:
    """Rows with their squared lengths and 1 behind, shape (n, d + 2)."""
    lengths = np.einsum("ij,ij->i", x, x)[:, None]
    return np.hstack([x, lengths, np.ones_like(lengths)])


def _distances(view: np.ndarray, part: slice) -> np.ndarray:
    """‖x − a‖² of some rows to all, without rounding below 0, float32."""
    x, lengths, ones = view[part, :-2], view[part, -2:-1], view[part, -1:]
    # One product: each further look at a table of distances takes as long.
    apart = (np.hstack([-2.0 * x, ones, lengths]) @ view.T).astype(np.float32)
    # Rows that are alike are at 0, whatever the difference of squares leaves; their
    # order tells which are neighbours.
    apart[apart < _ALIKE * view[:, -2].max()] = 0.0
    return apart


def _add_kernels(
    into: np.ndarray, apart: np.ndarray, gammas: np.ndarray, times: int
) -> None:
    room, farthest = np.empty_like(apart), float(apart.max())
    for table, gamma in zip(into, gammas.tolist(), strict=True):
        np.multiply(apart, -gamma, out=room)
        if gamma * farthest > -_LEAST_EXPONENT:
            np.maximum(room, _LEAST_EXPONENT, out=room)
        np.exp(room, out=room)
        room *= times / room.sum(axis=1, keepdims=True)
        table += room


def _add_neighbors(
    into: np.ndarray, apart: np.ndarray, counts: np.ndarray, times: int
) -> None:
    num_rows, num_columns = apart.shape
    places = np.arange(num_columns)
    # Distances are not negative, so that their bits order as they do; with the place in
    # the table below them, of rows at one distance the first counts, as in
    # `contexts.knn`. Sorting numbers is several times faster than a stable `argsort`.
    keys = apart.view(np.int32).astype(np.int64) << 32
    keys |= np.arange(apart.size).reshape(apart.shape)
    keys.sort(axis=1)
    keys &= 0xFFFFFFFF
    rising = np.argsort(counts)
    # By place among the neighbours: how many of the contexts leave it out.
    levels = np.searchsorted(counts[rising], places, side="right")
    level = np.empty(apart.size, np.min_scalar_type(len(counts)))
    level[keys.ravel()] = np.tile(levels.astype(level.dtype), num_rows)
    level = level.reshape(apart.shape)
    for place, which in enumerate(rising):
        into[which] += (level <= place) * into.dtype.type(times)
