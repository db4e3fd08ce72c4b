"""The plain Euclidean layer: a truncated SVD of any matrix or linear map."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_key, is_concrete, is_traced, on_cpu
from contexture_jax._core.either import (
    Either,
    adjoint_product,
    at_hand,
    compiled_unless_numpy,
    product,
)
from contexture_jax._core.fingerprint import fingerprint
from contexture_jax._core.meshes import beside_context
from contexture_jax._core.numerics import mm, transpose_rows
from contexture_jax._core.threads import held_lapack
from contexture_jax._core.types import Array, Float
from contexture_jax.kernels import Slots, slots_cost, slots_matmat
from contexture_jax.solvers._implicit import Problem, implicit_svd
from contexture_jax.solvers._linear_map import LinearMap
from contexture_jax.solvers._maps import Products
from contexture_jax.solvers._matrix import Layouts, take_apart
from contexture_jax.solvers._pieces import new_seed, random_columns
from contexture_jax.solvers._plan import Method, Plan, make_plan
from contexture_jax.solvers._results import SolveInfo, SVDResult
from contexture_jax.solvers._run import Begun, Task, finish, solve
from contexture_jax.solvers._scaling import (
    choose_scale,
    in_range,
    scaled_map,
    unscaled,
)
from contexture_jax.solvers._state import (
    OnStep,
    SolveState,
    begun_of,
    check_untraced,
    observed,
)
from contexture_jax.solvers._steps import in_trace, read
from contexture_jax.solvers._work import Work

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
    on_step: OnStep | None = None,
    state: SolveState | None = None,
) -> tuple[SVDResult, SolveInfo]:
    """Leading singular triples of a matrix: A ≈ U diag(s) Vᴴ.

    The layer below `svd`: nothing is weighted, nothing is deflated. Real and complex
    matrices; integers and half precision are converted to a floating dtype first.
    Matrices whose squares would leave the range of the dtype are scaled by their
    largest entry. Outside of a trace NumPy multiplies with an array on one CPU, by as
    many threads as its BLAS has. Of one over several CPU devices a run of more than a
    few passes stores the transpose beside it.

    Args:
        a: shape (n, m): an array or what becomes one, a sparse matrix or array of
            `jax.experimental.sparse` or `scipy.sparse` in any format, or a linear map:
            a tuple (matmat, rmatmat, shape, dtype), where `matmat` takes (m, r) blocks
            to (n, r) and `rmatmat`, the conjugate transpose, takes (n, r) to (m, r); or
            an object with `shape`, `dtype` and those two, `matvec` and `rmatvec`, or
            `@` and an adjoint (`H`, `adjoint` or `T`), such as SciPy's
            `LinearOperator`. Maps that JAX cannot trace (NumPy code, entries on disk)
            are called with arrays of NumPy; inside a trace, from the host. A map that
            it can compiles once for each pair of function objects or each object, which
            are taken to stay as they are; its programs go when they do.
        rank: number of triples, 1 ≤ rank ≤ min(n, m).
        key: random key.
        method: as in `svd`.
        tol: as in `svd`, for ‖Aᴴ u_i − s_i v_i‖ ≤ tol · s_1.
        max_passes: as in `svd`.
        num_oversamples: as in `svd`.
        num_power_iterations: as in `svd`.
        block_size: as in `svd`.
        on_step: as in `svd`.
        state: as in `svd`.

    Returns:
        (result, info): `left` (n, rank) and `right` (m, rank) with orthonormal columns
        also where singular values are 0, `singular_values` descending.

    Raises:
        TypeError: if `a` is none of those, its entries are not numbers, or it is a
            traced sparse matrix or an operator between weighted spaces, which `svd`
            takes; if `on_step` or `state` is given inside a trace.
        ValueError: if `a` is no matrix, a map gives another shape than it says, `rank`
            is out of range, or `state` is that of another solve.

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
    # A trace keeps nothing: what it makes of a map must not outlive it.
    arrays, products, shape, dtype = take_apart(a, kept=not is_traced(key))
    traced = in_trace(arrays, key)
    near = not traced and _near(arrays) is not None
    plan = make_plan(
        shape,
        dtype,
        rank,
        # Nothing is deflated: all of them exist.
        min(shape),
        method=method,
        tol=tol,
        max_passes=max_passes,
        num_oversamples=num_oversamples,
        num_power_iterations=num_power_iterations,
        block_size=block_size,
        work=_work(arrays, dtype),
        traced=traced,
        near=near,
    )
    if not near and _wants_transpose(arrays, plan):
        # Gradients go through the first alone, by `pairing`.
        arrays = (arrays, transpose_rows(arrays))
    functions = None if products is None else products.functions
    # Hashable: programs and the pull-back are kept by its functions and sizes.
    make_problem = _MatrixProblem(functions, shape, dtype)

    def run(arrays: Any, key: Array) -> tuple[SVDResult, SolveInfo]:
        if in_trace(arrays, key):
            check_untraced(on_step, state)
            return _program(products, plan.program, make_problem)(arrays, key)
        # A mark takes a look at all entries, and is for states alone. A map shows none.
        mark = None
        if products is None and (on_step is not None or state is not None):
            mark = fingerprint(arrays)
        name = np.dtype(dtype).name
        empty = SolveState(None, 0, 0, mark, plan.program, shape, name)
        return _solve(
            arrays,
            key,
            plan=plan.program,
            make_problem=make_problem,
            begun=begun_of(state, empty, arrays),
            # Not yet a callback: the scale of values is found within.
            observe=functools.partial(observed, on_step, empty),
        )

    result, info = implicit_svd(run, make_problem, arrays, key, kept=products is None)
    return result, finish(plan, info)


class _MatrixProblem(NamedTuple):
    """From the traced arrays to the matrix; what is static about it."""

    functions: Any
    shape: tuple[int, int]
    dtype: Any

    def __call__(self, arrays: Any) -> Problem:
        # Of a map it is estimated from probes (theory.md §6.7).
        squared_norm = None
        if self.functions is not None:
            forward_fn, backward_fn = self.functions
            forward_values, backward_values = arrays

            def matmat(g: Any) -> Array:
                return forward_fn(g, *forward_values)

            def rmatmat(f: Any) -> Array:
                return backward_fn(f, *backward_values)

        else:
            # `Layouts` is a pair, too: a way forward and a way back.
            forward, backward = arrays if isinstance(arrays, tuple) else (arrays, None)
            squared_norm = _square_sum(at_hand(self.entries(arrays)))

            def matmat(g: Any) -> Array:
                return _times(forward, g)

            def rmatmat(f: Any) -> Array:
                if backward is None:
                    return _times(forward, f, adjoint=True)
                return _times(backward, f)

        def pairing(result: SVDResult, c: Float[Array, " rank"]) -> Float[Array, ""]:
            """Σ_i c_i Re⟨u_i, A v_i⟩."""
            # (n, r): one product for all values (theory.md §6.10).
            image = matmat(result.right * c[None, :])
            return jnp.sum((result.left.conj() * image).real)

        # No units and no scale: rounding is measured by s_1 itself.
        linear_map = LinearMap(matmat, rmatmat, self.shape, self.dtype)
        return Problem(linear_map, squared_norm, pairing)

    def entries(self, arrays: Any) -> list[Array]:
        """The stored entries."""
        # The layout of the way back holds the same numbers.
        if isinstance(arrays, Layouts):
            return [arrays.forward.weights]
        return [arrays[0] if isinstance(arrays, tuple) else arrays]


def _near(arrays: Any) -> np.ndarray | None:
    """The entries of a matrix as an array of NumPy, if they are at hand as one."""
    # Maps and sparse matrices are more than an array, or less.
    matrix = at_hand(arrays)
    return matrix if isinstance(matrix, np.ndarray) else None


def _multiplied_near(a: LinearMap, matrix: np.ndarray) -> LinearMap:
    """The map of a matrix by NumPy's products.

    They need no transpose and, between narrow blocks, no longer than XLA's with one.
    """
    # A status tells of what is not finite.
    quiet = np.errstate(all="ignore")
    return a._replace(
        matmat=quiet(lambda g: product(matrix, at_hand(g))),
        rmatmat=quiet(lambda f: adjoint_product(matrix, at_hand(f))),
        entries=matrix,
    )


@functools.partial(jax.jit, static_argnames="adjoint")
def _times(a: Any, block: Array, *, adjoint: bool = False) -> Array:
    """A stored matrix, or its conjugate transpose, times a block."""
    if isinstance(a, Slots):
        return slots_matmat(a, block)
    # A view within the program; `transpose_rows` is for who multiplies often.
    return mm(a.conj().T if adjoint else a, block)


@compiled_unless_numpy
def _square_sum(entries: list[Either]) -> Float[Either, ""]:
    # Before anything is scaled: infinite or 0 where squares leave the range.
    if not any(isinstance(x, np.ndarray) for x in entries):
        return jnp.asarray(sum((jnp.abs(x) ** 2).sum() for x in entries))
    # Of parts, whose sums in float64 do not round.
    parts = (y for x in entries for y in np.array_split(x.ravel(), 1 + x.size // 2**18))
    real = np.zeros((), entries[0].dtype).real.dtype
    return np.asarray(sum(float(np.vdot(y, y).real) for y in parts), real)[()]


def _solve(
    arrays: Any,
    key: Array,
    *,
    plan: Plan,
    make_problem: _MatrixProblem,
    begun: Begun | None = None,
    observe: Callable[[float], Any] | None = None,
) -> tuple[SVDResult, SolveInfo]:
    """`observe` is given by whom there are values for, and makes `on_pass`."""
    problem, traced = make_problem(arrays), observe is None
    scale, squared_norm = _scale(problem, make_problem, arrays, key, traced=traced)
    on_pass = None if observe is None else observe(1.0 if scale is None else scale)
    a = problem.map if scale is None else scaled_map(problem.map, scale)
    is_plain = plan.method != "nystrom" and not traced and scale is None
    near = _near(arrays) if is_plain else None
    a = a if near is None else _multiplied_near(a, near)
    beside = next(iter(jax.tree.leaves(arrays)), None)
    task = Task(a, squared_norm, beside=beside, multiplies_near=near is not None)
    result, info = solve(task, plan, key, traced=traced, begun=begun, on_pass=on_pass)
    return (result, info) if scale is None else unscaled(result, info, scale)


def _scale(
    problem: Problem,
    make_problem: _MatrixProblem,
    arrays: Any,
    key: Array,
    *,
    traced: bool,
) -> tuple[Any, Float[Either, ""] | None]:
    """`choose_scale`; None for a scale of 1 where there are values that say so."""
    squared_norm = problem.squared_norm
    if squared_norm is None:
        # A column of its image stands for entries that nobody can read.
        m, dtype = make_problem.shape[1], make_problem.dtype
        probe = random_columns(new_seed(key), None, size=m, width=1, dtype=dtype)
        entries = [problem.map.matmat(probe)]
    else:
        entries = make_problem.entries(arrays)
        # Nearly always: then no entry is looked at, and no program made for it.
        if not traced and in_range(read(squared_norm)[0]):
            return None, squared_norm
    scale, squared_norm = _chosen(entries, squared_norm)
    if traced:
        return scale, squared_norm
    (number,) = read(scale)
    with np.errstate(all="ignore"):
        # A scale near 1 would be two products with a number for nothing.
        return (None if in_range(number * number) else scale), squared_norm


_chosen = jax.jit(choose_scale)
_compiled = jax.jit(_solve, static_argnames=("plan", "make_problem"))


def _program(
    products: Products | None, plan: Plan, make_problem: _MatrixProblem
) -> Callable[[Any, Array], tuple[SVDResult, SolveInfo]]:
    """The compiled solve: one for all arrays of a shape, or one of its own for a map.

    What a program was compiled of lives as long as it does.
    """
    if products is None:
        return functools.partial(_compiled, plan=plan, make_problem=make_problem)
    # Not `_compiled`, whose cache would hold the functions of the caller for ever.
    program = jax.jit(functools.partial(_solve, plan=plan, make_problem=make_problem))
    if products.programs is None:
        return program
    # By plan: another rank or tolerance is another program.
    return products.programs.setdefault(plan, program)


def _work(arrays: Any, dtype: Any) -> Work | None:
    """What a product with a sparse matrix takes; None for any other."""
    if not isinstance(arrays, Layouts):
        return None
    itemsize = np.dtype(dtype).itemsize
    # By slots, padding included: those are read as well.
    flops, _, _ = slots_cost(arrays.forward, 1, itemsize)
    return Work.sparse(flops // 2, itemsize)


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
