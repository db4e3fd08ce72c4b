"""Orthonormal bases of tall blocks, and the small factorisations behind a Ritz step.

Everything tall is a matrix product: the Gram matrix of a block is factored and its
inverse factor multiplies the block, as often as it takes. Nothing tall is ever handed
to LAPACK, so that rows may live on many devices. Directions that a block does not have
are replaced by random ones, so that a basis is always complete.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.factorizations import thin_svd
from contexture_jax._core.numerics import mm, safe_reciprocal
from contexture_jax._core.types import Array, Bool, Float, Inexact, Int
from contexture_jax.solvers._linear_map import LinearMap, identity
from contexture_jax.solvers._random import Seed, fold, random_block

__all__ = ["complete", "fix_signs", "orthonormalize", "ritz_svd", "ritz_triples"]

_MAX_ROUNDS = 6  # two suffice for most blocks, three where directions are missing


def orthonormalize(
    block: Inexact[Array, "n b"],
    seed: Seed,
    *,
    project: Any = identity,
    basis: Inexact[Array, "n l"] | None = None,
    loose: bool = False,
) -> Inexact[Array, "n b"]:
    """Orthonormal columns whose span holds that of a block, off a given basis.

    Shifted Cholesky QR, repeated (Fukaya, Kannan, Nakatsukasa, Yamamoto & Yanagisawa
    2020): in a round, Z is taken off the basis, G = Zᴴ Z is scaled to a unit diagonal,
    G + δ I = L Lᴴ with δ = 10 b · eps, and Z L⁻ᴴ follows, by a small explicit inverse
    and one product. The shift makes every factorisation succeed; a round divides the
    condition number by about δ^(-1/2). When G was close to I, the round was the last
    one, without the shift. A column that a round leaves shorter than √δ (in the first:
    δ) of its length depends on the others to within about δ and is replaced by a
    random one.

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
    n, width = block.shape
    dtype = block.dtype
    shift = 10 * width * float(np.finfo(dtype).eps)
    enough = 0.01 if basis is None else 0.5
    eye = jnp.eye(width, dtype=dtype)

    def clean(z: Array) -> Array:
        z = project(z)
        return z if basis is None else z - mm(basis, mm(basis.conj().T, z))

    def not_done(state: _State) -> Array:
        return ~state.done & (state.number < _MAX_ROUNDS)

    def one_round(state: _State) -> _State:
        number, z, lengths = state.number, state.block, state.lengths
        if basis is not None or project is not identity:
            (z,) = _if_needed(state.is_dirty, lambda z: (clean(z),), z)
        gram = mm(z.conj().T, z)
        left_over = jnp.diagonal(gram).real
        least = jnp.where(number == 0, shift**2, shift).astype(lengths.dtype) * lengths
        # NaN counts as there: it must come through.
        there = ~(left_over <= least)
        complete = there.all()

        def fill(z: Array, _: Array) -> tuple[Array, Array]:
            z = jnp.where(there[None, :], z, fresh(number))
            return z, mm(z.conj().T, z)

        z, gram = _if_needed(~complete, fill, z, gram)
        # Orthogonality that is lost to cancellation shows as lost length; new columns
        # are cleaned in the next round.
        close = complete & (jnp.abs(gram - eye).max() < 0.5 / width**0.5)
        scale = jax.lax.rsqrt(jnp.diagonal(gram).real).astype(dtype)
        unit = gram * scale[:, None] * scale[None, :]
        unit = unit + jnp.where(close, 0.0, shift).astype(dtype) * eye
        factor = jnp.linalg.cholesky(unit)
        inverse = jax.scipy.linalg.solve_triangular(factor, eye, lower=True)
        done = close
        if loose:  # QᴴQ has the eigenvalues λ / (λ + δ), and 1 / (λ + δ) ≤ ‖L⁻¹‖²
            done |= complete & ((jnp.abs(inverse) ** 2).sum() * shift < 0.1)
        left_over = left_over * jnp.diagonal(factor).real ** 2
        return _State(
            number + 1,
            mm(z, scale[:, None] * inverse.conj().T),
            jnp.ones_like(lengths),
            ~complete | (left_over < enough * lengths).any(),
            done,
        )

    def fresh(number: Array) -> Array:
        return random_block(fold(seed, number), n, width, dtype) * n**-0.5

    z, lengths = _in_range(block)
    start = _State(
        jnp.zeros((), jnp.int32), z, lengths, jnp.ones((), bool), jnp.zeros((), bool)
    )
    return jax.lax.while_loop(not_done, one_round, start).block


class _State(NamedTuple):
    """Between two rounds.

    Attributes:
        number: how many are done.
        block: Z.
        lengths: squared, of its columns, before anything is taken off them.
        is_dirty: whether it may have parts along the basis beyond rounding.
        done: whether it is orthonormal.
    """

    number: Int[Array, ""]
    block: Inexact[Array, "n b"]
    lengths: Float[Array, " b"]
    is_dirty: Bool[Array, ""]
    done: Bool[Array, ""]


def _if_needed(
    wanted: Array, function: Callable[..., tuple[Array, ...]], *values: Array
) -> tuple[Array, ...]:
    """function(*values) if wanted, else the values as they are, which copies nothing.

    A conditional copies what a branch hands through; a loop of no turns does not.
    """
    return jax.lax.fori_loop(
        0, wanted.astype(jnp.int32), lambda _, now: function(*now), values
    )


def _in_range(
    z: Inexact[Array, "n b"],
) -> tuple[Inexact[Array, "n b"], Float[Array, " b"]]:
    """A block and the squared lengths of its columns, scaled if they are extreme."""
    info = jnp.finfo(z.dtype)
    squares = (jnp.abs(z) ** 2).sum(axis=0)
    # The square of a length that rounding can tell from 0, with room for what is left
    # of it; columns of zeros are as good as any.
    small = float(info.tiny) / float(info.eps) ** 3
    inside = (squares > small) & (squares < float(info.max) * float(info.eps))

    def scaled(z: Array, squares: Array) -> tuple[Array, Array]:
        del squares
        # The largest entry goes first: its square must not leave the range.
        z = z * safe_reciprocal(jnp.abs(z).max(axis=0))[None, :]
        z = z * safe_reciprocal(jnp.sqrt((jnp.abs(z) ** 2).sum(axis=0)))[None, :]
        return z, (jnp.abs(z) ** 2).sum(axis=0)

    z, squares = _if_needed(~inside.all(), scaled, z, squares)
    return z, squares


def ritz_svd(
    image: Inexact[Array, "n b"],
    basis: Inexact[Array, "m b"],
    seed: Seed,
    *,
    num: int,
    project: Any = identity,
) -> tuple[Float[Array, " num"], Inexact[Array, "n num"], Inexact[Array, "m num"]]:
    """Leading singular triples of M on a subspace: M V = U S to rounding.

    Args:
        image: Y = M Q, shape (n, b).
        basis: Q, orthonormal, shape (m, b).
        seed: for left vectors of singular values 0.
        num: how many triples, at most b.
        project: projection that the left vectors must lie in the range of.

    Returns:
        s (num,) descending, U (n, num), V (m, num) with V = Q X and Y X = U diag(s).
    """
    q = orthonormalize(image, seed, project=project)
    return ritz_triples(image, q, basis, num=num)


def ritz_triples(
    image: Inexact[Array, "n b"],
    q: Inexact[Array, "n b"],
    basis: Inexact[Array, "m b"],
    *,
    num: int,
) -> tuple[Float[Array, " num"], Inexact[Array, "n num"], Inexact[Array, "m num"]]:
    """`ritz_svd` with a basis of the image at hand, shape (n, b)."""
    # svd(R), not eigh(YᴴY): the latter squares the condition number.
    w, s, xh = thin_svd(mm(q.conj().T, image))
    return s[:num], mm(q, w[:, :num]), mm(basis, xh[:num].conj().T)


def complete(
    a: LinearMap,
    singular_values: Float[Array, " b"],
    left: Inexact[Array, "n b"],
    right: Inexact[Array, "m b"],
    seed: Seed,
) -> tuple[Inexact[Array, "n b"], Inexact[Array, "m b"]]:
    """Put vectors of zero singular values into the subspaces that are looked at.

    A dense factorisation completes its bases with whatever is orthogonal, also with the
    deflated constants.
    """
    there = singular_values > a.cutoff(singular_values)
    return (
        orthonormalize(
            jnp.where(there[None, :], left, 0.0), seed, project=a.project_left
        ),
        orthonormalize(
            jnp.where(there[None, :], right, 0.0), seed, project=a.project_right
        ),
    )


def fix_signs(
    left: Inexact[Array, "n b"], right: Inexact[Array, "m b"]
) -> tuple[Inexact[Array, "n b"], Inexact[Array, "m b"]]:
    """Turn each pair so that the left entry of largest modulus is positive."""
    largest = jnp.argmax(jnp.abs(left), axis=0)
    entries = jnp.take_along_axis(left, largest[None, :], axis=0)[0]
    turn = _phase(entries).conj()[None, :]
    return left * turn, right * turn


def _phase(z: Inexact[Array, " b"]) -> Inexact[Array, " b"]:
    """The phase z / |z|, and 1 at 0."""
    modulus = jnp.abs(z)
    return jnp.where(modulus > 0, z * safe_reciprocal(modulus).astype(z.dtype), 1.0)
