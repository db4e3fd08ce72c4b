"""Closed forms against tables, brute force, other closed forms and published digits."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from contexture_jax import zoo
from contexture_jax.contexts import CapabilityError
from tests import oracle
from tests.conftest import X64
from tests.tolerances import promised, tol

needs_x64 = pytest.mark.skipif(not X64, reason="compares in float64")

# How many leading singular values the small tables of FAMILIES must have, where a
# quadrature or a truncation stands between them and the family. All others have all.
RESOLVED = {
    "circle": 40,
    "circle_heat": 60,
    "circle_shift": 7,
    "gamma_poisson": 9,
    "gaussian": 15,
    "logistic_map": 10,
    "multivariate_gaussian": 10,
    "poisson_thinning": 10,
    "sphere_heat": 150,
    "convex_combination": 15,
    "convolve": 10,
    "mixture": 15,
    "reverse": 9,
    "von_mises_fisher": 80,
    "von_mises_fisher_on_the_circle": 12,
    "zonal": 15,
}
NAMES = sorted(zoo.FAMILIES)
WITH_TABLE = [n for n in NAMES if "table" in zoo.FAMILIES[n]().capabilities]
WITH_FUNCTIONS = [
    n for n in WITH_TABLE if "left_functions" in zoo.FAMILIES[n]().capabilities
]
KEY = jax.random.key(7)


def tolerance(name):
    return promised(np.float64) if name in RESOLVED else 1e-2 * promised(np.float64)


def all_products(*lists):
    """All but the trivial products, descending, by enumeration."""
    products = [math.prod(c) for c in itertools.product(*([1.0, *v] for v in lists))]
    return np.sort(products[1:])[::-1]


# Spectra, tables and functions of every family.


@needs_x64
@pytest.mark.parametrize("name", WITH_TABLE)
def test_table_is_a_joint_law_with_the_stated_spectrum(name):
    context = zoo.FAMILIES[name]()
    joint = np.asarray(context.table())
    assert joint.dtype == np.float64
    assert joint.shape[0] <= 300
    assert joint.shape[1] <= 600
    assert joint.min() >= 0
    assert abs(joint.sum() - 1) <= tol(np.float64, size=min(joint.shape))
    num = context.num_resolved()
    least = RESOLVED[name] if name in RESOLVED else min(joint.shape) - 1
    assert num >= least
    found = oracle.singular_values(joint)[:num]
    np.testing.assert_allclose(
        found, np.asarray(context.spectrum(num)), rtol=0, atol=tolerance(name)
    )


@needs_x64
@pytest.mark.parametrize("name", WITH_FUNCTIONS)
def test_functions_are_orthonormal_singular_functions_of_the_table(name):
    context = zoo.FAMILIES[name]()
    joint = np.asarray(context.table())
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    values = np.asarray(context.spectrum(context.num_resolved()))
    k = int((values > tol(np.float64)).sum())
    left = np.asarray(context.left_functions(k))
    right = np.asarray(context.right_functions(k))
    assert k > 0
    assert left.shape == (joint.shape[0], k)
    assert right.shape == (joint.shape[1], k)
    atol = tolerance(name)
    np.testing.assert_allclose(left.T @ (rows[:, None] * left), np.eye(k), atol=atol)
    np.testing.assert_allclose(
        right.T @ (columns[:, None] * right), np.eye(k), atol=atol
    )
    np.testing.assert_allclose(rows @ left, np.zeros(k), atol=atol)
    # T ν = s μ in L²(P_X), paired with all functions of the table that T can reach.
    images = joint @ right - rows[:, None] * left * values[:k]
    unit = images / np.sqrt(rows)[:, None]
    reach = np.linalg.svd(oracle.symmetrised(joint))[0][:, : k + 1]
    np.testing.assert_allclose(reach.T @ unit, np.zeros((k + 1, k)), atol=atol)


@needs_x64
@pytest.mark.parametrize("name", NAMES)
def test_total_energy_is_the_sum_of_squares(name):
    context = zoo.FAMILIES[name]()
    values, multiplicities = context.clusters(4000)
    total = float(np.array([float(m) for m in multiplicities]) @ values**2)
    if name == "circle_shift":  # Σ_{k>K} 2 (2/(kw))² ≤ 8 / (w² K)
        num = sum(multiplicities) / 2
        assert 0 < context.total_energy() - total <= 8 / (4.0**2 * num) * 2
    else:
        assert context.total_energy() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_spectrum_descends_agrees_with_clusters_and_has_the_default_dtype(name):
    context = zoo.FAMILIES[name]()
    spectrum = context.spectrum(50)
    assert spectrum.dtype == jnp.zeros(()).dtype
    spectrum = np.asarray(spectrum)
    assert spectrum.shape == (50,)
    assert (np.diff(spectrum) <= 0).all()
    assert spectrum.max() <= 1 + tol(spectrum.dtype)
    values, multiplicities = context.clusters(50)
    assert (np.diff(values) < 0).all()
    assert (values > 0).all()
    expanded = np.repeat(values, [min(m, 50) for m in multiplicities])[:50]
    padded = np.zeros(50)
    padded[: expanded.size] = expanded
    np.testing.assert_allclose(spectrum, padded, atol=tol(spectrum.dtype))


@pytest.mark.parametrize("name", NAMES)
def test_a_context_is_a_pytree_and_says_what_it_can_do(name):
    context = zoo.FAMILIES[name]()
    leaves, structure = jax.tree.flatten(context)
    again = jax.tree.unflatten(structure, leaves)
    np.testing.assert_array_equal(again.spectrum(5), context.spectrum(5))
    for capability in ("table", "inputs", "context_values", "left_functions"):
        arguments = (0,) if capability == "left_functions" else ()
        if capability in context.capabilities:
            getattr(context, capability)(*arguments)
        else:
            with pytest.raises(CapabilityError, match=r"has no .*; it has:.*spectrum"):
                getattr(context, capability)(*arguments)
    assert context.spectrum(0).shape == (0,)


# Large numbers of values and multiplicities, without enumeration.


@pytest.mark.parametrize("flip", [0.1, 0.8])
def test_binary_symmetric_has_binomial_multiplicities_at_any_size(flip):
    values, multiplicities = zoo.binary_symmetric(300, flip).clusters(10**40)
    assert multiplicities[:4] == (300, 44850, 4455100, 330791175)
    kept = abs(1 - 2 * flip)
    degrees = np.arange(1, values.size + 1)
    np.testing.assert_allclose(values, kept**degrees, rtol=tol(np.float64, size=300))
    assert multiplicities == tuple(math.comb(300, int(j)) for j in degrees)
    assert zoo.binary_symmetric(300, flip).spectrum(10_000).shape == (10_000,)


def test_isotropic_gaussian_has_the_multiplicities_of_homogeneous_polynomials():
    values, multiplicities = zoo.multivariate_gaussian([0.7] * 20).clusters(10_000)
    np.testing.assert_allclose(values, 0.7 ** np.arange(1, 5), rtol=1e-12)
    assert multiplicities == tuple(math.comb(k + 19, k) for k in range(1, 5))


def test_hypercube_walk_of_many_bits_keeps_the_full_parity_at_one():
    values, multiplicities = zoo.hypercube_walk(60).clusters(2**60)
    np.testing.assert_allclose(values[:3], [1, 58 / 60, 56 / 60], rtol=1e-12)
    assert multiplicities[:3] == (1, 120, 2 * 1770)
    assert sum(multiplicities) == 2**60 - 1 - math.comb(60, 30)


@needs_x64
def test_product_spectrum_is_that_of_all_products():
    contexts = [
        zoo.gaussian(0.9),
        zoo.poisson_thinning(2.0, 0.7),
        zoo.global_erasure([0.2, 0.3, 0.5], 0.4),
    ]
    lists = [np.asarray(c.spectrum(60)) for c in contexts]
    expected = all_products(*lists)[:300]
    np.testing.assert_allclose(
        zoo.tensor_product(contexts).spectrum(300), expected, rtol=1e-12
    )


@needs_x64
def test_mask_law_finds_the_largest_of_all_sets():
    rng = np.random.default_rng(3)
    masks, law = rng.random((12, 9)) < 0.4, rng.dirichlet(np.ones(12))
    expected = []
    for bits in itertools.product([False, True], repeat=9):
        misses = ~(masks & np.array(bits)).any(axis=1)
        expected.append(np.sqrt(law[misses].sum()) * 0.8 ** sum(bits))
    expected = np.sort(expected[1:])[::-1]
    found = zoo.mask_law(masks, law, flip=0.9)
    np.testing.assert_allclose(found.spectrum(400), expected[:400], atol=1e-12)


def test_mask_law_of_many_bits_needs_no_enumeration():
    never_masked = zoo.mask_law(np.zeros((1, 200), dtype=bool), [1.0])
    assert (np.asarray(never_masked.spectrum(500)) == 1).all()
    one_masked = zoo.mask_law(np.eye(60, dtype=bool), np.full(60, 1 / 60))
    values, multiplicities = one_masked.clusters(100)
    np.testing.assert_allclose(values**2, [59 / 60, 58 / 60], rtol=1e-12)
    assert multiplicities == (60, 1770)


@needs_x64
def test_torus_walk_agrees_with_its_characters():
    size, d = 6, 3
    cosines = np.cos(2 * np.pi * np.arange(size) / size)
    sums = [sum(c) / d for c in itertools.product(cosines, repeat=d)]
    expected = np.sort(np.abs(sums[1:]))[::-1]
    np.testing.assert_allclose(
        zoo.torus_walk(size, d).spectrum(size**d - 1), expected, atol=1e-12
    )


@needs_x64
@pytest.mark.parametrize("width", [0.3, 2.0, np.pi, 5.9])
def test_circle_shift_is_sorted_though_not_monotone(width):
    frequencies = np.arange(1, 20_000)
    values = np.abs(np.sin(frequencies * width / 2) / (frequencies * width / 2))
    expected = np.sort(np.repeat(values, 2))[::-1][:200]
    found = np.asarray(zoo.circle_shift(width).spectrum(200))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert (np.diff(values[:200]) > 0).any()


# Closed forms against one another and against SciPy.


@needs_x64
@pytest.mark.parametrize("dimension", [2, 3, 4, 11])
@pytest.mark.parametrize("kappa", [0.01, 3.0, 200.0])
def test_von_mises_fisher_values_are_ratios_of_bessel_functions(dimension, kappa):
    order = dimension / 2 - 1
    values, multiplicities = zoo.von_mises_fisher(dimension, kappa).clusters(300)
    degrees = np.arange(1, values.size + 1)
    expected = scipy.special.ive(order + degrees, kappa) / scipy.special.ive(
        order, kappa
    )
    np.testing.assert_allclose(values, expected, rtol=1e-10, atol=1e-300)
    assert multiplicities[0] == dimension
    if dimension == 3:
        assert multiplicities == tuple(2 * degrees + 1)


@needs_x64
@pytest.mark.parametrize("dimension", [2, 3, 6])
def test_zonal_profile_of_von_mises_fisher_has_its_spectrum(dimension):
    exact = zoo.von_mises_fisher(dimension, 2.5)
    found = zoo.zonal(dimension, lambda t: np.exp(2.5 * t))
    np.testing.assert_allclose(found.spectrum(200), exact.spectrum(200), atol=1e-12)
    assert found.total_energy() == pytest.approx(exact.total_energy(), rel=1e-12)


@needs_x64
def test_circle_of_a_sampled_density_agrees_with_the_heat_kernel():
    def density(u):
        turns = 2 * np.pi * np.arange(-5, 6)
        return np.exp(-((u[:, None] - turns) ** 2) / (4 * 0.3)).sum(axis=1)

    found, exact = zoo.circle(density), zoo.circle_heat(0.3)
    np.testing.assert_allclose(found.spectrum(30), exact.spectrum(30), atol=1e-12)
    u, zero = np.linspace(0.0, 6.0, 25), np.zeros(25)
    log_densities = [
        jax.jit(lambda c: c.log_density(u, zero))(context) for context in (found, exact)
    ]
    np.testing.assert_allclose(*log_densities, atol=1e-10)


@needs_x64
def test_krawtchouk_is_the_symmetric_part_of_the_binary_symmetric_channel():
    values = zoo.binary_symmetric(6, 0.2).clusters(63).values
    np.testing.assert_allclose(zoo.krawtchouk(6, 0.2).spectrum(6), values, rtol=1e-12)


@needs_x64
@pytest.mark.parametrize("first", [0.25, 0.5, 3.0])
def test_beta_binomial_is_the_dirichlet_multinomial_of_two_cells(first):
    # first + second = 1 makes coefficients of the recurrences 0 / 0.
    pair = zoo.beta_binomial(6, first, 0.75)
    cells = zoo.dirichlet_multinomial(6, [first, 0.75])
    np.testing.assert_allclose(
        oracle.singular_values(np.asarray(pair.table())), pair.spectrum(6)
    )
    np.testing.assert_allclose(pair.spectrum(9), cells.spectrum(9), atol=1e-14)
    order = np.argsort(np.asarray(cells.context_values())[:, 0])
    np.testing.assert_allclose(
        np.asarray(cells.table())[:, order], pair.table(), atol=1e-14
    )


@needs_x64
def test_tuple_of_erasure_copies_is_erasure_at_a_power_of_the_rate():
    conditional = np.asarray(zoo.erasure(1, 0.6).table()) * 2
    pair = (conditional[:, :, None] * conditional[:, None, :]).reshape(2, 9) / 2
    pair = pair[:, pair.sum(axis=0) > 0]
    np.testing.assert_allclose(
        oracle.singular_values(pair)[:1], zoo.erasure(1, 0.6**2).spectrum(1), rtol=1e-12
    )


@needs_x64
def test_visible_mixture_adds_index_by_index_and_not_rank_by_rank():
    steps = np.zeros((2, 12))
    steps[0, [0, 1]] = 0.5, 0.5
    steps[1, [0, 6]] = 0.3, 0.7
    walks = [zoo.cyclic(law) for law in steps]
    mixed = zoo.convex_combination(walks, [0.25, 0.75])
    joint = np.hstack([0.25 * walks[0].table(), 0.75 * walks[1].table()])
    np.testing.assert_allclose(mixed.table(), joint, atol=1e-15)
    np.testing.assert_allclose(
        mixed.spectrum(11), oracle.singular_values(joint), atol=1e-12
    )
    by_rank = [w.spectrum(11) ** 2 for w in walks]
    assert (
        np.abs(0.25 * by_rank[0] + 0.75 * by_rank[1] - mixed.spectrum(11) ** 2).max()
        > 0.1
    )


@needs_x64
@pytest.mark.parametrize(
    "contexts",
    [
        [zoo.circle(lambda u: 2 + np.cos(u) + np.sin(3 * u)), zoo.circle_heat(0.05)],
        [zoo.poisson_thinning(3.0, 0.1), zoo.poisson_thinning(3.0, 0.7)],
    ],
)
def test_visible_mixture_of_families_of_unequal_length_has_their_functions(contexts):
    mixed = zoo.convex_combination(contexts, [0.4, 0.6])
    joint, k = np.asarray(mixed.table()), 10
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    left, right = (
        np.asarray(f(k)) for f in (mixed.left_functions, mixed.right_functions)
    )
    atol = promised(np.float64)
    np.testing.assert_allclose(left.T @ (rows[:, None] * left), np.eye(k), atol=atol)
    np.testing.assert_allclose(
        right.T @ (columns[:, None] * right), np.eye(k), atol=atol
    )
    np.testing.assert_allclose(
        left.T @ joint @ right, np.diag(mixed.spectrum(k)), atol=atol
    )
    np.testing.assert_allclose(
        oracle.singular_values(joint)[:k], mixed.spectrum(k), atol=atol
    )


@needs_x64
@pytest.mark.parametrize(
    ("context", "some"),
    [
        (zoo.gaussian(0.7), slice(60, 140)),  # where the table is no tail
        (zoo.binary_symmetric(4, 0.1), slice(None)),
        (zoo.erasure(3, 0.3), slice(None)),
    ],
)
def test_kernel_is_the_dual_kernel_of_the_table(context, some):
    joint = np.asarray(context.table())
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    dual = (joint / columns) @ joint.T / np.outer(rows, rows)
    x = np.asarray(context.inputs())[some]
    np.testing.assert_allclose(
        jax.jit(lambda x: context.kernel(x, x))(x),
        dual[some, some],
        rtol=promised(np.float64),
    )


@needs_x64
@pytest.mark.parametrize(
    ("context", "at_least"),
    [
        (zoo.gaussian(-0.98), 12),
        (zoo.gaussian(0.5, num_points=17), 4),
        (zoo.poisson_thinning(40.0, 0.9), 10),
        (zoo.gamma_poisson(0.5, 0.5), 8),
        (zoo.circle_shift(1.3, num_points=401), 8),
        (zoo.circle_heat(0.02), 20),
        (zoo.von_mises_fisher(3, 4.0), 20),
    ],
)
def test_num_resolved_is_right_away_from_the_defaults(context, at_least):
    num = context.num_resolved()
    assert num >= at_least
    found = oracle.singular_values(np.asarray(context.table()))[:num]
    np.testing.assert_allclose(found, context.spectrum(num), atol=promised(np.float64))


# Published digits.


@needs_x64
def test_logistic_map_has_its_published_spectrum_and_rank():
    context = zoo.logistic_map(5)
    published = [0.8580995769, 0.8021456783, 0.4876845884, 0.4514630494]
    np.testing.assert_allclose(context.spectrum(4), published, rtol=0, atol=1e-9)
    # The published rank 11 = 2M + 1 counts the trivial value.
    assert len(context.clusters(100).values) == 10
    full = np.linalg.svd(
        oracle.symmetrised(np.asarray(context.table())), compute_uv=False
    )
    assert (full > 1e-6).sum() == 11
    finer = zoo.logistic_map(5, num_points=300)
    np.testing.assert_allclose(finer.spectrum(10), context.spectrum(10), atol=1e-13)


@needs_x64
def test_logistic_map_starts_from_its_stationary_law():
    context = zoo.logistic_map(4)
    joint = np.asarray(context.table())
    (x, weights), a = np.polynomial.legendre.leggauss(150), context.context_values()
    density_of_x = joint.sum(axis=1) / (0.5 * weights)
    density_of_a = joint.sum(axis=0) * len(a)
    found = np.fft.rfft(density_of_a) / len(a)
    phases = np.exp(-2j * np.pi * np.outer(np.arange(6), 0.5 * (1 + x)))
    expected = phases @ (0.5 * weights * density_of_x)
    np.testing.assert_allclose(found[:6], expected, atol=1e-13)


@needs_x64
def test_three_state_chain_and_staff_smoking_have_their_published_values():
    np.testing.assert_allclose(
        zoo.three_state_chain().spectrum(2), [0.7051567574, 0.5956122459], atol=1e-10
    )
    inertias = [0.0747591059, 0.0100171805, 0.0004135741]
    np.testing.assert_allclose(
        np.asarray(zoo.staff_smoking().spectrum(3)) ** 2, inertias, atol=1e-10
    )
    np.testing.assert_allclose(zoo.staff_smoking().table()[2, 0] * 193, 25)


# Errors: the message, and what provokes it.

STEP = np.array([0.0, 1.0])
REFUSED = {
    r"flip must be in \[0, 1\]; got 1.2": lambda: zoo.binary_symmetric(3, 1.2),
    "dimension must be at least 1; got 0": lambda: zoo.binary_symmetric(0, 0.1),
    r"rate must be in \[0, 1\]; got -0.1": lambda: zoo.erasure(3, -0.1),
    r"correlation must be in \(-1, 1\); got 1.0": lambda: zoo.gaussian(1.0),
    r"correlation must be in .*; got nan": lambda: zoo.gaussian(float("nan")),
    r"correlation must have 0 dim.*; got shape \(1,\)": lambda: zoo.gaussian([0.1]),
    r"keep must be in \[0, 1\); got 1.0": lambda: zoo.poisson_thinning(3.0, 1.0),
    "mean must be finite and positive": lambda: zoo.poisson_thinning(-1.0, 0.5),
    "width must be in": lambda: zoo.circle_shift(7.0),
    "num_points must be at least 1131": lambda: zoo.circle_shift(0.1).table(),
    "density must be finite and non-negative": lambda: zoo.circle(np.cos),
    "density must be smooth": lambda: zoo.circle(lambda u: np.heaviside(1 - u, 0)),
    "profile must be finite and non-negative": lambda: zoo.zonal(3, lambda t: t),
    "profile must be smooth": lambda: zoo.zonal(3, lambda t: np.heaviside(t, 0)),
    "dimension must be at least 2; got 1": lambda: zoo.sphere_heat(1, 0.1),
    "step_law must sum to 1; got a sum of 1.1": lambda: zoo.cyclic([0.5, 0.6]),
    r"marginal must be in \(0, 1\]; got 0.0": lambda: zoo.identity(STEP),
    r"move must be in \[0, 1/2\]; got 0.7": lambda: zoo.lazy_ring(5, 0.7),
    "one for each of the 1 marginals": lambda: zoo.scarf([[0.5, 0.5]], [0.1, 0.2]),
    "masks must hold booleans": lambda: zoo.mask_law([[0, 1]], [1.0]),
    "without gaps": lambda: zoo.nested([0.5, 0.5], [[0, 2]], STEP),
    "must split cells": lambda: zoo.nested(
        [0.2] * 5, [[0, 0, 0, 1, 1], [0, 0, 1, 1, 1]], [0.0, 0.5, 0.5]
    ),
    "at least one context": lambda: zoo.tensor_product([]),
    "must share their left singular functions": lambda: zoo.convex_combination(
        [zoo.gaussian(0.1), zoo.circle_heat(1.0)], [0.5, 0.5]
    ),
    "with indexed functions; got _Tabled": lambda: zoo.convex_combination(
        [zoo.staff_smoking()], [1.0]
    ),
    "k must be at least 0; got -1": lambda: zoo.gaussian(0.5).spectrum(-1),
    "k must be at most 3": lambda: zoo.erasure(2, 0.1).left_functions(4),
    "the table would have": lambda: zoo.erasure(30, 0.1).table(),
    r"x must have shape \(..., 3\)": lambda: zoo.erasure(3, 0.1).sample(
        KEY, jnp.zeros((4, 2), dtype=int)
    ),
    "x must hold integers": lambda: zoo.erasure(3, 0.1).sample(KEY, jnp.zeros((4, 3))),
    "num_points must be at least 48": lambda: zoo.logistic_map(5, num_points=20),
}
OF_TYPE = ("masks must hold booleans", "with indexed functions", "x must hold integers")


@pytest.mark.parametrize("message", list(REFUSED))
def test_wrong_parameters_are_refused_with_what_came(message):
    error = TypeError if message.startswith(OF_TYPE) else ValueError
    with pytest.raises(error, match=message):
        REFUSED[message]()


def test_high_dimensional_contexts_have_no_table_and_say_so():
    context = zoo.sphere_heat(5, 0.2)
    assert "table" not in context.capabilities
    assert "spectrum" in context.capabilities
    with pytest.raises(CapabilityError, match="has no `table`; it has: spectrum"):
        context.table()
    with pytest.raises(CapabilityError, match="has no `table`"):
        zoo.tensor_product([context, zoo.gaussian(0.5)]).table()


def test_a_product_with_vector_inputs_has_a_table_and_no_points():
    context = zoo.tensor_product([zoo.erasure(2, 0.2), zoo.krawtchouk(2, 0.1)])
    assert {"table", "left_functions"} <= set(context.capabilities)
    assert not {"inputs", "sample", "log_density"} & set(context.capabilities)
    assert context.table().shape == (12, 27)
    with pytest.raises(CapabilityError, match="has no `sample`"):
        context.sample(KEY, jnp.zeros((5, 2), dtype=int))
