"""The equations of a spectrally transformed kernel, solved column by column."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import is_concrete
from contexture_jax._core.either import Either, at_hand, namespace
from contexture_jax._core.numerics import mm, safe_divide
from contexture_jax._core.types import Array, Float, Int
from contexture_jax.operators import AssociationOperator
from contexture_jax.prediction._gradients import conjugate_gradients, lengths
from contexture_jax.prediction._transform import SpectralTransform

__all__ = [
    "Solved",
    "check_self_adjoint",
    "on_inputs",
    "solve_columns",
    "with_intercept",
]


class Solved(NamedTuple):
    """What the equations of some columns give.

    Attributes:
        values: f, shape (n, k).
        of_context: h, shape (m, k).
        residuals: relative, shape (k,).
        bound: on ‖f̂ − f‖ in L²(P_X), shape (k,).
        bound_seen: on the root of Σ w (f̂ − f)², shape (k,).
        number: of iterations, shape ().
    """

    values: Float[Array, "n k"]
    of_context: Float[Array, "m k"]
    residuals: Float[Array, " k"]
    bound: Float[Array, " k"]
    bound_seen: Float[Array, " k"]
    number: Int[Array, ""]


def solve_columns(
    op: AssociationOperator,
    mass: Float[Array, "n l"],
    pull: Float[Array, "n k"],
    beta: Float[Array, " k"],
    transform: SpectralTransform,
    tol: Float[Array, ""],
    max_iterations: int,
    *,
    rows: Int[np.ndarray, " seen"] | None,
    centred: bool,
    is_single: bool = False,
) -> Solved:
    """The function of each column: the minimum of Σ w (y − f)² + β ‖f‖²_{K_s}.

    Args:
        op: T.
        mass: w on all inputs, 0 where there is no label, shape (n, 1) or (n, k).
        pull: w y, shape (n, k).
        beta: β, shape (k,).
        transform: s.
        tol: of the residuals, shape ().
        max_iterations: of conjugate gradients.
        rows: the inputs where w is not 0, distinct, for operators whose products are
            shorter there; None: not known, within a trace.
        centred: whether the kernel is k_X⁺ − 1.
        is_single: whether K_s is of T, which is self-adjoint, and not of T T*: of a
            polynomial alone.
    """
    # Rounded on the host, as a program for that would be one more.
    coefficients, limits = (
        jnp.asarray(np.asarray(values, op.dtype))
        for values in (
            transform.coefficients,
            # √(what s is not above), and the least of ξ, for the bounds.
            [transform.highest**0.5, transform.lowest],
        )
    )
    common = op, mass, pull, beta, coefficients, limits, tol
    how: Any = {"max_iterations": max_iterations, "centred": centred}
    if transform.form == "inverse":
        return _by_theta(*common, **how)
    return _by_horner(*common, rows, is_single=is_single, **how)


def on_inputs(
    rows: Int[Any, " l"], columns: Float[Any, "l k"], num_rows: int
) -> Float[Array, "n k"]:
    """Columns at some of the inputs as columns at all, of one named twice the sum."""
    rows, columns = at_hand((rows, columns))
    shape = num_rows, columns.shape[1]
    if namespace(columns) is not np:
        return jnp.zeros(shape, columns.dtype).at[rows].add(columns)
    # The same program for any number of labels.
    wide = np.zeros(shape, columns.dtype)
    np.add.at(wide, rows, columns)
    return jnp.asarray(wide)


def _centred(op: AssociationOperator, centred: bool) -> tuple[Any, Any]:
    """T and T*, of functions of mean 0 if the kernel is k_X⁺ − 1."""
    p_x, p_a = op.p_x[None, :], op.p_a[None, :]

    def forth(h: Array) -> Array:
        h = h - mm(p_a, h) if centred else h
        return op.matmat(h)

    def back(f: Array) -> Array:
        h = op.rmatmat(f)
        return h - mm(p_x, f) if centred else h

    return forth, back


# Loops around products, traced once for operators and blocks of one shape.
@functools.partial(jax.jit, static_argnames=("max_iterations", "centred"))
def _by_theta(
    op: AssociationOperator,
    mass: Array,
    pull: Array,
    beta: Array,
    xi: Array,
    limits: Array,
    tol: Array,
    *,
    max_iterations: int,
    centred: bool,
) -> Solved:
    forth, back = _centred(op, centred)
    over_p, beta = safe_divide(mass, op.p_x[:, None]), beta[None, :]

    def apply(h: Array) -> Array:
        # T* (w / p) T h + β ξ(T* T) h, with one T and one T* for ξ_0 and ξ_1.
        f = forth(h)
        total = jnp.zeros_like(f)
        for coefficient in xi[:1:-1]:
            total = forth(back(total + coefficient * f))
        total = total + xi[1] * f if len(xi) > 1 else total
        return back(over_p * f + beta * total) + beta * xi[0] * h

    b = back(safe_divide(pull, op.p_x[:, None]))
    h, number = conjugate_gradients(
        apply, b, op.p_a, tol=tol / 2, max_iterations=max_iterations
    )
    left, right = lengths(b - apply(h), op.p_a), lengths(b, op.p_a)
    # ‖f̂ − f‖ in K_s is at most ‖r‖ / (β √ξ) with the least ξ (theory.md §8.2).
    short = left / jnp.sqrt(limits[1])
    mean = mm(op.p_a[None, :], h) if centred else jnp.zeros_like(h[:1])
    return Solved(
        forth(h),
        h - mean,
        safe_divide(left, right),
        limits[0] * short / beta[0],
        short / (2 * jnp.sqrt(beta[0])),
        number,
    )


@functools.partial(jax.jit, static_argnames=("max_iterations", "centred", "is_single"))
def _by_horner(
    op: AssociationOperator,
    mass: Array,
    pull: Array,
    beta: Array,
    pi: Array,
    limits: Array,
    tol: Array,
    rows: Any,
    *,
    max_iterations: int,
    centred: bool,
    is_single: bool,
) -> Solved:
    forth, back = _centred(op, centred)
    # a is 0 without a label: the first and the last step of a walk are of those inputs.
    there = None if rows is None else op.at_rows(rows)
    if there is not None:
        mass, pull = mass[rows], pull[rows]
    end = op if there is None else there
    to_end, from_end = _centred(end, centred)
    p, root = end.p_x[:, None], jnp.sqrt(mass)

    def started(u: Array) -> Array:
        """The first half of a double step, or u as it is on all inputs."""
        if not is_single:
            return from_end(u)
        if there is not None:
            u = jnp.zeros((op.shape[0], u.shape[1]), u.dtype).at[rows].set(u)
        return u - mm(op.p_x[None, :], u) if centred else u

    def stepped(h: Array) -> Array:
        return forth(h) if is_single else back(forth(h))

    beta = beta[None, :]

    def of_context(a: Array) -> Array:
        """The h with K_s √w a = T h."""
        first = started(safe_divide(root * a, p))

        def step(h: Array, coefficient: Array) -> tuple[Array, None]:
            return coefficient * first + stepped(h), None

        return jax.lax.scan(step, pi[-1] * first, pi[:-1][::-1])[0]

    def apply(a: Array) -> Array:
        return root * to_end(of_context(a)) + beta * a

    # √w y, of the labelled inputs alone.
    b, ones = safe_divide(pull, root), jnp.ones_like(end.p_x)
    a, number = conjugate_gradients(
        apply, b, ones, tol=tol / 2, max_iterations=max_iterations
    )
    h = of_context(a)
    rest = b - root * to_end(h) - beta * a
    left, right = lengths(rest, ones), lengths(b, ones)
    return Solved(
        forth(h),
        h,
        safe_divide(left, right),
        limits[0] * left / (2 * jnp.sqrt(beta[0])),
        left,
        number,
    )


def check_self_adjoint(op: AssociationOperator) -> None:
    """By one product of each kind: of a function of no structure."""
    same = op.shape[0] == op.shape[1]
    if same and is_concrete(op.p_x):
        n = op.shape[0]
        probe = np.random.default_rng(0).standard_normal((n, 1)).astype(op.dtype)
        one, other = (np.asarray(f) for f in (op.matmat(probe), op.rmatmat(probe)))
        rounding = 1e3 * float(np.finfo(op.dtype).eps)
        same = bool(np.abs(one - other).max() <= rounding * np.abs(probe).max())
    if not same:
        msg = (
            'op must be self-adjoint with walk="single", as of contexts.graph; it is'
            ' not: use walk="double", T T*'
        )
        raise ValueError(msg)


def with_intercept(
    p_x: Either, solved: Solved, mass: Either, pull: Either
) -> tuple[Either, Either, Either, Either]:
    """Values and h with b, b, and the bound; the last column is that of y = 1.

    b is where the labelled residuals have the mean 0: Σ w (y − g_y) / Σ w (1 − g_1),
    and the function g_y − b g_1 + b.
    """
    xp = namespace(pull)
    missing = pull.sum(axis=0) - xp.sum(mass * solved.values, axis=0)
    b = missing[:-1] / missing[-1]
    f = solved.values[:, :-1] - b[None, :] * (solved.values[:, -1:] - 1)
    h = solved.of_context[:, :-1] - b[None, :] * solved.of_context[:, -1:]
    of_y, of_one = solved.bound[:-1], solved.bound[-1]
    seen, one_seen = solved.bound_seen[:-1], solved.bound_seen[-1]
    # Of quotients; where the denominator may be 0 nothing is known.
    room = missing[-1] - one_seen
    of_b = xp.where(room > 0, (seen + xp.abs(b) * one_seen) / room, np.inf)
    norm = xp.sqrt(xp.sum(p_x * solved.values[:, -1] ** 2))
    bound = of_y + xp.abs(b) * of_one + of_b * (1 + norm + of_one)
    return f, h, b, bound
