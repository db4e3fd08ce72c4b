"""Contexts whose conditional law is a softmax of scores: Gaussian kernels, attention.

P⁺(a|x) = exp(⟨q_x, k_a⟩ + b_a) / Z(x). Nothing of size n × m is stored.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    as_floating,
    as_real,
    check_finite,
    check_key,
    check_ndim,
    check_values,
    is_concrete,
)
from contexture_jax._core.features import as_features, new_rows, uniform_law
from contexture_jax._core.numerics import as_law, mm, safe_reciprocal, safe_sqrt
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    Int,
    pytree_dataclass,
    static_field,
)
from contexture_jax.contexts._base import Context, as_numbers
from contexture_jax.contexts._sampling import row_keys
from contexture_jax.kernels import (
    FLOOR,
    MASKED,
    SAFE,
    Form,
    exp_matmul,
    exponents,
    lay_out,
    logsumexp_rows,
    normalise,
)

__all__ = [
    "Attention",
    "Rbf",
    "SoftmaxContext",
    "SoftmaxFactors",
    "attention",
    "rbf",
]

_BLOCK = 1024
_CHUNK = 2**20  # numbers that a sampler works on at a time
_LARGE = 1e30  # a factor of squares of distances; beyond it all of them are large


@pytree_dataclass
class SoftmaxFactors:
    """What log P⁺(a|x) is formed from, tile by tile.

    Attributes:
        queries: one row an input, shape (n, e).
        keys: one row a context value, shape (m, e).
        form: what their columns mean. Static.
    """

    queries: Float[Array, "n e"]
    keys: Float[Array, "m e"]
    form: Form = static_field()

    def logs(self, rows: Array | None = None) -> Float[Array, "k m"]:
        """Log weights of the rows numbered so, or of all, with every column."""
        queries = self.queries if rows is None else self.queries[rows]
        return exponents(self.form, queries, self.keys)


class SoftmaxContext(Context):
    """What all softmax contexts share; subclasses give the scores (theory.md §4)."""

    p_x: Float[Array, " n"]
    bias: Float[Array, " m"]
    bias_rest: Float[Array, " m"] | None

    _needs: ClassVar[Mapping[str, tuple[str, ...] | None]] = {
        "scores": None,
        "sample": ("scores",),
        "log_density": ("scores",),
        "kernel": ("scores",),
        "table": ("scores",),
    }

    def scores(self, form: Form | None = None) -> SoftmaxFactors:
        """What log P⁺(a|x) is formed from, up to a constant for each x.

        Args:
            form: of the factors; None: what `form` says.
        """
        del form
        raise self._lacks("table", "scores")

    def form(self) -> Form:
        """How to form the scores.

        Where the context has values that is one way, accurate for them; inside a trace
        there are two, of which each tile takes one. Programs that take a context as an
        argument take its form as a static one.
        """
        return self.scores().form

    def factors(
        self, *, form: Form | None = None, tile_size: int = _BLOCK
    ) -> SoftmaxFactors:
        """What log P⁺(a|x) is formed from: the scores less each row's log-sum-exp."""
        return _normalised(self.scores(form), tile_size)[0]

    def context_law(
        self, factors: SoftmaxFactors, *, tile_size: int = _BLOCK
    ) -> Float[Array, " m"]:
        """P_A = Σ_x P_X(x) P⁺(·|x), never taken to be uniform."""
        return exp_matmul(
            factors.keys,
            factors.queries,
            self.p_x[:, None],
            form=factors.form,
            tile_size=tile_size,
        )[:, 0]

    def table(self) -> Float[Array, "n m"]:
        """The joint law as a dense (n, m) table: for small cases."""
        return _table(self, form=self.form())

    def sample(
        self, key: Array, x: ArrayLike, *, row_offset: ArrayLike = 0
    ) -> Int[Array, "..."]:
        """Draw one column number a ~ P⁺(·|x) for each row number in `x`.

        Each entry of `x`, counted from `row_offset`, has a key of its own. Only the
        scores of these rows are formed, some rows at a time.
        """
        check_key(key)
        x = as_numbers(x, "x", self.p_x.shape[0])
        return _draws(self, key, x, row_offset, form=self.form())

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Float[Array, "..."]:
        """Log P⁺(a|x) for row numbers `x` and column numbers `a` of one shape.

        Only the rows in `x` are normalised, but for calls with more rows than there
        are.
        """
        a, x = jnp.broadcast_arrays(
            as_numbers(a, "a", self.bias.shape[0]),
            as_numbers(x, "x", self.p_x.shape[0]),
        )
        return _log_densities(self, a, x, form=self.form())

    def kernel(self, x: ArrayLike, x2: ArrayLike) -> Float[Array, "k l"]:
        """The dual kernel k_X⁺ between the rows numbered `x` and `x2`.

        P_A takes all rows: as much work as an operator takes to build. For many calls
        build one, and take its products.
        """
        n = self.p_x.shape[0]
        x, x2 = as_numbers(x, "x", n), as_numbers(x2, "x2", n)
        return _dual_kernel(self, x, x2, form=self.form())

    def _bias(self) -> tuple[Array, Array, Array]:
        """Both parts, NaN for what is no number, and their size where they count."""
        bias = _finite_or_nan(self.bias)
        rest = jnp.zeros_like(bias) if self.bias_rest is None else self.bias_rest
        return bias, rest, jnp.where(bias == MASKED, 0.0, jnp.abs(bias + rest))

    def _choose(self, kind: Any, width: int, size: Callable[[], float]) -> Form:
        """Plain or exact by what a plain tile cancels, or both inside a trace."""
        if not is_concrete(self):
            return Form(kind, width, plain=True, exact=True)
        bias = np.abs(np.asarray(self.bias))
        bias = bias[bias < -MASKED].max(initial=0)
        with np.errstate(all="ignore"):
            safe = bool(bias + size() <= SAFE[str(self.p_x.dtype)])
        return Form(kind, width, plain=safe, exact=not safe)


@pytree_dataclass
class Rbf(SoftmaxContext):
    """P⁺(a|x) ∝ exp(−γ|x − a|² + b_a) (theory.md §4).

    Attributes:
        inputs: shape (n, d), floating.
        points: the values of A, shape (m, d).
        gamma: γ > 0, shape (); where it is not, the law is NaN.
        bias: b, shape (m,); 0 but in a reversed context.
        p_x: law of X, shape (n,).
        bias_rest: what rounding left out of `bias`, shape (m,); None: nothing.
        exponent: for a γ that the dtype does not hold, which then is
            gamma · 4^exponent; shape (), a whole number; None: 0.
    """

    inputs: Float[Array, "n d"]
    points: Float[Array, "m d"]
    gamma: Float[Array, ""]
    bias: Float[Array, " m"]
    p_x: Float[Array, " n"]
    bias_rest: Float[Array, " m"] | None = None
    exponent: Float[Array, ""] | None = None

    def form(self) -> Form:
        """One way for near points, another for those that are far apart."""
        return self._choose("distances", self.points.shape[1], self._size)

    def scores(self, form: Form | None = None) -> SoftmaxFactors:
        """−γ|x − a|² + b_a, in a unit of length that takes γ near to 1."""
        form = self.form() if form is None else form
        bias, rest, size = self._bias()
        unit, gamma = self._unit()
        x, a = (unit * _finite_or_nan(y) for y in (self.inputs, self.points))
        center = a.mean(axis=0, keepdims=True)
        # A larger factor goes with distances that are not for a plain tile.
        small = jnp.minimum(gamma, 4.0)
        norms = [small * ((y - center) ** 2).sum(axis=1) for y in (x, a)]
        one, zero, one_a = jnp.ones_like(norms[0]), 0.0 * norms[0], 0.0 * norms[1] + 1
        return SoftmaxFactors(
            lay_out(
                form,
                [2.0 * small * (x - center), -norms[0], one],
                [x, gamma * one, zero, zero, norms[0]],
            ),
            lay_out(
                form,
                [a - center, one_a, bias + rest - norms[1]],
                [a, one_a, bias, rest, norms[1] + size],
            ),
            form,
        )

    def _unit(self) -> tuple[Array, Array]:
        """A power of 2 for coordinates, and γ / unit²; no square leaves the range."""
        dtype = self.inputs.dtype
        gamma = jnp.where(self.gamma > 0, _finite_or_nan(self.gamma), jnp.nan)
        more = jnp.zeros((), dtype) if self.exponent is None else self.exponent
        more = more.astype(jnp.int32)
        largest = [jnp.abs(y).max() for y in (self.inputs, self.points)]
        _, reach = jnp.frexp(jnp.maximum(*largest))
        _, twice = jnp.frexp(gamma)
        k = jnp.minimum(twice // 2 + more, 50 - reach)
        k = jnp.clip(k, *_exponents(dtype))
        # By halves, neither of which leaves the range of the dtype.
        half = jnp.ldexp(jnp.ones((), dtype), jnp.clip(more - k, *_exponents(dtype)))
        return (
            jnp.ldexp(jnp.ones((), dtype), k),
            jnp.minimum(gamma * half * half, _LARGE),
        )

    def _size(self) -> float:
        """The largest γ|x − c|² + γ|a − c|², on the host."""
        points = np.asarray(self.points)
        center = points.mean(axis=0, dtype=np.float64).astype(points.dtype)
        reach = [_largest_norm(np.asarray(y) - center) for y in (self.inputs, points)]
        more = 0 if self.exponent is None else int(self.exponent)
        return sum(float(self.gamma) * np.ldexp(r, more) ** 2 for r in reach)

    def at(self, x_new: ArrayLike) -> Rbf:
        """New inputs, shape (k, d).

        Those farther from all points than log weights can tell them apart are moved to
        that distance, on a straight line to the middle: their law is one point's.
        """
        new = self._within_reach(new_rows(x_new, self.points))
        return dataclasses.replace(self, inputs=new, p_x=uniform_law(new))

    def _within_reach(self, new: Float[Array, "k d"]) -> Float[Array, "k d"]:
        """Inputs at most 2¹⁵ / √γ or 2¹⁰ radii of the points away (float32)."""
        digits = jnp.finfo(new.dtype).nmant
        unit, gamma = self._unit()
        center = (self.points / len(self.points)).sum(axis=0, keepdims=True)
        radius = _norms(self.points - center).max()
        wide = jnp.ldexp(jnp.ones((), new.dtype), 3 * digits // 4 - 2)
        reach = jnp.maximum(wide / jnp.sqrt(gamma) / unit, wide / 32.0 * radius)
        away = new - center
        share = jax.lax.stop_gradient(reach / _norms(away))[:, None]
        return jnp.where(share < 1.0, center + share * away, new)

    def reverse(self) -> Rbf:
        """P(x|a) ∝ P_X(x) exp(−γ|x − a|²) / Z(x): again of this kind."""
        p_a, bias, rest = _reversed_law(self, form=self.form())
        return Rbf(self.points, self.inputs, self.gamma, bias, p_a, rest, self.exponent)


@pytree_dataclass
class Attention(SoftmaxContext):
    """P⁺(a|x) ∝ exp(scale ⟨q_x, k_a⟩ + b_a): an attention map (theory.md §4).

    Attributes:
        queries: q, shape (n, d), floating.
        keys: k, shape (m, d).
        scale: shape ().
        bias: b, shape (m,).
        p_x: law of X, shape (n,).
        bias_rest: what rounding left out of `bias`, shape (m,); None: nothing.
        exponent: for a scale that the dtype does not hold, which then is
            scale · 4^exponent; shape (), a whole number; None: 0.
    """

    queries: Float[Array, "n d"]
    keys: Float[Array, "m d"]
    scale: Float[Array, ""]
    bias: Float[Array, " m"]
    p_x: Float[Array, " n"]
    bias_rest: Float[Array, " m"] | None = None
    exponent: Float[Array, ""] | None = None

    def form(self) -> Form:
        """One way for small scores, another for large ones."""
        return self._choose("inner", self.keys.shape[1], self._size)

    def scores(self, form: Form | None = None) -> SoftmaxFactors:
        """Scale · ⟨q, k⟩ + b_a, of queries and keys in units of their largest."""
        form = self.form() if form is None else form
        bias, rest, size = self._bias()
        q, first = _in_unit(_finite_or_nan(self.queries))
        k, second = _in_unit(_finite_or_nan(self.keys))
        power = first + second
        if self.exponent is not None:
            power = power + 2 * self.exponent.astype(jnp.int32)
        scale = _finite_or_nan(self.scale)
        for part in (power // 2, power - power // 2):
            scale = scale * jnp.ldexp(jnp.ones((), q.dtype), part)
        # Beyond it every law is its largest entry, to all digits.
        most = -FLOOR / (2.0**20 * form.width)
        scale = jnp.clip(scale, -most, most)
        norms = [jnp.sqrt((y * y).sum(axis=1)) for y in (q, k)]
        half = 0.5 * jnp.abs(scale)
        sizes = half * norms[0] * norms[1].max(), half * norms[1] * norms[0].max()
        one, zero, one_k = jnp.ones_like(norms[0]), 0.0 * norms[0], 0.0 * norms[1] + 1
        return SoftmaxFactors(
            lay_out(
                form, [scale * q, zero, one], [q, scale * one, zero, zero, sizes[0]]
            ),
            lay_out(
                form, [k, one_k, bias + rest], [k, one_k, bias, rest, sizes[1] + size]
            ),
            form,
        )

    def _size(self) -> float:
        """|scale| times the largest norms, on the host."""
        reach = [_largest_norm(np.asarray(y)) for y in (self.queries, self.keys)]
        more = 0 if self.exponent is None else int(self.exponent)
        scale = np.ldexp(np.abs(float(self.scale)), more)
        return scale * reach[0] * np.ldexp(reach[1], more)

    def at(self, x_new: ArrayLike) -> Attention:
        """New queries, shape (k, d)."""
        new = new_rows(x_new, self.keys)
        return dataclasses.replace(self, queries=new, p_x=uniform_law(new))

    def reverse(self) -> Attention:
        """Attention from the keys to the queries, by Bayes' rule."""
        p_a, bias, rest = _reversed_law(self, form=self.form())
        return Attention(
            self.keys, self.queries, self.scale, bias, p_a, rest, self.exponent
        )


def _normalised(
    scores: SoftmaxFactors, tile_size: int
) -> tuple[SoftmaxFactors, Array, Array]:
    """Factors of the law, and the two parts of log Z."""
    lse = functools.partial(logsumexp_rows, form=scores.form, tile_size=tile_size)
    queries, high, low = normalise(scores.form, scores.queries, scores.keys, lse)
    return dataclasses.replace(scores, queries=queries), high, low


# Compiled for eager callers: a program for a form and shapes, as a search is.
@functools.partial(jax.jit, static_argnames="form")
def _table(context: SoftmaxContext, *, form: Form) -> Float[Array, "n m"]:
    return context.p_x[:, None] * jnp.exp(context.factors(form=form).logs())


@functools.partial(jax.jit, static_argnames="form")
def _draws(
    context: SoftmaxContext, key: Array, x: Array, row_offset: Any, *, form: Form
) -> Int[Array, "..."]:
    scores = context.scores(form)
    rows = x.reshape(-1)
    keys = row_keys(key, rows.shape[0], row_offset)

    def draw(pair: tuple[Array, Array]) -> Array:
        return jax.vmap(jax.random.categorical)(pair[0], scores.logs(pair[1]))

    at_once = _CHUNK // scores.keys.shape[0]
    return _in_chunks(draw, (keys, rows), at_once).reshape(x.shape)


@functools.partial(jax.jit, static_argnames="form")
def _log_densities(
    context: SoftmaxContext, a: Array, x: Array, *, form: Form
) -> Float[Array, "..."]:
    scores = context.scores(form)
    rows, columns = x.reshape(-1), a.reshape(-1)
    if rows.size < len(scores.queries):
        part = dataclasses.replace(scores, queries=scores.queries[rows])
        queries = _normalised(part, _BLOCK)[0].queries
    else:
        queries = _normalised(scores, _BLOCK)[0].queries[rows]

    def one(pair: tuple[Array, Array]) -> Array:
        query, column = pair
        return exponents(form, query[None], scores.keys[column][None])[0, 0]

    at_once = _CHUNK // scores.keys.shape[1]
    return _in_chunks(jax.vmap(one), (queries, columns), at_once).reshape(x.shape)


@functools.partial(jax.jit, static_argnames="form")
def _dual_kernel(
    context: SoftmaxContext, x: Array, x2: Array, *, form: Form
) -> Float[Array, "k l"]:
    factors = context.factors(form=form)
    p_a = context.context_law(factors)
    one, two = (jnp.exp(factors.logs(i)) for i in (x, x2))
    return mm(one * safe_reciprocal(p_a)[None, :], two.T)


@functools.partial(jax.jit, static_argnames="form")
def _reversed_law(context: SoftmaxContext, *, form: Form) -> tuple[Array, Array, Array]:
    """P_A, and log P_X(x) − log Z(x) of P(x|a) ∝ e^{…}, in two parts."""
    factors, high, low = _normalised(context.scores(form), _BLOCK)
    there = context.p_x > 0
    log_p_x = jnp.log(jnp.where(there, context.p_x, 1.0))
    p_a = context.context_law(factors)
    return p_a, jnp.where(there, -high, MASKED), jnp.where(there, log_p_x - low, 0)


def _in_chunks(function: Callable[[Any], Array], arrays: Any, size: int) -> Array:
    """`function` on so many rows at a time: of arrays, to one array."""
    n = jax.tree.leaves(arrays)[0].shape[0]
    size = max(1, size)
    if n <= size:
        return function(arrays)
    index = (jnp.arange(-(-n // size) * size) % n).reshape(-1, size)
    chunks = jax.lax.map(
        lambda i: function(jax.tree.map(lambda x: x[i], arrays)), index
    )
    return chunks.reshape(-1, *chunks.shape[2:])[:n]


def _finite_or_nan(x: Array) -> Array:
    """What a trace cannot refuse must not look like a law."""
    return jnp.where(jnp.isfinite(x), x, jnp.nan)


def _exponents(dtype: Any) -> tuple[int, int]:
    """Powers of 2 that are far inside the range of a dtype."""
    info = jnp.finfo(dtype)
    return int(info.minexp) + 1, int(info.maxexp) - 2


def _in_unit(x: Array) -> tuple[Array, Array]:
    """The array in a power of 2 near its largest entry, and the exponent of that."""
    _, exponent = jnp.frexp(jnp.abs(x).max())
    exponent = jnp.clip(exponent, *(-e for e in reversed(_exponents(x.dtype))))
    return x * jnp.ldexp(jnp.ones((), x.dtype), -exponent), exponent


def _norms(x: Float[Array, "n d"]) -> Float[Array, " n"]:
    """Of rows; no square leaves the range."""
    unit = jnp.abs(x).max(axis=1)
    scaled = x * safe_reciprocal(unit)[:, None]
    return unit * safe_sqrt((scaled * scaled).sum(axis=1))


def _largest_norm(x: np.ndarray) -> float:
    """Of a row; no square leaves the range."""
    unit = float(np.abs(x).max(initial=0))
    if not unit:
        return 0.0
    scaled = x / x.dtype.type(unit)
    return unit * float(np.einsum("ij,ij->i", scaled, scaled).max()) ** 0.5


def _number(
    value: ArrayLike, name: str, dtype: Any
) -> tuple[Float[Array, ""], Float[Array, ""] | None]:
    """A scalar in a dtype; where that cannot hold it, as a number times 4^exponent."""
    given = as_real(value, name)
    check_ndim(given, 0, name)
    if not is_concrete(given):
        return jnp.asarray(given, dtype), None
    exact = np.asarray(given, np.float64)
    low, high = (np.ldexp(1.0, e) for e in _exponents(dtype))
    size = np.abs(exact)
    if not np.isfinite(exact) or exact == 0 or low <= size <= high:
        return jnp.asarray(exact, dtype), None
    exponent = int(np.frexp(exact)[1]) // 2
    return (
        jnp.asarray(np.ldexp(exact, -2 * exponent), dtype),
        jnp.asarray(exponent, dtype),
    )


def rbf(x: ArrayLike, gamma: ArrayLike = 1.0, p_x: ArrayLike | None = None) -> Rbf:
    """The Gaussian-kernel context: P⁺(a|x) ∝ exp(−γ|x − a|²), a among x.

    One of the contexts of Zhai et al. 2025 (CTX), §5 (theory.md §4). Work is done in
    tiles: `association_operator(context, storage="dense")` stores n × n, nothing else.
    Rows of the law sum to 1 to rounding, which in float32 is 1e-5 at most: where
    γ(|x − c|² + |a − c|²) about the mean c is just below 128, beyond which they are
    formed otherwise, or γ|x − a|² is near 1e9 for all a (theory.md §4.4).
    All that is differentiated of it is in reverse mode: JAX refuses `jax.jvp` and
    `jax.jacfwd` (use `jax.vjp` and `jax.jacrev`).

    Args:
        x: features, shape (n, d), floating or integer.
        gamma: γ > 0 in units of 1 / x².
        p_x: law of X, shape (n,), non-negative; normalised; None: uniform.

    Raises:
        ValueError: if `x` is not a finite matrix or `gamma` not positive.
    """
    points = as_features(x, "x")
    scale, exponent = _number(gamma, "gamma", points.dtype)
    check_values(scale, "gamma", lambda v: (v > 0) & np.isfinite(v), "positive")
    zeros = jnp.zeros(points.shape[:1], points.dtype)
    return Rbf(points, points, scale, zeros, _law(p_x, points), exponent=exponent)


def attention(
    queries: ArrayLike,
    keys: ArrayLike,
    scale: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    p_x: ArrayLike | None = None,
) -> Attention:
    """The context of an attention map: P⁺(a|x) ∝ exp(scale ⟨q_x, k_a⟩ + b_a).

    The read-out of values g is T g (theory.md §4). For a map that is already computed
    use `conditional(weights)`. Rows sum to 1 to rounding, which in float32 is 1e-5 at
    most: where |scale| |q| |k| is just below 128. Gradients are in reverse mode only,
    as those of `rbf`.

    Args:
        queries: shape (n, d), floating.
        keys: shape (m, d), floating.
        scale: shape (); None: 1 / √d.
        bias: log weight of each key, shape (m,); None: 0.
        p_x: law of the queries, shape (n,), non-negative; normalised; None: uniform.

    Raises:
        ValueError: if shapes do not agree or a value is not finite.
    """
    q = as_features(queries, "queries")
    k = as_features(keys, "keys").astype(q.dtype)
    if q.shape[1] != k.shape[1]:
        msg = (
            "queries and keys must have the same width;"
            f" got shapes {q.shape} and {k.shape}"
        )
        raise ValueError(msg)
    given = q.shape[1] ** -0.5 if scale is None else scale
    factor, exponent = _number(given, "scale", q.dtype)
    check_finite(factor, "scale")
    offset = (
        jnp.zeros(k.shape[:1], k.dtype)
        if bias is None
        else as_floating(bias, "bias").astype(k.dtype)
    )
    if offset.shape != k.shape[:1]:
        msg = f"bias must have shape {k.shape[:1]}; got {offset.shape}"
        raise ValueError(msg)
    check_finite(offset, "bias")
    return Attention(q, k, factor, offset, _law(p_x, q), exponent=exponent)


def _law(p_x: ArrayLike | None, rows: Array) -> Float[Array, " n"]:
    if p_x is None:
        return uniform_law(rows)
    return as_law(p_x, "p_x", rows.shape[0], rows.dtype)
