"""A law of A at any x, on rows of data: X is the number of a row."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import as_rows, check_finite
from contexture_jax._core.types import Array, ArrayLike, Float, pytree_dataclass
from contexture_jax.contexts._base import Context, as_context, as_numbers
from contexture_jax.contexts._density import all_log_densities
from contexture_jax.contexts._parts import law_of_x, sizes_of
from contexture_jax.contexts._sampling import row_keys

__all__ = ["OnRows", "Posterior", "on_rows"]


@pytree_dataclass
class OnRows(Context):
    """P⁺(a|x) at rows of data: X is the number of a row, uniform; A is what is drawn.

    Attributes:
        law: of A at any x.
        x: the rows, leading axis n.
    """

    law: Any
    x: Array

    def _gives(self, name: str) -> bool:
        needs = {"sample": "sample", "log_density": "log_density"}
        # Which row it was, by Bayes' rule.
        needs["reverse"] = "log_density"
        return name == "at" or needs.get(name) in self.law.capabilities

    @property
    def _sizes(self) -> tuple[int, None]:
        return self.x.shape[0], None

    def _law_of_x(self) -> Float[Array, " n"]:
        n = self.x.shape[0]
        return jnp.full((n,), 1.0 / n)

    def _rows(self, x: ArrayLike) -> Array:
        return self.x[as_numbers(x, "x", self.x.shape[0])]

    def _check_has(self, name: str) -> None:
        if not self._gives(name):
            raise self._lacks(name)

    def sample(self, key: Array, x: ArrayLike, *, row_offset: ArrayLike = 0) -> Any:
        """Draw one a for each row numbered in `x`, shape (k,)."""
        self._check_has("sample")
        return self.law.sample(key, self._rows(x), row_offset=row_offset)

    def log_density(self, a: Any, x: ArrayLike) -> Float[Array, " k"]:
        """Log P⁺(a|x) of each a and the row numbered beside it, shape (k,)."""
        self._check_has("log_density")
        return self.law.log_density(a, self._rows(x))

    def log_densities(self, a: Any, x: ArrayLike) -> Float[Array, "m k"]:
        """Log P⁺(a_j|x_i) for all pairs, for fixed j with respect to one measure."""
        self._check_has("log_density")
        return all_log_densities(self.law, a, self._rows(x))

    def at(self, x_new: ArrayLike) -> OnRows:
        """The law on other rows, shape (k, …)."""
        rows = as_rows(x_new, "x_new")
        if rows.shape[1:] != self.x.shape[1:]:
            msg = (
                f"x_new must have rows of shape {self.x.shape[1:]}; got"
                f" {tuple(rows.shape[1:])}"
            )
            raise ValueError(msg)
        return OnRows(self.law, rows)

    def reverse(self) -> Posterior:
        """The number of the row, given what was drawn."""
        self._check_has("reverse")
        return Posterior(self)


@pytree_dataclass
class Posterior(Context):
    """The row that a value came from: P(x|a) ∝ p(x) P⁺(a|x), the reverse of `source`.

    Attributes:
        source: a context on numbered rows with a density, whose A is none of numbers.
    """

    source: Any

    def _gives(self, name: str) -> bool:
        return name in ("sample", "log_density", "reverse")

    @property
    def _sizes(self) -> tuple[None, int | None]:
        return None, sizes_of(self.source)[0]

    def _law_of_a(self) -> Float[Array, " n"]:
        return law_of_x(self.source)

    def _logs(self, values: Any) -> Float[Array, "k n"]:
        law = law_of_x(self.source)
        rows = jnp.arange(law.shape[0], dtype=jnp.int32)
        logs = all_log_densities(self.source, values, rows)
        return jax.nn.log_softmax(logs + jnp.log(law).astype(logs.dtype)[None, :])

    def sample(self, key: Array, x: Any, *, row_offset: ArrayLike = 0) -> Array:
        """Draw the number of a row for each value in `x`, leading axis k."""
        logs = self._logs(x)
        keys = row_keys(key, logs.shape[0], row_offset)
        return jax.vmap(jax.random.categorical)(keys, logs).astype(jnp.int32)

    def log_density(self, a: ArrayLike, x: Any) -> Float[Array, " k"]:
        """Log P(a|x) of the numbers of rows `a`, shape (k,), given values `x`."""
        logs = self._logs(x)
        numbers = as_numbers(a, "a", logs.shape[1])
        return jnp.take_along_axis(logs, numbers[:, None], axis=1)[:, 0]

    def reverse(self) -> Context:
        """The law that draws the values."""
        return self.source


def on_rows(law: Context | Any, x: ArrayLike) -> OnRows:
    """A law of A at any x, on rows of data, to be mixed with contexts of their numbers.

    X is the number of a row, each equally likely, and A is drawn at the row. So a
    sampler, as `gaussian_noise`, `crop`, `scarf` or one of your own, goes with tables,
    neighbours and kernels of the same rows into `convolve`, `convex_combination`,
    `join`, behind them into `compose`, and with other laws of the same A into
    `mixture`. What comes has `sample`, `log_density` but where a step back to X is
    integrated over, and with a density of the law an operator by Monte Carlo,
    `operators.monte_carlo_operator(context, None, num_samples, key=key)`, with its
    error (`evaluation.monte_carlo_error`).

    Args:
        law: with `sample` or `log_density`, of rows of data.
        x: the rows, leading axis n.

    Raises:
        TypeError: if `law` is no context, or one of numbers already.
        CapabilityError: if it has neither method.
        ValueError: if there is no row, or a number is not finite.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> x = jax.random.normal(jax.random.key(0), (30, 2))
        >>> noise = cx.contexts.on_rows(cx.contexts.gaussian_noise(0.5), x)
        >>> mixed = cx.contexts.convolve(noise, cx.contexts.knn(x, 5))
        >>> mixed.sample(jax.random.key(1), jax.numpy.arange(3)).shape
        (3,)
        >>> cx.operators.monte_carlo_operator(
        ...     mixed, None, 200, key=jax.random.key(2)
        ... ).shape
        (30, 30)
    """
    given = as_context(law, "law")
    has_law = {"sample", "log_density"} & set(given.capabilities)
    # A context of the zoo has a table, too, of points of its own.
    is_fixed = sizes_of(given)[0] is not None and "inputs" not in given.capabilities
    if is_fixed:
        msg = f"law must be one of A at any x; got a {given._kind}, of numbers already"
        raise TypeError(msg)
    if not has_law:
        raise given._lacks("sample")
    rows = as_rows(x, "x")
    if jnp.issubdtype(rows.dtype, jnp.inexact):
        check_finite(rows, "x")
    return OnRows(given, rows)
