"""The Gaussian-kernel context: A is a point, the likelier the nearer to X."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_values
from contexture_jax._core.features import as_features, new_rows, uniform_law
from contexture_jax._core.types import Array, ArrayLike, Float, pytree_dataclass
from contexture_jax.contexts._ranges import (
    finite_or_nan,
    largest_norm,
    law_of_rows,
    row_norms,
    safe_exponents,
    scaled_number,
)
from contexture_jax.contexts._softmax import (
    SoftmaxContext,
    SoftmaxFactors,
    reversed_law,
)
from contexture_jax.kernels import Form, lay_out

__all__ = ["Rbf", "rbf"]

_LARGE = 1e30  # a factor of squares of distances; beyond it all of them are large


@pytree_dataclass
class Rbf(SoftmaxContext):
    """P⁺(a|x) ∝ exp(−γ|x − a|² + b_a) (theory.md §4).

    Attributes:
        inputs: shape (n, d), floating.
        points: the values of A, shape (m, d).
        gamma: γ > 0, shape (); where it is not, the law is NaN.
        bias: b, shape (m,); 0 but in a reversed context.
        p_x: law of X, shape (n,).
        bias_rest: what rounding left out of `bias`, shape (m,); None: nothing.
        exponent: for a γ that the dtype does not hold, which then is
            gamma · 4^exponent; shape (), a whole number; None: 0.
    """

    inputs: Float[Array, "n d"]
    points: Float[Array, "m d"]
    gamma: Float[Array, ""]
    bias: Float[Array, " m"]
    p_x: Float[Array, " n"]
    bias_rest: Float[Array, " m"] | None = None
    exponent: Float[Array, ""] | None = None

    def form(self) -> Form:
        """One way for near points, another for those that are far apart."""
        return self._choose("distances", self.points.shape[1], self._size)

    def scores(self, form: Form | None = None) -> SoftmaxFactors:
        """−γ|x − a|² + b_a, in a unit of length that takes γ near to 1."""
        form = self.form() if form is None else form
        bias, rest, size = self._bias()
        unit, gamma = self._unit()
        # In a unit where γ is near 1: squares of distances are then exponents, up to a
        # factor.
        x, a = (unit * finite_or_nan(y) for y in (self.inputs, self.points))
        # Cancelled numbers are squares about the mean of the points, far smaller than
        # about 0 (theory.md §4.4).
        center = a.mean(axis=0, keepdims=True)
        # A larger factor goes with distances that are not for a plain tile.
        small = jnp.minimum(gamma, 4.0)
        # γ |x − c|² and γ |a − c|²: what a plain tile cancels.
        norms = [small * ((y - center) ** 2).sum(axis=1) for y in (x, a)]
        one, zero, one_a = jnp.ones_like(norms[0]), 0.0 * norms[0], 0.0 * norms[1] + 1
        return SoftmaxFactors(
            lay_out(
                form,
                # −γ |x − a|² + b_a = ⟨(2 γ x, −γ |x|², 1), (a, 1, b_a − γ |a|²)⟩.
                [2.0 * small * (x - center), -norms[0], one],
                [x, gamma * one, zero, zero, norms[0]],
            ),
            lay_out(
                form,
                [a - center, one_a, bias + rest - norms[1]],
                [a, one_a, bias, rest, norms[1] + size],
            ),
            form,
        )

    def _unit(self) -> tuple[Array, Array]:
        """A power of 2 for coordinates, and γ / unit²; no square leaves the range."""
        dtype = self.inputs.dtype
        gamma = jnp.where(self.gamma > 0, finite_or_nan(self.gamma), jnp.nan)
        more = jnp.zeros((), dtype) if self.exponent is None else self.exponent
        more = more.astype(jnp.int32)
        largest = [jnp.abs(y).max() for y in (self.inputs, self.points)]
        # Exponents, which no square can overflow.
        _, reach = jnp.frexp(jnp.maximum(*largest))
        _, twice = jnp.frexp(gamma)
        # 2^k ≈ √γ, but coordinates at most 2⁵⁰ in it: their squares stay below
        # float32's 2¹²⁷.
        k = jnp.minimum(twice // 2 + more, 50 - reach)
        ends = safe_exponents(dtype)
        k = jnp.clip(k, *ends)
        # By halves, neither of which leaves the range of the dtype.
        half = jnp.ldexp(jnp.ones((), dtype), jnp.clip(more - k, *ends))
        return (
            jnp.ldexp(jnp.ones((), dtype), k),
            jnp.minimum(gamma * half * half, _LARGE),
        )

    def _size(self) -> float:
        """The largest γ|x − c|² + γ|a − c|², on the host."""
        points = np.asarray(self.points)
        # In float64, as a mean of many float32 loses digits, and then in the dtype of
        # the points, in which it is subtracted.
        center = points.mean(axis=0, dtype=np.float64).astype(points.dtype)
        reach = [largest_norm(np.asarray(y) - center) for y in (self.inputs, points)]
        more = 0 if self.exponent is None else int(self.exponent)
        return sum(float(self.gamma) * np.ldexp(r, more) ** 2 for r in reach)

    def at(self, x_new: ArrayLike) -> Rbf:
        """New inputs, shape (k, d).

        Those farther from all points than log weights can tell them apart are moved to
        that distance, on a straight line to the middle: their law is one point's.
        """
        new, law = _taken_in(self, new_rows(x_new, self.points))
        # The normaliser is formed anew for new rows; points, bias and γ stay.
        return dataclasses.replace(self, inputs=new, p_x=law)

    def _within_reach(self, new: Float[Array, "k d"]) -> Float[Array, "k d"]:
        """Inputs at most 2¹⁵ / √γ or 2¹⁰ radii of the points away (float32)."""
        digits = jnp.finfo(new.dtype).nmant
        unit, gamma = self._unit()
        center = (self.points / len(self.points)).sum(axis=0, keepdims=True)
        radius = row_norms(self.points - center).max()
        wide = jnp.ldexp(jnp.ones((), new.dtype), 3 * digits // 4 - 2)
        reach = jnp.maximum(wide / jnp.sqrt(gamma) / unit, wide / 32.0 * radius)
        # Directions are kept, as they decide which point is the nearest.
        away = new - center
        share = jax.lax.stop_gradient(reach / row_norms(away))[:, None]
        return jnp.where(share < 1.0, center + share * away, new)

    def reverse(self) -> Rbf:
        """P(x|a) ∝ P_X(x) exp(−γ|x − a|²) / Z(x): again of this kind."""
        p_a, bias, rest = reversed_law(self, form=self.form())
        return Rbf(self.points, self.inputs, self.gamma, bias, p_a, rest, self.exponent)


@jax.jit
def _taken_in(
    context: Rbf, new: Float[Array, "k d"]
) -> tuple[Float[Array, "k d"], Float[Array, " k"]]:
    """New inputs within reach, and their law: one program, and not one an operation."""
    return context._within_reach(new), uniform_law(new)


def rbf(x: ArrayLike, gamma: ArrayLike = 1.0, p_x: ArrayLike | None = None) -> Rbf:
    """The Gaussian-kernel context: P⁺(a|x) ∝ exp(−γ|x − a|²), a among x.

    One of the contexts of Zhai et al. 2025 (CTX), §5 (theory.md §4). Work is done in
    tiles: `association_operator(context, storage="dense")` stores n × n, nothing else.
    Rows of the law sum to 1 to rounding, which in float32 is 1e-5 at most: where
    γ(|x − c|² + |a − c|²) about the mean c is just below 128, beyond which they are
    formed otherwise, or γ|x − a|² is near 1e9 for all a (theory.md §4.4).
    All that is differentiated of it is in reverse mode: JAX refuses `jax.jvp` and
    `jax.jacfwd` (use `jax.vjp` and `jax.jacrev`).

    Args:
        x: features, shape (n, d), floating or integer.
        gamma: γ > 0 in units of 1 / x².
        p_x: law of X, shape (n,), non-negative; normalised; None: uniform.

    Raises:
        ValueError: if `x` is not a finite matrix or `gamma` not positive.
    """
    points = as_features(x, "x")
    scale, exponent = scaled_number(gamma, "gamma", points.dtype)
    check_values(scale, "gamma", lambda v: (v > 0) & np.isfinite(v), "positive")
    # b_a = 0, shape (n,): the reversed context has one.
    zeros = jnp.zeros(points.shape[:1], points.dtype)
    law = law_of_rows(p_x, points)
    return Rbf(points, points, scale, zeros, law, exponent=exponent)
