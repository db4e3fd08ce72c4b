"""One registry of contexts and operators: adding one here adds it to the shared tests.

Truth comes from the zoo (closed forms) or from dense float64 NumPy.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import contexture_jax as cx

NUM_ROWS, NUM_COLUMNS = 14, 9


def random_table(dtype: Any = np.float64, seed: int = 0) -> np.ndarray:
    """A positive joint table without structure."""
    rng = np.random.default_rng(seed)
    table = rng.gamma(0.5, size=(NUM_ROWS, NUM_COLUMNS))
    return (table / table.sum()).astype(dtype)


def holey_table(dtype: Any = np.float64) -> np.ndarray:
    """The same with a row and two columns of zero mass, and other zeros."""
    table = random_table()
    table[3] = 0.0
    table[:, [0, 5]] = 0.0
    table[table < np.quantile(table, 0.4)] = 0.0
    return (table / table.sum()).astype(dtype)


def features(dtype: Any = np.float64, rows: int = NUM_ROWS) -> np.ndarray:
    """A few points in three dimensions, far from the origin."""
    rng = np.random.default_rng(1)
    return (rng.normal(size=(rows, 3)) + 5.0).astype(dtype)


def symmetric_weights(dtype: Any = np.float64) -> np.ndarray:
    """A weighted undirected graph with an isolated vertex."""
    rng = np.random.default_rng(2)
    weights = np.triu(rng.gamma(1.0, size=(8, 8)) * (rng.random((8, 8)) < 0.6))
    weights = weights + weights.T
    weights[4] = weights[:, 4] = 0.0
    return weights.astype(dtype)


def weighted_neighbors(dtype: Any) -> cx.contexts.Neighbors:
    """Neighbour lists with weights, one value listed twice, one value never listed."""
    rng = np.random.default_rng(3)
    indices = np.stack([rng.permutation(8)[:3] for _ in range(10)])
    indices[0] = [1, 1, 2]
    weights = rng.random((10, 3)).astype(dtype)
    return cx.contexts.neighbors(indices, weights, num_points=9)


CONTEXTS: dict[str, Callable[[Any], cx.Context]] = {
    "joint": lambda dtype: cx.contexts.joint(random_table(dtype)),
    "joint with zeros": lambda dtype: cx.contexts.joint(holey_table(dtype)),
    "pairs": lambda dtype: cx.contexts.pairs(
        np.array([0, 1, 1, 2, 2, 2, 3]),
        np.array([0, 0, 1, 1, 2, 2, 3]),
        np.array([1, 2, 1, 1, 3, 0.5, 1], dtype),
    ),
    "graph": lambda dtype: cx.contexts.graph(symmetric_weights(dtype)),
    "lazy graph": lambda dtype: cx.contexts.graph(symmetric_weights(dtype), lazy=True),
    "knn": lambda dtype: cx.contexts.knn(features(dtype), 4),
    "reversed knn": lambda dtype: cx.contexts.knn(features(dtype), 4).reverse(),
    "neighbors": weighted_neighbors,
    "rbf": lambda dtype: cx.contexts.rbf(features(dtype), 0.5),
    "reversed rbf": lambda dtype: cx.contexts.rbf(features(dtype), 0.5).reverse(),
    "attention": lambda dtype: cx.contexts.attention(
        features(dtype) - 5.0,
        features(dtype, 9) - 5.0,
        bias=np.linspace(-1, 1, 9).astype(dtype),
        p_x=np.linspace(1, 2, NUM_ROWS).astype(dtype),
    ),
    "teacher": lambda dtype: cx.contexts.teacher(features(dtype)),
    "teacher not whitened": lambda dtype: cx.contexts.teacher(features(dtype), 0.0),
    "conditional": lambda dtype: cx.contexts.conditional(holey_table(dtype)[4:9]),
}
"""Name → context of a dtype. Labels hold no floating array and are tested apart."""


def _operator_of(name: str) -> Callable[[Any], cx.AssociationOperator]:
    return lambda dtype: cx.association_operator(CONTEXTS[name](dtype))


def _stored(name: str, storage: Any) -> Callable[[Any], cx.AssociationOperator]:
    return lambda dtype: cx.association_operator(CONTEXTS[name](dtype), storage=storage)


def _weights(dtype: Any) -> jax.Array:
    return jnp.asarray([0.3, 0.7], dtype)


OPERATORS: dict[str, Callable[[Any], cx.AssociationOperator]] = {
    **{name: _operator_of(name) for name in CONTEXTS},
    **{
        f"{name}, {storage}": _stored(name, storage)
        for name in ("joint with zeros", "knn", "rbf")
        for storage in ("dense", "sparse")
    },
    "rbf in tiles": lambda dtype: cx.association_operator(
        CONTEXTS["rbf"](dtype), tile_size=4
    ),
    "adjoint": lambda dtype: cx.operators.reverse(operator("joint with zeros", dtype)),
    "product": lambda dtype: cx.operators.compose(
        operator("adjoint", dtype), operator("joint with zeros", dtype)
    ),
    "power": lambda dtype: cx.operators.compose(*[operator("lazy graph", dtype)] * 3),
    "weighted sum": lambda dtype: cx.operators.mixture(
        [operator("lazy graph", dtype), operator("graph", dtype)], _weights(dtype)
    ),
    "weighted sum of different marginals": lambda dtype: cx.operators.mixture(
        [operator("joint", dtype), operator("joint with zeros", dtype)],
        _weights(dtype),
    ),
    "stack": lambda dtype: cx.operators.convex_combination(
        [operator("knn", dtype), operator("rbf", dtype)], _weights(dtype)
    ),
    "stack of different marginals": lambda dtype: cx.operators.convex_combination(
        [operator(name, dtype) for name in ("joint", "joint with zeros", "attention")],
        jnp.asarray([0.125, 0.25, 0.625], dtype),
    ),
}
"""Every storage, and every composition: name → operator of a dtype."""


@functools.cache
def operator(name: str, dtype: Any) -> cx.AssociationOperator:
    """An operator of `OPERATORS`, built once."""
    return OPERATORS[name](dtype)
