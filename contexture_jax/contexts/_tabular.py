"""Corruption of tables: entries replaced by draws, or by those of another row."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import as_floating, check_ndim, check_values
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    pytree_dataclass,
    static_field,
    summary,
)
from contexture_jax.contexts._sampling import (
    SamplingContext,
    as_batch,
    check_rate,
    rate_like,
)

__all__ = ["Corruption", "Cutmix", "Scarf", "corruption", "cutmix", "scarf"]

_LAWS = ("uniform", "gaussian", "bimodal")


class _TableContext(SamplingContext):
    @property
    def _num_columns(self) -> int:
        raise NotImplementedError

    def _inputs(self, x: ArrayLike, name: str) -> Array:
        x = as_batch(x, name)
        if x.ndim != 2 or x.shape[1] != self._num_columns:
            msg = (
                f"{name} must have shape (b, {self._num_columns}), the columns of the"
                f" table; got {tuple(x.shape)}"
            )
            raise ValueError(msg)
        return x


def _as_rows(x: ArrayLike, name: str) -> Array:
    rows = as_batch(x, name)
    check_ndim(rows, 2, name)
    if rows.shape[0] == 0:
        msg = f"{name} must have at least one row; got shape {tuple(rows.shape)}"
        raise ValueError(msg)
    return rows


def _rates(rate: ArrayLike, num_columns: int) -> float | Array:
    checked = check_rate(rate)
    if jnp.ndim(checked) and jnp.shape(checked) != (num_columns,):
        msg = (
            f"rate must be one number or one for each of {num_columns} columns; got"
            f" shape {jnp.shape(checked)}"
        )
        raise ValueError(msg)
    return checked


@pytree_dataclass
class Scarf(_TableContext):
    """Each entry is replaced, unseen, by one of its column, independently.

    `log_density` is with respect to counting measure, exact for the table that the
    columns come from and for numbers and categories alike.

    Attributes:
        columns: the table with each column sorted, shape (N, d).
        rate: probability of replacement, shape () or (d,).
    """

    columns: Array
    rate: float | Array

    @property
    def _num_columns(self) -> int:
        return self.columns.shape[1]

    def _draw(self, key: Array, x: Array) -> Array:
        key_which, key_row = jax.random.split(key)
        which = _bernoulli(key_which, self.rate, x)
        # A row for each column: dependence between columns is not kept (`cutmix` keeps
        # it).
        row = jax.random.randint(key_row, x.shape, 0, self.columns.shape[0])
        drawn = self.columns[row, jnp.arange(x.shape[0])].astype(x.dtype)
        return jnp.where(which, drawn, x)

    def _log_density(self, a: Array, x: Array) -> Array:
        def count(column: Array, value: Array) -> Array:
            ends = (jnp.searchsorted(column, value, side=s) for s in ("left", "right"))
            low, high = ends
            return high - low

        # (d,): p̂_f(a_f) by two searches in the sorted column, log N each.
        share = jax.vmap(count, in_axes=(1, 0))(self.columns, a) / len(self.columns)
        rate = rate_like(self.rate, share)
        # An entry that equals x may also have been drawn: both ways add up.
        kept = jnp.where(a == x, 1 - rate, jnp.zeros_like(rate))
        return jnp.log(kept + rate * share).sum()


def scarf(x: ArrayLike, rate: ArrayLike) -> Scarf:
    """Entries replaced by draws from their own column (SCARF, Bahri et al. 2022).

    For independent columns singular values are ∏_{i∈S} (1 − rate_i) (theory.md §5).
    Each entry is replaced with its own coin; Bahri et al. replace a fixed number.

    Args:
        x: the table to draw from, shape (N, d), numbers or codes of categories, finite.
        rate: probability of replacement, in [0, 1]; one, or one a column.
    """
    rows = _as_rows(x, "x")
    check_values(rows, "x", lambda v: v == v, "without NaN")
    return Scarf(jnp.sort(rows, axis=0), _rates(rate, rows.shape[1]))


@pytree_dataclass
class Corruption(_TableContext):
    """Each entry is replaced, unseen, by a draw from a smooth law, independently.

    Given x, an entry has an atom at x_f and is continuous elsewhere. `log_density` is
    with respect to Lebesgue measure plus a unit atom at x_f, entry by entry, and
    `log_densities` to Lebesgue measure plus unit atoms at the values that the rows x
    have there: an a that agrees with one of them rules the other values out.

    Attributes:
        low: smallest value of each column, shape (d,).
        high: largest, shape (d,). A column with low = high never changes.
        rate: probability of replacement, shape () or (d,).
        law: "uniform", "gaussian" or "bimodal". Static.
    """

    low: Float[Array, " d"]
    high: Float[Array, " d"]
    rate: float | Array
    law: str = static_field()

    @property
    def _num_columns(self) -> int:
        return self.low.shape[0]

    def _inputs(self, x: ArrayLike, name: str) -> Array:
        return as_floating(super()._inputs(x, name), name)

    def _draw(self, key: Array, x: Array) -> Array:
        key_which, key_value, key_mode = jax.random.split(key, 3)
        # Laws are of the interval [−½, ½], scaled to the range of the column.
        middle, spread = 0.5 * (self.low + self.high), self.high - self.low
        if self.law == "uniform":
            unit = jax.random.uniform(key_value, x.shape, spread.dtype) - 0.5
        elif self.law == "gaussian":
            unit = 0.25 * jax.random.normal(key_value, x.shape, spread.dtype)
        else:
            side = jax.random.rademacher(key_mode, x.shape, spread.dtype)
            noise = jax.random.normal(key_value, x.shape, spread.dtype)
            unit = 0.25 * side + 0.125 * noise
        drawn = (middle + spread * unit).astype(x.dtype)
        return jnp.where(_bernoulli(key_which, self.rate, x), drawn, x)

    def _continuous(self, a: Array) -> Array:
        """Log density of what is drawn, entry by entry; −∞ in constant columns."""
        # Here: with it thirty other laws are loaded.
        from jax.scipy.stats import norm

        spread = self.high - self.low
        varies = spread > 0
        # A constant column divides by 1 in place of 0; the last line gives it its law,
        # −∞.
        safe = jnp.where(varies, spread, jnp.ones_like(spread))
        unit = (a - 0.5 * (self.low + self.high)) / safe
        if self.law == "uniform":
            log_unit = jnp.where(abs(unit) <= 0.5, 0.0, -jnp.inf)
        elif self.law == "gaussian":
            log_unit = norm.logpdf(unit, scale=0.25)
        else:
            # The two draws of `_draw`: side ± ¼, noise of ⅛.
            modes = (norm.logpdf(unit, loc, 0.125) for loc in (-0.25, 0.25))
            log_unit = jnp.logaddexp(*modes) - jnp.log(2.0)
        # The Jacobian of unit = (a − m) / spread.
        return jnp.where(varies, log_unit - jnp.log(safe), -jnp.inf)

    def _atom(self) -> Array:
        """Log probability that an entry stays."""
        rate = rate_like(self.rate, self.low)
        varies = self.high > self.low
        # A constant column always "stays": its replacement is the same value.
        return jnp.where(varies, jnp.log1p(-rate), jnp.zeros_like(rate))

    def _log_density(self, a: Array, x: Array) -> Array:
        log_rate = jnp.log(rate_like(self.rate, self.low))
        # Almost surely no smooth draw equals x: an entry that does is the atom
        # (theory.md §4.7).
        return jnp.where(a == x, self._atom(), log_rate + self._continuous(a)).sum()

    def log_densities(self, a: ArrayLike, x: ArrayLike) -> Float[Array, "m n"]:
        """Log P⁺(a_j|x_i) for all pairs; atoms at the values that rows of x have."""
        a, x = as_batch(a, "a"), self._inputs(x, "x")
        log_rate = jnp.log(rate_like(self.rate, self.low))

        def row(one: Array) -> Array:
            # (n, d)
            agrees = one[None, :] == x
            # An entry that one row holds is an atom for all of them: those that differ
            # there are ruled out.
            smooth = jnp.where(
                agrees.any(axis=0), -jnp.inf, log_rate + self._continuous(one)
            )
            return jnp.where(agrees, self._atom()[None, :], smooth[None, :]).sum(axis=1)

        return jax.lax.map(row, a)


def corruption(x: ArrayLike, rate: ArrayLike, law: str = "uniform") -> Corruption:
    """Entries replaced by draws from a law with the range of their column.

    With m the middle of [min, max] of a column and r its length: "uniform" on the
    range; "gaussian" with mean m and standard deviation r / 4; "bimodal", an equal
    mixture of normal laws with means m ± r / 4 and standard deviation r / 8 (no source
    is known to us for these numbers).

    Args:
        x: the table whose ranges are taken, shape (N, d), finite.
        rate: probability of replacement, in [0, 1]; one, or one a column.
        law: of the replacement.
    """
    if law not in _LAWS:
        msg = f'law must be "uniform", "gaussian" or "bimodal"; got {summary(law)}'
        raise ValueError(msg)
    rows = as_floating(_as_rows(x, "x"), "x")
    check_values(rows, "x", lambda v: abs(v) < float("inf"), "finite")
    low, high = rows.min(axis=0), rows.max(axis=0)
    return Corruption(low, high, _rates(rate, rows.shape[1]), law)


@pytree_dataclass
class Cutmix(_TableContext):
    """Entries are replaced, unseen, by those of one other row, the same for all.

    `log_density` is with respect to counting measure and sums over the N rows that may
    have been mixed in.

    Attributes:
        rows: the rows to mix in, shape (N, d).
        rate: probability of replacement of an entry, shape () or (d,).
    """

    rows: Array
    rate: float | Array

    @property
    def _num_columns(self) -> int:
        return self.rows.shape[1]

    def _draw(self, key: Array, x: Array) -> Array:
        key_which, key_row = jax.random.split(key)
        which = _bernoulli(key_which, self.rate, x)
        # One row for all entries, and a coin for each.
        row = jax.random.randint(key_row, (), 0, self.rows.shape[0])
        return jnp.where(which, self.rows[row].astype(x.dtype), x)

    def _log_density(self, a: Array, x: Array) -> Array:
        rate = rate_like(self.rate, a)
        zero = jnp.zeros_like(rate)
        kept = jnp.where(a == x, 1 - rate, zero)[None, :]
        mixed = jnp.where(a[None, :] == self.rows, rate[None, :], zero[None, :])
        # (N,): the entries are independent given which row was mixed in, so that they
        # multiply before rows are averaged.
        by_row = jnp.log(kept + mixed).sum(axis=1)
        return jax.nn.logsumexp(by_row) - jnp.log(float(len(self.rows)))


def cutmix(x: ArrayLike, rate: ArrayLike) -> Cutmix:
    """Each entry taken from another row with probability `rate`, one row for all.

    After CutMix (Yun et al. 2019) for tables. Unlike `scarf` it keeps the dependence of
    columns within what is mixed in. The row is drawn from all of `x`.

    Args:
        x: the rows to mix in, shape (N, d), numbers or codes.
        rate: in [0, 1]; one, or one a column.
    """
    rows = _as_rows(x, "x")
    return Cutmix(rows, _rates(rate, rows.shape[1]))


def _bernoulli(key: Array, rate: float | Array, x: Array) -> Array:
    return jax.random.bernoulli(key, rate_like(rate, x))
