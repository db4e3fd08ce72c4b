"""The plain Euclidean layer: a truncated SVD of any matrix or linear map."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import check_key, is_concrete, is_traced, on_cpu
from contexture_jax._core.meshes import beside_context
from contexture_jax._core.numerics import mm, transpose_rows
from contexture_jax._core.threads import held_lapack
from contexture_jax._core.types import Array, Float
from contexture_jax.kernels import slots_matmat
from contexture_jax.solvers._implicit import Problem, implicit_svd
from contexture_jax.solvers._linear_map import LinearMap
from contexture_jax.solvers._maps import Products
from contexture_jax.solvers._matrix import Layouts, take_apart
from contexture_jax.solvers._plan import Method, Plan, make_plan
from contexture_jax.solvers._random import make_seed, random_block
from contexture_jax.solvers._results import SolveInfo, SVDResult
from contexture_jax.solvers._run import finish, solve
from contexture_jax.solvers._scaling import choose_scale, scaled_map, unscaled

__all__ = ["truncated_svd"]


@beside_context
@held_lapack
def truncated_svd(
    a: Any,
    rank: int,
    *,
    key: Array,
    method: Method = "auto",
    tol: float | None = None,
    max_passes: int | None = None,
    num_oversamples: int | None = None,
    num_power_iterations: int | None = None,
    block_size: int | None = None,
) -> tuple[SVDResult, SolveInfo]:
    """Leading singular triples of a matrix: A ≈ U diag(s) Vᴴ.

    The layer below `svd`: nothing is weighted, nothing is deflated. Real and complex
    matrices; integers and half precision are converted to a floating dtype first.
    Matrices whose squares would leave the range of the dtype are scaled by
    their largest entry. On CPU a run of more than a few passes stores the transpose
    of an array beside it.

    Args:
        a: shape (n, m): an array or what becomes one, a sparse matrix or array of
            `jax.experimental.sparse` or `scipy.sparse` in any format, or a linear map:
            a tuple (matmat, rmatmat, shape, dtype), where `matmat` takes (m, r) blocks
            to (n, r) and `rmatmat`, the conjugate transpose, takes (n, r) to (m, r); or
            an object with `shape`, `dtype` and those two, `matvec` and `rmatvec`, or
            `@` and an adjoint (`H`, `adjoint` or `T`), such as SciPy's
            `LinearOperator`. Maps that JAX cannot trace (NumPy code) are called back on
            the host. A map compiles once for each pair of function objects or each
            object, which are taken to stay as they are; its programs go when they do.
        rank: number of triples, 1 ≤ rank ≤ min(n, m).
        key: random key.
        method: as in `svd`.
        tol: as in `svd`, for ‖Aᴴ u_i − s_i v_i‖ ≤ tol · s_1.
        max_passes: as in `svd`.
        num_oversamples: as in `svd`.
        num_power_iterations: as in `svd`.
        block_size: as in `svd`.

    Returns:
        (result, info): `left` (n, rank) and `right` (m, rank) with orthonormal columns
        also where singular values are 0, `singular_values` descending.

    Raises:
        TypeError: if `a` is none of those, its entries are not numbers, or it is a
            traced sparse matrix or an operator between weighted spaces, which `svd`
            takes.
        ValueError: if `a` is no matrix, a map gives another shape than it says, or
            `rank` is out of range.

    Gradients as in `svd`: with respect to an array, or to traced values that the
    `matmat` of a linear map closes over (it then compiles at each call); `rmatmat` must
    be its conjugate transpose.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import contexture_jax as cx
        >>> a = jnp.outer(jnp.arange(4.0), jnp.ones(3))
        >>> result, info = cx.solvers.truncated_svd(a, 1, key=jax.random.key(0))
        >>> s = result.singular_values
        >>> bool(jnp.allclose(result.left * s @ result.right.T, a, atol=1e-5))
        True
    """
    check_key(key)
    arrays, products, shape, dtype = take_apart(a, kept=not is_traced(key))
    plan = make_plan(
        shape,
        dtype,
        rank,
        min(shape),
        method=method,
        tol=tol,
        max_passes=max_passes,
        num_oversamples=num_oversamples,
        num_power_iterations=num_power_iterations,
        block_size=block_size,
    )
    if _wants_transpose(arrays, plan):
        arrays = (arrays, transpose_rows(arrays))
    functions = None if products is None else products.functions
    make_problem = _MatrixProblem(functions, shape, dtype)
    run = _program(products, plan.program, make_problem)
    result, info = implicit_svd(run, make_problem, arrays, key, kept=products is None)
    if products is not None and products.on_host and is_concrete(result):
        # The host is called while the map is sure to live.
        jax.block_until_ready(result)
    return result, finish(plan, info)


class _MatrixProblem(NamedTuple):
    """From the traced arrays to the matrix; what is static about it."""

    functions: Any
    shape: tuple[int, int]
    dtype: Any

    def __call__(self, arrays: Any) -> Problem:
        squared_norm = None
        if self.functions is not None:
            forward_fn, backward_fn = self.functions
            forward_values, backward_values = arrays

            def matmat(g: Array) -> Array:
                return forward_fn(g, *forward_values)

            def rmatmat(f: Array) -> Array:
                return backward_fn(f, *backward_values)

        elif isinstance(arrays, Layouts):
            forward, backward = arrays

            def matmat(g: Array) -> Array:
                return slots_matmat(forward, g)

            def rmatmat(f: Array) -> Array:
                return slots_matmat(backward, f)

            squares = [(jnp.abs(w) ** 2).sum() for w in _entries(arrays, self.dtype)]
            squared_norm = jnp.asarray(sum(squares))
        else:
            array, adjoint = arrays if isinstance(arrays, tuple) else (arrays, None)

            def matmat(g: Array) -> Array:
                return mm(array, g)

            def rmatmat(f: Array) -> Array:
                return mm(array.conj().T if adjoint is None else adjoint, f)

            squared_norm = (jnp.abs(array) ** 2).sum()

        def pairing(result: SVDResult, c: Float[Array, " rank"]) -> Float[Array, ""]:
            """Σ_i c_i Re⟨u_i, A v_i⟩."""
            image = matmat(result.right * c[None, :])
            return jnp.sum((result.left.conj() * image).real)

        linear_map = LinearMap(matmat, rmatmat, self.shape, self.dtype)
        return Problem(linear_map, squared_norm, pairing)


def _solve(
    arrays: Any, key: Array, *, plan: Plan, make_problem: _MatrixProblem
) -> tuple[SVDResult, SolveInfo]:
    problem = make_problem(arrays)
    if make_problem.functions is not None:
        probe = random_block(
            make_seed(key), make_problem.shape[1], 1, make_problem.dtype
        )
        entries = [problem.map.matmat(probe)]
    elif isinstance(arrays, Layouts):
        entries = _entries(arrays, make_problem.dtype)
    else:
        entries = [arrays[0] if isinstance(arrays, tuple) else arrays]
    scale, squared_norm = choose_scale(entries, problem.squared_norm)
    result, info = solve(scaled_map(problem.map, scale), plan, key, squared_norm)
    return unscaled(result, info, scale)


_compiled = jax.jit(_solve, static_argnames=("plan", "make_problem"))


def _program(
    products: Products | None, plan: Plan, make_problem: _MatrixProblem
) -> Callable[[Any, Array], tuple[SVDResult, SolveInfo]]:
    """The compiled solve: one for all arrays of a shape, or one of its own for a map.

    What a program was compiled of lives as long as it does.
    """
    if products is None:
        return functools.partial(_compiled, plan=plan, make_problem=make_problem)
    program = jax.jit(functools.partial(_solve, plan=plan, make_problem=make_problem))
    if products.programs is None:
        return program
    return products.programs.setdefault(plan, program)


def _entries(layouts: Layouts, dtype: Any) -> list[Array]:
    """The stored entries; of a matrix without any a zero."""
    return layouts.forward.entries() or [jnp.zeros((), dtype)]


def _wants_transpose(arrays: Any, plan: Plan) -> bool:
    """Whether to store Aᴴ row by row for the passes.

    Under a transformation there is nothing to store yet.
    """
    return (
        plan.stores_transpose
        and isinstance(arrays, jax.Array)
        and is_concrete(arrays)
        and on_cpu(arrays)
    )
