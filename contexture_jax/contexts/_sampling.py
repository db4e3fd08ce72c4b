"""What contexts that are laws of A for any x share: a key a row, densities by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import (
    as_array,
    as_device_array,
    as_floating,
    check_key,
    check_values,
    floating_dtype,
    is_concrete,
)
from contexture_jax._core.types import Array, ArrayLike, Float, summary
from contexture_jax.contexts._base import Context

__all__ = [
    "SamplingContext",
    "VariantContext",
    "as_batch",
    "check_rate",
    "one_each",
    "rate_like",
    "row_keys",
    "same_values",
]


def row_keys(key: Array, num_rows: int, row_offset: ArrayLike = 0) -> Array:
    """One key a row: `key` with the number of the row folded in, shape (num_rows,).

    Row i of a batch that starts at row `row_offset` of a larger one gets the key that
    it has there, so that devices which hold parts of a batch draw what one device that
    holds all of it draws.
    """
    check_key(key)
    # Modulo 2³², as `fold_in` takes them: offsets may be traced.
    numbers = jnp.asarray(row_offset, jnp.uint32) + jnp.arange(num_rows, dtype="uint32")
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)


def as_batch(x: Any, name: str) -> Array:
    """Convert to a JAX array with a leading axis."""
    x = as_device_array(x, name)
    if x.ndim == 0:
        msg = f"{name} must have a leading axis, one entry a row; got a scalar"
        raise ValueError(msg)
    return x


def check_rate(rate: ArrayLike, name: str = "rate") -> float | Array:
    """Return a probability in [0, 1], or a vector of them; a float if it is one."""
    # A traced rate, as of a schedule, cannot be looked at.
    if is_concrete(rate):
        values = as_array(rate, name)
        if values.dtype.kind not in "iuf" or values.ndim > 1:
            msg = f"{name} must be a number or a vector of numbers; got {summary(rate)}"
            raise TypeError(msg)
        check_values(values, name, lambda v: (v >= 0) & (v <= 1), "in [0, 1]")
        if values.ndim == 0:
            return float(values)
    return as_floating(rate, name)


def rate_like(rate: ArrayLike, x: Array) -> Array:
    """A probability for each entry of `x`, in the floating dtype for work on it."""
    return jnp.broadcast_to(jnp.asarray(rate, floating_dtype(x.dtype)), x.shape)


def one_each(logs: Any, num_rows: int) -> Array:
    """Log densities of a batch; raise unless they are one number a row."""
    logs = jnp.asarray(logs)
    # A density for each entry, (b, d), would broadcast, and be wrong much later.
    if logs.shape != (num_rows,):
        msg = (
            "log_density must give one number for each row of its two batches, shape"
            f" ({num_rows},); got shape {tuple(logs.shape)}"
        )
        raise ValueError(msg)
    if not jnp.issubdtype(logs.dtype, jnp.floating):
        msg = f"log_density must give floating numbers; got dtype {logs.dtype}"
        raise TypeError(msg)
    return logs


def same_values(a: Array, b: Array) -> Array:
    """Where `a` and `b` are equal, NaN being equal to NaN."""
    if not jnp.issubdtype(a.dtype, jnp.floating):
        return a == b
    return (a == b) | (jnp.isnan(a) & jnp.isnan(b))


class SamplingContext(Context):
    """P⁺(a|x) as a law to draw from at any x, whatever the law of X.

    Subclasses are frozen dataclass pytrees that give `_draw`, and `_log_density` where
    it is tractable, for one row; a batch has them for each of its rows. One that
    overrides `sample` or `log_density` instead is called as it is.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> class Sign(cx.contexts.SamplingContext):
        ...     def _draw(self, key, x):
        ...         return x * jax.random.rademacher(key, (), x.dtype)
        >>> Sign().capabilities
        ('sample',)
        >>> Sign().sample(jax.random.key(0), jax.numpy.ones((4, 2))).shape
        (4, 2)
    """

    _needs: ClassVar[Mapping[str, tuple[str, ...] | None]] = {
        "_draw": None,
        "_log_density": None,
        "sample": ("_draw",),
        "log_density": ("_log_density",),
    }

    def _inputs(self, x: Any, name: str) -> Array:
        """A batch as an array, checked."""
        return as_batch(x, name)

    def _draw(self, key: Array, x: Array) -> Array:  # noqa: ARG002 - to give
        """One a ~ P⁺(·|x) for one x."""
        raise self._lacks("sample", "_draw")

    def _log_density(self, a: Array, x: Array) -> Array:  # noqa: ARG002 - to give
        """Log P⁺(a|x) for one pair."""
        raise self._lacks("log_density", "_log_density")

    def sample(self, key: Array, x: ArrayLike, *, row_offset: ArrayLike = 0) -> Array:
        """Draw one a ~ P⁺(·|x) for each row of a batch, on the device.

        Args:
            key: random key; the number of each row is folded into it.
            x: inputs, leading axis the batch.
            row_offset: the number of the first row, if this is part of a larger batch.
        """
        x = self._inputs(x, "x")
        return jax.vmap(self._draw)(row_keys(key, x.shape[0], row_offset), x)

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Float[Array, " b"]:
        """Log P⁺(a|x) for each row of two batches of one length, normalised.

        The class says with respect to which measure.
        """
        a, x = as_batch(a, "a"), self._inputs(x, "x")
        if a.shape[0] != x.shape[0]:
            msg = (
                f"a must have as many rows as x, {x.shape[0]}; got shape"
                f" {tuple(a.shape)}"
            )
            raise ValueError(msg)
        return one_each(jax.vmap(self._log_density)(a, x), x.shape[0])

    def log_densities(self, a: ArrayLike, x: ArrayLike) -> Float[Array, "m n"]:
        """Log P⁺(a_j|x_i) for all pairs, for fixed j with respect to one measure."""
        a, x = as_batch(a, "a"), self._inputs(x, "x")
        if self._gives("_log_density"):
            # (n,) for one a: a row of the (m, n) densities.
            by_x = jax.vmap(self._log_density, in_axes=(None, 0))
        else:  # the subclass has its own for two batches

            def by_x(a: Array, x: Array) -> Array:
                many = jnp.broadcast_to(a, (x.shape[0], *a.shape))
                return self.log_density(many, x)

        # One a at a time: (n, …) of work space and not (m, n, …).
        return jax.lax.map(lambda one: one_each(by_x(one, x), x.shape[0]), a)


class VariantContext(SamplingContext):
    """A is one of finitely many transforms of x, drawn with fixed probabilities.

    `log_density` is with respect to counting measure: the sum of the probabilities of
    all transforms that take x to a, found by trying each.
    """

    _needs: ClassVar[Mapping[str, tuple[str, ...] | None]] = {
        "_num_variants": None,
        "_variant": None,
        "_draw": ("_num_variants", "_variant"),
        "_log_density": ("_num_variants", "_variant"),
    }

    def _num_variants(self, shape: tuple[int, ...]) -> int:  # noqa: ARG002 - to give
        """How many transforms there are of an x of this shape."""
        raise self._lacks("sample", "_num_variants")

    def _variant(self, x: Array, index: Array) -> Array:  # noqa: ARG002 - to give
        """Transform number `index` of x."""
        raise self._lacks("sample", "_variant")

    def _choose(self, key: Array, num: int) -> Array:
        """The number of a transform, by default uniform."""
        return jax.random.randint(key, (), 0, num)

    def _log_weights(self, num: int) -> Array:
        """Log probabilities of the transforms, by default equal."""
        return jnp.full((num,), -jnp.log(float(num)))

    def _draw(self, key: Array, x: Array) -> Array:
        # `num` depends on the shape of x alone, hence is static.
        return self._variant(x, self._choose(key, self._num_variants(x.shape)))

    def _log_density(self, a: Array, x: Array) -> Array:
        num = self._num_variants(x.shape)

        def is_hit(index: Array) -> Array:
            return same_values(self._variant(x, index), a).all()

        # One transform at a time: all variants of an image at once are as many images.
        hits = jax.lax.map(is_hit, jnp.arange(num))
        # Several transforms may give the same a, as shifts of a blank image: their
        # probabilities add up.
        return jax.nn.logsumexp(jnp.where(hits, self._log_weights(num), -jnp.inf))
