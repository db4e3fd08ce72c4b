"""Holding LAPACK to one thread, and letting it go again."""

import functools
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
import pytest
import scipy.linalg  # noqa: F401 - brings the library whose threads are counted
from threadpoolctl import ThreadpoolController, threadpool_limits

import contexture_jax as cx
from contexture_jax._core.threads import in_turn, num_cores, single_threaded_numpy


@functools.cache
def libraries() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


def lapack_threads() -> int:
    """As another package counts them."""
    (found,) = [p for p in libraries().lib_controllers if "scipy.libs" in p.filepath]
    return found.num_threads


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """One more than a block that holds them has, also where the suite holds them."""
    with threadpool_limits(2, user_api="blas"):
        yield


def test_lapack_has_one_thread_inside_and_its_own_number_outside() -> None:
    assert lapack_threads() == 2
    with cx.single_threaded_lapack():
        assert lapack_threads() == 1
    assert lapack_threads() == 2


def test_threads_of_numpy_are_left() -> None:
    with cx.single_threaded_lapack():
        assert sorted(p.num_threads for p in libraries().lib_controllers) == [1, 2]


def test_threads_of_numpy_are_held_where_threads_of_python_work() -> None:
    def numbers() -> dict[str, int]:
        return {p.filepath: p.num_threads for p in libraries().lib_controllers}

    with single_threaded_numpy():
        inside = numbers()
    changed = [path for path, number in numbers().items() if inside[path] != number]
    assert [inside[path] for path in changed] == [1]
    assert "numpy.libs" in changed[0]


def test_threads_come_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), cx.single_threaded_lapack():
        _ = 1 / 0
    assert lapack_threads() == 2


def test_the_last_of_overlapping_blocks_gives_threads_back() -> None:
    def entered() -> tuple[AbstractContextManager[None], int]:
        block = cx.single_threaded_lapack()
        block.__enter__()
        return block, lapack_threads()

    first, _ = entered()
    second, _ = entered()
    first.__exit__(None, None, None)
    assert lapack_threads() == 1
    second.__exit__(None, None, None)
    assert lapack_threads() == 2


def test_blocks_in_many_threads_leave_nothing_behind() -> None:
    seen = []

    def work() -> None:
        for _ in range(200):
            with cx.single_threaded_lapack():
                seen.append(lapack_threads())

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert set(seen) == {1}
    assert lapack_threads() == 2


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Counting(cx.AssociationOperator):
    """An operator that counts threads when it is multiplied, and ends it there."""

    p_x: Any
    p_a: Any
    seen: ClassVar[list[int]] = []

    def matmat(self, g: Any) -> Any:
        del g
        self.seen.append(lapack_threads())
        raise ZeroDivisionError

    def rmatmat(self, f: Any) -> Any:
        return self.matmat(f)


def counting() -> Counting:
    Counting.seen.clear()
    return Counting(*[jnp.full((3,), 1 / 3)] * 2)


def test_solver_and_certificate_hold_them() -> None:
    op, key = counting(), jax.random.key(0)
    with pytest.raises(ZeroDivisionError):
        cx.svd(op, 1, key=key)
    table = cx.association_operator(cx.contexts.joint(jnp.eye(3)))
    solved = cx.svd(table, 1, key=key, method="exact")
    with pytest.raises(ZeroDivisionError):
        cx.solvers.certify(*solved, op, key=key)
    assert op.seen == [1, 1]
    assert lapack_threads() == 2


@pytest.mark.parametrize(("switch", "found"), [("1", 1), ("keep", 2)])
def test_the_environment_has_the_last_word(
    monkeypatch: pytest.MonkeyPatch, switch: str, found: int
) -> None:
    monkeypatch.setenv("CONTEXTURE_LAPACK_THREADS", switch)
    op = counting()
    linear_map = (op.matmat, op.rmatmat, op.shape, op.dtype)
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        cx.solvers.truncated_svd(linear_map, 1, key=jax.random.key(0))
    assert set(op.seen) == {found}
    assert lapack_threads() == 2


def mean_square(z: Any, axis_name: Any = None) -> Any:
    del axis_name
    return (z * z).mean()


def test_training_holds_them() -> None:
    seen: list[int] = []
    optimizer = optax.sgd(0.1)
    params = jnp.ones((2, 1))
    cx.training.fit(
        cx.training.make_step(
            lambda params, batch, _: batch @ params,
            cx.training.from_loss(mean_square),
            optimizer,
        ),
        cx.training.init_state(params, optimizer),
        cx.training.batches(jnp.ones((8, 2)), 8, seed=0),
        num_steps=1,
        key=jax.random.key(0),
        evaluate=lambda _: seen.append(lapack_threads()) or {},
    )
    assert set(seen) == {1}
    assert lapack_threads() == 2


def test_the_switch_has_two_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTEXTURE_LAPACK_THREADS", "many")
    with pytest.raises(ValueError, match='"keep" or "1"; got "many"'):
        cx.solvers.truncated_svd(jnp.eye(3), 1, key=jax.random.key(0))


def test_parts_come_in_their_order_and_no_more_are_done_than_are_taken() -> None:
    begun: list[int] = []
    first = threading.Event()

    def work(part: int) -> int:
        begun.append(part)
        if part == 0:
            first.wait(10)  # others are done before it, where there are more cores
        return part * part

    found = in_turn(work, range(50))
    first.set()
    assert [next(found) for _ in range(3)] == [0, 1, 4]
    found.close()
    assert max(begun) <= 3 + num_cores()
    assert list(in_turn(work, range(3))) == [0, 1, 4]
