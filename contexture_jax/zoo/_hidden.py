"""One of several contexts of known spectrum, unseen which (theory.md §5.4).

T = Σ_j w_j T_j: what has the same functions of X and of A, up to a sign or a phase, has
them in the mixture, too, with the mean of the coefficients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.forms import of_a_list
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    PRNGKeyArray,
    pytree_dataclass,
    summary,
)
from contexture_jax.zoo._base import (
    TIE,
    AnalyticContext,
    Clusters,
    IndexedContext,
    adjoint_functions,
    check_contexts,
    host,
)
from contexture_jax.zoo._chains import is_same
from contexture_jax.zoo._circle import _Noise, _Shift
from contexture_jax.zoo._combinations import _Product, index_law
from contexture_jax.zoo._letters import _Erased, _Letter, _Strings
from contexture_jax.zoo._masks import _Masked, mask_law
from contexture_jax.zoo._partitions import _Resolutions
from contexture_jax.zoo._polynomials import _Gaussian, _Krawtchouk
from contexture_jax.zoo._sphere import _Zonal
from contexture_jax.zoo._walks import _GroupWalk

__all__ = ["mixture"]

_EPS = float(np.finfo(np.float64).eps)


@of_a_list
def mixture(
    contexts: Sequence[AnalyticContext], weights: ArrayLike | None = None
) -> AnalyticContext:
    """One of several contexts of the same X and A, and which one is not seen.

    T = Σ_j w_j T_j, where all have the same functions of X and of A: singular values
    are |Σ_j w_j σ_i^(j)|, index by index (degree, frequency, set, level), with the
    signs and phases that T_j have there. So noises of opposite signs cancel, which the
    visible `convex_combination` never does (theory.md §4.6):

    * walks on one group, and noises on one circle or sphere: steps are mixed;
    * normals, bits that are flipped (`binary_symmetric`, `krawtchouk`), letters of one
      law that are redrawn: means of ρ^k, of (1 − 2p)^k and of rates;
    * erasures, masks and nested partitions, where A shows what was kept: hiding J loses
      nothing, and the values are those of the visible combination;
    * tensor products that differ in one factor; one context again and again.

    Others have no closed form here: `contexts.mixture` is exact for tables of any kind.

    Args:
        contexts: at least one context of the zoo, all of one of these families.
        weights: law of J, one positive weight each; None: equal.

    Raises:
        TypeError: if one is no context of the zoo.
        ValueError: if they have no closed form, or weights are wrong.
    """
    parts = check_contexts(contexts, AnalyticContext)
    return _mixed(parts, index_law(weights, len(parts), "mixture"))


def _mixed(parts: tuple[Any, ...], law: np.ndarray) -> AnalyticContext:
    first, *others = parts
    if all(is_same(first, other) for other in others):
        return first
    kinds = {_kind(part) for part in parts}
    if len(kinds) == 1 and None not in kinds:
        found = _of_the_family(parts, law)
        return _Hidden(parts, law) if found is None else found
    if all(isinstance(part, _Product) for part in parts):
        factors = list(zip(*(part.factors for part in parts), strict=False))
        unlike = [
            i
            for i, (one, *more) in enumerate(factors)
            if not all(is_same(one, two) for two in more)
        ]
        if len({len(part.factors) for part in parts}) == 1 and len(unlike) == 1:
            # T ⊗ S and T′ ⊗ S: S goes out of the sum.
            place = unlike[0]
            mixed = [*first.factors]
            mixed[place] = _mixed(factors[place], law)
            return _Product(tuple(mixed))
    msg = (
        "contexts must have the same functions of X and of A, as walks on one group,"
        " noises on one circle or sphere, normals, bits that are flipped or erased; got"
        f" {', '.join(map(summary, parts))}: contexts.mixture is exact for any tables"
    )
    raise ValueError(msg)


def _kind(context: Any) -> Any:
    """What contexts with the same functions of X and of A have in common; else None."""
    if isinstance(context, _Masked):
        return "masks", np.shape(context.masks)[1], float(host(context.flip))
    if isinstance(context, _Letter):
        return type(context), context.basis
    if isinstance(context, _Strings):
        return type(context.letter), context.basis
    if isinstance(
        context, (_GroupWalk, _Noise, _Zonal, _Gaussian, _Krawtchouk, _Resolutions)
    ):
        return context.basis
    return None


def _of_the_family(parts: tuple[Any, ...], law: np.ndarray) -> AnalyticContext | None:
    """The mixture where it is one of the family again, with mixed parameters."""
    first = parts[0]
    if isinstance(first, _GroupWalk):
        laws = [w * host(c.probabilities) for w, c in zip(law, parts, strict=True)]
        steps = np.concatenate([np.asarray(c.steps) for c in parts])
        return _GroupWalk(steps, np.concatenate(laws), first.sizes)
    if isinstance(first, _Letter):
        rate = float(law @ [float(host(c.rate)) for c in parts])
        return dataclasses.replace(first, rate=rate)  # pyright: ignore
    if isinstance(first, _Resolutions):
        levels = law @ np.array([c.level_probabilities for c in parts])
        return dataclasses.replace(first, level_probabilities=tuple(levels.tolist()))  # pyright: ignore
    if isinstance(first, _Masked):
        laws = [w * host(c.probabilities) for w, c in zip(law, parts, strict=True)]
        masks = np.concatenate([np.asarray(c.masks) for c in parts])
        return mask_law(masks, np.concatenate(laws), flip=first.flip)
    return None


def _coefficients(context: Any, num: int) -> np.ndarray:
    """σ_1, …, σ_num of T on functions that the whole family has, or fewer: all."""
    if isinstance(context, _Noise):
        return context._coefficients(num)
    if isinstance(context, _Zonal):
        return context._factors(num)
    if isinstance(context, _Strings):
        degrees = np.arange(1, min(num, context.dimension) + 1)
        return (1.0 - float(host(context.letter.rate))) ** degrees
    return context._values(num)


def _product_energy(one: Any, two: Any) -> float:
    """Σ_i Re σ_i^(1) σ̄_i^(2), with multiplicities."""
    if isinstance(one, _Shift) and isinstance(two, _Shift):
        # Of two arcs about 0: 2π ∫ f g − 1, and sines in k decay too slowly to be
        # summed.
        return 2 * np.pi / max(float(host(c.width)) for c in (one, two)) - 1.0
    if isinstance(one, _Gaussian) and isinstance(two, _Gaussian):
        square = float(host(one.correlation) * host(two.correlation))
        return square / (1.0 - square)
    num = 64
    while True:
        pair = [_coefficients(context, num) for context in (one, two)]
        size = min(part.size for part in pair)
        counts = np.array([float(m) for m in one.modes(size).multiplicities])
        terms = counts * np.real(pair[0][:size] * pair[1][:size].conj())
        rest = np.abs(terms[num // 2 :]).sum()
        # The second half adds nothing: the terms have decayed.
        if size < num or rest <= _EPS * np.abs(terms).sum():
            return float(terms.sum())
        num *= 2


@pytree_dataclass
class _Hidden(IndexedContext):
    """A = A_J with J not seen, of contexts with common functions: |Σ_j w_j σ_i^(j)|."""

    components: tuple[Any, ...]
    weights: ArrayLike

    @property
    def basis(self) -> tuple:
        return self.components[0].basis

    @property
    def _has_vectors(self) -> bool:
        return self.components[0]._has_vectors

    @property
    def _shows_all(self) -> bool:
        """Whether A shows all that J could tell: T_j* is the same for all j."""
        first = self.components[0]
        return isinstance(first, _Strings) and isinstance(first.letter, _Erased)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What all components have."""
        return tuple(
            name
            for name in super().capabilities
            if all(name in component.capabilities for component in self.components)
        )

    def _has(self, hook: str) -> bool:
        # Noises on a circle may have their A on two grids.
        is_one = hook not in ("_joint", "_points", "_functions") or self._on_one_grid()
        return is_one and all(c._has(hook) for c in self.components)

    def _on_one_grid(self) -> bool:
        noises = [c for c in self.components if isinstance(c, _Noise)]
        try:
            return len({c._step_law()[0] for c in noises}) < 2
        except ValueError:  # which `table` says
            return True

    @property
    def _rounding(self) -> float:
        # Coefficients of opposite signs cancel up to rounding.
        return max(8 * _EPS, *(c._rounding for c in self.components))

    def modes(self, num: int) -> Clusters:
        parts = [component.modes(num) for component in self.components]
        longest = max(parts, key=lambda part: part.values.size)
        found = np.zeros(longest.values.size, complex)
        for w, component, part in zip(
            host(self.weights), self.components, parts, strict=True
        ):
            if self._shows_all:
                found[: part.values.size] += w * part.values**2
            else:
                values = _coefficients(component, num)
                found[: values.size] += w * values
        values = np.sqrt(np.real(found)) if self._shows_all else np.abs(found)
        return Clusters(values, longest.multiplicities)

    def _tail(self, num: int) -> float:
        tails = np.array([component._tail(num) for component in self.components])
        # The mean of bounds bounds a mean of either kind by their largest.
        return float(tails.max() if self._shows_all else host(self.weights) @ tails)

    def total_energy(self) -> float:
        """Σ_ij w_i w_j Σ_k σ_k^(i) σ̄_k^(j)."""
        law, parts = host(self.weights), self.components
        own = np.array([part.total_energy() for part in parts])
        if self._shows_all:
            return float(law @ own)
        energies = np.diag(own)
        for i, one in enumerate(parts):
            for j, two in enumerate(parts[:i]):
                energies[i, j] = energies[j, i] = _product_energy(one, two)
        return float(law @ energies @ law)

    def num_resolved(self) -> int:
        first = self.components[0]
        if isinstance(first, (_Noise, _Gaussian)):
            return self._num_certified()
        if not isinstance(first, _Zonal):
            return super().num_resolved()
        num = max(c._num_modes(c.num_resolved() + 1) for c in self.components)
        values, multiplicities = self.modes(num)
        # Of all that some table lacks the largest value that it may have.
        lost = self._tail(num)
        for c in self.components:
            least = float(c._spectrum(c.num_resolved() + 1)[-1])
            own = np.zeros(values.size)
            some = c.modes(num).values
            own[: some.size] = some
            lost = max(lost, float(values[own <= least * (1 + TIE)].max(initial=0.0)))
        counts = np.array(multiplicities, dtype=object)
        return int(counts[values > lost * (1 + TIE)].sum())

    def _joint(self) -> np.ndarray:
        tables = [component._joint() for component in self.components]
        terms = [w * t for w, t in zip(host(self.weights), tables, strict=True)]
        # Added up, as J is hidden; side by side it would be the visible mixture.
        return np.sum(terms, axis=0)

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        return self.components[0]._points()

    def _indexed_functions(self, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        parts = [component._indexed_functions(num) for component in self.components]
        left, _, index = max(parts, key=lambda part: part[2].size)
        values = self.modes(num).values[index]
        right = adjoint_functions(self._joint(), left, values, self._rounding)
        return left, right, index

    def _draw(self, key: PRNGKeyArray, x: Array) -> Array:
        of_index, *keys = jax.random.split(key, len(self.components) + 1)
        number = jax.random.categorical(of_index, jnp.log(jnp.asarray(self.weights)))
        pairs = zip(self.components, keys, strict=True)
        drawn = jnp.stack([part._draw(k, x) for part, k in pairs])
        return drawn[number]

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Log Σ_j w_j P_j(a|x)."""
        if "log_density" not in self.capabilities:
            raise self._lacks("log_density")
        logs = jnp.stack([part.log_density(a, x) for part in self.components])
        weights = jnp.log(jnp.asarray(self.weights, logs.dtype))
        shape = (-1, *(1,) * (logs.ndim - 1))
        return jax.nn.logsumexp(logs + weights.reshape(shape), axis=0)
