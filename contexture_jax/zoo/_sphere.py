"""Rotation-invariant noise on spheres (theory.md §5, groups)."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_integer
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    PRNGKeyArray,
    pytree_dataclass,
    static_field,
)
from contexture_jax.zoo._base import (
    RESOLUTION,
    TIE,
    AnalyticContext,
    Clusters,
    IndexedContext,
    check_table_size,
    host,
)
from contexture_jax.zoo._checks import as_inputs, as_samples, check_positive
from contexture_jax.zoo._quadrature import gauss_rule

__all__ = ["sphere_heat", "von_mises_fisher", "zonal"]

_EPS = float(np.finfo(np.float64).eps)
_NUM_GAUSS = 256


class _Zonal(IndexedContext):
    """A given X has density g(⟨x, a⟩) on S^{m-1}, X uniform: Funk–Hecke.

    T acts on the harmonics of degree ℓ as the factor c_ℓ; s = |c_ℓ|. The table, for
    m = 2 and m = 3, has `num_nodes` Gauss nodes of the height times 2 `num_nodes`
    equispaced angles (m = 2: the angles alone), which is exact up to degree
    2 num_nodes - 1 of the product of g and two harmonics.
    """

    dimension: int
    num_nodes: int

    def _factors(self, num: int) -> np.ndarray:
        """c_1..c_num, or fewer if the others are 0."""
        raise NotImplementedError

    def _profile(self, cosines: np.ndarray) -> np.ndarray:
        """g, relative to the uniform law."""
        largest = 16
        # A harmonic expansion is summed until its next term is rounding at any point:
        # |waves| ≤ 1.
        while self._tail(largest) * _multiplicity(self.dimension, largest) > _EPS:
            largest *= 2
        factors = self._factors(largest)
        counts = [_multiplicity(self.dimension, j + 1) for j in range(factors.size)]
        # (n, degrees): normalised to 1 at t = 1, so that the multiplicity is the factor
        # in the addition theorem.
        waves = _gegenbauer(cosines.ravel(), self.dimension, factors.size)[:, 1:]
        density = 1.0 + waves @ (np.array(counts, dtype=float) * factors)
        # Truncated, a density may be below 0 by rounding.
        return np.maximum(density, 0.0).reshape(cosines.shape)

    @property
    def _has_vectors(self) -> bool:
        return True

    def _has(self, hook: str) -> bool:
        if hook in ("_joint", "_points"):
            # Product rules of more angles would be too large for a table.
            return self.dimension <= 3
        return super()._has(hook)

    @property
    def basis(self) -> tuple:
        return ("sphere", self.dimension, self.num_nodes)

    def modes(self, num: int) -> Clusters:
        values = np.abs(self._factors(num))
        degrees = range(1, values.size + 1)
        return Clusters(
            values, tuple(_multiplicity(self.dimension, j) for j in degrees)
        )

    def total_energy(self) -> float:
        """Σ_ℓ multiplicity(ℓ) c_ℓ², summed until what is left cannot change it."""
        num = 64
        while True:
            values, multiplicities = self.modes(num)
            terms = np.array([float(m) for m in multiplicities]) * values**2
            # The second half adds nothing: the terms have decayed.
            if values.size < num or terms[num // 2 :].sum() <= _EPS * terms.sum():
                return float(terms.sum())
            num *= 2

    def num_resolved(self) -> int:
        if not self._has("_joint"):
            raise self._lacks("num_resolved")
        num = 4 * self.num_nodes
        values, multiplicities = self.modes(num)
        weights = values * np.array([float(m) for m in multiplicities])
        beyond = weights[::-1].cumsum()[::-1]
        # Past this degree g is too small for what it aliases to be seen.
        bandwidth = int((beyond > 0.01 * RESOLUTION).sum())
        degree = 2 * self.num_nodes - 1 - bandwidth
        if degree < 1:
            return 0
        # What lies above all values beyond the degree, or the order would mix.
        some = values[:degree] > self._tail(degree) * (1 + TIE)
        num_kept = int(np.array(multiplicities[:degree])[some].sum())
        return min(num_kept, len(self._rule()[1]) - 1)

    def _rule(self) -> tuple[np.ndarray, np.ndarray]:
        """Points, shape (n, m), and weights of sum 1."""
        if not self._has("_points"):
            raise self._lacks("table")
        angles = np.pi * np.arange(2 * self.num_nodes) / self.num_nodes
        circle = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        if self.dimension == 2:
            return circle, np.full(angles.size, 1.0 / angles.size)
        check_table_size(self.num_nodes * angles.size, self.num_nodes * angles.size)
        # Height and angle are independent under the uniform law.
        heights, weights = gauss_rule(*_gegenbauer_coefficients(3, self.num_nodes))
        radii = np.sqrt(1.0 - heights**2)
        flat = radii[:, None, None] * circle
        height = np.broadcast_to(heights[:, None, None], (*flat.shape[:2], 1))
        points = np.concatenate([flat, height], axis=-1).reshape(-1, 3)
        return points, np.repeat(weights / angles.size, angles.size)

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        points, _ = self._rule()
        return points, points

    def _joint(self) -> np.ndarray:
        points, weights = self._rule()
        joint = np.outer(weights, weights)
        joint *= self._profile(np.clip(points @ points.T, -1.0, 1.0))
        return joint / joint.sum()


@pytree_dataclass
class _SphereHeat(_Zonal):
    time: ArrayLike
    dimension: int = static_field()
    num_nodes: int = static_field()

    def _factors(self, num: int) -> np.ndarray:
        degrees = np.arange(1.0, num + 1)
        return np.exp(-degrees * (degrees + self.dimension - 2) * host(self.time))


@pytree_dataclass
class _Profile(_Zonal):
    factors: ArrayLike  # (L,): c_1..c_L
    dimension: int = static_field()
    num_nodes: int = static_field()

    def _factors(self, num: int) -> np.ndarray:
        return host(self.factors)[:num]

    def _tail(self, num: int) -> float:
        return float(np.abs(host(self.factors))[num:].max(initial=0.0))


@pytree_dataclass
class _VonMisesFisher(_Zonal):
    concentration: ArrayLike
    log_normaliser: ArrayLike  # log E e^{κ⟨x, a⟩} over uniform a
    dimension: int = static_field()
    num_nodes: int = static_field()

    def _factors(self, num: int) -> np.ndarray:
        # c_ℓ = ∏_{j<ℓ} r_{ν+j}, r_μ = I_{μ+1}(κ) / I_μ(κ) = 1 / (2(μ+1)/κ + r_{μ+1}),
        # run downwards, where it contracts (Miller), from Amos' bound, which is close.
        kappa, order = float(host(self.concentration)), self.dimension / 2 - 1
        last = num + 20 + math.ceil(8 * math.sqrt(kappa))
        # Far enough out that the start does not matter any more.
        mu = order + last
        ratio = kappa / (mu + 0.5 + math.hypot(mu + 1.5, kappa))
        ratios = np.zeros(num)
        for j in range(last - 1, -1, -1):
            ratio = 1.0 / (2.0 * (order + j + 1) / kappa + ratio)
            if j < num:
                ratios[j] = ratio
        return np.cumprod(ratios)

    def _profile(self, cosines: np.ndarray) -> np.ndarray:
        exponents = host(self.concentration) * cosines
        return np.exp(exponents - host(self.log_normaliser))

    def _draw(self, key: PRNGKeyArray, x: Array) -> Array:
        """Draw from vMF(x, κ) for each of `x`, unit vectors of shape (..., m).

        By rejection of the height ⟨x, a⟩ (Wood 1994), all together until none is left.
        """
        x = as_inputs(x, "x", self.dimension)
        key_height, key_direction = jax.random.split(key)
        height = self._sample_height(key_height, x)[..., None]
        direction = jax.random.normal(key_direction, x.shape, x.dtype)
        # A normal vector less its part along x: a uniform direction in the tangent
        # space.
        direction -= (direction * x).sum(axis=-1, keepdims=True) * x
        length = jnp.sqrt((direction**2).sum(axis=-1, keepdims=True))
        across = jnp.sqrt(jnp.maximum(1.0 - height**2, 0.0))
        drawn = height * x + across * direction / length
        # Nearly parallel directions lose their orthogonality to rounding.
        return drawn / jnp.sqrt((drawn**2).sum(axis=-1, keepdims=True))

    def _sample_height(self, key: Array, x: Array) -> Array:
        shape, dtype, width = x.shape[:-1], x.dtype, self.dimension - 1
        kappa = jnp.asarray(self.concentration, dtype=dtype)
        # Wood's envelope, in the form that does not cancel for large κ.
        b = width / (2 * kappa + jnp.sqrt(4 * kappa**2 + width**2))
        mode = (1 - b) / (1 + b)
        bound = kappa * mode + width * jnp.log1p(-(mode**2))

        def propose(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            key, height, is_done = state
            key, key_normal, key_uniform = jax.random.split(key, 3)
            # A coordinate of a uniform point on the sphere is 2 Beta(w/2, w/2) - 1.
            normal = jax.random.normal(key_normal, x.shape, dtype)
            beta = 0.5 + 0.5 * normal[..., 0] / jnp.sqrt((normal**2).sum(axis=-1))
            new = (1 - (1 + b) * beta) / (1 - (1 - b) * beta)
            # Log of the ratio of densities, at most 0 by the choice of `bound`.
            score = kappa * new + width * jnp.log1p(-mode * new) - bound
            uniform = jax.random.uniform(key_uniform, shape, dtype)
            accepted = jnp.log(uniform) <= score
            # Those that are accepted stay; the loop ends with the slowest of all.
            return key, jnp.where(is_done, height, new), is_done | accepted

        start = (key, jnp.zeros(shape, dtype), jnp.zeros(shape, bool))
        return jax.lax.while_loop(lambda s: ~s[2].all(), propose, start)[1]

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Log density per unit of surface; unit vectors of one shape (..., m)."""
        a = as_inputs(a, "a", self.dimension)
        x = as_inputs(x, "x", self.dimension)
        half = self.dimension / 2
        log_area = math.log(2) + half * math.log(math.pi) - math.lgamma(half)
        kappa = jnp.asarray(self.concentration, dtype=x.dtype)
        log_normaliser = jnp.asarray(self.log_normaliser, dtype=x.dtype)
        return kappa * (a * x).sum(axis=-1) - log_normaliser - log_area


def _multiplicity(dimension: int, degree: int) -> int:
    """Number of independent harmonics of a degree ≥ 1 on S^{m-1}."""
    # Homogeneous polynomials of the degree, less |x|² times those of two degrees less.
    lower = math.comb(degree + dimension - 3, degree - 2) if degree >= 2 else 0
    return math.comb(degree + dimension - 1, degree) - lower


def _gegenbauer_coefficients(dimension: int, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Recurrence of the orthonormal polynomials of the height on S^{m-1}."""
    order = dimension / 2 - 1
    # The first by its limit: its formula is 0 / 0 on the circle.
    j = np.arange(2.0, num)
    squares = j * (j + 2 * order - 1) / (4 * (j + order) * (j + order - 1))
    return np.zeros(num), np.append(1.0 / (2.0 * (1.0 + order)), squares)


def _gegenbauer(cosines: np.ndarray, dimension: int, degree: int) -> np.ndarray:
    """C_ℓ^ν(t) / C_ℓ^ν(1) for ℓ = 0..degree, shape (n, degree + 1), ν = m/2 - 1."""
    order = dimension / 2 - 1
    values = np.ones((cosines.size, degree + 1))
    if degree:
        values[:, 1] = cosines
    for j in range(1, degree):
        ahead = 2 * (j + order) * cosines * values[:, j] - j * values[:, j - 1]
        values[:, j + 1] = ahead / (j + 2 * order)
    return values


def sphere_heat(
    dimension: int, time: ArrayLike, *, num_nodes: int = 12
) -> AnalyticContext:
    """The heat semigroup on the sphere S^{m-1} for a time t, X uniform.

    Singular values e^{-ℓ(ℓ+m-2)t} on the harmonics of degree ℓ ≥ 1, of which there are
    comb(ℓ+m-1, ℓ) - comb(ℓ+m-3, ℓ-2); T ⪰ 0 (theory.md §5). X and A are unit vectors
    (on the circle, m = 2, `circle_heat` has angles). A table for m = 2 and 3.

    Args:
        dimension: m ≥ 2, of the space around the sphere.
        time: t > 0, of the generator Δ.
        num_nodes: of the table's quadrature: 2 num_nodes points for m = 2,
            2 num_nodes² for m = 3.
    """
    m = check_integer(dimension, "dimension", low=2)
    nodes = check_integer(num_nodes, "num_nodes", low=2)
    return _SphereHeat(check_positive(time, "time"), m, nodes)


def von_mises_fisher(
    dimension: int, concentration: ArrayLike, *, num_nodes: int = 12
) -> AnalyticContext:
    """A given X is von Mises–Fisher about X, of density ∝ e^{κ⟨x, a⟩}, X uniform.

    Singular values I_{ℓ+ν}(κ) / I_ν(κ), ν = m/2 - 1, on the harmonics of degree ℓ ≥ 1,
    as many as for `sphere_heat` (theory.md §5; Funk–Hecke). Ratios of Bessel functions
    come from their continued fraction. X and A are unit vectors of shape (..., m); on
    the circle, m = 2, this is the von Mises law. A table for m = 2 and 3.

    Args:
        dimension: m ≥ 2, of the space around the sphere.
        concentration: κ > 0.
        num_nodes: of the table's quadrature: 2 num_nodes points for m = 2,
            2 num_nodes² for m = 3.
    """
    m = check_integer(dimension, "dimension", low=2)
    nodes = check_integer(num_nodes, "num_nodes", low=2)
    kappa = float(host(check_positive(concentration, "concentration")))
    # log E e^{κt} = log Σ_j (κ²/4)^j / (j! (m/2)_j), terms past 2κ being negligible.
    j = np.arange(1.0, 2.0 * kappa + 40)
    # In logarithms from the largest: e^κ overflows at κ = 710.
    terms = np.cumsum(2 * math.log(kappa / 2) - np.log(j) - np.log(m / 2 + j - 1))
    top = max(float(terms.max()), 0.0)
    total = math.exp(-top) + float(np.exp(terms - top).sum())
    return _VonMisesFisher(kappa, top + math.log(total), m, nodes)


def zonal(
    dimension: int,
    profile: Callable[[np.ndarray], np.ndarray],
    *,
    num_nodes: int = 12,
) -> AnalyticContext:
    """A given X has a density ∝ f(⟨x, a⟩) on the sphere S^{m-1}, X uniform.

    Singular values |c_ℓ|, c_ℓ the mean of C_ℓ^ν(t) / C_ℓ^ν(1) under
    f(t) (1 - t²)^{(m-3)/2}, ν = m/2 - 1, as often as for `sphere_heat`, sorted
    (Funk–Hecke; theory.md §5). Integrals by Gauss rules of 256 nodes; factors are kept
    down to 1e-13. A table for m = 2 and 3.

    Args:
        dimension: m ≥ 2, of the space around the sphere.
        profile: f, non-negative function of an array of heights in [-1, 1], smooth.
            Called once, with NumPy float64, and not kept.
        num_nodes: of the table's quadrature: 2 num_nodes points for m = 2,
            2 num_nodes² for m = 3.

    Raises:
        ValueError: if f is negative or not finite, has no mass, or is too rough for
            its factors to have decayed.
    """
    m = check_integer(dimension, "dimension", low=2)
    nodes = check_integer(num_nodes, "num_nodes", low=2)
    heights, weights = gauss_rule(*_gegenbauer_coefficients(m, _NUM_GAUSS))
    samples = as_samples(profile, heights, "profile")
    mass = weights * samples
    # f times a harmonic of this degree is far below what 256 nodes integrate exactly.
    degree = _NUM_GAUSS // 2
    factors = (mass / mass.sum()) @ _gegenbauer(heights, m, degree)[:, 1:]
    large = np.flatnonzero(np.abs(factors) > 1e-13)
    num = int(large[-1]) + 1 if large.size else 0
    if num > degree // 2:
        msg = (
            f"profile must be smooth: its factors have not decayed at degree"
            f" {degree // 2}; got {abs(factors[num - 1]):.1e} at degree {num}"
        )
        raise ValueError(msg)
    return _Profile(factors[: max(num, 1)], m, nodes)
