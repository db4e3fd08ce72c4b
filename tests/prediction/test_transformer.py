"""The transformer of scikit-learn: its own checks, pipelines, new rows."""

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import contexture_jax as cx
from contexture_jax.prediction.transformer import ContextureTransformer

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)


# All apply but one, of arrays of other libraries, which scikit-learn skips unless
# SCIPY_ARRAY_API is set: JAX would take them through NumPy.
@pytest.mark.slow
@parametrize_with_checks([ContextureTransformer(rank=3, num_neighbors=5)])
def test_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.slow_cases("rbf")
@pytest.mark.parametrize("context", ["knn", "rbf", "teacher", cx.contexts.teacher])
def test_known_rows_have_the_functions_and_new_ones_their_extension(
    context: Any,
) -> None:
    made = ContextureTransformer(context, rank=2, num_neighbors=8, random_state=0)
    found = made.fit(X)
    np.testing.assert_allclose(found.transform(X), found.result_.left, atol=1e-3)
    new = X[:5] + np.float32(0.1)
    expected = cx.extend(found.result_, found.context_, new)
    np.testing.assert_allclose(found.transform(new), expected, atol=1e-6)


def test_it_is_cloned_named_and_a_part_of_pipelines() -> None:
    made = ContextureTransformer("rbf", rank=2, gamma=0.5, random_state=0)
    cloned: Any = clone(made)
    assert cloned.get_params() == made.get_params()
    y = (X[:, 0] > 0).astype(int)
    pipeline = make_pipeline(made, LogisticRegression()).fit(X, y)
    first: Any = pipeline[:-1]
    names = first.get_feature_names_out()
    assert names.tolist() == ["contexturetransformer0", "contexturetransformer1"]
    assert pipeline.score(X, y) > 0.7


def test_bad_parameters_are_told_by_fit() -> None:
    with pytest.raises(ValueError, match='must be "knn", "rbf"'):
        ContextureTransformer("cnn").fit(X)
    with pytest.raises(ValueError, match="rank must be at least 1"):
        ContextureTransformer(rank=0).fit(X)
