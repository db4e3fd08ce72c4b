"""Visible masks of any law on uniform bits (theory.md §5)."""

from __future__ import annotations

import heapq

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import as_array, check_ndim
from contexture_jax._core.types import Array, ArrayLike, PRNGKeyArray, pytree_dataclass
from contexture_jax.zoo._base import (
    TIE,
    AnalyticContext,
    Clusters,
    Functions,
    check_table_size,
    collect,
    exp_minus_one,
    host,
)
from contexture_jax.zoo._checks import (
    as_integers,
    check_fraction,
    check_law,
)

__all__ = ["mask_law"]


@pytree_dataclass
class _Masked(AnalyticContext):
    """Bits of which a random set is erased visibly and the others are flipped."""

    masks: ArrayLike  # (l, d) bool, distinct rows
    probabilities: ArrayLike  # (l,)
    flip: ArrayLike

    @property
    def _has_vectors(self) -> bool:
        return True

    def _search(self, k: int, *, ties: bool) -> list[tuple[float, tuple[int, ...]]]:
        """The sets S of the k largest values, best first, with or without their ties.

        A set's value is at most that of its subsets, so a best-first search of the
        lattice, in which S grows at its end only, meets values in descending order:
        d sets are looked at for each set found, not 2^d.
        """
        masks = np.asarray(self.masks)
        law, kept = host(self.probabilities), abs(1.0 - 2.0 * float(host(self.flip)))
        # The probability that no coordinate of the set is masked, over visible masks.
        queue: list[tuple[float, tuple[int, ...], np.ndarray]]
        # The empty set, value 1, with every mask free of it; `heapq` takes the least
        # first, hence the sign.
        queue = [(-1.0, (), np.ones(law.size, dtype=bool))]
        found = []
        while queue:
            value, subset, free = heapq.heappop(queue)
            # All that tie with the k-th, or the cluster would be cut.
            if len(found) >= k and (not ties or -value < found[k - 1][0] * (1 - TIE)):
                break
            if subset:
                found.append((-value, subset))
            first = subset[-1] + 1 if subset else 0
            for i in range(first, masks.shape[1]):
                # Masks that hide none of S.
                still = free & ~masks[:, i]
                size = len(subset) + 1
                score = float(np.sqrt(law[still].sum()) * kept**size)
                # Supersets of a set of value 0 have 0 too: the branch ends.
                if score > 0.0:
                    heapq.heappush(queue, (-score, (*subset, i), still))
        return found

    def _leading(self, k: int) -> Clusters:
        found = self._search(k, ties=True)
        return collect(np.array([value for value, _ in found]), (1,) * len(found))

    def _spectrum(self, k: int) -> np.ndarray:
        # Whole clusters can have exponentially many members; k values never do.
        values = [value for value, _ in self._search(k, ties=False)]
        return np.array(values + [0.0] * (k - len(values)))

    def total_energy(self) -> float:
        """E[(1 + (1 - 2q)²)^(d - |M|)] - 1."""
        kept = (1.0 - 2.0 * host(self.flip)) ** 2
        masks = np.asarray(self.masks)
        num_seen = masks.shape[1] - masks.sum(axis=1)
        # Σ over S within what a mask shows, of (1 − 2q)^{2|S|}.
        energies = [exp_minus_one(num * np.log1p(kept)) for num in num_seen]
        return float(host(self.probabilities) @ np.array(energies))

    def _draw(self, key: PRNGKeyArray, x: Array) -> Array:
        """Draw a masked string for each of `x`, bits of shape (..., d); masked is 2."""
        x = self._strings(x, "x")
        key_mask, key_flip = jax.random.split(key)
        # One mask a string, and a coin for each bit; hidden bits' coins do not show.
        which = jax.random.categorical(
            key_mask, jnp.log(jnp.asarray(self.probabilities)), shape=x.shape[:-1]
        )
        flipped = jax.random.bernoulli(key_flip, jnp.asarray(self.flip), x.shape)
        seen = jnp.where(flipped, 1 - x, x)
        return jnp.where(jnp.asarray(self.masks)[which], jnp.full_like(x, 2), seen)

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Log P(a|x); `a` and `x` of one shape (..., d), result (...)."""
        a, x = self._strings(a, "a"), self._strings(x, "x")
        erased = a == 2
        masks = jnp.asarray(self.masks)
        masks = masks.reshape((1,) * (a.ndim - 1) + masks.shape)
        law = jnp.asarray(self.probabilities)
        # (…, l): A shows its mask, so that one at most fits.
        matches = (erased[..., None, :] == masks).all(axis=-1)
        chosen = jnp.where(matches, law.reshape((1,) * (a.ndim - 1) + law.shape), 0.0)
        flip = jnp.asarray(self.flip, dtype=law.dtype)
        letters = jnp.where(a == x, jnp.log1p(-flip), jnp.log(flip))
        # A hidden bit has probability 1, given the mask.
        letters = jnp.where(erased, jnp.zeros((), law.dtype), letters)
        return jnp.log(chosen.sum(axis=-1)) + letters.sum(axis=-1)

    def _strings(self, x: ArrayLike, name: str) -> Array:
        x = as_integers(x, name)
        dimension = np.shape(self.masks)[1]
        if x.ndim == 0 or x.shape[-1] != dimension:
            msg = f"{name} must have shape (..., {dimension}); got {x.shape}"
            raise ValueError(msg)
        return x

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        masks = np.asarray(self.masks)
        num_seen = masks.shape[1] - masks.sum(axis=1)
        # All strings, and for each mask all strings of what it shows.
        check_table_size(2 ** masks.shape[1], int((2**num_seen).sum()))
        columns = []
        for mask, size in zip(masks, num_seen.tolist(), strict=True):
            strings = np.full((2**size, mask.size), 2)
            strings[:, ~mask] = _bits(size)
            columns.append(strings)
        return _bits(masks.shape[1]), np.concatenate(columns)

    def _joint(self) -> np.ndarray:
        x, a = self._points()
        masks, flip = np.asarray(self.masks), float(host(self.flip))
        num_seen = masks.shape[1] - masks.sum(axis=1)
        law = np.repeat(host(self.probabilities), 2**num_seen)
        # P(a_i | x_i) for a_i of 0, 1 and hidden.
        letters = np.array([[1 - flip, flip, 1.0], [flip, 1 - flip, 1.0]])
        joint = np.broadcast_to(law / x.shape[0], (x.shape[0], law.size)).copy()
        for i in range(masks.shape[1]):
            joint *= letters[x[:, i][:, None], a[:, i][None, :]]
        return joint

    def _functions(self, k: int) -> Functions:
        found = self._search(k, ties=False)
        x, a = self._points()
        sign = np.sign(1.0 - 2.0 * host(self.flip))
        kept = abs(1.0 - 2.0 * float(host(self.flip)))
        # Parities; a hidden bit makes the product 0.
        signs_x, signs_a = 1.0 - 2.0 * x, np.choose(a, [1.0, -1.0, 0.0])
        left, right = (
            np.ones((x.shape[0], len(found))),
            np.ones((a.shape[0], len(found))),
        )
        for column, (value, subset) in enumerate(found):
            members, size = list(subset), len(subset)
            left[:, column] = signs_x[:, members].prod(axis=1)
            # √P(M ∩ S = ∅): ν_S is the parity where S is seen, over that root.
            root_of_seen = value / kept**size
            right[:, column] = (
                signs_a[:, members].prod(axis=1) * sign**size / root_of_seen
            )
        return Functions(np.array([value for value, _ in found]), left, right)


def _bits(num: int) -> np.ndarray:
    """All strings of `num` bits, shape (2**num, num), the first bit slowest."""
    return (np.arange(2**num)[:, None] >> np.arange(num)[::-1]) & 1


def mask_law(
    masks: ArrayLike, probabilities: ArrayLike, *, flip: ArrayLike = 0.0
) -> AnalyticContext:
    """Uniform bits with a random visible mask, the others flipped independently.

    With M the random masked set, independent of X, singular values are
    √P(M ∩ S = ∅) · |1 - 2 flip|^|S| on the parities χ_S of non-empty sets S
    (theory.md §5: any law of M, so blocks, i.i.d. masks, mixtures). Found without
    enumerating the 2^d sets. X has bits 0, 1; in A a masked bit is 2.

    Args:
        masks: (l, d) booleans, True where a mask hides a bit; equal rows are merged.
        probabilities: law of the masks, shape (l,).
        flip: probability that a bit that is seen was flipped, in [0, 1].

    Raises:
        TypeError: if `masks` is not Boolean.
        ValueError: if shapes or laws are wrong.
    """
    patterns = as_array(masks, "masks")
    check_ndim(patterns, 2, "masks")
    if patterns.dtype != np.bool_:
        msg = f"masks must hold booleans; got dtype {patterns.dtype}"
        raise TypeError(msg)
    law = check_law(probabilities, "probabilities")
    if law.size != patterns.shape[0] or patterns.shape[1] == 0:
        msg = (
            f"masks must have shape ({law.size}, d) with d at least 1, a row for each"
            f" of the probabilities; got {patterns.shape}"
        )
        raise ValueError(msg)
    # Equal rows are one mask; masks of probability 0 have no columns.
    patterns, which = np.unique(patterns[law > 0], axis=0, return_inverse=True)
    merged = np.bincount(which.ravel(), weights=law[law > 0])
    return _Masked(patterns, merged, check_fraction(flip, "flip"))
