"""Functions of arrays of NumPy, of JAX and of tracers alike.

What is small beside the products with an operator is done by NumPy where it can read
the arrays for nothing: on a CPU a program for it takes longer to compile than to run a
thousand times.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from contexture_jax._core.factorizations import thin_svd
from contexture_jax._core.numerics import mm, safe_divide

__all__ = [
    "LITTLE",
    "Either",
    "adjoint_product",
    "as_devices",
    "at_hand",
    "compiled_unless_numpy",
    "core_svd",
    "fold",
    "inverse_factor",
    "is_plain",
    "is_positive_definite",
    "leading_by_gram",
    "little_at_hand",
    "mapped",
    "namespace",
    "product",
    "quotient",
    "scanned",
    "squared_lengths",
    "written",
]

Either: TypeAlias = Any  # an array of JAX or of NumPy

LITTLE = 2**19  # entries that one core multiplies as soon as several can begin to
_LITTLE_WORK = 2**24  # multiplications of larger ones, likewise
_SOONER = 2**21  # entries that NumPy is done with before a program of loops is compiled

_P = ParamSpec("_P")
_T = TypeVar("_T")

# What is certainly of the host; other types are looked into.
_PLAIN = frozenset(
    {np.ndarray, np.float32, np.float64, np.int32, np.uint32, np.bool_}
    | {type(None), bool, int, float}
)


def is_plain(*values: Any) -> bool:
    """Whether all are numbers and arrays of the host by their types alone."""
    # Between two products of a small matrix a look into trees takes as long as work.
    return _PLAIN.issuperset(map(type, values))


def namespace(x: Either) -> Any:
    """The module with the functions of an array."""
    return np if isinstance(x, (np.ndarray, np.generic)) else jnp


def at_hand(tree: Any) -> Any:
    """Arrays as NumPy's, without a copy, if all lie on the one CPU of this process."""
    if is_plain(tree):
        return tree
    leaves = jax.tree.leaves(tree)
    if all(map(_is_at_hand, leaves)):
        return jax.tree.map(np.asarray, tree)
    return tree


def little_at_hand(tree: Any) -> Any:
    """As `at_hand`, of arrays that NumPy is done with before a program is compiled."""
    if any(np.size(x) > _SOONER for x in jax.tree.leaves(tree)):
        return tree
    return at_hand(tree)


def as_devices(tree: Any) -> Any:
    """Arrays of NumPy as JAX's, without a program; those of JAX stay as they are."""
    return jax.tree.map(
        lambda x: x if isinstance(x, jax.Array) else jnp.asarray(x), tree
    )


def _is_at_hand(x: Any) -> bool:
    if isinstance(x, Tracer):
        return False
    if not isinstance(x, jax.Array):
        return isinstance(x, (np.ndarray, np.generic))
    # On one CPU `np.asarray` is a view of the same memory.
    devices = x.devices()
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"


def compiled_unless_numpy(
    function: Callable[_P, _T], **options: Any
) -> Callable[_P, _T]:
    """Let a function of arrays be a program of its own, but for arrays of NumPy.

    Args:
        function: of either.
        options: of `jax.jit`.
    """
    program = jax.jit(function, **options)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        # One array of JAX is enough for a program: NumPy would bring it to the host.
        if not is_plain(*args, *kwargs.values()) and any(
            isinstance(x, jax.Array) for x in jax.tree.leaves((args, kwargs))
        ):
            return program(*args, **kwargs)
        # As JAX, which says nothing of 0 / 0: a status or a bound tells of it.
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return call


def product(a: Either, b: Either) -> Either:
    """The matrix product, at full precision of the dtype."""
    if namespace(a) is not np or namespace(b) is not np:
        # With JAX's compilation off, arrays of both kinds meet.
        return mm(jnp.asarray(a), jnp.asarray(b))
    if not _is_little(a, b) or a.dtype != b.dtype or a.dtype.char not in "fdFD":
        return np.matmul(a, b)
    # By the library that `single_threaded_lapack` holds: threads of NumPy's spin on
    # after a product. In the order of Fortran it is (bᵀ aᵀ)ᵀ.
    (one, flip), (other, turn) = (
        (x.T, False) if x.flags.c_contiguous else (x, True) for x in (b, a)
    )
    gemm = _of_scipy("gemm", a.dtype.char)
    return gemm(1.0, one, other, trans_a=flip, trans_b=turn).T


def _is_little(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether one core multiplies two matrices as soon as several can begin to."""
    is_little = max(a.size, b.size) <= LITTLE
    # A single vector is read faster than as a block of one.
    if min(a.shape[0], b.shape[1]) > 1:
        is_little |= a.size * b.shape[1] <= _LITTLE_WORK
    return is_little


def adjoint_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Aᴴ B, without a copy of A."""
    if _is_little(a.T, b):
        return product(a.T, b.conj()).conj()
    # A as the factor that stands second is read faster.
    return np.ascontiguousarray(np.matmul(b.conj().T, a).T).conj()


def quotient(a: Either, b: Either) -> Either:
    """The quotient a / b, and 0 where b is 0."""
    if namespace(a) is not np or namespace(b) is not np:
        return safe_divide(a, b)
    return a * np.where(b != 0, 1 / np.where(b != 0, b, 1), 0)


def squared_lengths(x: Either) -> Either:
    """The squared lengths of the columns of a matrix."""
    if namespace(x) is not np:
        return (abs(x) ** 2).sum(axis=0)
    # Without a copy.
    return np.einsum("ij,ij->j", x, x.conj()).real


@functools.cache
def _of_scipy(name: str, kind: str) -> Callable[..., Any]:
    """A routine of BLAS or LAPACK, as SciPy brings it."""
    # Here: JAX itself imports it for a factorisation and no sooner.
    from scipy import linalg

    find = linalg.get_blas_funcs if name == "gemm" else linalg.get_lapack_funcs
    return find((name,), dtype=np.dtype(kind))[0]


def core_svd(a: Either) -> tuple[Either, Either, Either]:
    """U, s and V of a small square A = U diag(s) Vᴴ; NaN of what is not finite."""
    if namespace(a) is not np:
        return _core_svd(a)
    # What is not finite LAPACK may look at for ever.
    is_finite = np.isfinite(a).all()
    u, s, vh, failed = _of_scipy("gesdd", a.dtype.char)(a if is_finite else 0 * a)
    nothing = np.nan if failed or not is_finite else 0
    return u + nothing, s + nothing, vh.conj().T + nothing


def leading_by_gram(
    a: Either, num: int, *, least: float = 1e-4
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Leading U, s and V of a single-precision matrix of NumPy, sooner than `core_svd`.

    By eigenvectors of the smaller Gram matrix in double precision: its rounding moves
    s_i by 1e-16 s_1² / s_i, which is less than that of the entries where s_i > 1e-8
    s_1. The vectors of the larger side are orthonormal to about 1e-16 (s_1 / s_i)².

    Args:
        a: A, of any other kind or dtype too.
        num: how many triples, at most min(n, m).
        least: of s_num / s_1.

    Returns:
        The three, shapes (n, num), (num,) and (m, num), with zeros for vectors of the
        larger side where a value is 0; None of other kinds, where s_num is smaller, and
        of what is not finite.
    """
    if not isinstance(a, np.ndarray) or a.dtype.char not in "fF":
        return None
    kind, name = ("d", "sy") if a.dtype.char == "f" else ("D", "he")
    is_tall = a.shape[0] > a.shape[1]
    wide = np.asarray(a.conj().T if is_tall else a, np.dtype(kind))
    gram = product(wide, wide.conj().T)
    if not np.isfinite(gram).all():
        return None
    size = len(gram)
    # Bisection for a few of the vectors, or all of them by halves.
    if 8 * num < size:
        squares, u, _, _, failed = _of_scipy(f"{name}evr", kind)(
            gram.T.conj(), range="I", il=size - num + 1, iu=size, overwrite_a=1
        )
        squares = squares[:num]
    else:
        squares, u, failed = _of_scipy(f"{name}evd", kind)(gram.T.conj(), overwrite_a=1)
    # From the largest on.
    squares, u = np.maximum(squares[: -num - 1 : -1], 0.0), u[:, : -num - 1 : -1]
    u = np.asfortranarray(u)
    # Of zeros no vectors on the other side come of a product.
    too_small = squares[-1] < least**2 * squares[0] or (least > 0 and squares[0] == 0)
    if failed or too_small:
        return None
    s = np.sqrt(squares)
    v = product(wide.conj().T, u) / np.where(s > 0, s, 1.0)
    u, s, v = u.astype(a.dtype), s.astype(a.real.dtype), v.astype(a.dtype)
    return (v, s, u) if is_tall else (u, s, v)


@jax.jit
def _core_svd(a: Any) -> tuple[Any, Any, Any]:
    u, s, vh = thin_svd(a)
    return u, s, vh.conj().T


@compiled_unless_numpy
def inverse_factor(a: Either) -> tuple[Either, Either]:
    """L⁻¹ and the diagonal of L, of which a small positive matrix is L Lᴴ, else NaN."""
    if namespace(a) is np:
        factor, failed = _of_scipy("potrf", a.dtype.char)(a, lower=True)
        factor = factor + np.nan if failed else factor
        return _of_scipy("trtri", a.dtype.char)(factor, lower=True)[
            0
        ], factor.diagonal().real
    # The lower triangle is read alone: symmetric to rounding is enough.
    factor = jax.lax.linalg.cholesky(a, symmetrize_input=False)
    eye = jnp.eye(len(a), dtype=a.dtype)
    inverse = jax.lax.linalg.triangular_solve(factor, eye, left_side=True, lower=True)
    return inverse, jnp.diagonal(factor).real


def is_positive_definite(a: np.ndarray) -> bool:
    """Whether a symmetric matrix of NumPy has a Cholesky factor.

    NumPy's own takes four times as long for 5,000 rows: it turns what it takes and what
    it gives.
    """
    _, failed = _of_scipy("potrf", a.dtype.char)(a.T, lower=True, clean=False)
    return failed == 0


def written(
    into: Either, new: Either, row: Any, column: Any, *, in_place: bool = False
) -> Either:
    """A matrix with a block from a row and a column on, in place where NumPy may.

    NumPy's has its columns in order, so that the first few of them are an array.
    """
    if namespace(into) is not np:
        return jax.lax.dynamic_update_slice(into, new, (row, column))
    if not any(into.strides):
        # One zero for all: of memory that is taken when it is written to.
        into = np.zeros(into.shape, into.dtype, order="F")
    elif not (in_place and into.flags.writeable):
        into = np.array(into, order="F")
    into[row : row + new.shape[0], column : column + new.shape[1]] = new
    return into


def mapped(function: Callable[[Any], Any], rows: Any) -> Any:
    """`function` of each row of an array, or of a tree of them, stacked."""
    leaves = jax.tree.leaves(rows)
    if any(namespace(x) is jnp for x in leaves):
        return jax.lax.map(function, rows)
    structure = jax.tree.structure(rows)
    found = [
        function(jax.tree.unflatten(structure, row))
        for row in zip(*leaves, strict=True)
    ]
    return jax.tree.map(lambda *parts: np.stack(parts), *found)


def scanned(
    step: Callable[[tuple, tuple], tuple[tuple, tuple]],
    carry: tuple,
    columns: tuple[Either, ...],
) -> tuple:
    """What a step gives for each row of some columns, beside its carry, stacked."""
    if namespace(columns[0]) is jnp:
        return jax.lax.scan(step, carry, columns)[1]
    found = []
    for row in zip(*columns, strict=True):
        carry, one = step(carry, row)
        found.append(one)
    return tuple(np.stack(parts) for parts in zip(*found, strict=True))


def fold(
    step: Callable[[tuple, tuple], tuple], carry: tuple, columns: tuple[Either, ...]
) -> tuple:
    """The carry after a step for each row of some columns."""
    # The step is compiled once, and not once a row.
    if namespace(columns[0]) is jnp:
        return jax.lax.scan(lambda now, x: (step(now, x), None), carry, columns)[0]
    for row in zip(*columns, strict=True):
        carry = step(carry, row)
    return carry
