"""The one place that holds LAPACK's threads while XLA runs on CPU."""

from __future__ import annotations

import ctypes
import functools
import importlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from types import ModuleType
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax

from contexture_jax._core.checks import is_traced

__all__ = [
    "held_lapack",
    "in_threads",
    "in_turn",
    "num_cores",
    "single_threaded_lapack",
    "single_threaded_numpy",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_SWITCH = "CONTEXTURE_LAPACK_THREADS"
_PREFIXES = ("scipy_openblas", "openblas")  # in wheels; elsewhere
_SUFFIXES = ("", "64_")  # of integers of 32 bits, and of 64


class _Threads(NamedTuple):
    """Functions of C: the number of threads of a library, and to set it."""

    get: Callable[[], int]
    set: Callable[[int], None]


class _Held:
    """The threads of an OpenBLAS, and how many blocks of code hold them to one.

    Their number is one of the whole process. Of blocks that overlap, in one thread of
    Python or in several, the first sets it and the last puts it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_holders = self._before = 0

    @contextmanager
    def at_one(self, library: _Threads) -> Iterator[None]:
        with self._lock:
            if self._num_holders == 0:
                self._before = library.get()
                library.set(1)
            self._num_holders += 1
        # The lock is free while the block runs: others begin and end meanwhile.
        try:
            yield
        finally:
            with self._lock:
                self._num_holders -= 1
                if self._num_holders == 0:
                    library.set(self._before)


_held, _held_numpy = _Held(), _Held()


@contextmanager
def single_threaded_lapack() -> Iterator[None]:
    """Hold SciPy's OpenBLAS to one thread; its threads come back at the end.

    On CPU, JAX calls that library for small factorisations. Its threads spin on after
    each call and take cores from XLA, which runs everything large: programs with both
    are 1.4 to 1.8 times slower on two cores, and many times on busy ones. `svd`,
    `truncated_svd`, `certify` and `training.fit` do this by themselves while they run;
    programs of your own that factorise, such as a compiled call of those, run inside
    this. NumPy has a library of its own, which keeps its threads. The limit holds for
    the whole process; blocks may overlap in several threads of Python.

    The environment variable `CONTEXTURE_LAPACK_THREADS=keep` leaves the library as it
    is, also in those four. Without effect where XLA runs on an accelerator, and where
    SciPy is built on another library.

    Raises:
        ValueError: if that variable is neither "keep" nor "1".

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> op = cx.association_operator(cx.contexts.labels([0, 1, 1, 2]))
        >>> solve = jax.jit(lambda op, key: cx.svd(op, 2, key=key)[0])
        >>> with cx.single_threaded_lapack():
        ...     result = jax.block_until_ready(solve(op, jax.random.key(0)))
    """
    library = _scipy() if _is_on() else None
    with nullcontext() if library is None else _held.at_one(library):
        yield


@contextmanager
def single_threaded_numpy() -> Iterator[None]:
    """Hold NumPy's OpenBLAS to one thread, where threads of Python share the work."""
    library = _numpy() if _is_on() else None
    with nullcontext() if library is None else _held_numpy.at_one(library):
        yield


def in_threads(work: Callable[[Any], _T], parts: Iterable[Any]) -> list[_T]:
    """What `work` gives for each part, by NumPy on as many threads as there are cores.

    Threads of Python share the parts, so that BLAS has none of its own.
    """
    with single_threaded_numpy(), ThreadPoolExecutor(num_cores()) as pool:
        return list(pool.map(work, parts))


def in_turn(
    work: Callable[[Any], _T], parts: Iterable[Any]
) -> Generator[_T, None, None]:
    """`in_threads`, one after the other as they are done, in their order.

    Threads are at most as many parts ahead as there are cores. Those that run when the
    iterator is closed run to their end; no others begin.
    """
    cores = num_cores()
    waiting: deque[Future[_T]] = deque()
    with single_threaded_numpy():
        pool = ThreadPoolExecutor(cores)
        try:
            for part in parts:
                waiting.append(pool.submit(work, part))
                if len(waiting) > cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def num_cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def held_lapack(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Let a front door run inside `single_threaded_lapack`, to the end of its work.

    Inside a trace there is no work yet, and whoever runs the program decides.
    """

    @functools.wraps(function)
    def held(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with single_threaded_lapack():
            out = function(*args, **kwargs)
            # Programs run on after their call returns.
            if jax.default_backend() == "cpu" and not is_traced(out):
                jax.block_until_ready(out)
            return out

    return held


def _is_on() -> bool:
    chosen = os.environ.get(_SWITCH, "1")
    if chosen not in ("1", "keep"):
        msg = f'{_SWITCH} must be "keep" or "1"; got "{chosen}"'
        raise ValueError(msg)
    return chosen == "1" and jax.default_backend() == "cpu"


@functools.cache
def _scipy() -> _Threads | None:
    """What jaxlib takes its LAPACK from, loaded if it was not."""
    try:
        return _library(importlib.import_module("scipy.linalg.cython_lapack"))
    except ImportError:
        return None


@functools.cache
def _numpy() -> _Threads | None:
    """What NumPy multiplies with."""
    try:
        return _library(importlib.import_module("numpy.linalg._umath_linalg"))
    except ImportError:
        return None


def _library(linked: ModuleType) -> _Threads | None:
    """What a compiled module is linked with; None if not OpenBLAS."""
    # A symbol is looked for in the libraries that the module is linked with, too.
    library = ctypes.CDLL(str(linked.__file__))
    for prefix, suffix in itertools.product(_PREFIXES, _SUFFIXES):
        # Wheels rename what they bring along.
        names = [f"{prefix}_{do}_num_threads{suffix}" for do in ("get", "set")]
        if all(hasattr(library, name) for name in names):
            get, put = (getattr(library, name) for name in names)
            # Their signatures in C, which ctypes would guess.
            get.argtypes, get.restype = [], ctypes.c_int
            put.argtypes, put.restype = [ctypes.c_int], None
            return _Threads(get, put)
    return None
