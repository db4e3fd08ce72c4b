"""PyTorch and CuPy on the device of `accelerator.py`: each gives a list of contestants.

Empty where the library is not installed, or does not work on that device.
"""

import importlib
import warnings
from typing import Any

import numpy as np
import scipy.sparse

from _device import library, moved, peer
from contexture_jax.benchmarking import OnDevice, Triples, platform

__all__ = [
    "CHECKED",
    "cupy_csr",
    "cupy_dense",
    "cupy_sparse",
    "embedding_bag",
    "first_rows",
    "torch_attention",
    "torch_csr",
    "torch_dense",
    "torch_qr",
    "torch_search",
    "torch_training",
]

CHECKED = 256  # rows that are compared with float64


def torch_dense(a: Any, rank: int) -> list[OnDevice]:
    torch, width = library("torch"), rank + 10
    if torch is None:
        return []
    tensor = moved(torch, a)

    def low_rank(number: int) -> Any:
        torch.manual_seed(number)
        return torch.svd_lowrank(tensor, q=width, niter=4)

    def triples(t: Any) -> Triples:
        u, s, v = (x.cpu().numpy() for x in t)
        return Triples(s[:rank], u[:, :rank], v[:, :rank])

    words = f"q={width}, niter=4"
    return [peer("torch.svd_lowrank", torch, low_rank, settings=words, answer=triples)]


def cupy_dense(a: Any, rank: int) -> list[OnDevice]:
    cupy = library("cupy")
    return [] if cupy is None else [cupy_svds(cupy, moved(cupy, a), rank)]


def cupy_svds(cupy: Any, matrix: Any, rank: int, dropped: int = 0) -> OnDevice:
    """CuPy's Lanczos; its first `dropped` triples are left out."""
    svds = importlib.import_module("cupyx.scipy.sparse.linalg").svds

    def triples(t: Any) -> Triples:
        u, s, vt = (cupy.asnumpy(x) for x in t)
        order = np.argsort(-s)[dropped:]
        return Triples(s[order], u[:, order], vt[order].T)

    return peer(
        "CuPy svds", cupy, lambda _: svds(matrix, k=rank + dropped), answer=triples
    )


def torch_qr(z: Any) -> list[OnDevice]:
    torch = library("torch")
    if torch is None:
        return []
    tensor = moved(torch, z)
    return [
        peer(
            "torch.linalg.qr",
            torch,
            lambda _: torch.linalg.qr(tensor)[0],
            answer=lambda q: (q.T @ q).cpu().numpy(),
        )
    ]


def first_rows(found: Any) -> np.ndarray:
    """Those that are checked, of an array of JAX, PyTorch or CuPy."""
    part = found.reshape(-1, found.shape[-1])[:CHECKED]
    if hasattr(part, "get"):
        return part.get()
    return np.asarray(part.cpu() if hasattr(part, "cpu") else part)


def torch_attention(problem: Any) -> list[OnDevice]:
    from kernel_operator import SDPA, fused_attention

    torch = library("torch")
    if torch is None:
        return []
    return [
        peer(
            SDPA,
            torch,
            c.run,
            settings=c.settings,
            answer=first_rows,
        )
        for c in fused_attention(problem, torch_device())
    ]


def torch_device() -> str:
    return "cuda" if platform() == "gpu" else "cpu"


def embedding_bag(lists: np.ndarray, block: Any) -> list[OnDevice]:
    torch = library("torch")
    if torch is None:
        return []
    table, where = moved(torch, block), moved(torch, lists)
    bag = torch.nn.functional.embedding_bag
    return [
        peer(
            "torch embedding_bag",
            torch,
            lambda _: bag(where, table, mode="mean"),
            answer=first_rows,
        )
    ]


def torch_csr(matrix: Any, block: Any) -> list[OnDevice]:
    """A CSR matrix times a block."""
    torch = library("torch")
    if torch is None:
        return []
    arrays = [moved(torch, part) for part in csr_parts(matrix)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        held = torch.sparse_csr_tensor(*arrays, matrix.shape, check_invariants=True)
    right = moved(torch, block)
    return [peer("torch CSR", torch, lambda _: held @ right, answer=first_rows)]


def cupy_csr(matrix: Any, block: Any) -> list[OnDevice]:
    """The same by CuPy."""
    cupy = library("cupy")
    if cupy is None:
        return []
    csr_matrix = importlib.import_module("cupyx.scipy.sparse").csr_matrix
    indptr, indices, data = (moved(cupy, part) for part in csr_parts(matrix))
    held = csr_matrix((data, indices, indptr), shape=matrix.shape)
    right = moved(cupy, block)
    return [peer("CuPy CSR", cupy, lambda _: held @ right, answer=first_rows)]


def csr_parts(matrix: Any) -> list[np.ndarray]:
    """Row starts, columns, entries."""
    csr: Any = scipy.sparse.csr_array(matrix, copy=True)
    csr.sum_duplicates()  # sorts too
    return [csr.indptr.astype(np.int32), csr.indices.astype(np.int32), csr.data]


def cupy_sparse(matrix: Any, rank: int) -> list[OnDevice]:
    cupy = library("cupy")
    if cupy is None:
        return []
    csr_matrix = importlib.import_module("cupyx.scipy.sparse").csr_matrix
    return [cupy_svds(cupy, csr_matrix(matrix.astype(np.float32)), rank, dropped=1)]


def torch_search(points: np.ndarray, queries: np.ndarray, k: int) -> list[OnDevice]:
    """Distances by products of blocks of queries, and `topk`."""
    torch = library("torch")
    if torch is None:
        return []
    a, x = moved(torch, points), moved(torch, queries)
    rows = max(1, 2**28 // len(points))

    def run(_: int) -> Any:
        squares = (a * a).sum(dim=1)
        found = [
            (squares - 2 * part @ a.T).topk(k, dim=1, largest=False).indices
            for part in x.split(rows)
        ]
        return torch.cat(found)

    def answer(found: Any) -> np.ndarray:
        return found.cpu().numpy()

    return [peer("torch products and topk", torch, run, answer=answer)]


def torch_training(args: Any, views: np.ndarray) -> list[OnDevice]:
    from train_step import TORCH, torch_step

    torch = library("torch")
    if torch is None:
        return []
    return [peer(TORCH, torch, c.run) for c in torch_step(args, views, torch_device())]
