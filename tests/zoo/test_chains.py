"""Contexts one after the other, and turned round, against their tables."""

from typing import Any

import jax
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


HIDDEN = {
    "walks": lambda: [
        zoo.cyclic([0.5, 0.1, 0, 0.4, 0, 0, 0, 0]),
        zoo.lazy_ring(8, 0.4),
    ],
    "parities": lambda: [zoo.binary_symmetric(4, 0.1), zoo.binary_symmetric(4, 0.8)],
    "counts": lambda: [zoo.krawtchouk(6, 0.1), zoo.krawtchouk(6, 0.7)],
    "erasures": lambda: [zoo.erasure(3, 0.1), zoo.erasure(3, 0.7)],
    "letters": lambda: [zoo.label_noise(5, 0.3), zoo.complete_graph(5)],
    "noises": lambda: [
        zoo.circle(lambda u: 2 + np.cos(u) + np.sin(3 * u)),
        zoo.circle_heat(0.05),
    ],
    "arcs": lambda: [zoo.circle_shift(4.0), zoo.circle_shift(2.0)],
    "spheres": lambda: [
        zoo.von_mises_fisher(3, 2.0),
        zoo.zonal(3, lambda t: (1.0 - t) ** 2),
    ],
    "levels": lambda: [zoo.tree(2, [0.2, 0.3, 0.5]), zoo.tree(2, [0.5, 0.4, 0.1])],
    "masks": lambda: [
        zoo.mask_law([[True, False], [False, True]], [0.3, 0.7], flip=0.1),
        zoo.mask_law([[True, True], [False, True]], [0.6, 0.4], flip=0.1),
    ],
    "one factor": lambda: [
        zoo.tensor_product([zoo.staff_smoking(), zoo.cyclic(law)])
        for law in ([0.7, 0.3, 0.0], [0.2, 0.2, 0.6])
    ],
    "itself": lambda: [zoo.staff_smoking()] * 2,
}


@needs_x64
@pytest.mark.fast("parities", "walks", "noises")
@pytest.mark.parametrize("name", HIDDEN)
def test_a_hidden_mixture_has_the_mean_of_coefficients_and_not_of_squares(name):
    parts = HIDDEN[name]()
    mixed = zoo.mixture(parts, [0.3, 0.7])
    joint = np.asarray(mixed.table())
    if name != "masks":  # whose columns are those of all masks
        one, two = (np.asarray(part.table()) for part in parts)
        np.testing.assert_allclose(joint, 0.3 * one + 0.7 * two, atol=1e-15)
    k = min(mixed.num_resolved(), 40)
    assert k >= 6 or k == min(joint.shape) - 1
    found = oracle.singular_values(joint)[:k]
    np.testing.assert_allclose(found, mixed.spectrum(k), atol=1e-10)
    energy = (np.asarray(mixed.spectrum(4000)) ** 2).sum()
    rest = 8 / 2000 if name == "arcs" else 1e-12
    assert -1e-12 <= mixed.total_energy() - energy <= rest
    if "left_functions" in mixed.capabilities:
        k = int((mixed.spectrum(k) > 1e-6).sum())
        left, right, values = map(
            np.asarray,
            (mixed.left_functions(k), mixed.right_functions(k), mixed.spectrum(k)),
        )
        scaled = joint @ right / joint.sum(axis=1)[:, None]
        np.testing.assert_allclose(scaled, left * values, atol=1e-9)


@needs_x64
def test_noises_of_opposite_signs_cancel_where_the_index_is_hidden():
    parts = [zoo.gaussian(0.6), zoo.gaussian(-0.6)]
    np.testing.assert_allclose(
        zoo.mixture(parts).spectrum(3), [0.36, 0.36**2, 0.36**3], rtol=1e-12
    )
    seen = zoo.convex_combination(parts).spectrum(3)
    np.testing.assert_allclose(seen, [0.6, 0.36, 0.6**3], rtol=1e-12)
    mixed = zoo.mixture(parts, [0.3, 0.7])
    a: Any = np.linspace(-3, 3, 5)
    expected = 0.3 * np.exp(parts[0].log_density(a, a)) + 0.7 * np.exp(
        parts[1].log_density(a, a)
    )
    np.testing.assert_allclose(np.exp(mixed.log_density(a, a)), expected, rtol=1e-12)
    drawn = np.asarray(mixed.sample(jax.random.key(0), np.ones(20_000)))
    assert abs(drawn.mean() - (0.3 - 0.7) * 0.6) < 5 / 20_000**0.5
    for other in (zoo.poisson_thinning(3.0, 0.4), zoo.gaussian(0.6, num_points=50)):
        with pytest.raises(ValueError, match=r"the same functions of X and of A, as"):
            zoo.mixture([parts[0], other])
    with pytest.raises(
        ValueError, match="weights of mixture must have length 2; got 1"
    ):
        zoo.mixture(parts, [1.0])


def test_chains_of_other_functions_are_refused():
    one, other = zoo.staff_smoking(), zoo.three_state_chain()
    with pytest.raises(ValueError, match=r"in turn, or walks.*contexts\.compose is"):
        zoo.compose(one, one)
    for apart in (
        zoo.reverse(other),
        zoo.binary_symmetric(3, 0.1),
        zoo.label_noise(4, 0.1),
    ):
        with pytest.raises(ValueError, match="at positions 0 and 1"):
            zoo.compose(one, apart)
    # A of an erasure is no X of one; the second thinning is of another mean.
    for pair in (
        [zoo.erasure(3, 0.3), zoo.binary_symmetric(3, 0.1)],
        [zoo.poisson_thinning(3.0, 0.4)] * 2,
        [zoo.cyclic([0.5, 0.5]), zoo.cyclic([0.5, 0.5, 0.0])],
        [zoo.gaussian(0.5), zoo.circle_heat(0.1)],
    ):
        with pytest.raises(ValueError, match="contexts must be one context and its"):
            zoo.compose(*pair)
    with pytest.raises(ValueError, match=r"at most 4194304; got 2500 × 2500"):
        zoo.compose(*[zoo.cyclic(np.full(2500, 1 / 2500))] * 2)
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


MASKS = [[True, False, False], [False, True, True], [False, False, True]]
COMMUTING = {
    "normals": lambda: [zoo.gaussian(0.9), zoo.gaussian(-0.8)],
    "walks": lambda: [
        zoo.cyclic([0.5, 0.1, 0, 0.4, 0, 0, 0, 0]),
        zoo.cyclic([0.3, 0, 0, 0, 0, 0.7, 0, 0]),
    ],
    "tori": lambda: [zoo.torus_walk(3, 2), zoo.reverse(zoo.torus_walk(3, 2))],
    "parities": lambda: [zoo.binary_symmetric(4, 0.1), zoo.binary_symmetric(4, 0.8)],
    "counts": lambda: [zoo.krawtchouk(6, 0.1), zoo.krawtchouk(6, 0.7)],
    "letters": lambda: [zoo.label_noise(5, 0.3), zoo.complete_graph(5)],
    "erasures behind": lambda: [zoo.binary_symmetric(3, 0.9), zoo.erasure(3, 0.3)],
    "masks behind": lambda: [
        zoo.binary_symmetric(3, 0.1),
        zoo.mask_law(MASKS, [0.2, 0.5, 0.3], flip=0.8),
    ],
    "noises": lambda: [
        zoo.circle(lambda u: 2 + np.cos(u) + np.sin(3 * u)),
        zoo.circle(lambda u: np.exp(np.sin(u - 1) + np.cos(2 * u))),
    ],
    "heats": lambda: [zoo.circle_heat(0.05), zoo.circle_heat(0.07)],
    "arcs": lambda: [zoo.circle_shift(4.0), zoo.circle_shift(2.03)],
    "spheres": lambda: [
        zoo.von_mises_fisher(3, 2.0),
        zoo.zonal(3, lambda t: (1.0 - t) ** 2),
    ],
    "thinnings": lambda: [
        zoo.poisson_thinning(3.0, 0.6),
        zoo.poisson_thinning(3.0 * 0.6, 0.4),
    ],
    "factors": lambda: [
        zoo.scarf([[0.3, 0.7], [0.2, 0.3, 0.5]], [0.2, 0.4]),
        zoo.product_erasure([[0.3, 0.7], [0.2, 0.3, 0.5]], [0.5, 0.1]),
    ],
    "mixtures": lambda: [
        zoo.mixture([zoo.gaussian(0.9), zoo.gaussian(-0.2)]),
        zoo.convex_combination([zoo.gaussian(0.8), zoo.gaussian(-0.9)]),
    ],
    "there, back and on": lambda: [
        zoo.erasure(3, 0.3),
        zoo.reverse(zoo.erasure(3, 0.3)),
        zoo.binary_symmetric(3, 0.1),
        zoo.erasure(3, 0.2),
    ],
}
# Of no finite family: the table of the chain is its own quadrature.
OF_QUADRATURES = ("normals", "arcs", "spheres", "thinnings", "mixtures")


@needs_x64
@pytest.mark.fast("parities", "walks", "arcs", "erasures behind")
@pytest.mark.parametrize("name", COMMUTING)
def test_a_chain_of_commuting_families_is_the_product_of_their_operators(name):
    parts = COMMUTING[name]()
    found: Any = zoo.compose(*parts)
    product = np.asarray(parts[0].table())
    for part in parts[1:]:
        joint = np.asarray(part.table())
        product = product @ (joint / joint.sum(axis=1, keepdims=True))
    k = min(found.num_resolved(), *(part.num_resolved() for part in parts), 40)
    assert k >= 6 or k == min(product.shape) - 1
    for table in (product, np.asarray(found.table())):
        values = oracle.singular_values(table)[:k]
        np.testing.assert_allclose(values, found.spectrum(k), rtol=0, atol=1e-10)
    if name not in OF_QUADRATURES:
        np.testing.assert_allclose(found.table(), product, atol=1e-14)
    energy = (np.asarray(found.spectrum(4000)) ** 2).sum()
    assert found.total_energy() == pytest.approx(energy, rel=1e-9)
    if "left_functions" in found.capabilities:
        k = int((found.spectrum(k) > 1e-6).sum())
        left, right = map(
            np.asarray, (found.left_functions(k), found.right_functions(k))
        )
        joint = np.asarray(found.table())
        scaled = joint @ right / joint.sum(axis=1)[:, None]
        expected = left * np.asarray(found.spectrum(k))
        law = joint.sum(axis=1)[:, None]
        np.testing.assert_allclose(law * (scaled - expected), 0, atol=1e-10)
    if "log_density" in found.capabilities and name not in OF_QUADRATURES:
        x, a = map(np.asarray, (found.inputs(), found.context_values()))
        at = np.repeat(x[1:2], len(a), axis=0)
        law = np.exp(np.asarray(found.log_density(a, at)))
        np.testing.assert_allclose(
            law / law.sum(), product[1] / product[1].sum(), atol=1e-12
        )


def test_chains_draw_what_their_parts_draw_in_turn():
    noise = zoo.compose(zoo.circle_shift(2.0), zoo.circle_heat(0.2))
    drawn = np.cos(np.asarray(noise.sample(jax.random.key(0), np.ones(20_000))) - 1.0)
    # E cos of both, which are independent and even: the first singular value.
    first = float(noise.spectrum(1)[0])
    assert abs(drawn.mean() - first) < 5 * drawn.std() / 20_000**0.5
    normal: Any = zoo.compose(*[zoo.gaussian(-0.9)] * 3)
    np.testing.assert_allclose(normal.spectrum(2), [0.9**3, 0.9**6], rtol=1e-6)
    assert normal.log_density(-(0.9**3), 1.0) > normal.log_density(0.9**3, 1.0)
    both = zoo.compose(zoo.gaussian(0.5), zoo.reverse(zoo.gaussian(0.6)))
    np.testing.assert_allclose(both.spectrum(1), 0.3, rtol=1e-6)
    heat = zoo.compose(zoo.sphere_heat(4, 0.1), zoo.sphere_heat(4, 0.2, num_nodes=20))
    np.testing.assert_allclose(heat.spectrum(4), np.exp(-0.9), rtol=1e-6)
