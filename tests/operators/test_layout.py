"""Layouts over a mesh by sizes: how much room they take, and what shapes say."""

import functools
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

import contexture_jax as cx
from contexture_jax.operators.sharded import _layout
from tests import hlo

K = 16  # entries of a row


@functools.cache
def make_mesh(num_devices: int = 8) -> Mesh:
    return jax.make_mesh((num_devices,), ("x",), axis_types=(AxisType.Auto,))


def graph(kind: str, num_rows: int) -> np.ndarray:
    """Neighbours of each row, shape (n, K)."""
    rng = np.random.default_rng(0)
    if kind == "ordered":  # points on a line, in their order
        start = np.clip(np.arange(num_rows) - K // 2, 0, num_rows - K)
        return start[:, None] + np.arange(K)
    found = rng.integers(num_rows, size=(num_rows, K))
    if kind == "clusters":  # four devices wide, one after the other
        found = np.arange(num_rows)[:, None] // 2048 * 2048 + found % 2048
    if kind == "hubs":  # by popularity, so that the first block is the fullest
        popular = (num_rows ** rng.random((num_rows, K))).astype(int) - 1
        found = np.where(rng.random((num_rows, K)) < 0.7, popular, found)
    found[:, 0] = np.arange(num_rows)
    return found


def laid_out(kind: str, num_rows: int, num_pieces: int) -> Any:
    columns = graph(kind, num_rows).reshape(-1)
    rows = np.repeat(np.arange(num_rows), K)
    weights = (np.ones(len(rows)), np.ones(len(rows)))
    shape = num_rows, num_rows
    lay_out = functools.partial(_layout.lay_out_both, joins=num_pieces == 2)
    return lay_out(rows, columns, weights, shape, num_pieces, np.float32)


def stored(layout: Any) -> int:
    return sum(bucket.indices.size for bucket in layout.buckets)


# Without hubs and dealing: 1.5, 1.2, 22 and 11.
@pytest.mark.parametrize(
    ("kind", "most", "dealt"),
    [
        ("scattered", 1.6, False),
        ("ordered", 1.1, False),
        ("hubs", 1.9, True),
        ("clusters", 1.7, True),
    ],
)
def test_a_layout_takes_little_more_room_than_its_entries(kind, most, dealt):
    *layouts, found = laid_out(kind, 2**14, 32)
    assert [(layout.hubs is not None) for layout in layouts] == [kind == "hubs"] * 2
    assert found == dealt
    for layout in layouts:
        assert K * 2**14 <= stored(layout) < most * K * 2**14
        weights = [bucket.weights.sum() for bucket in layout.buckets]
        assert sum(weights) == K * 2**14  # each entry once


def test_hubs_are_as_few_as_leave_blocks_even():
    even = np.repeat(np.arange(64), 10)
    assert not len(_layout.choose_hubs(even, 16, 4))
    hub = np.append(even, np.full(1000, 21))
    np.testing.assert_array_equal(_layout.choose_hubs(hub, 16, 4), [21])
    # No more than a quarter of a block.
    many = np.append(even, np.repeat(np.arange(16), 1000))
    assert len(_layout.choose_hubs(many, 16, 4)) <= 4


def neighbor_shapes(num_rows: int, num_devices: int = 8) -> Any:
    x = jax.ShapeDtypeStruct((num_rows, 2), np.float32)
    made = jax.eval_shape(functools.partial(cx.contexts.knn, num_neighbors=K), x)
    return cx.operators.operator_shapes(made, mesh=make_mesh(num_devices))


@pytest.mark.parametrize("num_devices", [2, 8])
def test_a_graph_is_laid_out_from_sizes_alone(num_devices):
    planned = neighbor_shapes(2**12, num_devices)
    laid = laid_out("scattered", 2**12, num_devices)
    assert planned.forward.is_joint.value == (num_devices == 2)
    for one, two in zip((planned.forward, planned.backward), laid, strict=False):
        assert one.is_joint.value == two.is_joint.value
        assert stored(two) <= stored(one) * 1.02
        assert stored(one) <= stored(two) * 1.3


@pytest.mark.slow_cases("svd")
@pytest.mark.parametrize("what", ["product", "svd"])
def test_programs_are_lowered_from_shapes(what):
    """4,001 rows: the devices do not divide them."""
    op, options = neighbor_shapes(4001), {"method": "randomized", "num_oversamples": 2}
    lowered = op.lower(5) if what == "product" else cx.solvers.lower(op, 3, **options)
    program = lowered.compile()
    cost, memory = program.cost_analysis(), program.memory_analysis()
    assert cost is not None
    assert memory is not None
    # The steps of a ring that are alike are counted once.
    assert cost["flops"] > 2 * 3 / 8 * K * 501 * 5
    directions = 1 if what == "product" else 2
    stated = op.cost(5).argument_bytes
    assert 0.9 * stated < memory.argument_size_in_bytes < 1.2 * directions * stated
    found = hlo.shapes(program.as_text() or "")
    assert not [shape for shape in found if max(shape, default=0) > 4000]


@pytest.mark.slow_cases("rbf")
@pytest.mark.parametrize("kind", ["dense", "rbf"])
def test_shapes_are_those_of_the_operator(kind):
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    make = {
        "dense": lambda x: cx.contexts.joint(x**2),
        "rbf": cx.contexts.rbf,
    }[kind]
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    planned = cx.operators.operator_shapes(
        jax.eval_shape(make, shape), mesh=make_mesh()
    )
    build = functools.partial(cx.association_operator, mesh=make_mesh())
    # Inside a trace kernels have the form that fits all points.
    op: Any = (jax.jit(build) if kind == "rbf" else build)(make(x))
    assert planned.shape == op.shape
    for part in ("p_x", "p_a", *op.cut_fields):
        one, two = getattr(planned, part), getattr(op, part)
        assert (one.shape, one.dtype) == (two.shape, two.dtype)
        assert one.sharding.is_equivalent_to(two.sharding, one.ndim)
    assert planned.collectives(4) == op.collectives(4)
    text = planned.T.lower(4).compile().as_text() or ""
    stated = {(c.kind, c.bytes) for c in op.collectives(4) if c.product == "rmatmat"}
    assert set(hlo.collectives(text)) == stated


def test_shapes_that_cannot_be_are_refused():
    x = jax.ShapeDtypeStruct((20, 3), np.float32)
    context = jax.eval_shape(cx.contexts.rbf, x)
    with pytest.raises(ValueError, match="max_degree goes with neighbours; got"):
        cx.operators.operator_shapes(context, mesh=make_mesh(), max_degree=4)
    op = cx.operators.operator_shapes(context, mesh=make_mesh())
    with pytest.raises(TypeError, match=r"got shapes, of which cx\.solvers\.lower"):
        cx.svd(op, 3, key=jax.random.key(0))
    pairs = cx.contexts.pairs(np.arange(20), np.arange(20))
    with pytest.raises(TypeError, match="laid out on the host"):
        cx.operators.operator_shapes(pairs, mesh=make_mesh())
