"""The same spectrum on 1, 2, 4 and 8 devices, none with more than its share."""

import functools
from collections import Counter
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import contexture_jax as cx
from contexture_jax.solvers._orthonormal import fix_signs
from tests import hlo, oracle
from tests.conftest import X64
from tests.tolerances import promised

DTYPE = np.float64 if X64 else np.float32
RANK, WIDTH = 3, 5


@functools.cache
def make_mesh(num_devices: int) -> Mesh:
    return jax.make_mesh((num_devices,), ("x",), axis_types=(AxisType.Auto,))


@functools.cache
def context(kind: str, num_rows: int) -> cx.Context:
    rng = np.random.default_rng(0)
    x = np.sort(rng.normal(size=(num_rows, 1)), axis=0).astype(DTYPE)
    table = rng.gamma(0.3, size=(num_rows, 11)).astype(DTYPE)
    rows, columns = np.nonzero(table > 0.2)
    return {
        "dense": lambda: cx.contexts.joint(table),
        "sparse": lambda: cx.contexts.pairs(
            rows, columns, table[rows, columns], shape=table.shape
        ),
        "knn": lambda: cx.contexts.knn(x, 5),
        "rbf": lambda: cx.contexts.rbf(x, 2.0),
    }[kind]()


@functools.cache
def operator(kind: str, num_rows: int, num_devices: int) -> Any:
    build = functools.partial(cx.association_operator, mesh=make_mesh(num_devices))
    made = context(kind, num_rows)
    return jax.jit(build)(made) if kind == "rbf" else build(made)


# 45 rows leave padding on any number of devices; 48 lie evenly. Each kind has both, and
# each number of devices two kinds.
CASES = [
    *[(kind, 48, 8) for kind in ("dense", "rbf")],
    *[(kind, 45, 8) for kind in ("sparse", "knn")],
    *[
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            *(("dense", 45, 2), ("dense", 45, 4), ("rbf", 45, 1), ("rbf", 45, 4)),
            *(("sparse", 45, 1), ("sparse", 48, 4), ("knn", 45, 2), ("knn", 48, 4)),
        )
    ],
]


@pytest.mark.fast("knn-45-8")
@pytest.mark.parametrize(("kind", "num_rows", "num_devices"), CASES)
def test_the_spectrum_is_that_of_the_table(kind, num_rows, num_devices, key):
    op = operator(kind, num_rows, num_devices)
    result, info = cx.svd(
        op, RANK, key=key, method="randomized", num_oversamples=WIDTH - RANK
    )
    table = np.asarray(context(kind, num_rows).table())
    values, left, right = oracle.triples(table)
    assert info.status == "converged"
    np.testing.assert_allclose(
        result.singular_values, values[:RANK], atol=promised(DTYPE)
    )
    assert result.left.shape == (num_rows, RANK)
    assert result.right.shape == (table.shape[1], RANK)
    # Projectors onto a span err by residual / gap.
    atol = 10 * promised(DTYPE) / (values[RANK - 1] - values[RANK])
    for functions, truth, law in (
        (result.left, left, op.p_x),
        (result.right, right, op.p_a),
    ):
        np.testing.assert_allclose(
            oracle.projector(functions, law),
            oracle.projector(truth[:, :RANK], law),
            atol=atol,
        )
    if num_devices > 1:
        cut = NamedSharding(make_mesh(num_devices), PartitionSpec("x"))
        assert result.padded.left.sharding.is_equivalent_to(cut, 2)
        assert not np.asarray(result.padded.left)[num_rows:].any()


@pytest.mark.slow
def test_a_certificate_gathers_no_rows(key, monkeypatch):
    op = operator("knn", 45, 8)
    settings = {"method": "randomized", "num_oversamples": WIDTH - RANK}
    result, info = cx.svd(op, RANK, key=key, **settings)

    def refused(*_):
        raise AssertionError("rows were cut, which gathers them")

    monkeypatch.setattr("contexture_jax.solvers._results._first", refused)
    found = cx.solvers.certify(result, info, op, key=key)
    values = oracle.triples(np.asarray(context("knn", 45).table()))[0][:RANK]
    tiny = promised(DTYPE)
    assert (found.lower <= values + tiny).all()
    assert (values <= found.upper + tiny).all()
    assert (found.upper - found.lower < 0.1).all()


@pytest.mark.slow
@pytest.mark.parametrize("num_rows", [2**18, 2**18 + 1])
def test_ritz_values_gather_no_rows(num_rows):
    """Of more rows than LAPACK is handed."""
    shape = jax.ShapeDtypeStruct((num_rows, 3), DTYPE)
    made = jax.eval_shape(functools.partial(cx.contexts.knn, num_neighbors=3), shape)
    op = cx.operators.operator_shapes(made, mesh=make_mesh(8))
    values = jax.jit(lambda phi, op: cx.evaluation.rayleigh_ritz(phi, op)[0])
    phi = jax.ShapeDtypeStruct((num_rows, 5), DTYPE)
    text = values.lower(phi, op).compile().as_text() or ""
    for what, size in hlo.collectives(text):
        assert what != "all-gather" or size < num_rows


@pytest.mark.slow
def test_auto_keeps_an_operator_on_its_devices(key):
    found = {}
    for num_devices in (1, 8):
        op = operator("dense", 48, num_devices)
        result, info = cx.svd(op, RANK, key=key, num_oversamples=WIDTH - RANK)
        found[info.method] = np.asarray(result.singular_values)
    assert sorted(found) == ["exact", "randomized"]
    np.testing.assert_allclose(*found.values(), atol=promised(DTYPE))


@pytest.mark.slow
def test_gradients_of_the_spectrum_are_those_of_one_device(key):
    x = np.random.default_rng(0).normal(size=(45, 1)).astype(DTYPE)

    def energy(x, gamma, mesh=None):
        made = cx.contexts.rbf(x, gamma)
        op = cx.association_operator(made, mesh=mesh, tile_size=6)
        settings = {"method": "randomized", "num_oversamples": WIDTH - RANK}
        return (cx.svd(op, RANK, key=key, **settings)[0].singular_values ** 2).sum()

    one = jax.grad(energy, (0, 1))(x, 2.0)
    many = jax.grad(functools.partial(energy, mesh=make_mesh(8)), (0, 1))(x, 2.0)
    for wanted, got in zip(one, many, strict=True):
        np.testing.assert_allclose(got, wanted, atol=100 * promised(DTYPE))


@functools.cache
def program(kind: str, num_rows: int) -> str:
    lowered = cx.solvers.lower(
        operator(kind, num_rows, 8),
        RANK,
        method="randomized",
        num_oversamples=WIDTH - RANK,
    )
    return lowered.compile().as_text() or ""


@pytest.mark.fast("45-dense")
@pytest.mark.parametrize("kind", ["dense", "knn", "rbf"])
@pytest.mark.parametrize("num_rows", [48, 45])
def test_no_device_holds_all_rows_of_a_block(kind, num_rows):
    """Rows of padding, which make 48 of 45, are cut like the rest from end to end."""
    text = program(kind, num_rows)
    found = hlo.shapes(text)
    assert (6, WIDTH) in found
    assert not [shape for shape in found if {45, 48} & set(shape)]
    small = 2 * WIDTH * WIDTH * np.dtype(DTYPE).itemsize
    for what, size in hlo.collectives(text):
        assert what in ("all-reduce", "collective-permute")
        if what == "all-reduce" and kind != "dense":
            assert size <= small


def test_signs_are_by_the_first_of_the_largest_entries():
    rng = np.random.default_rng(0)
    left, right = rng.uniform(-1, 1, (2, 48, RANK)).astype(DTYPE)
    eps = float(np.finfo(DTYPE).eps)
    left[5], left[40] = -2 * (1 - 4 * eps), 2
    cut = jax.device_put(left, NamedSharding(make_mesh(8), PartitionSpec("x")))
    many = jax.jit(fix_signs).lower(cut, right).compile()
    one = fix_signs(left, right)
    assert (one[0][5] > 0).all()
    for got in (fix_signs(-left, -right), many(cut, right), many(-cut, -right)):
        for wanted, found in zip(one, got, strict=True):
            np.testing.assert_array_equal(found, wanted)
    for kind, size in hlo.collectives(many.as_text() or ""):
        assert (kind, size <= 8 * RANK) == ("all-reduce", True)


@pytest.mark.slow_cases("knn", "rbf")
@pytest.mark.parametrize("kind", ["dense", "knn", "rbf"])
def test_a_pass_takes_what_the_operator_states_and_small_sums(kind):
    text = program(kind, 48)
    # The iteration is the only loop without a known number of steps.
    one_pass = hlo.collectives(text) - hlo.collectives(text, loops=False)
    stated = Counter()
    for each in operator(kind, 48, 8).collectives(WIDTH):
        stated[each.kind, each.bytes] += each.times
    assert not stated - one_pass
    small = WIDTH * WIDTH * np.dtype(DTYPE).itemsize
    for (name, size), _ in (one_pass - stated).items():
        assert name == "all-reduce"
        assert size <= 2 * small
