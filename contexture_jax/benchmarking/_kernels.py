"""Array kernels by themselves: tiled softmax products and sparse products in slices."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax import kernels as cx_kernels
from contexture_jax.benchmarking._accuracy import make_entry_judge
from contexture_jax.benchmarking._operators import CHECKED, sparse_table
from contexture_jax.benchmarking._peers import guarded, product_peers
from contexture_jax.benchmarking._points import clustered_points
from contexture_jax.benchmarking._timing import OnDevice, Setting, Work

__all__ = ["kernels"]

_GAMMA = 0.05
_TILE = 1024


def kernels(setting: Setting, peers: bool) -> list[OnDevice]:
    """exp(L) V by tiles, its gradient and log-sum-exp; a sparse product."""
    return [*_softmax(setting), *_slots(setting, peers)]


def _softmax(setting: Setting) -> list[OnDevice]:
    n, d = setting.sizes.kernel
    width = setting.sizes.width
    rng = np.random.default_rng(setting.seed)
    x = clustered_points(n, d, setting.seed)
    x -= x.mean(axis=0)
    v = rng.standard_normal((n, width), np.float32)
    # L = −γ|x − a|² as a product of d + 2 columns.
    offset, one = -_GAMMA * (x**2).sum(axis=1, keepdims=True), np.ones((n, 1))
    rows = np.hstack([2 * _GAMMA * x, offset, one]).astype(np.float32)
    columns = np.hstack([x, one, offset]).astype(np.float32)
    queries, keys, values = map(jax.device_put, (rows, columns, v))
    form = cx_kernels.Form("distances", d, plain=True, exact=False)

    @jax.jit
    def product(queries: Any, keys: Any, values: Any) -> Any:
        return cx_kernels.exp_matmul(queries, keys, values, form=form, tile_size=_TILE)

    @jax.jit
    def gradient(queries: Any, keys: Any, values: Any) -> Any:
        def total(queries: Any, values: Any) -> Any:
            return jnp.vdot(product(queries, keys, values), values) / n

        return jax.grad(total, argnums=(0, 1))(queries, values)

    @jax.jit
    def logsumexp(queries: Any, keys: Any) -> Any:
        high, low = cx_kernels.logsumexp_rows(queries, keys, form=form, tile_size=_TILE)
        return (high + low)[:, None]

    scores = rows[:CHECKED].astype(np.float64) @ columns.T.astype(np.float64)
    weights = np.exp(scores)
    pairs, e = float(n) * n, d + 2
    moved = 4.0 * n * (2 * e + 2 * width)
    forward = Work(pairs * (2 * e + 1 + 2 * width), moved)
    # Tiles are formed again, for a product with each of S, Sᵀ and O Vᵀ ∘ S.
    backward = Work(pairs * (3 * 2 * e + 2 + 4 * 2 * width), 3 * moved)
    sums = Work(pairs * (2 * e + 2), 4.0 * n * (2 * e + 1))
    words = f"{n} × {n}, d = {d}, {width} columns, tiles of {_TILE}"

    def judge_of(truth: np.ndarray) -> Any:
        check = make_entry_judge(truth)
        return lambda found: check(np.asarray(found)[:CHECKED])

    return [
        OnDevice(
            "softmax: exp_matmul",
            lambda _: product(queries, keys, values),
            "ours",
            words,
            needs=lambda _: forward,
            judge=judge_of(weights @ v.astype(np.float64)),
        ),
        OnDevice(
            "softmax: gradient",
            lambda _: gradient(queries, keys, values),
            "ours",
            words,
            needs=lambda _: backward,
        ),
        OnDevice(
            "softmax: logsumexp_rows",
            lambda _: logsumexp(queries, keys),
            "ours",
            words,
            needs=lambda _: sums,
            judge=judge_of(np.log(weights.sum(axis=1, keepdims=True))),
        ),
    ]


def _slots(setting: Setting, peers: bool) -> list[OnDevice]:
    table = sparse_table(setting)
    n, m = table.shape
    width = setting.sizes.width
    rng = np.random.default_rng(setting.seed)
    block = rng.standard_normal((m, width), np.float32)
    entries = table.tocoo()
    rows, columns = entries.coords
    slots = jax.device_put(cx_kernels.make_slots(rows, columns, entries.data, n))
    on_device = jax.device_put(block)
    run = jax.jit(cx_kernels.slots_matmat)
    flops, layout, _ = cx_kernels.slots_cost(slots, width, 4)
    work = Work(float(flops), layout + 4.0 * (n + m) * width)
    exact = table[:CHECKED].toarray().astype(np.float64) @ block.astype(np.float64)
    check = make_entry_judge(exact)

    def judge(found: Any) -> dict[str, float]:
        return check(np.asarray(found)[:CHECKED])

    name = "slots_matmat"
    found = [
        OnDevice(
            name,
            lambda _: run(slots, on_device),
            "ours",
            f"{n} × {m}, {table.nnz} entries, {width} columns",
            needs=lambda _: work,
            judge=judge,
        )
    ]
    return found + (
        guarded(setting, product_peers, name, table, block) if peers else []
    )
