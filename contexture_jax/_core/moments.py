"""Moments of a batch that may lie on many devices, reduced before anything nonlinear.

Spectral losses are no means over examples: their value depends on moments of the whole
batch. So every moment is summed over the devices first, and the loss is formed of the
sums; averaging the losses of devices would optimise another objective.

Three ways to run one program, with the same value and the same gradient:

* `jit` with sharded inputs: `axis_name=None`, the compiler adds what is needed;
* `shard_map` with `check_vma=True`: the loss is known to be the same on every device,
  and its gradient inside is that of the loss of the concatenated batch. Gradients of
  replicated parameters come out summed;
* `pmap`: JAX differentiates the sum of the losses of all devices there, which is the
  number of devices times the loss. Average the gradients of parameters with
  `jax.lax.pmean`, which changes nothing under `shard_map`: the same step serves both.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import as_floating, check_probabilities, is_concrete
from contexture_jax._core.numerics import (
    PRECISIONS,
    mm,
    normalised,
    safe_divide,
    safe_reciprocal,
)
from contexture_jax._core.types import (
    Array,
    Float,
    Int,
    pytree_dataclass,
    static_field,
)

__all__ = ["Batch", "batch_of"]


@pytree_dataclass
class Batch:
    """The empirical law of a batch, whole or the share of one device.

    Attributes:
        probabilities: of the local rows, shape (b,), with sum 1 over all devices; None:
            every row has the same.
        size: number of local rows b; static.
        axis_name: the mapped axis (or axes) over which the batch is cut, or None.
    """

    probabilities: Float[Array, " b"] | None
    size: int = static_field()
    axis_name: Any = static_field()

    @property
    def global_size(self) -> int:
        """Number of rows on all devices together."""
        return self.size * (
            1 if self.axis_name is None else int(jax.lax.axis_size(self.axis_name))
        )

    def mean(self, x: Float[Array, "b ..."]) -> Float[Array, "..."]:
        """E x, shape of one row."""
        if self.probabilities is None:
            # By the rows of all devices, whose sums are then added.
            return self._reduce(jnp.sum(x, axis=0) / self.global_size)
        # Rows may have any number of axes, for which `mm` has no product.
        exact = PRECISIONS["exact"]
        return self._reduce(
            jnp.tensordot(self.probabilities, x, axes=1, precision=exact)
        )

    def moment(
        self, x: Float[Array, "b k"], y: Float[Array, "b l"]
    ) -> Float[Array, "k l"]:
        """E x yᵀ, at full precision of the dtype."""
        if self.probabilities is None:
            return self._reduce(mm(x.T, y) / self.global_size)
        # (k, l): devices exchange moments and no rows.
        return self._reduce(mm((self.probabilities[:, None] * x).T, y))

    def centre(self, x: Float[Array, "b k"]) -> Float[Array, "b k"]:
        """The rows less their mean over all devices."""
        return x - self.mean(x)[None, :]

    def collision(self) -> Any:
        """Σ p_i² over all devices: 1 / N where rows have the same probability."""
        if self.probabilities is None:
            return 1.0 / self.global_size
        return self._reduce(jnp.sum(self.probabilities**2))

    def bessel(self) -> Any:
        """1 / (1 − Σ p_i²), which makes a covariance about the batch's mean unbiased.

        It is N / (N − 1) for equal probabilities, and 0 where one row has all the mass.

        Raises:
            ValueError: if the batch has fewer than 2 rows on all devices.
        """
        if self.global_size < 2:
            msg = "an unbiased estimate needs a batch of at least 2 rows; got 1"
            raise ValueError(msg)
        if self.probabilities is None:
            return self.global_size / (self.global_size - 1)
        # All mass in one row leaves nothing to vary: 0 and not infinite.
        return safe_reciprocal(1 - self.collision())

    def halves(self) -> tuple["Batch", "Batch"]:
        """The laws of the even and of the odd rows, `x[0::2]` and `x[1::2]`.

        Raises:
            ValueError: if the number of local rows is odd.
        """
        if self.size % 2 or self.size == 0:
            msg = (
                "an unbiased product of moments takes them from two halves of the batch"
                f" and needs an even number of rows on each device; got {self.size}"
            )
            raise ValueError(msg)
        if self.probabilities is None:
            half = Batch(None, self.size // 2, self.axis_name)
            return half, half
        # Either half is a law of its own, over all devices.
        even, odd = (
            Batch(self._normalised(part), self.size // 2, self.axis_name)
            for part in (self.probabilities[0::2], self.probabilities[1::2])
        )
        return even, odd

    def gather(self, x: Array) -> Array:
        """The rows of all devices, in the order of the mapped axis."""
        if self.axis_name is None:
            return x
        # (N, …), and not a block for each device.
        return jax.lax.all_gather(x, self.axis_name, axis=0, tiled=True)

    def row_numbers(self) -> Int[Array, " b"]:
        """Where the local rows stand among those of all devices."""
        local = jnp.arange(self.size, dtype=jnp.int32)
        if self.axis_name is None:
            return local
        # Every device has as many rows.
        first = jax.lax.axis_index(self.axis_name) * self.size
        return local + first.astype(jnp.int32)

    def _reduce(self, x: Array) -> Array:
        return x if self.axis_name is None else jax.lax.psum(x, self.axis_name)

    def _normalised(self, weights: Array) -> Array:
        # The scale of the largest first, or the sum of large weights would overflow.
        largest = jax.lax.stop_gradient(jnp.max(weights))
        if self.axis_name is not None:
            largest = jax.lax.pmax(largest, self.axis_name)
        scaled = safe_divide(weights, largest)
        # Without mass it stays 0, and so is every moment.
        return safe_divide(scaled, self._reduce(jnp.sum(scaled)))


def batch_of(
    x: Float[Array, "b ..."], *, weights: Any = None, axis_name: Any = None
) -> Batch:
    """The law of a batch whose local rows are those of `x`.

    Args:
        x: gives the number of rows and the dtype, shape (b, ...).
        weights: non-negative weights of the local rows, shape (b,), in any scale that
            is common to all devices; None: uniform. Where all are 0 every moment is 0.
        axis_name: as `Batch`.

    Raises:
        ValueError: if `x` has no rows, or the weights have another length, a negative
            entry, or no mass (values are looked at outside a trace only).
    """
    if x.shape[0] == 0:
        msg = f"a batch must have at least 1 row; got shape {x.shape}"
        raise ValueError(msg)
    batch = Batch(None, x.shape[0], axis_name)
    if weights is None:
        return batch
    w = as_floating(weights, "weights").astype(x.dtype)
    check_probabilities(w, "weights", x.shape[0])
    # On the host, where small weights are not flushed to 0.
    if axis_name is None and is_concrete(w):
        return Batch(normalised(w), x.shape[0], axis_name)
    return Batch(batch._normalised(w), x.shape[0], axis_name)
