"""The noisy logistic map: a context of finite rank on the interval."""

from __future__ import annotations

from math import comb

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import as_floating, check_integer
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    PRNGKeyArray,
    pytree_dataclass,
    static_field,
)
from contexture_jax.zoo._base import AnalyticContext, Clusters, collect

__all__ = ["logistic_map"]


@pytree_dataclass
class _LogisticMap(AnalyticContext):
    """p(y|x) = C cos^{2M}(π(y - F(x))) = Σ_{|j|≤M} c_j e^{2πij(y - F(x))}."""

    order: int = static_field()
    num_points: int = static_field()

    def _fourier(self) -> tuple[np.ndarray, np.ndarray]:
        """Frequencies -M..M and coefficients c_j = comb(2M, M+j) / comb(2M, M)."""
        order = self.order
        frequencies = np.arange(-order, order + 1)
        # Exact integers first: they pass 64 bits for M above 33.
        counts = np.array([float(comb(2 * order, order + j)) for j in frequencies])
        return frequencies, counts / counts[order]

    def _waves(self, y: np.ndarray) -> np.ndarray:
        return np.exp(2j * np.pi * np.outer(y, self._fourier()[0]))

    def _rule_x(self) -> tuple[np.ndarray, np.ndarray]:
        """Gauss–Legendre on [0, 1]: F has a kink where the interval closes up."""
        nodes, weights = np.polynomial.legendre.leggauss(self.num_points)
        return 0.5 * (1.0 + nodes), 0.5 * weights

    def _rule_a(self) -> tuple[np.ndarray, float]:
        """Equispaced: functions of the next state are smooth on the circle."""
        size = self.num_points
        return np.arange(size) / size, 1.0 / size

    def _invariant(self) -> np.ndarray:
        """Fourier coefficients of π, the density that p leaves invariant.

        π̂_j = c_j ∫ π(x) e^{-2πi j F(x)} dx is linear in π̂, and π̂_0 = 1.
        """
        x, weights = self._rule_x()
        _, coefficients = self._fourier()
        # (num_points, 2M + 1): e^{−2πi j F(x)} with the weights of the rule.
        moved = self._waves(_logistic(x)).conj() * weights[:, None]
        # ∫ π(x) e^{−2πi j F(x)} dx for π = Σ_l π̂_l e^{2πi l x}.
        matrix = coefficients[:, None] * (moved.T @ self._waves(x))
        zero = self.order
        # π̂_0 = 1 is known and makes the right side: without it the system is singular.
        rest = np.arange(coefficients.size) != zero
        solved = np.linalg.solve(
            np.eye(2 * zero) - matrix[np.ix_(rest, rest)], matrix[rest, zero]
        )
        return np.insert(solved, zero, 1.0)

    def _singular_values(self) -> np.ndarray:
        """Of Σ_j α_j ⊗ β_j, α_j = e^{-2πi j F} in L²(π), β_j = c_j e^{2πi j·}/π there.

        With α = Q_α R_α and β = Q_β R_β, those of the small matrix R_α R_βᵀ.
        """
        (x, weights), (a, step) = self._rule_x(), self._rule_a()
        _, coefficients = self._fourier()
        law = self._invariant()
        pi_x, pi_a = (np.real(self._waves(y) @ law) for y in (x, a))
        # √ of the rule times the density: plain columns then have the inner product of
        # L²(π).
        left = np.sqrt(weights * pi_x)[:, None] * self._waves(_logistic(x)).conj()
        right = np.sqrt(step / pi_a)[:, None] * self._waves(a) * coefficients
        # (2M + 1, 2M + 1). The first value is the trivial one, 1.
        small = np.linalg.qr(left)[1] @ np.linalg.qr(right)[1].T
        return np.linalg.svd(small, compute_uv=False)[1:]

    def _leading(self, k: int) -> Clusters:  # noqa: ARG002 - always all
        values = self._singular_values()
        return collect(values, (1,) * values.size)

    def total_energy(self) -> float:
        """Σ s_i², 2M terms."""
        return float((self._singular_values() ** 2).sum())

    def num_resolved(self) -> int:
        """All that are not 0: 2M."""
        return 2 * self.order

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        return self._rule_x()[0], self._rule_a()[0]

    def _joint(self) -> np.ndarray:
        (x, weights), (a, _) = self._rule_x(), self._rule_a()
        # Hermitian coefficients: the imaginary part is rounding.
        law = np.real(self._waves(x) @ self._invariant())
        noise = np.cos(np.pi * (a[None, :] - _logistic(x)[:, None])) ** (2 * self.order)
        joint = (weights * law)[:, None] * noise
        return joint / joint.sum()

    def _draw(self, key: PRNGKeyArray, x: Array) -> Array:
        """Draw the next state, in [0, 1), of each of `x`, any shape, floating.

        sin(πξ) of the noise ξ is a coordinate of a uniform point on the sphere of
        dimension 2M + 1; the sum wraps round.
        """
        x = as_floating(x, "x")
        # A point on the sphere by 2M + 2 normals: no rejection.
        normal = jax.random.normal(key, (*x.shape, 2 * self.order + 2), x.dtype)
        sine = normal[..., 0] / jnp.sqrt((normal**2).sum(axis=-1))
        return (4.0 * x * (1.0 - x) + jnp.arcsin(sine) / np.pi) % 1.0

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Log density of the next state `a` given `x`; floating, of one shape."""
        a, x = as_floating(a, "a"), as_floating(x, "x")
        # C = 4^M / comb(2M, M).
        scale = np.log(4.0) * self.order - np.log(comb(2 * self.order, self.order))
        moved = jnp.abs(jnp.cos(np.pi * (a - 4.0 * x * (1.0 - x))))
        return scale + 2.0 * self.order * jnp.log(moved)


def _logistic(x: np.ndarray) -> np.ndarray:
    return 4.0 * x * (1.0 - x)


def logistic_map(order: int = 5, *, num_points: int = 150) -> AnalyticContext:
    """The logistic map with trigonometric noise: X stationary, A the next state.

    A = 4X(1 - X) + ξ modulo 1, ξ of density C cos^{2M}(πξ) on [-1/2, 1/2] (Ostruszka,
    Pakoński, Słomczyński & Życzkowski 2000; M is `LogisticMap`'s in kooplearn, whose
    N is 2M). T has rank 2M + 1, the trivial value included: 2M non-trivial singular
    values, from a matrix of that size by quadratures that are exact to rounding. For
    M = 5: 0.8580995769, 0.8021456783, 0.4876845884, 0.4514630494, … The sum wraps round
    and is not clipped. X and A are numbers in [0, 1].

    Args:
        order: M ≥ 1; larger M is less noise.
        num_points: of the quadratures and so of the table: Gauss–Legendre in x,
            equispaced in a. At least 8 (M + 1).

    Raises:
        ValueError: if `num_points` is too small for the order.
    """
    m = check_integer(order, "order", low=1)
    return _LogisticMap(m, check_integer(num_points, "num_points", low=8 * (m + 1)))
