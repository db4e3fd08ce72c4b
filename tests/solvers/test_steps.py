"""A solve pass by pass: seen, stopped, saved, resumed; and called without callbacks."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import contexture_jax as cx
from contexture_jax._core.either import LITTLE, product
from contexture_jax.solvers import (
    Method,
    Progress,
    _pieces,
    _run,
    _truncated,
    load_state,
    save_state,
)
from tests.problems import random_table
from tests.tolerances import promised

KEY = jax.random.key(7)
DTYPE = jnp.zeros(()).dtype
ITERATIVE: list[Method] = ["randomized", "krylov", "nystrom"]


def matrix(seed: int = 0) -> np.ndarray:
    """A slow spectrum, of which no method finds the leading part at once."""
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.normal(size=(n, 50)))[0] for n in (60, 50))
    return (u * (1.0 + np.arange(50)) ** -0.5 @ v.T).astype(DTYPE)


A = matrix()
RUN: dict[str, Any] = {"key": KEY, "rank": 4, "num_oversamples": 2}


def watched(method: Method = "randomized", **settings: Any):
    """The progress of a solve of A, and what comes of it."""
    seen: list[Progress] = []
    run = {**RUN, "method": method, **settings}
    result, info = cx.solvers.truncated_svd(A, on_step=seen.append, **run)
    return seen, result, info


@pytest.mark.parametrize("method", ITERATIVE)
def test_on_step_sees_every_pass_and_changes_nothing(method):
    seen, result, info = watched(method)
    plain, _ = cx.solvers.truncated_svd(A, method=method, **RUN)
    np.testing.assert_array_equal(result.left, plain.left)
    passes = [progress.num_passes for progress in seen]
    assert passes[-1] == info.num_passes
    assert set(np.diff(passes)) <= {1.0}
    last = seen[-1]
    np.testing.assert_array_equal(last.singular_values, result.singular_values)
    np.testing.assert_array_equal(last.residuals, info.right_residuals)
    assert np.isinf(seen[0].residuals).all()


@pytest.mark.slow_cases("krylov-3", "randomized-3", "nystrom-1")
@pytest.mark.parametrize(
    ("method", "stop_at"),
    [
        ("randomized", 1),
        ("randomized", 3),
        ("krylov", 3),
        ("krylov", 1),
        ("nystrom", 1),
    ],
)
def test_a_solve_that_is_stopped_says_how_far_it_is(method, stop_at):
    passes = []

    def stop(progress: Progress) -> bool:
        passes.append(progress.num_passes)
        return len(passes) == stop_at

    settings = {**RUN, "method": method, "tol": 1e-7 if DTYPE == "float64" else 1e-5}
    result, info = cx.solvers.truncated_svd(A, on_step=stop, **settings)
    assert info.status == "stopped"
    assert len(passes) == stop_at
    s, u, v = map(np.asarray, result)
    gaps = np.linalg.norm(A.T @ u - v * s, axis=0)
    atol = 100 * promised(DTYPE)
    np.testing.assert_allclose(info.right_residuals, gaps, rtol=1e-5, atol=atol)
    np.testing.assert_allclose(A @ v, u * s, atol=atol)
    np.testing.assert_allclose(u.T @ u, np.eye(4), atol=atol)
    np.testing.assert_allclose(v.T @ v, np.eye(4), atol=atol)


@pytest.mark.slow_cases("krylov", "nystrom")
@pytest.mark.parametrize("method", ITERATIVE)
def test_a_state_from_a_file_goes_on_bit_for_bit(method, tmp_path):
    # Of a basis of many blocks, whose values are looked at before it is full.
    settings = {"block_size": 1} if method == "krylov" else {}
    seen, result, info = watched(method, **settings)
    for number in {0, len(seen) // 2, len(seen) - 1}:
        save_state(tmp_path / "state", seen[number].state)
        state = load_state(tmp_path / "state")
        assert not list(tmp_path.glob("*.part"))
        run = {**RUN, "key": jax.random.key(99), **settings}
        again, more = cx.solvers.truncated_svd(A, method=method, state=state, **run)
        jax.tree.map(np.testing.assert_array_equal, (again, more), (result, info))


@pytest.mark.slow
def test_an_operator_resumes_through_both_stages_of_a_coarse_solve():
    op = cx.association_operator(cx.contexts.joint(random_table(DTYPE)))
    low = "float32" if DTYPE == "float64" else "bfloat16"
    run = {**RUN, "range_dtype": low}
    seen: list[Progress] = []
    result, info = cx.svd(op, on_step=seen.append, **run)
    assert {int(progress.state.stage) for progress in seen} == {0, 1}
    for progress in seen:
        again, more = cx.svd(op, state=progress.state, **run)
        np.testing.assert_array_equal(again.left, result.left)
        assert more.num_passes == info.num_passes
    _, stopped = cx.svd(op, on_step=lambda _: True, **run)
    assert stopped.status in ("stopped", "converged")


def test_a_state_in_memory_goes_on_over_other_devices():
    x = np.random.default_rng(0).normal(size=(61, 3)).astype(DTYPE)
    context = cx.contexts.knn(x, 5)
    three, eight = (
        cx.association_operator(context, mesh=cx.make_mesh(k)) for k in (3, 8)
    )
    seen: list[Progress] = []
    result, _ = cx.svd(three, on_step=seen.append, **RUN)
    again, _ = cx.svd(eight, state=seen[1].state, **RUN)
    atol = promised(DTYPE)
    np.testing.assert_allclose(again.singular_values, result.singular_values, atol=atol)


def test_a_state_of_another_solve_is_refused_by_name(tmp_path):
    state = watched()[0][0].state
    for settings, said in (
        ({"rank": 5}, "rank 5; got one of rank 4"),
        ({"tol": 1e-3}, "tol 0.001; got one of tol"),
        ({"method": "krylov"}, "method krylov; got one of method randomized"),
    ):
        run = {"method": "randomized", **RUN, **settings}
        with pytest.raises(ValueError, match=said):
            cx.solvers.truncated_svd(A, state=state, **run)
    run = {"method": "randomized", **RUN}
    with pytest.raises(ValueError, match=r"shape \(59, 50\); got one of"):
        cx.solvers.truncated_svd(A[1:], state=state, **run)
    with pytest.raises(ValueError, match="same operator or matrix; got one of the"):
        cx.solvers.truncated_svd(matrix(1), state=state, **run)
    other: Any = dataclasses.replace(state, plan=state.plan._replace(width=7))
    with pytest.raises(ValueError, match="width 6; got one of width 7"):
        cx.solvers.truncated_svd(A, state=other, **run)
    for damage in (b"", b"PK\x03\x04 what"):
        (tmp_path / "state").write_bytes(damage)
        with pytest.raises(ValueError, match="must be a file of save_state"):
            load_state(tmp_path / "state")
    with pytest.raises(FileNotFoundError):
        load_state(tmp_path / "none")


def test_inside_a_trace_nothing_can_be_seen():
    state = watched()[0][0].state
    for name, value in (("on_step", lambda _: None), ("state", state)):
        solve = functools.partial(cx.solvers.truncated_svd, **RUN, **{name: value})
        with pytest.raises(TypeError, match=f"{name} must be None inside jit"):
            jax.eval_shape(solve, jnp.asarray(A))


def test_an_interruption_comes_through_and_the_last_state_goes_on():
    kept: list[Progress] = []

    def interrupted(progress: Progress) -> None:
        kept.append(progress)
        if len(kept) == 3:
            raise KeyboardInterrupt

    run = {"method": "randomized", **RUN}
    with pytest.raises(KeyboardInterrupt):
        cx.solvers.truncated_svd(A, on_step=interrupted, **run)
    expected, _ = cx.solvers.truncated_svd(A, **run)
    result, _ = cx.solvers.truncated_svd(A, state=kept[-1].state, **run)
    np.testing.assert_array_equal(result.left, expected.left)


@pytest.mark.parametrize("method", ["exact", "randomized"])
def test_code_on_numpy_is_called_without_a_callback(method, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a host callback")

    monkeypatch.setattr(jax, "pure_callback", refuse)
    given = aslinearoperator(A)
    kinds = set()

    def matmat(block: Any) -> Any:
        kinds.add(type(block))
        return given.matmat(block)

    run = {"method": method, **RUN}
    make: Any = LinearOperator  # whose stub knows a class of its own alone
    spied = make(
        shape=A.shape,
        matvec=given.matvec,
        rmatvec=given.rmatvec,
        matmat=matmat,
        dtype=A.dtype,
        rmatmat=given.rmatmat,
    )
    result, info = cx.solvers.truncated_svd(spied, **run)
    assert np.ndarray in kinds
    assert info.status == "converged"
    expected = np.linalg.svd(A, compute_uv=False)[:4]
    np.testing.assert_allclose(
        result.singular_values, expected, rtol=10 * promised(DTYPE)
    )


def test_an_array_on_disk_is_read_by_its_owner(tmp_path):
    """Blocks of rows from a file, never the whole."""
    stored = np.memmap(tmp_path / "a", A.dtype, "w+", shape=A.shape)
    stored[:] = A
    parts = [slice(i, i + 20) for i in range(0, 60, 20)]

    def matmat(g: np.ndarray) -> np.ndarray:
        return np.concatenate([np.asarray(stored[p]) @ np.array(g) for p in parts])

    def rmatmat(f: np.ndarray) -> np.ndarray:
        f = np.array(f)
        return np.sum([np.asarray(stored[p]).T @ f[p] for p in parts], axis=0)

    run = {"method": "randomized", **RUN}
    a = (matmat, rmatmat, A.shape, A.dtype)
    result, _ = cx.solvers.truncated_svd(a, **run)
    expected, _ = cx.solvers.truncated_svd(A, **run)
    np.testing.assert_allclose(
        result.singular_values, expected.singular_values, rtol=10 * promised(DTYPE)
    )


def other_points(kind: str, seed: int, n: int) -> cx.AssociationOperator:
    """Operators of the same sizes, of other data for each seed."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2)).astype(DTYPE)
    make = cx.contexts
    context = {
        "dense": lambda: make.joint(rng.gamma(1.0, size=(n, 47)).astype(DTYPE)),
        "rbf": lambda: make.rbf(x, 0.5),
    }[kind]()
    return cx.association_operator(context)


@pytest.mark.fast("dense-randomized-62", "rbf-krylov-61")
@pytest.mark.parametrize("num_rows", [61, 62])
@pytest.mark.parametrize("method", ["randomized", "krylov"])
@pytest.mark.parametrize("kind", ["dense", "rbf"])
def test_another_operator_of_the_same_sizes_compiles_nothing(
    kind, method, num_rows, caplog, monkeypatch
):
    is_little = num_rows == 61
    if not is_little:
        in_programs(monkeypatch)
    one, other = (other_points(kind, seed, num_rows) for seed in (0, 1))
    # Of another width for each method: what the one compiled must not count here.
    run = {"rank": 3, "method": method, "num_oversamples": len(method)}

    def compiled(op: cx.AssociationOperator, key: jax.Array) -> list[str]:
        caplog.clear()
        with jax.log_compiles(), caplog.at_level("WARNING"):
            cx.svd(op, key=key, **run)
        texts = [record.getMessage() for record in caplog.records]
        return [text.split(" with ")[0] for text in texts if "Compiling" in text]

    keys = jax.random.split(KEY, 2)
    first, second = keys[0], keys[1]
    found = compiled(one, first)
    # The log does tell of compilations; each shape once.
    in_one = is_little and method == "randomized"
    # Both ways of a kernel are alike.
    both = ["_product", "_product"] if kind == "dense" else ["_either_product"]
    both = ["_passes"] if in_one else both
    assert [f"Compiling jit({name})" for name in both] == [
        text for text in found if "_pass" in text or "_product" in text
    ]
    # NumPy does what is little; otherwise small programs do.
    assert len(found) <= (len(both) + 2 if is_little else 24)
    assert is_little or len(found) > 4
    assert compiled(other, second) == []


def test_few_entries_are_multiplied_by_scipy_and_no_pass_compiles(caplog):
    # Above what is decomposed densely, and of more columns than NumPy has by itself.
    x = np.random.default_rng(0).normal(size=(700, 2)).astype(DTYPE)
    op = cx.association_operator(cx.contexts.knn(x, 9))
    with jax.log_compiles(), caplog.at_level("WARNING"):
        result, info = cx.svd(op, 5, key=KEY)
    compiled = [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]
    assert not any("_pass" in text or "_product" in text for text in compiled), compiled
    assert info.method != "exact"
    assert info.status == "converged"
    known = cx.solvers.all_singular_values(op)[:5]
    np.testing.assert_allclose(result.singular_values, known, atol=promised(DTYPE))
    s, left, right = map(np.asarray, result)
    gap = np.sqrt(op.p_a @ (np.asarray(op.rmatmat(left)) - right * s) ** 2)
    np.testing.assert_allclose(gap, info.residuals, rtol=0.05, atol=promised(DTYPE))


@pytest.mark.parametrize("method", ITERATIVE)
def test_numpy_computes_what_programs_do(method, monkeypatch):
    seen, result, info = watched(method)
    in_programs(monkeypatch)
    others, other, more = watched(method)
    assert len(others) == len(seen)
    assert abs(more.tail_energy - info.tail_energy) <= promised(DTYPE)
    close = functools.partial(np.testing.assert_allclose, atol=100 * promised(DTYPE))
    close(other.singular_values, result.singular_values)
    close(other.left, result.left)
    # A state goes on in the same programs, bit for bit.
    middle = others[len(others) // 2].state
    again, _ = cx.solvers.truncated_svd(A, method=method, state=middle, **RUN)
    np.testing.assert_array_equal(again.left, other.left)


def test_degrees_by_one_call_are_those_that_on_step_sees():
    x = np.random.default_rng(0).normal(size=(90, 3)).astype(DTYPE)
    op = cx.association_operator(cx.contexts.knn(x, 5))
    run = {**RUN, "method": "randomized"}
    plain, info = cx.svd(op, **run)
    seen: list[Progress] = []
    watched, more = cx.svd(op, on_step=seen.append, **run)
    passes = [progress.num_passes for progress in seen]
    assert passes == [0.5 + i for i in range(len(seen))]
    assert info.num_passes == more.num_passes == passes[-1]
    np.testing.assert_array_equal(watched.left, plain.left)
    # Some state amid a filter goes on by itself, and comes out the same.
    amid = [p.state for p in seen if int(p.state.inner.left) > 1]
    again, _ = cx.svd(op, state=amid[0], **run)
    np.testing.assert_array_equal(again.left, plain.left)


def in_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for arrays that are not NumPy's, and blocks too large for it."""
    monkeypatch.setattr(_truncated, "_near", lambda _: None)
    for module in (_run, _pieces):
        monkeypatch.setattr(module, "LITTLE", 0)


@pytest.mark.parametrize("method", ["randomized", "krylov"])
def test_numpy_multiplies_with_arrays_of_any_size_and_nothing_compiles(method, caplog):
    shape, rank = (30_011, 61), 5
    rng = np.random.default_rng(0)
    s = 0.5 ** np.arange(shape[1])
    a = (rng.normal(size=shape) * shape[0] ** -0.5 * s).astype(DTYPE)
    given = jnp.asarray(a)
    assert a.size > LITTLE
    with jax.log_compiles(), caplog.at_level("WARNING"):
        result, info = cx.solvers.truncated_svd(given, rank, key=KEY, method=method)
    assert [r for r in caplog.records if "Compiling" in r.getMessage()] == []
    assert info.status == "converged"
    np.testing.assert_allclose(
        result.singular_values,
        np.linalg.svd(a, compute_uv=False)[:rank],
        rtol=10 * promised(DTYPE),
    )


def test_bases_that_hold_the_triples_are_not_filled():
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=(n, 90)))[0] for n in (120, 90))
    a = (u * 0.6 ** np.arange(90) @ v.T).astype(DTYPE)
    run = {"method": "krylov", "block_size": 2, "num_oversamples": 4, "max_passes": 200}
    seen: list[Progress] = []
    result, info = cx.solvers.truncated_svd(a, 20, key=KEY, on_step=seen.append, **run)
    assert info.status == "converged"
    assert info.num_passes < seen[0].state.plan.depth
    _, s, _ = np.linalg.svd(a)
    np.testing.assert_allclose(
        result.singular_values, s[:20], atol=10 * promised(DTYPE)
    )
    s, u, v = map(np.asarray, result)
    gaps = np.linalg.norm(a.T @ u - v * s, axis=0)
    np.testing.assert_allclose(
        info.right_residuals, gaps, atol=100 * promised(DTYPE), rtol=1e-3
    )


@pytest.mark.parametrize("where", ["numpy", "programs"])
def test_krylov_bases_are_let_go_at_the_end_and_the_state_still_ends(
    where, monkeypatch
):
    if where == "programs":
        in_programs(monkeypatch)
    x = np.random.default_rng(0).normal(size=(90, 3)).astype(DTYPE)
    op = cx.association_operator(cx.contexts.knn(x, 5))
    run = {**RUN, "method": "krylov", "block_size": 4}
    seen: list[Progress] = []
    plain, _ = cx.svd(op, on_step=seen.append, **run)
    kept = seen[-1].state.inner.s.shape[0]
    assert seen[0].state.inner.left.shape[1] > kept
    assert seen[-1].state.inner.left.shape == (90, kept)
    again, _ = cx.svd(op, state=seen[-1].state, **run)
    np.testing.assert_array_equal(again.left, plain.left)


def test_arrays_of_both_kinds_are_multiplied():
    """As they meet in a solve with JAX's compilation off."""
    one, other = A[:3, :4], A[:4, :2]
    found = product(one, jnp.asarray(other))
    np.testing.assert_allclose(found, one @ other, atol=promised(DTYPE))
