"""Gradients through the solvers, against finite differences of dense float64 NumPy.

Most of the time goes into compiling: nearly all tables have one shape and one rank.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

import contexture_jax as cx
from contexture_jax import evaluation
from contexture_jax.solvers._linear_map import symmetrised_map
from contexture_jax.solvers._run import total_energy
from tests import oracle
from tests.problems import features, holey_table, random_table

KEY = jax.random.key(11)
METHODS = ["exact", "randomized", "nystrom"]
# Of the fourth-order difference below, on functions of order 1.
ACCURACY = 1e-9


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


TABLE = random_table()
# Relative steps: entries of 0 stay 0.
CHANGE = TABLE * normal(1, 14, 9)
PHI = normal(2, 14, 3)
X, KEYS = features() - 5.0, features(rows=9) - 4.5


def slope(function, x, change, step=3e-4):
    """The derivative along `change`, by differences of fourth order."""
    one, two = (
        function(x + h * change) - function(x - h * change) for h in (step, 2 * step)
    )
    return (8 * one - two) / (12 * step)


@jax.jit
def build(table):
    return cx.association_operator(cx.contexts.joint(table))


def spectrum(table, rank=3, method: Any = "exact", **options):
    result, _ = cx.svd(build(table), rank, key=KEY, method=method, **options)
    return result.singular_values


def dense_energy(table, rank=3):
    return (oracle.singular_values(table)[:rank] ** 2).sum()


def along(gradient, change):
    return (np.asarray(gradient) * change).sum()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_sum_of_squares_has_the_gradient_of_the_table(method):
    def function(table):
        return (spectrum(table, method=method) ** 2).sum()

    gradient = jax.grad(function)(jnp.asarray(TABLE))
    expected = slope(dense_energy, TABLE, CHANGE)
    np.testing.assert_allclose(along(gradient, CHANGE), expected, rtol=ACCURACY)


@pytest.mark.slow
def test_block_krylov_has_it_too():
    """Blocks must be narrow to fit into eight dimensions three times."""

    def function(table):
        found = spectrum(table, 2, "krylov", num_oversamples=0)
        return (found**2).sum()

    gradient = jax.grad(function)(jnp.asarray(TABLE))
    expected = slope(lambda table: dense_energy(table, 2), TABLE, CHANGE)
    np.testing.assert_allclose(along(gradient, CHANGE), expected, rtol=ACCURACY)


@pytest.mark.slow
def test_each_value_has_its_own_gradient():
    jacobian = jax.jacrev(spectrum)(jnp.asarray(TABLE))
    expected = slope(lambda table: oracle.singular_values(table)[:3], TABLE, CHANGE)
    slopes = (np.asarray(jacobian) * CHANGE).sum(axis=(1, 2))
    np.testing.assert_allclose(slopes, expected, rtol=ACCURACY)


def test_rows_and_columns_without_mass_do_no_harm():
    table = holey_table()
    change = table * normal(3, 14, 9)
    gradient = jax.grad(lambda t: (spectrum(t) ** 2).sum())(jnp.asarray(table))
    assert np.isfinite(gradient).all()
    expected = slope(dense_energy, table, change)
    np.testing.assert_allclose(along(gradient, change), expected, rtol=ACCURACY)


def test_energies_have_the_gradient_of_the_whole_spectrum():
    def energies(table):
        _, info = cx.svd(build(table), 3, key=KEY)
        return 2 * info.total_energy + info.tail_energy

    def dense(table):
        squares = oracle.singular_values(table) ** 2
        return 2 * squares.sum() + squares[3:].sum()

    gradient = jax.grad(energies)(jnp.asarray(TABLE))
    expected = slope(dense, TABLE, CHANGE)
    np.testing.assert_allclose(along(gradient, CHANGE), expected, rtol=ACCURACY)


@pytest.mark.slow
def test_estimated_energies_have_the_gradient_of_an_estimate_from_plain_probes():
    def solve(table):
        op = build(table)
        both = cx.operators.compose(op, cx.operators.reverse(op))
        return both, *cx.svd(both, 3, key=KEY)

    @jax.jit
    def estimate(table):
        both, result, _ = solve(table)
        total = total_energy(symmetrised_map(both), KEY, None)
        return total - (result.singular_values**2).sum()

    gradient = jax.jit(jax.grad(lambda table: solve(table)[2].tail_energy))(TABLE)
    expected = slope(lambda t: float(estimate(t)), TABLE, CHANGE)
    np.testing.assert_allclose(along(gradient, CHANGE), expected, rtol=ACCURACY)


def test_the_rest_of_the_info_counts_as_constant():
    def rest(table):
        _, info = cx.svd(build(table), 3, key=KEY)
        return info.residuals.sum() + info.num_passes + info.tail_error

    np.testing.assert_array_equal(jax.grad(rest)(jnp.asarray(TABLE)), 0)


SOFTMAX = {
    "rbf": (lambda gamma, x: cx.contexts.rbf(x, gamma), (np.asarray(0.5), X)),
    "attention": (
        lambda queries, keys, bias: cx.contexts.attention(queries, keys, bias=bias),
        (X, KEYS, KEYS[:, 0]),
    ),
}


@pytest.mark.slow_cases("attention")
@pytest.mark.parametrize("name", SOFTMAX)
def test_kernel_parameters_and_features(name):
    """In tiles of four rows, the last of them padded."""
    make, values = SOFTMAX[name]

    @jax.jit
    @jax.grad
    def gradient(values):
        op = cx.association_operator(make(*values), tile_size=4)
        result, info = cx.svd(op, 3, key=KEY)
        return (result.singular_values**2).sum() + 0.5 * info.total_energy

    @jax.jit
    def table(values):
        return make(*values).table()

    for number, found in enumerate(gradient(tuple(map(jnp.asarray, values)))):

        def dense(value, number=number):
            changed = (*values[:number], value, *values[number + 1 :])
            squares = oracle.singular_values(np.asarray(table(changed))) ** 2
            return squares[:3].sum() + 0.5 * squares.sum()

        change = 0.3 * normal(number, *values[number].shape)
        expected = slope(dense, values[number], change)
        np.testing.assert_allclose(along(found, change), expected, rtol=1e-8)


@pytest.mark.slow
def test_low_rank_features():
    @jax.jit
    def make(left):
        uniform = (jnp.full(size, 1 / size) for size in (14, 9))
        return cx.operators.low_rank_operator(left, jnp.asarray(KEYS), *uniform)

    def function(left):
        return (cx.svd(make(left), 2, key=KEY)[0].singular_values ** 2).sum()

    def dense(left):
        matrix = (left - left.mean(axis=0)) @ (KEYS - KEYS.mean(axis=0)).T
        return (np.linalg.svd(matrix)[1][:2] ** 2).sum() / (14 * 9)

    left, change = 0.1 * X, 0.1 * normal(4, 14, 3)
    gradient = jax.grad(function)(jnp.asarray(left))
    expected = slope(dense, left, change)
    np.testing.assert_allclose(along(gradient, change), expected, rtol=ACCURACY)


# Four entries a row, so that layouts have few kinds of slots.
COLUMNS = np.sort(
    np.stack([np.random.default_rng(r).permutation(9)[:4] for r in range(14)]), axis=1
)
ROWS = np.broadcast_to(np.arange(14)[:, None], COLUMNS.shape)


def listed(weights):
    table = np.zeros((14, 9))
    table[ROWS, COLUMNS] = weights
    return table


def sparse_operator(weights):
    context = cx.contexts.pairs(
        ROWS.ravel(), COLUMNS.ravel(), weights.ravel(), shape=(14, 9)
    )
    return cx.association_operator(context)


def two_steps(weights):
    op = sparse_operator(weights)
    return cx.operators.compose(op, cx.operators.reverse(op))


def two_step_table(weights):
    table = listed(weights) / weights.sum()
    return table / table.sum(axis=0) @ table.T


STORED = {
    "fixed degree": (
        lambda weights: cx.association_operator(
            cx.contexts.neighbors(COLUMNS, weights, num_points=9)
        ),
        lambda weights: listed(weights / weights.sum(axis=1, keepdims=True)),
    ),
    "sparse, both ways": (two_steps, two_step_table),
}


@pytest.mark.slow_cases("sparse, both ways", "fixed degree")
@pytest.mark.parametrize("name", STORED)
def test_stored_weights_along_a_change_of_the_law(name):
    """Leaves of an operator are tied to each other: along a law that changes."""
    make, table = STORED[name]
    weights = np.random.default_rng(5).random((14, 4)) + 0.5
    change = normal(6, 14, 4) / 3
    leaves, structure = jax.tree.flatten(make(weights))
    floating = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.inexact)]

    @jax.jit
    @jax.grad
    def gradient(values):
        full = list(leaves)
        for i, value in zip(floating, values, strict=True):
            full[i] = value
        op = jax.tree.unflatten(structure, full)
        return (cx.svd(op, 3, key=KEY)[0].singular_values ** 2).sum()

    def stored(weights):
        found = jax.tree.leaves(make(weights))
        return np.concatenate([np.ravel(found[i]) for i in floating])

    def dense(weights):
        law = table(weights)
        return dense_energy(law / law.sum())

    found = gradient([leaves[i] for i in floating])
    got = np.concatenate([np.ravel(g) for g in found]) @ slope(stored, weights, change)
    np.testing.assert_allclose(got, slope(dense, weights, change), rtol=1e-8)


def noisy_labels(rate):
    """Four labels that are right with probability 1 − rate: 1 − rate thrice, then 0."""
    one = np.repeat(np.arange(4), [2, 3, 4, 5])
    other = np.repeat(np.arange(4), [2, 1, 2, 4])
    right = (one[:, None] == other[None, :]).astype(float)
    right /= 14 * right.sum(axis=1, keepdims=True)
    independent = right.sum(axis=1, keepdims=True) * right.sum(axis=0, keepdims=True)
    return (1 - rate) * right + rate * independent


CLUSTER = noisy_labels(0.3)
CLUSTER_CHANGE = CLUSTER * normal(7, 14, 9)


@pytest.mark.slow_cases("nystrom")
@pytest.mark.parametrize("method", METHODS)
def test_symmetric_functions_of_a_whole_cluster(method):
    """No one of the three values is differentiable, the sum of their cubes is."""
    np.testing.assert_allclose(
        oracle.singular_values(CLUSTER)[:4], [0.7, 0.7, 0.7, 0], atol=1e-14
    )

    def dense(table):
        return (oracle.singular_values(table)[:3] ** 3).sum()

    gradient = jax.grad(lambda table: (spectrum(table, method=method) ** 3).sum())(
        jnp.asarray(CLUSTER)
    )
    expected = slope(dense, CLUSTER, CLUSTER_CHANGE)
    np.testing.assert_allclose(along(gradient, CLUSTER_CHANGE), expected, rtol=ACCURACY)


def test_one_value_of_a_cluster_raises():
    with pytest.raises(ValueError, match=r"values 1, 2, 3 are numerically equal \(0.7"):
        jax.grad(lambda table: spectrum(table)[1])(jnp.asarray(CLUSTER))


@pytest.mark.slow
def test_inside_jit_a_value_counts_as_the_mean_of_its_cluster_and_zero_as_constant():
    """By another method, which finds another basis."""
    mean = jax.grad(lambda table: spectrum(table).mean())(jnp.asarray(CLUSTER))

    @jax.jit
    def gradients(table):
        _, pull_back = jax.vjp(lambda t: spectrum(t, 4, "randomized"), table)
        return [pull_back(jnp.eye(4)[i])[0] for i in (1, 3)]

    second, fourth = gradients(CLUSTER)
    np.testing.assert_allclose(second, mean, atol=1e-12)
    np.testing.assert_allclose(fourth, 0, atol=1e-12)


def test_a_rank_that_cuts_a_cluster_gives_a_subgradient():
    """The sum of the largest values is convex; at a tie it has no gradient."""
    matrix = np.zeros((14, 9))
    matrix[np.arange(6), np.arange(6)] = [3, 2, 1, 1, 1, 0.5]

    def function(a):
        return cx.solvers.truncated_svd(a, 3, key=KEY)[0].singular_values.sum()

    gradient = np.asarray(jax.grad(function)(jnp.asarray(matrix)))
    for seed in range(20):
        change = 0.1 * normal(seed, 14, 9)
        above = np.linalg.svd(matrix + change)[1][:3].sum()
        assert above >= 6.0 + (gradient * change).sum() - 1e-12


@pytest.mark.slow
def test_values_of_zero():
    table = jnp.asarray(CLUSTER)
    gradient = jax.grad(lambda t: (spectrum(t, 4) ** 2).sum())(table)
    leading = jax.grad(lambda t: (spectrum(t) ** 2).sum())(table)
    np.testing.assert_allclose(gradient, leading, atol=1e-12)
    with pytest.raises(ValueError, match=r"singular value\(s\) 4 are 0"):
        jax.grad(lambda t: spectrum(t, 4).sum())(table)


def test_independence():
    """All values are 0: their squares have the gradient 0, their sum has none."""
    table = jnp.asarray(noisy_labels(1.0))
    gradient = jax.grad(lambda t: (spectrum(t) ** 2).sum())(table)
    np.testing.assert_allclose(gradient, 0, atol=1e-12)
    with pytest.raises(ValueError, match=r"value\(s\) 1, 2, 3 are 0"):
        jax.grad(lambda t: spectrum(t).sum())(table)


@pytest.mark.slow_cases("left-jit")
@pytest.mark.parametrize(
    ("side", "wrap"),
    [("left", lambda f: f), ("right", lambda f: f), ("left", jax.jit)],
)
def test_singular_functions_have_no_gradient(side, wrap):
    def function(table):
        result, _ = cx.svd(build(table), 3, key=KEY)
        return (getattr(result, side) ** 2).sum() + result.singular_values.sum()

    with pytest.raises(TypeError, match=f"no gradient goes through `{side}`"):
        jax.grad(wrap(function))(jnp.asarray(TABLE))


@pytest.mark.slow
def test_second_derivatives_are_refused_in_plain_words():
    def slope(table):
        return jax.grad(lambda t: (spectrum(t) ** 2).sum())(table).sum()

    with pytest.raises(TypeError, match="no second derivatives go through a spectrum"):
        jax.grad(slope)(jnp.asarray(TABLE))


def test_singular_functions_may_be_held_fixed():
    def function(table):
        result, _ = cx.svd(build(table), 3, key=KEY)
        left = jax.lax.stop_gradient(result.left)
        return (left**2).sum() + result.singular_values.sum()

    alone = jax.grad(lambda table: spectrum(table).sum())(jnp.asarray(TABLE))
    stopped = jax.grad(function)(jnp.asarray(TABLE))
    np.testing.assert_allclose(stopped, alone, atol=1e-13)
    result, pull_back = jax.vjp(lambda op: cx.svd(op, 3, key=KEY)[0], build(TABLE))
    ones = jnp.ones_like(result.singular_values)
    zeros = jax.tree.map(jnp.zeros_like, result)
    (gradient,) = pull_back(zeros._replace(singular_values=ones))
    assert np.isfinite(gradient.joint).all()


def test_forward_mode_is_refused():
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(spectrum, (TABLE,), (CHANGE,))


@pytest.mark.slow
def test_vmap_and_a_loop_agree_on_gradients():
    def first(table):
        return spectrum(table)[0]

    function = jax.grad(first)
    tables = jnp.stack([TABLE, TABLE[::-1] ** 2, holey_table()])
    loop = jnp.stack([function(table) for table in tables])
    np.testing.assert_allclose(jax.vmap(function)(tables), loop, atol=1e-13)


@pytest.mark.slow
def test_the_gradient_of_a_vmap_is_that_of_a_loop():
    def first(table):
        return spectrum(table)[0]

    tables = jnp.stack([TABLE, TABLE[::-1] ** 2, holey_table()])
    loop = jnp.stack([jax.grad(first)(table) for table in tables])
    outside = jax.jit(jax.grad(lambda tables: jax.vmap(first)(tables).sum()))(tables)
    np.testing.assert_allclose(outside, loop, atol=1e-13)


@pytest.mark.slow
def test_a_second_gradient_of_the_same_shape_does_not_compile_again(caplog):
    def count(seed):
        table = jnp.asarray(random_table(seed=seed)[:6])  # a shape of its own
        caplog.clear()
        with jax.log_compiles(), caplog.at_level("WARNING"):
            jax.grad(lambda t: spectrum(t, 2).sum())(table)
        texts = [record.getMessage() for record in caplog.records]
        names = ("_factored", "_report", "_pull_back")
        return sum("Compiling" in t and any(n in t for n in names) for t in texts)

    assert count(6) >= 2  # the log does tell of compilations
    assert count(7) == 0


@pytest.mark.slow_cases("complex", "map")
@pytest.mark.parametrize("kind", ["real", "complex", "map"])
def test_plain_matrices(kind):
    matrix, change = normal(8, 14, 9), normal(9, 14, 9)
    if kind == "complex":
        matrix = matrix + 1j * matrix[::-1]
        change = change + 1j * change[:, ::-1]

    def function(a):
        # A map that closes over what is differentiated.
        whole = (lambda g: a @ g, lambda f: a.T @ f, a.shape, a.dtype)
        given = whole if kind == "map" else a
        result, info = cx.solvers.truncated_svd(given, 3, key=KEY)
        tail = 0.0 if kind == "map" else info.tail_energy
        return (result.singular_values**3).sum() + tail

    def dense(a):
        s = np.linalg.svd(a)[1]
        return (s[:3] ** 3).sum() + (0.0 if kind == "map" else (s[3:] ** 2).sum())

    gradient = np.asarray(jax.jit(jax.grad(function))(matrix))
    # JAX's convention: the gradient of a real function is the conjugate one.
    got = along(gradient, change).real
    np.testing.assert_allclose(got, slope(dense, matrix, change), rtol=1e-8)


@pytest.mark.slow
def test_what_is_laid_out_on_the_host_must_be_concrete():
    matrix = sparse.BCOO.fromdense(jnp.asarray(TABLE))

    def function(data):
        a = sparse.BCOO((data, matrix.indices), shape=matrix.shape)
        return cx.solvers.truncated_svd(a, 2, key=KEY)[0].singular_values.sum()

    with pytest.raises(TypeError, match="a BCOO, is laid out on the host"):
        jax.grad(function)(matrix.data)
    with pytest.raises(TypeError, match="z must be concrete"):
        jax.grad(lambda z: cx.contexts.teacher(z).values.sum())(jnp.asarray(X))


def whitened():
    """Functions whose scaled SVD has three equal singular values."""
    p_x = TABLE.sum(axis=1)
    centred = PHI - p_x @ PHI
    factor = np.linalg.cholesky(centred.T @ (p_x[:, None] * centred))
    return centred @ np.linalg.inv(factor).T


@jax.jit
def tau(values):
    return evaluation.usefulness(values).tau


@jax.jit
def ratio_trace(phi, table):
    return evaluation.ratio_trace(phi, build(table))


@jax.jit
def compatibility(phi, table):
    return evaluation.compatibility(phi[:, 0], build(table))


JUDGES = {
    "usefulness": (lambda t: tau(spectrum(t)), TABLE, CHANGE),
    "ratio trace": (lambda t: ratio_trace(PHI, t), TABLE, CHANGE),
    "ratio trace of whitened functions": (
        lambda phi: ratio_trace(phi, TABLE),
        whitened(),
        normal(10, 14, 3),
    ),
    "compatibility": (lambda t: compatibility(PHI, t), TABLE, CHANGE),
}


@pytest.mark.slow_cases("ratio trace")
@pytest.mark.parametrize("name", JUDGES)
def test_judges_are_differentiable_end_to_end(name):
    function, value, change = JUDGES[name]
    gradient = jax.grad(function)(jnp.asarray(value))
    assert np.isfinite(gradient).all()
    expected = slope(lambda x: float(function(jnp.asarray(x))), value, change)
    np.testing.assert_allclose(along(gradient, change), expected, rtol=1e-8)


@pytest.mark.slow
def test_constant_functions_leave_gradients_finite():
    @jax.jit
    @jax.grad
    def gradient(phi):
        op, independent = build(TABLE), build(np.full((14, 9), 1 / 126))
        rho = evaluation.compatibility(phi[:, 0], independent)
        return evaluation.ratio_trace(phi, op) + rho

    phi = np.concatenate([PHI, np.ones((14, 1))], axis=1)
    assert np.isfinite(gradient(phi)).all()


@pytest.mark.slow
def test_gradients_through_a_kernel_take_the_memory_of_tiles():
    """Read off the compiled program: features in, gradient of a spectrum out."""
    n = 4096

    def function(gamma, x):
        op = cx.association_operator(cx.contexts.rbf(x, gamma), tile_size=512)
        result, info = cx.svd(op, 2, key=KEY, method="randomized", num_oversamples=2)
        return (result.singular_values**2).sum() + info.tail_energy

    shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((), (n, 4)))
    program = jax.jit(jax.grad(function, (0, 1))).lower(*shapes).compile()
    text, memory = program.as_text(), program.memory_analysis()
    assert text is not None
    assert memory is not None
    assert f"{n},{n}" not in text
    assert "[8,8,512,512]" not in text  # tiles kept one by one
    assert memory.temp_size_in_bytes < 8 * 2**20  # n²: 64 MiB
