"""Every closed-form family through every solver and storage; published numbers.

Tables of all families are padded with rows and columns of zero mass to one shape, so
that a solver compiles once for all of them, and zero mass is tested with each.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax import zoo
from tests import oracle
from tests.conftest import SOME_DTYPES, X64
from tests.tolerances import promised

DTYPES = [np.float32, np.float64] if X64 else [np.float32]
METHODS = ["exact", "randomized", "krylov", "nystrom"]
OF_TABLES = METHODS[:3]
KEY = jax.random.key(7)
ROWS, COLUMNS = 300, 600
MAX_RANK = 6


@functools.cache
def table_of(name: str) -> np.ndarray:
    """The family's table in float64, or None where it has none."""
    context = zoo.FAMILIES[name]()
    with jax.enable_x64(True):
        return np.asarray(context.table())


@functools.cache
def truth(name: str) -> tuple[int, np.ndarray]:
    """A rank that every solver can be asked for, and that many singular values."""
    context = zoo.FAMILIES[name]()
    with jax.enable_x64(True):
        n, m = context.table().shape
        resolved = min(context.num_resolved(), n - 1, m - 1)
        # Few distinct ranks, since each compiles anew.
        rank = max(r for r in (1, 2, MAX_RANK) if r <= resolved)
        return rank, np.asarray(context.spectrum(rank))


WITH_TABLE = [
    name for name, make in zoo.FAMILIES.items() if "table" in make().capabilities
]


def padded(table: np.ndarray, dtype: type) -> np.ndarray:
    out = np.zeros((ROWS, COLUMNS), dtype)
    out[: table.shape[0], : table.shape[1]] = table
    return out


def check(op, name, method, dtype, spare=None):
    rank, expected = truth(name)
    if method == "nystrom":  # exact on a sketch as wide as the rank of the operator
        spare = min(op.shape)
    result, info = cx.svd(op, rank, key=KEY, method=method, num_oversamples=spare)
    s = np.asarray(result.singular_values)
    assert s.dtype == result.left.dtype == result.right.dtype == dtype
    assert np.isfinite(s).all()
    np.testing.assert_allclose(s, expected, atol=promised(dtype))
    assert (np.diff(s) <= 0).all()
    # Without oversampling a tie at the cut slows subspace iteration down.
    if expected[-1] > 1e-3 and spare != 0:
        assert info.status == "converged"
    # Orthonormal, of mean 0 and 0 off the support, whatever the singular values.
    for functions, law in ((result.left, op.p_x), (result.right, op.p_a)):
        functions, law = np.asarray(functions), np.asarray(law)
        gram = functions.T @ (law[:, None] * functions)
        np.testing.assert_allclose(gram, np.eye(rank), atol=promised(dtype))
        np.testing.assert_allclose(law @ functions, 0, atol=promised(dtype))
        assert (functions[law == 0] == 0).all()


# All methods in the precision of the run; in the other one each, in turn.
OF_ALL = [
    pytest.param(name, method, dtype, id=f"{name}-{method}-{np.dtype(dtype).name}")
    for i, name in enumerate(WITH_TABLE)
    for j, method in enumerate(OF_TABLES)
    for dtype in DTYPES
    if dtype == DTYPES[-1] or (i + j) % len(OF_TABLES) == 0
]


@pytest.mark.slow_cases(
    "beta_binomial-exact-float64",
    "beta_binomial-randomized-float64",
    "binary_symmetric-krylov-float64",
    "deterministic_labels-exact-float64",
    "deterministic_labels-randomized-float64",
    "von_mises_fisher_on_the_circle-krylov-float64",
)
@pytest.mark.parametrize(("name", "method", "dtype"), OF_ALL)
def test_dense_storage_gives_the_closed_form(name, method, dtype):
    context = cx.contexts.joint(padded(table_of(name), dtype))
    # No oversampling: blocks of one width, so that families share a program.
    check(cx.association_operator(context), name, method, dtype, spare=0)


@pytest.mark.fast("staff_smoking-float32")
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("staff_smoking", np.float32),
        *((name, DTYPES[-1]) for name in ("erasure", "gaussian", "circle", "tree")),
    ],
)
def test_nystrom_gives_the_closed_form_on_a_wide_sketch(name, dtype):
    context = cx.contexts.joint(table_of(name).astype(dtype))
    check(cx.association_operator(context), name, "nystrom", dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method"),
    [
        *itertools.product(["erasure", "staff_smoking"], METHODS[1:]),
        *((name, "krylov") for name in ("lazy_ring", "tree", "deterministic_labels")),
    ],
)
def test_sparse_storage_gives_the_closed_form(name, method):
    dtype = DTYPES[-1]
    context = cx.contexts.joint(table_of(name).astype(dtype))
    check(cx.association_operator(context, storage="sparse"), name, method, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method"),
    [
        *(("complete_bipartite", method) for method in METHODS[1:]),
        ("torus_walk", "krylov"),
        ("lazy_ring", "krylov"),
    ],
)
def test_fixed_degree_storage_gives_the_closed_form(name, method):
    table, dtype = table_of(name), DTYPES[-1]
    degrees = (table > 0).sum(axis=1)
    degree = degrees.max()
    order = np.argsort(-table, axis=1, kind="stable")[:, :degree]
    weights = np.take_along_axis(table, order, axis=1).astype(dtype)
    # Rows of unequal mass (a bipartite graph) would need a law of X: only equal ones.
    if not np.allclose(table.sum(axis=1), 1 / len(table)):
        op = cx.operators.fixed_degree_operator(
            order,
            weights / weights.sum(axis=1, keepdims=True),
            table.sum(axis=1).astype(dtype),
            table.shape[1],
        )
    else:
        context = cx.contexts.neighbors(order, weights, num_points=table.shape[1])
        op = cx.association_operator(context)
    check(op, name, method, dtype)


# Of all methods in the precision of the run, of one in the other.
OF_KERNELS = [
    *((method, DTYPES[-1]) for method in METHODS[1:]),
    *(("krylov", dtype) for dtype in DTYPES[:-1]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "dtype"), OF_KERNELS)
def test_blocked_kernel_storage_gives_the_closed_form(method, dtype):
    """Bit flips are attention between sign vectors: P(a|x) ∝ exp(β ⟨x, a⟩)."""
    name, flip = "binary_symmetric", 0.1
    cube = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1).T.astype(dtype)
    scale = np.asarray(0.5 * np.log((1 - flip) / flip), dtype)
    context = cx.contexts.attention(cube, cube, scale=scale)
    check(cx.association_operator(context, tile_size=10), name, method, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "dtype"), OF_KERNELS)
def test_a_gaussian_channel_in_blocked_kernel_storage(method, dtype):
    """Quadrature weights enter as the law of X and as log weights of A."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = weights / weights.sum()
    rho = 0.6
    scale = rho / (1 - rho**2)
    # N(a; ρx, 1 − ρ²) = N(a; 0, 1) · exp(scale · x a − …), rows normalised.
    bias = np.log(weights) - 0.5 * nodes**2 * (1 / (1 - rho**2) - 1)
    context = cx.contexts.attention(
        nodes[:, None].astype(dtype),
        nodes[:, None].astype(dtype),
        scale=np.asarray(scale, dtype),
        bias=bias.astype(dtype),
        p_x=weights.astype(dtype),
    )
    result, _ = cx.svd(
        cx.association_operator(context), 6, key=KEY, method=method, num_oversamples=30
    )
    expected = rho ** np.arange(1, 7)
    np.testing.assert_allclose(result.singular_values, expected, atol=promised(dtype))


@pytest.mark.fast("randomized-float32")
@pytest.mark.parametrize("dtype", SOME_DTYPES)
@pytest.mark.parametrize("method", METHODS[1:])
def test_low_rank_storage_gives_the_closed_form(method, dtype):
    context = zoo.FAMILIES["krawtchouk"]()
    with jax.enable_x64(True):
        k = context.num_resolved()
        left, right = context.left_functions(k), context.right_functions(k)
        s, table = np.asarray(context.spectrum(k)), np.asarray(context.table())
    op = cx.operators.low_rank_operator(
        jnp.asarray(np.asarray(left) * s, dtype),
        jnp.asarray(np.asarray(right), dtype),
        jnp.asarray(table.sum(axis=1), dtype),
        jnp.asarray(table.sum(axis=0), dtype),
    )
    check(op, "krawtchouk", method, dtype)


@pytest.mark.fast("randomized-float32")
@pytest.mark.parametrize("dtype", SOME_DTYPES)
@pytest.mark.parametrize("method", METHODS)
def test_composed_operators_give_the_closed_form(method, dtype):
    """A walk taken three times has the cubes of its eigenvalues."""
    context = cx.contexts.joint(table_of("lazy_ring").astype(dtype))
    step = cx.association_operator(context)
    with jax.enable_x64(True):
        expected = np.asarray(zoo.FAMILIES["lazy_ring"]().spectrum(6)) ** 3
    result, info = cx.svd(
        cx.operators.compose(*[step] * 3), 6, key=KEY, method=method, num_oversamples=5
    )
    np.testing.assert_allclose(result.singular_values, expected, atol=promised(dtype))
    assert info.tail_error > 0  # no closed form: a trace estimate, with its error


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_functions_span_what_a_dense_factorisation_spans(method):
    dtype = DTYPES[-1]
    table = table_of("staff_smoking")
    s, left, right = oracle.triples(table)
    op = cx.association_operator(cx.contexts.joint(table.astype(dtype)))
    result, _ = cx.svd(op, 2, key=KEY, method=method)
    np.testing.assert_allclose(
        oracle.projector(result.left, op.p_x),
        oracle.projector(left[:, :2], table.sum(axis=1)),
        atol=10 * promised(dtype),
    )
    np.testing.assert_allclose(
        oracle.projector(result.right, op.p_a),
        oracle.projector(right[:, :2], table.sum(axis=0)),
        atol=10 * promised(dtype),
    )
    np.testing.assert_allclose(result.singular_values, s[:2], atol=promised(dtype))


@pytest.mark.slow
def test_published_correspondence_analysis_of_staff_and_smoking():
    """Greenacre 1984, Table 3.1: principal inertias of 5 staff groups × 4 habits."""
    counts = [
        [4, 2, 3, 2],
        [4, 3, 7, 4],
        [25, 10, 12, 4],
        [18, 24, 33, 13],
        [10, 6, 7, 2],
    ]
    op = cx.association_operator(cx.contexts.joint(counts))
    result, info = cx.svd(op, 3, key=KEY)
    published = np.array([0.0747591059, 0.0100171805, 0.0004135741])
    np.testing.assert_allclose(
        result.singular_values**2, published, atol=promised(op.dtype)
    )
    np.testing.assert_allclose(info.total_energy, published.sum(), atol=1e-7)


@pytest.mark.slow
def test_published_three_state_chain():
    transition = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]
    op = cx.association_operator(cx.contexts.markov(transition))
    result, _ = cx.svd(op, 2, key=KEY)
    np.testing.assert_allclose(
        result.singular_values, [0.7051567574, 0.5956122459], atol=promised(op.dtype)
    )


@pytest.mark.slow
def test_published_noisy_logistic_map():
    """Kostic et al. 2022's map with M = 5: rank 11, the trivial triple included."""
    context = zoo.logistic_map(5)
    table = np.asarray(context.table())
    op = cx.association_operator(cx.contexts.joint(table))
    result, info = cx.svd(op, 12, key=KEY)
    published = [0.8580995769, 0.8021456783, 0.4876845884, 0.4514630494]
    np.testing.assert_allclose(
        result.singular_values[:4], published, atol=promised(op.dtype)
    )
    assert (np.asarray(result.singular_values) > 1e-6).sum() == 10
    assert info.status == "rank deficient"
