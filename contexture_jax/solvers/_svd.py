"""The front door: the singular functions of an operator, in weighted L²."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from contexture_jax._core.agreement import agree_on_tree
from contexture_jax._core.checks import check_key, gathered, is_traced
from contexture_jax._core.either import at_hand
from contexture_jax._core.meshes import beside_context, tree_on_auto_axes
from contexture_jax._core.numerics import mm
from contexture_jax._core.threads import held_lapack, single_threaded_numpy
from contexture_jax._core.types import Array, Float
from contexture_jax.operators import (
    AssociationOperator,
    NearProducts,
    check_operator,
    is_streamed,
    mesh_of,
    near_products,
)
from contexture_jax.solvers._implicit import Problem, implicit_svd
from contexture_jax.solvers._linear_map import (
    coarse_map,
    scipy_map,
    symmetrised_map,
    unmarked,
)
from contexture_jax.solvers._pieces import squared_norm
from contexture_jax.solvers._plan import Method, Plan, make_plan
from contexture_jax.solvers._results import SolveInfo, SVDResult
from contexture_jax.solvers._run import Task, finish, solve
from contexture_jax.solvers._state import (
    OnStep,
    SolveState,
    begun_of,
    check_untraced,
    observed,
)
from contexture_jax.solvers._steps import in_trace
from contexture_jax.solvers._work import Work, work_of

__all__ = ["block_width", "lower", "svd"]

# That one core multiplies about as soon as several with a program, to be compiled.
_NEAR_ENTRIES = 2**20


@beside_context
@held_lapack
def svd(
    op: AssociationOperator,
    rank: int,
    *,
    key: Array,
    method: Method = "auto",
    tol: float | None = None,
    max_passes: int | None = None,
    num_oversamples: int | None = None,
    num_power_iterations: int | None = None,
    block_size: int | None = None,
    range_dtype: Any = None,
    on_step: OnStep | None = None,
    state: SolveState | None = None,
) -> tuple[SVDResult, SolveInfo]:
    """The contexture: leading singular functions, T ν_i = s_i μ_i, T* μ_i = s_i ν_i.

    By Theorems 6 to 12 of Zhai et al. 2025 (CTX) the span of μ_1, …, μ_d is what a
    d-dimensional encoder learns from the context (theory.md §1). The trivial triple
    (s_0 = 1, constants) is deflated exactly and not part of the result. Outside a trace
    Python drives small programs, which compile once for each structure of operators and
    width of blocks, whatever the method, and where bases are small and on CPU products
    alone (NumPy and SciPy do the rest); inside one, and over several devices unless
    `on_step` or `state` is given, a loop of one program runs all passes.

    Args:
        op: T, as from `association_operator`, shape (n, m).
        rank: number of triples; at most min(n, m) − 1, rows and columns of zero mass
            not counted.
        key: random key, for the randomized methods and for functions of singular value
            0.
        method: "exact" (dense SVD), "randomized" (subspace iteration, accelerated by
            Chebyshev polynomials), "krylov" (block Krylov, restarted), "nystrom" (one
            pass: exact for ranks below its block, rough for spectra that decay slowly,
            where it does not reach `tol` and says "max passes"), or "auto": what is
            estimated to be the fastest of the first three, from shape, rank, `tol` and
            `op.cost` (theory.md §6.6): exact where the operator is small or much of its
            spectrum is asked for, krylov in narrow blocks where products are dear
            and, with one basis that grows (theory.md §6.4), of large sparse storages,
            randomized elsewhere, over several devices and in a trace. On one CPU SciPy
            multiplies with up to 2²⁰ entries of sparse tables and neighbours then, and
            no pass is compiled. `info.method` and `info.reason` say what ran and why.
        tol: stop when every ‖T* μ_i − s_i ν_i‖ ≤ tol · s_1; None: 1e-10 in float64 and
            100 eps in float32. What is below 10 eps, or no longer falls for rounding,
            counts as reached (theory.md §6.1).
        max_passes: bound on passes (`matmat` + `rmatmat`); None: 300.
        num_oversamples: further columns of a block; None: max(10, rank // 4), and what
            makes the width a multiple of 16.
        num_power_iterations: run the randomized method with that many power iterations
            and no stopping test, unless `tol` is given.
        block_size: columns of a Krylov block, at most the width that oversampling
            gives, which is the default. With few passes, narrow blocks are the more
            exact for the work: half the rank and less (theory.md §6.4). Clusters of
            equal values should have room in a block: copies beyond its width come late,
            through rounding. "auto" solves again, by subspace iteration, where as many
            equal values were found as a block has columns.
        range_dtype: find the range first with products in this coarser dtype (float32
            for a float64 operator, bfloat16 for a float32 one on an accelerator, whose
            sums are float32: `AssociationOperator.narrowed`), to 50 of its eps; exact
            passes go on from there to `tol`. The result is as exact as without.
            `info.num_passes` counts both. None: no such solve.
        on_step: called after each pass with a `Progress`: passes, values and residuals
            so far, and a state. If it returns True, the solve ends with the triples of
            what was done, which may take a pass more, and the status "stopped".
        state: one that `on_step` was given, or of `load_state`, to go on from: the
            result is, bit for bit, that of a solve without interruption (over another
            number of devices, to rounding, if the method is the same there: "auto" may
            choose another, whose state is refused). All other arguments as there; its
            random numbers go on, whatever `key` is.

    Returns:
        (result, info): an `SVDResult` with `left` orthonormal in L²(P_X), `right` in
        L²(P_A), of mean 0 and 0 where there is no mass; and a `SolveInfo` with
        residuals, passes, energies and a status. Singular functions inside a cluster of
        equal singular values are an arbitrary basis of their span. No expectation
        operator has a value above 1: what rounding takes above it, by no more than
        (10 + √max(n, m)) eps, is 1, and its residuals are larger by as much; a value
        further above stays, with the status "above one".

    An operator over several devices is solved where it lies: blocks keep the cut of its
    rows, and what one device tells another beside `op.collectives` is sums of small
    matrices. `left` comes back cut in the same way. Where the devices do not divide n
    no array of n rows can be: `result.padded` has it, with rows of zeros behind, and
    `result.left` gathers them each time that it is read. `method="exact"` gathers the
    whole matrix.

    In several processes all make the same calls in the same order, and an error is
    raised in all where they differ in what they pass. `singular_values` and `info` are
    the same in each and can be read there; `left` and `right` may be cut over all of
    them: work goes on with them as they are, and
    `jax.experimental.multihost_utils.process_allgather(result.left, tiled=True)` is the
    whole as an array of NumPy in each process. To read functions that are padded is
    such a call: all processes make it.

    Raises:
        TypeError: if `op` is not an operator, or one of shapes, or `key` not a key, or
            if `on_step` or `state` is given inside a trace.
        ValueError: if `rank`, `method` or a tolerance is out of range, or `state` is
            that of another solve; if processes differ in what they pass.

    Gradients, in reverse mode, are implicit and never go through the iterations
    (theory.md §6.10): `singular_values`, `info.total_energy` and `info.tail_energy`
    have them with respect to the floating arrays of `op`, and through those to what
    `op` was built of. The rest of `info` counts as constant. They are as exact as the
    functions are: residual over gap.

    * Functions that are symmetric in a cluster of equal values, such as sums over all
      of it, have the right gradient. Where a function treats equal values differently,
      or is not even in values of 0, there is none: eager `jax.grad` raises a
      `ValueError`; inside `jit` or `vmap`, where values are not known, each value
      counts as the mean of its cluster and a 0 as constant, which is an element of the
      generalised gradient. Equal means closer than 10 √max(n, m) eps · max(s_1, 1).
    * If `rank` cuts a cluster, which cannot be seen, sums over a part of it get an
      element of the generalised gradient too, but one that depends on the basis found.
    * Entries of a table in rows and columns without mass, which are masked, have no
      gradient; what is returned there is finite and means nothing.
    * A gradient through `left` or `right` raises a `TypeError`.
    * An operator that stores T and T* apart (sparse, fixed degree) is differentiated
      through the one that its `matmat` uses, and its marginals: right along changes
      that keep the two adjoint.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> op = cx.association_operator(cx.contexts.joint([[4, 1, 0], [1, 3, 2]]))
        >>> result, info = cx.svd(op, 1, key=jax.random.key(0))
        >>> info.status == "converged"
        True
        >>> bool(abs(op.p_x @ result.left[:, 0] ** 2 - 1) < 1e-5)
        True
    """
    check_operator(op, "op")
    _check_arrays(op)
    check_key(key)
    op, key = tree_on_auto_axes((op, key))
    traced, near = in_trace(op, key), None
    if method == "auto" and range_dtype is None and not traced:
        near = _near_products(op)
    plan = _plan_of(
        op,
        rank,
        near,
        method=method,
        tol=tol,
        max_passes=max_passes,
        num_oversamples=num_oversamples,
        num_power_iterations=num_power_iterations,
        block_size=block_size,
        range_dtype=range_dtype,
        traced=traced,
    )
    if not in_trace(op, key):
        # Before the first program that processes run together.
        agree_on_tree(
            "the operator", (op, key), mesh_of(op), **plan.program._asdict(),
            on_step=on_step is not None, state=state is not None,
        )  # fmt: skip
    # After the plan, which knows how many passes may follow.
    if plan.stores_transpose:
        op = op.for_passes()
    shape, dtype = op.shape, np.dtype(op.dtype).name
    empty = SolveState(None, 0, 0, op.fingerprint, plan.program, shape, dtype)

    def run(op: AssociationOperator, key: Array) -> tuple[SVDResult, SolveInfo]:
        is_watched = on_step is not None or state is not None
        if in_trace(op, key):
            check_untraced(on_step, state)
        # Between small programs Python can look and stop; over a mesh one program runs
        # all where nobody has asked to.
        elif mesh_of(op) is None or is_watched:
            driving = {
                "begun": begun_of(state, empty, op),
                "on_pass": observed(on_step, empty),
                "traced": False,
            }
            if near is None:
                return _solve(op, key, plan.program, **driving)
            # SciPy multiplies on one core: threads of NumPy would spin on meanwhile.
            with single_threaded_numpy():
                return _solve(op, key, plan.program, near, **driving)
        result, info = _compiled(_even(op, plan), key, plan=plan.program)
        return result.of_first(op.shape), info

    result, info = implicit_svd(run, euclidean_problem, op, key)
    # Out here, as programs serve operators with and without a mark.
    return result._replace(fingerprint=op.fingerprint), finish(plan, info)


@beside_context
def lower(op: AssociationOperator, rank: int, **options: Any) -> jax.stages.Lowered:
    """The one program of `svd` over devices, or in a trace, not yet compiled.

    From shapes alone: nothing is computed, and the arrays of `op` may be
    `jax.ShapeDtypeStruct`s, as of `operators.operator_shapes`. `compile()` of it tells
    what a device needs: `memory_analysis()`, `cost_analysis()`, which counts the body
    of a loop once, and `as_text()` with the collectives.

    Args:
        op: as in `svd`; of shapes, no value is taken to be without mass.
        rank: as in `svd`.
        options: of `svd`, but for `key`, `on_step` and `state`.

    Raises:
        TypeError: if `op` is not an operator.
        ValueError: as `svd`.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> x = jax.ShapeDtypeStruct((1000, 8), "float32")
        >>> context = jax.eval_shape(cx.contexts.rbf, x)
        >>> mesh = cx.training.data_mesh(1)
        >>> op = cx.operators.operator_shapes(context, mesh=mesh)
        >>> program = cx.solvers.lower(op, 4, method="randomized").compile()
        >>> program.memory_analysis().argument_size_in_bytes > 4 * 1000 * 8
        True
    """
    check_operator(op, "op")
    op = tree_on_auto_axes(op)
    plan = _plan_of(op, rank, traced=True, **options)
    key = jax.eval_shape(lambda: jax.random.key(0))
    even = _even(op, plan)
    return _compiled.lower(unmarked(even), key, plan=plan.program)


def block_width(op: AssociationOperator, rank: int, **options: Any) -> int:
    """Columns of the block that a pass of the program of `lower` multiplies.

    Args:
        op: as in `lower`.
        rank: as in `lower`.
        options: as in `lower`.

    Example:
        >>> import contexture_jax as cx
        >>> op = cx.association_operator(cx.contexts.joint([[4, 1, 0], [1, 3, 2]]))
        >>> cx.solvers.block_width(op, 1, method="randomized", num_oversamples=0)
        1
    """
    check_operator(op, "op")
    return _plan_of(op, rank, traced=True, **options).width


def _check_arrays(op: AssociationOperator) -> None:
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(op)):
        msg = (
            "op must hold arrays; got shapes, of which cx.solvers.lower(op, rank) gives"
            " the program"
        )
        raise TypeError(msg)


def _near_products(op: AssociationOperator) -> NearProducts | None:
    """Products by SciPy, which compile nothing, of entries that are not many."""
    near = near_products(op)
    return near if near is not None and near.num_entries <= _NEAR_ENTRIES else None


def _plan_of(
    op: AssociationOperator, rank: int, near: NearProducts | None = None, **options: Any
) -> Plan:
    # Triples that exist beside the trivial one: values without mass have none.
    limit, sharded = _num_nontrivial(op), _num_devices(op) > 1
    work, is_near = work_of(op), near is not None
    if near is not None:
        work = Work.sparse(near.num_entries, op.dtype.itemsize)
    if is_streamed(op) and options.get("method", "auto") == "auto":
        # Each product reads all of it anew.
        why = "the table is read anew in each pass, and wide passes are few"
        plan = _plan_of(op, rank, near, **{**options, "method": "randomized"})
        return plan._replace(reason=why)
    return make_plan(
        op.shape, op.dtype, rank, limit, work=work, sharded=sharded, near=is_near,
        may_grow=mesh_of(op) is None and not options.get("traced"), **options,
    )  # fmt: skip


def _even(op: AssociationOperator, plan: Plan) -> AssociationOperator:
    """With all rows cut evenly, from the first product of a program to its result."""
    # A method that gathers the whole matrix has it without padding.
    return op if plan.method == "exact" else op.padded()


def _solve(
    op: AssociationOperator,
    key: Array,
    plan: Plan,
    near: NearProducts | None = None,
    **driving: Any,
) -> tuple[SVDResult, SolveInfo]:
    problem, coarse = euclidean_problem(op), None
    a, multiplies_near = problem.map, near is not None
    if near is not None:
        a = scipy_map(op, a, *near.lay_out())
    if plan.range_dtype:
        low = symmetrised_map(op.narrowed(plan.range_dtype))
        # Only products are coarse: units and weights are those of the exact problem.
        coarse = coarse_map(problem.map, low)
    task = Task(a, problem.squared_norm, coarse, op.p_x, multiplies_near)
    return solve(task, plan, key, **driving)


@functools.partial(jax.jit, static_argnames="plan")
def _compiled(
    op: AssociationOperator, key: Array, *, plan: Plan
) -> tuple[SVDResult, SolveInfo]:
    """All passes in one program."""
    weighted, info = _solve(op, key, plan)
    mesh = mesh_of(op)
    if mesh is not None and mesh.is_multi_process:
        # For every process to read.
        small = (weighted.singular_values, info)
        everywhere = NamedSharding(mesh, PartitionSpec())
        s, info = jax.lax.with_sharding_constraint(small, everywhere)
        weighted = weighted._replace(singular_values=s)
    return weighted, info


def euclidean_problem(op: AssociationOperator) -> Problem:
    """The symmetrised, deflated matrix of an operator."""

    def pairing(result: SVDResult, c: Float[Array, " rank"]) -> Float[Array, ""]:
        """Σ_i c_i (⟨μ_i, T ν_i⟩ + s_i (⟨μ_i², p_x⟩ − ⟨ν_i², p_a⟩) / 2)."""
        s, left, right = result
        # (r,): what the marginals add by themselves (theory.md §6.10).
        shares = mm(op.p_x, left * left) - mm(op.p_a, right * right)
        # (n, r): one product for all values, and the only way into T.
        image = op.matmat(right * c[None, :])
        # As the weight of ⟨·, ·⟩ it is held: its change is in `shares`.
        law = jax.lax.stop_gradient(op.p_x)[:, None]
        return jnp.sum(law * left * image) + 0.5 * jnp.sum(c * s * shares)

    # Without the trivial value.
    norm = at_hand(squared_norm(unmarked(op)))
    return Problem(symmetrised_map(op), None if norm is None else norm - 1.0, pairing)


def _num_nontrivial(op: AssociationOperator) -> int:
    """How many triples exist beside the trivial one."""
    if not is_traced(op.p_x, op.p_a):
        sizes = [int(np.count_nonzero(gathered(p))) for p in (op.p_x, op.p_a)]
    else:
        # Which masses are 0 a trace cannot tell.
        sizes = list(op.shape)
    return min(sizes) - 1


def _num_devices(op: AssociationOperator) -> int:
    """How many devices hold the operator."""
    mesh = mesh_of(op)
    return 1 if mesh is None else mesh.size
