"""Tiles of log weights log P⁺(a|x): by one matrix product, or to the last digit.

A law that is a softmax is kept as one row of numbers for each x and one for each a. A
tile of log weights is formed from a block of either, alike for T, T* and the
normaliser, in one of these ways:

* *plain*: one product of augmented factors. For −γ|x − a|² it expands the square, so
  its error is eps · γ(|x|² + |a|²) about the mean, whatever |x − a| is; for
  scale ⟨q, k⟩ it is eps · |scale| |q| |k|. That is rounding while those are below
  `SAFE`;
* *exact*, distances: −γ Σ (x_j − a_j)² coordinate by coordinate, with an error of eps
  times itself. Rows far from every a, whose largest log weight is below −`SAFE`, have
  it in twice the precision;
* *exact*, inner products: coordinates are cut in pieces on grids so coarse that the
  products of the leading ones are summed without rounding; the rest is one more
  product. The error is eps² · |scale| |q| |k|, nearly.

What has values when the law is laid out has one of the two; what is traced carries both
and decides tile by tile.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.numerics import mm
from contexture_jax._core.types import Array, Bool, Float, Size

__all__ = [
    "FLOOR",
    "LARGEST",
    "MASKED",
    "SAFE",
    "Form",
    "exponents",
    "lay_out",
    "masked",
    "padded",
    "pull_back",
    "same_for_all",
    "shifted",
    "shrunk",
    "two_sum",
]

# The log weight of a column that must not count: finite, so that 0 · MASKED is 0 and
# its exponential is exactly 0 beside any logit.
MASKED = -1e37
# Below it no log weight of a column that counts goes: above `MASKED`.
FLOOR = -1e36
# What may be cancelled in a plain tile: its error is some eps times that, 1e-5 and
# 1e-12 of a weight.
SAFE = {"float32": 128.0, "float64": 16384.0}

# The largest log weight that twice the precision holds to within rounding. Where that
# which decides a row is larger, the row is taken in units in which it is not.
LARGEST = {
    "distances": {"float32": 2.0**30, "float64": 2.0**74},
    "inner": {"float32": 2.0**23, "float64": 2.0**57},
}

_COORDINATES = 8  # in one pass over a tile, of differences
_COORDINATES_TWICE = 4  # likewise in twice the precision


class Form(NamedTuple):
    """What the columns of the two arrays of a softmax law mean; hashable.

    Attributes:
        kind: what the log weights are made of.
        width: d, coordinates of a point.
        plain: whether the first d + 2 columns are factors of a plain product: of x
            (…, its offset, 1), of a (…, 1, its offset).
        exact: whether the last d + 4 are coordinates, a factor of the distance or inner
            product, the offset and what its rounding left out, and what the row adds to
            the numbers that a plain tile cancels. The factor of a tile is the product
            of those of x and a.
    """

    kind: Literal["distances", "inner"]
    width: int
    plain: bool
    exact: bool

    @property
    def start(self) -> int:
        """Where the exact part begins."""
        return self.width + 2 if self.plain else 0

    def flops(self) -> int:
        """Operations for one entry of a tile."""
        if not self.exact:
            return 2 * (self.width + 2)
        return 3 * self.width if self.kind == "distances" else 12 * self.width + 30

    def tiles(self) -> int:
        """How many tiles of work space one takes: of rows far from all points most."""
        if not self.exact:
            return 1
        return 14 if self.kind == "distances" else 3


def lay_out(
    form: Form, plain: list[Array] | None, exact: list[Array]
) -> Float[Array, "n e"]:
    """The parts that the form has, side by side; vectors are columns."""
    parts = [*(plain or []) * form.plain, *exact * form.exact]
    return jnp.concatenate([p[:, None] if p.ndim == 1 else p for p in parts], axis=1)


def shifted(
    form: Form, queries: Float[Array, "n e"], high: Array, low: Array
) -> Float[Array, "n e"]:
    """The rows with high + low taken off their log weights."""
    d = form.width
    if form.plain:
        queries = queries.at[:, d].add(-(high + low))
    if form.exact:
        column = form.start + d + 1
        queries = queries.at[:, column].add(-high).at[:, column + 1].add(-low)
    return queries


def padded(form: Form, block: Float[Array, "n e"], size: Size) -> Float[Array, "s e"]:
    """The rows of one side with others that are in no law, `size` in all."""
    n, d = block.shape[0], form.width
    if size == n:
        return block
    block = jnp.pad(block, ((0, size - n), (0, 0)))
    if form.exact:
        block = block.at[n:, form.start + d + 1].set(MASKED)
    return block


def shrunk(form: Form, queries: Float[Array, "n e"], by: Array) -> Float[Array, "n e"]:
    """The rows with the factor of their exact scores multiplied by `by`."""
    column = form.start + form.width
    return queries.at[:, column].multiply(by)


def masked(form: Form, keys: Float[Array, "m e"], start: int) -> Float[Array, "m e"]:
    """The columns numbered `start` and up taken out of every law."""
    d = form.width
    if form.plain:
        keys = keys.at[start:, d + 1].set(MASKED)
    if form.exact:
        keys = keys.at[start:, form.start + d + 1].set(MASKED)
    return keys


def exponents(
    form: Form, query: Float[Array, "n e"], key: Float[Array, "m e"]
) -> Float[Array, "n m"]:
    """Log weights of all pairs; the same with the two exchanged, transposed.

    Gradients by `pull_back`, in reverse mode; of a plain tile in both modes.
    """
    return _exact_exponents(form, query, key) if form.exact else mm(query, key.T)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _exact_exponents(form: Form, query: Array, key: Array) -> Array:
    def plain() -> Array:
        end = form.width + 2
        return mm(query[:, :end], key[:, :end].T)

    def exact() -> Array:
        q, k = (_Exact.of(form, x) for x in (query, key))
        if form.kind == "inner":
            return _offset(_inner(q, k), q, k)
        # `high` of a normalised row is its largest log weight, with the sign changed.
        # Beyond `SAFE` an error of eps times a distance would show in weights.
        far = jnp.maximum(q.high.max(), k.high.max()) > SAFE[str(query.dtype)]
        return jax.lax.cond(
            same_for_all(far),
            lambda: _offset(_far(q, k), q, k),
            lambda: _near(q, k),
        )

    if form.plain:
        return jax.lax.cond(_is_safe(form, query, key), plain, exact)
    return exact()


def pull_back(
    form: Form,
    query: Float[Array, "n e"],
    key: Float[Array, "m e"],
    weights: Float[Array, "n m"],
) -> tuple[Float[Array, "n e"], Float[Array, "m e"]]:
    """Cotangents of both blocks for the cotangent `weights` of their exponents."""
    end = form.width + 2

    def plain() -> tuple[Array, Array]:
        a, b = mm(weights, key[:, :end]), mm(weights.T, query[:, :end])
        if form.exact:
            empty = ((0, 0), (0, form.width + 4))
            a, b = jnp.pad(a, empty), jnp.pad(b, empty)
        return a, b

    def exact() -> tuple[Array, Array]:
        q, k = (_Exact.of(form, x) for x in (query, key))
        pull = _pull_distances if form.kind == "distances" else _pull_inner
        a, b = pull(q, k, weights)
        empty = ((0, 0), (form.start, 0))
        return jnp.pad(a, empty), jnp.pad(b, empty)

    if form.plain and form.exact:
        return jax.lax.cond(_is_safe(form, query, key), plain, exact)
    return exact() if form.exact else plain()


def _exact_saved(form: Form, query: Array, key: Array) -> tuple[Array, Any]:
    return _exact_exponents(form, query, key), (query, key)


def _exact_backward(form: Form, saved: Any, bar: Array) -> tuple[Array, Array]:
    query, key = saved
    return pull_back(form, query, key, bar)


_exact_exponents.defvjp(_exact_saved, _exact_backward)


class _Exact(NamedTuple):
    """The exact part of a block."""

    points: Float[Array, "n d"]
    factor: Float[Array, " n"]
    high: Float[Array, " n"]
    low: Float[Array, " n"]
    size: Float[Array, " n"]

    @classmethod
    def of(cls, form: Form, block: Array) -> _Exact:
        part = block[:, form.start :]
        d = form.width
        factor, high, low, size = (part[:, d + i] for i in range(4))
        return cls(part[:, :d], factor, high, low, size)


def _is_safe(form: Form, query: Array, key: Array) -> Bool[Array, ""]:
    """Whether a plain tile cancels so little; not where a number is no number."""
    q, k = (_Exact.of(form, x) for x in (query, key))
    safe = q.size.max() + k.size.max() <= SAFE[str(query.dtype)]
    return ~same_for_all(~safe)


@jax.custom_batching.custom_vmap
def same_for_all(hard: Bool[Array, ""]) -> Bool[Array, ""]:
    """Under `vmap` whether one of the batch is: both ways of a `cond` would run."""
    return hard


@same_for_all.def_vmap
def _(axis_size: int, batched: list[bool], hard: Array) -> tuple[Array, bool]:
    del axis_size
    return same_for_all(hard.any(axis=0) if batched[0] else hard), False


# Distances


def _near(q: _Exact, k: _Exact) -> Array:
    """−γ|x − a|² by differences, with offsets."""
    total = jnp.zeros((q.factor.size, k.factor.size), q.points.dtype)

    def add(total: Array, x: Array, a: Array) -> Array:
        difference = x - a
        return total + difference * difference

    total = _over_coordinates(add, total, q, k, _COORDINATES)
    factor = q.factor[:, None] * k.factor[None, :]
    scaled = jnp.maximum(-factor * total, FLOOR)
    high = (scaled + q.high[:, None]) + k.high[None, :]
    return high + (q.low[:, None] + k.low[None, :])


def _far(q: _Exact, k: _Exact) -> tuple[Array, Array]:
    """The same in twice the precision, without offsets, in two parts."""
    zero = jnp.zeros((q.factor.size, k.factor.size), q.points.dtype)

    def add(total: tuple[Array, ...], x: Array, a: Array) -> tuple[Array, ...]:
        # (difference + rest)² = leading² + 2 leading · other + other² + 2 difference ·
        # rest, but for rest², which is below eps² of it. The first two are exact, as
        # products of halves; what their sums round off is kept.
        difference, rest = two_sum(x, -a)
        leading = _leading_half(difference)
        other = difference - leading
        first, one = two_sum(total[0], leading * leading)
        second, two = two_sum(total[1], 2 * leading * other)
        small = other * other + 2 * difference * rest
        return first, second, total[2] + (one + two + small)

    first, second, low = _over_coordinates(add, (zero,) * 3, q, k, _COORDINATES_TWICE)
    high, rest = two_sum(first, second)
    low = low + rest
    factor = q.factor[:, None] * k.factor[None, :]
    most = -FLOOR / factor
    high, low = jnp.minimum(high, most), jnp.where(high < most, low, 0.0)
    return _times(-factor, high, low)


def _over_coordinates(add, total, q: _Exact, k: _Exact, step: int):
    """`add` one coordinate after the other: some in one pass over the tile."""
    x, a = q.points.T, k.points.T
    whole = x.shape[0] // step

    def add_some(i: Array, total):
        for j in range(step):
            one, other = (
                jax.lax.dynamic_index_in_dim(c, i * step + j, keepdims=False)
                for c in (x, a)
            )
            total = add(total, one[:, None], other[None, :])
        return total

    total = jax.lax.fori_loop(0, whole, add_some, total) if whole else total
    for j in range(whole * step, x.shape[0]):
        total = add(total, x[j][:, None], a[j][None, :])
    return total


def _pull_distances(q: _Exact, k: _Exact, weights: Array) -> tuple[Array, Array]:
    """A coordinate at a time: W x − W a would cancel where points are far from 0."""

    def step(total: Array, pair: tuple[Array, Array]) -> tuple:
        difference = pair[0][:, None] - pair[1][None, :]
        weighted = weights * difference
        rows = (weighted * k.factor[None, :]).sum(axis=1)
        columns = (weighted * q.factor[:, None]).sum(axis=0)
        return total + difference * difference, (rows, columns)

    total, (rows, columns) = jax.lax.scan(
        step, jnp.zeros_like(weights), (q.points.T, k.points.T)
    )
    factor = q.factor[:, None] * k.factor[None, :]
    total = jnp.minimum(total, -FLOOR / factor)
    rows, columns = -2.0 * q.factor[None, :] * rows, 2.0 * k.factor[None, :] * columns
    return _cotangents(q, k, weights, -total, rows, columns)


def _cotangents(
    q: _Exact, k: _Exact, weights: Array, core: Array, rows: Array, columns: Array
) -> tuple[Array, Array]:
    """Of the columns of the exact part, in their order."""
    scaled = weights * core
    by_row, by_column = weights.sum(axis=1), weights.sum(axis=0)
    for_q, for_k = mm(scaled, k.factor), mm(scaled.T, q.factor)
    # Of factor, high, low and size. The last only decides how a tile is formed.
    first = jnp.stack([for_q, by_row, by_row, jnp.zeros_like(by_row)])
    second = jnp.stack([for_k, by_column, by_column, jnp.zeros_like(by_column)])
    return jnp.concatenate([rows, first]).T, jnp.concatenate([columns, second]).T


# Inner products


def _inner(q: _Exact, k: _Exact) -> tuple[Array, Array]:
    """Factor · ⟨q, k⟩ in two parts.

    Leading pieces are integers in a unit of their row, few enough bits that sums of d
    products are exact in whatever order they come.
    """
    # Nine products of pieces, by size: q1 k1; q1 k2 and q2 k1; then the other six,
    # small enough for plain sums.
    q1, q2, q3 = _pieces(q.points)
    k1, k2, k3 = _pieces(k.points)
    first = mm(q1, k1.T)
    second = mm(jnp.concatenate([q1, q2], 1), jnp.concatenate([k2, k1], 1).T)
    third = mm(
        jnp.concatenate([q1, q2, q3], 1),
        jnp.concatenate([k3, k2 + k3, k.points], 1).T,
    )
    high, low = two_sum(first, second)
    high, rest = two_sum(high, third)
    return _times(q.factor[:, None] * k.factor[None, :], high, low + rest)


def _pieces(x: Array) -> tuple[Array, Array, Array]:
    """Three pieces whose sum is x: two on grids of a row, and the rest."""
    digits = jnp.finfo(x.dtype).nmant
    # A product of two pieces has 2 · bits digits, a sum of d of them log₂ d more.
    bits = (digits - max(x.shape[1] - 1, 1).bit_length()) // 2
    _, exponent = jnp.frexp(jnp.abs(x).max(axis=1, keepdims=True))

    def on_grid(x: Array, place: int) -> Array:
        # Adding a number whose last digit is the unit of the grid rounds to it.
        # By 1.5 and not 1, so that x of either sign leaves its last digit where it is.
        anchor = jnp.ldexp(jnp.full((), 1.5, x.dtype), exponent + (digits - place))
        return (x + anchor) - anchor

    first = on_grid(x, bits)
    rest = x - first
    second = on_grid(rest, 2 * bits)
    return first, second, rest - second


def _pull_inner(q: _Exact, k: _Exact, weights: Array) -> tuple[Array, Array]:
    core = mm(q.points, k.points.T)
    rows = mm(weights, k.factor[:, None] * k.points) * q.factor[:, None]
    columns = mm(weights.T, q.factor[:, None] * q.points) * k.factor[:, None]
    return _cotangents(q, k, weights, core, rows.T, columns.T)


# Twice the precision


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The sum a + b, and exactly what its rounding left out (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _leading_half(x: Array) -> Array:
    """The leading half of the digits: products of two of them are exact."""
    integer, mask = (
        (jnp.int32, -(2**12)) if x.dtype == np.float32 else (jnp.int64, -(2**27))
    )
    bits = jax.lax.bitcast_convert_type(x, integer)
    return jax.lax.bitcast_convert_type(bits & jnp.asarray(mask, integer), x.dtype)


def _times(factor: Array, high: Array, low: Array) -> tuple[Array, Array]:
    """Factor · (high + low) in two parts.

    Products of halves are exact, so that a compiler may well fuse them into the sums.
    """
    f, h = _leading_half(factor), _leading_half(high)
    f2, h2 = factor - f, high - h
    total, first = two_sum(f * h, f * h2)
    total, second = two_sum(total, f2 * h)
    return total, (first + second + f2 * h2) + factor * low


def _offset(logits: tuple[Array, Array], q: _Exact, k: _Exact) -> Array:
    high, low = logits
    high, first = two_sum(high, q.high[:, None])
    high, second = two_sum(high, k.high[None, :])
    return high + ((low + first + second) + (q.low[:, None] + k.low[None, :]))
