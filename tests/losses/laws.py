"""A small joint law as weighted batches, and losses minimised over function values.

Enumerating a law and weighting each outcome by its probability makes every batch moment
an exact expectation, so that the minimum of a loss over function values is that of the
population.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from tests import oracle

WIDTH = 2


class Weighted(NamedTuple):
    """Outcomes of a pair of indices with their probabilities, each of shape (b,)."""

    first: np.ndarray
    second: np.ndarray
    weights: np.ndarray


class Law(NamedTuple):
    """A joint table with its exact triples, constants left out."""

    table: np.ndarray
    p_x: np.ndarray
    p_a: np.ndarray
    values: np.ndarray
    left: np.ndarray
    right: np.ndarray
    pairs: Weighted  # (x, a)
    views: Weighted  # (a, a⁺), two draws for one x
    inputs: Weighted  # (x, x⁺), two inputs that share a
    kernel: np.ndarray  # k_X⁺, shape (n, n)


def enumerated(joint: np.ndarray) -> Weighted:
    first, second = np.indices(joint.shape).reshape(2, -1)
    return Weighted(first, second, joint.ravel())


def law_of(table: np.ndarray) -> Law:
    table = table / table.sum()
    p_x, p_a = oracle.marginals(table)
    return Law(
        table,
        p_x,
        p_a,
        *oracle.triples(table),
        enumerated(table),
        enumerated(table.T @ (table / p_x[:, None])),
        enumerated(table @ (table / p_a[None, :]).T),
        (table / p_a) @ table.T / np.outer(p_x, p_x),
    )


# Singular values 0.789, 0.474, 0.344, 0.137; marginals from 0.07 to 0.4.
LAW = law_of(np.random.default_rng(20).gamma(0.5, size=(6, 5)) + 1e-2)
NUM_X, NUM_A = LAW.table.shape


def evaluator(
    loss: Callable[..., Any], shapes: Sequence[tuple[int, ...]]
) -> Callable[[np.ndarray], tuple[Any, Any]]:
    """Value and gradient at one vector that holds all parameters; compiled once."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])

    def of_vector(theta: jax.Array) -> jax.Array:
        parts = jnp.split(theta, ends[:-1])
        return loss(
            *(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
        )

    return jax.jit(jax.value_and_grad(of_vector))


def minimise(
    loss: Callable[..., Any],
    shapes: Sequence[tuple[int, ...]],
    num_starts: int = 4,
    seed: int = 0,
) -> tuple[float, list[np.ndarray]]:
    """The least value over some random starts, and where it is."""
    fn = evaluator(loss, shapes)
    sizes = [int(np.prod(shape)) for shape in shapes]
    rng = np.random.default_rng(seed)
    best: Any = None
    for _ in range(num_starts):
        found = scipy.optimize.minimize(
            lambda theta: tuple(np.asarray(part) for part in fn(theta)),
            rng.normal(size=sum(sizes)),
            jac=True,
            method="BFGS",
            options={"gtol": 1e-9, "maxiter": 3000},
        )
        if best is None or found.fun < best.fun:
            best = found
    parts = np.split(best.x, np.cumsum(sizes)[:-1])
    return float(best.fun), [
        part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)
    ]


def descend(
    loss: Callable[..., Any],
    start: Sequence[np.ndarray],
    rate: float,
    num_steps: int,
) -> tuple[float, list[np.ndarray]]:
    """Gradient descent, for losses whose gradient is that of no function."""
    gradient = jax.value_and_grad(lambda parameters: loss(*parameters), allow_int=False)

    def step(parameters: Any, _: None) -> tuple[Any, None]:
        _, slope = gradient(parameters)
        return jax.tree.map(lambda p, g: p - rate * g, parameters, slope), None

    run = jax.jit(lambda p: jax.lax.scan(step, p, None, length=num_steps)[0])
    final = run([jnp.asarray(part) for part in start])
    return float(jax.jit(gradient)(final)[0]), [np.asarray(part) for part in final]


def basis(functions: np.ndarray, p: np.ndarray, *, centre: bool = True) -> np.ndarray:
    """An orthonormal basis of √p · span."""
    if centre:
        functions = functions - p @ functions
    return np.linalg.qr(np.sqrt(p)[:, None] * functions)[0]


def largest_sine(
    a: np.ndarray, b: np.ndarray, p: np.ndarray, *, centre: bool = True
) -> float:
    """Of the principal angles between two spans in L²(p)."""
    x, y = basis(a, p, centre=centre), basis(b, p, centre=centre)
    return float(np.linalg.norm(x - y @ (y.T @ x), 2))


def covariance(functions: np.ndarray, p: np.ndarray) -> np.ndarray:
    centred = functions - p @ functions
    return centred.T @ (p[:, None] * centred)


def alignment(functions: np.ndarray, exact: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Squared correlations of each function with each exact one."""
    centred = functions - p @ functions
    inner = centred.T @ (p[:, None] * exact)
    return inner**2 / (p @ centred**2)[:, None]
