"""Randomized block Krylov iteration that keeps one basis, and grows it.

As `_krylov`, but of U only the last block is kept: M V_j is made orthogonal to that and
to nothing else, since in exact arithmetic it is to the blocks before. V is kept whole
and made orthogonal in full. So M V = U R by construction, with R upper triangular as by
Gram and Schmidt, and what U loses of its orthogonality is as small in R as it is large
in U: values and right vectors are those of a matrix that is M but for rounding (Simon &
Zha 2000; Barlow 2013; theory.md §6.4). At a restart, and at the end, the left vectors
are M V X made orthonormal: half a pass of all columns that are kept.

The basis is a few arrays, the last of which is filled: nothing is read, and no memory
taken, for blocks that have not come. Python drives it, and R is of NumPy.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from contexture_jax._core.either import (
    Either,
    compiled_unless_numpy,
    namespace,
    product,
    squared_lengths,
    written,
)
from contexture_jax._core.types import Bool, Float, Inexact, Int
from contexture_jax.solvers._krylov import decomposed, judged, look_ahead, num_kept
from contexture_jax.solvers._linear_map import LinearMap
from contexture_jax.solvers._orthonormal import inner, turned
from contexture_jax.solvers._pieces import orthonormal, random_columns
from contexture_jax.solvers._plan import Plan
from contexture_jax.solvers._random import Seed
from contexture_jax.solvers._steps import Solver, read, zeros
from contexture_jax.solvers._triples import Triples

__all__ = ["ONE_SIDED", "OneSidedState"]

# Of an array of the basis: as many as a large one needs to go back to the system, which
# keeps what is below 32 MB.
_COLUMNS = 96
_LEFT = 0.1  # of the length of a column: less is cleaned again


class OneSidedState(NamedTuple):
    """Between two blocks; k = b · depth columns in a basis, c = b · kept in a restart.

    Attributes:
        seed: of all randomness, uint32, shape ().
        passes: how many are done, each a product with M and one with Mᴴ; −1 before the
            half one that begins.
        wide: products of restarts and of the end with all columns that are kept.
        is_open: whether residuals are above the goal and passes are left, shape ().
        number: blocks in the basis; −1 before the half pass.
        look_at: passes after which values are looked at though the basis is not full.
        left: the last block of U, or what a restart kept of it, shape (n, b) or (n, c);
            zeros before the first.
        right: V in parts, shape (m, p) each, orthonormal, and zeros in the last where
            it is not yet filled; one of (m, c) at the end.
        small: R = Uᴴ M V, of NumPy, shape (k, k).
        block: the block that V gets next, shape (m, b).
        link: its coefficients in Mᴴ times the last block of U, of NumPy, shape (b, b).
        s: Ritz values that the last restart kept, shape (c,).
        residuals: of their triples, with what rounding adds, shape (c,).
    """

    seed: Seed
    passes: Int[Either, ""]
    wide: Int[Either, ""]
    is_open: Bool[Either, ""]
    number: Int[Either, ""]
    look_at: Int[Either, ""]
    left: Inexact[Either, "n b"]
    right: tuple[Inexact[Either, "m p"], ...]
    small: Inexact[Either, "k k"]
    block: Inexact[Either, "m b"]
    link: Inexact[Either, "b b"]
    s: Float[Either, " c"]
    residuals: Float[Either, " c"]


def _init(a: LinearMap, plan: Plan, seed: Seed, start: Any) -> OneSidedState:
    """An empty basis, before the half pass that begins."""
    del start
    (n, m), dtype, width = a.shape, a.dtype, plan.block_size
    size, real = width * plan.depth, np.zeros((), dtype).real.dtype
    ritz = np.zeros(width * num_kept(plan), real)
    return OneSidedState(
        seed=seed,
        passes=np.int32(-1),
        wide=np.int32(0),
        is_open=np.asarray(True)[()],
        number=np.int32(-1),
        look_at=np.int32(num_kept(plan) + 1),
        left=zeros((n, width), dtype, seed),
        right=(),
        small=np.zeros((size, size), dtype),
        block=zeros((m, width), dtype, seed),
        link=np.zeros((width, width), dtype),
        s=ritz,
        residuals=ritz + np.asarray(np.inf, real),
    )


def _step(
    a: LinearMap, plan: Plan, state: OneSidedState, *, in_place: bool = False
) -> OneSidedState:
    """Add the next block to the basis and find the one after it; restart a full one.

    Before the first pass there is a half one, which adds nothing.
    """
    seed, width, twice = state.seed, plan.block_size, 2 * state.passes
    right, small, own = state.right, np.asarray(state.small), None
    if state.number < 0:
        u = random_columns(
            seed,
            a.left_unit,
            size=a.shape[0],
            width=width,
            dtype=a.dtype,
            near=a.is_near,
        )
    else:
        image = a.matmat(state.block)
        u = orthonormal(image, seed, twice + 2, a.left_unit, state.left)
        # (c + b, b): all of the column of R that is not 0.
        above, own = read(inner(state.left, image), inner(u, image))
        there = _are_there(own, small, a.scale)
        if not there.all():
            # What replaces them is not off the blocks before. As columns of zeros they
            # are, and M V = U R as before.
            u, own = _only(u, there), own * there[:, None]
        right = _appended(right, state.block, int(state.number), in_place=in_place)
        small = _with_column(small, above, own, int(state.number) * width)
    block, link = _next(a, state, a.rmatmat(u), own, right, twice + 3)
    state = state._replace(
        passes=state.passes + np.int32(1),
        number=state.number + np.int32(1),
        left=state.left if state.number < 0 else u,
        right=right,
        small=small,
        block=block,
        link=link,
    )
    if state.number == plan.depth or state.passes >= plan.max_passes:
        return _restart(a, plan, state, in_place=in_place)
    if state.passes < state.look_at:
        return state
    return _restart(a, plan, state, unless_open=True, in_place=in_place)


def _are_there(own: np.ndarray, small: np.ndarray, scale: float) -> np.ndarray:
    """Which columns of a block are more than what rounding leaves of others."""
    largest = max(float(abs(small).max()), float(abs(own).max()), scale)
    # NaN counts as there: it must come through.
    return ~(abs(own.diagonal()) <= 10.0 * float(np.finfo(own.dtype).eps) * largest)


@compiled_unless_numpy
def _only(u: Either, there: Either) -> Either:
    return namespace(u).where(there[None, :], u, 0)


def _appended(
    right: tuple[Any, ...], block: Any, number: int, *, in_place: bool
) -> tuple[Any, ...]:
    """The basis with a block more, in its last array or in a new one."""
    width = block.shape[1]
    # For the same bits as without an interruption: a file has rows in order.
    right = tuple(np.asfortranarray(x) if namespace(x) is np else x for x in right)
    size = max(1, _COLUMNS // width)
    if sum(part.shape[1] for part in right) == number * width:
        return (*right, _begun(block, size=size * width))
    # The arrays before it are full, and of one size.
    at = np.int32(number * width - (len(right) - 1) * right[0].shape[1])
    write = _written_over if in_place else _written
    return (*right[:-1], write(right[-1], block, at))


@functools.partial(compiled_unless_numpy, static_argnames="size")
def _begun(block: Either, *, size: int) -> Either:
    empty = zeros((len(block), size), block.dtype, block)
    first = namespace(block).zeros((), np.int32)
    return written(empty, block, first, first, in_place=True)


def _write(part: Either, block: Either, at: Either, *, in_place: bool = False) -> Any:
    return written(part, block, 0 * at, at, in_place=in_place)


_written = compiled_unless_numpy(_write)
_written_over = compiled_unless_numpy(
    functools.partial(_write, in_place=True), donate_argnums=0
)


def _with_column(
    small: np.ndarray, above: np.ndarray, own: np.ndarray, at: int
) -> np.ndarray:
    """R with a block column more: of what is kept of U, and of its new block."""
    small, end = small.copy(), at + len(own)
    small[at:end, at:end] = own
    if at:
        small[at - len(above) : at, at:end] = above
    return small


def _next(
    a: LinearMap, state: OneSidedState, back: Any, own: Any, right: Any, number: Any
) -> tuple[Any, np.ndarray]:
    """The block that V gets next, orthonormal and off V, and its share of Mᴴ U_j."""

    def made(z: Any) -> tuple[Any, np.ndarray]:
        new = orthonormal(z, state.seed, number, a.right_unit)
        return new, read(inner(new, back))[0]

    if own is None:
        return made(back)
    # What is known goes first: what is left along V is rounding, and one cleaning will
    # do, but of columns that others leave little of and of those that were replaced.
    z = _less(back, state.block, own.conj().T)
    filled = (int(state.number) + 1) * state.block.shape[1]
    block, link = made(_off(z, right, filled))
    (squares,) = read(_squares(z))
    if (abs(link.diagonal()) ** 2 > _LEFT**2 * squares).all():
        return block, link
    return made(_off(block, right, filled))


@compiled_unless_numpy
def _less(z: Either, block: Either, own: Either) -> Either:
    return z - product(block, own)


_squares = compiled_unless_numpy(squared_lengths)


def _off(z: Any, parts: tuple[Any, ...], filled: int) -> Any:
    """A block off a basis, part by part: one program, whatever is filled."""
    for part in parts:
        # Of NumPy: there shapes may follow values.
        held = part[:, :filled] if namespace(part) is np else part
        filled -= part.shape[1]
        z = _off_part(z, held)
    return z


@compiled_unless_numpy
def _off_part(z: Either, part: Either) -> Either:
    # As in `_orthonormal`, for what XLA transposes on a CPU.
    return z - product(part, product(z.conj().T, part).conj().T)


def _restart(
    a: LinearMap,
    plan: Plan,
    state: OneSidedState,
    *,
    unless_open: bool = False,
    in_place: bool = False,
) -> OneSidedState:
    """Ritz triples of the basis, whose leading vectors become its first blocks.

    A basis that has room stays as it is, `unless_open`, if goals are missed; where
    `in_place`, it is let go.
    """
    width, filled = plan.block_size, int(state.number)
    kept, filled = min(num_kept(plan), filled) * width, filled * width
    w, s, x = decomposed(np.asarray(state.small)[:filled, :filled], kept)
    link = np.asarray(state.link)
    _, s, residuals, largest, goal = judged(
        link, w, s, plan.rank, plan.tol, a.goal_floor, a.scale, kept=kept
    )
    is_open = (largest > goal) & (state.passes < plan.max_passes)
    ahead = look_ahead(state.passes, largest / goal, plan.tol) if is_open else 0
    state = state._replace(look_at=state.passes + np.int32(ahead))
    if unless_open and is_open:
        return state
    if not is_open:
        # No more than is asked for: columns of a product that is all there is to do.
        kept = min(kept, -(-plan.rank // width) * width)
    right = _turned(state.right, x[:, :kept])
    if in_place:
        # Of the basis, most of the memory, triples are left.
        jax.block_until_ready(right)
        for part in state.right:
            if isinstance(part, jax.Array):
                part.delete()
    blocks = [
        _columns(right, np.int32(at), width=width) for at in range(0, kept, width)
    ]
    # By the program of every pass, block by block. A number that no pass has.
    left = orthonormal(
        _joined([a.matmat(block) for block in blocks]),
        state.seed,
        -2 - state.wide,
        a.left_unit,
    )
    small = np.zeros_like(state.small)
    np.fill_diagonal(small[:kept, :kept], s[:kept])
    if is_open:
        parts: tuple[Any, ...] = ()
        for number, block in enumerate(blocks):
            parts = _appended(parts, block, number, in_place=True)
    else:
        parts = (right,)
    return state._replace(
        wide=state.wide + np.int32(1),
        is_open=is_open,
        number=np.int32(kept // width),
        left=left,
        right=parts,
        small=small,
        s=s[:kept],
        residuals=residuals[:kept],
    )


def _turned(parts: tuple[Any, ...], x: np.ndarray) -> Any:
    """The columns of a basis times a small matrix."""
    size = sum(part.shape[1] for part in parts)
    x = np.pad(x, ((0, size - len(x)), (0, 0)))
    total, at = None, 0
    for part in parts:
        some = x[at : at + part.shape[1]]
        total = turned(part, some) if total is None else _more(total, part, some)
        at += part.shape[1]
    return total


@functools.partial(compiled_unless_numpy, donate_argnums=0)
def _more(total: Either, part: Either, some: Either) -> Either:
    return total + product(part, some)


@functools.partial(compiled_unless_numpy, static_argnames="width")
def _columns(right: Either, at: Either, *, width: int) -> Either:
    if namespace(right) is np:
        return right[:, at : at + width]
    return jax.lax.dynamic_slice_in_dim(right, at, width, axis=1)


@compiled_unless_numpy
def _joined(blocks: Sequence[Either]) -> Either:
    return namespace(blocks[0]).concatenate(blocks, axis=1)


def _complete(a: LinearMap, plan: Plan, state: OneSidedState) -> OneSidedState:
    """With the triples of a basis that is not full, once it holds enough columns."""
    is_kept = len(state.s) == state.number * plan.block_size
    if state.is_open and is_kept and np.isfinite(np.asarray(state.residuals[0])):
        # Fresh from a restart: its triples are those of all passes.
        whole = _columns(_joined(state.right), np.int32(0), width=len(state.s))
        return state._replace(right=(whole,))
    while state.is_open and state.number * plan.block_size < plan.rank:
        state = _step(a, plan, state)
    if not state.is_open:
        return state
    return _restart(a, plan._replace(max_passes=0), state)


def _extract(state: OneSidedState) -> Triples:
    """All that was kept at the end."""
    # M V = U S but for rounding: left residuals are that.
    nothing = np.zeros_like(state.s)
    passes = state.passes + 0.5 + 0.5 * state.wide
    return Triples(
        state.s, state.left, state.right[0], nothing, state.residuals, passes
    )


ONE_SIDED = Solver(OneSidedState, _init, _step, _complete, _extract)
"""Where Python drives; in a program shapes do not follow values: `KRYLOV`."""
