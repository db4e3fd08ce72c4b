"""Contestants of other libraries that more than one benchmark meets.

Each function gives a list, empty where the library is not installed.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from _common import cores, optional
from _measure import Contestant
from contexture_jax.benchmarking import Triples

__all__ = [
    "optional_torch",
    "scipy_svds",
    "sklearn_randomized_svd",
    "torch_csr_product",
]


def optional_torch() -> Any:
    """PyTorch with as many threads as there are cores, or None."""
    torch = optional("torch")
    if torch is not None:
        torch.set_num_threads(cores())
    return torch


def torch_csr_product(
    name: str, matrix: scipy.sparse.csr_array, block: np.ndarray
) -> list[Contestant]:
    """PyTorch's product of a CSR matrix with a block, by MKL."""
    torch = optional_torch()
    if torch is None:
        return []
    single: Any = matrix.astype(np.float32)
    single.sort_indices()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        tensor = torch.sparse_csr_tensor(
            torch.from_numpy(single.indptr.astype(np.int64)),
            torch.from_numpy(single.indices.astype(np.int64)),
            torch.from_numpy(single.data),
            single.shape,
            check_invariants=True,
        )
    argument = torch.from_numpy(block)
    work = 2.0 * matrix.nnz * block.shape[1]
    return [Contestant(name, lambda _: tensor @ argument, settings="MKL", work=work)]


def sklearn_randomized_svd(
    name: str,
    matrix: Any,
    rank: int,
    n_iter: Any,
    answer: Callable[[Triples], Triples] = lambda found: found,
) -> list[Contestant]:
    """randomized_svd with LU between products and 10 further columns."""
    extmath = optional("sklearn.utils.extmath")
    if extmath is None:
        return []

    def run(number: int) -> Triples:
        u, s, vt = extmath.randomized_svd(
            matrix,
            rank,
            n_oversamples=10,
            n_iter=n_iter,
            power_iteration_normalizer="LU",
            random_state=number,
        )
        return Triples(s, u, vt.T)

    settings = f"LU, n_iter={n_iter}, n_oversamples=10"
    return [Contestant(name, run, settings=settings, answer=answer)]


def scipy_svds(matrix: Any, rank: int, seed: int, **options: Any) -> Triples:
    """SciPy's svds, in descending order."""
    rng = np.random.default_rng(seed)
    found: Any = scipy.sparse.linalg.svds(matrix, rank, rng=rng, **options)
    u, s, vt = found
    return Triples(s[::-1], u[:, ::-1], vt[::-1].T)
