"""Holding LAPACK to one thread, and letting it go again."""

import sys

import pytest
from threadpoolctl import threadpool_info

import contexture_jax as cx


def blas_threads() -> list[int]:
    return [p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"]


def test_lapack_has_one_thread_inside_and_its_own_number_outside() -> None:
    import scipy.linalg  # noqa: F401 - brings the library whose threads are counted
    from threadpoolctl import threadpool_limits

    with threadpool_limits(2, user_api="blas"):
        assert set(blas_threads()) == {2}
        with cx.single_threaded_lapack():
            assert set(blas_threads()) == {1}
        assert set(blas_threads()) == {2}


def test_threads_come_back_after_an_error() -> None:
    before = blas_threads()
    with pytest.raises(ZeroDivisionError), cx.single_threaded_lapack():
        _ = 1 / 0
    assert blas_threads() == before


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with (
        pytest.raises(ModuleNotFoundError, match="pip install threadpoolctl"),
        cx.single_threaded_lapack(),
    ):
        pass
