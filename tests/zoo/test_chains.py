"""Contexts one after the other, and turned round, against their tables."""

import numpy as np
import pytest

from contexture_jax import zoo
from tests import oracle
from tests.conftest import X64

needs_x64 = pytest.mark.skipif(not X64, reason="compares in float64")


@needs_x64
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (zoo.cyclic([0.5, 0.5, 0, 0, 0, 0, 0, 0]), zoo.lazy_ring(8, 0.2)),
        (zoo.cyclic([0.3, 0, 0, 0, 0.7, 0, 0, 0]), zoo.cyclic([0.5, 0.5] + [0] * 6)),
        (zoo.circle(lambda u: 2 + np.cos(u) + np.sin(3 * u)), zoo.circle_heat(0.05)),
        (zoo.circle_heat(0.05), zoo.circle(lambda u: 2 + np.cos(u) + np.sin(3 * u))),
    ],
    ids=["ring", "by index, not rank", "ends before", "ends after"],
)
def test_a_convolution_is_the_walk_of_the_first_and_then_the_second(first, second):
    found = zoo.convolve(first, second)
    one, two = np.asarray(first.table()), np.asarray(second.table())
    walk = (one / one.sum(axis=0)) @ one.T / one.sum(axis=1)
    np.testing.assert_allclose(found.table(), walk @ two, atol=1e-15)
    k = min(found.num_resolved(), 30)
    expected = oracle.singular_values(walk @ two)[:k]
    np.testing.assert_allclose(found.spectrum(k), expected, atol=1e-10)
    assert k == 30 or found.num_resolved() == min(one.shape) - 1


@needs_x64
def test_weights_of_a_combination_are_equal_by_default():
    contexts = [zoo.gaussian(0.5), zoo.gaussian(-0.8)]
    np.testing.assert_array_equal(
        zoo.convex_combination(contexts).spectrum(9),
        zoo.convex_combination(contexts, [0.5, 0.5]).spectrum(9),
    )


@needs_x64
def test_reverse_exchanges_inputs_and_context_values():
    context = zoo.staff_smoking()
    back = zoo.reverse(context)
    np.testing.assert_array_equal(back.table(), np.asarray(context.table()).T)
    np.testing.assert_array_equal(back.spectrum(3), context.spectrum(3))
    assert zoo.reverse(back) is context
    walk = zoo.compose(back, context)
    np.testing.assert_allclose(walk.spectrum(3), context.spectrum(3) ** 2, rtol=1e-12)
    assert walk.table().shape == (4, 4)
    counted = zoo.gamma_poisson(2.5, 1.0)
    turned = zoo.reverse(counted)
    np.testing.assert_array_equal(turned.inputs(), counted.context_values())
    np.testing.assert_array_equal(turned.left_functions(3), counted.right_functions(3))


def test_chains_of_other_functions_are_refused():
    one, other = zoo.staff_smoking(), zoo.three_state_chain()
    with pytest.raises(ValueError, match="one context and its reverse in turn"):
        zoo.compose(one, one)
    with pytest.raises(ValueError, match="got another at position 1"):
        zoo.compose(one, zoo.reverse(other))
    with pytest.raises(ValueError, match="must share their left singular functions"):
        zoo.convolve(one, other)
    with pytest.raises(ValueError, match="must share their left singular functions"):
        zoo.convolve(zoo.gaussian(0.5), zoo.poisson_thinning(3.0, 0.4))


@needs_x64
@pytest.mark.parametrize(
    "base",
    [
        zoo.tree(3, [0.2, 0.3, 0.5]),
        zoo.tensor_product([zoo.erasure(2, 0.4), zoo.staff_smoking()]),
    ],
    ids=["indexed", "not"],
)
@pytest.mark.parametrize(
    ("walk", "exponent"),
    [
        (lambda c: zoo.compose(*[c, zoo.reverse(c)] * 3), 6),
        (lambda c: zoo.compose(zoo.compose(c, zoo.reverse(c)), c), 3),
        (lambda c: zoo.convolve(c, c), 3),
    ],
)
def test_walks_raise_singular_values_to_a_power(walk, exponent, base):
    joint = np.asarray(base.table())
    kernel = joint / joint.sum(axis=1, keepdims=True)
    back = joint.T / joint.sum(axis=0)[:, None]
    steps = [kernel if i % 2 == 0 else back for i in range(exponent)]
    expected = np.linalg.multi_dot([np.diag(joint.sum(axis=1)), *steps])
    found = walk(base)
    np.testing.assert_allclose(found.table(), expected, atol=1e-15)
    np.testing.assert_allclose(
        found.spectrum(8), base.spectrum(8) ** exponent, rtol=1e-12
    )
