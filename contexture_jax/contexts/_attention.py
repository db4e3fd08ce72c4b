"""The context of an attention map: A is a key, chosen by a query."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import as_floating, check_finite
from contexture_jax._core.features import as_features, new_rows, uniform_law
from contexture_jax._core.types import Array, ArrayLike, Float, pytree_dataclass
from contexture_jax.contexts._ranges import (
    finite_or_nan,
    in_unit,
    largest_norm,
    law_of_rows,
    scaled_number,
)
from contexture_jax.contexts._softmax import (
    SoftmaxContext,
    SoftmaxFactors,
    reversed_law,
)
from contexture_jax.kernels import FLOOR, Form, lay_out

__all__ = ["Attention", "attention"]


@pytree_dataclass
class Attention(SoftmaxContext):
    """P⁺(a|x) ∝ exp(scale ⟨q_x, k_a⟩ + b_a): an attention map (theory.md §4).

    Attributes:
        queries: q, shape (n, d), floating.
        keys: k, shape (m, d).
        scale: shape ().
        bias: b, shape (m,).
        p_x: law of X, shape (n,).
        bias_rest: what rounding left out of `bias`, shape (m,); None: nothing.
        exponent: for a scale that the dtype does not hold, which then is
            scale · 4^exponent; shape (), a whole number; None: 0.
    """

    queries: Float[Array, "n d"]
    keys: Float[Array, "m d"]
    scale: Float[Array, ""]
    bias: Float[Array, " m"]
    p_x: Float[Array, " n"]
    bias_rest: Float[Array, " m"] | None = None
    exponent: Float[Array, ""] | None = None

    def form(self) -> Form:
        """One way for small scores, another for large ones."""
        return self._choose("inner", self.keys.shape[1], self._size)

    def scores(self, form: Form | None = None) -> SoftmaxFactors:
        """Scale · ⟨q, k⟩ + b_a, of queries and keys in units of their largest."""
        form = self.form() if form is None else form
        bias, rest, size = self._bias()
        # Powers of two: entries near 1, so that neither norms nor products leave the
        # range; the exponents go into the scale.
        q, first = in_unit(finite_or_nan(self.queries))
        k, second = in_unit(finite_or_nan(self.keys))
        power = first + second
        if self.exponent is not None:
            power = power + 2 * self.exponent.astype(jnp.int32)
        scale = finite_or_nan(self.scale)
        # In halves: 2^power alone may be out of range where the scaled product is not.
        for part in (power // 2, power - power // 2):
            scale = scale * jnp.ldexp(jnp.ones((), q.dtype), part)
        # Beyond it every law is its largest entry, to all digits.
        most = -FLOOR / (2.0**20 * form.width)
        scale = jnp.clip(scale, -most, most)
        # Sizes for `Form`: what a plain tile cancels is at most |scale| |q| |k|, of
        # which each side brings a half against the largest of the other.
        norms = [jnp.sqrt((y * y).sum(axis=1)) for y in (q, k)]
        half = 0.5 * jnp.abs(scale)
        sizes = half * norms[0] * norms[1].max(), half * norms[1] * norms[0].max()
        # 0 · norm and not 0: a row that is no number then makes its law NaN.
        one, zero, one_k = jnp.ones_like(norms[0]), 0.0 * norms[0], 0.0 * norms[1] + 1
        return SoftmaxFactors(
            # The longer vectors of theory.md §4.4, (n, d + 2) and (m, d + 2); behind
            # them what an exact tile takes.
            lay_out(
                form, [scale * q, zero, one], [q, scale * one, zero, zero, sizes[0]]
            ),
            lay_out(
                form, [k, one_k, bias + rest], [k, one_k, bias, rest, sizes[1] + size]
            ),
            form,
        )

    def _size(self) -> float:
        """|scale| times the largest norms, on the host."""
        # The largest norms bound every inner product, without forming one.
        reach = [largest_norm(np.asarray(y)) for y in (self.queries, self.keys)]
        more = 0 if self.exponent is None else int(self.exponent)
        scale = np.ldexp(np.abs(float(self.scale)), more)
        return scale * reach[0] * np.ldexp(reach[1], more)

    def at(self, x_new: ArrayLike) -> Attention:
        """New queries, shape (k, d)."""
        new = new_rows(x_new, self.keys)
        return dataclasses.replace(self, queries=new, p_x=uniform_law(new))

    def reverse(self) -> Attention:
        """Attention from the keys to the queries, by Bayes' rule."""
        # l'(a, x) = ⟨k_a, q_x⟩ + log p_x − log Z(x): again attention, roles exchanged
        # (theory.md §4.4, reversal).
        p_a, bias, rest = reversed_law(self, form=self.form())
        return Attention(
            self.keys, self.queries, self.scale, bias, p_a, rest, self.exponent
        )


def attention(
    queries: ArrayLike,
    keys: ArrayLike,
    scale: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    p_x: ArrayLike | None = None,
) -> Attention:
    """The context of an attention map: P⁺(a|x) ∝ exp(scale ⟨q_x, k_a⟩ + b_a).

    The read-out of values g is T g (theory.md §4). For a map that is already computed
    use `conditional(weights)`. Rows sum to 1 to rounding, which in float32 is 1e-5 at
    most: where |scale| |q| |k| is just below 128. Gradients are in reverse mode only,
    as those of `rbf`.

    Args:
        queries: shape (n, d), floating.
        keys: shape (m, d), floating.
        scale: shape (); None: 1 / √d.
        bias: log weight of each key, shape (m,); None: 0.
        p_x: law of the queries, shape (n,), non-negative; normalised; None: uniform.

    Raises:
        ValueError: if shapes do not agree or a value is not finite.
    """
    q = as_features(queries, "queries")
    # One dtype, that of the queries.
    k = as_features(keys, "keys").astype(q.dtype)
    if q.shape[1] != k.shape[1]:
        msg = (
            "queries and keys must have the same width;"
            f" got shapes {q.shape} and {k.shape}"
        )
        raise ValueError(msg)
    given = q.shape[1] ** -0.5 if scale is None else scale
    # A scale that float32 cannot hold is kept as a number and a power of four.
    factor, exponent = scaled_number(given, "scale", q.dtype)
    check_finite(factor, "scale")
    offset = (
        jnp.zeros(k.shape[:1], k.dtype)
        if bias is None
        else as_floating(bias, "bias").astype(k.dtype)
    )
    if offset.shape != k.shape[:1]:
        msg = f"bias must have shape {k.shape[:1]}; got {offset.shape}"
        raise ValueError(msg)
    check_finite(offset, "bias")
    return Attention(q, k, factor, offset, law_of_rows(p_x, q), exponent=exponent)
