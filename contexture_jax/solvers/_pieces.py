"""The programs that every solver is made of: small, and compiled once for a shape.

Inside a larger program they are inlined; called with values each is a program of its
own, which serves every method, rank and operator with blocks of the same shape. Numbers
that differ between calls are arguments, not constants.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from contexture_jax._core.types import Array, Float, Inexact
from contexture_jax.operators import AssociationOperator
from contexture_jax.solvers._linear_map import projection
from contexture_jax.solvers._orthonormal import orthonormalize, ritz_triples
from contexture_jax.solvers._random import Seed, fold, make_seed, random_block

__all__ = ["gaps", "new_seed", "orthonormal", "random_columns", "ritz", "squared_norm"]

new_seed = jax.jit(make_seed)


@jax.jit
def squared_norm(op: AssociationOperator) -> Float[Array, ""] | None:
    """‖T‖_HS², the trivial 1 included; None where it is not known."""
    return op.squared_norm()


@functools.partial(jax.jit, static_argnames=("size", "width", "dtype"))
def random_columns(
    seed: Seed, unit: Float[Array, " n"] | None, *, size: int, width: int, dtype: Any
) -> Inexact[Array, "n b"]:
    """A random block off a unit vector, shape (size, width)."""
    return projection(unit)(random_block(seed, size, width, dtype))


def orthonormal(
    block: Any,
    seed: Seed,
    number: Any,
    unit: Float[Array, " n"] | None,
    basis: Any = None,
    *,
    loose: bool = False,
) -> Inexact[Array, "n b"]:
    """`orthonormalize` off a unit vector and a basis, with the seed of that number."""
    # Folded in, so that no two blocks share what replaces their columns.
    project, fresh = projection(unit), fold(seed, number)
    return orthonormalize(block, fresh, project=project, basis=basis, loose=loose)


@jax.jit
def ritz(
    image: Inexact[Array, "n b"],
    image_basis: Inexact[Array, "n b"],
    basis: Inexact[Array, "m b"],
) -> tuple[Float[Array, " b"], Inexact[Array, "n b"], Inexact[Array, "m b"]]:
    """The triples (s, U, V) of M on the span of a basis, from its image."""
    # All of the block: a rank would make it another program.
    return ritz_triples(image, image_basis, basis, num=image.shape[1])


@jax.jit
def gaps(
    image: Inexact[Array, "n b"], vectors: Inexact[Array, "n b"], s: Float[Array, " b"]
) -> Float[Array, " b"]:
    """Residuals ‖image_i − s_i vectors_i‖."""
    return jnp.linalg.norm(image - vectors * s[None, :], axis=0)
