"""Gradients of singular values by perturbation theory, not through the iterations.

For M = U diag(s) Vᴴ and a change dM, ds_i = Re⟨u_i, dM v_i⟩: the gradient of
Σ_i c_i s_i is that of Σ_i c_i Re⟨u_i, M v_i⟩ with the vectors held fixed, which is the
pull-back of one product with M (theory.md §6.10).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from contexture_jax._core.checks import gathered, is_traced
from contexture_jax._core.numerics import safe_divide
from contexture_jax._core.types import Array, Bool, Float
from contexture_jax.solvers._linear_map import LinearMap
from contexture_jax.solvers._results import SolveInfo, SVDResult
from contexture_jax.solvers._run import total_energy

__all__ = ["Problem", "implicit_svd"]

# Cotangents of values that differ by δ may differ by that many times δ / s_1 of the
# largest cotangent: more is no smooth symmetric function.
_STEEPNESS = 100.0


class Problem(NamedTuple):
    """What a solver works on, as a function of the arrays that it is made of.

    Attributes:
        map: the matrix M.
        squared_norm: ‖M‖_F², shape (); None where it is estimated.
        pairing: from the result at these arrays, held fixed, and c, shape (rank,), to a
            number, shape (), whose gradient in the arrays is that of Σ_i c_i s_i.
    """

    map: LinearMap
    squared_norm: Float[Any, ""] | None
    pairing: Callable[[SVDResult, Float[Array, " rank"]], Float[Array, ""]]


Run = Callable[[Any, Array], tuple[SVDResult, SolveInfo]]
MakeProblem = Callable[[Any], Problem]


def implicit_svd(
    run: Run, make_problem: MakeProblem, operands: Any, key: Array, *, kept: bool = True
) -> tuple[SVDResult, SolveInfo]:
    """`run(operands, key)`, with the gradient of what has one.

    Singular values and the two energies have gradients with respect to the floating
    leaves of `operands`. Everything else in the info counts as constant. Singular
    vectors have none: a cotangent for them raises.

    Not inside a compiled program but around it, so that eager `jax.grad` sees values:
    it can tell a cluster from separate values, and raise.

    Args:
        run: the compiled solver.
        make_problem: gives the matrix that `run` decomposes; hashable.
        operands: any pytree.
        key: random key.
        kept: whether the program of the backward pass is kept, and `make_problem` with
            it.
    """
    # Past machinery that takes as long as some passes over a small matrix.
    if not is_traced(operands, key):
        return run(operands, key)
    return _implicit_svd(run, make_problem, kept, operands, key)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _implicit_svd(
    run: Run, make_problem: MakeProblem, kept: bool, operands: Any, key: Array
) -> tuple[SVDResult, SolveInfo]:
    del make_problem, kept
    return run(operands, key)


def _forward(
    run: Any, make_problem: Any, kept: bool, operands: Any, key: Any
) -> tuple[Any, Any]:
    del make_problem, kept
    # With symbolic zeros a primal comes as its value and whether it is perturbed.
    operands, key = jax.tree.map(lambda primal: primal.value, (operands, key))
    result, info = run(operands, key)
    return (result, info), (operands, key, result)


def _backward(
    run: Any, make_problem: Any, kept: bool, saved: Any, cotangents: Any
) -> tuple[Any, None]:
    del run
    operands, key, result = _differentiated_once(saved)
    result_bar, info_bar = cotangents
    # First: nothing need be compiled to refuse.
    for side in ("left", "right"):
        _require_zero(getattr(result_bar, side), side)
    bars = _as_zero(
        result_bar.singular_values, info_bar.total_energy, info_bar.tail_energy
    )
    # Only what counts as constant was used: residuals, say.
    if all(bar is None for bar in bars):
        return None, None
    # Functions of a map may be made anew at each call: kept, they would pile up with
    # their programs.
    if kept:
        pull_back = functools.partial(_compiled, make_problem=make_problem)
    else:
        pull_back = jax.jit(functools.partial(_pull_back, make_problem=make_problem))
    gradient, vanishing, tied = pull_back(operands, key, result, bars)
    # With values at hand what does not exist is refused; a trace gets an element of
    # the generalised gradient.
    if not is_traced(vanishing, tied):
        found = (result.singular_values, vanishing, tied)
        _raise_where_undefined(*map(gathered, found))
    leaves, structure = jax.tree.flatten(operands)
    inexact = iter(gradient)
    # Integers and keys have no cotangent.
    full = [next(inexact) if _is_inexact(leaf) else None for leaf in leaves]
    return jax.tree.unflatten(structure, full), None


@jax.custom_jvp
def _differentiated_once(saved: Any) -> Any:
    """What it is given; whoever differentiates through it is told why not."""
    return saved


@_differentiated_once.defjvp
def _(primals: Any, tangents: Any) -> Any:
    del primals, tangents
    msg = (
        "no second derivatives go through a spectrum: its gradient is a function of the"
        " singular functions, through which no gradient goes"
    )
    raise TypeError(msg)


_implicit_svd.defvjp(_forward, _backward, symbolic_zeros=True)


def _pull_back(
    operands: Any,
    key: Array,
    result: SVDResult,
    bars: tuple[Array | None, Array | None, Array | None],
    *,
    make_problem: MakeProblem,
) -> tuple[list[Array], Bool[Array, " rank"], Bool[Array, " rank"]]:
    """Cotangents of the floating leaves, and which values have no gradient."""
    s = result.singular_values
    s_bar, total_bar, tail_bar = bars
    # (rank,): c_i = ∂L / ∂s_i.
    c = jnp.zeros_like(s) if s_bar is None else s_bar
    if tail_bar is not None:
        # The tail is the whole less Σ s_i².
        c = c - 2.0 * s * tail_bar
        total_bar = tail_bar if total_bar is None else total_bar + tail_bar
    c, vanishing, tied = _average_over_clusters(s, c, make_problem(operands).map)
    leaves, structure = jax.tree.flatten(operands)

    # Of this only the gradient means something (theory.md §6.10): triples are held.
    def functional(inexact: list[Array]) -> Float[Array, ""]:
        fill = iter(inexact)
        full = [next(fill) if _is_inexact(leaf) else leaf for leaf in leaves]
        problem = make_problem(jax.tree.unflatten(structure, full))
        value = jnp.zeros((), s.dtype)
        if s_bar is not None or tail_bar is not None:
            value = value + problem.pairing(result, c)
        if total_bar is not None:
            total = total_energy(problem.map, key, problem.squared_norm)
            value = value + total_bar * total
        return value

    value, transpose = jax.vjp(functional, [x for x in leaves if _is_inexact(x)])
    (gradient,) = transpose(jnp.ones_like(value))
    return gradient, vanishing, tied


_compiled = jax.jit(_pull_back, static_argnames="make_problem")


def _average_over_clusters(
    s: Float[Array, " rank"], c: Float[Array, " rank"], a: LinearMap
) -> tuple[Float[Array, " rank"], Bool[Array, " rank"], Bool[Array, " rank"]]:
    """Cotangents that are equal in clusters, and where others were asked for.

    Values closer than `a.cutoff` are one cluster, values not above it are 0. Cotangents
    that differ inside a cluster become their mean; a cotangent of a 0 that is not
    itself as small becomes 0. Both are elements of the generalised gradient
    (theory.md §6.10), and the same whatever basis the solver found.

    Returns:
        The cotangents, the zeros that had one, the members of clusters with unequal
        ones; each of shape (rank,).
    """
    # What solvers take for 0 they cannot tell apart either.
    cutoff = a.cutoff(s)
    top = jnp.abs(c).max()
    # Cotangents come from rounded values: half of their digits must agree.
    near = float(np.finfo(s.dtype).eps) ** 0.5
    largest = jnp.maximum(s.max(), a.scale)

    # A smooth function that is even in s has a cotangent that goes to 0 with s.
    zero = s <= cutoff
    even = near * top + _STEEPNESS * top * safe_divide(s, largest)
    # With no other value to compare with, the norm before deflation, 1, is the scale.
    even = jnp.where(zero.all(), jnp.maximum(even, near * a.scale), even)
    vanishing = zero & (jnp.abs(c) > even)
    # (u, v) and (u, −v) both occur near a 0: their average (theory.md §6.10).
    c = jnp.where(vanishing, 0.0, c)

    gap = s[:-1] - s[1:]
    # (r − 1,): pairs of neighbours within one cluster.
    linked = (gap <= cutoff) & ~zero[:-1] & ~zero[1:]
    # Values of a cluster are not quite equal, and so need cotangents not be.
    smooth = near * top + _STEEPNESS * top * safe_divide(gap, largest)
    jump = linked & (jnp.abs(c[:-1] - c[1:]) > smooth)
    number = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(~linked)])
    same = number[:, None] == number[None, :]
    # One jump anywhere in a cluster unsettles all of it.
    broken = jnp.concatenate([jump, jnp.zeros(1, bool)])
    tied = (same & broken[None, :]).any(axis=1)
    mean = (same * c[None, :]).sum(axis=1) / same.sum(axis=1)
    # Others stay as they are, to the last bit.
    return jnp.where(tied, mean, c), vanishing, tied


def _raise_where_undefined(s: np.ndarray, vanishing: np.ndarray, tied: Any) -> None:
    if vanishing.any():
        names = _numbers(vanishing)
        msg = (
            f"singular value(s) {names} are 0, where a singular value is no"
            " differentiable function: differentiate a function that is even in them,"
            " such as the sum of squares, or ask for a smaller rank. (Inside jax.jit,"
            " which cannot see values, their part of the gradient is 0.)"
        )
        raise ValueError(msg)
    if tied.any():
        values = ", ".join(f"{value:.6g}" for value in s[tied])
        msg = (
            f"singular values {_numbers(tied)} are numerically equal ({values}), so"
            " that no one of them has a gradient, but symmetric functions of them"
            " have: differentiate their sum, their sum of squares or another function"
            " that treats the whole cluster alike. (Inside jax.jit, which cannot see"
            " values, each counts as the mean of its cluster.)"
        )
        raise ValueError(msg)


def _numbers(mask: np.ndarray) -> str:
    return ", ".join(str(int(i) + 1) for i in np.flatnonzero(mask))


def _require_zero(bar: Any, side: str) -> None:
    if isinstance(bar, SymbolicZero) or _vanishes(bar):
        return
    msg = (
        f"no gradient goes through `{side}`, the singular functions: they are defined"
        " up to sign, and up to rotation inside a cluster of equal singular values."
        " Differentiate functions of `singular_values`, or hold the functions fixed"
        f" with jax.lax.stop_gradient(result.{side})"
    )
    raise TypeError(msg)


# Eagerly a cotangent may be an array of zeros: of something times 0.
def _vanishes(bar: Any) -> bool:
    return not is_traced(bar) and not np.any(gathered(bar))


def _as_zero(*bars: Any) -> tuple[Any, ...]:
    """None in place of a symbolic zero."""
    return tuple(None if isinstance(bar, SymbolicZero) else bar for bar in bars)


def _is_inexact(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.inexact))
