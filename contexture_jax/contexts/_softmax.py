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
    check_key,
    is_concrete,
)
from contexture_jax._core.numerics import mm, safe_reciprocal
from contexture_jax._core.programs import program_of
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    Int,
    pytree_dataclass,
    static_field,
)
from contexture_jax.contexts._base import as_numbers
from contexture_jax.contexts._numbered import NumberedContext
from contexture_jax.contexts._ranges import finite_or_nan
from contexture_jax.contexts._sampling import row_keys
from contexture_jax.kernels import (
    MASKED,
    SAFE,
    Form,
    exp_matmul,
    exponents,
    logsumexp_rows,
    normalise,
)

__all__ = [
    "SoftmaxContext",
    "SoftmaxFactors",
    "reversed_law",
]

# Rows and columns of a tile, of which one is alive at a time.
_BLOCK = 1024
_CHUNK = 2**20  # numbers that a sampler works on at a time


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
        # (k, e) against (m, e): only the rows asked for.
        queries = self.queries if rows is None else self.queries[rows]
        return exponents(self.form, queries, self.keys)


class SoftmaxContext(NumberedContext):
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

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        return self.p_x.shape[0], self.bias.shape[0]

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
        # log Z goes into the queries: every tile is then log P⁺ itself, at most 0, and
        # its exponential overflows nowhere.
        return _normalised(self.scores(form), tile_size)[0]

    def context_law(
        self, factors: SoftmaxFactors, *, tile_size: int = _BLOCK
    ) -> Float[Array, " m"]:
        """P_A = Σ_x P_X(x) P⁺(·|x), never taken to be uniform."""
        # Keys against queries: P_A is one product of the adjoint with p_x, (n, 1).
        return exp_matmul(
            factors.keys,
            factors.queries,
            self.p_x[:, None],
            form=factors.form,
            tile_size=tile_size,
        )[:, 0]

    def table(self) -> Float[Array, "n m"]:
        """The joint law as a dense (n, m) table: for small cases."""
        return program_of(_table, self, form=self.form())()

    def sample(
        self, key: Array, x: ArrayLike, *, row_offset: ArrayLike = 0
    ) -> Int[Array, "..."]:
        """Draw one column number a ~ P⁺(·|x) for each row number in `x`.

        Each entry of `x`, counted from `row_offset`, has a key of its own. Only the
        scores of these rows are formed, some rows at a time.
        """
        check_key(key)
        x = self._inputs(x, "x")
        return program_of(_draws, self, form=self.form())(key, x, row_offset)

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Float[Array, "..."]:
        """Log P⁺(a|x) for row numbers `x` and column numbers `a` of one shape.

        Only the rows in `x` are normalised, but for calls with more rows than there
        are.
        """
        a, x = jnp.broadcast_arrays(
            as_numbers(a, "a", self.shape[1]), self._inputs(x, "x")
        )
        return program_of(_log_densities, self, form=self.form())(a, x)

    def kernel(self, x: ArrayLike, x2: ArrayLike) -> Float[Array, "k l"]:
        """The dual kernel k_X⁺ between the rows numbered `x` and `x2`.

        P_A takes all rows: as much work as an operator takes to build. For many calls
        build one, and take its products.
        """
        x, x2 = self._pair(x, x2)
        return program_of(_dual_kernel, self, form=self.form())(x, x2)

    def _bias(self) -> tuple[Array, Array, Array]:
        """Both parts, NaN for what is no number, and their size where they count."""
        bias = finite_or_nan(self.bias)
        # Two parts, as log p_x − log Z of a reversed law has more digits than one
        # number.
        rest = jnp.zeros_like(bias) if self.bias_rest is None else self.bias_rest
        # A masked column is taken out by a huge number, whose size is no rounding.
        return bias, rest, jnp.where(bias == MASKED, 0.0, jnp.abs(bias + rest))

    def _choose(self, kind: Any, width: int, size: Callable[[], float]) -> Form:
        """Plain or exact by what a plain tile cancels, or both inside a trace."""
        # No values to choose by: both layouts, and each tile takes one.
        if not is_concrete(self):
            return Form(kind, width, plain=True, exact=True)
        # Offsets are part of what a plain tile cancels.
        bias = np.abs(np.asarray(self.bias))
        bias = bias[bias < -MASKED].max(initial=0)
        # Overflow to infinity, or NaN, is "not safe" by the comparison.
        with np.errstate(all="ignore"):
            safe = bool(bias + size() <= SAFE[str(self.p_x.dtype)])
        return Form(kind, width, plain=safe, exact=not safe)


def _normalised(
    scores: SoftmaxFactors, tile_size: int
) -> tuple[SoftmaxFactors, Array, Array]:
    """Factors of the law, and the two parts of log Z."""
    lse = functools.partial(logsumexp_rows, form=scores.form, tile_size=tile_size)
    # log Z in two parts, high + low: `reversed_law` needs more digits of it than the
    # law does.
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
        # Unnormalised scores: the Gumbel trick does not see log Z.
        return jax.vmap(jax.random.categorical)(pair[0], scores.logs(pair[1]))

    # (at_once, m) logits at a time.
    at_once = _CHUNK // scores.keys.shape[0]
    drawn = _in_chunks(draw, (keys, rows), at_once)
    return drawn.astype(jnp.int32).reshape(x.shape)


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
    # Of the whole law, although only some rows meet.
    p_a = context.context_law(factors)
    one, two = (jnp.exp(factors.logs(i)) for i in (x, x2))
    return mm(one * safe_reciprocal(p_a)[None, :], two.T)


@functools.partial(jax.jit, static_argnames="form")
def reversed_law(context: SoftmaxContext, *, form: Form) -> tuple[Array, Array, Array]:
    """P_A, and log P_X(x) − log Z(x) of P(x|a) ∝ e^{…}, in two parts."""
    factors, high, low = _normalised(context.scores(form), _BLOCK)
    # log 0 is masked: rows without mass get no column in the reversed law, and no NaN
    # in the gradient.
    there = context.p_x > 0
    log_p_x = jnp.log(jnp.where(there, context.p_x, 1.0))
    p_a = context.context_law(factors)
    # b'_x = log p_x − log Z(x) of theory.md §4.4, the large part by itself.
    return p_a, jnp.where(there, -high, MASKED), jnp.where(there, log_p_x - low, 0)


def _in_chunks(function: Callable[[Any], Array], arrays: Any, size: int) -> Array:
    """`function` on so many rows at a time: of arrays, to one array."""
    n = jax.tree.leaves(arrays)[0].shape[0]
    size = max(1, size)
    if n <= size:
        return function(arrays)
    # The last chunk is filled up with the first rows again, and cut at the end: one
    # shape for all.
    index = (jnp.arange(-(-n // size) * size) % n).reshape(-1, size)
    chunks = jax.lax.map(
        lambda i: function(jax.tree.map(lambda x: x[i], arrays)), index
    )
    return chunks.reshape(-1, *chunks.shape[2:])[:n]
