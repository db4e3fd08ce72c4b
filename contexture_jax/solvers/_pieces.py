"""The programs that every solver is made of: small, and compiled once for a shape.

Inside a larger program they are inlined; called with arrays of NumPy, as blocks are
where they are small and on a CPU (`_run.solve`), they are NumPy's. Otherwise each is a
program of its own, which serves every method, rank and operator with blocks of the same
shape. Numbers that differ between calls are arguments, not constants.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from contexture_jax._core.either import (
    LITTLE,
    Either,
    at_hand,
    compiled_unless_numpy,
    core_svd,
    namespace,
    squared_lengths,
)
from contexture_jax._core.types import Array, Float, Inexact
from contexture_jax.operators import AssociationOperator
from contexture_jax.solvers._linear_map import projection
from contexture_jax.solvers._orthonormal import inner, orthonormalize, turned
from contexture_jax.solvers._random import (
    Seed,
    fold,
    make_seed,
    random_block,
    seed_at_hand,
)
from contexture_jax.solvers._steps import in_trace, read

__all__ = ["gaps", "new_seed", "orthonormal", "random_columns", "ritz", "squared_norm"]


def new_seed(key: Array, *, traced: bool | None = None) -> Seed:
    """`make_seed`, outside a trace of NumPy, that folds others in without a program.

    Args:
        key: to draw it from.
        traced: whether inside a trace; None: not known.
    """
    if in_trace(key) if traced is None else traced:
        return make_seed(key)
    # The program takes a tenth of a second to compile.
    seed = seed_at_hand(key)
    return read(_program(key))[0] if seed is None else seed


_program = jax.jit(make_seed)


@jax.jit
def squared_norm(op: AssociationOperator) -> Float[Either, ""] | None:
    """‖T‖_HS², the trivial 1 included; None where it is not known."""
    return op.squared_norm()


def random_columns(
    seed: Seed,
    unit: Float[Either, " n"] | None,
    *,
    size: int,
    width: int,
    dtype: Any,
    near: bool = False,
) -> Inexact[Either, "n b"]:
    """A random block off a unit vector, shape (size, width); `near`: of NumPy."""
    on_host = (near or size * width <= LITTLE) and namespace(seed) is np
    make = _made if on_host else _compiled
    return make(seed, unit, size=size, width=width, dtype=dtype)


def _random_columns(
    seed: Seed, unit: Float[Either, " n"] | None, *, size: int, width: int, dtype: Any
) -> Inexact[Either, "n b"]:
    return projection(unit)(random_block(seed, size, width, dtype))


_static = ("size", "width", "dtype")
_made = compiled_unless_numpy(_random_columns, static_argnames=_static)
_compiled = jax.jit(_random_columns, static_argnames=_static)


def orthonormal(
    block: Any,
    seed: Seed,
    number: Any,
    unit: Float[Either, " n"] | None,
    basis: Any = None,
    *,
    loose: bool = False,
) -> Inexact[Either, "n b"]:
    """`orthonormalize` off a unit vector and a basis, with the seed of that number."""
    # Folded in, so that no two blocks share what replaces their columns.
    project, fresh = projection(unit), fold(seed, number)
    return orthonormalize(block, fresh, project=project, basis=basis, loose=loose)


def ritz(
    image: Inexact[Either, "n b"],
    image_basis: Inexact[Either, "n b"],
    basis: Inexact[Either, "m b"],
) -> tuple[Float[Either, " b"], Inexact[Either, "n b"], Inexact[Either, "m b"]]:
    """The triples (s, U, V) of M on the span of a basis, from its image: M V = U S."""
    # svd(R), not eigh(YᴴY): the latter squares the condition number.
    # (b, b): U = Q W and V = Q_basis X (theory.md §6.2). All of the block: a rank would
    # make it another program.
    w, s, x = core_svd(at_hand(inner(image_basis, image)))
    return s, turned(image_basis, w), turned(basis, x)


@compiled_unless_numpy
def gaps(
    image: Inexact[Either, "n b"],
    vectors: Inexact[Either, "n b"],
    s: Float[Either, " b"],
) -> Float[Either, " b"]:
    """Residuals ‖image_i − s_i vectors_i‖."""
    return squared_lengths(image - vectors * s[None, :]) ** 0.5
