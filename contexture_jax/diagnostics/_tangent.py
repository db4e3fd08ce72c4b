"""The empirical tangent kernel of a model as the dual kernel of a context."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from contexture_jax._core.checks import as_floating, check_finite, check_key
from contexture_jax._core.numerics import mm, safe_divide
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    pytree_dataclass,
    static_field,
)
from contexture_jax.operators import AssociationOperator
from contexture_jax.solvers import svd

__all__ = ["TangentOperator", "tangent_operator"]


@pytree_dataclass
class TangentOperator(AssociationOperator):
    """T whose dual kernel is 1 + n ⟨J̃(x), J̃(x')⟩ / ‖J̃‖²: products by jvp and vjp.

    J(x) is the derivative of f_θ(x) in θ, J̃ less its mean over the rows, and ‖J̃‖ its
    largest singular value, so that s_1 = 1. The m = p c + 1 values of A, p parameters
    and c outputs, are abstract: a rotation of the parameters that makes functions of
    them orthonormal and of mean 0 under a uniform law.

    Attributes:
        params: θ, a tree of floating arrays.
        x: inputs, rows first.
        scale: 1 / ‖J̃‖, shape ().
        energy: ‖J̃‖²_F / ‖J̃‖² = Σ_{i≥1} s_i², shape ().
        p_x: uniform, shape (n,).
        p_a: uniform, shape (p c + 1,).
        apply: f; static.
        num_outputs: c; static.
    """

    params: Any
    x: Array
    scale: Float[Array, ""]
    energy: Float[Array, ""]
    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]
    apply: Callable[..., Any] = static_field()
    num_outputs: int = static_field()
    fingerprint: Any = dataclasses.field(default=None, kw_only=True)

    def _matmat(self, g: Float[Array, "m r"]) -> Float[Array, "n r"]:
        """T g = E g + √n J̃ (H g)_{1…} / (‖J̃‖ √m), H a reflection."""
        mean, rest = g.mean(axis=0), _reflected(g)[1:]
        c = self.num_outputs
        _, unravel = ravel_pytree(self.params)
        _, forward = jax.linearize(self._values, self.params)

        def one(w: Float[Array, " pc"]) -> Float[Array, " n"]:
            # Of each output the directions of its own (c, p), and of that its column.
            each = jax.vmap(lambda v: forward(unravel(v)))(w.reshape(c, -1))
            return jnp.trace(each, axis1=0, axis2=2)

        # (n, r); centring is over the rows.
        out = jax.vmap(one, in_axes=1, out_axes=1)(rest)
        out = out - out.mean(axis=0, keepdims=True)
        return mean[None, :] + out * self._factor()

    def _rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "m r"]:
        """T* f = E f + √m H (0, √n J̃ᵀ f / (n ‖J̃‖)), shape (m, r)."""
        mean = f.mean(axis=0)
        centred = f - mean[None, :]
        _, backward = jax.vjp(self._values, self.params)

        def one(v: Float[Array, " n"]) -> Float[Array, " pc"]:
            cotangents = jnp.eye(self.num_outputs, dtype=v.dtype)[:, None, :]
            each = jax.vmap(lambda e: ravel_pytree(backward(e)[0])[0])(
                v[None, :, None] * cotangents
            )
            return each.reshape(-1)

        back = jax.vmap(one, in_axes=1, out_axes=1)(centred)
        n, m = self.shape
        first = jnp.zeros((1, f.shape[1]), back.dtype)
        out = _reflected(jnp.concatenate([first, back]))
        return mean[None, :] + out * (self._factor() * m / n)

    def squared_norm(self) -> Float[Array, ""]:
        """1 + ‖J̃‖²_F / ‖J̃‖²."""
        return 1 + self.energy

    def _factor(self) -> Float[Array, ""]:
        n, m = self.shape
        return self.scale * float(np.sqrt(n / m))

    def _values(self, params: Any) -> Float[Array, "n c"]:
        return _outputs(self.apply, params, self.x)


def tangent_operator(
    apply: Callable[..., Any], params: Any, x: ArrayLike, *, key: Array
) -> TangentOperator:
    """The context of the empirical neural tangent kernel of a model at its parameters.

    k(x, x') = Σ_c ⟨∂_θ f_c(x), ∂_θ f_c(x')⟩, centred over the rows and divided by its
    largest eigenvalue over n: 1 + that is a dual kernel, as of `contexts.teacher` with
    threshold 0 (theory.md §4.9, §0 E14). Its top functions are those that gradient
    descent in the linearised model learns first (Jacot et al. 2018, arXiv 1806.07572).
    Neither the n × n kernel nor the Jacobian is formed: a product with r functions
    takes r c derivatives of the model at all rows. Take the result as any operator:
    `cx.svd`, `evaluation.context_fit`, `evaluation.compatibility`.

    Args:
        apply: f(params, x) of shape (n,) or (n, c), row by row, as of
            `models.functional(module)`; a Linen module's `apply` likewise.
        params: θ, a tree of floating arrays of one dtype.
        x: inputs, rows first, at least 2.
        key: random key of the solver that finds the largest singular value.

    Raises:
        TypeError: if parameters or outputs are not floating.
        ValueError: if shapes do not fit, a number is not finite, or all rows have one
            derivative.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> x = jax.random.normal(jax.random.key(0), (30, 3))
        >>> op = cx.diagnostics.tangent_operator(
        ...     lambda w, x: x @ w, jax.numpy.zeros(3), x, key=jax.random.key(1)
        ... )
        >>> found, _ = cx.svd(op, 3, key=jax.random.key(2))
        >>> exact = jax.numpy.linalg.svd(x - x.mean(0))[1]
        >>> bool(abs(found.singular_values - exact / exact[0]).max() < 1e-5)
        True
    """
    check_key(key)
    x = jnp.asarray(x)
    leaves = [as_floating(leaf, "params") for leaf in jax.tree.leaves(params)]
    if not leaves or x.ndim == 0 or x.shape[0] < 2:
        msg = f"there must be parameters and at least 2 rows; got {len(leaves)} arrays"
        raise ValueError(f"{msg} and x of shape {x.shape}")
    for leaf in leaves:
        check_finite(leaf, "params")
    values = _outputs(apply, params, x)
    check_finite(values, "apply(params, x)")
    n, c = values.shape
    dtype = values.dtype
    num_parameters = sum(leaf.size for leaf in leaves)
    m = num_parameters * c + 1
    energy = _energy(apply, params, x)
    if not float(energy) > 0:
        msg = "all rows of x have one derivative in params: the kernel is constant"
        raise ValueError(msg)
    # First at ‖J̃‖_F = 1, where no singular value is above 1; then at the largest.
    op = TangentOperator(
        params,
        x,
        (1 / jnp.sqrt(energy)).astype(dtype),
        jnp.ones((), dtype),
        jnp.full(n, 1 / n, dtype),
        jnp.full(m, 1 / m, dtype),
        apply,
        c,
    )
    largest = svd(op, 1, key=key)[0].singular_values[0]
    # A hair more, or rounding would make the first value larger than 1.
    largest = largest * (1 + 10 * float(jnp.finfo(dtype).eps))
    return dataclasses.replace(op, scale=op.scale / largest, energy=1 / largest**2)


def _outputs(apply: Callable[..., Any], params: Any, x: Array) -> Float[Array, "n c"]:
    values = as_floating(apply(params, x), "apply(params, x)")
    n = x.shape[0]
    if values.ndim not in (1, 2) or values.shape[0] != n:
        msg = f"apply(params, x) must have shape ({n},) or ({n}, c); got"
        raise ValueError(f"{msg} {values.shape}")
    return values[:, None] if values.ndim == 1 else values


def _energy(apply: Callable[..., Any], params: Any, x: Array) -> Float[Array, ""]:
    """‖J̃‖²_F, row by row: squares of derivatives less n times that of the mean."""

    def row(one: Array) -> Float[Array, "c p"]:
        # A batch of one, whose derivative is (c, p).
        jacobian = jax.jacrev(lambda p: _outputs(apply, p, one[None])[0])(params)
        leaves = jax.tree.leaves(jacobian)
        return jnp.concatenate([y.reshape(y.shape[0], -1) for y in leaves], axis=1)

    first = row(x[0])

    def step(sums: tuple[Array, Array], one: Array) -> tuple[Any, None]:
        # Less the first row: far from the mean squares would cancel.
        apart = row(one) - first
        return (sums[0] + apart, sums[1] + jnp.sum(apart**2)), None

    start = jnp.zeros_like(first), jnp.zeros((), first.dtype)
    (total, squares), _ = jax.lax.scan(step, start, x)
    return squares - jnp.sum(total**2) / x.shape[0]


def _reflected(block: Float[Array, "m r"]) -> Float[Array, "m r"]:
    """H block, with H = Hᵀ = H⁻¹ and H e_0 = 1 / √m: Householder's reflection."""
    m = block.shape[0]
    root = float(np.sqrt(1 / m))
    v = jnp.full(m, -root, block.dtype).at[0].add(1)
    # ‖v‖² = 2 (1 − 1 / √m).
    shares = safe_divide(mm(v[None, :], block)[0], jnp.asarray(1 - root, block.dtype))
    return block - v[:, None] * shares[None, :]
