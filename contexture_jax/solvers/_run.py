"""From a matrix to triples, energies and a status, by the method of a plan."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.numerics import mm
from contexture_jax._core.types import Array, Float
from contexture_jax.operators import AssociationOperator, to_functions
from contexture_jax.solvers._exact import EXACT
from contexture_jax.solvers._krylov import KRYLOV
from contexture_jax.solvers._linear_map import LinearMap, identity
from contexture_jax.solvers._nystrom import NYSTROM
from contexture_jax.solvers._orthonormal import fix_signs
from contexture_jax.solvers._pieces import new_seed, random_columns
from contexture_jax.solvers._plan import Plan
from contexture_jax.solvers._random import fold, make_seed, random_block
from contexture_jax.solvers._randomized import RANDOMIZED
from contexture_jax.solvers._results import SolveInfo, Status, SVDResult
from contexture_jax.solvers._steps import drive, read
from contexture_jax.solvers._triples import Triples

__all__ = ["METHODS", "Task", "finish", "rounding_of", "solve", "total_energy"]

METHODS = {
    "exact": EXACT,
    "randomized": RANDOMIZED,
    "krylov": KRYLOV,
    "nystrom": NYSTROM,
}
"""Name of a method to its functions."""

_NUM_PROBES = 16


class Task(NamedTuple):
    """What is to be solved.

    Attributes:
        map: the matrix, its trivial triple already deflated.
        squared_norm: ‖M‖_F², shape (); None: estimated from random probes, with its
            error.
        coarse: the same matrix in `plan.range_dtype`, solved first.
        op: the operator whose functions are wanted in place of vectors.
    """

    map: LinearMap
    squared_norm: Float[Array, ""] | None
    coarse: LinearMap | None = None
    op: AssociationOperator | None = None


class Begun(NamedTuple):
    """A solve between two passes.

    Attributes:
        state: of the method.
        stage: which of `_stages` it is in: 1 after a coarse solve, or after one that
            may lack copies of equal values.
        earlier: passes of the stages before.
    """

    state: Any
    stage: int = 0
    earlier: Any = 0


def solve(
    task: Task,
    plan: Plan,
    key: Array,
    *,
    traced: bool = True,
    begun: Begun | None = None,
    on_pass: Callable[[Begun], bool] | None = None,
) -> tuple[SVDResult, SolveInfo]:
    """Run a plan on a matrix; `status` an integer code.

    Args:
        task: the matrix and what is known of it.
        plan: method and widths.
        key: for all randomness; that of `begun` goes on where it is given.
        traced: whether something is traced; then one loop of a program runs it all.
        begun: what to go on from.
        on_pass: called after each pass, outside of a trace; True ends the solve.
    """
    stages = _stages(task, plan)
    if begun is None:
        seed = new_seed(key) if traced else read(new_seed(key))[0]
        begun = Begun(METHODS[stages[0][1].method].init(*stages[0], seed, None))
    stopped = False
    while True:
        stage, earlier = begun.stage, begun.earlier
        a, part = stages[stage]
        solver, look = METHODS[part.method], None
        if on_pass is not None:
            look = functools.partial(_look, on_pass, begun)
        state = begun.state
        if not stopped:
            state, stopped = drive(solver, a, part, state, traced=traced, on_pass=look)
        if stopped:
            state = solver.complete(a, part, state)
        if stage + 1 == len(stages):
            break
        start = None
        if not plan.guards_clusters:
            start = solver.extract(state).right
        elif stopped or not _may_lack_copies(plan, state):
            break
        following = METHODS[stages[-1][1].method].init(*stages[-1], state.seed, start)
        begun = Begun(following, stage + 1, earlier + state.passes)
    triples = solver.extract(state)
    triples = triples._replace(num_passes=triples.num_passes + earlier)
    image = None
    if task.squared_norm is None:
        width = _NUM_PROBES
        image = a.matmat(_off(triples.right, state.seed, a.right_law, num=width))
    result, info = _report(
        triples, task.squared_norm, image, plan.tol, stopped, task.op,
        rank=plan.rank, norm=a.scale,
    )  # fmt: skip
    if part.method != plan.method:
        why = f"Krylov blocks of {plan.block_size} met a cluster of as many values"
        info = dataclasses.replace(info, method=part.method, reason=why)
    return result, info


def _may_lack_copies(plan: Plan, state: Any) -> bool:
    """Whether Krylov blocks met exactly as many equal values as they have columns.

    In exact arithmetic the space holds, with probability 1, as many copies of a value
    as a block has columns, or all if they are fewer. Copies beyond grow out of
    rounding, one after the other: once some are there, those behind show as triples
    that have not converged. Values as small as the last that is asked for lack none
    that matters.
    """
    s = np.asarray(state.s)[: plan.rank]
    near = 3.0 * plan.tol * s[:-1] + 10.0 * np.finfo(s.dtype).eps * s[0]
    ends = np.concatenate([[True], s[:-1] - s[1:] > near, [True]])
    starts = np.flatnonzero(ends)
    is_block = np.diff(starts) == plan.block_size
    above_last = s[starts[:-1]] - s[-1] > plan.tol * s[0]
    return bool((is_block & above_last).any())


def _look(on_pass: Callable[[Begun], bool], begun: Begun, state: Any) -> bool:
    return on_pass(begun._replace(state=state))


def _stages(task: Task, plan: Plan) -> list[tuple[LinearMap, Plan]]:
    """The matrices that are solved one after the other, each with its plan."""
    if plan.guards_clusters:
        again = plan._replace(method="randomized", guards_clusters=False)
        return [(task.map, plan), (task.map, again)]
    if task.coarse is None:
        return [(task.map, plan)]
    # As exact as the coarse dtype makes them.
    reachable = min(50.0 * float(jnp.finfo(plan.range_dtype).eps), 0.5)
    rough = plan._replace(method="randomized", tol=max(plan.tol, reachable))
    return [(task.coarse, rough), (task.map, plan)]


@functools.partial(jax.jit, static_argnames="num")
def _off(right: Array, seed: Any, law: Any, *, num: int) -> Array:
    """Random probes off the right vectors."""
    m, dtype = right.shape[0], right.dtype
    probes = random_columns(fold(seed, -1), law, size=m, width=num, dtype=dtype)
    return probes - mm(right, mm(right.conj().T, probes))


@functools.partial(jax.jit, static_argnames=("rank", "norm"))
def _report(
    triples: Triples,
    squared_norm: Float[Array, ""] | None,
    image: Float[Array, "n p"] | None,
    tol: Any,
    stopped: Any,
    op: AssociationOperator | None,
    *,
    rank: int,
    norm: float,
) -> tuple[SVDResult, SolveInfo]:
    """The leading triples in their final form, and all that is said of them.

    E‖W ω‖² = ‖W‖_F² over random ω of variance 1 (Hutchinson 1989), the columns of
    `image`. What V holds is known and taken out first, so that the error is one of the
    tail and not of the whole (as in Hutch++: Meyer, Musco, Musco & Woodruff 2021).
    """
    left, right = fix_signs(triples.left[:, :rank], triples.right[:, :rank])
    a = LinearMap(
        identity, identity, (left.shape[0], right.shape[0]), left.dtype, scale=norm
    )
    s, *gaps = (x[:rank] for x in (triples[0], *triples[3:5]))
    s, gaps = _within_norm(a, s, gaps)
    head = (s * s).sum()
    if squared_norm is None:
        samples = (jnp.abs(image) ** 2).sum(axis=0)
        total = head + samples.mean()
        error = samples.std(ddof=1) / _NUM_PROBES**0.5
    else:
        total, error = squared_norm.astype(s.dtype), jnp.zeros((), s.dtype)
    # Rounding must not make the whole smaller than its part.
    total = jnp.maximum(total, head)
    residuals = jnp.maximum(*gaps)
    info = SolveInfo(
        residuals,
        *gaps,
        jnp.asarray(triples.num_passes).astype(s.dtype),
        total,
        total - head,
        error,
        _status(a, tol, s, residuals, left, right, stopped),
        scale=jnp.full((), norm, s.dtype),
    )
    if op is not None:
        left, right = to_functions(op, left, right)
    return SVDResult(s, left, right), info


def finish(plan: Plan, info: SolveInfo) -> SolveInfo:
    """What no program returns: which method ran, and why."""
    method, reason = info.method or plan.method, info.reason or plan.reason
    return dataclasses.replace(info, method=method, reason=reason)


def total_energy(
    a: LinearMap, key: Array, squared_norm: Float[Array, ""] | None
) -> Float[Array, ""]:
    """‖M‖_F² as a function to differentiate: as given, or from random probes.

    The probes are those of the tail, unprojected: of the same mean as the head plus the
    estimated tail, whose gradient would need that of the singular vectors.
    """
    if squared_norm is None:
        seed, size = fold(make_seed(key), -1), a.shape[1]
        probes = a.project_right(random_block(seed, size, _NUM_PROBES, a.dtype))
        return (jnp.abs(a.matmat(probes)) ** 2).sum(axis=0).mean()
    return squared_norm.astype(jnp.zeros((), a.dtype).real.dtype)


def _within_norm(
    a: LinearMap, s: Array, gaps: list[Array]
) -> tuple[Array, list[Array]]:
    """Values above the norm that M has at most, by no more than rounding, are that.

    Residuals grow by as much as a value moves.
    """
    if a.scale == 0:
        return s, gaps
    over = jnp.clip(s - a.scale, 0.0)
    over = jnp.where(over <= rounding_of(a.shape, s.dtype) * a.scale, over, 0.0)
    # Not s − over, which rounds.
    s = jnp.where(over > 0, jnp.asarray(a.scale, s.dtype), s)
    return s, [gap + over for gap in gaps]


def rounding_of(shape: tuple[int, int], dtype: Any) -> float:
    """(10 + √max(n, m)) · eps: what rounding in products of that length may add up to.

    Relative to the norm of the matrix before deflation.
    """
    return (10.0 + max(shape) ** 0.5) * float(jnp.finfo(dtype).eps)


def _status(
    a: LinearMap,
    tol: Any,
    s: Array,
    residuals: Array,
    left: Array,
    right: Array,
    stopped: Any,
) -> Array:
    """The code of the status: the gravest of what holds."""
    finite = (
        jnp.isfinite(s).all() & jnp.isfinite(left).all() & jnp.isfinite(right).all()
    )
    deficient = ~(s[-1] > a.cutoff(s))
    # A run of a fixed number of passes is judged by what would be asked for.
    default = max(1e-10, 100 * float(jnp.finfo(a.dtype).eps))
    tol = jnp.where(tol > 0, tol, default).astype(s.dtype)
    # Iterations may stop on a recurrence for the residual; the residuals returned are
    # computed anew and differ by rounding, as do those of a dense factorisation.
    rounding = 2.0 * rounding_of(a.shape, a.dtype) * jnp.maximum(s[0], a.scale)
    close = residuals.max() <= a.goal(s, tol) + rounding
    above = (a.scale > 0) & (s[0] > a.scale + a.goal(s, tol) + rounding)
    code = jnp.asarray(Status.CONVERGED.code, jnp.int32)
    for holds, status in (
        (deficient, Status.RANK_DEFICIENT),
        (~close, Status.MAX_PASSES),
        (stopped, Status.STOPPED),
        (above, Status.ABOVE_ONE),
        (~finite, Status.NON_FINITE),
    ):
        code = jnp.where(holds, status.code, code)
    return code
