"""Blocked kernel storage: a softmax law recomputed tile by tile, never stored."""

import functools

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import check_integer
from contexture_jax._core.numerics import safe_reciprocal
from contexture_jax._core.softmax import exp_matmul, tile_size
from contexture_jax._core.types import Array, Float, pytree_dataclass, static_field
from contexture_jax.contexts import SoftmaxContext
from contexture_jax.operators._base import AssociationOperator, Cost

__all__ = ["KernelOperator", "kernel_operator"]


@pytree_dataclass
class KernelOperator(AssociationOperator):
    """T of P⁺(a|x) = exp(⟨q_x, k_a⟩): memory is linear in n, work is n · m · (e + r).

    Both directions recompute tiles of at most `block_size`² numbers.

    Attributes:
        queries: q with −log Z(x) folded in, shape (n, e).
        keys: k with the bias folded in, shape (m, e).
        p_x: shape (n,).
        p_a: Σ_x p_x P⁺(·|x), shape (m,).
        norm2: ‖T‖²_HS, shape ().
        block_size: the largest side of a tile. Static.
    """

    queries: Float[Array, "n e"]
    keys: Float[Array, "m e"]
    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]
    norm2: Float[Array, ""]
    block_size: int = static_field()

    def _matmat(self, g: Float[Array, "m r"]) -> Float[Array, "n r"]:
        """T g, shape (n, r)."""
        out = exp_matmul(self.queries, self.keys, g, block_size=self.block_size)
        return jnp.where(self.p_x[:, None] > 0, out, 0.0)

    def _rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "m r"]:
        """T* f = (1 / p_a) Σ_x p_x P⁺(a|x) f(x), shape (m, r)."""
        weighted = self.p_x[:, None] * f
        total = exp_matmul(
            self.keys, self.queries, weighted, block_size=self.block_size
        )
        return safe_reciprocal(self.p_a)[:, None] * total

    def squared_norm(self) -> Float[Array, ""]:
        """Σ_x p_x Σ_a P⁺(a|x)² / p_a."""
        return self.norm2

    def cost(self, r: int) -> Cost:
        """Per pair (x, a): a score of width e, an exponential, a product of width r."""
        check_integer(r, "r", low=0)
        n, m = self.shape
        size = self.dtype.itemsize
        e = self.queries.shape[1]
        rows, columns = tile_size(n, m, self.block_size)
        padded_n, padded_m = -(-n // rows) * rows, -(-m // columns) * columns
        return Cost(
            flops=padded_n * padded_m * (2 * e + 1 + 2 * r),
            argument_bytes=size * ((n + m) * e + n + m + m * r),
            output_bytes=size * n * r,
            temporary_bytes=size
            * (rows * columns + 2 * rows * r + rows * e + columns * (e + r)),
        )


@functools.partial(jax.jit, static_argnames="block_size")
def kernel_operator(context: SoftmaxContext, block_size: int) -> KernelOperator:
    """T of a softmax context: three passes for Z, P_A and the norm, nothing stored."""
    queries, keys = context.factors(block_size=block_size)
    p_x = context.p_x
    p_a = exp_matmul(keys, queries, p_x[:, None], block_size=block_size)[:, 0]
    inverse = safe_reciprocal(p_a)[:, None]
    # P⁺(a|x)² is the exponential of twice the scores.
    squares = exp_matmul(2.0 * queries, keys, inverse, block_size=block_size)[:, 0]
    return KernelOperator(queries, keys, p_x, p_a, jnp.sum(p_x * squares), block_size)
