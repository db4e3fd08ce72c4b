"""From a matrix to triples, energies and a status, by the method of a plan."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from contexture_jax._core.either import (
    LITTLE,
    Either,
    at_hand,
    compiled_unless_numpy,
    namespace,
    product,
)
from contexture_jax._core.processes import placed
from contexture_jax._core.types import Array, Float
from contexture_jax.solvers._exact import EXACT
from contexture_jax.solvers._krylov import KRYLOV
from contexture_jax.solvers._linear_map import (
    LinearMap,
    filtering_map,
    near_map,
    rounding_of,
)
from contexture_jax.solvers._nystrom import NYSTROM
from contexture_jax.solvers._one_sided import ONE_SIDED
from contexture_jax.solvers._orthonormal import fix_signs
from contexture_jax.solvers._pieces import new_seed, random_columns
from contexture_jax.solvers._plan import Plan
from contexture_jax.solvers._random import fold, make_seed, random_block
from contexture_jax.solvers._randomized import RANDOMIZED
from contexture_jax.solvers._results import SolveInfo, Status, SVDResult
from contexture_jax.solvers._steps import Solver, drive, read

__all__ = [
    "METHODS",
    "Task",
    "finish",
    "solve",
    "solver_of",
    "total_energy",
]

METHODS = {
    "exact": EXACT,
    "randomized": RANDOMIZED,
    "krylov": KRYLOV,
    "nystrom": NYSTROM,
}
"""Name of a method to its functions."""


def solver_of(plan: Plan) -> Solver:
    """The functions of a plan."""
    return ONE_SIDED if plan.one_sided else METHODS[plan.method]


# Columns that a tail is estimated from (theory.md §6.7).
_NUM_PROBES = 16


class Task(NamedTuple):
    """What is to be solved.

    Attributes:
        map: the matrix, its trivial triple already deflated.
        squared_norm: ‖M‖_F², shape (); None: estimated from random probes, with its
            error.
        coarse: the same matrix in `plan.range_dtype`, solved first.
        beside: an array where results are to lie; None: where products do.
        multiplies_near: whether NumPy multiplies with the matrix itself.
    """

    map: LinearMap
    squared_norm: Float[Any, ""] | None
    coarse: LinearMap | None = None
    beside: Any = None
    multiplies_near: bool = False


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
    if not traced and _is_near(task, plan):
        stages = [(_near(a, part), part) for a, part in stages]
        begun = None if begun is None else begun._replace(state=at_hand(begun.state))
    if begun is None:
        # A number of NumPy folds others in without a program.
        seed = new_seed(key, traced=traced)
        begun = Begun(solver_of(stages[0][1]).init(*stages[0], seed, None))
    stopped = False
    while True:
        stage, earlier = begun.stage, begun.earlier
        a, part = stages[stage]
        solver, look = solver_of(part), None
        if on_pass is not None:
            look = functools.partial(_look, on_pass, begun)
        state = begun.state
        if not stopped:
            state, stopped = drive(solver, a, part, state, traced=traced, on_pass=look)
        # In each stage that is left: triples of a coarse solve are not those asked for.
        if stopped:
            state = solver.complete(a, part, state)
        if stage + 1 == len(stages):
            break
        start = None
        if not plan.guards_clusters:
            # (m, b): what is left to do is what the coarse dtype could not see.
            start = solver.extract(state).right
        # A second solve is for clusters that the first may have cut, and for no other.
        elif stopped or not _may_lack_copies(plan, state):
            break
        following = solver_of(stages[-1][1]).init(*stages[-1], state.seed, start)
        begun = Begun(following, stage + 1, earlier + state.passes)
    triples = solver.extract(state)
    energies, where = None, task.beside
    if task.squared_norm is None:
        probes = _off(
            triples.right, state.seed, a.right_unit, rank=plan.rank, num=_NUM_PROBES
        )
        image = task.map.matmat(probes)
        energies, where = _energies(image), image if where is None else where
    left, right, ends = _finished(
        triples.left, triples.right, a.weights, rank=plan.rank
    )
    with np.errstate(all="ignore"):
        described = _described(
            a, plan, triples.num_passes + earlier, stopped,
            *read(triples[0], *triples[3:5], task.squared_norm, energies, ends),
        )  # fmt: skip
    if isinstance(left, np.ndarray):
        described, left, right = _beside(where, (described, left, right))
    elif not traced:
        described = _beside(left, described)
    s, info = described
    info = SolveInfo(**info)
    if part.method != plan.method:
        why = f"Krylov blocks of {plan.block_size} met a cluster of as many values"
        info = dataclasses.replace(info, method=part.method, reason=why)
    return SVDResult(s, left, right), info


def _may_lack_copies(plan: Plan, state: Any) -> bool:
    """Whether Krylov blocks met exactly as many equal values as they have columns.

    In exact arithmetic the space holds, with probability 1, as many copies of a value
    as a block has columns, or all if they are fewer. Copies beyond grow out of
    rounding, one after the other: once some are there, those behind show as triples
    that have not converged. Values as small as the last that is asked for lack none
    that matters.
    """
    s = np.asarray(state.s)[: plan.rank]
    # What residuals of tol cannot tell apart, nor rounding.
    near = 3.0 * plan.tol * s[:-1] + 10.0 * np.finfo(s.dtype).eps * s[0]
    ends = np.concatenate([[True], s[:-1] - s[1:] > near, [True]])
    starts = np.flatnonzero(ends)
    # Exactly as many: with fewer all were found, with more the others have come.
    is_block = np.diff(starts) == plan.block_size
    above_last = s[starts[:-1]] - s[-1] > plan.tol * s[0]
    return bool((is_block & above_last).any())


def _look(on_pass: Callable[[Begun], bool], begun: Begun, state: Any) -> bool:
    return on_pass(begun._replace(state=state))


def _stages(task: Task, plan: Plan) -> list[tuple[LinearMap, Plan]]:
    """The matrices that are solved one after the other, each with its plan."""
    if plan.guards_clusters:
        again = plan._replace(
            method="randomized", guards_clusters=False, one_sided=False
        )
        return [(task.map, plan), (task.map, again)]
    if task.coarse is None:
        return [(task.map, plan)]
    # As exact as the coarse dtype makes them.
    # 50 eps is 0.39 for bfloat16; what is coarser is asked for 0.5.
    reachable = min(50.0 * float(jnp.finfo(plan.range_dtype).eps), 0.5)
    rough = plan._replace(method="randomized", tol=max(plan.tol, reachable))
    return [(task.coarse, rough), (task.map, plan)]


def _near(a: LinearMap, plan: Plan) -> LinearMap:
    is_filtered = plan.method == "randomized" and plan.tol > 0
    return near_map(filtering_map(a, plan.width) if is_filtered else a)


def _is_near(task: Task, plan: Plan) -> bool:
    """Whether NumPy does all that is between two products, where they are at hand.

    What is large only where it multiplies, too: its threads spin on after a product,
    and would take cores from those of a program that comes next.
    """
    columns = max(plan.width, plan.block_size * plan.depth)
    is_here = task.beside is None or isinstance(at_hand(task.beside), np.ndarray)
    is_little = max(task.map.shape) * columns <= LITTLE
    can_be = is_little and not plan.one_sided
    return plan.iterates and is_here and (can_be or task.multiplies_near)


@functools.partial(compiled_unless_numpy, static_argnames=("rank", "num"))
def _off(right: Either, seed: Any, unit: Any, *, rank: int, num: int) -> Either:
    """Random probes off the right vectors."""
    right, (m, dtype) = right[:, :rank], (right.shape[0], right.dtype)
    # −1 is the number of no pass: independent of what V was made from.
    probes = random_columns(fold(seed, -1), unit, size=m, width=num, dtype=dtype)
    return probes - product(right, product(right.conj().T, probes))


@jax.jit
def _energies(image: Array) -> Float[Array, " p"]:
    return (jnp.abs(image) ** 2).sum(axis=0)


@functools.partial(compiled_unless_numpy, static_argnames=("rank",))
def _finished(
    left: Either, right: Either, weights: tuple[Either, Either] | None, *, rank: int
) -> tuple[Either, Either, Float[Either, " r"]]:
    """The leading vectors as they are wanted, and zeros: NaN if one is not finite."""
    # Before the weights: signs are by the entries of √p_x μ (theory.md §1.5).
    left, right = fix_signs(left[:, :rank], right[:, :rank])
    # A number a column is what comes to the host.
    ends = 0.0 * (abs(left).max(axis=0) + abs(right).max(axis=0))
    if weights is not None:
        left, right = (
            w[:, None] * x for w, x in zip(weights, (left, right), strict=True)
        )
    return left, right, ends


def _described(
    a: LinearMap, plan: Plan, num_passes: Any, stopped: bool, s: Either,
    left_gap: Either, right_gap: Either, squared_norm: Any, energies: Any, ends: Either,
) -> tuple[Either, dict[str, Any]]:  # fmt: skip
    """The leading values in their final form, and all that is said of the triples.

    E‖W ω‖² = ‖W‖_F² over random ω of variance 1 (Hutchinson 1989), of which `energies`
    are samples. What V holds is known and taken out first, so that the error is one of
    the tail and not of the whole (as in Hutch++: Meyer, Musco, Musco & Woodruff 2021).
    """
    xp, dtype = namespace(s), s.dtype
    # Methods give all that they found, a block's width or more.
    s, *gap = (x[: plan.rank] for x in (s, left_gap, right_gap))
    s, gap = _within_norm(a, s, gap)
    head, error = (s * s).sum(), 0.0
    if squared_norm is None:
        total = head + energies.mean()
        # Of the mean of independent samples.
        error = energies.std(ddof=1) / _NUM_PROBES**0.5
    else:
        total = squared_norm
    # Rounding must not make the whole smaller than its part.
    total = xp.maximum(total, head)
    numbers = {
        "residuals": xp.maximum(*gap),
        "left_residuals": gap[0],
        "right_residuals": gap[1],
        "num_passes": num_passes,
        "total_energy": total,
        "tail_energy": total - head,
        "tail_error": error,
        "scale": a.scale,
    }
    code = _status(
        a, plan, s, numbers["residuals"], xp.isfinite(s + ends).all(), stopped
    )
    info = {name: xp.asarray(x).astype(dtype) for name, x in numbers.items()}
    info["code"] = xp.asarray(code).astype(np.int32)
    return s.astype(dtype), info


def _beside(array: Any, tree: Any) -> Any:
    """Values of the host as arrays of JAX where another one lies, whole."""
    sharding = getattr(array, "sharding", None)
    if isinstance(sharding, NamedSharding):
        # For every process to read.
        everywhere = NamedSharding(sharding.mesh, PartitionSpec())
        return jax.tree.map(lambda x: placed(x, everywhere), tree)
    is_tied = sharding is not None and array.committed
    return jax.device_put(tree, sharding if is_tied else None)


def finish(plan: Plan, info: SolveInfo) -> SolveInfo:
    """What no program returns: which method ran, and why."""
    method, reason = info.method or plan.method, info.reason or plan.reason
    return dataclasses.replace(info, method=method, reason=reason)


def total_energy(
    a: LinearMap, key: Array, squared_norm: Float[Any, ""] | None
) -> Float[Array, ""]:
    """‖M‖_F² as a function to differentiate: as given, or from random probes.

    The probes are those of the tail, unprojected: of the same mean as the head plus the
    estimated tail, whose gradient would need that of the singular vectors.
    """
    if squared_norm is None:
        # The probes that `solve` took with this key.
        seed, size = fold(make_seed(key), -1), a.shape[1]
        probes = a.project_right(random_block(seed, size, _NUM_PROBES, a.dtype))
        return (jnp.abs(a.matmat(probes)) ** 2).sum(axis=0).mean()
    return squared_norm.astype(jnp.zeros((), a.dtype).real.dtype)


def _within_norm(a: LinearMap, s: Either, gaps: list[Any]) -> tuple[Either, list[Any]]:
    """Values above the norm that M has at most, by no more than rounding, are that.

    Residuals grow by as much as a value moves.
    """
    if a.scale == 0:
        return s, gaps
    xp = namespace(s)
    over = xp.maximum(s - a.scale, 0.0)
    # What is further above is a mistake of the operator's, and is to be seen.
    over = xp.where(over <= rounding_of(a.shape, s.dtype) * a.scale, over, 0.0)
    # Not s − over, which rounds.
    return xp.where(over > 0, a.scale, s), [gap + over for gap in gaps]


def _status(
    a: LinearMap, plan: Plan, s: Either, residuals: Either, finite: Any, stopped: bool
) -> Any:
    """The code of the status: the gravest of what holds."""
    xp, cutoff = namespace(s), a.cutoff(s)
    # NaN counts as 0 here, and is named below.
    deficient = ~(s[-1] > cutoff)
    # A run of a fixed number of passes is judged by what would be asked for.
    default = max(1e-10, 100 * float(jnp.finfo(a.dtype).eps))
    goal = a.goal(s, plan.tol if plan.tol > 0 else default)
    # Iterations may stop on a recurrence for the residual; the residuals returned are
    # computed anew and differ by rounding, as do those of a dense factorisation.
    rounding = 2.0 * rounding_of(a.shape, a.dtype) * xp.maximum(s[0], a.scale)
    # What counts as 0 has vectors of no value in particular, up to the cutoff.
    slack = xp.where(s > cutoff, 0.0, 2.0 * cutoff)
    close = (residuals <= goal + rounding + slack).all()
    # An average has norm 1: more is no conditional expectation.
    above = (a.scale > 0) & (s[0] > a.scale + goal + rounding)
    code: Any = Status.CONVERGED.code
    # The last that holds is the one that is told.
    for holds, status in (
        (deficient, Status.RANK_DEFICIENT),
        (~close, Status.MAX_PASSES),
        (np.asarray(stopped), Status.STOPPED),
        (above, Status.ABOVE_ONE),
        (~finite, Status.NON_FINITE),
    ):
        code = xp.where(holds, status.code, code)
    return code
