"""Singular functions at points that the solver has not seen."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import as_floating, is_traced
from contexture_jax._core.fingerprint import is_mirrored, mirrored, of_one_law
from contexture_jax._core.meshes import beside_context, tree_on_auto_axes
from contexture_jax._core.numerics import rank_cutoff, safe_reciprocal
from contexture_jax._core.types import Array, Float, summary
from contexture_jax.contexts import CapabilityError, Context, as_context
from contexture_jax.operators import (
    MonteCarloOperator,
    ShardedMonteCarloOperator,
    conditional_expectation,
    monte_carlo_expectation,
)
from contexture_jax.solvers._results import SVDResult

__all__ = ["extend"]


@beside_context
def extend(
    result: SVDResult,
    context: Context | Any,
    x_new: Any,
    *,
    side: Literal["left", "right"] = "left",
    operator: MonteCarloOperator | ShardedMonteCarloOperator | None = None,
) -> Float[Array, "k rank"]:
    """Singular functions at new points: μ_i(x) = E[ν_i(A)|x] / s_i (theory.md §6).

    At the points of the context this gives the values of `result.left` back: to
    rounding, since the solvers return triples with T ν_i = s_i μ_i to rounding. The
    mirror image ν_i(a) = E[μ_i(X)|a] / s_i gives `result.right` back to
    `info.right_residuals` / s_i.

    Args:
        result: of `svd` on the operator of `context`.
        context: the context itself, or one with the same arrays and options.
        x_new: new points, in the form that the constructor of the context took: rows of
            features (k-NN, RBF, teacher: (k, d); attention: queries), of the table or
            adjacency matrix, classes (labels), or numbers of known rows for tables and
            pairs.
        side: "right" for new context values: `x_new` then holds features of those
            (k-NN, RBF; attention: keys), columns of the table as rows, or column
            numbers (for labels: class numbers).
        operator: for the result of a Monte Carlo operator that operator: E[ν(A)|x] is
            then estimated by its own draws (`operators.monte_carlo_expectation`), at
            any input, with an error of order m^{-1/2}; left functions only.

    Returns:
        Shape (k, rank), the dtype of `result`. Functions of singular value 0 are not
        determined by the context and come back as 0.

    Under `jit`, `vmap` and `jax.export` the points of a k-NN, RBF, attention or teacher
    context may be traced, and their number k left open by
    `jax.export.symbolic_shape`. Those of RBF and attention have gradients in reverse
    mode only, as `jax.grad`, `jax.vjp` and `jax.jacrev` take them: JAX refuses
    `jax.jvp` and `jax.jacfwd`, since tiles have a rule for the one and not the other.

    Raises:
        CapabilityError: if the context cannot take new points.
        TypeError: if it is differentiated in new points of a k-NN context, whose
            functions jump there.
        ValueError: if `x_new` does not fit the context, or is outside its support, or
            the result is that of another context (a trace gives NaN then): another
            number of neighbours, a part of a mixture, the context itself where the
            result is of `op.T` (that is extended by `contexts.reverse(context)`).
            Fingerprints tell, of the result and of the context. Where one of the two
            has none nothing is told, and any context of fitting shape is taken for the
            right one: of a result without, as from a file, and of a context whose class
            is no registered pytree of numbers, of which two objects look alike. Its
            Monte Carlo operator has one all the same, of its inputs and draws: an
            `operator` with others is refused.
    """
    if side not in ("left", "right"):
        msg = f'side must be "left" or "right"; got {summary(side)}'
        raise ValueError(msg)
    if not isinstance(result, SVDResult):
        msg = f"result must be the first that svd returns; got {type(result).__name__}"
        raise TypeError(msg)
    if operator is not None and side == "right":
        raise ValueError('side must be "left" with a Monte Carlo operator; got "right"')
    context = tree_on_auto_axes(as_context(context))
    # Each function is an average of its partner (theory.md §6.8).
    name = "right" if side == "left" else "left"
    values = as_floating(getattr(result, name), f"result.{name}")
    s = as_floating(result.singular_values, "result.singular_values")
    there: Any = None
    if operator is None:
        # T* is the expectation of the reversed context.
        try:
            there = (context if side == "left" else context.reverse()).at(x_new)
        except CapabilityError as error:
            if side == "right" or "log_density" not in context.capabilities:
                raise
            msg = (
                f"{error}. The result of a Monte Carlo operator is extended by its"
                " draws: extend(result, context, x_new, operator=op)"
            )
            raise CapabilityError(msg) from error
        # Before the product, which is what takes time.
        same = _is_of(result, context, "context")
        image = conditional_expectation(there, values)
    else:
        same = _is_of(result, operator, "operator")
        image = monte_carlo_expectation(operator, context, x_new, values)
    # The trivial value 1 is the scale of rounding, as in the solvers.
    shape = (result.left.shape[0], result.right.shape[0])
    cutoff = rank_cutoff(shape, s.dtype, np.ones((), s.dtype))
    return _over(image, s, cutoff, same)


@jax.jit
def _over(
    image: Float[Array, "k rank"], s: Float[Array, " rank"], cutoff: Any, same: Any
) -> Float[Array, "k rank"]:
    # Over a value that is rounding a function would be rounding at unit size.
    inverse = safe_reciprocal(jnp.where(s > cutoff, s, 0.0))
    # (k, rank), and NaN where a trace could not raise.
    return image * jnp.where(same, inverse, jnp.nan)[None, :]


def _is_of(result: SVDResult, law: Any, name: str) -> Any:
    """Whether a result is that of a context or operator; raises where it can tell."""
    expected = f"{name} must be the one of the result"
    mark, own = result.fingerprint, law.fingerprint
    can_turn = isinstance(law, Context) and "reverse" in law.capabilities
    # Of `op.T` and the reverse of the context of `op`, which may be arrays of its own.
    if not can_turn or not (is_traced(mark) or is_mirrored(mark)):
        return of_one_law(mark, own, expected)
    turned = _mark_of_adjoint(law)
    if turned is not None and is_traced(mark, own, turned):
        return of_one_law(mark, own, expected) | of_one_law(mark, turned, expected)
    is_turned = turned is not None and np.array_equal(mark, turned)
    return of_one_law(mark, turned if is_turned else own, expected)


def _mark_of_adjoint(context: Context) -> Any:
    """The fingerprint of T* of the reverse of a context; None if a trace has none."""
    try:
        with jax.ensure_compile_time_eval():
            return mirrored(as_context(context.reverse()).fingerprint)
    except TypeError:  # what is laid out on the host has no values there
        return None
