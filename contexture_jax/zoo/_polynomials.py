"""Pairs of laws whose singular functions are classical orthogonal polynomials."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import binom, norm, poisson

from contexture_jax._core.checks import as_floating, as_real, check_integer
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    PRNGKeyArray,
    pytree_dataclass,
    static_field,
)
from contexture_jax.zoo._base import AnalyticContext, Clusters, IndexedContext, host
from contexture_jax.zoo._checks import (
    as_integers,
    check_fraction,
    check_parameter,
    check_positive,
)
from contexture_jax.zoo._combinations import tensor_product
from contexture_jax.zoo._quadrature import (
    binomial_masses,
    gauss_rule,
    log_factorials,
    orthonormal_polynomials,
)

__all__ = [
    "PolynomialPair",
    "gamma_poisson",
    "gaussian",
    "krawtchouk",
    "multivariate_gaussian",
    "poisson_thinning",
]

# Half-width of the table of standard normals: exp(-12²/2) is 5e-32.
_NORMAL_RANGE = 12.0
_FEW_POINTS = 64
# Atoms of smaller probability than e^-80 = 2e-35, still a float32, are left out.
_LOG_NEGLIGIBLE = -80.0


class PolynomialPair(IndexedContext):
    """E[A^k|X] and E[X^k|A] have degree k: T p_k = s_k q_k, one value a degree.

    Lancaster's pairs of laws. Left and right functions are the orthonormal polynomials
    of P_X and P_A, given by their recurrence coefficients.
    """

    def _values(self, num: int) -> np.ndarray:
        """s_1..s_num, with the sign that T has on leading coefficients."""
        raise NotImplementedError

    def _recurrences(
        self, num: int
    ) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """(a_0.., b_1..) for X and for A, `num` of each."""
        raise NotImplementedError

    def modes(self, num: int) -> Clusters:
        values = np.abs(self._values(num))
        return Clusters(values, (1,) * values.size)

    def _indexed_functions(self, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x, a = self._points()
        signs = self._values(num)
        # There are no more polynomials than points.
        signs = np.where(signs < 0, -1.0, 1.0)[: min(x.size, a.size) - 1]
        of_x, of_a = self._recurrences(signs.size + 1)
        left = orthonormal_polynomials(x, *of_x)[:, 1:]
        right = orthonormal_polynomials(a, *of_a)[:, 1:] * signs
        # Values are |s_k|: the sign of T goes into ν.
        return left, right, np.arange(signs.size)


@pytree_dataclass
class _Gaussian(PolynomialPair):
    correlation: ArrayLike
    num_points: int = static_field()

    @property
    def basis(self) -> tuple:
        return ("hermite", self.num_points)

    def _values(self, num: int) -> np.ndarray:
        return host(self.correlation) ** np.arange(1, num + 1)

    def _recurrences(
        self, num: int
    ) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        hermite = np.zeros(num), np.arange(1.0, num + 1)
        return hermite, hermite

    def total_energy(self) -> float:
        """ρ² / (1 - ρ²)."""
        square = float(host(self.correlation)) ** 2
        return square / (1.0 - square)

    def num_resolved(self) -> int:
        return self._num_certified()

    def _rule(self) -> tuple[np.ndarray, np.ndarray]:
        """Points and log weights relative to the normal density."""
        # Gauss-Hermite is the better with few points, but its outer nodes are too far
        # apart for ρ near 1; there the trapezoidal rule, whose error for Gaussians on
        # the line is exponentially small as well, needs fewer.
        if self.num_points < _FEW_POINTS:
            hermite, _ = self._recurrences(self.num_points)
            points, weights = gauss_rule(*hermite)
            # In logarithms: the weights of far nodes underflow.
            return points, np.log(weights) + 0.5 * points**2
        points = np.linspace(-_NORMAL_RANGE, _NORMAL_RANGE, self.num_points)
        return points, np.zeros(points.size)

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        points, _ = self._rule()
        return points, points

    def _joint(self) -> np.ndarray:
        points, logs = self._rule()
        x, a, rho = points[:, None], points[None, :], host(self.correlation)
        # The joint density over the product of weights, up to a factor.
        exponent = (x**2 - 2.0 * rho * x * a + a**2) / (1.0 - rho**2)
        joint = np.exp(logs[:, None] + logs[None, :] - 0.5 * exponent)
        return joint / joint.sum()

    def _draw(self, key: PRNGKeyArray, x: Array) -> Array:
        """Draw N(ρ x, 1 - ρ²) for each of `x`, any shape, floating."""
        x = as_floating(x, "x")
        rho = jnp.asarray(self.correlation, dtype=x.dtype)
        noise = jax.random.normal(key, x.shape, x.dtype)
        return rho * x + jnp.sqrt((1.0 - rho) * (1.0 + rho)) * noise

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Log density of N(ρ x, 1 - ρ²) at `a`; floating, of one shape."""
        a, x = as_floating(a, "a"), as_floating(x, "x")
        rho = jnp.asarray(self.correlation, dtype=x.dtype)
        return norm.logpdf(a, rho * x, jnp.sqrt((1.0 - rho) * (1.0 + rho)))

    def kernel(self, x: ArrayLike, x2: ArrayLike) -> Array:
        """Mehler's kernel with t = ρ², all pairs; `x` (n,), `x2` (n2,), floating.

        (1 - t²)^{-1/2} exp(-(t² (x² + x2²) - 2 t x x2) / (2 (1 - t²))).
        """
        x, x2 = as_floating(x, "x")[:, None], as_floating(x2, "x2")[None, :]
        t = jnp.asarray(self.correlation, dtype=x.dtype) ** 2
        rest = 1.0 - t**2
        exponent = (t**2 * (x**2 + x2**2) - 2.0 * t * x * x2) / (2.0 * rest)
        return jnp.exp(-exponent) / jnp.sqrt(rest)


@pytree_dataclass
class _Thinning(PolynomialPair):
    mean: ArrayLike
    keep: ArrayLike

    @property
    def basis(self) -> tuple:
        return ("charlier", float(host(self.mean)))

    def _values(self, num: int) -> np.ndarray:
        return host(self.keep) ** (0.5 * np.arange(1, num + 1))

    def _recurrences(
        self, num: int
    ) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        j = np.arange(num)
        x, a = (
            (j + mean, (j + 1) * mean)
            for mean in (host(self.mean), host(self.mean) * host(self.keep))
        )
        return x, a

    def total_energy(self) -> float:
        """Σ p^k = p / (1 - p)."""
        keep = float(host(self.keep))
        return keep / (1.0 - keep)

    def num_resolved(self) -> int:
        return self._num_certified()

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        mean = float(host(self.mean))
        return _poisson_atoms(mean)[0], _poisson_atoms(mean * float(host(self.keep)))[0]

    def _joint(self) -> np.ndarray:
        keep = float(host(self.keep))
        x, log_law = _poisson_atoms(float(host(self.mean)))
        a = self._points()[1]
        joint = np.exp(log_law)[:, None] * binomial_masses(x, a, np.full(x.size, keep))
        return joint / joint.sum()

    def _draw(self, key: PRNGKeyArray, x: Array) -> Array:
        """Keep each of `x` points with probability p; integers of any shape."""
        x = as_integers(x, "x")
        keep = jnp.asarray(self.keep, dtype=jnp.zeros(()).dtype)
        return jax.random.binomial(key, x.astype(keep.dtype), keep).astype(x.dtype)

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Log of the binomial probability of `a` of `x` points; of one shape."""
        a, x = as_integers(a, "a"), as_integers(x, "x")
        keep = jnp.asarray(self.keep, dtype=jnp.zeros(()).dtype)
        return binom.logpmf(a, x, jnp.broadcast_to(keep, x.shape))


@pytree_dataclass
class _GammaPoisson(PolynomialPair):
    shape: ArrayLike
    rate: ArrayLike
    num_points: int = static_field()

    @property
    def basis(self) -> tuple:
        law = float(host(self.shape)), float(host(self.rate))
        return ("laguerre", *law, self.num_points)

    def _values(self, num: int) -> np.ndarray:
        return (1.0 + host(self.rate)) ** (-0.5 * np.arange(1, num + 1))

    def _recurrences(
        self, num: int
    ) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        shape, rate, j = host(self.shape), host(self.rate), np.arange(num)
        diagonal, squares = 2 * j + shape, (j + 1) * (j + shape)
        c = 1.0 / (1.0 + rate)
        meixner = (j * (1 + c) + shape * c) / (1 - c), squares * c / (1 - c) ** 2
        return (diagonal / rate, squares / rate**2), meixner

    def total_energy(self) -> float:
        """1 / β."""
        return 1.0 / float(host(self.rate))

    def num_resolved(self) -> int:
        return self._num_certified()

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        (nodes, _), (atoms, _) = self._rules()
        return nodes, atoms

    def _rules(
        self,
    ) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Gauss rule of X; atoms of A, negative binomial, and their log masses."""
        rule = gauss_rule(*self._recurrences(self.num_points)[0])
        shape, rate = float(host(self.shape)), float(host(self.rate))
        num = 64
        while True:
            a = np.arange(1.0, num)
            steps = np.log((a - 1 + shape) / a) - np.log1p(rate)
            start = shape * np.log(rate / (1.0 + rate))
            logs = start + np.concatenate([[0.0], np.cumsum(steps)])
            # Beyond the mode, and negligible: nothing is missed.
            if logs[-1] < _LOG_NEGLIGIBLE and steps[-1] < 0:
                some = logs > _LOG_NEGLIGIBLE
                return rule, (np.flatnonzero(some), logs[some])
            num *= 2

    def _joint(self) -> np.ndarray:
        (x, weights), (a, _) = self._rules()
        logs = a * np.log(x)[:, None] - x[:, None] - log_factorials(int(a[-1]))[a]
        joint = weights[:, None] * np.exp(logs)
        return joint / joint.sum()

    def _draw(self, key: PRNGKeyArray, x: Array) -> Array:
        """Draw Poisson(x) for each of `x`, any shape, floating; integers."""
        return jax.random.poisson(key, as_floating(x, "x"))

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Log of the Poisson(x) probability of the integers `a`; of one shape."""
        return poisson.logpmf(as_integers(a, "a"), as_floating(x, "x"))


@pytree_dataclass
class _Krawtchouk(PolynomialPair):
    flip: ArrayLike
    num_bits: int = static_field()

    @property
    def basis(self) -> tuple:
        return ("krawtchouk", self.num_bits)

    def _values(self, num: int) -> np.ndarray:
        degrees = np.arange(1, min(num, self.num_bits) + 1)
        return (1.0 - 2.0 * host(self.flip)) ** degrees

    def _recurrences(
        self, num: int
    ) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        n, j = self.num_bits, np.arange(num)
        symmetric = np.full(num, n / 2), (j + 1) * (n - j) / 4
        return symmetric, symmetric

    def total_energy(self) -> float:
        """Σ_{k≤N} (1 - 2p)^{2k}."""
        return float((self._values(self.num_bits) ** 2).sum())

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        numbers = np.arange(self.num_bits + 1)
        return numbers, numbers

    def _joint(self) -> np.ndarray:
        n, flip = self.num_bits, float(host(self.flip))
        numbers = np.arange(n + 1)
        ones = binomial_masses(numbers, numbers, np.full(n + 1, 1.0 - flip))
        zeros = binomial_masses(n - numbers, numbers, np.full(n + 1, flip))
        law = binomial_masses(np.array([n]), numbers, np.array([0.5]))[0]
        # Ones that stay and zeros that flip, two independent counts, add up.
        rows = [np.convolve(u, v)[: n + 1] for u, v in zip(ones, zeros, strict=True)]
        return law[:, None] * np.stack(rows)

    def _draw(self, key: PRNGKeyArray, x: Array) -> Array:
        """Flip the bits of strings with `x` ones, and count; integers of any shape."""
        x = as_integers(x, "x")[..., None]
        shape = (*x.shape[:-1], self.num_bits)
        number = jax.lax.broadcasted_iota(x.dtype, shape, x.ndim - 1)
        is_flipped = jax.random.bernoulli(key, jnp.asarray(self.flip), shape)
        return ((number < x) != is_flipped).sum(axis=-1, dtype=x.dtype)

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Log P(a|x) for numbers of ones, of one shape."""
        a, x = as_integers(a, "a")[..., None], as_integers(x, "x")[..., None]
        flip = jnp.asarray(self.flip, dtype=jnp.zeros(()).dtype)
        lost = jnp.arange(self.num_bits + 1, dtype=x.dtype)
        lost = jnp.broadcast_to(
            lost.reshape((1,) * (x.ndim - 1) + (-1,)), (*x.shape[:-1], lost.size)
        )
        terms = binom.logpmf(lost, x, flip) + binom.logpmf(
            a - x + lost, self.num_bits - x, flip
        )
        return jax.nn.logsumexp(terms, axis=-1)


def _poisson_atoms(mean: float) -> tuple[np.ndarray, np.ndarray]:
    """Atoms of Poisson(mean) that are not negligible, and their log masses."""
    if mean == 0.0:
        return np.arange(1), np.zeros(1)
    atoms = np.arange(int(mean + 20 * np.sqrt(mean)) + 60)
    logs = atoms * np.log(mean) - mean - log_factorials(int(atoms[-1]))
    some = logs > _LOG_NEGLIGIBLE
    return atoms[some], logs[some]


def gaussian(correlation: ArrayLike, *, num_points: int = 200) -> AnalyticContext:
    """Standard normals (X, A) of correlation ρ: singular values |ρ|^k, k ≥ 1.

    Functions are the orthonormal Hermite polynomials of X and, with the sign of ρ^k, of
    A (Mehler 1866); Σ s_i² = ρ²/(1-ρ²); the dual kernel is unbounded on the diagonal
    (theory.md §5). An Ornstein–Uhlenbeck step of time t has ρ = e^{-t}, additive noise
    A = X + σξ, rescaled, ρ = (1+σ²)^{-1/2}.

    The table is a trapezoidal rule on [-12, 12], for fewer than 64 points a
    Gauss–Hermite rule. With 200 points its leading 12 values are exact to 1e-10 for
    |ρ| ≤ 0.98, with 17 points the leading 4 for |ρ| ≤ 0.5 (`num_resolved()`).

    Args:
        correlation: ρ in (-1, 1).
        num_points: number of points of the table in x and in a.
    """
    rho = check_parameter(
        correlation, "correlation", lambda v: np.abs(v) < 1, "in (-1, 1)"
    )
    return _Gaussian(rho, check_integer(num_points, "num_points", low=2))


def multivariate_gaussian(
    correlations: ArrayLike, *, num_points: int = 200
) -> AnalyticContext:
    """Normal vectors (X, A) in canonical coordinates, of given canonical correlations.

    Singular values ∏_j |ρ_j|^{α_j} over multi-indices α ≠ 0: for equal ρ, ρ^k occurs
    comb(k+D-1, k) times; functions are tensor Hermite polynomials (theory.md §5). For
    other coordinates, ρ_j are the singular values of Σ_X^{-1/2} Σ_XA Σ_A^{-1/2}.

    Args:
        correlations: ρ, shape (D,), each in (-1, 1).
        num_points: of the table, in each coordinate.
    """
    rho = np.asarray(as_real(correlations, "correlations"), dtype=np.float64)
    if rho.ndim != 1 or rho.size == 0:
        msg = f"correlations must be a vector of at least one; got shape {rho.shape}"
        raise ValueError(msg)
    return tensor_product([gaussian(value, num_points=num_points) for value in rho])


def poisson_thinning(mean: ArrayLike, keep: ArrayLike) -> AnalyticContext:
    """X ~ Poisson(mean), each point of which is kept in A with probability `keep`.

    Singular values keep^{k/2}, k ≥ 1, on Charlier polynomials of X and of A, which is
    Poisson(mean · keep) (theory.md §5; Eagleson 1964). Σ s_i² = keep / (1 - keep). The
    table leaves out atoms of probability below 2e-35.

    Args:
        mean: μ > 0.
        keep: p in [0, 1).
    """
    return _Thinning(
        check_positive(mean, "mean"), check_fraction(keep, "keep", below_one=True)
    )


def gamma_poisson(
    shape: ArrayLike, rate: ArrayLike, *, num_points: int = 80
) -> AnalyticContext:
    """X ~ Gamma(shape α, rate β), A|X ~ Poisson(X).

    Singular values (1 + β)^{-k/2}, k ≥ 1, whatever α, on Laguerre polynomials of X and
    Meixner polynomials of A, which is negative binomial; Σ s_i² = 1/β (theory.md §5).

    The table has X on Gauss–Laguerre nodes and leaves out a of probability below 2e-35;
    the larger β, the fewer nodes it needs (`num_resolved()`).

    Args:
        shape: α > 0.
        rate: β > 0.
        num_points: number of nodes.
    """
    return _GammaPoisson(
        check_positive(shape, "shape"),
        check_positive(rate, "rate"),
        check_integer(num_points, "num_points", low=2),
    )


def krawtchouk(num_bits: int, flip: ArrayLike) -> AnalyticContext:
    """Numbers of ones before and after a binary symmetric channel on N uniform bits.

    Singular values |1 - 2 flip|^k for k = 1..N, each once, on Krawtchouk polynomials of
    X and of A, both Bin(N, 1/2) (theory.md §5): what is left of `binary_symmetric` for
    symmetric functions.

    Args:
        num_bits: N ≥ 1.
        flip: probability in [0, 1].
    """
    n = check_integer(num_bits, "num_bits", low=1)
    return _Krawtchouk(check_fraction(flip, "flip"), n)
