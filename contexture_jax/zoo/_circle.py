"""Noise added on the circle (theory.md §5, groups)."""

from __future__ import annotations

import math
from collections.abc import Callable

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
from contexture_jax.zoo._base import (
    AnalyticContext,
    Clusters,
    IndexedContext,
    host,
)
from contexture_jax.zoo._checks import as_samples, check_parameter, check_positive

__all__ = ["circle", "circle_heat", "circle_shift"]

_EPS = float(np.finfo(np.float64).eps)
# Points on which a noise density is sampled, and order of the rule for a step.
_NUM_SAMPLES = 4096
_ORDER = 8
# B_1 … B_8 of Bernoulli, B_0 first.
_BERNOULLI = (1.0, -1 / 2, 1 / 6, 0.0, -1 / 30, 0.0, 1 / 42, 0.0, -1 / 30)


class _Noise(IndexedContext):
    """A = X + U modulo 2π, X uniform: s = |E e^{ikU}|, twice for each k ≥ 1.

    Functions are √2 cos(kx), √2 sin(kx), and for A the same shifted by the phase of
    E e^{ikU}. The table has X on `num_points` equispaced angles.
    """

    num_points: int

    def _coefficients(self, num: int) -> np.ndarray:
        """E e^{ikU} for k = 1..num, or fewer if the others are 0; complex."""
        raise NotImplementedError

    def _step_law(self) -> tuple[float, np.ndarray]:
        """Offset δ and masses of the steps δ + 2πj/n that stand for the noise."""
        raise NotImplementedError

    @property
    def basis(self) -> tuple:
        return ("circle", self.num_points)

    def modes(self, num: int) -> Clusters:
        # One for the cosine and one for the sine of each frequency.
        values = np.abs(self._coefficients(num))
        return Clusters(values, (2,) * values.size)

    def num_resolved(self) -> int:
        return self._num_certified()

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        # X on equispaced angles; A on the same ones, moved by the offset of the steps.
        angles = 2 * np.pi * np.arange(self.num_points) / self.num_points
        return angles, angles + self._step_law()[0]

    def _joint(self) -> np.ndarray:
        _, law = self._step_law()
        number = np.arange(law.size)
        # A circulant table: the law of the step from each angle.
        return law[(number[None, :] - number[:, None]) % law.size] / law.size

    def _indexed_functions(self, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x, a = self._points()
        coefficients = self._coefficients(num)
        # Of a coefficient that is rounding the phase is anything.
        some = np.abs(coefficients) > self._rounding
        phases = np.where(some, np.angle(coefficients), 0.0)
        frequencies = np.arange(1, coefficients.size + 1)
        left, right = (
            # √2: variance 1 under the uniform law.
            np.sqrt(2) * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
            for angles in (np.outer(x, frequencies), np.outer(a, frequencies) - phases)
        )
        index = np.repeat(np.arange(coefficients.size), 2)
        return left.reshape(x.size, -1), right.reshape(a.size, -1), index


@pytree_dataclass
class _Shift(_Noise):
    width: ArrayLike
    num_points: int = static_field()

    @property
    def _rounding(self) -> float:
        return 8 * _EPS

    def _coefficients(self, num: int) -> np.ndarray:
        # In turns, as `np.sinc` has π within.
        turns = np.arange(1, num + 1) * host(self.width) / (2 * np.pi)
        return np.sinc(turns).astype(complex)

    def _tail(self, num: int) -> float:
        width = float(host(self.width))
        if 2 * np.pi - width <= 8 * _EPS:
            return 0.0  # the noise is uniform on the whole circle
        # |sin| ≤ 1; the values themselves are not monotone, so this bound is what the
        # search for the largest needs.
        return 2.0 / ((num + 1) * width)

    def total_energy(self) -> float:
        """2π / width - 1."""
        return 2 * np.pi / float(host(self.width)) - 1.0

    def _step_law(self) -> tuple[float, np.ndarray]:
        # Equal masses with the first and last _ORDER changed such that polynomials of
        # degree below _ORDER are averaged exactly (Gregory's rule, for an end that lies
        # θ steps past the last point): Σ_i d_i (i + θ)^r = B_{r+1}(θ) / (r + 1). Masses
        # are positive for |θ| ≤ 1/4, which one of two offsets of the grid gives.
        step, half = 2 * np.pi / self.num_points, float(host(self.width)) / 2
        offset = 0.0
        if abs(half / step - round(half / step)) > 0.25:
            offset = 0.5
        last = round(half / step - offset)
        theta = half / step - offset - last
        num = 2 * last + 1 if offset == 0.0 else 2 * last + 2
        # The corrections of the two ends must not overlap.
        if num < 2 * _ORDER:
            least = math.ceil(2 * np.pi * (_ORDER + 1) / half)
            msg = f"num_points must be at least {least} for this width"
            raise ValueError(f"{msg}; got {self.num_points}")
        powers = np.arange(_ORDER)
        change = np.linalg.solve(
            (powers[None, :] + theta) ** powers[:, None],
            [_bernoulli(r + 1, theta) / (r + 1) for r in range(_ORDER)],
        )
        masses = np.ones(num)
        masses[:_ORDER] += change
        masses[-_ORDER:] += change[::-1]
        law = np.zeros(self.num_points)
        first = last + 1 - num
        # An arc of nearly 2π meets itself: masses add.
        np.add.at(law, (first + np.arange(num)) % law.size, masses)
        return offset * step, law / law.sum()

    def _draw(self, key: PRNGKeyArray, x: Array) -> Array:
        """Shift each angle of `x`, any shape, floating; in [0, 2π)."""
        x = as_floating(x, "x")
        width = jnp.asarray(self.width, dtype=x.dtype)
        moved = x + width * (jax.random.uniform(key, x.shape, x.dtype) - 0.5)
        return moved % (2 * np.pi)

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """-log width where |a - x| ≤ width / 2 on the circle, otherwise -inf."""
        moved = _centred(as_floating(a, "a") - as_floating(x, "x"))
        width = jnp.asarray(self.width, dtype=moved.dtype)
        return jnp.where(jnp.abs(moved) <= width / 2, -jnp.log(width), -jnp.inf)


@pytree_dataclass
class _CircleHeat(_Noise):
    time: ArrayLike
    num_points: int = static_field()

    def _coefficients(self, num: int) -> np.ndarray:
        frequencies = np.arange(1.0, num + 1)
        return np.exp(-(frequencies**2) * host(self.time)).astype(complex)

    def total_energy(self) -> float:
        """Θ(2t) - 1, Θ(t) = Σ_{k∈ℤ} e^{-k²t} = √(π/t) Σ_n e^{-π²n²/t}."""
        time = 2.0 * float(host(self.time))
        terms = np.arange(1.0, 13.0) ** 2
        # Poisson summation: one series in k and one in turns, of which each converges
        # on its side of t = π; 12 terms are more than enough.
        if time > np.pi:
            return 2.0 * float(np.exp(-terms * time).sum())
        dual = 1.0 + 2.0 * float(np.exp(-terms * np.pi**2 / time).sum())
        return float(np.sqrt(np.pi / time)) * dual - 1.0

    def _step_law(self) -> tuple[float, np.ndarray]:
        angles = 2 * np.pi * np.arange(self.num_points) / self.num_points
        turns = 2 * np.pi * np.arange(-4, 5)
        time = float(host(self.time))
        if time > np.pi:
            frequencies = np.arange(1, 9)
            waves = np.cos(np.outer(angles, frequencies)) * np.exp(
                -(frequencies**2) * time
            )
            law = 1.0 + 2.0 * waves.sum(axis=1)
        else:
            # Into [−π, π), so that nine turns hold all the mass.
            moved = (angles + np.pi) % (2 * np.pi) - np.pi
            law = np.exp(-((moved[:, None] + turns) ** 2) / (4 * time)).sum(axis=1)
        return 0.0, law / law.sum()

    def _draw(self, key: PRNGKeyArray, x: Array) -> Array:
        """Add N(0, 2t) noise to each angle of `x`, any shape, floating; in [0, 2π)."""
        x = as_floating(x, "x")
        scale = jnp.sqrt(2.0 * jnp.asarray(self.time, dtype=x.dtype))
        return (x + scale * jax.random.normal(key, x.shape, x.dtype)) % (2 * np.pi)

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Log of the wrapped normal density of variance 2t at a - x, per radian."""
        moved = _centred(as_floating(a, "a") - as_floating(x, "x"))
        time = jnp.asarray(self.time, dtype=moved.dtype)
        # Each sum has converged on its side of t = π, and both are finite throughout.
        turns = _along_last(2 * np.pi * np.arange(-4, 5), moved)
        squares = (moved[..., None] + turns) ** 2
        short = jax.nn.logsumexp(-squares / (4 * time), axis=-1)
        short = short - 0.5 * jnp.log(4 * np.pi * time)
        frequencies = _along_last(np.arange(1.0, 9.0), moved)
        waves = jnp.cos(moved[..., None] * frequencies)
        # At least 1, so that the series that is not taken is finite too, and with it
        # its gradient.
        waves = waves * jnp.exp(-(frequencies**2) * jnp.maximum(time, 1.0))
        long = jnp.log1p(2.0 * waves.sum(axis=-1)) - np.log(2 * np.pi)
        return jnp.where(time < np.pi, short, long)


@pytree_dataclass
class _Waves(_Noise):
    """Noise whose density is 1/2π + Σ_k (c_k cos(ku) + d_k sin(ku)) / π."""

    cosines: ArrayLike  # (K,): E cos(kU)
    sines: ArrayLike  # (K,): E sin(kU)
    num_points: int = static_field()

    def _coefficients(self, num: int) -> np.ndarray:
        return (host(self.cosines) + 1j * host(self.sines))[:num]

    def _tail(self, num: int) -> float:
        values = np.abs(host(self.cosines) + 1j * host(self.sines))
        return float(values[num:].max(initial=0.0))

    def total_energy(self) -> float:
        """2 Σ_{k≥1} |E e^{ikU}|²."""
        return 2.0 * float((host(self.cosines) ** 2 + host(self.sines) ** 2).sum())

    def _step_law(self) -> tuple[float, np.ndarray]:
        angles = 2 * np.pi * np.arange(self.num_points) / self.num_points
        # Kept coefficients leave a density that may be below 0 by rounding.
        law = np.maximum(_waves(angles, host(self.cosines), host(self.sines)), 0.0)
        return 0.0, law / law.sum()

    def _draw(self, key: PRNGKeyArray, x: Array) -> Array:
        """Add noise to each angle of `x`, any shape, floating; in [0, 2π).

        By bisection of the distribution function, to the rounding of the dtype.
        """
        x = as_floating(x, "x")
        level = jax.random.uniform(key, x.shape, x.dtype)
        cosines, sines = (_along_last(part, x) for part in (self.cosines, self.sines))
        frequencies = _along_last(np.arange(1.0, np.shape(self.cosines)[0] + 1), x)

        def distribution(u: Array) -> Array:
            angles = u[..., None] * frequencies
            waves = cosines * jnp.sin(angles) + sines * (1.0 - jnp.cos(angles))
            return (0.5 * u + (waves / frequencies).sum(axis=-1)) / np.pi

        def halve(_: ArrayLike, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bracket
            middle = 0.5 * (low + high)
            below = distribution(middle) < level
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        start = (jnp.zeros_like(x), jnp.full_like(x, 2 * np.pi))
        # The bracket is 2π < 2³ wide: so many halvings reach the spacing of the dtype.
        num_steps = jnp.finfo(x.dtype).nmant + 4
        low, high = jax.lax.fori_loop(0, num_steps, halve, start)
        return (x + 0.5 * (low + high)) % (2 * np.pi)

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Log of the noise density at a - x, per radian; -inf where it is 0."""
        moved = as_floating(a, "a") - as_floating(x, "x")
        cosines, sines = (
            _along_last(part, moved) for part in (self.cosines, self.sines)
        )
        frequencies = _along_last(np.arange(1.0, np.shape(self.cosines)[0] + 1), moved)
        angles = moved[..., None] * frequencies
        waves = (cosines * jnp.cos(angles) + sines * jnp.sin(angles)).sum(axis=-1)
        return jnp.log(jnp.maximum(1.0 + 2.0 * waves, 0.0)) - np.log(2 * np.pi)


def _waves(angles: np.ndarray, cosines: np.ndarray, sines: np.ndarray) -> np.ndarray:
    """2π times the density."""
    angles = np.outer(angles, np.arange(1, cosines.size + 1))
    return 1.0 + 2.0 * (np.cos(angles) @ cosines + np.sin(angles) @ sines)


def _along_last(values: ArrayLike, like: Array) -> Array:
    """A vector as an array of one axis more than `like`, along the last, its dtype."""
    values = jnp.asarray(values, dtype=like.dtype)
    return values.reshape((1,) * like.ndim + (-1,))


def _centred(angle: Array) -> Array:
    """The angle modulo 2π in [-π, π)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _bernoulli(degree: int, theta: float) -> float:
    """The Bernoulli polynomial."""
    return sum(
        math.comb(degree, j) * _BERNOULLI[j] * theta ** (degree - j)
        for j in range(degree + 1)
    )


def circle_shift(width: ArrayLike, *, num_points: int = 300) -> AnalyticContext:
    """A = X + U modulo 2π, X uniform on the circle, U uniform on an arc of `width`.

    Singular values |sin(k w/2) / (k w/2)|, twice for each frequency k ≥ 1: not monotone
    in k, so they are sorted; Σ s_i² = 2π/w - 1 (theory.md §5). X and A are angles.

    The table has the leading `num_resolved()` values: the arc is replaced by equispaced
    steps with end corrections of order 8, an error of about (2πk/n)^8 at frequency k.

    Args:
        width: w in (0, 2π].
        num_points: n, number of equispaced angles of the table; at least 18 · 2π/w.
    """
    width = check_parameter(
        width, "width", lambda v: (v > 0) & (v <= 2 * np.pi), "in (0, 2π]"
    )
    return _Shift(width, check_integer(num_points, "num_points", low=1))


def circle_heat(time: ArrayLike, *, num_points: int = 64) -> AnalyticContext:
    """A = X + N(0, 2t) modulo 2π: the heat semigroup of ∂² on the circle, X uniform.

    Singular values e^{-k²t}, twice for each k ≥ 1; T ⪰ 0; Σ s_i² is a theta function
    (theory.md §5). X and A are angles. The equispaced table aliases frequency k with
    n - k, an error of e^{-(n-k)²t}.

    Args:
        time: t > 0.
        num_points: n, number of equispaced angles of the table.
    """
    return _CircleHeat(
        check_positive(time, "time"), check_integer(num_points, "num_points", low=2)
    )


def circle(
    density: Callable[[np.ndarray], np.ndarray], *, num_points: int = 64
) -> AnalyticContext:
    """A = X + U modulo 2π, X uniform, for any smooth law of the noise U.

    Singular values |E e^{ikU}|, twice for each k ≥ 1, sorted; functions are those of
    Fourier, shifted for A by the phase of E e^{ikU} (theory.md §5). Coefficients come
    from 4096 samples of the density and are kept down to 1e-15.

    Args:
        density: non-negative function of an array of angles in [0, 2π), up to a factor;
            smooth and periodic. Called once, with NumPy float64, and not kept.
        num_points: number of equispaced angles of the table.

    Raises:
        ValueError: if the density is negative or not finite, has no mass, or is too
            rough for its coefficients to have decayed.
    """
    angles = 2 * np.pi * np.arange(_NUM_SAMPLES) / _NUM_SAMPLES
    samples = as_samples(density, angles, "density")
    # E e^{ikU}: NumPy's transform has the sign of e^{-ikU}.
    coefficients = np.conj(np.fft.rfft(samples / samples.sum()))[1:]
    # Below it they are rounding of the transform.
    large = np.flatnonzero(np.abs(coefficients) > 1e-15)
    num = int(large[-1]) + 1 if large.size else 0
    if num > _NUM_SAMPLES // 4:
        msg = (
            "density must be smooth: its Fourier coefficients have not decayed at"
            f" frequency {_NUM_SAMPLES // 4}; got {abs(coefficients[num - 1]):.1e} at"
            f" frequency {num}"
        )
        raise ValueError(msg)
    kept = coefficients[: max(num, 1)]
    n = check_integer(num_points, "num_points", low=2)
    return _Waves(np.real(kept).copy(), np.imag(kept).copy(), n)
