"""The plain Euclidean layer: a truncated SVD of any matrix or linear map."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse

from contexture_jax._core.checks import (
    as_array,
    check_concrete,
    check_key,
    check_ndim,
    floating_dtype,
    is_concrete,
    on_cpu,
)
from contexture_jax._core.numerics import mm, transpose_rows
from contexture_jax._core.types import Array, Float
from contexture_jax.operators import Slots, make_slots, slots_matmat
from contexture_jax.solvers._implicit import Problem, implicit_svd
from contexture_jax.solvers._linear_map import LinearMap
from contexture_jax.solvers._plan import Method, Plan, make_plan
from contexture_jax.solvers._random import make_seed, random_block
from contexture_jax.solvers._results import SolveInfo, SVDResult
from contexture_jax.solvers._run import finish, solve
from contexture_jax.solvers._units import choose_unit, in_units, rescale

__all__ = ["truncated_svd"]


def truncated_svd(
    a: Any,
    rank: int,
    *,
    key: Array,
    method: Method = "auto",
    tol: float | None = None,
    num_oversamples: int | None = None,
    num_power_iterations: int | None = None,
    max_passes: int | None = None,
    block_size: int | None = None,
) -> tuple[SVDResult, SolveInfo]:
    """Leading singular triples of a matrix: A ≈ U diag(s) Vᴴ.

    The layer below `svd`: nothing is weighted, nothing is deflated. Real and complex
    matrices; integers and half precision are converted to a floating dtype first.
    Matrices whose squares would leave the range of the dtype are solved in units of
    their largest entry. On CPU a run of more than a few passes stores the transpose
    of an array beside it.

    Args:
        a: shape (n, m): an array, a `BCOO`, a scipy.sparse matrix, or a linear map
            (matmat, rmatmat, shape, dtype), where `matmat` takes (m, r) blocks to (n,
            r) and `rmatmat`, the conjugate transpose, takes (n, r) to (m, r). Maps that
            JAX cannot trace (NumPy code) are called back on the host. A map compiles
            once for each pair of function objects.
        rank: number of triples, 1 ≤ rank ≤ min(n, m).
        key: random key.
        method: as in `svd`.
        tol: as in `svd`, for ‖Aᴴ u_i − s_i v_i‖ ≤ tol · s_1.
        num_oversamples: as in `svd`.
        num_power_iterations: as in `svd`.
        max_passes: as in `svd`.
        block_size: as in `svd`.

    Returns:
        (result, info): `left` (n, rank) and `right` (m, rank) with orthonormal columns
        also where singular values are 0, `singular_values` descending.

    Raises:
        TypeError: if `a` is none of those, its entries are not numbers, or it is a
            traced `BCOO`.
        ValueError: if `a` is no matrix, or `rank` is out of range.

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
    arrays, functions, shape, dtype = _take_apart(a)
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
    pose = _Pose(functions, shape, dtype)
    run = functools.partial(_compiled, plan=plan.program, pose=pose)
    result, info = implicit_svd(run, pose, arrays, key)
    return result, finish(plan, info)


class _Layouts(NamedTuple):
    """A sparse matrix and its conjugate transpose."""

    forward: Slots
    backward: Slots


class _Pose(NamedTuple):
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

        elif isinstance(arrays, _Layouts):
            forward, backward = arrays

            def matmat(g: Array) -> Array:
                return slots_matmat(forward, g)

            def rmatmat(f: Array) -> Array:
                return slots_matmat(backward, f)

            squares = [(jnp.abs(w) ** 2).sum() for w in forward.entries()]
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


@functools.partial(jax.jit, static_argnames=("plan", "pose"))
def _compiled(
    arrays: Any, key: Array, *, plan: Plan, pose: _Pose
) -> tuple[SVDResult, SolveInfo]:
    problem = pose(arrays)
    if pose.functions is not None:
        probe = random_block(make_seed(key), pose.shape[1], 1, pose.dtype)
        entries = [problem.map.matmat(probe)]
    elif isinstance(arrays, _Layouts):
        entries = arrays.forward.entries()
    else:
        entries = [arrays[0] if isinstance(arrays, tuple) else arrays]
    unit, squared_norm = choose_unit(entries, problem.squared_norm)
    result, info = solve(in_units(problem.map, unit), plan, key, squared_norm)
    return rescale(result, info, unit)


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


def _take_apart(a: Any) -> tuple[Any, Any, tuple[int, int], Any]:
    """Arrays to trace, functions to keep static, shape and working dtype."""
    if isinstance(a, tuple) and len(a) == 4 and callable(a[0]):
        matmat, rmatmat, shape, dtype = a
        shape = (int(shape[0]), int(shape[1]))
        _check_shape(shape)
        dtype = floating_dtype(dtype)
        maps = (
            _traceable(matmat, (shape[1], 1), (shape[0], 1), dtype, "matmat"),
            _traceable(rmatmat, (shape[0], 1), (shape[1], 1), dtype, "rmatmat"),
        )
        (matmat, one), (rmatmat, other) = (
            _hoist(function, size, dtype)
            for function, size in zip(maps, shape[::-1], strict=True)
        )
        return (one, other), (matmat, rmatmat), shape, dtype
    if isinstance(a, sparse.BCOO):
        check_concrete(a, "a, a BCOO,")
        indices = np.asarray(a.indices)
        inside = (indices < np.asarray(a.shape)).all(axis=1)
        rows, columns = indices[inside].T
        return _sparse(rows, columns, np.asarray(a.data)[inside], a.shape)
    if hasattr(a, "tocoo"):  # scipy.sparse, without importing it
        matrix: Any = a
        coo = matrix.tocoo()
        return _sparse(coo.row, coo.col, coo.data, coo.shape)
    array = a if isinstance(a, jax.Array) else as_array(a, "a")
    if array.dtype.kind not in "biufc" and not jnp.issubdtype(array.dtype, jnp.inexact):
        msg = (
            "a must be an array of numbers, a BCOO, a scipy.sparse matrix or a tuple"
            f" (matmat, rmatmat, shape, dtype); got {type(a).__name__} of dtype"
            f" {array.dtype}"
        )
        raise TypeError(msg)
    check_ndim(array, 2, "a")
    _check_shape(array.shape)
    dtype = floating_dtype(array.dtype)
    n, m = array.shape
    return jnp.asarray(array, dtype), None, (n, m), dtype


def _hoist(function: Any, size: int, dtype: Any) -> tuple[Any, tuple[Any, ...]]:
    """The function with the traced values that it closes over as further arguments.

    Without any it stays the same object, which has its compiled program already.
    """
    column, values = jax.closure_convert(
        lambda g: function(g[:, None])[:, 0], jax.ShapeDtypeStruct((size,), dtype)
    )
    if not values:
        return function, ()

    def hoisted(block: Array, *values: Any) -> Array:
        return jax.vmap(lambda g: column(g, *values), in_axes=1, out_axes=1)(block)

    return hoisted, tuple(values)


def _sparse(
    rows: Any, columns: Any, data: Any, shape: tuple[int, ...]
) -> tuple[_Layouts, None, tuple[int, int], Any]:
    _check_shape(shape)
    n, m = int(shape[0]), int(shape[1])
    dtype = floating_dtype(np.asarray(data).dtype)
    flat = np.asarray(rows).astype(np.int64) * m + np.asarray(columns)
    unique, inverse = np.unique(flat, return_inverse=True)
    entries = np.zeros(len(unique), dtype)
    np.add.at(entries, inverse, np.asarray(data).astype(dtype))
    row, column = unique // m, unique % m
    order = np.argsort(column, kind="stable")
    forward = make_slots(row, column, entries, n)
    backward = make_slots(column[order], row[order], entries[order].conj(), m)
    return _Layouts(forward, backward), None, (n, m), dtype


def _check_shape(shape: Any) -> None:
    if len(shape) != 2 or min(shape) < 1:
        msg = f"a must be a matrix that is not empty; got shape {tuple(shape)}"
        raise ValueError(msg)


@functools.lru_cache(maxsize=64)
def _traceable(
    function: Any, take: tuple[int, int], give: tuple[int, int], dtype: Any, name: str
) -> Any:
    """The function if JAX can trace it, else one that calls it on the host.

    Cached, so that the same function object is the same static argument of the compiled
    solver.
    """
    block = jax.ShapeDtypeStruct(take, dtype)
    try:
        out = jax.eval_shape(function, block)
    except jax.errors.JAXTypeError:
        out = jax.eval_shape(lambda: jnp.asarray(function(np.zeros(take, dtype))))
        traced = False
    else:
        traced = True
    if out.shape != give:
        msg = f"{name} must take {take} blocks to {give}; got shape {out.shape}"
        raise ValueError(msg)
    if traced:
        return lambda g: jnp.asarray(function(g), dtype)

    def on_host(g: Array) -> Array:
        result = jax.ShapeDtypeStruct((give[0], g.shape[1]), dtype)
        return jax.pure_callback(
            lambda block: np.asarray(function(np.asarray(block)), dtype), result, g
        )

    return on_host
