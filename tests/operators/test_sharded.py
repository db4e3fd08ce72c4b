"""Operators over 1, 2, 4 and 8 devices: what one device gives, and what they say."""

import functools
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import contexture_jax as cx
from contexture_jax.operators.sharded import _slots
from tests import hlo
from tests.conftest import X64
from tests.problems import CONTEXTS, features, holey_table
from tests.tolerances import tol

DTYPE = np.float64 if X64 else np.float32
WIDTH = 3


@functools.cache
def make_mesh(num_devices: int) -> Mesh:
    return jax.make_mesh((num_devices,), ("x",), axis_types=(AxisType.Auto,))


def popular_neighbors(dtype: Any) -> cx.Context:
    """Columns of every degree, one of them a neighbour of each of 1,100 rows."""
    rng = np.random.default_rng(4)
    indices = np.minimum(rng.zipf(1.3, size=(1100, 5)) - 1, 599)
    indices[:, 0] = 0
    return cx.contexts.neighbors(indices, rng.random((1100, 5)).astype(dtype))


def hub_graph(dtype: Any) -> cx.Context:
    """A path of 61 nodes, the first of them an end of an edge from and to each."""
    nodes = np.arange(61)
    ends = np.roll(nodes, 1), nodes, 0 * nodes, nodes, nodes, 0 * nodes
    rows, columns = np.concatenate(ends[::2]), np.concatenate(ends[1::2])
    return cx.contexts.pairs(rows, columns, (rows + 2 * columns + 1.0).astype(dtype))


MANY = {
    name: CONTEXTS[name]
    for name in (
        "joint with zeros",
        "pairs",
        "reversed knn",
        "neighbors",
        "rbf",
        "attention",
        "teacher",
    )
} | {
    "labels": lambda _: cx.contexts.labels(np.arange(14) % 3),
    "sorted knn": lambda dtype: cx.contexts.knn(
        np.arange(32.0, dtype=dtype)[:, None], 5
    ),
    "few context values": lambda dtype: cx.contexts.pairs(
        np.append(np.arange(16), 0), np.append(np.arange(16) % 2, 1), np.ones(17, dtype)
    ),
    "popular neighbours": popular_neighbors,
    "hub graph": hub_graph,
    "far rbf": lambda dtype: cx.contexts.rbf(
        features(dtype) + 1e4 * (np.arange(14) % 3)[:, None].astype(dtype), 0.5
    ),
}


@functools.cache
def context(name: str) -> cx.Context:
    return MANY[name](DTYPE)


def build(name: str, mesh: Mesh | None = None) -> Any:
    """One program where the context can be traced: eager loops compile one by one."""
    made = context(name)
    if not isinstance(made, cx.contexts.SoftmaxContext):
        return cx.association_operator(made, mesh=mesh)
    make = functools.partial(cx.association_operator, tile_size=5, mesh=mesh)
    # Outside a trace far points have a form of their own.
    return make(made) if name == "far rbf" else jax.jit(make)(made)


@functools.cache
def single(name: str) -> cx.AssociationOperator:
    return build(name)


@functools.cache
def sharded(name: str, num_devices: int) -> Any:
    return build(name, make_mesh(num_devices))


def blocks(op: cx.AssociationOperator, width: int = WIDTH) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    f, g = (jnp.asarray(rng.normal(size=(s, width)), op.dtype) for s in op.shape)
    return f, g


@jax.jit
def apply(op, f, g):
    return op.matmat(g), op.rmatmat(f), op.squared_norm(), op.p_x, op.p_a


CASES = [
    *[(name, 8) for name in MANY],
    *[
        (name, 2)
        for name in ("joint with zeros", "reversed knn", "rbf", "hub graph", "labels")
    ],
    *[
        pytest.param(name, k, marks=pytest.mark.slow)
        for k, names in (
            (1, ("joint with zeros", "reversed knn", "rbf")),
            (4, ("few context values", "reversed knn", "rbf")),
        )
        for name in names
    ],
]


@pytest.mark.parametrize("num_devices", [2, 8])
def test_rows_of_as_many_entries_are_pieces_in_their_order(num_devices):
    for made, width in (
        (cx.contexts.labels(np.arange(16) % 3), 1),
        (cx.contexts.neighbors((np.arange(16)[:, None] + [0, 3, 5]) % 16), 3),
    ):
        op: Any = cx.association_operator(made, mesh=make_mesh(num_devices))
        if op.ring and num_devices == 8:
            continue  # a part of each row is in the block that visits
        [bucket] = op.forward.own
        assert bucket.indices.shape == (num_devices, width, 16 // num_devices)
        assert bucket.rows is None
        assert op.forward.is_joint.value == op.ring


def test_two_cpu_devices_bring_both_blocks_together():
    x = np.random.default_rng(5).normal(size=(NUM_ROWS, 4)).astype(np.float32)
    op: Any = cx.association_operator(cx.contexts.knn(x, 5), mesh=make_mesh(2))
    there, back = op.collectives(COLUMNS)
    # Rows of T have five entries each, those of T* any number: a ring of one hop.
    assert there == ("matmat", "all-gather", 4 * COLUMNS * NUM_ROWS // 2, 1)
    assert back[:2] == ("rmatmat", "collective-permute")
    cut = NamedSharding(make_mesh(2), PartitionSpec("x"))
    block = jax.ShapeDtypeStruct((NUM_ROWS, COLUMNS), op.dtype, sharding=cut)
    run = jax.jit(lambda op, g: op.matmat(g)).lower(op, block).compile()
    # Of what comes out.
    assert hlo.collectives(run.as_text() or "") == {(there.kind, 2 * there.bytes): 1}
    memory, cost = run.memory_analysis(), op.cost(COLUMNS)
    assert memory is not None
    assert memory.argument_size_in_bytes <= cost.argument_bytes
    assert cost.argument_bytes <= 1.5 * memory.argument_size_in_bytes
    both = 4 * COLUMNS * NUM_ROWS
    assert both <= memory.temp_size_in_bytes <= 2 * both
    assert cost.temporary_bytes >= both


def test_two_devices_send_what_is_needed_where_that_is_little():
    lists = np.clip(np.arange(NUM_ROWS)[:, None] + np.arange(-2, 3), 0, NUM_ROWS - 1)
    made = cx.contexts.neighbors(lists)
    one, op = (cx.association_operator(made, mesh=m) for m in (None, make_mesh(2)))
    assert [each.kind for each in op.collectives(COLUMNS)] == ["all-to-all"] * 2
    f, g = blocks(one)
    for wanted, got in zip(apply(one, f, g), apply(op, f, g), strict=True):
        np.testing.assert_allclose(got, wanted, atol=tol(one.dtype, factor=30))


def test_hubs_among_rows_and_columns_are_kept_apart():
    hubs = sharded("hub graph", 8).forward.hubs
    assert hubs.taken.shape[1] == hubs.given.shape[1] == 1


def test_values_sorted_by_popularity_are_dealt_out():
    op = sharded("popular neighbours", 8)
    assert op.dealt
    stated = Counter()
    for each in op.collectives(COLUMNS):
        if each.product == "matmat":
            stated[each.kind, each.bytes] += each.times
    assert hlo.collectives(op.lower(COLUMNS).compile().as_text()) == stated


@pytest.mark.fast("joint with zeros-8", "teacher-8")
@pytest.mark.parametrize(("name", "num_devices"), CASES)
def test_products_and_laws_are_those_of_one_device(name, num_devices):
    one, many = single(name), sharded(name, num_devices)
    assert (many.shape, many.dtype) == (one.shape, one.dtype)
    f, g = blocks(one)
    expected, found = apply(one, f, g), apply(many, f, g)
    for wanted, got in zip(expected, found, strict=True):
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
        atol = tol(one.dtype, factor=30 if one.shape[0] < 100 else 1000)
        np.testing.assert_allclose(got, wanted, atol=atol)
    forward, backward, *_ = found
    np.testing.assert_allclose(
        (many.p_x[:, None] * f * forward).sum(),
        (backward * many.p_a[:, None] * g).sum(),
        atol=tol(many.dtype, factor=30),
    )


def test_rows_without_mass_give_zero_on_any_device():
    op = sharded("joint with zeros", 8)
    f, g = blocks(op)
    forward, backward, *_ = apply(op, f, g)
    assert (np.asarray(forward)[3] == 0).all()
    assert (np.asarray(backward)[[0, 5]] == 0).all()


@pytest.mark.parametrize("storage", ["dense", "sparse"])
def test_any_table_can_be_stored_over_devices(storage):
    made = context("joint with zeros")
    many = cx.association_operator(made, storage=storage, mesh=make_mesh(8))
    one = single("joint with zeros")
    f, g = blocks(one)
    for wanted, got in zip(apply(one, f, g), apply(many, f, g), strict=True):
        np.testing.assert_allclose(got, wanted, atol=tol(DTYPE, factor=30))


def test_compositions_take_sharded_parts():
    def both(op):
        return cx.operators.compose(cx.operators.reverse(op), op)

    one, many = both(single("reversed knn")), both(sharded("reversed knn", 8))
    f, g = blocks(one)
    for wanted, got in zip(apply(one, f, g)[:2], apply(many, f, g)[:2], strict=True):
        np.testing.assert_allclose(got, wanted, atol=tol(DTYPE, factor=30))
    assert cx.operators.mesh_of(many) == make_mesh(8)
    assert cx.operators.mesh_of(one) is None


@pytest.mark.slow
def test_contexts_made_of_contexts_are_cut_as_their_parts_are():
    knn, rbf, teacher = (CONTEXTS[c](DTYPE) for c in ("knn", "rbf", "teacher"))
    made = cx.contexts.convex_combination(
        [cx.contexts.convolve(knn, rbf), cx.contexts.mixture([teacher, knn])]
    )
    one, many = (
        cx.association_operator(made, mesh=mesh, tile_size=5)
        for mesh in (None, make_mesh(8))
    )
    f, g = blocks(one)
    for wanted, got in zip(apply(one, f, g), apply(many, f, g), strict=True):
        if wanted is not None:  # the norm, which no part tells
            np.testing.assert_allclose(got, wanted, atol=tol(DTYPE, factor=30))
    assert cx.operators.mesh_of(many) == make_mesh(8)


@pytest.mark.slow
def test_gradients_through_the_ring_are_those_of_one_device():
    """14 rows: padding on 8 devices."""
    x = jnp.asarray(features(DTYPE))
    f, g = blocks(single("rbf"))

    def loss(x, gamma, f, g, mesh=None):
        made = cx.contexts.rbf(x, gamma)
        op = cx.association_operator(made, tile_size=5, mesh=mesh)
        norm2 = op.squared_norm()
        assert norm2 is not None
        products = (op.matmat(g) ** 2).sum() + (op.rmatmat(f) ** 2).sum()
        return products + norm2 + (op.p_a**2).sum()

    def gradient(mesh=None):
        made = functools.partial(loss, mesh=mesh)
        return jax.jit(jax.value_and_grad(made, (0, 1, 2, 3)))(x, 0.3, f, g)

    wanted, got = jax.tree.leaves(gradient()), gradient(make_mesh(8))
    for one, many in zip(wanted, jax.tree.leaves(got), strict=True):
        scale = float(jnp.abs(one).max())
        np.testing.assert_allclose(many, one, atol=tol(DTYPE, factor=300) * scale)


@pytest.mark.slow_cases("few context values", "reversed knn", "hub graph")
@pytest.mark.parametrize(
    "name", ["joint with zeros", "few context values", "reversed knn", "hub graph"]
)
def test_gradients_through_blocks_are_those_of_one_device(name):
    f, g = blocks(single(name))

    @jax.jit
    def gradient(op, f, g):
        return jax.grad(
            lambda f, g: (op.matmat(g) ** 2).sum() + (op.rmatmat(f) ** 3).sum(), (0, 1)
        )(f, g)

    one, many = (gradient(op, f, g) for op in (single(name), sharded(name, 8)))
    for wanted, got in zip(one, many, strict=True):
        np.testing.assert_allclose(got, wanted, atol=tol(DTYPE, factor=100))


@pytest.mark.slow_cases("reversed knn")
@pytest.mark.parametrize("name", ["reversed knn", "popular neighbours"])
def test_many_pieces_are_added_tile_by_tile(name, monkeypatch):
    monkeypatch.setattr(_slots, "_TILE", 2)  # and most layouts have an odd one left
    f, g = blocks(single(name))

    def products_and_gradients(op, f, g):
        def loss(f, g):
            return (op.matmat(g) ** 2).sum() + (op.rmatmat(f) ** 3).sum()

        return op.matmat(g), op.rmatmat(f), *jax.grad(loss, (0, 1))(f, g)

    # Not `apply`, which has been traced.
    run = jax.jit(products_and_gradients)
    one, many = (run(op, f, g) for op in (single(name), sharded(name, 8)))
    assert "while" in run.lower(sharded(name, 8), f, g).as_text()
    for wanted, got in zip(one, many, strict=True):
        scale = max(1.0, float(jnp.abs(wanted).max()))
        np.testing.assert_allclose(got, wanted, atol=tol(DTYPE) * scale)


# 104 rows, 13 a device; block width 7 and e = 6 for rbf in four dimensions: sizes that
# no other array has.
NUM_ROWS, NUM_COLUMNS, COLUMNS = 104, 9, 7


@functools.cache
def laid_out(kind: str) -> Any:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(NUM_ROWS, 4)).astype(np.float32)
    table = rng.gamma(0.3, size=(NUM_ROWS, NUM_COLUMNS)).astype(np.float32)
    rows, columns = np.nonzero(table > 0.3)
    made = {
        "dense": lambda: cx.contexts.joint(table),
        "sparse": lambda: cx.contexts.pairs(
            rows, columns, np.ones(len(rows), np.float32)
        ),
        "knn": lambda: cx.contexts.knn(x, 5),
        "rbf": lambda: cx.contexts.rbf(x),
        "teacher": lambda: cx.contexts.teacher(x),
        "chain": lambda: cx.contexts.reverse(
            cx.contexts.convolve(
                cx.contexts.same_class(np.arange(NUM_ROWS) % 3), cx.contexts.teacher(x)
            )
        ),
        "mixture": lambda: cx.contexts.mixture(
            [cx.contexts.knn(x, 5), cx.contexts.teacher(x)]
        ),
        "product": lambda: cx.contexts.tensor_product(
            [cx.contexts.joint(table[:2]), cx.contexts.joint(table)]
        ),
    }[kind]()
    tiles = 8 if kind == "rbf" else None
    return cx.association_operator(made, mesh=make_mesh(8), tile_size=tiles)


@functools.cache
def compiled(kind: str, product: str) -> Any:
    op = laid_out(kind)
    size = op.shape[1] if product == "matmat" else op.shape[0]
    cut = PartitionSpec("x") if size == NUM_ROWS else PartitionSpec()
    block = jax.ShapeDtypeStruct(
        (size, COLUMNS), op.dtype, sharding=NamedSharding(make_mesh(8), cut)
    )
    run = jax.jit(lambda op, block: getattr(op, product)(block))
    return run.lower(op, block).compile()


KINDS = ["dense", "sparse", "knn", "rbf", "teacher"]


@pytest.mark.fast(
    "knn-matmat", "dense-matmat", "sparse-rmatmat", "dense-rmatmat", "chain-rmatmat"
)
@pytest.mark.parametrize("product", ["matmat", "rmatmat"])
@pytest.mark.parametrize("kind", [*KINDS, "chain", "mixture"])
def test_a_product_takes_the_collectives_that_the_operator_states(kind, product):
    stated = Counter()
    for each in laid_out(kind).collectives(COLUMNS):
        if each.product == product:
            stated[each.kind, each.bytes] += each.times
    assert hlo.collectives(compiled(kind, product).as_text()) == stated
    if kind in ("knn", "rbf"):  # a block is at each of 8 devices after 7 hops
        assert list(stated.values()) == [7]
        assert {what for what, _ in stated} == {"collective-permute"}


def test_a_tensor_product_states_those_of_its_parts_on_their_columns():
    op = laid_out("product")
    # Of a table one sum of m × r, of blocks as wide as the other axis makes them.
    size, m = op.dtype.itemsize, NUM_COLUMNS
    widths = NUM_ROWS * COLUMNS, m * COLUMNS
    expected = [("rmatmat", "all-reduce", size * m * r, 1) for r in widths]
    assert list(op.collectives(COLUMNS)) == expected


@pytest.mark.slow
def test_one_device_tells_nobody():
    for name in ("joint with zeros", "few context values", "reversed knn", "rbf"):
        assert sharded(name, 1).collectives(5) == single(name).collectives(5) == ()


@pytest.mark.slow
@pytest.mark.parametrize("product", ["matmat", "rmatmat"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_device_holds_more_than_its_share(kind, product):
    """Nothing with all rows, padding included, in the program of a device."""
    found = hlo.shapes(compiled(kind, product).as_text())
    assert (NUM_ROWS // 8, COLUMNS) in found
    assert not [shape for shape in found if NUM_ROWS in shape]
    tile = 7 if kind == "rbf" else 0  # 13 rows in tiles of 7
    largest = max(np.prod(shape, dtype=int) for shape in found)
    arguments = max(
        leaf.size // 8 for leaf in jax.tree.leaves(laid_out(kind)) if leaf.ndim > 1
    )
    assert largest <= max(arguments, NUM_ROWS // 8 * 2 * (COLUMNS + 6), tile**2)


@pytest.mark.slow_cases("rbf")
@pytest.mark.parametrize("kind", KINDS)
def test_results_stay_where_the_rows_are(kind):
    op = laid_out(kind)
    out = jax.jit(lambda op, g: op.matmat(g))(op, blocks(op)[1])
    assert out.sharding.is_equivalent_to(
        NamedSharding(op.mesh, PartitionSpec("x")), out.ndim
    )
    assert op.p_x.sharding.spec == PartitionSpec("x")


@pytest.mark.slow
def test_reverse_mode_through_the_ring_stores_no_tile():
    """Work space of a gradient is linear in n, and no array has all rows."""

    def work_space(n: int) -> int:
        def loss(x, gamma):
            made = cx.contexts.rbf(x, gamma)
            op = cx.association_operator(made, mesh=make_mesh(8), tile_size=64)
            return (op.matmat(jnp.ones((n, 4), x.dtype)) ** 2).sum()

        cut = NamedSharding(make_mesh(8), PartitionSpec("x"))
        x = jax.ShapeDtypeStruct((n, 3), np.float32, sharding=cut)
        gamma = jax.ShapeDtypeStruct((), np.float32)
        program = jax.jit(jax.grad(loss, (0, 1))).lower(x, gamma).compile()
        text = program.as_text() or ""
        assert not [shape for shape in hlo.shapes(text) if n in shape]
        memory = program.memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    assert work_space(8192) <= 2.2 * work_space(4096)
    assert work_space(8192) < 4 * 8192**2 / 8 / 8


@pytest.mark.parametrize("kind", KINDS)
def test_cost_is_that_of_one_device(kind):
    op = laid_out(kind)
    assert jax.eval_shape(lambda: op).cost(5) == op.cost(5)
    memory = compiled(kind, "matmat").memory_analysis()
    assert memory is not None
    stated = op.cost(COLUMNS)
    assert stated.output_bytes == memory.output_size_in_bytes
    # Arrays that one product does not read are no arguments of it.
    own = memory.argument_size_in_bytes
    assert own <= stated.argument_bytes <= 1.5 * own
    back = compiled(kind, "rmatmat").memory_analysis()
    assert back is not None
    assert op.T.cost(COLUMNS).output_bytes == back.output_size_in_bytes


def test_bad_meshes_are_refused():
    made = context("joint with zeros")
    build = functools.partial(cx.association_operator, made)
    with pytest.raises(ValueError, match=r"axis must be one of .*'x'.*; got 'y'"):
        build(mesh=make_mesh(2), axis="y")
    manual = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Manual,))
    with pytest.raises(ValueError, match="Auto or Explicit; got one of type Manual"):
        build(mesh=manual)


def test_a_context_of_a_class_of_ones_own_gives_its_table_once():
    class Counted(cx.Context):
        asked = 0

        def table(self):
            self.asked += 1
            return jnp.asarray(holey_table(DTYPE))

    made = Counted()
    many = cx.association_operator(made, mesh=make_mesh(8))
    assert made.asked == 1
    one = cx.association_operator(made)
    np.testing.assert_allclose(many.as_matrix(), one.as_matrix(), atol=tol(DTYPE))


@pytest.mark.parametrize(
    "name", ["pairs", "labels", "neighbors", "reversed knn", "sorted knn"]
)
def test_a_traced_context_is_refused_in_plain_words(name):
    build = functools.partial(cx.association_operator, mesh=make_mesh(2))
    with pytest.raises(TypeError, match=r"laid out on the host.*got a tracer"):
        jax.eval_shape(build, context(name))


@pytest.mark.slow
def test_another_axis_of_the_mesh_repeats_the_work():
    mesh = jax.make_mesh((2, 4), ("y", "x"), axis_types=(AxisType.Auto,) * 2)
    for name in ("joint with zeros", "reversed knn"):
        one, many = single(name), build(name, mesh)
        f, g = blocks(one)
        for wanted, got in zip(apply(one, f, g), apply(many, f, g), strict=True):
            np.testing.assert_allclose(got, wanted, atol=tol(DTYPE, factor=30))


def test_entries_given_in_parts_count_as_one():
    table = holey_table(DTYPE)
    rows, columns = np.nonzero(table)
    half = table[rows, columns] / 2
    twice = (np.tile(i, 2) for i in (rows, columns, half))
    made = cx.contexts.pairs(next(twice), next(twice), next(twice))
    one = cx.association_operator(cx.contexts.joint(table[:, : columns.max() + 1]))
    many = cx.association_operator(made, mesh=make_mesh(8))
    f, g = blocks(one)
    for wanted, got in zip(apply(one, f, g), apply(many, f, g), strict=True):
        np.testing.assert_allclose(got, wanted, atol=tol(DTYPE, factor=30))


@pytest.mark.parametrize("order", ["scattered", "ordered"])
def test_rows_that_are_needed_come_in_rounds_where_a_ring_would_bring_more(order):
    """Two entries a row, of which a ring brings 7 blocks of 16 rows to each device."""
    rng, n = np.random.default_rng(0), 125
    lists = np.stack([np.arange(n), (np.arange(n) + 1) % n], axis=1)
    if order == "scattered":
        lists[:, 1] = np.append(np.arange(1, n), 0)[rng.permutation(n)]
    made = cx.contexts.neighbors(lists, num_points=n)
    op: Any = cx.association_operator(made, mesh=make_mesh(8))
    one = cx.association_operator(made)
    assert op.forward.exchange is not None
    g = rng.normal(size=(n, 3)).astype(np.float32)
    for name in ("matmat", "rmatmat"):
        found, wanted = (np.asarray(getattr(x, name)(g)) for x in (op, one))
        np.testing.assert_allclose(found, wanted, atol=tol(np.float32))
        text = op.lower(3, adjoint=name == "rmatmat").compile().as_text()
        told = {(c.kind, c.bytes) for c in op.collectives(3) if c.product == name}
        assert set(hlo.collectives(text or "")) == told
        assert {kind for kind, _ in told} == {"all-to-all"}
        # At a time no more than a block of a ring, in all than half of its 7 blocks.
        block = op.dtype.itemsize * 3 * 16
        assert max(size for _, size in told) <= block
        assert sum(c.bytes * c.times for c in op.collectives(3)) <= 2 * 7 * block / 2
    scattered = order == "scattered"
    assert {c.times for c in op.collectives(3)} == {2 if scattered else 1}
