"""Contexts of known spectrum there and back, and turned round (theory.md §5.4)."""

from __future__ import annotations

import functools
import math

import jax
import numpy as np

from contexture_jax._core.forms import one_by_one
from contexture_jax._core.types import pytree_dataclass, static_field, summary
from contexture_jax.zoo._base import (
    TIE,
    AnalyticContext,
    Clusters,
    Functions,
    IndexedContext,
    check_contexts,
    collect,
)

__all__ = ["ByIndex", "Chain", "alternating", "convolve", "is_same", "reverse"]


@pytree_dataclass
class Chain(AnalyticContext):
    """`num_steps` alternating steps x → a → x → …, or a → x → …: values s^num_steps."""

    base: AnalyticContext
    num_steps: int = static_field()
    from_a: bool = static_field()

    @property
    def _to_a(self) -> bool:
        """Whether the last step ends on a value of A."""
        # Each step crosses from one side to the other.
        return (self.num_steps + self.from_a) % 2 == 1

    def _has(self, hook: str) -> bool:
        return hook in ("_joint", "_functions", "_points") and self.base._has(hook)

    def _leading(self, k: int) -> Clusters:
        # x ↦ x^p keeps the order: the k largest stay the k largest.
        found = self.base.clusters(k)
        # Powers may fall below what `collect` tells apart, so it merges anew.
        return collect(found.values**self.num_steps, found.multiplicities)

    def total_energy(self) -> float:
        """Σ s_i^(2 num_steps), summed until what is left cannot change it.

        Past the last summed s, the rest is at most s^(2 num_steps - 2) times what the
        sum of squares lacks.
        """
        all_squares, k = self.base.total_energy(), 64
        if self.num_steps == 1:
            return all_squares
        while True:
            values, multiplicities = self.base.clusters(k)
            counts = np.array([float(m) for m in multiplicities])
            total = float(counts @ values ** (2 * self.num_steps))
            lacking = max(all_squares - float(counts @ values**2), 0.0)
            last = float(values[-1]) if values.size else 0.0
            # Σ_{i>k} s_i^(2p) ≤ s_k^(2p − 2) Σ_{i>k} s_i².
            rest = lacking * last ** (2 * self.num_steps - 2)
            if counts.sum() < k or rest <= np.finfo(np.float64).eps * total:
                return total
            k *= 2

    def num_resolved(self) -> int:
        # A chain of tables is exact for what the tables have: errors of a quadrature
        # are in the values beyond.
        return min(self.base.num_resolved(), min(self._joint().shape) - 1)

    def _joint(self) -> np.ndarray:
        joint = self.base._joint()
        if self.from_a:
            joint = joint.T
        # The laws of X and A, which every step starts from again: the chain is
        # stationary.
        rows, columns = joint.sum(axis=1), joint.sum(axis=0)
        walk = joint
        for step in range(1, self.num_steps):
            # D⁻¹ of the side where the walk stands, then the joint law to the other
            # side.
            walk = (walk / columns) @ joint.T if step % 2 else (walk / rows) @ joint
        return walk

    @property
    def _has_vectors(self) -> bool:
        if not self.from_a:
            return self.base._has_vectors
        return not self.base._has("_points") or self.base._points()[1].ndim > 1

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        sides = self.base._points()
        # The first and the last side of the chain; those in between are summed over.
        return sides[self.from_a], sides[self._to_a]

    def _functions(self, k: int) -> Functions:
        # T ν = s μ and T* μ = s ν: a chain keeps the functions of its ends.
        values, *sides = self.base._functions(k)
        return Functions(values**self.num_steps, sides[self.from_a], sides[self._to_a])


class ByIndex(IndexedContext):
    """Products of contexts with common left functions: ∏ s_i^p, index by index.

    Subclasses say of which contexts, and with which exponents, in `_powers`.
    """

    @property
    def _powers(self) -> tuple[tuple[IndexedContext, int], ...]:
        """Each part and its exponent; the last, of exponent 1, is the one with A."""
        raise NotImplementedError

    @property
    def basis(self) -> tuple:
        return self._powers[-1][0].basis

    def _has(self, hook: str) -> bool:
        return all(part._has(hook) for part, _ in self._powers)

    @property
    def _has_vectors(self) -> bool:
        return self._powers[-1][0]._has_vectors

    @property
    def _rounding(self) -> float:
        # ∏ (s + δ)^p: first order in the errors, values being at most 1.
        return float(sum(power * part._rounding for part, power in self._powers))

    def modes(self, num: int) -> Clusters:
        found = [(part.modes(num), power) for part, power in self._powers]
        # Beyond the shortest list one factor is 0.
        size = min(modes.values.size for modes, _ in found)
        values = np.ones(size)
        for modes, power in found:
            values = values * modes.values[:size] ** power
        return Clusters(values, found[-1][0].multiplicities[:size])

    def _tail(self, num: int) -> float:
        # A bound on each factor beyond `num` bounds the product.
        return math.prod(part._tail(num) ** power for part, power in self._powers)

    def total_energy(self) -> float:
        """Σ_i ∏ s_i^{2p}, summed until what is left cannot change it."""
        *others, (last, _) = self._powers
        squares, num = last.total_energy(), 64
        while True:
            values, multiplicities = self.modes(num)
            counts = np.array([float(m) for m in multiplicities])
            total = float(counts @ values**2)
            own = last.modes(num).values[: values.size]
            rest = max(squares - float(counts @ own**2), 0.0)
            # What the last has beyond, times a bound on each of the others there.
            for part, power in others:
                rest *= part._tail(num) ** (2 * power)
            if values.size < num or rest <= np.finfo(np.float64).eps * total:
                return total
            num *= 2

    def num_resolved(self) -> int:
        """As many as lie above the first value that the table of a part lacks."""
        parts = [part for part, _ in self._powers]
        # The first value that a table does not resolve: what lies below it, index by
        # index, may be wrong in the product.
        lacking = [float(p._spectrum(p.num_resolved() + 1)[-1]) for p in parts]
        num = max(p._num_modes(p.num_resolved() + 1) for p in parts)
        values, multiplicities = self.modes(num)
        seen = np.ones(values.size, dtype=bool)
        for part, least in zip(parts, lacking, strict=True):
            seen &= part.modes(num).values[: values.size] > least * (1 + TIE)
        # The largest product that has an unresolved factor; above it all are right.
        lost = max(float(values[~seen].max(initial=0.0)), self._tail(num))
        if lost <= self._rounding:
            return min(self._joint().shape) - 1
        counts = np.array(multiplicities, dtype=object)
        return int(counts[values > lost * (1 + TIE)].sum())


@pytree_dataclass
class _Convolution(ByIndex):
    """T₁ T₁* T₂ of contexts with common left functions: λ_i s_i, index by index."""

    first: IndexedContext
    second: IndexedContext

    @property
    def _powers(self) -> tuple[tuple[IndexedContext, int], ...]:
        return (self.first, 2), (self.second, 1)

    def _joint(self) -> np.ndarray:
        one, two = self.first._joint(), self.second._joint()
        # T₁ T₁*: to A₁ by P⁺, and back by Bayes' rule.
        walk = (one / one.sum(axis=0)) @ one.T
        return (walk / walk.sum(axis=0)) @ two

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        return self.first._points()[0], self.second._points()[1]

    def _indexed_functions(self, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        left, right, index = self.second._indexed_functions(num)
        # Where the other factor has ended the value is 0, and the function any.
        there = index < self.modes(num).values.size
        return left[:, there], right[:, there], index[there]


@one_by_one
def convolve(*contexts: AnalyticContext) -> AnalyticContext:
    """T₁ T₁* T₂: a step of the first's dual kernel, X → X′, then the second.

    Of more than two, a step of each but the last: T₁ T₁* T₂ T₂* … T_r.

    Its singular values are (s_i^(1))² s_i^(2), index by index (degree, frequency, set,
    level), not rank by rank; s_i³ for a context with itself (theory.md §4.6).

    Args:
        *contexts: of the zoo, at least one, with the same law of X and the same
            functions, as for `convex_combination`; or one context again and again,
            whatever it is.

    Raises:
        TypeError: if one is no context of the zoo.
        ValueError: if there is none, or they do not share their functions.
    """
    parts = check_contexts(contexts, AnalyticContext)
    # From the last: each step of a dual kernel comes before what is there.
    return functools.reduce(lambda found, one: _convolve(one, found), parts[::-1])


def _convolve(first: AnalyticContext, second: AnalyticContext) -> AnalyticContext:
    if isinstance(first, IndexedContext) and isinstance(second, IndexedContext):
        # Index by index: rank by rank would pair functions that are not the same.
        if first.basis == second.basis:
            return _Convolution(first, second)
    else:
        one = _as_chain(first)
        step = Chain(one.base, 2 * one.num_steps, one.from_a)
        if (chain := alternating(step, second)) is not None:
            return chain
    msg = (
        "contexts must share their left singular functions; got"
        f" {summary(first)} and {summary(second)}"
    )
    raise ValueError(msg)


def reverse(context: AnalyticContext) -> AnalyticContext:
    """X and A in each other's place: T* for T, with the same singular values.

    What `reverse` gives it takes back. No `sample` or `log_density`.

    Args:
        context: of the zoo.

    Raises:
        TypeError: if it is no context of the zoo.
    """
    (context,) = check_contexts((context,), AnalyticContext)
    chain = _as_chain(context)
    # Started from the other end: as many steps, from where it ended.
    return _simplest(Chain(chain.base, chain.num_steps, chain._to_a))


def alternating(one: AnalyticContext, two: AnalyticContext) -> AnalyticContext | None:
    """T₁ T₂ of two that are one context and its reverse in turn; None: they are not."""
    chain, other = map(_as_chain, (one, two))
    # T T is none: the A of one is the X of the next only where they alternate.
    if chain._to_a != other.from_a or not is_same(chain.base, other.base):
        return None
    num_steps = chain.num_steps + other.num_steps
    return _simplest(Chain(chain.base, num_steps, chain.from_a))


def _as_chain(context: AnalyticContext) -> Chain:
    return context if isinstance(context, Chain) else Chain(context, 1, False)


def _simplest(chain: Chain) -> AnalyticContext:
    return chain if chain.from_a or chain.num_steps > 1 else chain.base


def is_same(one: AnalyticContext, two: AnalyticContext) -> bool:
    """Whether two contexts are one family with the same parameters."""
    (leaves, structure), (others, other) = map(jax.tree.flatten, (one, two))
    # By value, as parameters may be equal arrays that are not the same object.
    return structure == other and all(map(np.array_equal, leaves, others))
