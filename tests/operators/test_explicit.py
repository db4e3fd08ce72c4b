"""Meshes with axes of type Explicit, as `jax.make_mesh` makes, and arrays on them."""

import contextlib

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import contexture_jax as cx
from contexture_jax._core.meshes import auto_mesh, on_auto_axes
from tests import oracle
from tests.conftest import X64
from tests.problems import features, random_table
from tests.tolerances import tol

DTYPE = np.float64 if X64 else np.float32
KEY = jax.random.key(0)
X = features(DTYPE, 16)
TABLE = random_table(DTYPE)[:8, :8]
CONTEXTS = {
    "rbf": (cx.contexts.rbf, X),
    "knn": (lambda x: cx.contexts.knn(x, 4), X),
    "joint": (cx.contexts.joint, TABLE),
    "teacher": (cx.contexts.teacher, X),
}


def mesh(num_devices: int = 8) -> jax.sharding.Mesh:
    made = jax.make_mesh(
        (num_devices,),
        ("x",),
        axis_types=(jax.sharding.AxisType.Explicit,),
        devices=jax.devices()[:num_devices],
    )
    assert made.axis_types != auto_mesh(made).axis_types
    return made


def cut(x: np.ndarray) -> jax.Array:
    return jax.device_put(x, NamedSharding(mesh(), PartitionSpec("x")))


@contextlib.contextmanager
def set_mesh(kind: str):
    meshes = {"explicit": mesh(), "auto": auto_mesh(mesh()), "of 4": mesh(4)}
    with jax.set_mesh(meshes[kind]) if kind in meshes else contextlib.nullcontext():
        yield


@pytest.mark.slow_cases("rbf")
@pytest.mark.parametrize(
    "kind",
    [
        "rbf",
        "joint",
        pytest.param("knn", marks=pytest.mark.slow),
        pytest.param("teacher", marks=pytest.mark.slow),
    ],
)
def test_an_array_that_is_cut_by_its_type_gives_the_same_operator(kind):
    make, array = CONTEXTS[kind]
    one, many = (cx.association_operator(make(x)) for x in (array, cut(array)))
    g = np.eye(one.shape[1], 3, dtype=DTYPE)
    atol = tol(DTYPE, factor=100)
    np.testing.assert_allclose(many.matmat(g), one.matmat(g), atol=atol)
    f = np.eye(one.shape[0], 3, dtype=DTYPE)
    np.testing.assert_allclose(many.rmatmat(cut(f)), one.rmatmat(f), atol=atol)


@pytest.mark.parametrize(
    "around",
    [
        "explicit",
        "of 4",
        pytest.param("auto", marks=pytest.mark.slow),
        pytest.param("nothing", marks=pytest.mark.slow),
    ],
)
def test_a_mesh_of_explicit_axes_and_any_context_mesh_give_the_same_products(around):
    context = cx.contexts.rbf(X)
    one = cx.association_operator(context)
    g = np.eye(16, 3, dtype=DTYPE)
    expected = np.asarray(one.matmat(g))
    with set_mesh(around):
        many = cx.association_operator(context, mesh=mesh())
        assert many.shape == one.shape
        found = many.matmat(g)
        again = many.matmat(cut(g)) if around != "of 4" else found
    np.testing.assert_allclose(found, expected, atol=tol(DTYPE, factor=100))
    np.testing.assert_allclose(again, expected, atol=tol(DTYPE, factor=100))


@pytest.mark.slow
@pytest.mark.parametrize("around", ["nothing", "explicit"])
def test_cut_arrays_have_the_spectrum_and_the_functions_of_whole_ones(around):
    table = TABLE / TABLE.sum()
    truth = oracle.singular_values(table)[:2]
    with set_mesh(around):
        context = cx.contexts.joint(cut(table))
        result, _ = cx.svd(cx.association_operator(context), 2, key=KEY)
        extended = cx.extend(result, context, cut(table))
        correlations = cx.evaluation.cca(cut(X), cut(X)[:, :2])
    atol = tol(DTYPE, factor=30)
    np.testing.assert_allclose(result.singular_values, truth, atol=atol)
    np.testing.assert_allclose(extended, result.left, atol=100 * atol)
    np.testing.assert_allclose(correlations, np.ones_like(correlations), atol=1e-5)


@pytest.mark.slow
def test_cut_arrays_are_certified_and_decomposed_like_whole_ones():
    op = cx.association_operator(cx.contexts.joint(cut(TABLE)))
    result, info = cx.svd(op, 2, key=KEY)
    certificate = cx.solvers.certify(result, info, op, key=KEY)
    assert (certificate.lower <= result.singular_values).all()
    plain, _ = cx.solvers.truncated_svd(cut(TABLE), 2, key=KEY)
    expected = np.linalg.svd(TABLE, compute_uv=False)[:2]
    np.testing.assert_allclose(plain.singular_values, expected, rtol=tol(DTYPE))


def test_arrays_are_taken_over_where_they_lie():
    x = cut(X)
    taken = on_auto_axes(x)
    assert on_auto_axes(taken) is taken
    pointers = [
        [shard.data.unsafe_buffer_pointer() for shard in y.addressable_shards]
        for y in (x, taken)
    ]
    assert pointers[0] == pointers[1]


def test_a_traced_array_that_is_cut_by_its_type_is_taken():
    op = cx.association_operator(cx.contexts.joint(TABLE))
    g = np.eye(8, 3, dtype=DTYPE)
    found = jax.jit(op.matmat)(cut(g))
    np.testing.assert_allclose(found, op.matmat(g), atol=tol(DTYPE))


@pytest.mark.slow_cases("rbf")
@pytest.mark.parametrize("kind", ["knn", "rbf"])
def test_front_doors_work_in_an_explicit_mesh_that_does_not_divide_the_rows(kind):
    make, x = CONTEXTS[kind]
    one = cx.association_operator(make(x[:13]))
    op = cx.association_operator(make(x[:13]), mesh=mesh(4))
    f, weights = x[:13, :2], np.arange(1.0, 14)
    truth = cx.svd(one, 2, key=KEY)[0].singular_values

    def values(op, key):
        return cx.svd(op, 2, key=key)[0].singular_values

    def doors(op):
        yield jax.jit(lambda op, g: op.matmat(g))(op, f)
        yield jax.jit(lambda op, g: op.rmatmat(g))(op, f)
        yield cx.operators.reweight(op, weights).rmatmat(f)
        yield cx.operators.convex_combination([op, op]).rmatmat(f)
        yield cx.operators.mixture([op, op]).matmat(f)
        yield cx.evaluation.rayleigh_ritz(f, op).singular_values

    expected = list(doors(one))
    with set_mesh("of 4"):
        key = jax.random.key(0)  # of the mesh that is set
        found = list(doors(op))
        spectra = [values(op, key), jax.jit(values)(op, key)]
        for program in (op.lower(2), cx.solvers.lower(op, 2, method="randomized")):
            assert program.compile()
    for wanted, got in zip(expected, found, strict=True):
        np.testing.assert_allclose(got, wanted, atol=tol(DTYPE, factor=10))
    for got in spectra:
        np.testing.assert_allclose(got, truth, atol=tol(DTYPE, factor=10))
