"""Laws P⁺(a|x) of many contexts of one table at once, which share its distances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from contexture_jax._core.threads import in_threads
from contexture_jax.ranking._family import ContextSpec
from contexture_jax.ranking._hidden import add_hidden, hides_few

__all__ = ["groups", "laws", "masks"]

_BLOCK = 2**17  # entries of distances that a thread works on, which a cache holds
_ROWS = 4  # such blocks are multiplied together
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
    parameters = np.array([spec.parameter for spec in specs])
    if is_knn and parameters.max() > n:
        raise ValueError(f"{parameters.max()} neighbours are more than {n} rows")
    gathered = np.zeros((len(specs), n, n), dtype)
    if not is_knn and hides_few(kept, columns):
        gammas = parameters.astype(np.float64).tolist()
        add_hidden(gathered, x, columns, kept, times, gammas)
        return gathered
    views = [_with_lengths(x[:, mask]) for mask in kept]
    add = _add_neighbors if is_knn else _add_kernels
    rows = _ROWS * max(1, _BLOCK // n)

    def work(start: int) -> None:
        for view, count in zip(views, times.tolist(), strict=True):
            alike = float(_ALIKE * view[:, -2].max()) if is_knn else 0.0
            for part, apart in _distances(view, start, min(start + rows, n), alike):
                add(gathered[:, part], apart, parameters, count)

    in_threads(work, range(0, n, rows))
    return gathered


def _with_lengths(x: np.ndarray) -> np.ndarray:
    """Rows with their squared lengths and 1 behind, shape (n, d + 2)."""
    lengths = np.einsum("ij,ij->i", x, x)[:, None]
    return np.hstack([x, lengths, np.ones_like(lengths)])


def _distances(
    view: np.ndarray, start: int, stop: int, alike: float
) -> Iterator[tuple[slice, np.ndarray]]:
    """‖x − a‖² of some rows to all, float32, block by block.

    Products of few rows take twice as long, and all that follows is faster of few.
    What is below `alike` is 0; of kernels, whose exponentials do not see it, nothing.
    """
    x, lengths, ones = (
        view[start:stop, :-2],
        *np.split(view[start:stop, -2:], 2, axis=1),
    )
    # One product: each further look at a table of distances takes as long.
    whole = np.hstack([-2.0 * x, ones, lengths]) @ view.T
    size = max(1, _BLOCK // len(view))
    for i in range(0, stop - start, size):
        apart = whole[i : i + size].astype(np.float32)
        # Rows that are alike are at 0, whatever the difference of squares leaves; their
        # order tells which are neighbours.
        if alike:
            apart[apart < alike] = 0.0
        yield slice(start + i, start + i + len(apart)), apart


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
    rising = np.sort(apart, axis=1)
    # (rows, contexts): the distance of the last neighbour, and of the next row.
    last, after = (
        rising[:, np.minimum(counts + i, rising.shape[1]) - 1] for i in (0, 1)
    )
    is_tied = ((last == after) & (counts < rising.shape[1])).any(axis=1)
    one = into.dtype.type(times)
    for table, limit in zip(into, last.T, strict=True):
        table += (apart <= limit[:, None]) * one
    if not is_tied.any():
        return
    # Distances are not negative, so that their bits order as they do; with the place in
    # the row below them, of rows at one distance the first counts, as in
    # `contexts.knn`. Sorting these takes three times as long.
    tied = apart[is_tied]
    keys = tied.view(np.int32).astype(np.int64) << 32 | np.arange(tied.shape[1])
    limits = np.sort(keys, axis=1)[:, counts - 1]
    for table, limit, beyond in zip(into, limits.T, last[is_tied].T, strict=True):
        too_many = (tied <= beyond[:, None]) & (keys > limit[:, None])
        table[is_tied] -= too_many * one
