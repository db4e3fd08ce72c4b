"""Products with operators of each storage, and how their times grow."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.sparse
from jax.sharding import NamedSharding, PartitionSpec

from contexture_jax import contexts
from contexture_jax.benchmarking._accuracy import make_entry_judge
from contexture_jax.benchmarking._peers import guarded, product_peers
from contexture_jax.benchmarking._points import clustered_points
from contexture_jax.benchmarking._timing import OnDevice, Setting, Work
from contexture_jax.operators import AssociationOperator, association_operator

__all__ = [
    "CHECKED",
    "growth",
    "operators",
    "scaling",
    "sparse_table",
    "work_of",
]

CHECKED = 64  # rows that are compared with float64
_GAMMA = 0.05
_DOUBLINGS = 3


def work_of(op: AssociationOperator, columns: int, passes: float = 0.5) -> Work:
    """What so many passes with a block take, as `op.cost` counts.

    Its operations, and its arguments and result once: work space may stay in caches.
    """
    cost = op.cost(columns)
    moved = cost.argument_bytes + cost.output_bytes
    return Work(2.0 * passes * cost.flops, 2.0 * passes * moved)


def _placed(block: Any, mesh: Any) -> Any:
    """A block where products take it: its rows cut over the devices, if they divide."""
    if mesh is None or len(block) % mesh.size:
        return jax.device_put(block)
    return jax.device_put(block, NamedSharding(mesh, PartitionSpec("x")))


class _Made(NamedTuple):
    """A context, what T does on the first rows in float64, and T as others hold it."""

    context: Any
    exact: Callable[[np.ndarray], np.ndarray]
    matrix: Any = None


def _dense(setting: Setting, rng: np.random.Generator) -> _Made:
    n, m = setting.sizes.dense
    table = rng.random((n, m), np.float32)
    law = table[:CHECKED].astype(np.float64)
    rows = table / table.sum(axis=1, keepdims=True)
    return _Made(contexts.joint(table), lambda g: law / law.sum(1)[:, None] @ g, rows)


def sparse_table(setting: Setting) -> Any:
    """Counts whose columns follow a law of popularity; shape (n, m), float32, CSR."""
    n, m, degree = setting.sizes.sparse
    rng = np.random.default_rng(setting.seed)
    rows = np.repeat(np.arange(n), degree)
    # The square of a uniform number: the first columns are popular.
    columns = (m * rng.random(n * degree) ** 2).astype(np.int64)
    ones = np.ones(n * degree, np.float32)
    return scipy.sparse.coo_array((ones, (rows, columns)), shape=(n, m)).tocsr()


def _sparse(setting: Setting, rng: np.random.Generator) -> _Made:
    del rng
    table = sparse_table(setting)
    law = table[:CHECKED].toarray().astype(np.float64)
    # Of each row the entries add to the same number.
    rows = (table / np.float32(setting.sizes.sparse[2])).tocsr()
    return _Made(contexts.joint(table), lambda g: law / law.sum(1)[:, None] @ g, rows)


def _lists(setting: Setting, n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, n, (n, setting.sizes.neighbors[1]), np.int32)


def _neighbors(setting: Setting, rng: np.random.Generator) -> _Made:
    n, k = setting.sizes.neighbors
    lists = _lists(setting, n, rng)
    starts = np.arange(0, n * k + 1, k)
    shares = np.full(n * k, 1.0 / k, np.float32)
    matrix = scipy.sparse.csr_array((shares, lists.reshape(-1), starts), (n, n))
    context = contexts.neighbors(lists, num_points=n)
    return _Made(context, lambda g: g[lists[:CHECKED]].mean(axis=1), matrix)


def _kernel(setting: Setting, rng: np.random.Generator) -> _Made:
    del rng
    n, d = setting.sizes.kernel
    points = clustered_points(n, d, setting.seed)

    def exact(g: np.ndarray) -> np.ndarray:
        x = points.astype(np.float64)
        law = np.stack(
            [np.exp(-_GAMMA * ((one - x) ** 2).sum(axis=1)) for one in x[:CHECKED]]
        )
        return law / law.sum(1)[:, None] @ g

    return _Made(contexts.rbf(points, _GAMMA), exact)


_STORAGES: dict[str, Callable[[Setting, np.random.Generator], _Made]] = {
    "dense": _dense,
    "sparse": _sparse,
    "k-NN": _neighbors,
    "Gaussian": _kernel,
}


def operators(setting: Setting, peers: bool) -> list[OnDevice]:
    """T g and T* f of each storage; T against float64, T* by the adjoint identity."""
    found = []
    for name, make in _STORAGES.items():
        rng = np.random.default_rng(setting.seed)
        made = make(setting, rng)
        op = association_operator(made.context, mesh=setting.mesh)
        n, m = op.shape
        f, g = (
            rng.standard_normal((size, setting.sizes.width), np.float32)
            for size in (n, m)
        )
        truth = make_entry_judge(made.exact(g.astype(np.float64)))

        def judge(found: Any, truth: Any = truth) -> dict[str, float]:
            return truth(np.asarray(found)[:CHECKED])

        found += _both(name, op, (f, g), judge, setting)
        if peers and made.matrix is not None:
            others = guarded(setting, product_peers, f"{name}: T g", made.matrix, g)
            found += [dataclasses.replace(one, judge=judge) for one in others]
    return found


def _both(
    name: str,
    op: AssociationOperator,
    blocks: tuple[np.ndarray, np.ndarray],
    judge: Callable[[Any], dict[str, float]],
    setting: Setting,
) -> list[OnDevice]:
    """T g, judged, and T* f, held against it: ⟨T* f, g⟩ = ⟨f, T g⟩."""
    f, g = blocks
    n, m = op.shape
    # Functions of the contexts of a table lie whole on each device.
    on_f, on_g = _placed(f, setting.mesh), _placed(g, setting.mesh if n == m else None)
    norms = _norms(op.p_x, f) * _norms(op.p_a, g)
    sums = _inner(op.p_x, f, op.matmat(on_g))

    def identity(found: Any) -> dict[str, float]:
        gap = np.abs(_inner(op.p_a, found, g) - sums) / norms
        return {"adjoint identity": float(gap.max())}

    forward, adjoint = (work_of(one, g.shape[1]) for one in (op, op.T))
    words = f"{n} × {m}, {g.shape[1]} columns"
    return [
        OnDevice(
            f"{name}: T g",
            lambda _: op.matmat(on_g),
            "ours",
            words,
            needs=lambda _: forward,
            judge=judge,
        ),
        OnDevice(
            f"{name}: T* f",
            lambda _: op.rmatmat(on_f),
            "ours",
            words,
            needs=lambda _: adjoint,
            judge=identity,
        ),
    ]


def _norms(law: Any, f: np.ndarray) -> np.ndarray:
    return np.sqrt(_inner(law, f, f))


def _inner(law: Any, f: Any, g: Any) -> np.ndarray:
    """Σ p f g, column by column, in float64."""
    law, f, g = (np.asarray(x, np.float64) for x in (law, f, g))
    return np.einsum("n,nr,nr->r", law, f, g)


def scaling(setting: Setting, peers: bool) -> list[OnDevice]:
    """A k-NN operator at n, n / 2 and n / 4, and on one device if there are several."""
    del peers
    largest, k = setting.sizes.neighbors
    sizes = [largest >> step for step in range(_DOUBLINGS - 1, -1, -1)]
    meshes = [setting.mesh] if setting.mesh is None else [setting.mesh, None]
    found = []
    for n, mesh in itertools.product(sizes, meshes):
        rng = np.random.default_rng(setting.seed)
        context = contexts.neighbors(_lists(setting, n, rng), num_points=n)
        op = association_operator(context, mesh=mesh)
        block = _placed(rng.standard_normal((n, setting.sizes.width), np.float32), mesh)
        work = work_of(op, setting.sizes.width)
        num_devices = 1 if mesh is None else mesh.size

        def run(_: int, op: Any = op, block: Any = block) -> Any:
            return op.matmat(block)

        found.append(
            OnDevice(
                f"k-NN: T g, n = {n}, devices = {num_devices}",
                run,
                "ours",
                f"K = {k}, {setting.sizes.width} columns",
                needs=lambda _, work=work: work,
                facts=lambda _, n=n, d=num_devices: {"n": n, "devices": d},
            )
        )
    return found


def growth(rows: list[dict[str, Any]]) -> dict[str, float]:
    """What `scaling` is for: how times grow with n, and shrink with devices.

    Returns:
        "slope", of log time by log n, by least squares: 1 is linear; "gain", of several
        devices over one at the largest n.
    """
    told = {}
    most = max((row["devices"] for row in rows), default=1)
    whole = {row["n"]: row["seconds_median"] for row in rows if row["devices"] == most}
    if len(whole) > 1:
        fit = np.polyfit(np.log(list(whole)), np.log(list(whole.values())), 1)
        told["slope"] = float(fit[0])
    alone = {row["n"]: row["seconds_median"] for row in rows if row["devices"] == 1}
    if most > 1 and whole and alone:
        n = max(whole)
        told["gain"] = alone[n] / whole[n]
    return told
