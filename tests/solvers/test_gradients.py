"""Gradients through the solvers, against finite differences of dense float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

import contexture_jax as cx
from contexture_jax import evaluation
from contexture_jax._core.softmax import exp_matmul, logsumexp_rows
from contexture_jax.contexts import zoo
from contexture_jax.solvers import Method
from tests.problems import dense_triples, features, holey_table, random_table

KEY = jax.random.key(11)
RNG = np.random.default_rng(12)
METHODS: list[Method] = ["exact", "randomized", "krylov", "nystrom"]
TABLE = random_table()
# Relative steps: entries of 0 stay 0.
CHANGE = TABLE * RNG.normal(size=TABLE.shape)
# Of the fourth-order difference below, on functions of order 1.
ACCURACY = 1e-9


def slope(function, x, change, step=1e-3):
    """The derivative along `change`, by differences of fourth order."""
    one, two = (
        function(x + h * change) - function(x - h * change) for h in (step, 2 * step)
    )
    return (8 * one - two) / (12 * step)


def spectrum(table, rank, method: Method = "exact"):
    op = cx.association_operator(cx.contexts.joint(table))
    return cx.svd(op, rank, key=KEY, method=method)[0].singular_values


def energy(op, rank=3, method: Method = "exact"):
    return (cx.svd(op, rank, key=KEY, method=method)[0].singular_values ** 2).sum()


def dense_energy(table, rank=3):
    return (dense_triples(table)[1][:rank] ** 2).sum()


def along(gradient, change):
    return sum(
        float(np.vdot(g, c))
        for g, c in zip(jax.tree.leaves(gradient), jax.tree.leaves(change), strict=True)
    )


@pytest.mark.parametrize("method", METHODS)
def test_sum_of_squares_has_the_gradient_of_the_table(method):
    def function(table):
        return (spectrum(table, 3, method) ** 2).sum()

    gradient = jax.grad(function)(jnp.asarray(TABLE))
    expected = slope(dense_energy, TABLE, CHANGE)
    np.testing.assert_allclose(along(gradient, CHANGE), expected, rtol=ACCURACY)


def test_each_value_has_its_own_gradient():
    jacobian = jax.jacrev(lambda table: spectrum(table, 3))(jnp.asarray(TABLE))
    expected = slope(lambda table: dense_triples(table)[1][:3], TABLE, CHANGE)
    slopes = (np.asarray(jacobian) * CHANGE).sum(axis=(1, 2))
    np.testing.assert_allclose(slopes, expected, rtol=ACCURACY)


def test_rows_and_columns_without_mass_have_gradient_zero():
    table = holey_table()
    change = table * CHANGE
    gradient = jax.grad(lambda t: (spectrum(t, 3) ** 2).sum())(jnp.asarray(table))
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(np.asarray(gradient)[3], np.asarray(gradient)[3, 0])
    expected = slope(dense_energy, table, change)
    np.testing.assert_allclose(along(gradient, change), expected, rtol=ACCURACY)


def test_energies_have_the_gradient_of_the_whole_spectrum():
    def energies(table):
        op = cx.association_operator(cx.contexts.joint(table))
        _, info = cx.svd(op, 3, key=KEY)
        return 2 * info.total_energy + info.tail_energy

    def dense(table):
        squares = dense_triples(table)[1] ** 2
        return 2 * squares.sum() + squares[3:].sum()

    gradient = jax.grad(energies)(jnp.asarray(TABLE))
    expected = slope(dense, TABLE, CHANGE)
    np.testing.assert_allclose(along(gradient, CHANGE), expected, rtol=ACCURACY)


def test_estimated_energies_have_the_gradient_of_the_estimate():
    @jax.jit
    def tail(table):
        op = cx.association_operator(cx.contexts.joint(table))
        both = cx.operators.product([op, cx.operators.adjoint(op)])
        return cx.svd(both, 3, key=KEY)[1].tail_energy

    gradient = jax.grad(tail)(jnp.asarray(TABLE))
    expected = slope(lambda t: float(tail(t)), TABLE, CHANGE)
    np.testing.assert_allclose(along(gradient, CHANGE), expected, rtol=ACCURACY)


def test_the_rest_of_the_info_counts_as_constant():
    def rest(table):
        op = cx.association_operator(cx.contexts.joint(table))
        _, info = cx.svd(op, 3, key=KEY)
        return info.residuals.sum() + info.num_passes + info.tail_error

    np.testing.assert_array_equal(jax.grad(rest)(jnp.asarray(TABLE)), 0)


X, KEYS = features() - 5.0, features(rows=9) - 4.5
PARAMETERS = {
    "gamma": (lambda gamma: cx.contexts.rbf(X, gamma), np.asarray(0.5)),
    "x": (lambda x: cx.contexts.rbf(x, 0.5), X),
    "queries": (lambda queries: cx.contexts.attention(queries, KEYS), X),
    "keys": (lambda keys: cx.contexts.attention(X, keys), KEYS),
    "bias": (lambda bias: cx.contexts.attention(X, KEYS, bias=bias), KEYS[:, 0]),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_kernel_parameters_and_features(name):
    """In tiles of four rows, the last of them padded."""
    make, value = PARAMETERS[name]
    change = 0.3 * RNG.normal(size=value.shape)

    @jax.jit
    def function(value):
        op = cx.association_operator(make(value), block_size=4)
        result, info = cx.svd(op, 3, key=KEY)
        return (result.singular_values**2).sum() + 0.5 * info.total_energy

    @jax.jit
    def table(value):
        return make(value).table()

    def dense(value):
        squares = dense_triples(np.asarray(table(value)))[1] ** 2
        return squares[:3].sum() + 0.5 * squares.sum()

    gradient = jax.grad(function)(jnp.asarray(value))
    expected = slope(dense, value, change)
    np.testing.assert_allclose(along(gradient, change), expected, rtol=1e-8)


def test_low_rank_features():
    p_x, p_a = np.full(14, 1 / 14), np.full(9, 1 / 9)

    def make(left):
        return cx.operators.low_rank_operator(
            left, jnp.asarray(0.1 * KEYS), jnp.asarray(p_x), jnp.asarray(p_a)
        )

    def dense(left):
        matrix = (left - left.mean(axis=0)) @ (0.1 * (KEYS - KEYS.mean(axis=0))).T
        return (np.linalg.svd(matrix)[1][:2] ** 2).sum() / (14 * 9)

    change = RNG.normal(size=X.shape)
    gradient = jax.grad(lambda left: energy(make(left), 2))(jnp.asarray(X))
    expected = slope(dense, X, change)
    np.testing.assert_allclose(along(gradient, change), expected, rtol=ACCURACY)


ROWS, COLUMNS = np.nonzero(holey_table())
SLOTS = np.stack([np.random.default_rng(r).permutation(9)[:4] for r in range(14)])


def sparse_law(weights):
    return cx.association_operator(
        cx.contexts.pairs(ROWS, COLUMNS, weights, shape=(14, 9))
    )


STORED = {
    "sparse": (sparse_law, RNG.random(len(ROWS)) + 0.5),
    "fixed degree": (
        lambda weights: cx.association_operator(
            cx.contexts.neighbors(SLOTS, weights, num_points=9)
        ),
        RNG.random(SLOTS.shape) + 0.5,
    ),
    "product with the adjoint": (
        lambda w: cx.operators.product(
            [sparse_law(w), cx.operators.adjoint(sparse_law(w))]
        ),
        RNG.random(len(ROWS)) + 0.5,
    ),
}


@pytest.mark.parametrize("name", STORED)
def test_stored_weights_along_a_change_of_the_law(name):
    """Leaves of an operator are tied to each other: along a law that changes."""
    make, weights = STORED[name]
    change = RNG.normal(size=weights.shape) / 3
    leaves, structure = jax.tree.flatten(make(weights))
    floating = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.inexact)]

    def function(values):
        full = list(leaves)
        for i, value in zip(floating, values, strict=True):
            full[i] = value
        return energy(jax.tree.unflatten(structure, full))

    def stored(weights):
        found = jax.tree.leaves(make(weights))
        return np.concatenate([np.ravel(found[i]) for i in floating])

    def dense(weights):
        op = make(weights)
        return dense_energy(np.asarray(op.p_x)[:, None] * np.asarray(op.as_matrix()))

    gradient = jax.grad(function)([leaves[i] for i in floating])
    moved = slope(stored, weights, change)
    got = np.concatenate([np.ravel(g) for g in gradient]) @ moved
    np.testing.assert_allclose(got, slope(dense, weights, change), rtol=1e-8)


# Bits flipped with probability 0.2: values 0.6 and 0.36, three times each, and 0.216.
CUBE = np.asarray(zoo.binary_symmetric(3, 0.2).table())
CUBE_CHANGE = CUBE * RNG.normal(size=CUBE.shape)


@pytest.mark.parametrize("rank", [3, 6])
@pytest.mark.parametrize("method", ["exact", "krylov"])
def test_symmetric_functions_of_whole_clusters(rank, method):
    """A cube of the values: no one of them is differentiable, their sum is."""

    def dense(table):
        return (dense_triples(table)[1][:rank] ** 3).sum()

    gradient = jax.grad(lambda table: (spectrum(table, rank, method) ** 3).sum())(
        jnp.asarray(CUBE)
    )
    expected = slope(dense, CUBE, CUBE_CHANGE)
    np.testing.assert_allclose(along(gradient, CUBE_CHANGE), expected, rtol=ACCURACY)


def test_one_value_of_a_cluster_raises():
    def second(table):
        return spectrum(table, 4)[1]

    with pytest.raises(ValueError, match=r"values 1, 2, 3 are numerically equal \(0.6"):
        jax.grad(second)(jnp.asarray(CUBE))
    # 0.36 stands for itself: what follows its cluster is not seen.
    fourth = jax.grad(lambda table: spectrum(table, 4)[3])(jnp.asarray(CUBE))
    assert np.isfinite(fourth).all()


def test_one_value_of_a_cluster_counts_as_the_mean_inside_jit():
    mean = jax.grad(lambda table: spectrum(table, 4)[:3].mean())(jnp.asarray(CUBE))
    for method in ("exact", "randomized"):
        one = jax.jit(jax.grad(lambda table, how=method: spectrum(table, 4, how)[1]))
        np.testing.assert_allclose(one(CUBE), mean, atol=1e-12)


def test_a_rank_that_cuts_a_cluster_gives_a_subgradient():
    """The sum of the largest values is convex; at a tie it has no gradient."""
    matrix = np.diag([2.0, 1.0, 1.0, 1.0])

    def function(a):
        return cx.solvers.truncated_svd(a, 2, key=KEY)[0].singular_values.sum()

    gradient = np.asarray(jax.grad(function)(jnp.asarray(matrix)))
    for change in 0.1 * RNG.normal(size=(20, 4, 4)):
        above = np.linalg.svd(matrix + change)[1][:2].sum()
        assert above >= 3.0 + (gradient * change).sum() - 1e-12


# Three labels: values 1 and 1, then zeros.
LABELS = np.repeat(np.eye(3), [2, 3, 4], axis=0)
LABELS = np.concatenate([LABELS, LABELS], axis=1) / 18


def test_values_of_zero():
    table = jnp.asarray(LABELS)
    gradient = jax.grad(lambda t: (spectrum(t, 4) ** 2).sum())(table)
    leading = jax.grad(lambda t: (spectrum(t, 2) ** 2).sum())(table)
    np.testing.assert_allclose(gradient, leading, atol=1e-12)
    with pytest.raises(ValueError, match=r"singular value\(s\) 3, 4 are 0"):
        jax.grad(lambda t: spectrum(t, 4).sum())(table)
    inside = jax.jit(jax.grad(lambda t: spectrum(t, 4).sum()))(table)
    only = jax.grad(lambda t: spectrum(t, 2).sum())(table)
    np.testing.assert_allclose(inside, only, atol=1e-12)


def test_independence():
    """All values are 0: their squares have the gradient 0, their sum has none."""
    table = jnp.full((9, 6), 1 / 54)
    gradient = jax.grad(lambda t: (spectrum(t, 4) ** 2).sum())(table)
    np.testing.assert_allclose(gradient, 0, atol=1e-12)
    with pytest.raises(ValueError, match=r"value\(s\) 1, 2, 3, 4 are 0"):
        jax.grad(lambda t: spectrum(t, 4).sum())(table)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint])
def test_singular_functions_have_no_gradient(side, wrap):
    def function(table, stop):
        op = cx.association_operator(cx.contexts.joint(table))
        result, _ = cx.svd(op, 3, key=KEY)
        functions = getattr(result, side)
        functions = jax.lax.stop_gradient(functions) if stop else functions
        return (functions**2).sum() + result.singular_values.sum()

    with pytest.raises(TypeError, match=f"no gradient goes through `{side}`"):
        jax.grad(wrap(lambda table: function(table, False)))(jnp.asarray(TABLE))
    stopped = jax.grad(wrap(lambda table: function(table, True)))(jnp.asarray(TABLE))
    alone = jax.grad(lambda table: spectrum(table, 3).sum())(jnp.asarray(TABLE))
    np.testing.assert_allclose(stopped, alone, atol=1e-13)


def test_cotangents_of_zero_for_functions_are_no_gradient_through_them():
    op = cx.association_operator(cx.contexts.joint(TABLE))
    result, pull_back = jax.vjp(lambda op: cx.svd(op, 3, key=KEY)[0], op)
    ones = jnp.ones_like(result.singular_values)
    bars = jax.tree.map(jnp.zeros_like, result)._replace(singular_values=ones)
    (gradient,) = pull_back(bars)
    assert np.isfinite(gradient.joint).all()


def test_forward_mode_is_refused():
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda table: spectrum(table, 3), (TABLE,), (CHANGE,))


def test_vmap_jit_and_a_loop_agree_on_gradients():
    function = jax.grad(lambda table: spectrum(table, 3)[0])
    tables = jnp.stack([TABLE, TABLE[::-1] ** 2, holey_table()])
    loop = jnp.stack([function(table) for table in tables])
    np.testing.assert_allclose(jax.vmap(function)(tables), loop, atol=1e-13)
    np.testing.assert_allclose(jax.jit(function)(TABLE), loop[0], atol=1e-13)

    def whole(tables):
        return jax.vmap(lambda table: spectrum(table, 3)[0])(tables).sum()

    np.testing.assert_allclose(jax.grad(whole)(tables), loop, atol=1e-13)


def test_a_second_gradient_of_the_same_shape_does_not_compile_again(caplog):
    def count(table, rank):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level("WARNING"):
            jax.grad(lambda t: spectrum(t, rank, "randomized").sum())(table)
        texts = [record.getMessage() for record in caplog.records]
        names = ("_compiled", "_pull_back")
        return sum("Compiling" in t and any(n in t for n in names) for t in texts)

    # A shape that no other test has.
    count(jnp.asarray(random_table(seed=6)[:6]), 2)
    assert count(jnp.asarray(random_table(seed=7)[:6]), 2) == 0
    assert count(jnp.asarray(random_table(seed=7)[:6]), 1) == 2


@pytest.mark.parametrize("kind", ["real", "complex", "map"])
def test_plain_matrices(kind):
    matrix, change = RNG.normal(size=(2, 14, 9))
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

    gradient = np.asarray(jax.grad(function)(jnp.asarray(matrix)))
    # JAX's convention: the gradient of a real function is the conjugate one.
    got = (gradient * change).sum().real
    np.testing.assert_allclose(got, slope(dense, matrix, change), rtol=ACCURACY)


def test_what_is_laid_out_on_the_host_must_be_concrete():
    matrix = sparse.BCOO.fromdense(jnp.asarray(TABLE))

    def function(data):
        a = sparse.BCOO((data, matrix.indices), shape=matrix.shape)
        return cx.solvers.truncated_svd(a, 2, key=KEY)[0].singular_values.sum()

    with pytest.raises(TypeError, match="a BCOO must be concrete"):
        jax.grad(function)(matrix.data)
    with pytest.raises(TypeError, match="z must be concrete"):
        jax.grad(lambda z: cx.contexts.teacher(z).values.sum())(jnp.asarray(X))


PHI = RNG.normal(size=(14, 3))


def whitened():
    """Functions whose scaled SVD has three equal singular values."""
    p_x = TABLE.sum(axis=1)
    centred = PHI - p_x @ PHI
    factor = np.linalg.cholesky(centred.T @ (p_x[:, None] * centred))
    return centred @ np.linalg.inv(factor).T


def _op(table):
    return cx.association_operator(cx.contexts.joint(table))


JUDGES = {
    "usefulness": (lambda t: evaluation.usefulness(spectrum(t, 4)).tau, TABLE, CHANGE),
    "ratio trace": (lambda t: evaluation.ratio_trace(PHI, _op(t)), TABLE, CHANGE),
    "ratio trace of whitened functions": (
        lambda phi: evaluation.ratio_trace(phi, _op(TABLE)),
        whitened(),
        RNG.normal(size=PHI.shape),
    ),
    "compatibility": (
        lambda t: evaluation.compatibility(PHI[:, 0], _op(t)),
        TABLE,
        CHANGE,
    ),
}


@pytest.mark.parametrize("name", JUDGES)
def test_judges_are_differentiable_end_to_end(name):
    function, value, change = JUDGES[name]
    function = jax.jit(function)
    gradient = jax.grad(function)(jnp.asarray(value))
    assert np.isfinite(gradient).all()
    expected = slope(lambda x: float(function(x)), value, change)
    np.testing.assert_allclose(along(gradient, change), expected, rtol=1e-8)


def test_constant_functions_leave_gradients_finite():
    phi = np.concatenate([PHI, np.ones((14, 1))], axis=1)
    op = _op(TABLE)
    ratio = jax.grad(lambda phi: evaluation.ratio_trace(phi, op))(jnp.asarray(phi))
    assert np.isfinite(ratio).all()
    independent = _op(np.ones((14, 9)) / 126)
    rho = jax.grad(lambda f: evaluation.compatibility(f, independent))
    assert np.isfinite(rho(jnp.asarray(PHI[:, 0]))).all()


@pytest.mark.parametrize("block_size", [4, 100])
def test_tiles_have_the_gradients_of_the_dense_formulas(block_size):
    q, k, v, out = (
        jnp.asarray(RNG.normal(size=s)) for s in ((11, 3), (14, 3), (14, 2), (11, 2))
    )

    def tiled(q, k, v):
        logs = logsumexp_rows(40 * q, k, block_size=block_size)
        return (exp_matmul(q, k, v, block_size=block_size) * out).sum() + logs.sum()

    def dense(q, k, v):
        logs = jax.nn.logsumexp(40 * q @ k.T, axis=1)
        return (jnp.exp(q @ k.T) @ v * out).sum() + logs.sum()

    got, expected = (jax.grad(f, (0, 1, 2))(q, k, v) for f in (tiled, dense))
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


def test_gradients_through_a_kernel_take_the_memory_of_tiles():
    """Read off the compiled program: features in, gradient of a spectrum out."""
    n = 4096

    def function(gamma, x):
        op = cx.association_operator(cx.contexts.rbf(x, gamma), block_size=512)
        result, info = cx.svd(op, 2, key=KEY, method="krylov", num_oversamples=2)
        return (result.singular_values**2).sum() + info.tail_energy

    shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((), (n, 4)))
    program = jax.jit(jax.grad(function, (0, 1))).lower(*shapes).compile()
    assert f"{n},{n}" not in program.as_text()
    assert f"{n // 512},{n // 512},512" not in program.as_text()
    assert program.memory_analysis().temp_size_in_bytes < 8 * 2**20  # n²: 64 MiB
