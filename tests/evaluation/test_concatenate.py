"""Embeddings side by side: what is said twice counts once."""

import numpy as np
import pytest

import contexture_jax as cx
from tests.conftest import X64
from tests.problems import features
from tests.tolerances import promised

DTYPE = np.float64 if X64 else np.float32


@pytest.mark.slow
def test_concatenation_whitens_jointly_and_keeps_what_each_part_knows():
    rng = np.random.default_rng(0)
    contexts = [cx.contexts.conditional(rng.random((14, m)) ** 4) for m in (9, 9)]
    ops = [cx.association_operator(c) for c in contexts]
    left = [(rng.normal(size=(14, 3)) * 1e3 + 5).astype(DTYPE) for _ in ops]
    # The last of the second part is in the first one, too.
    twice = np.concatenate([left[1][:, :2], left[0][:, :1] - 7.0], axis=1)
    found = cx.evaluation.concatenate(left[0], twice, contexts=[ops[0], contexts[1]])
    assert found.features.shape == (14, 5)
    gram = np.asarray(found.features).T @ np.asarray(found.features) / 14
    np.testing.assert_allclose(gram, np.eye(5), atol=promised(DTYPE))
    for value, alone, op in zip(
        found.ratio_traces, found.ratio_traces_of_parts, ops, strict=True
    ):
        direct = cx.evaluation.ratio_trace(
            np.concatenate([left[0], left[1][:, :2]], axis=1), op
        )
        np.testing.assert_allclose(value, direct, rtol=10 * promised(DTYPE))
        assert (np.asarray(alone) <= value + promised(DTYPE)).all()
    again = found.transform(left[0], twice)
    np.testing.assert_allclose(again, found.features, atol=100 * promised(DTYPE))


def test_what_cannot_be_put_side_by_side_is_refused():
    with pytest.raises(TypeError, match="at least one array of functions; got none"):
        cx.evaluation.concatenate()
    with pytest.raises(ValueError, match=r"functions\[1\]"):
        cx.evaluation.concatenate(np.ones((3, 2)), np.ones((4, 2)))
    contexts = [cx.contexts.labels([0, 1, 0, 1])]
    with pytest.raises(ValueError, match=r"contexts\[0\] must have 10 inputs.*got 4"):
        cx.evaluation.concatenate(np.ones((10, 2)), contexts=contexts)
    found = cx.evaluation.concatenate(features(DTYPE))
    with pytest.raises(ValueError, match="must have 3 columns together; got 2"):
        found.transform(np.ones((2, 2)))
