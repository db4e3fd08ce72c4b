"""What "auto" chooses, and that it misses nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax.solvers import load_state, save_state
from contexture_jax.solvers._plan import Plan, make_plan
from contexture_jax.solvers._work import Work, work_of

SINGLE = np.dtype(np.float32)


def plan(n: int, m: int, rank: int, entries: int | None = None, **settings) -> Plan:
    work = None if entries is None else Work.sparse(entries, 4)
    return make_plan((n, m), SINGLE, rank, min(n, m), work=work, **settings)


@pytest.mark.parametrize(
    ("shape", "rank", "entries", "method"),
    [
        ((60, 50), 3, None, "exact"),
        ((200, 200), 16, None, "exact"),
        ((1000, 1000), 200, None, "exact"),
        ((1000, 900), 400, None, "exact"),  # three blocks do not fit
        ((3000, 2000), 32, None, "krylov"),
        ((6000, 5000), 48, None, "krylov"),
        ((12000, 2500), 64, None, "krylov"),
        ((60000, 30000), 64, 1_500_000, "randomized"),
        ((100_000, 100_000), 64, 3_000_000, "randomized"),
    ],
)
def test_the_method_follows_what_products_take(shape, rank, entries, method):
    n, m = shape
    found = plan(n, m, rank, entries)
    assert found.method == method
    assert str(rank) in found.reason
    if method == "krylov":
        assert found.block_size % 16 == 0
        assert 2 * found.block_size <= found.width
        assert found.guards_clusters
        assert f"in blocks of {found.block_size}" in found.reason


def test_no_dense_decomposition_of_a_thousand_rows_for_a_few_triples():
    assert {plan(1000, 1000, rank).method for rank in (1, 8, 32)} <= {
        "krylov",
        "randomized",
    }


@pytest.mark.parametrize(
    "settings", [{"traced": True}, {"sharded": True}, {"max_passes": 4}]
)
def test_subspace_iteration_where_krylov_may_not_run(settings):
    assert plan(6000, 5000, 48).method == "krylov"
    assert plan(6000, 5000, 48, **settings).method == "randomized"


def test_bases_are_longer_where_numpy_multiplies():
    near, far = (plan(6000, 5000, 48, near=is_near) for is_near in (True, False))
    assert near.method == far.method == "krylov"
    assert near.depth * near.block_size > 1.5 * far.depth * far.block_size
    # Who asks for a block has bases of the usual length.
    asked = plan(6000, 5000, 48, near=True, method="krylov", block_size=48)
    assert asked.depth * 48 <= 3 * far.width


def test_one_basis_that_grows_where_products_are_cheap():
    sizes = (200_000, 100_000, 64, 5_000_000)
    table = plan(*sizes, may_grow=True)
    assert table.method == "krylov"
    assert table.one_sided
    # No more memory than two bases of the usual length.
    assert table.block_size * table.depth * 100_000 <= 3 * table.width * 300_000
    assert plan(*sizes, may_grow=True, method="krylov", max_passes=12).one_sided
    assert not plan(6000, 5000, 48, may_grow=True).one_sided
    assert not plan(*sizes, method="krylov").one_sided
    # Where programs would take longer to compile than to run.
    assert not plan(20_000, 20_000, 64, 600_000, may_grow=True).one_sided


def test_numpy_decomposes_what_is_small_and_takes_narrow_blocks_of_the_rest():
    found = [plan(n, n, rank, near=True) for n, rank in ((400, 32), (1000, 32))]
    assert [one.method for one in found] == ["exact", "krylov"]
    assert found[1].block_size == 16


def test_wider_problems_have_wider_blocks():
    blocks = [plan(200_000, 3000, rank).block_size for rank in (8, 64, 200, 500)]
    assert blocks == sorted(set(blocks))


def test_operators_say_what_their_products_take():
    rng = np.random.default_rng(0)
    shape = (600, 500)
    dense = cx.contexts.joint(rng.random(shape, np.float32))
    lists = rng.integers(0, 500, (600, 10))
    sparse = cx.contexts.neighbors(lists, num_points=500)
    table, neighbors = (
        work_of(cx.association_operator(context)) for context in (dense, sparse)
    )
    assert table is not None
    assert neighbors is not None
    known = Work.dense(shape, 4)
    assert table.seconds(16) == pytest.approx(known.seconds(16), rel=0.02)
    assert table.gathered_bytes == 0
    assert neighbors.gathered_bytes > 0
    assert neighbors.seconds(16) < table.seconds(16) / 5


def clustered(copies: int) -> tuple[jax.Array, np.ndarray]:
    """Equal values, and others, in an order that says nothing."""
    s = np.concatenate([np.ones(copies), 0.9 * 0.7 ** np.arange(1200.0 - copies)])
    order = np.random.default_rng(0).permutation(1200)
    return jnp.asarray(np.diag(s[order]), jnp.float32), s


def test_a_cluster_as_large_as_a_block_is_solved_again(tmp_path):
    a, s = clustered(32)
    seen, run = [], {"rank": 40, "key": jax.random.key(0)}
    result, info = cx.solvers.truncated_svd(a, on_step=seen.append, **run)
    assert seen[0].state.plan.method == "krylov"
    assert seen[0].state.plan.block_size == 32
    assert {int(progress.state.stage) for progress in seen} == {0, 1}
    assert info.method == "randomized"
    assert "met a cluster" in str(info.reason)
    np.testing.assert_allclose(result.singular_values, s[:40], atol=2e-6)
    for progress in (seen[2], seen[-2]):
        save_state(tmp_path / "state", progress.state)
        again, more = cx.solvers.truncated_svd(
            a, state=load_state(tmp_path / "state"), **run
        )
        np.testing.assert_array_equal(again.left, result.left)
        assert more.method == info.method


@pytest.mark.parametrize("copies", [30, 35, pytest.param(80, marks=pytest.mark.slow)])
def test_clusters_are_found_whole(copies):
    a, s = clustered(copies)
    result, info = cx.solvers.truncated_svd(a, copies + 5, key=jax.random.key(1))
    assert info.status == "converged"
    np.testing.assert_allclose(result.singular_values, s[: copies + 5], atol=2e-6)
