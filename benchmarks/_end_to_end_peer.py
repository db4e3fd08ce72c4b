"""What a user writes without us: CSV, k-NN graph, spectrum, pictures, files.

The peer of `end_to_end.py`, run by it in a process of its own.
"""

import argparse
import importlib
import json
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import scipy.sparse
from scipy.sparse.linalg import svds
from sklearn.neighbors import NearestNeighbors

mpl.use("Agg")
from matplotlib import pyplot as plt

ARPACK_TOL: Any = 1e-5  # of the eigenvalues; residuals are reported


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("table", type=Path)
    parser.add_argument("--num-neighbors", type=int, required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    seconds = {}

    start = time.perf_counter()
    pandas = importlib.import_module("pandas")
    data = pandas.read_csv(args.table).to_numpy(np.float32)
    data = (data - data.mean(axis=0)) / data.std(axis=0)
    seconds["read"] = time.perf_counter() - start

    start = time.perf_counter()
    matrix, root_x, root_a = neighbor_matrix(data, args.num_neighbors)
    seconds["context"] = time.perf_counter() - start

    start = time.perf_counter()
    left, values, right, residuals = spectrum(matrix, root_x, root_a, args.rank)
    seconds["spectrum"] = time.perf_counter() - start

    start = time.perf_counter()
    args.out.mkdir(parents=True)
    draw(left, values, args.out)
    seconds["pictures"] = time.perf_counter() - start

    np.savez(args.out / "spectrum.npz", singular_values=values, left=left, right=right)
    description = {
        "singular_values": values.tolist(),
        "residuals": residuals.tolist(),
        "status": f"tol={ARPACK_TOL}",
        "seconds": seconds,
    }
    text = json.dumps(description)
    (args.out / "spectrum.json").write_text(text, encoding="utf-8")


def neighbor_matrix(data: np.ndarray, k: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """D_x^1/2 T D_a^-1/2 as CSR, √p_x and √p_a."""
    n = len(data)
    search = NearestNeighbors(n_neighbors=k, algorithm="brute", n_jobs=-1).fit(data)
    indices = search.kneighbors(data, return_distance=False)
    joint = scipy.sparse.csr_array(
        (
            np.full(n * k, 1.0 / (n * k), np.float32),
            indices.reshape(-1),
            np.arange(0, n * k + 1, k),
        ),
        (n, n),
    )
    root_x = np.full(n, n**-0.5, np.float32)
    root_a = np.sqrt(joint.sum(axis=0)).astype(np.float32)
    scale = np.divide(1.0, root_a, out=np.zeros_like(root_a), where=root_a > 0)
    matrix = scipy.sparse.csr_array(
        scipy.sparse.diags_array(1.0 / root_x) @ joint @ scipy.sparse.diags_array(scale)
    )
    return matrix, root_x, root_a


def spectrum(
    matrix: Any, root_x: np.ndarray, root_a: np.ndarray, rank: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Leading singular functions without the trivial triple, and their residuals."""
    # One triple more, of which the first is (1, √p_x, √p_a).
    found: Any = svds(matrix, rank + 1, tol=ARPACK_TOL, rng=np.random.default_rng(0))
    u, s, v = (array[..., ::-1] for array in (found[0], found[1], found[2].T))
    u, s, v = u[:, 1:], s[1:], v[:, 1:]
    gap = matrix.T @ u - v * s
    inverse = np.divide(1.0, root_a, out=np.zeros_like(root_a), where=root_a > 0)
    return (
        u / root_x[:, None],
        s,
        v * inverse[:, None],
        np.linalg.norm(gap, axis=0),
    )


def draw(left: np.ndarray, values: np.ndarray, out: Path) -> None:
    """As many pictures as the command draws: spectrum, energy and functions."""
    figure, axes = plt.subplots()
    axes.plot(np.arange(1, len(values) + 1), values, ".-")
    figure.savefig(out / "spectrum.png", dpi=150)

    figure, axes = plt.subplots()
    axes.plot(np.arange(1, len(values) + 1), np.cumsum(values**2), ".-")
    figure.savefig(out / "energy.png", dpi=150)

    figure, axes = plt.subplots()
    axes.scatter(left[:, 0], left[:, 1], s=4, c=left[:, min(2, left.shape[1] - 1)])
    figure.savefig(out / "functions.png", dpi=150)


if __name__ == "__main__":
    main()
