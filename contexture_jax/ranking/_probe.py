"""The error of ridge probes on functions: splits, dimensions and ridges at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from contexture_jax._core.checks import (
    as_array,
    check_finite,
    check_integer,
    check_ndim,
)
from contexture_jax._core.types import ArrayLike, Float, short_repr
from contexture_jax.prediction import held_out_rows

__all__ = ["RIDGES", "ProbeErrors", "RidgeProbe"]

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_FEWEST_ROWS = 8


@short_repr
class ProbeErrors(NamedTuple):
    """Errors on rows left out, mean and standard deviation over the splits.

    Attributes:
        error: of the first `dim` functions: the share that is misclassified, or the
            mean squared error over the variance.
        error_std: over the splits.
        squared_error: the mean squared error over the variance, of classes too.
        validated_dim: the median number of functions that validation prefers.
        validated_error: of as many as it prefers in each split.
        validated_error_std: over the splits.
    """

    error: float
    error_std: float
    squared_error: float
    validated_dim: int
    validated_error: float
    validated_error_std: float


class RidgeProbe:
    """Ridge regression on the first d functions, fitted, chosen and judged apart.

    In each split a quarter of the rows is left out for the error, a quarter of the rest
    for validation (of each class, as `prediction.held_out_rows` does), and
    w = argmin ‖y − b − z w‖² / k + α ‖w‖² is fitted on the k others. Validation chooses
    α, and d too where it is not given, by the error that is told. Classes are
    indicators, predicted by the largest value.

    Args:
        y: the target, shape (n,): integers are classes, floating numbers numbers.
        num_splits: how many.
        ridges: the values of α.
        seed: of the splits.

    Raises:
        ValueError: if there are fewer than 8 rows, or `y` is constant.
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
        if len(y) < _FEWEST_ROWS or (y == y[0]).all():
            msg = f"y must have at least {_FEWEST_ROWS} rows, and not all of one value"
            raise ValueError(f"{msg}; got {len(y)}")
        self.is_of_classes = y.dtype.kind != "f"
        self._ridges = tuple(ridges)
        if self.is_of_classes:
            # (n, C)
            _, codes = np.unique(y, return_inverse=True)
            self._y = np.eye(codes.max() + 1)[codes]
        else:
            self._y = ((y - y.mean()) / y.std())[:, None]
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
        told, squared, best, best_dims = [], [], [], []
        for split in self._splits:
            # (dims, ridges): on the rows for validation, and on those left out.
            checked, errors, squares = self._grid(functions, dims, split)
            # Of equal ones the smallest d, with the largest ridge.
            at = int(np.flatnonzero(dims == dim)[0])
            ridge = len(self._ridges) - 1 - int(np.argmin(checked[at, ::-1]))
            told.append(errors[at, ridge])
            squared.append(squares[at, ridge])
            which = np.unravel_index(np.argmin(checked), checked.shape)
            best.append(errors[which])
            best_dims.append(dims[which[0]])
        return ProbeErrors(
            float(np.mean(told)),
            float(np.std(told)),
            float(np.mean(squared)),
            int(np.median(best_dims)),
            float(np.mean(best)),
            float(np.std(best)),
        )

    def _grid(
        self,
        functions: np.ndarray,
        dims: np.ndarray,
        split: tuple[np.ndarray, np.ndarray, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        fit, check, test = split
        mean, target_mean = functions[fit].mean(axis=0), self._y[fit].mean(axis=0)
        z, y = functions[fit] - mean, self._y[fit] - target_mean
        gram, moments = z.T @ z / len(z), z.T @ y / len(z)
        left_out = functions[check] - mean, functions[test] - mean
        shape = len(dims), len(self._ridges)
        checked, errors, squares = (np.empty(shape) for _ in range(3))
        # The factor of the first d functions is the first block of that of all, and so
        # is its inverse.
        inverses = [
            np.linalg.inv(np.linalg.cholesky(gram + ridge * np.eye(len(gram))))
            for ridge in self._ridges
        ]
        turned = [inverse @ moments for inverse in inverses]
        for i, d in enumerate(dims):
            weights = [
                inverse[:d, :d].T @ moment[:d]
                for inverse, moment in zip(inverses, turned, strict=True)
            ]
            # All ridges at once: few products, each of some size.
            guesses = [rows[:, :d] @ np.hstack(weights) for rows in left_out]
            for j in range(len(weights)):
                own = slice(j * y.shape[1], (j + 1) * y.shape[1])
                first, last = (guess[:, own] + target_mean for guess in guesses)
                checked[i, j] = self._error(first, self._y[check])
                errors[i, j] = self._error(last, self._y[test])
                squares[i, j] = _squared_error(last, self._y[test])
        return checked, errors, squares

    def _error(self, guess: np.ndarray, y: np.ndarray) -> float:
        if self.is_of_classes:
            return float(np.mean(guess.argmax(axis=1) != y.argmax(axis=1)))
        return _squared_error(guess, y)


def _squared_error(guess: np.ndarray, y: np.ndarray) -> float:
    variance = ((y - y.mean(axis=0)) ** 2).sum()
    return float(((guess - y) ** 2).sum() / max(variance, np.finfo(float).tiny))


def _split(y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    test = held_out_rows(y, seed=seed)
    rest = np.flatnonzero(~test)
    check = held_out_rows(y[rest], seed=seed)
    if not test.any() or not check.any():
        raise ValueError("y must have enough rows of some class to leave some out")
    return rest[~check], rest[check], np.flatnonzero(test)
