"""The one place that holds LAPACK's threads while XLA runs on CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["single_threaded_lapack"]


@contextmanager
def single_threaded_lapack() -> Iterator[None]:
    """Hold SciPy's OpenBLAS to one thread; its threads come back at the end.

    On CPU, JAX calls that library for small factorisations. Its threads spin on after
    each call and take cores from XLA, which runs everything large: programs with both
    are 1.4 to 1.8 times slower on two cores. The command line works inside this; the
    library never sets it by itself, since it holds for the whole process, NumPy's and
    SciPy's own products included. `OPENBLAS_NUM_THREADS=1` at the start of Python does
    the same for good. Without effect where XLA runs on an accelerator.

    Raises:
        ModuleNotFoundError: without threadpoolctl, which the extra `cli` installs.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> op = cx.association_operator(cx.contexts.labels([0, 1, 1, 2]))
        >>> with cx.single_threaded_lapack():
        ...     result, info = cx.svd(op, 2, key=jax.random.key(0))
    """
    try:
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError as error:
        msg = "single_threaded_lapack needs threadpoolctl: pip install threadpoolctl"
        raise ModuleNotFoundError(msg, name=error.name) from error
    import scipy.linalg  # noqa: F401 - loads the library that is to be held

    with threadpool_limits(limits=1, user_api="blas"):
        yield
