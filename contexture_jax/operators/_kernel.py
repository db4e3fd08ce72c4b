"""Blocked kernel storage: a softmax law recomputed tile by tile, never stored."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import check_integer
from contexture_jax._core.numerics import Precision, safe_reciprocal
from contexture_jax._core.programs import program_of
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    pytree_dataclass,
    static_field,
)
from contexture_jax.contexts import SoftmaxContext
from contexture_jax.kernels import Form, Implementation, exp_matmul, tile_shape
from contexture_jax.operators._base import AssociationOperator, Cost

__all__ = ["TILE_SIZE", "KernelOperator", "kernel_operator"]

TILE_SIZE = 1024  # of a tile, where no other is asked for


@pytree_dataclass
class KernelOperator(AssociationOperator):
    """T of a softmax law: memory is linear in n, work is n · m · (e + r).

    Both directions recompute tiles of at most `tile_size`² numbers, and alike.

    Attributes:
        queries: a row an x, with −log Z(x) folded in, shape (n, e).
        keys: a row an a, with the bias folded in, shape (m, e).
        p_x: shape (n,).
        p_a: Σ_x p_x P⁺(·|x), shape (m,).
        norm2: ‖T‖²_HS, shape ().
        tile_size: the largest side of a tile. Static.
        form: how log P⁺(a|x) comes from the two. Static.
        precision: the level of products with tiles of weights, of float32; log weights
            are exact. Static.
        implementation: of the products, as of `with_implementation`. Static.
    """

    queries: Float[Array, "n e"]
    keys: Float[Array, "m e"]
    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]
    norm2: Float[Array, ""]
    tile_size: int = static_field()
    form: Form = static_field()
    precision: Precision = static_field(default="exact", kw_only=True)
    implementation: Implementation = static_field(default="xla", kw_only=True)
    fingerprint: Any = dataclasses.field(default=None, kw_only=True)

    def _matmat(self, g: Float[Array, "m r"]) -> Float[Array, "n r"]:
        """T g, shape (n, r)."""
        out = self._product(self.queries, self.keys, g)
        # A softmax has a law in every row; those without mass are masked, as elsewhere.
        return jnp.where(self.p_x[:, None] > 0, out, 0.0)

    def _rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "m r"]:
        """T* f = (1 / p_a) Σ_x p_x P⁺(a|x) f(x), shape (m, r)."""
        # P_X goes onto the functions, so that both directions form the same tiles.
        weighted = self.p_x[:, None] * f
        total = self._product(self.keys, self.queries, weighted)
        return safe_reciprocal(self.p_a)[:, None] * total

    def either_way(self, block: Float[Array, "n r"], is_adjoint: Array) -> Array:
        """T* of a block where a flag holds, else T, by one program; for n = m."""
        sides = (self.queries, self.keys)
        queries, keys = (
            jnp.where(is_adjoint, b, a) for a, b in zip(sides, sides[::-1], strict=True)
        )
        law = jnp.where(is_adjoint, self.p_x, 1)
        out = self._product(queries, keys, law[:, None] * block)
        scale = jnp.where(is_adjoint, safe_reciprocal(self.p_a), 1)
        there = is_adjoint | (self.p_x > 0)
        return jnp.where(there[:, None], scale[:, None] * out, 0.0)

    def at_rows(self, rows: ArrayLike) -> KernelOperator:
        """Tiles of some inputs: l · m · (e + r) operations a product."""
        rows = jnp.asarray(rows)
        return dataclasses.replace(
            self,
            queries=self.queries[rows],
            p_x=self.p_x[rows],
            norm2=jnp.full_like(self.norm2, jnp.nan),
            fingerprint=None,
        )

    def _product(self, queries: Array, keys: Array, values: Array) -> Array:
        return exp_matmul(
            queries,
            keys,
            values,
            form=self.form,
            tile_size=self.tile_size,
            precision=self.precision,
            implementation=self.implementation,
        )

    def squared_norm(self) -> Float[Array, ""]:
        """Σ_x p_x Σ_a P⁺(a|x)² / p_a."""
        return self.norm2

    def cost(self, r: int) -> Cost:
        """Per pair (x, a): a score of width e, an exponential, a product of width r.

        Temporaries are those of the form for XLA.
        """
        check_integer(r, "r", low=0)
        n, m = self.shape
        size = self.dtype.itemsize
        e = self.queries.shape[1]
        rows, columns = tile_shape(n, m, self.tile_size)
        # Tiles at the edges are filled up to whole ones.
        padded_n, padded_m = -(-n // rows) * rows, -(-m // columns) * columns
        return Cost(
            flops=padded_n * padded_m * (self.form.flops() + 1 + 2 * r),
            argument_bytes=size * ((n + m) * e + n + m + m * r),
            output_bytes=size * n * r,
            temporary_bytes=size
            * (
                self.form.tiles() * rows * columns
                + 2 * rows * r
                + rows * e
                + columns * (e + r)
            ),
        )


def kernel_operator(
    context: SoftmaxContext, tile_size: int, form: Form | None = None
) -> KernelOperator:
    """T of a softmax context: three passes for Z, P_A and the norm, nothing stored.

    Args:
        context: the law.
        tile_size: the largest side of a tile.
        form: of its factors, where the context is traced but was not when that was
            chosen; None: what the context says.
    """
    if not isinstance(context, SoftmaxContext):
        msg = (
            "context must be one of scores, as rbf or attention; got"
            f" {type(context).__name__}"
        )
        raise TypeError(msg)
    tile_size = check_integer(tile_size, "tile_size", low=1)
    form = context.form() if form is None else form
    return program_of(_build, context, tile_size=tile_size, form=form)()


@functools.partial(jax.jit, static_argnames=("tile_size", "form"))
def _build(context: SoftmaxContext, tile_size: int, form: Form) -> KernelOperator:
    # log Z(x) goes into the queries: each weight is exp of one product, and that is at
    # most 0 (theory.md §4.4).
    law = context.factors(form=form, tile_size=tile_size)
    p_a = context.context_law(law, tile_size=tile_size)
    # (n,): Σ_a P⁺(a|x)² / p_a, squares by doubled logits (theory.md §6.7).
    squares = exp_matmul(
        law.queries,
        law.keys,
        safe_reciprocal(p_a)[:, None],
        form=form,
        tile_size=tile_size,
        power=2.0,
    )[:, 0]
    p_x = context.p_x
    # 0 · NaN is no 0: a row without mass may hold anything.
    norm2 = jnp.sum(p_x * jnp.where(p_x > 0, squares, 0.0))
    return KernelOperator(law.queries, law.keys, p_x, p_a, norm2, tile_size, form)
