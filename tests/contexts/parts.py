"""Contexts on the same inputs, of every kind, and their tables by NumPy in float64."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import scipy.sparse

import contexture_jax as cx
from tests.conftest import X64
from tests.problems import features

C = cx.contexts
DTYPE = np.float64 if X64 else np.float32
KEY = jax.random.key(3)
N, M = 14, 9
WEIGHTS = np.array([0.3, 0.7])


def table(dtype: Any, seed: int, holes: float = 0.0) -> np.ndarray:
    """Random rows of equal mass, some of whose entries are 0."""
    rng = np.random.default_rng(seed)
    rows = rng.gamma(0.5, size=(N, M)) + 0.01
    rows[rng.random((N, M)) < holes] = 0.0
    return (rows / rows.sum(axis=1, keepdims=True)).astype(dtype)


def ring(dtype: Any) -> np.ndarray:
    step = np.eye(N, dtype=dtype)[[*range(1, N), 0]]
    return step + step.T


PARTS: dict[str, Callable[[Any], Any]] = {
    "joint": lambda dtype: C.joint(table(dtype, 0)),
    "sparse": lambda dtype: C.joint(scipy.sparse.csr_array(table(dtype, 1, 0.6))),
    "knn": lambda dtype: C.knn(features(dtype), 4),
    "rbf": lambda dtype: C.rbf(features(dtype), 0.5),
    "attention": lambda dtype: C.attention(features(dtype) - 5, features(dtype, M) - 5),
    "teacher": lambda dtype: C.teacher(features(dtype)),
    "labels": lambda _: C.labels(np.arange(N) % 3),
    "same class": lambda _: C.same_class(np.arange(N) % 3),
    "graph": lambda dtype: C.graph(ring(dtype), lazy=True),
    "next token": lambda _: C.next_token(np.arange(N + 1) ** 2 % 5, 1),
    "chain": lambda dtype: C.compose(
        C.same_class(np.arange(N) % 2, include_self=True), C.knn(features(dtype), 3)
    ),
    "seen": lambda dtype: C.convex_combination(
        [C.knn(features(dtype), 3), C.labels(np.arange(N) % 2)], WEIGHTS
    ),
    "hidden": lambda dtype: C.mixture(
        [C.knn(features(dtype), 3), C.rbf(features(dtype), 2.0)], WEIGHTS
    ),
    "convolution": lambda dtype: C.convolve(
        C.knn(features(dtype), 5), C.rbf(features(dtype), 2.0)
    ),
}
"""Contexts on the same 14 inputs, uniformly distributed, of every kind."""


@functools.cache
def part(name: str, dtype: Any = DTYPE) -> Any:
    return PARTS[name](dtype)


def law_of(context: Any) -> np.ndarray:
    return np.asarray(context.table(), np.float64)


@functools.cache
def law(name: str, dtype: Any = DTYPE) -> np.ndarray:
    return law_of(part(name, dtype))


def walk(joint: np.ndarray) -> np.ndarray:
    """P(x, x\N{PRIME}) of a step of the dual kernel."""
    p_a = joint.sum(axis=0)
    return joint / np.where(p_a > 0, p_a, 1.0) @ joint.T


def conditional(joint: np.ndarray) -> np.ndarray:
    return joint / joint.sum(axis=1, keepdims=True)


def unlike() -> Any:
    """Of the same inputs, with another law of them."""
    return C.conditional(table(DTYPE, 0), np.arange(1.0, N + 1))
