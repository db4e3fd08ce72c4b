"""Functions of a context as a transformer of scikit-learn (extra `sklearn`)."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from contexture_jax._core.checks import check_integer
from contexture_jax._core.types import summary
from contexture_jax.contexts import knn, rbf, teacher
from contexture_jax.operators import association_operator
from contexture_jax.solvers import extend, svd

__all__ = ["ContextureTransformer"]


class ContextureTransformer(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """The first singular functions of a context, at known and new rows.

    Dense numbers in, scaled as the context takes them: put `StandardScaler` before it.
    Numbers are taken in float32 unless JAX's 64-bit types are on.

    Args:
        context: "knn", "rbf", "teacher", or a function from features, shape (n, d), to
            a context that takes new ones (`at`).
        rank: how many functions; as many as there are where that is fewer.
        num_neighbors: K of "knn"; half of the rows where that is fewer.
        gamma: γ of "rbf"; None: 1 / (d · variance of all entries).
        random_state: of the solver, as scikit-learn has it.

    Attributes:
        context_: the context of the rows of `fit`.
        result_: its functions there, as `svd` returns them.
        singular_values_: shape (rank,).
        n_features_in_: d.

    Example:
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.datasets import load_wine
        >>> from sklearn.preprocessing import StandardScaler
        >>> from contexture_jax.prediction.transformer import ContextureTransformer
        >>> x, y = load_wine(return_X_y=True)
        >>> functions = ContextureTransformer("knn", rank=6, random_state=0)
        >>> model = make_pipeline(StandardScaler(), functions, LogisticRegression())
        >>> bool(model.fit(x[::2], y[::2]).score(x[1::2], y[1::2]) > 0.9)
        True
    """

    def __init__(
        self,
        context: Any = "knn",
        *,
        rank: Any = 16,
        num_neighbors: Any = 30,
        gamma: Any = None,
        random_state: Any = None,
    ) -> None:
        self.context = context
        self.rank = rank
        self.num_neighbors = num_neighbors
        self.gamma = gamma
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Any:
        """Build the context of the rows and find its functions; returns itself.

        Args:
            X: features, shape (n, d), n ≥ 2.
            y: not used; pipelines pass it.

        Raises:
            ValueError: if features or parameters are out of range.
        """
        del y
        x = self._checked(X, reset=True)
        rank = min(check_integer(self.rank, "rank", low=1), len(x) - 1)
        self.context_ = self._made(x)
        op = association_operator(self.context_)
        seed = check_random_state(self.random_state).randint(2**31)
        rank = min(rank, min(op.shape) - 1)
        self.result_, _ = svd(op, rank, key=jax.random.key(seed))
        self.singular_values_ = np.asarray(self.result_.singular_values)
        self._n_features_out = len(self.singular_values_)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The functions at rows, new or not, shape (k, rank).

        Args:
            X: features, shape (k, d).

        Raises:
            ValueError: if features do not fit those of `fit`.
        """
        check_is_fitted(self)
        x = self._checked(X, reset=False)
        return np.asarray(extend(self.result_, self.context_, x))

    def _checked(self, X: Any, *, reset: bool) -> np.ndarray:
        dtypes: Any = [np.float64, np.float32]
        least = 2 if reset else 1
        x = validate_data(self, X, reset=reset, dtype=dtypes, ensure_min_samples=least)
        return np.asarray(x, jax.dtypes.canonicalize_dtype(np.asarray(x).dtype))

    def _made(self, x: np.ndarray) -> Any:
        if callable(self.context):
            return self.context(x)
        if self.context == "knn":
            count = check_integer(self.num_neighbors, "num_neighbors", low=1)
            return knn(x, min(count, max(1, len(x) // 2)))
        if self.context == "rbf":
            spread = float(np.var(x, dtype=np.float64)) or 1.0
            gamma = self.gamma
            return rbf(x, 1 / (x.shape[1] * spread) if gamma is None else gamma)
        if self.context == "teacher":
            return teacher(x)
        msg = (
            'context must be "knn", "rbf", "teacher" or a function from features to a'
            f" context; got {summary(self.context)}"
        )
        raise ValueError(msg)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # Without x64, float64 comes back as float32.
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
