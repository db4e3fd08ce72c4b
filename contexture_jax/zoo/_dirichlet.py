"""Binomial and multinomial counts of beta and Dirichlet probabilities."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, xlogy
from jax.scipy.stats import binom

from contexture_jax._core.checks import as_floating, as_real, check_integer
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    PRNGKeyArray,
    pytree_dataclass,
    static_field,
)
from contexture_jax.zoo._base import (
    AnalyticContext,
    Clusters,
    IndexedContext,
    check_table_size,
    host,
)
from contexture_jax.zoo._checks import (
    as_inputs,
    as_integers,
    check_positive,
)
from contexture_jax.zoo._polynomials import PolynomialPair
from contexture_jax.zoo._quadrature import (
    binomial_masses,
    gauss_rule,
    log_factorials,
)

__all__ = ["beta_binomial", "dirichlet_multinomial"]


@pytree_dataclass
class _BetaBinomial(PolynomialPair):
    first: ArrayLike
    second: ArrayLike
    num_trials: int = static_field()

    @property
    def basis(self) -> tuple:
        law = float(host(self.first)), float(host(self.second))
        return ("jacobi", *law, self.num_trials)

    def _values(self, num: int) -> np.ndarray:
        total = float(host(self.first) + host(self.second))
        return _dirichlet_values(self.num_trials, total, num)

    def _recurrences(
        self, num: int
    ) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        first, second = float(host(self.first)), float(host(self.second))
        # X: Jacobi; A: Hahn, from the rates of its birth and death chain.
        jacobi = _jacobi(first, second, num)
        n, j = self.num_trials, np.arange(num)
        # Hahn polynomials: up-rates A_j and down-rates C_j; A_0 by its limit.
        total = first + second
        up = np.full(num, first * n / total)
        k = j[1:]
        up[1:] = (k + total - 1) * (k + first) * (n - k)
        up[1:] /= (2 * k + total - 1) * (2 * k + total)
        down = np.zeros(num + 1)
        k = np.arange(1, num + 1)
        down[1:] = k * (k + total + n - 1) * (k + second - 1)
        down[1:] /= (2 * k + total - 2) * (2 * k + total - 1)
        # a_j = A_j + C_j, b_{j+1} = A_j C_{j+1}.
        return jacobi, (up + down[:-1], up * down[1:])

    def total_energy(self) -> float:
        """Σ_{k≤n} n^{k↓} / (n + a + b)^{k↑}."""
        return float((self._values(self.num_trials) ** 2).sum())

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        n = self.num_trials
        first, second = float(host(self.first)), float(host(self.second))
        # X on Gauss nodes: on polynomials of degree up to 2 n + 1 that is the beta law
        # itself.
        return gauss_rule(*_jacobi(first, second, n + 1))[0], np.arange(n + 1)

    def _joint(self) -> np.ndarray:
        # n + 1 Gauss nodes integrate products of two binomial masses exactly.
        n = self.num_trials
        first, second = float(host(self.first)), float(host(self.second))
        x, weights = gauss_rule(*_jacobi(first, second, n + 1))
        return weights[:, None] * binomial_masses(
            np.full(x.size, n), np.arange(n + 1), x
        )

    def _draw(self, key: PRNGKeyArray, x: Array) -> Array:
        """Draw Binomial(n, x) for each of `x` in [0, 1], floating; integers."""
        x = as_floating(x, "x")[..., None]
        shape = (*x.shape[:-1], self.num_trials)
        return (jax.random.uniform(key, shape, x.dtype) < x).sum(axis=-1)

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Log of the Binomial(n, x) probability of the integers `a`; of one shape."""
        return binom.logpmf(as_integers(a, "a"), self.num_trials, as_floating(x, "x"))


@pytree_dataclass
class _DirichletMultinomial(IndexedContext):
    concentration: ArrayLike  # (m,)
    num_trials: int = static_field()

    @property
    def basis(self) -> tuple:
        law = tuple(host(self.concentration).tolist())
        return ("dirichlet", law, self.num_trials)

    @property
    def _has_vectors(self) -> bool:
        return True

    def modes(self, num: int) -> Clusters:
        concentration = host(self.concentration)
        values = _dirichlet_values(self.num_trials, float(concentration.sum()), num)
        rest = concentration.size - 2
        # Polynomials of degree k in m − 1 variables, less those of degree k − 1.
        counts = tuple(math.comb(j + 1 + rest, rest) for j in range(values.size))
        return Clusters(values, counts)

    def total_energy(self) -> float:
        """Σ_{k≤n} comb(k+m-2, m-2) n^{k↓} / (n + Σα)^{k↑}."""
        values, counts = self.modes(self.num_trials)
        return float(np.array([float(count) for count in counts]) @ values**2)

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        return self._rule()[0], self._counts()

    def _counts(self) -> np.ndarray:
        """All ways to put n trials in m cells, shape (comb(n+m-1, m-1), m)."""
        size, n = host(self.concentration).size, self.num_trials
        counts = np.zeros((1, 0), dtype=int)
        for _ in range(size - 1):
            # Cell by cell, all that is left; the last cell takes the rest.
            left = n - counts.sum(axis=1)
            repeated = np.repeat(counts, left + 1, axis=0)
            last = np.concatenate([np.arange(rest + 1) for rest in left])
            counts = np.hstack([repeated, last[:, None]])
        return np.hstack([counts, n - counts.sum(axis=1, keepdims=True)])

    def _rule(self) -> tuple[np.ndarray, np.ndarray]:
        """A rule on the simplex, by breaking a stick at independent beta variables.

        n + 1 Gauss nodes a break, which integrates products of two masses exactly.
        """
        concentration, num = host(self.concentration), self.num_trials + 1
        size = concentration.size
        # Before a rule of (n + 1)^(m − 1) points is laid out.
        check_table_size(num ** (size - 1), math.comb(num + size - 2, size - 1))
        points, weights, left = np.zeros((1, 0)), np.ones(1), np.ones(1)
        for i in range(size - 1):
            # A Dirichlet vector is a stick that is broken at independent beta places.
            rest = float(concentration[i + 1 :].sum())
            nodes, masses = gauss_rule(*_jacobi(float(concentration[i]), rest, num))
            piece = np.multiply.outer(left, nodes).ravel()
            points = np.hstack([np.repeat(points, num, axis=0), piece[:, None]])
            weights = np.multiply.outer(weights, masses).ravel()
            # What is left of the stick.
            left = np.multiply.outer(left, 1.0 - nodes).ravel()
        return np.hstack([points, left[:, None]]), weights

    def _joint(self) -> np.ndarray:
        x, weights = self._rule()
        counts, logs = self._counts(), log_factorials(self.num_trials)
        coefficients = logs[-1] - logs[counts].sum(axis=1)
        # In logarithms: ∏ x_i^{a_i} for all pairs by one product of matrices.
        return weights[:, None] * np.exp(np.log(x) @ counts.T + coefficients)

    def _draw(self, key: PRNGKeyArray, x: Array) -> Array:
        """Draw counts for each of `x`, probabilities of shape (..., m); integers."""
        x = as_inputs(x, "x", np.shape(self.concentration)[0])
        cells = jax.random.categorical(
            key, jnp.log(x), axis=-1, shape=(self.num_trials, *x.shape[:-1])
        )
        return jax.nn.one_hot(cells, x.shape[-1], dtype=cells.dtype).sum(axis=0)

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Log of the multinomial probability of counts `a`, shape (..., m) like `x`."""
        x = as_inputs(x, "x", np.shape(self.concentration)[0])
        a = as_integers(a, "a").astype(x.dtype)
        # 0 log 0 = 0: an empty cell of probability 0 is no contradiction.
        terms = xlogy(a, x) - gammaln(a + 1.0)
        return math.lgamma(self.num_trials + 1) + terms.sum(axis=-1)


def _dirichlet_values(num_trials: int, total: float, num: int) -> np.ndarray:
    """√(n^{k↓} / (n + total)^{k↑}) for k = 1..min(num, n)."""
    j = np.arange(min(num, num_trials))
    # Ratios and not factorials: each factor is at most 1.
    return np.sqrt(np.cumprod((num_trials - j) / (num_trials + total + j)))


def _jacobi(first: float, second: float, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Recurrence for the law Beta(first, second) on [0, 1]."""
    p, q = second - 1.0, first - 1.0
    total = p + q
    j = np.arange(1.0, num)
    diagonal = np.full(num, (q - p) / (total + 2.0))
    diagonal[1:] = (q**2 - p**2) / ((2 * j + total) * (2 * j + total + 2))
    j = np.arange(1.0, num + 1)
    squares = 4 * j * (j + p) * (j + q) / (2 * j + total) ** 2 / (2 * j + total + 1)
    # At j = 1 the ratio is 1 even where both terms vanish, first + second = 1.
    ratio = np.ones(num)
    ratio[1:] = (j[1:] + total) / (2 * j[1:] + total - 1)
    return 0.5 * (1.0 + diagonal), 0.25 * squares * ratio


def beta_binomial(
    num_trials: int, first: ArrayLike, second: ArrayLike
) -> AnalyticContext:
    """X ~ Beta(a, b), A|X ~ Binomial(n, X).

    Singular values √(n^{k↓} / (n+a+b)^{k↑}) (falling and rising factorials) for
    k = 1..n, and 0, on Jacobi polynomials of X and Hahn polynomials of A (theory.md §5;
    Griffiths & Spanò 2013). The table, with X on n + 1 Gauss–Jacobi nodes, is exact.

    Args:
        num_trials: n ≥ 1.
        first: a > 0.
        second: b > 0.
    """
    return _BetaBinomial(
        check_positive(first, "first"),
        check_positive(second, "second"),
        check_integer(num_trials, "num_trials", low=1),
    )


def dirichlet_multinomial(num_trials: int, concentration: ArrayLike) -> AnalyticContext:
    """X ~ Dirichlet(α) on m cells, A|X ~ Multinomial(n, X).

    Singular values √(n^{k↓} / (n+Σα)^{k↑}) for k = 1..n, comb(k+m-2, m-2) times, on
    polynomials of degree k (theory.md §5; Griffiths & Spanò 2013). X has shape (..., m)
    and sum 1, A counts of sum n. The table, a product Gauss rule, is exact.

    Args:
        num_trials: n ≥ 1.
        concentration: α > 0, shape (m,) with m ≥ 2.
    """
    alpha = np.asarray(as_real(concentration, "concentration"), dtype=np.float64)
    if alpha.ndim != 1 or alpha.size < 2:
        msg = f"concentration must be a vector of at least two; got shape {alpha.shape}"
        raise ValueError(msg)
    for i, value in enumerate(alpha):
        check_positive(value, f"concentration[{i}]")
    return _DirichletMultinomial(alpha, check_integer(num_trials, "num_trials", low=1))
