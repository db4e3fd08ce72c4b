"""Multinomial logistic regression by Optax's L-BFGS."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_coefficient, check_integer
from contexture_jax._core.either import at_hand, namespace
from contexture_jax._core.numerics import mm
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    Int,
    pytree_dataclass,
)
from contexture_jax.prediction._ridge import (
    as_ridges,
    inverse_of_penalised,
    least,
    linear_scores,
    scaled,
)
from contexture_jax.prediction._status import FitStatus, code_of, status_of
from contexture_jax.prediction._target import (
    Scored,
    as_features,
    as_target,
    as_weights,
    fold_rows,
    held_out,
)

__all__ = ["LogisticFit", "logistic"]

_TOLERANCES = {4: 1e-5, 8: 1e-7}  # by bytes of a number
_FEWEST_PADDED, _MOST_PADDED = 64, 1024  # rows


@pytree_dataclass
class LogisticFit(Scored):
    """Log odds that are linear in features, and how their fit ended.

    Attributes:
        weights: shape (d, C).
        intercept: shape (C,).
        ridge: the α that was chosen, shape ().
        errors: the share of rows left out that is misclassified, for each α, shape
            (ridges,); None without folds.
        losses: the mean logarithmic loss of those, likewise.
        gradient_norm: the largest entry of the gradient, in the coordinates of
            `logistic`, shape ().
        num_iterations: shape ().
        code: how it ended, as `FitStatus.code`, shape ().
    """

    weights: Float[Array, "d C"]
    intercept: Float[Array, " C"]
    ridge: Float[Array, ""]
    errors: Float[Array, " ridges"] | None
    losses: Float[Array, " ridges"] | None
    gradient_norm: Float[Array, ""]
    num_iterations: Int[Array, ""]
    code: Int[Array, ""]

    @property
    def status(self) -> FitStatus | Any:
        """How the fit ended: a `FitStatus`; the code inside a trace."""
        return status_of(self.code)

    def scores(self, features: ArrayLike) -> Float[Array, "k C"]:
        """Log odds up to a number a row, at other rows."""
        x = as_features(features, "features", self.weights.shape[0])
        return linear_scores(x, self.weights, self.intercept)

    def probabilities(self, features: ArrayLike) -> Float[Array, "k C"]:
        """The probability of each class at other rows."""
        return jax.nn.softmax(self.scores(features), axis=1)

    def predict(self, features: ArrayLike) -> Array | np.ndarray:
        """The most probable class at other rows."""
        return self.decided(self.scores(features))


def logistic(
    features: ArrayLike,
    y: ArrayLike,
    *,
    ridges: ArrayLike = 1e-3,
    folds: int | ArrayLike | None = None,
    weights: ArrayLike | None = None,
    num_classes: int | None = None,
    tol: float | None = None,
    max_iterations: int = 500,
) -> LogisticFit:
    """Multinomial logistic regression, its penalty by folds.

    W, b = argmin −Σ_i p_i log softmax(z_i W + b)_{y_i} + (α / 2) ‖W‖², p the weights
    over their sum; a penalty of scikit-learn's C is α = 1 / (C n), of two classes
    α = 2 / (C n), as there each has its column. Optax's L-BFGS with its zoom line
    search minimises it in coordinates V, W = L⁻ᵀ V, in which the second moments of the
    centred features plus α are the identity, L Lᵀ = zᵀ P z + α I: the unit of features,
    and that they depend on each other, cost no steps. It ends where no entry of the
    gradient there is above `tol`. All fits of the folds run as one batch, and each
    fold's is of the rows that stay with their weights as they are, as in `ridge`.

    Passes by `jax.jit` and `jax.vmap`. There is no closed form for rows left out.

    Args:
        features: z, shape (n, d).
        y: classes of any kind, shape (n,).
        ridges: α, not negative, or several to choose from with `folds`.
        folds: None: nothing is left out; k: row i in fold i mod k; or names of the
            folds, shape (n,).
        weights: of the rows, shape (n,); None: alike.
        num_classes: C for classes 0, …, C − 1; needed inside a trace.
        tol: None: 1e-7 in float64, 1e-5 in float32.
        max_iterations: of L-BFGS, in each fit.

    Returns:
        The fit, with a status: of separable classes and α = 0, whose minimum is at
        infinity, the last step within range. Never NaN.

    Raises:
        TypeError: if `y` holds floating numbers, or folds are traced.
        ValueError: as `ridge`, and if several α come without folds.

    Example:
        >>> import numpy as np
        >>> import contexture_jax as cx
        >>> x = np.random.default_rng(0).normal(size=(200, 3)).astype("float32")
        >>> fit = cx.prediction.logistic(x, np.where(x[:, 0] > 0, "up", "down"))
        >>> fit.status == "converged", str(fit.predict(x[:1] + 9)[0])
        (True, 'up')
    """
    z = as_features(features, "features")
    target = as_target(y, z.shape[0], z.dtype, num_classes)
    if target.classes is None:
        raise TypeError("y must hold classes; got floating numbers: use ridge")
    p = as_weights(weights, z.shape[0], z.dtype)
    values = as_ridges(ridges, z.dtype)
    blocks = None if folds is None else fold_rows(folds, z.shape[0])
    if blocks is None and len(values) > 1:
        msg = f"ridges must be one number without folds to choose by; got {len(values)}"
        raise ValueError(msg)
    tol = _TOLERANCES[z.dtype.itemsize] if tol is None else tol
    check_coefficient(tol, "tol")
    held = None if blocks is None else held_out(*blocks, z.shape[0])
    found = _fit(
        *_padded(z, target.columns, p, held),
        values,
        jnp.asarray(tol, z.dtype),
        max_iterations=check_integer(max_iterations, "max_iterations", low=1),
    )
    return LogisticFit(target.classes, True, *found)


def _padded(z: Array, y: Array, p: Array, held: Any) -> tuple[Any, ...]:
    """Few rows at hand with rows of no weight behind, up to a power of 2.

    One program is then that of many numbers of labels.
    """
    num_rows = z.shape[0]
    given = at_hand((z, y, p))
    if num_rows > _MOST_PADDED or namespace(given[0]) is not np:
        return z, y, p, held
    size = max(_FEWEST_PADDED, 1 << (num_rows - 1).bit_length())
    more = size - num_rows
    z, y, p = (
        jnp.asarray(np.concatenate([x, np.zeros((more, *x.shape[1:]), x.dtype)]))
        for x in given
    )
    return z, y, p, None if held is None else np.pad(held, ((0, 0), (0, more)))


# One program of nested loops, for eager callers.
@functools.partial(jax.jit, static_argnames="max_iterations")
def _fit(
    z: Float[Array, "n d"],
    y: Float[Array, "n C"],
    p: Float[Array, " n"],
    held: Any,
    ridges: Float[Array, " r"],
    tol: Float[Array, ""],
    *,
    max_iterations: int,
) -> tuple[Any, ...]:
    mean, scale, z, penalty = scaled(z, p, standardize=False)
    # A fit without anything left out comes last for each α.
    none = jnp.zeros((1, len(p)), bool)
    masks = none if held is None else jnp.concatenate([held, none])

    def one(alpha: Array, mask: Array) -> tuple[Any, ...]:
        seen = jnp.where(mask, 0, p)
        shrink = alpha * penalty
        w, b, *ended = _minimise(z, y, seen, shrink, tol, max_iterations)
        scores = mm(z, w) + b[None, :]
        told = jnp.argmax(scores, axis=1) != jnp.argmax(y, axis=1)
        loss = _log_loss(scores, y)
        left_out = jnp.where(mask, p, 0)
        return w, b, *ended, jnp.sum(left_out * told), jnp.sum(left_out * loss)

    of_masks = jax.vmap(one, in_axes=(None, 0))
    w, b, norm, number, code, wrong, loss = jax.vmap(of_masks, in_axes=(0, None))(
        ridges, masks
    )
    # (r,): sums over the folds, as each row is left out once.
    wrong, loss = wrong.sum(axis=1), loss.sum(axis=1)
    best = least(wrong, loss)
    w = w[best, -1] * scale[:, None]
    intercept = b[best, -1] - mm(mean[None, :], w)[0]
    judged = (None, None) if held is None else (wrong, loss)
    ended = norm[best, -1], number[best, -1], code[best, -1]
    return w, intercept, ridges[best], *judged, *ended


def _log_loss(scores: Array, y: Array) -> Float[Array, " n"]:
    return jax.nn.logsumexp(scores, axis=1) - jnp.sum(y * scores, axis=1)


def _minimise(
    z: Array, y: Array, p: Array, shrink: Array, tol: Array, max_iterations: int
) -> tuple[Array, Array, Array, Array, Array]:
    """W and b, the largest entry of the gradient, iterations and how they ended."""
    # Here, since few who import this layer fit anything logistic.
    import optax

    inverse = inverse_of_penalised(mm((p[:, None] * z).T, z), shrink, len(p))

    def loss(params: tuple[Array, Array]) -> Array:
        v, b = params
        w = mm(inverse.T, v)
        fit = jnp.sum(p * _log_loss(mm(z, w) + b[None, :], y))
        return fit + jnp.sum(shrink[:, None] * w**2) / 2

    optimizer = optax.lbfgs(memory_size=20)
    value_and_gradient = optax.value_and_grad_from_state(loss)

    def step(state: _Descent) -> _Descent:
        params, inner = state.params, state.inner
        value, gradient = value_and_gradient(params, state=inner)
        norm = _over(jnp.maximum, lambda g: jnp.abs(g).max(), gradient)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        best = jax.tree.map(
            lambda a, b: jnp.where(finite, a, b), (*params, norm), state.best
        )
        updates, inner = optimizer.update(
            gradient, inner, params, value=value, grad=gradient, value_fn=loss
        )
        new: Any = optax.apply_updates(params, updates)
        same = jax.tree.map(lambda a, b: jnp.all(a == b), new, params)
        still = _over(jnp.logical_and, lambda x: x, same)
        done, last = norm <= tol, state.number >= max_iterations
        stop = ~finite | done | last | still
        code = code_of(finite, done, last)
        number = state.number + (~stop).astype(jnp.int32)
        return _Descent(new, best, inner, number, code, stop)

    zero = jnp.zeros((z.shape[1], y.shape[1]), z.dtype), jnp.zeros(y.shape[1], z.dtype)
    count = jnp.zeros((), jnp.int32)
    best = (*zero, jnp.full((), jnp.inf, z.dtype))
    start = _Descent(
        zero, best, optimizer.init(zero), count, count, jnp.zeros((), bool)
    )
    ended = jax.lax.while_loop(lambda state: ~state.stop, step, start)
    v, b, norm = ended.best
    return mm(inverse.T, v), b, norm, ended.number, ended.code


class _Descent(NamedTuple):
    """Where a descent is: (V, b), the last that was finite with its gradient's norm."""

    params: tuple[Array, Array]
    best: tuple[Array, Array, Array]
    inner: Any
    number: Int[Array, ""]
    code: Int[Array, ""]
    stop: Any


def _over(join: Any, of: Any, tree: Any) -> Array:
    return functools.reduce(join, [of(leaf) for leaf in jax.tree.leaves(tree)])
