"""Singular functions at new points."""

from collections.abc import Callable

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import csr_array

import contexture_jax as cx
from tests.conftest import X64
from tests.problems import features, random_table, symmetric_weights
from tests.tolerances import monte_carlo, tol

DTYPE = np.float64 if X64 else np.float32
KEY = jax.random.key(5)
POINTS = features(DTYPE, 24)
QUERIES = POINTS - 5.0
TABLE = random_table(DTYPE)
ADJACENCY = symmetric_weights(DTYPE)
ROWS_SEEN, COLUMNS_SEEN = np.nonzero(TABLE > 0)
CLASSES = np.array([3, 3, 5, 5, 9, 9, 9])

# name: context, its own inputs in the form that the constructor took, its own context
# values in that form.
CASES = {
    "knn": (cx.contexts.knn(POINTS, 5), POINTS, POINTS),
    "rbf": (cx.contexts.rbf(POINTS, 0.5), POINTS, POINTS),
    "teacher": (cx.contexts.teacher(POINTS), POINTS, POINTS),
    "attention": (
        cx.contexts.attention(QUERIES, QUERIES[:9]),
        QUERIES,
        QUERIES[:9],
    ),
    "joint": (cx.contexts.joint(TABLE), TABLE, TABLE.T),
    "joint by number": (cx.contexts.joint(TABLE), np.arange(14), np.arange(9)),
    "sparse joint": (
        cx.contexts.pairs(ROWS_SEEN, COLUMNS_SEEN, TABLE[TABLE > 0]),
        TABLE,
        TABLE.T,
    ),
    "pairs": (
        cx.contexts.pairs(ROWS_SEEN, COLUMNS_SEEN, TABLE[TABLE > 0]),
        np.arange(14),
        np.arange(9),
    ),
    "labels": (cx.contexts.labels(CLASSES), CLASSES, np.arange(3)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_at_the_points_of_the_context_it_gives_the_functions_back(name):
    context, x, a = CASES[name]
    op = cx.association_operator(context)
    result, _ = cx.svd(op, 2, key=KEY, method="krylov")
    atol = tol(DTYPE, factor=300) / float(result.singular_values[-1])
    np.testing.assert_allclose(cx.extend(result, context, x), result.left, atol=atol)
    right = cx.extend(result, context, a, side="right")
    # To the residual, which the iteration leaves on this side.
    np.testing.assert_allclose(right, result.right, atol=1e4 * atol)


@pytest.mark.slow
def test_a_graph_extends_to_known_vertices_and_new_rows():
    context = cx.contexts.graph(ADJACENCY)
    result, _ = cx.svd(cx.association_operator(context), 2, key=KEY)
    vertices = np.array([0, 1, 2, 3, 5, 6, 7])  # vertex 4 has no edges
    atol = tol(DTYPE, factor=1000)
    for x in (vertices, ADJACENCY[vertices]):
        np.testing.assert_allclose(
            cx.extend(result, context, x), result.left[vertices], atol=atol
        )
    lazy = cx.contexts.graph(ADJACENCY, lazy=True)
    with pytest.raises(ValueError, match="x_new must be row numbers here"):
        lazy.at(ADJACENCY)
    with pytest.raises(ValueError, match="x_new must have positive total mass"):
        cx.extend(result, context, ADJACENCY[[4]])


@pytest.mark.slow_cases("True")
@pytest.mark.parametrize("sparse", [False, True])
def test_known_rows_without_mass_give_zeros_and_new_ones_are_refused(sparse):
    table = TABLE.copy()
    table[3] = 0
    context = cx.contexts.joint(csr_array(table) if sparse else table)
    result, _ = cx.svd(cx.association_operator(context), 2, key=KEY)
    rows = np.array([3, 0, 5, 3])
    atol = tol(DTYPE, factor=300) / float(result.singular_values[-1])
    values = np.asarray(cx.extend(result, context, rows))
    np.testing.assert_allclose(values, np.asarray(result.left)[rows], atol=atol)
    assert (values[[0, 3]] == 0).all()
    assert (np.asarray(cx.extend(result, context, np.array([3]))) == 0).all()
    with pytest.raises(ValueError, match=r"x_new must be of positive mass.*x_new\[2\]"):
        cx.extend(result, context, table[[0, 5, 3]])


@pytest.mark.slow
def test_new_points_follow_the_formula():
    context = CASES["rbf"][0]
    result, _ = cx.svd(cx.association_operator(context), 2, key=KEY)
    new = POINTS[:3] + 0.1
    scores = -0.5 * ((new[:, None] - POINTS[None]) ** 2).sum(axis=2)
    law = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    expected = law @ np.asarray(result.right) / np.asarray(result.singular_values)
    np.testing.assert_allclose(
        cx.extend(result, context, new), expected, atol=tol(DTYPE, factor=1000)
    )


@pytest.mark.slow
def test_functions_of_value_zero_come_back_as_zero():
    context = CASES["labels"][0]
    op = cx.operators.convex_combination([cx.association_operator(context)] * 2)
    result, _ = cx.svd(op, 4, key=KEY)
    half = result._replace(right=result.right[:3])
    extended = np.asarray(cx.extend(half, context, CLASSES))
    assert (extended[:, 2:] == 0).all()
    assert np.isfinite(extended).all()


def knn_extension() -> Callable[[jax.Array], jax.Array]:
    context = CASES["knn"][0]
    result, _ = cx.svd(cx.association_operator(context), 2, key=KEY)
    return lambda x: cx.extend(result, context, x)


@pytest.mark.slow
def test_a_knn_context_extends_inside_a_trace_and_for_any_number_of_points():
    extended = knn_extension()
    new = jnp.asarray(POINTS[:3] + 0.1)
    expected = extended(new)
    atol = tol(DTYPE)
    np.testing.assert_allclose(jax.jit(extended)(new), expected, atol=atol)
    one_by_one = jax.vmap(lambda x: extended(x[None])[0])(new)
    np.testing.assert_allclose(one_by_one, expected, atol=atol)
    (count,) = jax.export.symbolic_shape("count")
    any_number = jax.ShapeDtypeStruct((count, 3), new.dtype)
    exported = jax.export.export(jax.jit(extended))(any_number)
    for some in (new, new[:1]):
        np.testing.assert_allclose(
            exported.call(some), expected[: len(some)], atol=atol
        )
    lost = jax.jit(extended)(new.at[1, 0].set(jnp.nan))
    np.testing.assert_array_equal(jnp.isnan(lost).all(axis=1), [False, True, False])
    np.testing.assert_allclose(lost[::2], expected[::2], atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("rbf", "left"),
        ("attention", "left"),
        pytest.param("rbf", "right", marks=pytest.mark.slow),
        pytest.param("attention", "right", marks=pytest.mark.slow),
        pytest.param("teacher", "left", marks=pytest.mark.slow),
    ],
)
def test_smooth_contexts_extend_to_any_number_of_points_in_an_export(name, side):
    context, x, a = CASES[name]
    result, _ = cx.svd(cx.association_operator(context), 2, key=KEY)
    points, others = (x, a) if side == "left" else (a, x)
    new = points[:3] + DTYPE(0.1)
    (count,) = jax.export.symbolic_shape("count")
    any_number = jax.ShapeDtypeStruct((count, 3), new.dtype)
    function = jax.jit(lambda x: cx.extend(result, context, x, side=side))
    exported = jax.export.export(function)(any_number)
    if name == "teacher":
        expected = np.asarray(function(new))
    else:
        wide, other = new.astype(np.float64), others.astype(np.float64)
        gaussian = -0.5 * ((wide[:, None] - other[None]) ** 2).sum(axis=2)
        scores = gaussian if name == "rbf" else wide @ other.T / 3**0.5
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        if side == "right":  # Bayes' rule, with the normaliser of each x
            full = -0.5 * ((x[:, None] - a[None]) ** 2).sum(axis=2)
            full = full if name == "rbf" else x @ a.T / 3**0.5
            full = full.astype(np.float64)
            weights = np.exp(scores - np.logaddexp.reduce(full, axis=1)[None, :])
        law = weights / weights.sum(axis=1, keepdims=True)
        functions = result.right if side == "left" else result.left
        expected = law @ np.asarray(functions, np.float64)
        expected = expected / np.asarray(result.singular_values, np.float64)
    atol = tol(DTYPE, factor=100) / float(result.singular_values[-1])
    np.testing.assert_allclose(exported.call(new), expected, atol=atol)
    np.testing.assert_allclose(exported.call(new[:1]), expected[:1], atol=atol)


@pytest.mark.slow
def test_smooth_contexts_have_gradients_in_new_points_in_reverse_mode_only():
    context = CASES["rbf"][0]
    result, _ = cx.svd(cx.association_operator(context), 2, key=KEY)

    def function(x):
        return cx.extend(result, context, x)

    new = jnp.asarray(POINTS[:3])
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(function, (new,), (new,))
    _, pull_back = jax.vjp(function, new)
    assert np.abs(pull_back(jnp.ones((3, 2), DTYPE))[0]).max() > 0.01


def test_a_gradient_in_new_points_is_refused_where_neighbours_jump():
    extended = knn_extension()
    new = jnp.asarray(POINTS[:3] + 0.1)

    def total(x: jax.Array) -> jax.Array:
        return extended(x).sum()

    for gradient in (jax.grad(total), jax.jit(jax.grad(total)), jax.jacfwd(total)):
        with pytest.raises(TypeError, match="use an rbf context"):
            gradient(new)
    held = jax.grad(lambda x: total(jax.lax.stop_gradient(x)))(new)
    np.testing.assert_array_equal(held, np.zeros_like(held))
    with pytest.raises(TypeError, match="new neighbours is laid out on the host"):
        jax.jit(CASES["knn"][0].reverse().at)(new)


def test_what_does_not_fit_is_refused():
    context = CASES["knn"][0]
    result, _ = cx.svd(cx.association_operator(context), 2, key=KEY)
    with pytest.raises(
        ValueError, match=r"x_new must have 3 columns; got shape \(2, 4"
    ):
        cx.extend(result, context, np.ones((2, 4), DTYPE))
    with pytest.raises(ValueError, match="x_new must be finite; got nan"):
        cx.extend(result, context, np.full((2, 3), np.nan, DTYPE))
    with pytest.raises(ValueError, match="nearest neighbours of no input"):
        cx.extend(result, context, np.full((1, 3), 1e3, DTYPE), side="right")
    with pytest.raises(ValueError, match=r"x_new must hold classes among \[3, 5, 9\]"):
        CASES["labels"][0].at(np.array([3, 4]))
    with pytest.raises(cx.CapabilityError, match=r"has no `at`; it.*, operator=op\)"):
        cx.extend(result, cx.zoo.gaussian(0.5), POINTS)


NUM_DRAWS = 2000
ANGLES = (2 * np.pi * np.arange(24) / 24).astype(DTYPE)
HEAT = cx.zoo.circle_heat(0.4)


def waves(angles):
    return np.sqrt(2) * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def drawn(**options):
    op = cx.operators.monte_carlo_operator(HEAT, ANGLES, NUM_DRAWS, key=KEY, **options)
    return op, cx.svd(op, 2, key=KEY)[0]


@pytest.mark.slow
def test_draws_of_an_operator_extend_its_functions_to_any_input():
    op, result = drawn()
    back = cx.extend(result, HEAT, ANGLES, operator=op)
    atol = tol(DTYPE, factor=300) / float(result.singular_values[-1])
    np.testing.assert_allclose(back, result.left, atol=atol)
    new = (ANGLES + np.pi / 24).astype(DTYPE)
    # The pair has one value, e^{-t}: its functions are known up to a rotation.
    turn = waves(ANGLES).T @ np.asarray(result.left) / len(ANGLES)
    found = cx.extend(result, HEAT, new, operator=op)
    error = monte_carlo(np.exp(0.4) / np.sqrt(NUM_DRAWS))
    np.testing.assert_allclose(found, waves(new) @ turn, atol=error)


@pytest.mark.slow
def test_draws_over_a_mesh_extend_as_well_and_others_are_refused():
    op, result = drawn()
    mesh = jax.make_mesh((2,), ("x",), devices=jax.devices()[:2])
    shared, over = drawn(mesh=mesh)
    one, two = (
        cx.extend(r, HEAT, ANGLES[:3] + DTYPE(0.1), operator=o)
        for r, o in ((result, op), (over, shared))
    )
    np.testing.assert_allclose(np.abs(two), np.abs(one), atol=tol(DTYPE, factor=1e4))
    other = cx.operators.monte_carlo_operator(HEAT, ANGLES[:9], 20, key=KEY)
    with pytest.raises(ValueError, match="operator must be the one of the result"):
        cx.extend(result, HEAT, ANGLES, operator=other)
    with pytest.raises(ValueError, match="context must be the one of the operator"):
        cx.extend(result, cx.zoo.circle_heat(0.3), ANGLES, operator=op)
    with pytest.raises(ValueError, match='side must be "left" with a Monte Carlo'):
        cx.extend(result, HEAT, ANGLES, side="right", operator=op)
    shift = cx.zoo.circle_shift(0.5)
    near = cx.operators.monte_carlo_operator(shift, ANGLES[:3], 20, key=KEY)
    with pytest.raises(ValueError, match="the density at row 1 is 0 or no number"):
        cx.operators.monte_carlo_expectation(
            near, shift, ANGLES[[0, 12]], near.p_a[:, None]
        )


def test_three_programs_are_compiled_for_a_shape(caplog):
    context = cx.contexts.rbf(features(DTYPE, 21), 0.5)
    result, _ = cx.svd(cx.association_operator(context), 2, key=KEY, method="exact")
    with jax.log_compiles(), caplog.at_level("WARNING"):
        cx.extend(result, context, QUERIES[:17])
    told = [r for r in caplog.records if r.getMessage().startswith("Compiling")]
    assert 1 <= len(told) <= 3
