"""The one place that holds LAPACK's threads while XLA runs on CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["single_threaded_lapack"]


@contextmanager
def single_threaded_lapack() -> Iterator[None]:
    """Hold OpenBLAS to one thread, and give its threads back at the end.

    JAX calls SciPy's OpenBLAS for small factorisations. Its threads spin on after each
    call and take cores from XLA, which runs everything large: programs with both are
    1.4 to 1.8 times slower on two cores.
    """
    import scipy.linalg  # noqa: F401 - loads the library that is to be held
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield
