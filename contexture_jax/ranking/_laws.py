"""Laws P⁺(a|x) of many contexts of one table at once, which share its distances."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from contexture_jax._core.threads import in_threads
from contexture_jax._core.types import Bool, Float, Int
from contexture_jax.ranking._family import ContextSpec
from contexture_jax.ranking._hidden import add_hidden, hides_few

__all__ = ["LawsOfGroups", "groups", "laws", "masks"]

_BLOCK = 2**17  # entries of distances that a thread works on, which a cache holds
_ROWS = 4  # such blocks are multiplied together
_ALIKE = 64 * np.finfo(np.float64).eps  # of the largest squared length
_LEAST_EXPONENT = -70.0  # what follows would be denormal, and slow for nothing


_Type = tuple[str, float | int, int]


class _Limits(NamedTuple):
    """How far neighbours are, for each mask that is drawn, row and K.

    Attributes:
        counts: every K, shape (counts,).
        last: the squared distance of the last neighbour, shape (masks, n, counts).
        is_tied: whether the next row is as far, the same shape.
    """

    counts: Int[np.ndarray, " counts"]
    last: Float[np.ndarray, "masks n counts"]
    is_tied: Bool[np.ndarray, "masks n counts"]


def groups(
    specs: Sequence[ContextSpec], num_rows: int, num_bytes: int
) -> list[list[ContextSpec]]:
    """Contexts whose laws are made together: of one type, and in so many bytes."""
    by_type: dict[_Type, list[ContextSpec]] = {}
    for spec in specs:
        by_type.setdefault(_type(spec), []).append(spec)
    # Counts of neighbours take a byte, or two; probabilities four.
    found = []
    for (kind, _, num_masks), members in by_type.items():
        entry = 4 if kind == "rbf" else np.min_scalar_type(num_masks).itemsize
        size = max(1, num_bytes // (entry * num_rows**2))
        found += [members[i : i + size] for i in range(0, len(members), size)]
    return found


class LawsOfGroups:
    """`laws` of one group after the other; distances of several are sorted once.

    Args:
        grouped: all groups that are to come; of what is no `ContextSpec`, none is made.
        x: as of `laws`.
        columns: as of `laws`.
        seed: as of `laws`.
    """

    def __init__(
        self,
        grouped: Sequence[Sequence[object]],
        x: np.ndarray,
        columns: np.ndarray,
        seed: int,
    ) -> None:
        self._rows = x, columns, seed
        self._groups: dict[_Type, list[list[ContextSpec]]] = {}
        for group in grouped:
            specs = [spec for spec in group if isinstance(spec, ContextSpec)]
            if specs:
                self._groups.setdefault(_type(specs[0]), []).append(specs)
        self._limits: dict[_Type, _Limits] = {}

    def laws(self, group: Sequence[ContextSpec]) -> np.ndarray:
        """Those of one group, shape (len(group), n, n)."""
        key = _type(group[0])
        alike = self._groups[key]
        if group[0].kind == "knn" and len(alike) > 1 and key not in self._limits:
            specs = list(itertools.chain(*alike))
            self._limits[key] = _limits_of(specs, *self._rows)
        return laws(group, *self._rows, self._limits.get(key))


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
    specs: Sequence[ContextSpec],
    x: np.ndarray,
    columns: np.ndarray,
    seed: int,
    limits: _Limits | None = None,
) -> np.ndarray:
    """What `specs`, one of `groups`, gather over the masks: laws but for a factor.

    Of RBF contexts Σ over masks of P⁺(a|x), float32; of k-NN ones in how many masks a
    is among the neighbours of x. `_judged` divides by the sums of rows.

    Args:
        specs: of one type.
        x: the rows, shape (n, d), float64.
        columns: the number of the column that each feature comes from, shape (d,).
        seed: of the masks.
        limits: of k-NN contexts, what is known of these and of others of the type.

    Returns:
        One table for each context, shape (len(specs), n, n).

    Raises:
        ValueError: if a context has more neighbours than there are rows.
    """
    kept, times = _drawn(specs[0], columns, seed)
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
    # (contexts,): where these are among those that are known.
    own = None if limits is None else np.searchsorted(limits.counts, parameters)
    rows = _ROWS * max(1, _BLOCK // n)

    def work(start: int) -> None:
        for i, (view, count) in enumerate(zip(views, times.tolist(), strict=True)):
            for part, apart in _distances(view, start, min(start + rows, n), is_knn):
                into = gathered[:, part]
                if not is_knn:
                    _add_kernels(into, apart, parameters, count)
                    continue
                if limits is None:
                    last, is_tied = _near(apart, parameters)
                else:
                    last, is_tied = (v[i, part][:, own] for v in limits[1:])
                _add_neighbors(into, apart, parameters, last, is_tied, count)

    in_threads(work, range(0, n, rows))
    return gathered


def _type(spec: ContextSpec) -> _Type:
    return spec.kind, spec.mask_share, spec.num_masks


def _drawn(
    spec: ContextSpec, columns: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The masks that differ, and how often each is drawn: often, of few columns."""
    return np.unique(masks(spec, columns, seed), axis=0, return_counts=True)


def _limits_of(
    specs: Sequence[ContextSpec], x: np.ndarray, columns: np.ndarray, seed: int
) -> _Limits:
    """What `laws` sorts distances for, once for k-NN contexts of several groups."""
    kept, _ = _drawn(specs[0], columns, seed)
    n, counts = len(x), np.unique([spec.parameter for spec in specs])
    shape = len(kept), n, len(counts)
    found = _Limits(counts, np.empty(shape, np.float32), np.empty(shape, bool))
    views = [_with_lengths(x[:, mask]) for mask in kept]
    rows = _ROWS * max(1, _BLOCK // n)

    def work(start: int) -> None:
        for i, view in enumerate(views):
            for part, apart in _distances(view, start, min(start + rows, n), True):
                found.last[i, part], found.is_tied[i, part] = _near(apart, counts)

    in_threads(work, range(0, n, rows))
    return found


def _with_lengths(x: np.ndarray) -> np.ndarray:
    """Rows with their squared lengths and 1 behind, shape (n, d + 2)."""
    lengths = np.einsum("ij,ij->i", x, x)[:, None]
    return np.hstack([x, lengths, np.ones_like(lengths)])


def _distances(
    view: np.ndarray, start: int, stop: int, is_knn: bool
) -> Iterator[tuple[slice, np.ndarray]]:
    """‖x − a‖² of some rows to all, float32, block by block.

    Products of few rows take twice as long, and all that follows is faster of few.
    Rows that are alike are at 0; of kernels, whose exponentials do not see it, nearly.
    """
    alike = float(_ALIKE * view[:, -2].max())
    x, lengths, ones = (
        view[start:stop, :-2],
        *np.split(view[start:stop, -2:], 2, axis=1),
    )
    # One product: each further look at a table of distances takes as long.
    whole = np.hstack([-2.0 * x, ones, lengths]) @ view.T
    size = max(1, _BLOCK // len(view))
    for i in range(0, stop - start, size):
        apart = whole[i : i + size].astype(np.float32)
        # Whatever the difference of squares leaves: their order tells who is near.
        if is_knn:
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


def _near(apart: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distance of the last neighbour, and whether the next row is as far.

    Each of shape (rows, counts).
    """
    rising = np.sort(apart, axis=1)
    n = rising.shape[1]
    last, after = (rising[:, np.minimum(counts + i, n) - 1] for i in (0, 1))
    return last, (last == after) & (counts < n)


def _add_neighbors(
    into: np.ndarray,
    apart: np.ndarray,
    counts: np.ndarray,
    last: np.ndarray,
    is_tied: np.ndarray,
    times: int,
) -> None:
    one = into.dtype.type(times)
    for table, limit in zip(into, last.T, strict=True):
        table += (apart <= limit[:, None]) * one
    tied_rows = is_tied.any(axis=1)
    if not tied_rows.any():
        return
    # Distances are not negative, so that their bits order as they do; with the place in
    # the row below them, of rows at one distance the first counts, as in
    # `contexts.knn`. Sorting these takes three times as long.
    tied = apart[tied_rows]
    keys = tied.view(np.int32).astype(np.int64) << 32 | np.arange(tied.shape[1])
    limits = np.sort(keys, axis=1)[:, counts - 1]
    for table, limit, beyond in zip(into, limits.T, last[tied_rows].T, strict=True):
        too_many = (tied <= beyond[:, None]) & (keys > limit[:, None])
        table[tied_rows] -= too_many * one
