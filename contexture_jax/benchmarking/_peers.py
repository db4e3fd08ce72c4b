"""Other libraries on the same work, where they are installed.

NumPy, SciPy and scikit-learn compute on the host, so they take part where JAX does.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from contexture_jax.benchmarking._accuracy import Triples
from contexture_jax.benchmarking._machine import cores, platform
from contexture_jax.benchmarking._timing import OnDevice, Setting, describe_error

__all__ = ["guarded", "product_peers", "search_peers", "spectrum_peers"]


def guarded(
    setting: Setting, make: Callable[..., list[OnDevice]], *arguments: Any
) -> list[OnDevice]:
    """Peers that another library makes; none, and a note, where that fails.

    Args:
        setting: where to tell.
        make: gives the contestants.
        arguments: of `make`.
    """
    try:
        return make(*arguments)
    except Exception as error:
        setting.notes.append(f"{make.__name__}: {describe_error(error)}")
        return []


@functools.cache
def _torch() -> Any:
    """PyTorch, if it works on the device that JAX works on, else None."""
    if platform() == "tpu":
        return None
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        return None
    if platform() == "gpu":
        return torch if torch.cuda.is_available() else None
    torch.set_num_threads(cores())
    return torch


def _on_torch(torch: Any, name: str, run: Callable[[int], Any], **more: Any) -> Any:
    """A contestant of PyTorch, which is waited for in its own way."""

    def finish(_: Any) -> None:
        if platform() == "gpu":
            torch.cuda.synchronize()

    return OnDevice(name, run, finish=finish, **more)


def product_peers(name: str, matrix: Any, block: np.ndarray) -> list[OnDevice]:
    """A matrix, dense or sparse, times a block.

    Args:
        name: of the workload.
        matrix: shape (n, m), float32, of NumPy or a CSR of SciPy.
        block: shape (m, r), float32.
    """
    found = []
    is_sparse = scipy.sparse.issparse(matrix)
    if platform() == "cpu":
        library = "scipy" if is_sparse else "numpy"
        found.append(OnDevice(f"{name}, {library}", lambda _: matrix @ block))
    torch = _torch()
    if torch is not None:
        tensor = _csr_of(torch, matrix) if is_sparse else _moved(torch, matrix)
        factor = _moved(torch, block)
        found.append(_on_torch(torch, f"{name}, torch", lambda _: tensor @ factor))
    return found


def _moved(torch: Any, array: Any) -> Any:
    return torch.from_dlpack(jax.block_until_ready(jax.device_put(array)))


def _csr_of(torch: Any, matrix: Any) -> Any:
    parts = (
        _moved(torch, part.astype(kind))
        for part, kind in (
            (matrix.indptr, np.int32),
            (matrix.indices, np.int32),
            (matrix.data, np.float32),
        )
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(*parts, matrix.shape)


def spectrum_peers(
    name: str, matrix: Any, rank: int, judge: Callable[[Any], dict[str, float]]
) -> list[OnDevice]:
    """Leading singular triples of a matrix, dense or sparse, float32.

    Args:
        name: of the workload.
        matrix: shape (n, m), float32.
        rank: how many.
        judge: of `Triples`.
    """
    found = []
    if platform() == "cpu":
        # Its annotations say that `tol` is whole.
        svds: Any = scipy.sparse.linalg.svds
        found.append(
            OnDevice(
                f"{name}, scipy svds",
                lambda number: svds(
                    matrix, rank, tol=1e-4, rng=np.random.default_rng(number)
                ),
                settings="ARPACK, tol=1e-4",
                answer=_ascending,
                judge=judge,
            )
        )
        found += _by_sklearn(name, matrix, rank, judge)
    torch = _torch()
    if torch is not None and not scipy.sparse.issparse(matrix):
        found.append(_by_torch(torch, name, matrix, rank, judge))
    return found


def _ascending(found: Any) -> Triples:
    u, s, vt = found
    return Triples(s[::-1], u[:, ::-1], vt[::-1].T)


def _by_sklearn(name: str, matrix: Any, rank: int, judge: Any) -> list[OnDevice]:
    try:
        from sklearn.utils import extmath
    except ImportError:
        return []
    decompose: Any = extmath.randomized_svd

    def run(number: int) -> Any:
        return decompose(
            matrix, rank, n_iter=4, power_iteration_normalizer="LU", random_state=number
        )

    return [
        OnDevice(
            f"{name}, sklearn randomized_svd",
            run,
            settings="n_iter=4, LU: to no tolerance",
            answer=lambda found: Triples(found[1], found[0], found[2].T),
            judge=judge,
        )
    ]


def _by_torch(torch: Any, name: str, matrix: Any, rank: int, judge: Any) -> OnDevice:
    tensor = _moved(torch, matrix)

    def run(number: int) -> Any:
        torch.manual_seed(number)
        return torch.svd_lowrank(tensor, q=rank + 10, niter=4)

    def triples(found: Any) -> Triples:
        u, s, v = (x.cpu().numpy() for x in found)
        return Triples(s[:rank], u[:, :rank], v[:, :rank])

    return _on_torch(
        torch,
        f"{name}, torch svd_lowrank",
        run,
        settings="niter=4: to no tolerance",
        answer=triples,
        judge=judge,
    )


def search_peers(
    name: str, points: np.ndarray, k: int, judge: Callable[[Any], dict[str, float]]
) -> list[OnDevice]:
    """The k nearest points of each point, itself included.

    Args:
        name: of the workload.
        points: shape (n, d), float32.
        k: how many.
        judge: of their numbers, shape (n, k).
    """
    found = []
    if platform() != "cpu":
        return found
    try:
        from sklearn.neighbors import NearestNeighbors

        model = NearestNeighbors(n_neighbors=k, algorithm="brute", n_jobs=cores())
        model.fit(points)

        def by_sklearn(_: int) -> Any:
            return model.kneighbors(points, return_distance=False)

        found.append(OnDevice(f"{name}, sklearn", by_sklearn, judge=judge))
    except ImportError:
        pass
    try:
        faiss: Any = importlib.import_module("faiss")
        index = faiss.IndexFlatL2(points.shape[1])
        index.add(points)

        def by_faiss(_: int) -> Any:
            return index.search(points, k)[1]

        found.append(OnDevice(f"{name}, faiss flat", by_faiss, judge=judge))
    except ImportError:
        pass
    return found
