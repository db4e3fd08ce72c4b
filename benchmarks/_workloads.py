"""The workloads of `accelerator.py`: each gives its cases as (title, rows, facts).

Peers are PyTorch and CuPy on the same device, where they are installed, on the same
memory. Flops and bytes are counted here: what the result needs, not what was done.
"""

import argparse
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

import contexture_jax as cx
from _data import conditional
from _device_peers import (
    CHECKED,
    cupy_csr,
    cupy_dense,
    cupy_sparse,
    embedding_bag,
    first_rows,
    torch_attention,
    torch_csr,
    torch_dense,
    torch_qr,
    torch_search,
    torch_training,
)
from _ours import matmat, rmatmat
from contexture_jax.benchmarking import (
    OnDevice,
    Setting,
    Triples,
    Work,
    clustered_points,
    guarded,
    levels,
    make_entry_judge,
    make_judge,
    measure,
    platform,
)

__all__ = ["WORKLOADS"]

Case = tuple[str, list[dict[str, Any]], dict[str, Any]]
KRYLOV = {"method": "krylov", "block_size": 48, "max_passes": 4}


def dense(setting: Setting) -> Iterator[Case]:
    """One pass over a dense matrix at every precision, then its leading triples."""
    n, m, rank = setting.sizes.dense
    kept = min(4 * rank, m)
    keys = jax.random.split(jax.random.key(setting.seed), 3)
    values = (np.arange(kept) + 1.0) ** -0.5

    @jax.jit
    def make(keys: Any) -> Any:
        u, v = (
            orthonormal(jax.random.normal(k, (s, kept)))
            for k, s in zip(keys, (n, m), strict=True)
        )
        scaled = u * jnp.asarray(values, u.dtype)
        return u, v, jnp.matmul(scaled, v.T, precision="highest")

    u, v, a = jax.block_until_ready(make(keys[:2]))
    u, v = (np.asarray(x, np.float64) for x in (u, v))
    one_pass = Work(flops=4.0 * n * m * rank, bytes=8.0 * n * m)
    q = jax.random.normal(keys[2], (m, rank))
    exact = (v * values**2) @ (v.T @ np.asarray(q, np.float64))

    def both(product: Any) -> Callable[[int], Any]:
        run = jax.jit(lambda a, q: product(a.T, product(a, q)))
        return lambda _: run(a, q)

    contestants = [
        OnDevice(
            f"A q, Aᵀ z: {level}",
            both(product),
            "ours" if level == "exact" else "peer",
        )
        for level, product in levels().items()
    ]
    title = f"dense {n} × {m}, {rank} columns"
    judge = make_entry_judge(exact)
    rows = measure(contestants, setting, judge, work=one_pass)
    yield f"{title}, one pass", rows, {}
    truth = Triples(values[:rank], u[:, :rank], v[:, :rank])
    judge = make_judge(truth)
    passes: dict[str, Any] = {}

    def solver(name: str, **options: Any) -> OnDevice:
        def run(number: int) -> Any:
            key = jax.random.key(number)
            result, info = cx.solvers.truncated_svd(a, rank, key=key, **options)
            passes[name] = info.num_passes
            return result

        def bound() -> float:
            passes[name] = float(passes[name])
            return passes[name] * setting.peaks.seconds(one_pass)

        return OnDevice(name, run, "ours", answer=as_triples, bound=bound)

    contestants = [solver("contexture_jax")]
    if KRYLOV["block_size"] * KRYLOV["max_passes"] <= m // 2:
        contestants.append(solver("contexture_jax, Krylov 48 × 4", **KRYLOV))
    contestants += guarded(setting, torch_dense, a, rank)
    contestants += guarded(setting, cupy_dense, a, rank)
    rows = measure(contestants, setting, judge)
    yield f"{title}, leading triples", rows, {"passes": passes}


def as_triples(result: Any) -> Triples:
    return Triples(result.singular_values, result.left, result.right)


def orthonormal(z: Any) -> Any:
    """Cholesky QR, twice."""
    for _ in range(2):
        gram = jnp.matmul(z.T, z, precision="highest")
        factor = jnp.linalg.cholesky(gram)
        eye = jnp.eye(len(gram), dtype=z.dtype)
        inverse = jax.scipy.linalg.solve_triangular(factor, eye, lower=True)
        z = jnp.matmul(z, inverse.T, precision="highest")
    return z


def tall(setting: Setting) -> Iterator[Case]:
    """An orthonormal basis of a tall block, by two rounds of Cholesky QR."""
    from contexture_jax.solvers._orthonormal import orthonormalize
    from contexture_jax.solvers._random import make_seed

    n, width = setting.sizes.tall
    z = jax.random.normal(jax.random.key(setting.seed), (n, width))
    z = z @ (jnp.eye(width) + 0.5 * jnp.ones((width, width)) / width**0.5)
    work = Work(flops=8.0 * n * width**2, bytes=24.0 * n * width)
    seed = make_seed(jax.random.key(0))

    def contestant(name: str, function: Any, kind: Any = "peer") -> OnDevice:
        run = jax.jit(function)
        return OnDevice(
            name,
            lambda _: run(z),
            kind,
            answer=lambda q: np.asarray(jnp.matmul(q.T, q, precision="highest")),
        )

    contestants = [
        contestant("contexture_jax", lambda z: orthonormalize(z, seed), "ours"),
        contestant("bare products", orthonormal),
        contestant("jnp.linalg.qr", lambda z: jnp.linalg.qr(z)[0]),
    ]
    contestants += guarded(setting, torch_qr, z)
    judge = make_entry_judge(np.eye(width))
    rows = measure(contestants, setting, judge, work=work)
    yield f"orthonormal basis, {n} × {width}", rows, {}


def operator_product(name: str, op: Any, block: Any, function: Any) -> OnDevice:
    """T g or T* f of one of our operators, compiled."""
    run = jax.jit(function)
    return OnDevice(name, lambda _: run(op, block), "ours", answer=first_rows)


def gaussian(setting: Setting) -> Iterator[Case]:
    """The operator of a Gaussian kernel, recomputed in tiles, and its adjoint."""
    from kernel_operator import Problem, exact_rows

    n, d, width = setting.sizes.gaussian
    points = clustered_points(n, d, setting.seed)
    rng = np.random.default_rng(setting.seed)
    host = rng.standard_normal((n, width), np.float32)
    block, context = jax.device_put(host), cx.contexts.rbf(points, 0.05)
    work = Work(flops=2.0 * n * n * (d + 2 + width), exps=float(n) * n)
    problem = Problem(points, points, host, 0.05)
    ops = {"": cx.association_operator(context)}
    if platform() != "cpu":
        # The default suits a cache of megabytes; fewer turns of the loop suit a GPU.
        sides = (4096, 16384)
        for side in sides:
            ops[f", tiles of {side}"] = cx.association_operator(context, tile_size=side)
        wide = ops[f", tiles of {sides[-1]}"]
        ops[f", tiles of {sides[-1]}, split"] = wide.with_precision("split")
    contestants = [
        operator_product(f"contexture_jax{words}", op, block, matmat)
        for words, op in ops.items()
    ]
    contestants += guarded(setting, torch_attention, problem)
    judge = make_entry_judge(exact_rows(problem))
    rows = measure(contestants, setting, judge, work=work)
    title = f"Gaussian, n = {n}, d = {d}, {width} columns"
    space = ops[""].cost(width).temporary_bytes / 1e6
    yield title, rows, {"work_space_MB": space}
    contestants = [
        operator_product(f"contexture_jax{words}", op, block, rmatmat)
        for words, op in ops.items()
    ]
    yield f"{title}, adjoint", measure(contestants, setting, work=work), {}


def neighbours(setting: Setting) -> Iterator[Case]:
    """The operator of neighbour lists, and its adjoint through the transpose."""
    n, k, width = setting.sizes.lists
    rng = np.random.default_rng(setting.seed)
    lists = rng.integers(0, n, (n, k), np.int32)
    op = cx.association_operator(cx.contexts.neighbors(lists, num_points=n))
    host = rng.standard_normal((n, width), np.float32)
    block = jax.device_put(host)
    starts = np.arange(0, n * k + 1, k)
    shares = np.full(n * k, 1.0 / k, np.float32)
    matrix = scipy.sparse.csr_array((shares, lists.reshape(-1), starts), (n, n))
    work = Work(2.0 * n * k * width, 8.0 * n * width, 0.0, 4.0 * n * k * width)
    for name, function, csr in (
        ("forward", matmat, matrix),
        ("adjoint", rmatmat, conditional(matrix.T).astype(np.float32)),
    ):
        bags = guarded(setting, embedding_bag, lists, block)
        contestants = [
            operator_product("contexture_jax", op, block, function),
            *(bags if name == "forward" else []),
            *guarded(setting, torch_csr, csr, block),
            *guarded(setting, cupy_csr, csr, block),
        ]
        exact = csr[:CHECKED].astype(np.float64) @ host.astype(np.float64)
        rows = measure(contestants, setting, make_entry_judge(exact), work=work)
        yield f"k-NN {name}, n = {n}, K = {k}, {width} columns", rows, {}


def sparse(setting: Setting) -> Iterator[Case]:
    """A sparse table: one product each way, then its spectrum."""
    from sparse_svd import normalised

    n, m, wanted, rank = setting.sizes.sparse
    rng = np.random.default_rng(setting.seed)
    # Popular rows and columns: the square of a uniform number.
    pairs = [(size * rng.random(2 * wanted) ** 2).astype(np.int64) for size in (n, m)]
    kept = rng.permutation(np.unique(pairs[0] * m + pairs[1]))[:wanted]
    counts = 1.0 + rng.poisson(1.0, len(kept)).astype(np.float32)
    table = scipy.sparse.csr_array((counts, (kept // m, kept % m)), (n, m))
    op = cx.association_operator(cx.contexts.joint(table))
    size = f"{n} × {m}, {table.nnz} non-zeros"
    gathered = 4.0 * table.nnz * rank
    bytes_ = 8.0 * table.nnz + 4.0 * (n + m) * rank
    work = Work(2.0 * table.nnz * rank, bytes_, 0.0, gathered)
    for name, function, csr in (
        ("forward", matmat, conditional(table)),
        ("adjoint", rmatmat, conditional(table.T)),
    ):
        host = rng.standard_normal((csr.shape[1], rank), np.float32)
        block = jax.device_put(host)
        contestants = [
            operator_product("contexture_jax", op, block, function),
            *guarded(setting, torch_csr, csr.astype(np.float32), block),
            *guarded(setting, cupy_csr, csr.astype(np.float32), block),
        ]
        exact = csr[:CHECKED] @ host.astype(np.float64)
        rows = measure(contestants, setting, make_entry_judge(exact), work=work)
        yield f"sparse {name}, {size}, {rank} columns", rows, {}
    matrix, *roots = normalised(table)
    yield sparse_spectrum(setting, op, matrix, roots, work, f"sparse {size}")


def sparse_spectrum(
    setting: Setting, op: Any, matrix: Any, roots: Any, work: Work, title: str
) -> Case:
    """Leading triples, judged by their residuals in float64."""
    rank = setting.sizes.sparse[-1]
    passes: list[Any] = []

    def run(number: int) -> Any:
        result, info = cx.svd(op, rank, key=jax.random.key(number))
        passes[:] = [info.num_passes]
        return result

    def euclidean(result: Any) -> Triples:
        left, right = (
            root[:, None] * np.asarray(x, np.float64)
            for root, x in zip(roots, (result.left, result.right), strict=True)
        )
        return Triples(result.singular_values, left, right)

    def judge(found: Triples) -> dict[str, float]:
        s, u, v = (np.asarray(x, np.float64) for x in found)
        gaps = [matrix @ v - s * u, matrix.T @ u - s * v]
        return {"residual": max(np.linalg.norm(g, axis=0).max() for g in gaps) / s[0]}

    def bound() -> float:
        return 2 * float(passes[0]) * setting.peaks.seconds(work)

    contestants = [
        OnDevice("contexture_jax", run, "ours", answer=euclidean, bound=bound)
    ]
    contestants += guarded(setting, cupy_sparse, matrix, rank)
    if platform() == "cpu":
        from _peers import scipy_svds

        small = matrix.astype(np.float32)
        contestants.append(
            OnDevice(
                "scipy svds, ARPACK",
                lambda number: scipy_svds(small, rank + 1, number, tol=1e-5),
                answer=lambda t: Triples(t.values[1:], t.left[:, 1:], t.right[:, 1:]),
            )
        )
    rows = measure(contestants, setting, judge)
    return f"{title}, spectrum, rank {rank}", rows, {"passes": float(passes[0])}


def _neighbors_among(points: np.ndarray, k: int, _: int) -> Any:
    return cx.contexts.knn(points, k).indices


def _neighbors_at(context: Any, queries: np.ndarray, _: int) -> Any:
    return context.at(queries).indices


def search(setting: Setting) -> Iterator[Case]:
    """The exact k-NN graph."""
    from neighbor_graph import exact_radii, judge

    k = setting.sizes.neighbors
    for n, d, num_queries in setting.sizes.search:
        points = clustered_points(n, d, setting.seed)
        whole = num_queries in (0, n)
        queries = points if whole else points[:num_queries]
        work = Work(flops=2.0 * len(queries) * n * d)
        if whole:
            run = functools.partial(_neighbors_among, points, k)
        else:
            lists = np.zeros((1, k), np.int32)
            law = np.ones(1, np.float32)
            context = cx.contexts.Neighbors(
                jax.device_put(lists),
                None,
                jax.device_put(points),
                jax.device_put(law),
                n,
            )
            run = functools.partial(_neighbors_at, context, queries)
        ours = OnDevice(
            "contexture_jax knn",
            run,
            "ours",
        )
        radii = exact_radii(queries[:CHECKED], points, k)
        checked = functools.partial(judge, queries=queries, points=points, radii=radii)
        contestants = [ours, *guarded(setting, torch_search, points, queries, k)]
        rows = measure(contestants, setting, checked, work=work)
        yield f"exact k-NN, {len(queries)} of {n} × {d}, K = {k}", rows, {}


def step(setting: Setting) -> Iterator[Case]:
    """A training step with a whitened loss, ten in a row."""
    from train_step import LOSS, OURS, ours

    rows, widths = setting.sizes.step
    args = argparse.Namespace(
        rows=rows, widths=list(widths), steps=10, data_rows=2 * rows
    )
    rng = np.random.default_rng(setting.seed)
    views = rng.standard_normal((2, rows, widths[0]), np.float32)
    views[1] += views[0]
    weights = sum(a * b for a, b in itertools.pairwise(widths))
    work = Work(flops=10 * 3 * 2.0 * 2 * rows * weights)
    words = "products of layers at the platform's default precision"
    contestants = [
        OnDevice(c.name, c.run, "ours", words if c.name == OURS else "")
        for c in ours(args, views)[0]
        if c.name in (OURS, LOSS)
    ]
    # The loss alone is of another size.
    alone = [c for c in contestants if c.name == LOSS]
    contestants = [c for c in contestants if c.name == OURS]
    contestants += guarded(setting, torch_training, args, views)
    rows_found = measure(contestants, setting, work=work) + measure(alone, setting)
    title = f"{'-'.join(map(str, widths))}, 2 × {rows} rows, 10 steps"
    yield title, rows_found, {}


def certified(setting: Setting) -> Iterator[Case]:
    """The spectrum of a k-NN context and its certificate."""
    n, k, rank = setting.sizes.certified
    points = clustered_points(n, 20, setting.seed)
    op = cx.association_operator(cx.contexts.knn(points, k))
    found: dict[str, Any] = {}

    def solve(number: int) -> Any:
        found["result"], found["info"] = cx.svd(op, rank, key=jax.random.key(number))
        return found["result"]

    def certify(number: int) -> Any:
        both = found["result"], found["info"]
        return cx.solvers.certify(*both, op, key=jax.random.key(number + 1))

    def bound(columns: int, passes: Callable[[], float]) -> Callable[[], float]:
        cost = op.cost(columns)
        moved_bytes = cost.argument_bytes + cost.output_bytes
        work = Work(cost.flops, moved_bytes, 0.0, 4.0 * n * k * columns)
        return lambda: 2 * passes() * setting.peaks.seconds(work)

    made = bound(rank, lambda: float(found["info"].num_passes))
    contestants = [
        OnDevice("svd", solve, "ours", bound=made),
        OnDevice(
            "certify", certify, "ours", "10 passes of 8", bound=bound(8, lambda: 10.0)
        ),
    ]
    rows = measure(contestants, setting)
    facts = {"passes": float(found["info"].num_passes)}
    yield f"k-NN context, n = {n}, K = {k}, rank {rank}", rows, facts


WORKLOADS: dict[str, Callable[[Setting], Iterator[Case]]] = {
    "dense": dense,
    "tall": tall,
    "gaussian": gaussian,
    "neighbours": neighbours,
    "sparse": sparse,
    "step": step,
    "certified": certified,
    "search": search,
}
