"""What labelled rows left out choose: a transform and a ridge, or the α of a walk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_concrete, check_integer
from contexture_jax._core.either import as_devices, product, quotient
from contexture_jax._core.types import Array, ArrayLike, Float, short_repr
from contexture_jax.operators import AssociationOperator
from contexture_jax.prediction._equations import on_inputs, solve_columns
from contexture_jax.prediction._propagation import (
    Propagation,
    as_alpha,
    check_walk,
    label_propagation,
    walked_from,
)
from contexture_jax.prediction._ridge import RIDGES, as_ridges, least, ridge
from contexture_jax.prediction._stkr import STKRFit, as_labelled, as_tolerance, stkr
from contexture_jax.prediction._target import Target, fold_rows, held_out
from contexture_jax.prediction._transform import SpectralTransform, Truncation

__all__ = ["PropagationChoice", "STKRChoice", "choose_propagation", "choose_stkr"]

_ALPHAS = (0.8, 0.95, 0.99)


@short_repr
class STKRChoice(NamedTuple):
    """What labelled rows left out prefer.

    Attributes:
        fit: by all labels, with the transform and the ridge that are best.
        transform: the number of that transform.
        ridge: that β.
        errors: on rows left out, one row a transform and one column a β: the share that
            is misclassified, or `squared_errors`. Shape (transforms, ridges).
        squared_errors: the mean squared residual over the variance of the labels.
    """

    fit: STKRFit
    transform: int
    ridge: float
    errors: Float[Array, "transforms ridges"]
    squared_errors: Float[Array, "transforms ridges"]


def choose_stkr(
    op: AssociationOperator,
    labels: ArrayLike,
    rows: ArrayLike,
    *,
    transforms: Sequence[SpectralTransform | Truncation],
    ridges: ArrayLike = RIDGES,
    folds: int | ArrayLike = 5,
    weights: ArrayLike | None = None,
    num_classes: int | None = None,
    tol: float | None = None,
    max_iterations: int = 1000,
) -> STKRChoice:
    """The best of several transforms and ridges for `stkr`, by folds of labelled rows.

    Those left out of a fold keep their place among the inputs and lose their label. All
    folds of one transform and one β are columns of one system, so that k folds take
    wider products and not more of them; of a `truncation` they are in closed form
    (`ridge`). Of equal errors the least squared one counts, then the first.

    Args:
        op: as of `stkr`, with an intercept.
        labels: likewise.
        rows: likewise.
        transforms: candidates for s: `polynomial`, `inverse_laplacian`, …
        ridges: candidates for β, positive.
        folds: k: label i is in fold i mod k; or names of the folds, shape (l,).
        weights: as of `stkr`.
        num_classes: likewise.
        tol: likewise.
        max_iterations: likewise.

    Raises:
        TypeError: as `stkr`, and if an argument is traced.
        ValueError: as `stkr`, and if there are no transforms.
    """
    check_concrete((labels, rows, weights, ridges), "what is chosen by")
    numbers, target, w = as_labelled(op, labels, rows, weights, num_classes)
    betas = as_ridges(ridges, op.dtype)
    if len(transforms) == 0:
        raise ValueError("transforms must hold at least 1 candidate; got none")
    check_integer(max_iterations, "max_iterations", low=1)
    blocks = fold_rows(folds, len(numbers))
    held = held_out(*blocks, len(numbers)).T
    limit = as_tolerance(tol, op.dtype), max_iterations
    # Of few labels, on the host: what is solved has one shape for any number of them.
    at, masses, candidates = (np.asarray(part) for part in (numbers, w, betas))
    found = []
    for transform in transforms:
        if isinstance(transform, Truncation):
            left, _ = transform.features()
            fit = ridge(
                np.asarray(left)[at],
                labels,
                ridges=betas,
                folds=folds,
                weights=w,
                num_classes=num_classes,
            )
            found.append((fit.errors[0], fit.squared_errors[0]))
            continue
        each = [
            _left_out(op, at, target, masses, held, transform, beta, limit)
            for beta in candidates
        ]
        found.append(tuple(map(np.stack, zip(*each, strict=True))))
    errors, squared = (np.stack(part) for part in zip(*found, strict=True))
    best = int(least(errors, squared))
    which, beta = best // len(candidates), float(candidates[best % len(candidates)])
    fit = stkr(
        op,
        labels,
        rows,
        transform=transforms[which],
        ridge=beta,
        weights=weights,
        num_classes=num_classes,
        tol=tol,
        max_iterations=max_iterations,
    )
    return STKRChoice(fit, which, beta, *as_devices((errors, squared)))


def _left_out(
    op: AssociationOperator,
    rows: np.ndarray,
    target: Target,
    w: np.ndarray,
    held: np.ndarray,
    transform: SpectralTransform,
    beta: Any,
    limit: tuple[Array, int],
) -> tuple[Any, Any]:
    """The errors on labels left out, of one transform and one β."""
    columns = np.asarray(target.columns)
    y = np.concatenate([columns, np.ones_like(w)[:, None]], axis=1)
    # (l, k, c + 1): every fold has its own labels and its own intercept.
    seen = np.where(held, 0, w[:, None])
    pulls = seen[:, :, None] * y[:, None, :]
    wide = np.broadcast_to(seen[:, :, None], pulls.shape)
    mass, pull = (
        on_inputs(rows, part.reshape(len(w), -1), op.shape[0]) for part in (wide, pulls)
    )
    solved = solve_columns(
        op,
        mass,
        pull,
        jnp.asarray(np.full(pull.shape[1], beta, op.dtype)),
        transform,
        *limit,
        rows=np.unique(rows),
        centred=True,
    )
    at_labels = np.asarray(solved.values)[rows].reshape(pulls.shape)
    missing = pulls.sum(axis=0) - (wide * at_labels).sum(axis=0)
    with np.errstate(all="ignore"):
        b = (missing[:, :-1] / missing[:, -1:])[None]
        scores = at_labels[:, :, :-1] - b * (at_labels[:, :, -1:] - 1)
    # (l, c): each label by the fold that has not seen it.
    told = np.sum(np.where(held[:, :, None], scores, 0), axis=1)
    return _errors(told, columns, w, target.classes is not None)


def _errors(
    told: np.ndarray, truth: np.ndarray, w: np.ndarray, of_classes: bool
) -> tuple[Any, Any]:
    """What is wrong of what is told of labels, and its squares over the variance."""
    spread = truth - product(w[None, :], truth)
    squared = quotient(
        np.sum(w[:, None] * (truth - told) ** 2), np.sum(w[:, None] * spread**2)
    )
    if not of_classes:
        return squared, squared
    wrong = np.argmax(told, axis=1) != np.argmax(truth, axis=1)
    return np.sum(w * wrong), squared


@short_repr
class PropagationChoice(NamedTuple):
    """What labelled rows left out prefer of Zhou's label propagation.

    Attributes:
        fit: by all labels, with the α that is best.
        alpha: that α.
        errors: on rows left out, of each α: the share that is misclassified, or
            `squared_errors`. Shape (alphas,).
        squared_errors: the mean squared residual over the variance of the labels.
    """

    fit: Propagation
    alpha: float
    errors: Float[Array, " alphas"]
    squared_errors: Float[Array, " alphas"]


def choose_propagation(
    op: AssociationOperator,
    labels: ArrayLike,
    rows: ArrayLike,
    *,
    alphas: Sequence[float] = _ALPHAS,
    folds: int | ArrayLike = 5,
    walk: Literal["double", "single"] = "double",
    num_classes: int | None = None,
    tol: float | None = None,
    max_iterations: int = 2000,
) -> PropagationChoice:
    """The best α of Zhou's `label_propagation`, by folds of labelled rows.

    Those left out of a fold stay among the inputs and lose their label. All folds of
    one α are columns of one system. Near 1 the walk is long: few labels reach far, and
    of classes of unlike sizes the largest takes inputs of all. Of equal errors the
    least squared one counts, then the first.

    Args:
        op: as of `label_propagation`.
        labels: likewise.
        rows: likewise.
        alphas: candidates for α.
        folds: k: label i is in fold i mod k; or names of the folds, shape (l,).
        walk: as of `label_propagation`.
        num_classes: likewise.
        tol: likewise.
        max_iterations: likewise.

    Raises:
        TypeError: as `label_propagation`, and if an argument is traced.
        ValueError: as `label_propagation`, and if there are no alphas.
    """
    check_concrete((labels, rows), "what is chosen by")
    numbers, target, w = as_labelled(op, labels, rows, None, num_classes)
    candidates = [as_alpha(alpha) for alpha in alphas]
    if not candidates:
        raise ValueError("alphas must hold at least 1 candidate; got none")
    check_walk(op, numbers, walk)
    limit = as_tolerance(tol, op.dtype)
    max_iterations = check_integer(max_iterations, "max_iterations", low=1)
    held = held_out(*fold_rows(folds, len(numbers)), len(numbers)).T
    each = [
        _walked_out(
            op,
            np.asarray(numbers),
            np.asarray(target.columns),
            np.asarray(w),
            held,
            jnp.asarray(alpha, op.dtype),
            limit,
            of_classes=target.classes is not None,
            is_single=walk == "single",
            max_iterations=max_iterations,
        )
        for alpha in candidates
    ]
    errors, squared = map(np.stack, zip(*each, strict=True))
    alpha = candidates[int(least(errors, squared))]
    fit = label_propagation(
        op,
        labels,
        rows,
        alpha=alpha,
        walk=walk,
        num_classes=num_classes,
        tol=tol,
        max_iterations=max_iterations,
    )
    return PropagationChoice(fit, alpha, *as_devices((errors, squared)))


def _walked_out(
    op: AssociationOperator,
    rows: np.ndarray,
    truth: np.ndarray,
    w: np.ndarray,
    held: np.ndarray,
    alpha: Array,
    tol: Array,
    *,
    of_classes: bool,
    is_single: bool,
    max_iterations: int,
) -> tuple[Any, Any]:
    """The errors on labels left out, of one α."""
    y = np.concatenate([truth, np.ones_like(truth[:, :1])], axis=1)
    # (l, k, c + 1): every fold has its own labels, and what leads to them.
    seen = np.where(held[:, :, None], 0, y[:, None, :])
    f, _, _ = walked_from(
        op,
        on_inputs(rows, seen.reshape(len(w), -1), op.shape[0]),
        alpha,
        tol,
        is_zhou=True,
        is_single=is_single,
        max_iterations=max_iterations,
    )
    at_labels = np.asarray(f)[rows].reshape(seen.shape)
    told = np.sum(np.where(held[:, :, None], at_labels, 0), axis=1)
    mass = np.where(held, 0, w[:, None])
    means = quotient(product(mass.T, truth), np.sum(mass, axis=0)[:, None])
    # As of a fit: where no label leads, the mean of the labels.
    shares = quotient(told[:, :-1], told[:, -1:])
    shares = np.where(told[:, -1:] > 0, shares, product(held.astype(w.dtype), means))
    return _errors(shares, truth, w, of_classes)
