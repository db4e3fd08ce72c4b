"""Fixed-degree storage: each input has the same number of context values."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from contexture_jax._core.checks import (
    as_floating,
    as_integers,
    as_real,
    check_integer,
    check_ndim,
    check_nonnegative,
    check_values,
    floating_dtype,
)
from contexture_jax._core.numerics import safe_reciprocal
from contexture_jax._core.sparse_rows import transposed_lists
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    Int,
    Static,
    pytree_dataclass,
    static_field,
)
from contexture_jax.kernels import (
    Bucket,
    Implementation,
    Slots,
    make_slots,
    paired_matmat,
    slots_at_a_time,
    slots_cost,
)
from contexture_jax.operators._base import AssociationOperator, Cost, as_law_of

__all__ = ["FixedDegreeOperator", "fixed_degree_operator"]


@pytree_dataclass
class FixedDegreeOperator(AssociationOperator):
    """T of a k-NN law: a sum over K slots; T* by the stored transpose.

    Attributes:
        indices: the context values of each input in order, slot-major, shape (K, n),
            int32.
        weights: P⁺(a|x) of each slot, shape (K, n); None: all 1 / K.
        backward: P⁺(x|a), an (m, n) matrix.
        p_x: shape (n,).
        p_a: shape (m,).
        norm2: ‖T‖²_HS, shape ().
        implementation: of sums over slots, as of `with_implementation`. Static.
    """

    indices: Int[Array, "k n"]
    weights: Float[Array, "k n"] | None
    backward: Slots
    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]
    norm2: Float[Array, ""]
    implementation: Implementation = static_field(default="xla", kw_only=True)
    fingerprint: Any = dataclasses.field(default=None, kw_only=True)

    def _matmat(self, g: Float[Array, "m r"]) -> Float[Array, "n r"]:
        """T g, shape (n, r)."""
        slots, share = self._forward()
        inverse = safe_reciprocal(self.p_x)
        # Without weights the layout is T over `share`, and its transpose likewise.
        total = paired_matmat(slots, self.backward, inverse, self.p_a / share, g)
        # Equal shares come last: slots are added and not multiplied.
        return total if self.weights is not None else total * share

    def _rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "m r"]:
        """T* f, shape (m, r)."""
        slots, share = self._forward()
        inverse = safe_reciprocal(self.p_a)
        return paired_matmat(self.backward, slots, inverse, self.p_x * share, f)

    def _forward(self) -> tuple[Bucket, float]:
        """Slots and the number that their sum is to be multiplied by."""
        share = 1.0 if self.weights is not None else 1.0 / self.indices.shape[0]
        how = Static(self.implementation)
        return Bucket(self.indices, self.weights, how), share

    def squared_norm(self) -> Float[Array, ""]:
        """Σ P(x,a)² / (p_x p_a) over the slots."""
        return self.norm2

    @property
    def is_made_in_place(self) -> bool:
        """Where all slots are added in one step, without a loop."""
        width = self.indices.shape[0]
        return width < 2 * slots_at_a_time(width)

    def cost(self, r: int) -> Cost:
        """K additions of a gathered row for each input; T* has its own layout."""
        check_integer(r, "r", low=0)
        n, m = self.shape
        size = self.dtype.itemsize
        entries = self.indices.size
        weights = 0 if self.weights is None else size * entries
        _, layout, _ = slots_cost(self.backward, r, size)
        return Cost(
            flops=(1 if self.weights is None else 2) * entries * r + n * r,
            # Places are int32.
            argument_bytes=4 * entries + weights + layout + size * (n + m + m * r),
            output_bytes=size * n * r,
            temporary_bytes=0,  # slots add up in the result
        )


def fixed_degree_operator(
    indices: ArrayLike, weights: ArrayLike | None, p_x: ArrayLike, num_points: int
) -> FixedDegreeOperator:
    """T from neighbour lists. Lays the transpose out on the host.

    Args:
        indices: context values of each input, shape (n, K), integer.
        weights: P⁺(a|x) of each, shape (n, K), rows summing to 1; None: all 1 / K.
        p_x: law of X, shape (n,), summing to 1.
        num_points: m.

    Raises:
        TypeError: if `indices` are not integers, or the others no real numbers.
        ValueError: if shapes do not fit, an index is outside 0, …, m − 1, or `p_x` or a
            row of `weights` is no law.
    """
    num_points = check_integer(num_points, "num_points", low=1)
    index = as_integers(indices, "indices")
    check_ndim(index, 2, "indices")
    check_values(
        index,
        "indices",
        lambda v: (v >= 0) & (v < num_points),
        f"between 0 and {num_points - 1}",
    )
    n, num_slots = index.shape
    dtype = floating_dtype(as_real(p_x, "p_x").dtype)
    p_x = np.asarray(as_law_of(p_x, "p_x", n, dtype))
    # float64 on the host: an in-degree is a sum of many, and is divided by.
    law = p_x.astype(np.float64)
    # Numbers of context values fit in 32 bits, and entries are many.
    index = index.astype(np.int32, copy=False)
    # Without slots there is no law: their row sums are refused below.
    shares, sums = None, np.full(n, float(num_slots > 0))
    if weights is not None:
        weights = np.asarray(as_floating(weights, "weights"))
        if weights.shape != index.shape:
            msg = f"weights must have shape {index.shape}; got {weights.shape}"
            raise ValueError(msg)
        check_nonnegative(weights, "weights")
        shares = weights.astype(np.float64)
        sums = shares.sum(axis=1)
    check_values(sums, "the row sums of weights", lambda v: abs(v - 1) < 1e-3, "1")
    # In order, so that the inputs of a slot read one part of the block, in cache then.
    if shares is None:
        index = np.sort(index, axis=1)
    else:
        order = np.argsort(index, axis=1)
        index, shares = (np.take_along_axis(a, order, axis=1) for a in (index, shares))
    values, inputs, backward = transposed_lists(index, shares, num_points)
    share = 1.0 / num_slots if backward is None else backward
    # The joint law of each entry, from here on in the order of the transpose.
    joint = law[inputs] * share
    p_a = np.bincount(values, joint, num_points)
    # P⁺(x|a) of each entry; where p_a is 0 so are its entries.
    joint /= np.where(p_a > 0, p_a, 1.0)[values]
    # A value listed twice by one input must count as one entry of twice the weight.
    # Where it is, its entries are side by side.
    again = (np.diff(values) == 0) & (np.diff(inputs) == 0)
    if not again.any():
        norm2 = (joint * share).sum()
    else:
        entry = np.cumsum(np.append(False, ~again))
        each = np.broadcast_to(share, joint.shape)
        summed, each = (np.bincount(entry, part) for part in (joint, each))
        norm2 = (summed * each).sum()
    arrays = (
        np.ascontiguousarray(index.T),
        None if shares is None else np.ascontiguousarray(shares.T).astype(dtype),
        p_x,
        p_a.astype(dtype),
        np.asarray(norm2, dtype),
    )
    # Not `jnp.asarray`, which compiles a program for each shape.
    index_there, weights_there, *laws = jax.device_put(arrays)
    transpose = make_slots(values, inputs, joint.astype(dtype), num_points)
    return FixedDegreeOperator(index_there, weights_there, transpose, *laws)
