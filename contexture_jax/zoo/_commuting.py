"""Contexts of known spectrum one after the other (theory.md §5.4).

T₁ T₂ has a closed form where T₁ is a walk on the space of X, as noise is, whose
functions T₂ has on its left: coefficients multiply, signs and phases included.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.forms import one_by_one
from contexture_jax._core.numerics import mm
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    PRNGKeyArray,
    pytree_dataclass,
    static_field,
    summary,
)
from contexture_jax.zoo._base import (
    AnalyticContext,
    IndexedContext,
    adjoint_functions,
    check_contexts,
    host,
)
from contexture_jax.zoo._chains import ByIndex, Chain, alternating, convolve
from contexture_jax.zoo._checks import as_integers
from contexture_jax.zoo._circle import _CircleHeat, _Noise, _Waves
from contexture_jax.zoo._combinations import _Product
from contexture_jax.zoo._hidden import _Hidden
from contexture_jax.zoo._letters import _Letter, _Resampled, _Strings
from contexture_jax.zoo._masks import _Masked
from contexture_jax.zoo._polynomials import _Gaussian, _Krawtchouk, _Thinning
from contexture_jax.zoo._sphere import _SphereHeat, _Zonal
from contexture_jax.zoo._walks import _GroupWalk

__all__ = ["compose"]

_MOST_STEPS = 2**22  # pairs of steps of two walks
_ALIKE = 1e-9  # relative difference of one mean, given twice


@one_by_one
def compose(*contexts: AnalyticContext) -> AnalyticContext:
    """The chain T₁ T₂ …: X → A₁ → A₂ → …, of contexts whose functions agree.

    Singular values are ∏_j s_i^(j), index by index (degree, frequency, set), not rank
    by rank (theory.md §4.6, §5.4):

    * walks on one group, and noises on one circle: steps add up, characters multiply;
    * normals, ρ₁ ρ₂ (Mehler), bits that are flipped (`binary_symmetric`, `krawtchouk`),
      letters of one law that are redrawn (`label_noise`, `identity`, `complete_graph`),
      heat on one sphere: one of the family again, with all that the family has;
    * laws on one sphere: Funk–Hecke coefficients multiply;
    * thinnings, the second of what the first keeps;
    * behind any of these a context with the same functions of X, whatever its A: an
      erasure or a mask of the bits, a `mixture` or `convex_combination` of them;
    * tensor products, factor by factor;
    * any one context and its `reverse` in turn: `compose(c, reverse(c))` is the X-to-X
      walk of the dual kernel, T T*, with the values s_i²; p times over it is (T T*)^p.

    A reverse counts as what it is, so that they mix: a normal is its own.

    Args:
        *contexts: of the zoo, at least one; the A of each is the X of the next.
            Concrete.

    Raises:
        TypeError: if one is no context of the zoo.
        ValueError: if there is none, their functions differ, or two walks have more
            than 2²² pairs of steps.
    """
    chain, *others = check_contexts(contexts, AnalyticContext)
    for place, other in enumerate(others, 1):
        found = _composed(chain, other)
        if found is None:
            msg = (
                "contexts must be one context and its reverse in turn, or walks with"
                " the same functions, as on one group, circle or sphere, normals, and"
                " bits or letters that are redrawn, which erasures may follow; got"
                f" {summary(contexts[place - 1])} and {summary(other)} at positions"
                f" {place - 1} and {place}: contexts.compose is exact for tables of"
                " any kind"
            )
            raise ValueError(msg)
        chain = found
    return chain


def _composed(one: AnalyticContext, two: AnalyticContext) -> AnalyticContext | None:
    """T₁ T₂ where it has a closed form."""
    found = alternating(one, two)
    if found is not None:
        return found
    one, two = map(_unwound, (one, two))
    if isinstance(one, _Zonal) and isinstance(two, _Zonal):
        # Tables on the finer of their grids.
        nodes = max(one.num_nodes, two.num_nodes)
        one, two = (dataclasses.replace(c, num_nodes=nodes) for c in (one, two))  # pyright: ignore
    if isinstance(one, _Product) and isinstance(two, _Product):
        # (T ⊗ S) (T′ ⊗ S′) = T T′ ⊗ S S′.
        pairs = zip(one.factors, two.factors, strict=False)
        factors: list[Any] = [_composed(*pair) for pair in pairs]
        if len(one.factors) != len(two.factors) or None in factors:
            return None
        return _Product(tuple(factors))
    found = _of_the_family(one, two)
    if found is not None:
        return found
    if not isinstance(two, IndexedContext):
        return None
    if isinstance(one, Chain) and isinstance(one.base, IndexedContext):
        # There and back, which keeps the functions of X: a step of the dual kernel.
        if one.from_a or one.num_steps % 2 or one.base.basis != two.basis:
            return None
        return convolve(*[one.base] * (one.num_steps // 2), two)
    if not isinstance(one, IndexedContext) or not _is_walk(one):
        return None
    # Strings of one letter are no letters, though their functions are.
    if one.basis != two.basis or one._has_vectors != two._has_vectors:
        return None
    return _Commuting((*_parts_of(one, _Commuting), *_parts_of(two, _Commuting)))


def _of_the_family(one: Any, two: Any) -> AnalyticContext | None:
    """T₁ T₂ where it is one of the family again, with parameters of both."""
    if isinstance(one, _Gaussian) and isinstance(two, _Gaussian):
        rho = float(host(one.correlation) * host(two.correlation))
        return _Gaussian(rho, max(one.num_points, two.num_points))
    if isinstance(one, _GroupWalk) and isinstance(two, _GroupWalk):
        return _steps_of_both(one, two) if one.sizes == two.sizes else None
    if isinstance(one, _Noise) and isinstance(two, _Noise):
        return _noises(one, two)
    if isinstance(one, _Thinning) and isinstance(two, _Thinning):
        kept = float(host(one.mean) * host(one.keep))
        if abs(float(host(two.mean)) - kept) > _ALIKE * kept:
            return None
        return dataclasses.replace(one, keep=float(host(one.keep) * host(two.keep)))
    if isinstance(one, _Strings) and isinstance(two, _Masked):
        is_flipped = isinstance(one.letter, _Resampled)
        if not is_flipped or one.dimension != np.shape(two.masks)[1]:
            return None
        # Redrawn, half of the bits are flipped.
        return dataclasses.replace(
            two, flip=_flips(host(one.letter.rate) / 2.0, two.flip)
        )
    if not isinstance(one, IndexedContext) or not isinstance(two, IndexedContext):
        return None
    if one.basis != two.basis:
        return None
    if isinstance(one, _SphereHeat) and isinstance(two, _SphereHeat):
        return dataclasses.replace(one, time=float(host(one.time) + host(two.time)))
    if isinstance(one, _Krawtchouk) and isinstance(two, _Krawtchouk):
        return dataclasses.replace(one, flip=_flips(one.flip, two.flip))
    if isinstance(one, _Resampled) and isinstance(two, _Resampled):
        # Kept by both, or redrawn.
        kept = (1.0 - host(one.rate)) * (1.0 - host(two.rate))
        return dataclasses.replace(one, rate=1.0 - float(kept))
    if isinstance(one, _Strings) and isinstance(two, _Strings):
        letter: Any = _of_the_family(one.letter, two.letter)
        return None if letter is None else _Strings(letter, one.dimension)
    return None


def _flips(one: ArrayLike, two: ArrayLike) -> float:
    """The probability that one of two flips happens and the other does not."""
    kept = (1.0 - 2.0 * host(one)) * (1.0 - 2.0 * host(two))
    return (1.0 - float(kept)) / 2.0


def _steps_of_both(one: _GroupWalk, two: _GroupWalk) -> _GroupWalk:
    """One step of each, one after the other."""
    (steps, law), (more, other) = map(_possible_steps, (one, two))
    if law.size * other.size > _MOST_STEPS:
        msg = (
            f"compose lists pairs of steps, at most {_MOST_STEPS}; got {law.size} ×"
            f" {other.size}"
        )
        raise ValueError(msg)
    pairs = (steps[:, None, :] + more[None, :, :]).reshape(-1, len(one.sizes))
    # Pairs that lead to one place are one step.
    places, which = np.unique(pairs % np.array(one.sizes), axis=0, return_inverse=True)
    weights = np.bincount(which.ravel(), np.multiply.outer(law, other).ravel())
    return _GroupWalk(places, weights, one.sizes)


def _possible_steps(walk: _GroupWalk) -> tuple[np.ndarray, np.ndarray]:
    """Steps of positive probability, shape (l, d), and their law."""
    law = host(walk.probabilities)
    return np.asarray(walk.steps)[law > 0], law[law > 0]


def _noises(one: _Noise, two: _Noise) -> _Noise:
    """The noise of both, on the finer of their grids."""
    num = max(one.num_points, two.num_points)
    if isinstance(one, _CircleHeat) and isinstance(two, _CircleHeat):
        return _CircleHeat(float(host(one.time) + host(two.time)), num)
    waves = [part for part in (one, two) if isinstance(part, _Waves)]
    if waves:
        # As many frequencies as the shorter has, and the other's there.
        size = min(np.shape(part.cosines)[0] for part in waves)
        product = one._coefficients(size) * two._coefficients(size)
        return _Waves(np.real(product), np.imag(product), num)
    parts = (*_parts_of(one, _NoiseSum), *_parts_of(two, _NoiseSum))
    of_one_grid = (dataclasses.replace(part, num_points=num) for part in parts)
    return _NoiseSum(tuple(of_one_grid), num)


class _InTurn(ByIndex):
    """Each part draws where the one before it drew."""

    parts: tuple[Any, ...]

    @property
    def _powers(self) -> tuple[tuple[IndexedContext, int], ...]:
        return tuple((part, 1) for part in self.parts)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What all parts have."""
        return tuple(
            name
            for name in super().capabilities
            if all(name in part.capabilities for part in self.parts)
        )

    def _draw(self, key: PRNGKeyArray, x: Array) -> Array:
        keys = jax.random.split(key, len(self.parts))
        for part, own in zip(self.parts, keys, strict=True):
            x = part._draw(own, x)
        return x


@pytree_dataclass
class _Commuting(_InTurn):
    """T₁ T₂ … of walks with common functions, and a last context of any A."""

    parts: tuple[Any, ...]

    def _joint(self) -> np.ndarray:
        walk = self.parts[0]._joint()
        for part in self.parts[1:]:
            joint = part._joint()
            walk = walk @ (joint / joint.sum(axis=1)[:, None])
        return walk

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        return self.parts[0]._points()[0], self.parts[-1]._points()[1]

    def _indexed_functions(self, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = [part._indexed_functions(num) for part in self.parts]
        left, _, index = min(found, key=lambda some: some[2].size)
        values = self.modes(num).values[index]
        # By T* and not by the last: signs and phases of the others are in ν, too.
        right = adjoint_functions(self._joint(), left, values, self._rounding)
        return left, right, index

    @property
    def _letters(self) -> tuple[Any, ...]:
        """One letter of each part, where all are letters or strings of them."""
        found = [p.letter if isinstance(p, _Strings) else p for p in self.parts]
        return tuple(found) if all(isinstance(c, _Letter) for c in found) else ()

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What all parts have; a density of letters alone, of others it is no sum."""
        names = super().capabilities
        return tuple(n for n in names if n != "log_density" or self._letters)

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Log P(a|x) of letters, summed over those that stand between.

        Integers of one shape, of strings (..., d) with the result (...).
        """
        if not self._letters:
            raise self._lacks("log_density")
        if self._has_vectors:
            a, x = self.parts[-1]._strings(a, "a"), self.parts[0]._strings(x, "x")
        a, x = as_integers(a, "a"), as_integers(x, "x")
        steps = []
        for letter in self._letters:
            sizes = np.shape(letter.marginal)[0], letter._num_symbols()
            there, here = jnp.indices(sizes)[::-1]
            steps.append(jnp.exp(letter.log_density(there, here)))
        logs = jnp.log(functools.reduce(mm, steps))[x, a]
        return logs.sum(axis=-1) if self._has_vectors else logs


@pytree_dataclass
class _NoiseSum(_InTurn, _Noise):
    """A = X + U₁ + U₂ + … modulo 2π, of independent noises on one grid."""

    parts: tuple[Any, ...]
    num_points: int = static_field()

    def _coefficients(self, num: int) -> np.ndarray:
        found = [part._coefficients(num) for part in self.parts]
        size = min(some.size for some in found)
        return np.prod([some[:size] for some in found], axis=0)

    def _step_law(self) -> tuple[float, np.ndarray]:
        offset, law = self.parts[0]._step_law()
        for part in self.parts[1:]:
            more, other = part._step_law()
            whole = np.convolve(law, other)
            # Once round the circle and on: the same places again.
            law = whole[: other.size]
            law[: whole.size - other.size] += whole[other.size :]
            offset += more
        return offset, law

    def num_resolved(self) -> int:
        return self._num_certified()


def _parts_of(context: Any, kind: type[_InTurn]) -> tuple[Any, ...]:
    return context.parts if isinstance(context, kind) else (context,)


def _is_walk(context: Any) -> bool:
    """Whether A lies where X does, with its law and, but for phases, its functions."""
    if isinstance(context, _Hidden):
        return all(map(_is_walk, context.components))
    if isinstance(context, ByIndex) and not isinstance(context, _Noise):
        # What goes before the last is a walk, or a step there and back.
        return _is_walk(context._powers[-1][0])
    letter = context.letter if isinstance(context, _Strings) else context
    # Other noises on a circle may have their A on another grid than X.
    kinds = _Gaussian, _Krawtchouk, _Resampled, _GroupWalk, _Zonal, _CircleHeat, _Waves
    return isinstance(letter, kinds)


def _unwound(context: AnalyticContext) -> AnalyticContext:
    """A chain of a walk and its reverse as the walk that it is."""
    back = _reversed(context.base) if isinstance(context, Chain) else None
    if not isinstance(context, Chain) or back is None:
        return context
    sides = (context.base, back)
    found: Any = sides[context.from_a]
    for step in range(1, context.num_steps):
        found = _composed(found, sides[(step + context.from_a) % 2])
    return found


def _reversed(context: Any) -> AnalyticContext | None:
    """T* as one of the family; None: it is none."""
    if isinstance(context, _GroupWalk):
        steps = -np.asarray(context.steps)
        return _GroupWalk(steps, context.probabilities, context.sizes)
    if isinstance(context, _Waves):
        return dataclasses.replace(context, sines=-host(context.sines))
    letter = context.letter if isinstance(context, _Strings) else context
    # Of x and a alike: the step back is as the step there.
    is_even = isinstance(letter, (_Gaussian, _Krawtchouk, _Resampled, _Noise, _Zonal))
    return context if is_even else None
