"""What contexts between numbers share: X is the number of a row, A that of a column.

Where rows stand for rows of data that the caller has, `data[context.sample(key, rows)]`
is a batch of context values for `data[rows]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import is_concrete
from contexture_jax._core.numerics import mm, safe_divide
from contexture_jax._core.types import Array, ArrayLike, Float, Int
from contexture_jax.contexts._base import as_numbers
from contexture_jax.contexts._sampling import SamplingContext, row_keys

__all__ = ["NumberedContext", "lower_bound", "shares_of"]


class NumberedContext(SamplingContext):
    """P⁺(a|x) for row numbers x < n and column numbers a < m (theory.md §1).

    Subclasses give `shape`, and for one number or pair `_draw` and `_log_density`;
    `table` and `kernel` follow from these, with X uniform on the rows that have a law.
    Subclasses with another law of X, or a shorter way, override them.

    Row numbers come in arrays of any shape, whose entries count as rows in their order.
    What is drawn are column numbers, int32. A row without mass has no law: it is
    refused, but inside a trace, where its density is 0; its kernel is 0.
    """

    _needs: ClassVar[Mapping[str, tuple[str, ...] | None]] = {
        "shape": None,
        "sample": ("shape", "_draw"),
        "log_density": ("shape", "_log_density"),
        "kernel": ("shape", "_log_density"),
        "table": ("shape", "_log_density"),
    }

    _WITH_LAW: ClassVar[str] = "numbers of rows with mass"

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        raise self._lacks("table", "shape")

    def _has_law(self, x: Int[Array, " k"]) -> Any:
        """Whether rows have mass, shape (k,); by default all have."""
        return np.ones(x.shape, bool)

    def _laws(self, x: Int[Array, " k"]) -> Float[Array, "k m"]:
        """P⁺(·|x) as rows of numbers, 0 where x has no law."""
        # (k, m) densities of single pairs: a class that has rows at hand overrides
        # this.
        by_a = jax.vmap(self._log_density, in_axes=(0, None))
        columns = jnp.arange(self.shape[1], dtype=jnp.int32)
        return jnp.exp(jax.vmap(by_a, in_axes=(None, 0))(columns, x))

    def _law_of_a(self) -> Float[Array, " m"]:
        """P_A."""
        return self.table().sum(axis=0)

    def _inputs(self, x: ArrayLike, name: str) -> Int[Array, "..."]:
        numbers = as_numbers(x, name, self.shape[0])
        # Values of both are needed to tell.
        if is_concrete(numbers, self):
            rows = numbers.reshape(-1)
            lost = np.flatnonzero(~np.asarray(self._has_law(rows)))
            if lost.size:
                msg = f"{name} must hold {self._WITH_LAW}; got {rows[lost[0]]}"
                raise ValueError(msg)
        return numbers

    def _pair(self, x: ArrayLike, x2: ArrayLike) -> tuple[Array, Array]:
        n = self.shape[0]
        return as_numbers(x, "x", n), as_numbers(x2, "x2", n)

    def sample(
        self, key: Array, x: ArrayLike, *, row_offset: ArrayLike = 0
    ) -> Int[Array, "..."]:
        """Draw one column number a ~ P⁺(·|x) for each row number in `x`.

        Each entry of `x`, counted from `row_offset`, has a key of its own.
        """
        numbers = self._inputs(x, "x")
        rows = numbers.reshape(-1)
        # Keys in the order of the entries: what is drawn does not depend on their
        # shape.
        drawn = jax.vmap(self._draw)(row_keys(key, rows.shape[0], row_offset), rows)
        return drawn.astype(jnp.int32).reshape(numbers.shape)

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Float[Array, "..."]:
        """Log P⁺(a|x) for row numbers `x` and column numbers `a` that broadcast."""
        a, x = jnp.broadcast_arrays(
            as_numbers(a, "a", self.shape[1]), self._inputs(x, "x")
        )
        logs = jax.vmap(self._log_density)(a.reshape(-1), x.reshape(-1))
        return logs.reshape(x.shape)

    def kernel(self, x: ArrayLike, x2: ArrayLike) -> Float[Array, "k l"]:
        """The dual kernel k_X⁺ between the rows numbered `x` and `x2`.

        Of whole rows of the law: (k + l) · m numbers.
        """
        x, x2 = self._pair(x, x2)
        # Of the whole law: a kernel among some rows has P_A of all.
        p_a = self._law_of_a()[None, :]
        # Σ_a P⁺(a|x) P⁺(a|x₂) / p_a; columns without mass add 0 (theory.md §1.1).
        return mm(safe_divide(self._laws(x), p_a), self._laws(x2).T)

    def table(self) -> Float[Array, "n m"]:
        """The joint law as a dense (n, m) table: for small cases."""
        shares = self._laws(jnp.arange(self.shape[0], dtype=jnp.int32))
        # Rows without a law are 0 and the others sum to 1: uniform on those that have
        # one.
        return shares / shares.sum()


def shares_of(numbers: Int[Array, " n"], size: int) -> Float[Array, " size"]:
    """The share of each of 0, …, size − 1 among `numbers`, as a law."""
    counts = jnp.zeros(size, jnp.int32).at[numbers].add(1)
    # Of two integers JAX makes float32, whatever the precision.
    return counts.astype(jnp.zeros(()).dtype) / numbers.shape[0]


# Compiled for eager callers, for whom a loop would be traced anew in each call.
@jax.jit
def lower_bound(values: Array, low: Any, high: Any, target: Any) -> Int[Array, ""]:
    """The first place in low..high whose value is at least `target`; else `high`.

    Args:
        values: shape (n,), ascending between `low` and `high`.
        low: first place that is looked at, shape ().
        high: one past the last, shape ().
        target: shape (), the dtype of `values`.
    """

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        # low + high could pass int32.
        middle = low + (high - low) // 2
        is_open = low < high
        # Invariant: values before `low` are below the target, those from `high` on are
        # not.
        right = is_open & (values[middle] < target)
        return (
            jnp.where(right, middle + 1, low),
            jnp.where(is_open & ~right, middle, high),
        )

    ends = jnp.asarray(low, jnp.int32), jnp.asarray(high, jnp.int32)
    # A fixed number of halvings, so that it maps over rows of unlike length: a search
    # that is done stays where it is.
    steps = max(1, values.shape[0].bit_length())
    return jax.lax.fori_loop(0, steps, halve, ends)[0]
