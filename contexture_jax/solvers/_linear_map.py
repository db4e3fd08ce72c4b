"""The Euclidean problem under every solver: a matrix known by its two products."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import is_traced
from contexture_jax._core.either import (
    Either,
    at_hand,
    compiled_unless_numpy,
    namespace,
    product,
)
from contexture_jax._core.numerics import rank_cutoff
from contexture_jax._core.types import Array, Float, Int
from contexture_jax.operators import (
    AssociationOperator,
    KernelOperator,
    Roots,
    StreamedOperator,
    is_streamed,
    marginal_roots,
    symmetrised_products,
)

__all__ = [
    "MAX_DEGREE",
    "LinearMap",
    "coarse_map",
    "compile_products",
    "filtering_map",
    "identity",
    "near_map",
    "projection",
    "rounding_of",
    "scipy_map",
    "symmetrised_map",
    "unmarked",
]


MAX_DEGREE = 16  # of a filter of subspace iteration


def identity(block: Either) -> Either:
    """The block itself: nothing is deflated."""
    return block


def projection(unit: Float[Either, " n"] | None) -> Callable[[Either], Either]:
    """The projection of (n, r) blocks off a unit vector, 0 where that is.

    The identity if there is none; else a tree, whose leaf the vector is.
    """
    return identity if unit is None else jax.tree_util.Partial(_masked_off, unit)


class LinearMap(NamedTuple):
    """A matrix M known by its products with blocks, on subspaces of its own.

    Singular vectors are looked for off a unit vector on each side, which M maps off.
    They are arrays, so that programs take them as arguments.

    Attributes:
        matmat: M times an (m, r) block.
        rmatmat: the conjugate transpose of M times an (n, r) block.
        shape: (n, m).
        dtype: floating or complex.
        left_unit: what left singular vectors are orthogonal to, and 0 where that is,
            shape (n,); None: nothing is deflated.
        right_unit: likewise, shape (m,).
        scale: what rounding is measured by if it is larger than the largest singular
            value: the norm of the matrix before deflation; 0 where nothing is deflated.
        weights: what left and right vectors are multiplied by to be functions, shapes
            (n,) and (m,); None: vectors are what is wanted.
        passes: `_passes` of the operator, if it is one.
        filtered: from the last two blocks of a filter and the factors of each degree to
            the next two; see `filtering_map`.
        entries: M itself, if it is at hand as an array of NumPy.
        is_near: whether it takes and gives arrays of NumPy, as all that is between two
            products then is.
    """

    matmat: Callable[[Either], Either]
    rmatmat: Callable[[Either], Either]
    shape: tuple[int, int]
    dtype: Any
    left_unit: Float[Either, " n"] | None = None
    right_unit: Float[Either, " m"] | None = None
    scale: float = 0.0
    weights: tuple[Float[Either, " n"], Float[Either, " m"]] | None = None
    passes: Callable[..., tuple[Array, Array, Array]] | None = None
    filtered: Callable[..., tuple[Either, Either]] | None = None
    entries: np.ndarray | None = None
    is_near: bool = False

    @property
    def project_left(self) -> Callable[[Either], Either]:
        """The orthogonal projection of (n, r) blocks onto where left vectors lie."""
        return projection(self.left_unit)

    @property
    def project_right(self) -> Callable[[Either], Either]:
        """Likewise of (m, r) blocks for right ones."""
        return projection(self.right_unit)

    def cutoff(self, singular_values: Float[Either, " b"]) -> Float[Either, ""]:
        """Singular values not above it count as zero."""
        xp = namespace(singular_values)
        # The deflated 1 stays the scale of rounding (theory.md §6.1).
        largest = xp.maximum(singular_values.max(), self.scale)
        return rank_cutoff(self.shape, self.dtype, largest)

    def goal(self, singular_values: Float[Either, " b"], tol: Any) -> Any:
        """The residual that counts as converged: tol · s_1, but not below rounding."""
        xp = namespace(singular_values)
        return xp.maximum(tol * singular_values.max(), self.goal_floor)

    @property
    def goal_floor(self) -> float:
        """The least residual that is asked for: the rounding of deflated products."""
        # theory.md §6.1.
        return 10.0 * float(jnp.finfo(self.dtype).eps) * self.scale


def rounding_of(shape: tuple[int, int], dtype: Any) -> float:
    """(10 + √max(n, m)) · eps: what rounding in products of that length may add up to.

    Relative to the norm of the matrix before deflation.
    """
    return (10.0 + max(shape) ** 0.5) * float(jnp.finfo(dtype).eps)


def symmetrised_map(operator: AssociationOperator) -> LinearMap:
    """M = D_X^{1/2} T D_A^{-1/2} without its trivial triple (theory.md §6).

    Its singular values are those of T; u = D_X^{1/2} μ and v = D_A^{1/2} ν. The trivial
    triple (1, √p_x, √p_a) is known exactly and projected out of every product and every
    random block, so rounding cannot bring it back.
    """
    # A program of its own for each product and width, whoever multiplies.
    plain = unmarked(operator)
    roots, units = _frame(plain)
    if is_streamed(plain):
        return _streamed_map(plain, roots, units)
    product, ways = _one_or_two(plain)
    forward, back = (
        functools.partial(product, plain, roots, units, adjoint=way) for way in ways
    )
    return LinearMap(
        forward,
        back,
        operator.shape,
        operator.dtype,
        *units,
        # ‖T‖ = 1, at the constants that are taken out (theory.md §1.1).
        scale=1.0,
        weights=(roots.inverse_x, roots.inverse_a),
        passes=functools.partial(_passes, plain, roots, units),
    )


def _streamed_map(
    op: AssociationOperator, roots: Roots, units: tuple[Array, Array]
) -> LinearMap:
    """The same of an operator that Python reads: programs stand around its products."""

    def forward(g: Either) -> Array:
        return _framed(op.matmat(_scaled(roots.inverse_a, g)), roots.x, units[0])

    def back(f: Either) -> Array:
        return _framed(op.rmatmat(_scaled(roots.inverse_x, f)), roots.a, units[1])

    def normal(g: Either) -> Array:
        """MᵀM g; between the two it is off the other unit vector to rounding."""
        image = op.gram(_scaled(roots.inverse_a, g))  # pyright: ignore
        return _framed(image, roots.a, units[1])

    def filtered(before: Any, block: Any, factors: list[Any]) -> tuple[Any, Any]:
        for factor in factors:
            image = normal(block)
            a, b, c = (np.asarray(x, op.dtype) for x in factor)
            before, block = block, _turn(image, block, before, a, b, c)
        return before, block

    return LinearMap(
        forward,
        back,
        op.shape,
        op.dtype,
        *units,
        scale=1.0,
        weights=(roots.inverse_x, roots.inverse_a),
        filtered=filtered if isinstance(op, StreamedOperator) else None,
    )


@jax.jit
def _scaled(inverse: Array, block: Array) -> Array:
    return inverse[:, None] * block


@jax.jit
def _framed(image: Array, root: Array, unit: Array) -> Array:
    return _off(unit, root[:, None] * image)


@jax.jit
def _turn(
    image: Array, block: Array, before: Array, a: Array, b: Array, c: Array
) -> Array:
    return a * image + b * block + c * before


def compile_products(op: AssociationOperator, width: int) -> None:
    """Compile the two products of `symmetrised_map`, for blocks of so many columns."""
    plain, (n, m) = unmarked(op), op.shape
    frame = _frame(plain)
    # From shapes and types: no block is made and nothing runs.
    product, ways = _one_or_two(plain)
    for way, size in zip(ways, (m, n), strict=True):
        block = jax.ShapeDtypeStruct((size, width), op.dtype)
        product.lower(plain, *frame, block, adjoint=way).compile()


def _one_or_two(op: AssociationOperator) -> tuple[Any, tuple[Any, Any]]:
    """The function that multiplies, and what tells it which way.

    Where both ways are alike one program has both, and half is compiled; in a larger
    program that would be work for nothing.
    """
    alike = isinstance(op, KernelOperator) and op.shape[0] == op.shape[1]
    if alike and not is_traced(op):
        return _either_product, (np.False_, np.True_)
    return _product, (False, True)


def _frame(op: AssociationOperator) -> tuple[Roots, tuple[Array, Array]]:
    """The roots of the marginals, and as unit vectors, on the device."""
    made = _roots(*at_hand((op.p_x, op.p_a)))
    # Put there once, and not as an argument of every product.
    return jax.device_put(made) if namespace(made[0].x) is np else made


@compiled_unless_numpy
def _roots(p_x: Either, p_a: Either) -> tuple[Roots, tuple[Either, Either]]:
    """The roots of the marginals, and as unit vectors."""
    roots = marginal_roots(p_x, p_a)
    # A law sums to 1 but for rounding, of which a projection would leave as much.
    one, other = (root / ((root * root).sum() ** 0.5) for root in roots[:2])
    return roots, (one, other)


def unmarked(op: AssociationOperator) -> AssociationOperator:
    """Without a fingerprint, so that a program serves operators with and without."""
    # An operator of the user's own may be no dataclass.
    if not dataclasses.is_dataclass(op) or op.fingerprint is None:
        return op
    any_op: Any = op
    return dataclasses.replace(any_op, fingerprint=None)


@functools.partial(jax.jit, static_argnames="adjoint")
def _product(
    op: AssociationOperator,
    roots: Roots,
    units: tuple[Array, Array],
    block: Array,
    *,
    adjoint: bool,
) -> Array:
    """The deflated M, or its transpose, times a block."""
    # One projection is enough: the block that enters is off the other vector already,
    # which M takes to this one (theory.md §6.1).
    matmat, rmatmat = symmetrised_products(op, roots)
    return _off(units[1], rmatmat(block)) if adjoint else _off(units[0], matmat(block))


def near_map(a: LinearMap) -> LinearMap:
    """The same map with what it gives as arrays of NumPy, if that is on one CPU."""
    filtered, units = a.filtered, at_hand((a.left_unit, a.right_unit))
    return a._replace(
        matmat=lambda g: at_hand(a.matmat(g)),
        rmatmat=lambda f: at_hand(a.rmatmat(f)),
        left_unit=units[0],
        right_unit=units[1],
        weights=at_hand(a.weights),
        filtered=None if filtered is None else lambda *of: at_hand(filtered(*of)),
        is_near=True,
    )


def scipy_map(
    operator: AssociationOperator, a: LinearMap, one: Any, other: Any
) -> LinearMap:
    """`a`, of an operator, by products of SciPy's with T and T* where NumPy asks.

    Args:
        operator: T, with its arrays at hand.
        a: as from `symmetrised_map`.
        one: from blocks of NumPy to T times them.
        other: likewise T*.
    """
    roots = marginal_roots(*at_hand((operator.p_x, operator.p_a)))
    x, y, inverse_x, inverse_y = (root[:, None] for root in roots)
    units: Any = at_hand((a.left_unit, a.right_unit))

    def unless_traced(multiply: Any, plain: Any) -> Any:
        return lambda b: multiply(b) if isinstance(b, np.ndarray) else plain(b)

    # As in `_product`. No filter, which is a program.
    return a._replace(
        matmat=unless_traced(
            lambda g: _off(units[0], x * one(inverse_y * g)), a.matmat
        ),
        rmatmat=unless_traced(
            lambda f: _off(units[1], y * other(inverse_x * f)), a.rmatmat
        ),
        passes=None,
    )


@jax.jit
def _either_product(
    op: KernelOperator,
    roots: Roots,
    units: tuple[Array, Array],
    block: Array,
    adjoint: Array,
) -> Array:
    """`_product`, which way a value says."""
    x, a, inverse_x, inverse_a = roots
    root, inverse, unit = (
        jnp.where(adjoint, *pair)[:, None]
        for pair in ((a, x), (inverse_x, inverse_a), units[::-1])
    )
    return _off(unit[:, 0], root * op.either_way(inverse * block, adjoint))


@jax.jit
def _passes(
    op: AssociationOperator,
    roots: Roots,
    units: tuple[Array, Array],
    blocks: tuple[Array, Array, Array],
    factors: Float[Array, "d 3"],
    turns: Int[Array, ""],
    ways: tuple[Any, Any],
) -> tuple[Array, Array, Array]:
    """Some turns of y = M g, h = Mᵀ y and a · h + b · g + c · before, which is g next.

    One program for all that subspace iteration multiplies: a product is compiled once,
    and the degrees of a filter are one call.

    Args:
        op: the operator.
        roots: those of its marginals.
        units: likewise, as unit vectors.
        blocks: g, y and before, of shapes (m, b), (n, b) and (m, b).
        factors: a, b and c of each turn.
        turns: how many.
        ways: whether to multiply with M, and with Mᵀ; else y, or h = g, stays.
    """

    def turn(number: Any, now: tuple[Array, Array, Array]) -> tuple[Array, ...]:
        g, y, before = now
        y = jax.lax.cond(
            ways[0], lambda: _product(op, roots, units, g, adjoint=False), lambda: y
        )
        h = jax.lax.cond(
            ways[1], lambda: _product(op, roots, units, y, adjoint=True), lambda: g
        )
        a, b, c = factors[number]
        return a * h + b * g + c * before, y, g

    return jax.lax.fori_loop(0, turns, turn, blocks)


def filtering_map(a: LinearMap, width: int) -> LinearMap:
    """The same map with `_passes` for all products, of blocks of that width."""
    passes: Any = a.passes
    if passes is None:
        return a
    nothing = [np.zeros((size, width), a.dtype) for size in (a.shape[1], a.shape[0])]
    # Put there once.
    g, y = jax.device_put(nothing)
    # Of one shape whatever the degree.
    own = np.zeros((MAX_DEGREE, 3), a.dtype)
    own[0, 0] = 1

    def several(before: Either, block: Either, factors: list[Any]) -> tuple[Any, Any]:
        some = np.zeros_like(own)
        some[: len(factors)] = factors
        turns = np.int32(len(factors))
        block, _, before = passes((block, y, before), some, turns, (True, True))
        return before, block

    one = np.int32(1)
    return a._replace(
        matmat=lambda x: passes((x, y, g), own, one, (True, False))[1],
        rmatmat=lambda x: passes((g, x, g), own, one, (False, True))[0],
        filtered=several,
    )


def coarse_map(a: LinearMap, low: LinearMap) -> LinearMap:
    """The products of `low`, the same matrix in a coarser dtype, for blocks of `a`.

    Projections, Gram matrices and factorisations stay in the dtype of `a`.
    """

    # Rounding of a coarse product brings the constants back: they go in the dtype of
    # `a`.
    def matmat(g: Either) -> Either:
        return a.project_left(low.matmat(g.astype(low.dtype)).astype(a.dtype))

    def rmatmat(f: Either) -> Either:
        return a.project_right(low.rmatmat(f.astype(low.dtype)).astype(a.dtype))

    return a._replace(matmat=matmat, rmatmat=rmatmat, passes=None)


def _masked_off(unit: Float[Either, " n"], block: Either) -> Either:
    """Off a unit vector, and 0 where that is."""
    # Random blocks have entries where there is no mass.
    return _off(unit, namespace(unit).where(unit[:, None] > 0, block, 0))


def _off(unit: Float[Either, " n"], block: Either) -> Either:
    # (1, n) × (n, r) first: the (n, n) projector is never formed.
    return block - unit[:, None] * product(unit[None, :], block)
