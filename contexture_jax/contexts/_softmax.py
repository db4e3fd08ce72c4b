"""Contexts whose conditional law is a softmax of scores: Gaussian kernels, attention.

P⁺(a|x) = exp(⟨q_x, k_a⟩ + b_a) / Z(x). Nothing of size n × m is stored.
"""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    as_floating,
    check_finite,
    check_ndim,
    check_values,
)
from contexture_jax._core.numerics import as_law, mm
from contexture_jax._core.softmax import (
    MASKED,
    augment,
    exp_matmul,
    logsumexp_rows,
)
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    Int,
    pytree_dataclass,
    short_repr,
)
from contexture_jax.contexts._base import Context

__all__ = [
    "Attention",
    "Rbf",
    "SoftmaxContext",
    "SoftmaxFactors",
    "as_features",
    "attention",
    "new_rows",
    "rbf",
    "uniform_law",
]

_BLOCK = 1024


@short_repr
class SoftmaxFactors(NamedTuple):
    """Augmented factors whose product is log P⁺(a|x), normalised.

    Attributes:
        queries: one row an input, shape (n, e).
        keys: one row a context value, shape (m, e).
    """

    queries: Float[Array, "n e"]
    keys: Float[Array, "m e"]


class SoftmaxContext(Context):
    """What all softmax contexts share; subclasses give the scores (theory.md §4)."""

    p_x: Float[Array, " n"]
    bias: Float[Array, " m"]

    _needs: ClassVar[Mapping[str, tuple[str, ...] | None]] = {
        "scores": None,
        "sample": ("scores",),
        "log_density": ("scores",),
        "kernel": ("scores",),
        "table": ("scores",),
    }

    def scores(self) -> tuple[Float[Array, "n e"], Float[Array, "m e"]]:
        """Factors of the scores, up to a constant for each row."""
        raise self._lacks("table", "scores")

    def factors(self, *, block_size: int = _BLOCK) -> SoftmaxFactors:
        """Factors of log P⁺(a|x): the scores less each row's log-sum-exp."""
        queries, keys = self.scores()
        zeros = jnp.zeros(queries.shape[:1], queries.dtype)
        raw = augment(queries, keys, zeros, self.bias)
        normaliser = logsumexp_rows(*raw, block_size=block_size)
        return SoftmaxFactors(*augment(queries, keys, -normaliser, self.bias))

    def context_law(
        self, factors: SoftmaxFactors, *, block_size: int = _BLOCK
    ) -> Float[Array, " m"]:
        """P_A = Σ_x P_X(x) P⁺(·|x), never taken to be uniform."""
        weights = self.p_x[:, None]
        return exp_matmul(
            factors.keys, factors.queries, weights, block_size=block_size
        )[:, 0]

    def table(self) -> Float[Array, "n m"]:
        """The joint law as a dense (n, m) table: for small cases."""
        queries, keys = self.factors()
        return self.p_x[:, None] * jnp.exp(mm(queries, keys.T))

    def sample(self, key: Array, x: Int[Array, "..."]) -> Int[Array, "..."]:
        """Draw one column number a ~ P⁺(·|x) for each row number in `x`."""
        queries, keys = self.factors()
        return jax.random.categorical(key, mm(queries[x], keys.T), axis=-1)

    def log_density(
        self, a: Int[Array, "..."], x: Int[Array, "..."]
    ) -> Float[Array, "..."]:
        """Log P⁺(a|x) for row numbers `x` and column numbers `a`."""
        queries, keys = self.factors()
        return (queries[x] * keys[a]).sum(axis=-1)

    def kernel(self, x: Int[Array, " k"], x2: Int[Array, " l"]) -> Float[Array, "k l"]:
        """The dual kernel k_X⁺ between the rows numbered `x` and `x2`."""
        factors = self.factors()
        p_a = self.context_law(factors)
        one, two = (jnp.exp(mm(factors.queries[i], factors.keys.T)) for i in (x, x2))
        return mm(one / p_a[None, :], two.T)

    def _reversed_bias(self) -> tuple[Float[Array, " m"], Float[Array, " n"]]:
        """P_A and the bias log P_X(x) − log Z(x) of Bayes' rule, P(x|a) ∝ e^{…}."""
        factors = self.factors()
        p_a = self.context_law(factors)
        log_p_x = jnp.where(
            self.p_x > 0, jnp.log(jnp.where(self.p_x > 0, self.p_x, 1.0)), MASKED
        )
        # `augment` puts −log Z(x) in the last column but one of the queries.
        return p_a, log_p_x + factors.queries[:, -2]


@pytree_dataclass
class Rbf(SoftmaxContext):
    """P⁺(a|x) ∝ exp(−γ|x − a|² + b_a) (theory.md §4).

    Attributes:
        inputs: shape (n, d), floating.
        points: the values of A, shape (m, d).
        gamma: γ > 0, shape ().
        bias: b, shape (m,); 0 but in a reversed context.
        p_x: law of X, shape (n,).
    """

    inputs: Float[Array, "n d"]
    points: Float[Array, "m d"]
    gamma: Float[Array, ""]
    bias: Float[Array, " m"]
    p_x: Float[Array, " n"]

    def scores(self) -> tuple[Float[Array, "n d1"], Float[Array, "m d1"]]:
        """2γ⟨x, a⟩ − γ|a|² of data moved to their mean, so that exponents are small.

        The −γ|x|² that is missing is a constant of the row.
        """
        center = self.points.mean(axis=0, keepdims=True)
        inputs, points = self.inputs - center, self.points - center
        norms = (points * points).sum(axis=1, keepdims=True)
        ones = jnp.ones((inputs.shape[0], 1), inputs.dtype)
        return (
            2.0 * self.gamma * jnp.concatenate([inputs, ones], axis=1),
            jnp.concatenate([points, -0.5 * norms], axis=1),
        )

    def at(self, x_new: ArrayLike) -> "Rbf":
        """New inputs, shape (k, d)."""
        new = new_rows(x_new, self.points)
        return Rbf(new, self.points, self.gamma, self.bias, uniform_law(new))

    def reverse(self) -> "Rbf":
        """P(x|a) ∝ P_X(x) exp(−γ|x − a|²) / Z(x): again of this kind."""
        p_a, bias = self._reversed_bias()
        # The scores leave −γ|x|² out, which was a constant of the row: no longer.
        inputs = self.inputs - self.points.mean(axis=0, keepdims=True)
        bias = bias + self.gamma * (inputs * inputs).sum(axis=1)
        return Rbf(self.points, self.inputs, self.gamma, bias, p_a)


@pytree_dataclass
class Attention(SoftmaxContext):
    """P⁺(a|x) ∝ exp(scale ⟨q_x, k_a⟩ + b_a): an attention map (theory.md §4).

    Attributes:
        queries: q, shape (n, d), floating.
        keys: k, shape (m, d).
        scale: shape ().
        bias: b, shape (m,).
        p_x: law of X, shape (n,).
    """

    queries: Float[Array, "n d"]
    keys: Float[Array, "m d"]
    scale: Float[Array, ""]
    bias: Float[Array, " m"]
    p_x: Float[Array, " n"]

    def scores(self) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
        """Scaled queries, and keys."""
        return self.scale * self.queries, self.keys

    def at(self, x_new: ArrayLike) -> "Attention":
        """New queries, shape (k, d)."""
        new = new_rows(x_new, self.keys)
        return Attention(new, self.keys, self.scale, self.bias, uniform_law(new))

    def reverse(self) -> "Attention":
        """Attention from the keys to the queries, by Bayes' rule."""
        p_a, bias = self._reversed_bias()
        return Attention(self.keys, self.queries, self.scale, bias, p_a)


def rbf(x: ArrayLike, gamma: ArrayLike = 1.0, p_x: ArrayLike | None = None) -> Rbf:
    """The Gaussian-kernel context: P⁺(a|x) ∝ exp(−γ|x − a|²), a among x.

    One of the contexts of Zhai et al. 2025 (CTX), §5 (theory.md §4). Work is done in
    tiles: `association_operator(context, storage="dense")` stores n × n, nothing else.

    Args:
        x: features, shape (n, d), floating or integer.
        gamma: γ > 0 in units of 1 / x².
        p_x: law of X, shape (n,), non-negative; normalised; None: uniform.

    Raises:
        ValueError: if `x` is not a finite matrix or `gamma` not positive.
    """
    points = as_features(x, "x")
    scale = as_floating(gamma, "gamma").astype(points.dtype)
    check_ndim(scale, 0, "gamma")
    check_values(scale, "gamma", lambda v: (v > 0) & np.isfinite(v), "positive")
    weights = _law(p_x, points)
    return Rbf(
        points, points, scale, jnp.zeros(points.shape[:1], points.dtype), weights
    )


def attention(
    queries: ArrayLike,
    keys: ArrayLike,
    scale: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    p_x: ArrayLike | None = None,
) -> Attention:
    """The context of an attention map: P⁺(a|x) ∝ exp(scale ⟨q_x, k_a⟩ + b_a).

    The read-out of values g is T g (theory.md §4). For a map that is already computed
    use `conditional(weights)`.

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
    if scale is None:
        scale = q.shape[1] ** -0.5
    factor = as_floating(scale, "scale").astype(q.dtype)
    check_ndim(factor, 0, "scale")
    offset = (
        jnp.zeros(k.shape[:1], k.dtype)
        if bias is None
        else as_floating(bias, "bias").astype(k.dtype)
    )
    if offset.shape != k.shape[:1]:
        msg = f"bias must have shape {k.shape[:1]}; got {offset.shape}"
        raise ValueError(msg)
    check_finite(offset, "bias")
    return Attention(q, k, factor, offset, _law(p_x, q))


def as_features(x: ArrayLike, name: str) -> Float[Array, "n d"]:
    """Convert to a floating matrix; raise unless it is finite and not empty."""
    values = as_floating(x, name)
    check_ndim(values, 2, name)
    if values.size == 0:
        msg = f"{name} must not be empty; got shape {values.shape}"
        raise ValueError(msg)
    check_finite(values, name)
    return values


def _law(p_x: ArrayLike | None, rows: Array) -> Float[Array, " n"]:
    if p_x is None:
        return uniform_law(rows)
    return as_law(p_x, "p_x", rows.shape[0], rows.dtype)


def uniform_law(rows: Array) -> Float[Array, " n"]:
    """The law that gives each row 1 / n."""
    n = rows.shape[0]
    return jnp.full((n,), 1.0 / n, rows.dtype)


def new_rows(
    x_new: ArrayLike, points: Array, name: str = "x_new"
) -> Float[Array, "k d"]:
    """New feature vectors: as `as_features`, of the width and dtype of `points`."""
    new = as_features(x_new, name).astype(points.dtype)
    if new.shape[1] != points.shape[1]:
        msg = f"{name} must have {points.shape[1]} columns; got shape {new.shape}"
        raise ValueError(msg)
    return new
