"""Spectra, certificates and nearest neighbours."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from contexture_jax import contexts
from contexture_jax.benchmarking._accuracy import Triples, make_judge
from contexture_jax.benchmarking._operators import CHECKED, sparse_table, work_of
from contexture_jax.benchmarking._peers import guarded, search_peers, spectrum_peers
from contexture_jax.benchmarking._points import clustered_points
from contexture_jax.benchmarking._timing import OnDevice, Setting, Work
from contexture_jax.operators import AssociationOperator, association_operator
from contexture_jax.solvers import block_width, certify, svd, truncated_svd

__all__ = ["search", "solvers"]

_GAMMA = 0.1


def solvers(setting: Setting, peers: bool) -> list[OnDevice]:
    """Leading triples to the default tolerance, and a certificate of some."""
    n, d, k = setting.sizes.solved
    points = clustered_points(n, d, setting.seed)
    near = association_operator(contexts.knn(points, k), mesh=setting.mesh)
    few = points[: max(n // 4, setting.sizes.rank * 4)]
    kernel = association_operator(contexts.rbf(few, _GAMMA), mesh=setting.mesh)
    table = association_operator(contexts.joint(sparse_table(setting)))
    found = _matrix(setting, peers)
    found += [
        _spectrum(name, op, setting)
        for name, op in (
            ("k-NN: svd", near),
            ("Gaussian: svd", kernel),
            ("sparse: svd", table),
        )
    ]
    return [*found, _certificate("k-NN: certify", near, setting)]


def _matrix(setting: Setting, peers: bool) -> list[OnDevice]:
    """A dense matrix whose triples are known: values 1 / √i, random spaces."""
    n, m = setting.sizes.dense
    rank = setting.sizes.rank
    rng = np.random.default_rng(setting.seed)
    kept = min(4 * rank, m)
    values = (np.arange(kept) + 1.0) ** -0.5
    u, v = (
        np.linalg.qr(rng.standard_normal((size, kept), np.float32))[0]
        for size in (n, m)
    )
    matrix = (u * values.astype(np.float32)) @ v.T
    a = jax.device_put(matrix)
    truth = Triples(values[:rank], u[:, :rank], v[:, :rank])

    def judge(found: Triples) -> dict[str, float]:
        # The spaces are random in float32: their values are known to that.
        return {"value error": make_judge(truth)(found)["value error"]}

    def run(_: int) -> Any:
        # One key for all rounds: a run and its repetition do the same.
        return truncated_svd(a, rank, key=jax.random.key(setting.seed))

    def triples(found: Any) -> Triples:
        result, _ = found
        return Triples(result.singular_values, result.left, result.right)

    def needs(found: Any) -> Work:
        passes = float(found[1].num_passes)
        return Work(4.0 * passes * n * m * rank, 8.0 * passes * n * m)

    name, words = "dense: truncated_svd", f"{n} × {m}, rank {rank}"
    ours = OnDevice(
        name, run, "ours", words, triples, needs=needs, judge=judge, facts=_told
    )
    others = (
        [] if not peers else guarded(setting, spectrum_peers, name, matrix, rank, judge)
    )
    return [ours, *others]


def _told(found: Any) -> dict[str, Any]:
    """Passes, status and method of a solve."""
    info = found[1]
    return {
        "passes": float(info.num_passes),
        "status": str(info.status),
        "method": str(info.method),
    }


def _spectrum(name: str, op: AssociationOperator, setting: Setting) -> OnDevice:
    rank = setting.sizes.rank
    width = block_width(op, rank)

    def residual(found: Any) -> dict[str, float]:
        result, info = found
        top = float(np.asarray(result.singular_values)[0])
        return {"residual": float(np.asarray(info.residuals).max()) / top}

    return OnDevice(
        name,
        lambda _: svd(op, rank, key=jax.random.key(setting.seed)),
        "ours",
        f"{op.shape[0]} × {op.shape[1]}, rank {rank}",
        needs=lambda found: work_of(op, width, float(found[1].num_passes)),
        judge=residual,
        facts=_told,
    )


def _certificate(name: str, op: AssociationOperator, setting: Setting) -> OnDevice:
    rank = setting.sizes.rank
    solved = svd(op, rank, key=jax.random.key(setting.seed))

    def width(found: Any) -> dict[str, float]:
        gap = np.asarray(found.proved.upper) - np.asarray(found.lower)
        return {"width of bounds": float(gap.max())}

    return OnDevice(
        name,
        lambda _: certify(*solved, op, key=jax.random.key(setting.seed + 1)),
        "ours",
        f"{op.shape[0]} × {op.shape[1]}, rank {rank}",
        judge=width,
    )


def search(setting: Setting, peers: bool) -> list[OnDevice]:
    """The exact k-NN graph, and the neighbours of new points."""
    n, d, k = setting.sizes.search
    points = clustered_points(n, d, setting.seed)
    queries = clustered_points(max(n // 8, CHECKED), d, setting.seed + 1)
    context = contexts.knn(points, k)

    def judge_of(asked: np.ndarray) -> Any:
        truth = _nearest(points, asked[:CHECKED], k)

        def judge(found: Any) -> dict[str, float]:
            lists = np.asarray(found)[: len(truth)]
            shared = [
                len(np.intersect1d(*two)) for two in zip(lists, truth, strict=True)
            ]
            return {"missed neighbours": 1.0 - sum(shared) / truth.size}

        return judge

    def needs(number: int) -> Any:
        # Each point is read, and each list written.
        work = Work(2.0 * number * n * d, 4.0 * (n * d + number * (d + k)))
        return lambda _: work

    words = f"{n} × {d}, K = {k}"
    graph, judge = "k-NN graph", judge_of(points)
    found = [
        OnDevice(
            graph,
            lambda _: contexts.knn(points, k).indices,
            "ours",
            words,
            needs=needs(n),
            judge=judge,
        ),
        OnDevice(
            "k-NN of new points",
            lambda _: context.at(queries).indices,
            "ours",
            f"{len(queries)} to {words}",
            needs=needs(len(queries)),
            judge=judge_of(queries),
        ),
    ]
    if peers:
        found += guarded(setting, search_peers, graph, points, k, judge)
    return found


def _nearest(points: np.ndarray, asked: np.ndarray, k: int) -> np.ndarray:
    """The numbers of the nearest points, shape (queries, k), in float64."""
    x = points.astype(np.float64)
    gaps = [((x - one) ** 2).sum(axis=1) for one in asked.astype(np.float64)]
    return np.stack([np.argsort(gap, kind="stable")[:k] for gap in gaps])
