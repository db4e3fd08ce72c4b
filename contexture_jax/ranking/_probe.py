"""The error of ridge probes on functions: splits, dimensions and ridges at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from contexture_jax._core.checks import (
    as_array,
    check_coefficient,
    check_finite,
    check_integer,
    check_ndim,
)
from contexture_jax._core.threads import in_threads
from contexture_jax._core.types import ArrayLike, Float, short_repr
from contexture_jax.prediction import held_out_rows

__all__ = ["RIDGES", "ProbeErrors", "RidgeProbe"]

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_FEWEST_ROWS = 8
_OF_ALL = (
    0.1  # the share of the variance of all rows that is the least unit of an error
)


@short_repr
class ProbeErrors(NamedTuple):
    """Errors on rows left out, mean and standard deviation over the splits.

    Attributes:
        error: of the first `dim` functions: the share that is misclassified, or the
            mean squared error over the variance of these rows, or over a tenth of
            that of all rows if it is less.
        error_std: over the splits.
        squared_error: the mean squared error, likewise, of classes too, at the ridge
            that validation prefers by that.
        validated_dim: the median number of functions that validation prefers.
        validated_error: of as many as it prefers in each split.
        validated_error_std: over the splits.
        validated_squared_error: as `squared_error`, and d chosen by it too.
    """

    error: float
    error_std: float
    squared_error: float
    validated_dim: int
    validated_error: float
    validated_error_std: float
    validated_squared_error: float


class RidgeProbe:
    """Ridge regression on the first d functions, fitted, chosen and judged apart.

    In each split a quarter of the rows is left out for the error, a quarter of the rest
    for validation (of each class, as `prediction.held_out_rows` does), and
    w = argmin ‖y − b − z w‖² / k + α ‖w‖² is fitted on the k others. Validation chooses
    α, and d too where it is not given, by the error that is told; where shares
    misclassified are equal, by the squared error. Classes are indicators, predicted by
    the largest value.

    Args:
        y: the target, shape (n,): integers are classes, floating numbers numbers.
        num_splits: how many.
        ridges: the values of α, above 0.
        seed: of the splits.

    Attributes:
        num_rows: n.
        is_of_classes: whether `y` holds classes.

    Raises:
        ValueError: if there are fewer than 8 rows, `y` is constant, or a ridge is not
            above 0.
    """

    def __init__(
        self,
        y: ArrayLike,
        *,
        num_splits: int = 5,
        ridges: Sequence[float] = RIDGES,
        seed: int = 0,
    ) -> None:
        y = np.asarray(as_array(y, "y"))
        check_ndim(y, 1, "y")
        check_finite(y, "y")
        check_integer(num_splits, "num_splits", low=1)
        if not len(ridges):
            raise ValueError("ridges must hold at least one value; got none")
        for ridge in ridges:
            check_coefficient(ridge, "ridges", positive=True)
        if len(y) < _FEWEST_ROWS or (y == y[0]).all():
            msg = f"y must have at least {_FEWEST_ROWS} rows, and not all of one value"
            raise ValueError(f"{msg}; got {len(y)}")
        self.is_of_classes = y.dtype.kind != "f"
        self.num_rows, self._ridges = len(y), tuple(ridges)
        if self.is_of_classes:
            # (n, C)
            _, codes = np.unique(y, return_inverse=True)
            self._y = np.eye(codes.max() + 1)[codes]
        else:
            self._y = ((y - y.mean()) / y.std())[:, None]
        # That of few rows may be next to nothing.
        self._least_variance = _OF_ALL * float(self._y.var(axis=0).sum())
        self._splits = [_split(y, seed + split) for split in range(num_splits)]

    def errors(self, functions: Float[np.ndarray, "n r"], dim: int) -> ProbeErrors:
        """The errors of the first `dim` functions, and of as many as are best.

        Args:
            functions: orthonormal, shape (n, r), r ≥ 1.
            dim: of functions; as many as there are if that is fewer.
        """
        functions = np.asarray(functions, np.float64)
        rank = functions.shape[1]
        dim = min(max(dim, 1), rank)
        dims = np.unique([*np.geomspace(1, rank, 12).round().astype(int), dim])
        at = int(np.flatnonzero(dims == dim)[0])
        told, best, best_dims = [], [], []
        grids = in_threads(lambda s: self._grid(functions, dims, s), self._splits)
        for checked, errors in grids:
            for measure in range(2):
                # The second breaks the ties of the first.
                by = checked[[measure, 1]]
                told.append(errors[measure, at, _least(by[:, at])])
                which = np.unravel_index(_least(by), checked.shape[1:])
                best.append(errors[measure][which])
                best_dims.append(dims[which[0]])
        # (splits,): by the error that is told, then by the squared one.
        error, squared = np.reshape(told, (-1, 2)).T
        validated, validated_squared = np.reshape(best, (-1, 2)).T
        return ProbeErrors(
            float(error.mean()),
            float(error.std()),
            float(squared.mean()),
            int(np.median(best_dims[::2])),
            float(validated.mean()),
            float(validated.std()),
            float(validated_squared.mean()),
        )

    def guess_error(self) -> tuple[float, float]:
        """The error of no function, rows guessed as the mean of those fitted.

        Returns:
            The mean over the splits, and the standard error that the rows left out of
            one split give it.
        """
        errors, deviations = [], []
        for fit, _, test in self._splits:
            y = self._y[test]
            guess = np.broadcast_to(self._y[fit].mean(axis=0), y.shape)
            if self.is_of_classes:
                losses = guess.argmax(axis=1) != y.argmax(axis=1)
            else:
                unit = max(y.var(), self._least_variance)
                losses = ((guess - y) ** 2).sum(axis=1) / unit
            errors.append(losses.mean())
            deviations.append(losses.std() / len(test) ** 0.5)
        return float(np.mean(errors)), float(np.mean(deviations))

    def _grid(
        self,
        functions: np.ndarray,
        dims: np.ndarray,
        split: tuple[np.ndarray, np.ndarray, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Errors on the rows for validation and on those left out.

        Each of shape (2, dims, ridges): the error that is told, and the squared one.
        """
        fit, check, test = split
        mean, target_mean = functions[fit].mean(axis=0), self._y[fit].mean(axis=0)
        z, y = functions[fit] - mean, self._y[fit] - target_mean
        gram, moments = z.T @ z / len(z), z.T @ y / len(z)
        left_out = functions[check] - mean, functions[test] - mean
        shape = len(dims), len(self._ridges)
        checked, errors = np.empty((2, *shape)), np.empty((2, *shape))
        # (ridges, 1, 1)
        ridges = np.array(self._ridges)[:, None, None]
        for i, d in enumerate(dims):
            shrunk = gram[:d, :d] + ridges * np.eye(d)
            weights = np.linalg.solve(shrunk, moments[None, :d])
            # All ridges at once: few products, each of some size.
            guesses = [rows[:, :d] @ np.hstack(weights) for rows in left_out]
            for j in range(len(weights)):
                own = slice(j * y.shape[1], (j + 1) * y.shape[1])
                for rows, guess, into in zip(
                    (check, test), guesses, (checked, errors), strict=True
                ):
                    guess = guess[:, own] + target_mean
                    into[0, i, j] = self._error(guess, self._y[rows])
                    into[1, i, j] = self._squared_error(guess, self._y[rows])
        return checked, errors

    def _error(self, guess: np.ndarray, y: np.ndarray) -> float:
        if self.is_of_classes:
            return float(np.mean(guess.argmax(axis=1) != y.argmax(axis=1)))
        return self._squared_error(guess, y)

    def _squared_error(self, guess: np.ndarray, y: np.ndarray) -> float:
        variance = max(float(y.var(axis=0).sum()), self._least_variance)
        return float(((guess - y) ** 2).sum(axis=1).mean() / variance)


def _least(by: np.ndarray) -> int:
    """Where the first of two measures is least; of several, where the second is."""
    return int(np.lexsort((by[1].ravel(), by[0].ravel()))[0])


def _split(y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    test = held_out_rows(y, seed=seed)
    rest = np.flatnonzero(~test)
    check = held_out_rows(y[rest], seed=seed)
    if not test.any() or not check.any():
        raise ValueError("y must have enough rows of some class to leave some out")
    return rest[~check], rest[check], np.flatnonzero(test)
