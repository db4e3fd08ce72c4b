"""Orthonormal bases of tall blocks, and the small factorisations behind a Ritz step.

Everything tall is a matrix product: the Gram matrix of a block is factored and its
inverse factor multiplies the block, as often as it takes. Nothing tall is ever handed
to LAPACK, so that rows may live on many devices. Directions that a block does not have
are replaced by random ones, so that a basis is always complete.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import is_traced
from contexture_jax._core.either import (
    Either,
    at_hand,
    compiled_unless_numpy,
    inverse_factor,
    is_plain,
    namespace,
    product,
    squared_lengths,
)
from contexture_jax._core.types import Bool, Float, Inexact, Int
from contexture_jax.solvers._linear_map import LinearMap, identity
from contexture_jax.solvers._random import Seed, fold, random_block
from contexture_jax.solvers._steps import read, when

__all__ = ["complete", "fix_signs", "inner", "orthonormalize", "turned"]

_MAX_ROUNDS = 6  # two suffice for most blocks, three where directions are missing
_MAX_SHIFTS = 6  # each ten times the one before
_WELL = 4.0  # of the inverse of G, scaled: columns are far from depending on others


def orthonormalize(
    block: Inexact[Either, "n b"],
    seed: Seed,
    *,
    project: Any = identity,
    basis: Inexact[Either, "n l"] | None = None,
    loose: bool = False,
) -> Inexact[Either, "n b"]:
    """Orthonormal columns whose span holds that of a block, off a given basis.

    Shifted Cholesky QR, repeated (Fukaya, Kannan, Nakatsukasa, Yamamoto & Yanagisawa
    2020): in a round, Z is taken off the basis, G = Zᴴ Z is scaled to a unit diagonal,
    G + δ I = L Lᴴ with δ = 10 b · eps, and Z L⁻ᴴ follows, by a small explicit inverse
    and one product. The shift makes every factorisation succeed; a round divides the
    condition number by about δ^(-1/2). When G was close to I, the round was the last
    one, without the shift; and where G is far from singular, one round takes the shift
    out again by a first-order correction. A column that a round leaves shorter than √δ
    (in the first: δ) of its length depends on the others to within about δ and is
    replaced by a random one.

    Blocks can be as large as memory, so they are read for products and little else. The
    basis is looked at again only if the round before took more than half of the square
    of some column: a column inherits what orthogonality the basis has lost, times the
    length taken over the length left, and bases that grow by blocks would multiply that
    at each (Daniel, Gragg, Kaufman & Stewart 1976). A projection is exact to rounding,
    and costs at most a digit where a tenth of a column is left.

    Args:
        block: Z, shape (n, b), floating or complex; b ≤ n less the size of `basis` and
            of what `project` takes away.
        seed: for the replacements.
        project: orthogonal projection that the result must lie in the range of.
        basis: orthonormal columns (or zeros), shape (n, l), to stay orthogonal to.
        loose: be content with eigenvalues of QᴴQ from 0.9 to 1, mostly after one round:
            enough for a basis that the next product changes anyway.

    Returns:
        Q, shape (n, b), orthonormal to rounding even if Z has rank 0.
    """
    # None is a tree without leaves: one program for all that nothing is projected from.
    off: Any = None if project is identity else project
    if is_plain(block, seed, basis):
        return _by_numpy(block, seed, off, basis, loose)
    traced = is_traced(block, seed)
    # Of what nothing is taken off the Gram matrix has the lengths: one look less.
    looks = traced or off is not None or basis is not None
    begun = functools.partial(_begun, off=off, basis=basis) if looks else _measured
    z, lengths, gram = begun(block)
    # The square of a length must be one that rounding can tell from 0.
    z, lengths, gram = when(
        ~read(_in_range(lengths))[0],
        lambda _: begun(_scaled(block)),
        (z, lengths, gram),
    )
    traced = traced or is_traced(z)
    # Of the kind that decides: a loop carries traced numbers, Python reads NumPy's.
    true: Any = jnp.ones((), bool) if traced else np.asarray(True)[()]
    # `loose` is an argument of programs and not a constant: one serves both.
    one_round = functools.partial(_one_round, seed, off, basis, np.bool_(loose))
    state = _State(0 * seed.astype(np.int32), z, lengths, ~true, ~true)
    if traced:
        return jax.lax.while_loop(_not_done, one_round, state).block
    state = one_round(state, gram)
    while _not_done(state):
        state = one_round(state)
    return state.block


def _by_numpy(
    block: np.ndarray, seed: Seed, off: Any, basis: np.ndarray | None, loose: bool
) -> np.ndarray:
    """The same rounds with few calls between the products, which are short."""
    with np.errstate(all="ignore"):
        lengths = squared_lengths(block)
        if not _is_in_range(lengths):
            block = _scaled(block)
            lengths = squared_lengths(block)
        z, is_dirty = _off_basis(block, off, basis), False
        for number in range(_MAX_ROUNDS):
            z = _off_basis(z, off, basis) if is_dirty else z
            gram = product(z.conj().T, z)
            there, complete = _are_there(gram, lengths, number)
            if not complete:
                z, gram = _filled(z, there, seed, np.int32(number))
            turn, is_dirty, done, raised = _turn_of(
                gram, lengths, complete, loose, _enough(basis)
            )
            z = product(z, turn)
            if done:
                break
            lengths = _after(number, lengths, raised)
    return z


class _State(NamedTuple):
    """Between two rounds.

    Attributes:
        number: how many are done.
        block: Z.
        lengths: squared, of its columns, before anything is taken off them.
        is_dirty: whether it may have parts along the basis beyond rounding.
        done: whether it is orthonormal.
    """

    number: Int[Either, ""]
    block: Inexact[Either, "n b"]
    lengths: Float[Either, " b"]
    is_dirty: Bool[Either, ""]
    done: Bool[Either, ""]


def _not_done(state: _State) -> Any:
    return ~state.done & (state.number < _MAX_ROUNDS)


def _one_round(
    seed: Seed, off: Any, basis: Any, loose: Any, state: _State, gram: Any = None
) -> _State:
    """A round; the Gram matrix where it is known."""
    number, z, lengths = state.number, state.block, state.lengths
    if basis is not None or off is not None:
        z = when(state.is_dirty, lambda z: _opened(z, off, basis)[0], z)
    # (b, b): what is small NumPy does without a program, where it can read it.
    gram = at_hand(inner(z, z)) if gram is None else gram
    there, complete = _there(gram, lengths, number)
    (complete,) = read(complete)

    def fill(now: tuple[Either, Any]) -> tuple[Either, Any]:
        z, gram = _filled(now[0], there, seed, number)
        return z, at_hand(gram)

    # A block and its Gram matrix change together or not at all.
    z, gram = when(~complete, fill, (z, gram))
    enough = np.asarray(_enough(basis), lengths.dtype)
    turn, *found = _turn(gram, lengths, complete, loose, enough)
    is_dirty, done, raised = read(*found)
    lengths = _after(number, lengths, raised)
    return _State(number + 1, turned(z, turn), lengths, is_dirty, done)


def _after(number: Any, lengths: Any, raised: Any) -> Any:
    """What squared lengths are held against after a round.

    Columns have the length 1 then, but for what a shift takes; where a larger one was
    needed what depends on others is longer by as much, in all rounds that follow.
    """
    xp = namespace(lengths)
    before = xp.where(number > 0, lengths.max(), 1)
    return xp.maximum(before, raised).astype(lengths.dtype) * xp.ones_like(lengths)


def _enough(basis: Any) -> float:
    """The share of a square that a round has to leave for a block to be clean."""
    # A tenth of the length for a projection; half of the square where bases grow by
    # blocks and losses would multiply (theory.md §6.2).
    return 0.01 if basis is None else 0.5


def _shift(gram: Any) -> float:
    # δ of theory.md §6.2.
    return 10 * gram.shape[0] * float(np.finfo(gram.dtype).eps)


@compiled_unless_numpy
def _scaled(z: Either) -> Either:
    """Columns of length 1, but those of zeros."""
    xp = namespace(z)
    # The largest entry goes first: its square must not leave the range.
    for lengths in (lambda z: z.max(axis=0), lambda z: xp.sqrt((z**2).sum(axis=0))):
        length = lengths(abs(z))
        z = z / xp.where(length > 0, length, xp.ones_like(length))[None, :]
    return z


@compiled_unless_numpy
def turned(z: Either, turn: Either) -> Either:
    """A tall block times a small matrix."""
    return product(z, turn)


@compiled_unless_numpy
def inner(y: Either, z: Either) -> Either:
    """Yᴴ Z of tall blocks."""
    return product(y.conj().T, z)


@compiled_unless_numpy
def _opened(
    z: Either, off: Any, basis: Either | None
) -> tuple[Either, Float[Either, " b"]]:
    """A block off the basis, and its squared lengths before."""
    # Before anything is taken off: what is left is held against it.
    return _off_basis(z, off, basis), squared_lengths(z)


def _off_basis(z: Either, off: Any, basis: Either | None) -> Either:
    z = z if off is None else off(z)
    if basis is None:
        return z
    # zᴴV and not Vᴴz: XLA on a CPU transposes what stands first, and Z is narrow.
    return z - product(basis, product(z.conj().T, basis).conj().T)


def _begun(z: Any, off: Any, basis: Any) -> tuple[Either, Any, None]:
    z, squares = _opened(z, off, basis)
    return z, at_hand(squares), None


def _measured(z: Any) -> tuple[Either, Any, Any]:
    """A block as it is, squared lengths and the Gram matrix."""
    gram = at_hand(inner(z, z))
    return z, gram.diagonal().real, gram


def _is_in_range(squares: Any) -> Any:
    """Whether squared lengths have room for what is left of them.

    Columns of zeros are as good as any.
    """
    info = jnp.finfo(squares.dtype)
    # `_there` looks for δ² of a square, which must not have been flushed to 0.
    small = float(info.tiny) / float(info.eps) ** 3
    return ((squares > small) & (squares < float(info.max) * float(info.eps))).all()


_in_range = compiled_unless_numpy(_is_in_range)


def _are_there(gram: Any, lengths: Any, number: Any) -> tuple[Any, Any]:
    """Which columns have something left, and whether all have."""
    xp, shift = namespace(gram), _shift(gram)
    # A shifted round leaves what depends on other columns shorter than √δ. Before the
    # first one a projection alone has shortened them: less than δ is rounding.
    least = xp.where(number == 0, shift**2, shift).astype(lengths.dtype) * lengths
    # NaN counts as there: it must come through.
    there = ~(xp.diagonal(gram).real <= least)
    return there, there.all()


_there = compiled_unless_numpy(_are_there)


@compiled_unless_numpy
def _filled(z: Either, there: Either, seed: Seed, number: Any) -> tuple[Either, Either]:
    """Random columns in place of those that are not there, and the Gram matrix."""
    (n, width), dtype = z.shape, z.dtype
    # About as long as the others.
    fresh = random_block(fold(seed, number), n, width, dtype) * n**-0.5
    z = namespace(z).where(there[None, :], z, fresh)
    return z, product(z.conj().T, z)


def _turn_of(
    gram: Any, lengths: Any, complete: Any, loose: Any, enough: Any
) -> tuple[Any, Any, Any, Any]:
    """What Z is multiplied by; whether it needs cleaning then, and is orthonormal.

    And how many times the shift was that there had to be, 1 as a rule.
    """
    xp, (width, dtype) = namespace(gram), (gram.shape[0], gram.dtype)
    eye, squares = xp.eye(width, dtype=dtype), gram.diagonal().real
    # Orthogonality that is lost to cancellation shows as lost length; new columns are
    # cleaned in the next round.
    close = complete & (abs(gram - eye).max() < 0.5 / width**0.5)
    scale = (1.0 / xp.sqrt(squares)).astype(dtype)
    # A unit diagonal makes the shift relative to each column.
    unit = gram * scale[:, None] * scale[None, :]
    shift = xp.where(close, 0.0, _shift(gram)).astype(dtype)
    inverse, diagonal, shift = _factored(unit, shift)
    # QᴴQ has the eigenvalues λ / (λ + δ), and 1 / (λ + δ) ≤ ‖L⁻¹‖².
    loss = (abs(inverse) ** 2).sum() * xp.where(close, _shift(gram), shift.real)
    # diag(L)² is the share of a square that the columns before leave.
    is_dirty = ~complete | (squares * diagonal**2 < enough * lengths).any()
    # QᴴQ = I − δ K, K = L⁻¹ L⁻ᴴ. Where K is small I + δ K / 2 takes the shift out again
    # and leaves 3/4 (δ K)², which is rounding (theory.md §6.2).
    k = product(inverse, inverse.conj().T)
    largest, eps = abs(k).sum(axis=0).max(), float(np.finfo(gram.dtype).eps)
    is_well = ~is_dirty & (largest < _WELL) & ((shift.real * largest) ** 2 < 0.5 * eps)
    back = xp.where(is_well, 0.5 * shift, 0.0).astype(dtype)
    turn = product(inverse.conj().T, eye + back * k)
    done = close | is_well | (loose & complete & (loss < 0.1))
    raised = xp.maximum(shift.real / _shift(gram), 1)
    return scale[:, None] * turn, is_dirty, done, raised


_turn = compiled_unless_numpy(_turn_of)


def _factored(unit: Any, shift: Any) -> tuple[Any, Any, Any]:
    """L⁻¹ and diagonal of L for unit + δ I = L Lᴴ, and δ: that shift or a larger one.

    Sums of many terms that are alike, as of constant columns, round one way, and leave
    a Gram matrix less positive than a shift that does not know the number of rows.
    """
    xp, eye = namespace(unit), namespace(unit).eye(len(unit), dtype=unit.dtype)

    def is_open(state: tuple[Any, Any, Any, Any]) -> Any:
        number, inverse, _, _ = state
        # Of what is not finite itself no shift makes anything.
        failed = ~xp.isfinite(inverse).all() & xp.isfinite(unit).all()
        return failed & (number < _MAX_SHIFTS)

    def again(state: tuple[Any, Any, Any, Any]) -> tuple[Any, Any, Any, Any]:
        number, _, _, shift = state
        shift = shift * xp.where(number > 0, 10, 1).astype(shift.dtype)
        return number + 1, *inverse_factor(unit + shift * eye), shift

    first = np.int32(0), xp.full_like(unit, np.nan), unit.diagonal().real, shift
    if xp is jnp:
        return jax.lax.while_loop(is_open, again, first)[1:]
    state = again(first)
    while is_open(state):
        state = again(state)
    return state[1:]


def complete(
    a: LinearMap,
    singular_values: Float[Either, " b"],
    left: Inexact[Either, "n b"],
    right: Inexact[Either, "m b"],
    seed: Seed,
) -> tuple[Inexact[Either, "n b"], Inexact[Either, "m b"]]:
    """Put vectors of zero singular values into the subspaces that are looked at.

    A dense factorisation completes its bases with whatever is orthogonal, also with the
    deflated constants. Values that count as 0 by the sizes of the matrix may still be
    known, with their vectors: only those that are rounding of s_1 are replaced.
    """
    xp = namespace(singular_values)
    # Columns of zeros are replaced by random ones off all others.
    largest = xp.maximum(singular_values.max(), a.scale)
    rounding = 10.0 * float(np.finfo(singular_values.dtype).eps)
    there = singular_values > rounding * largest
    return (
        orthonormalize(
            xp.where(there[None, :], left, 0.0), seed, project=a.project_left
        ),
        orthonormalize(
            xp.where(there[None, :], right, 0.0), seed, project=a.project_right
        ),
    )


def fix_signs(
    left: Inexact[Either, "n b"], right: Inexact[Either, "m b"]
) -> tuple[Inexact[Either, "n b"], Inexact[Either, "m b"]]:
    """Turn each pair so that the left entry of largest modulus is positive.

    Of entries that are as large but for a relative √eps the first counts, so that the
    sign hangs neither on rounding nor on how many devices summed. Over devices a
    maximum, a minimum and a sum of a number a column.
    """
    xp = namespace(left)
    modulus = abs(left)
    rows = xp.arange(left.shape[0], dtype=np.int32)[:, None]
    least = 1.0 - float(np.finfo(left.dtype).eps) ** 0.5
    is_large = modulus >= least * modulus.max(axis=0, keepdims=True)
    # Not argmax, for which devices gather what each has found.
    first = xp.where(is_large, rows, left.shape[0]).min(axis=0, keepdims=True)
    entries = xp.where(rows == first, left, 0).sum(axis=0)
    modulus = abs(entries)
    # The phase z / |z|, and 1 at 0.
    phase = xp.where(modulus > 0, entries / xp.where(modulus > 0, modulus, 1.0), 1.0)
    turn = phase.astype(left.dtype).conj()[None, :]
    return left * turn, right * turn
