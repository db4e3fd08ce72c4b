"""Krylov iteration with one basis that grows, by which sparse tables are solved."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import contexture_jax as cx
from contexture_jax.solvers import Progress, _one_sided, _plan, load_state, save_state
from tests.tolerances import promised

DTYPE = jnp.zeros(()).dtype
RUN: dict[str, Any] = {"method": "krylov", "block_size": 4, "key": jax.random.key(3)}


@pytest.fixture(autouse=True)
def small_bases(monkeypatch):
    """One basis whatever the size, of 12 blocks in 6 arrays; a restart keeps 4."""
    monkeypatch.setattr(_plan, "_is_one_sided", lambda *_: True)
    monkeypatch.setattr(_plan, "_GROWN_COLUMNS", 48)
    monkeypatch.setattr(_one_sided, "_COLUMNS", 8)


def sparse_table(n: int = 300, m: int = 200) -> np.ndarray:
    """Counts of few of the pairs: a flat spectrum."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.03, (n, m)).astype(float)
    counts[np.arange(n), np.arange(n) % m] += 1
    return counts


def solved(counts: np.ndarray, rank: int, **settings: Any):
    op = cx.association_operator(cx.contexts.joint(scipy.sparse.csr_array(counts)))
    return cx.svd(op, rank, **{**RUN, **settings})


def check(counts: np.ndarray, rank: int, result: Any, info: Any) -> None:
    """Against a dense decomposition, residuals against those of the functions."""
    joint = counts / counts.sum()
    roots = [np.sqrt(joint.sum(axis=axis)) for axis in (1, 0)]
    a = joint / np.outer(*roots) - np.outer(*roots)
    s, left, right = map(np.asarray, result)
    u, v = roots[0][:, None] * left, roots[1][:, None] * right
    tiny = 100 * promised(DTYPE)
    np.testing.assert_allclose(s, np.linalg.svd(a, compute_uv=False)[:rank], atol=tiny)
    for x in (u, v):
        np.testing.assert_allclose(x.T @ x, np.eye(rank), atol=tiny)
    np.testing.assert_allclose(a @ v, u * s, atol=tiny)
    gaps = np.linalg.norm(a.T @ u - v * s, axis=0)
    np.testing.assert_allclose(info.right_residuals, gaps, rtol=1e-2, atol=tiny)


@pytest.mark.slow_cases("programs")
@pytest.mark.parametrize("by", ["programs", "scipy"])
def test_it_restarts_and_resumes_bit_for_bit_with_residuals_that_are_true(
    by, tmp_path, monkeypatch
):
    counts, seen, run = sparse_table(), [], {}
    if by == "scipy":
        # What "auto" takes of few entries, whatever the times of its methods are.
        monkeypatch.setattr(_plan, "_choose", lambda *_, **__: ("krylov", 4, "is best"))
        monkeypatch.setattr(_plan, "_DEEP_COLUMNS", 48)
        run = {"method": "auto", "block_size": None}
    result, info = solved(counts, 6, on_step=seen.append, **run)
    check(counts, 6, result, info)
    assert info.status == "converged"
    plan = seen[0].state.plan
    assert plan.one_sided
    assert isinstance(seen[0].state.inner.block, np.ndarray) == (by == "scipy")
    assert len(seen) > 2 * plan.depth
    numbers = [int(progress.state.inner.number) for progress in seen]
    restart = numbers.index(4, 8)
    for at in (0, restart + 3):
        save_state(tmp_path / "state", seen[at].state)
        again, more = solved(counts, 6, state=load_state(tmp_path / "state"), **run)
        np.testing.assert_array_equal(again.left, result.left)
        assert more.num_passes == info.num_passes
    # What the caller holds stays whole when a solve goes on from it.
    for _ in range(2):
        again, _ = solved(counts, 6, state=seen[-4].state, **run)
        np.testing.assert_array_equal(again.right, result.right)


@pytest.mark.slow_cases("1", "5", "10")
@pytest.mark.parametrize("stop_at", [1, 5, 9, 10])
def test_who_stops_or_runs_out_of_passes_has_triples_and_true_residuals(stop_at):
    counts = sparse_table()
    seen: list[Progress] = []

    def stop(progress: Progress) -> bool:
        seen.append(progress)
        return len(seen) == stop_at

    found = {"stopped": solved(counts, 6, on_step=stop)}
    if stop_at == 9:
        # Beyond the first restart, with room left in the basis.
        found["max passes"] = solved(counts, 6, max_passes=15)
        assert found["max passes"][1].num_passes == 15 + 0.5 + 2 * 0.5
    for status, (result, info) in found.items():
        assert info.status == status
        s, left, right = map(np.asarray, result)
        joint = counts / counts.sum()
        p_x, p_a = joint.sum(axis=1), joint.sum(axis=0)
        back = joint.T @ left / p_a[:, None] - p_x @ left
        gaps = np.sqrt(p_a @ (back - right * s) ** 2)
        tiny = 100 * promised(DTYPE)
        np.testing.assert_allclose(info.right_residuals, gaps, rtol=1e-3, atol=tiny)
        np.testing.assert_allclose(joint @ right / p_x[:, None], left * s, atol=tiny)


@pytest.mark.slow
@pytest.mark.parametrize("copies", [3, 4])
def test_values_of_many_copies_and_tables_of_low_rank(copies):
    # Each value as often as there are blocks, of rank 5; and 1 once less.
    rng = np.random.default_rng(1)
    part = rng.gamma(1.0, size=(30, 5)) @ rng.gamma(0.5, size=(5, 20))
    counts = np.kron(np.eye(copies), part)
    known, rank = 5 * copies - 1, 5 * copies + 1
    result, info = solved(counts, known)
    check(counts, known, result, info)
    result, info = solved(counts, rank)
    check(counts, rank, result, info)
    assert info.status == "rank deficient"
