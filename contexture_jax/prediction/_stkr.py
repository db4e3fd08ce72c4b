"""Spectrally transformed kernel regression, matrix-free, on any operator."""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    as_device_array,
    check_coefficient,
    check_integer,
    check_ndim,
    check_values,
    is_traced,
)
from contexture_jax._core.either import as_devices, at_hand, namespace, product
from contexture_jax._core.fingerprint import of_one_law
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    Int,
    pytree_dataclass,
    summary,
)
from contexture_jax.contexts import as_context
from contexture_jax.operators import (
    AssociationOperator,
    MonteCarloOperator,
    ShardedMonteCarloOperator,
    conditional_expectation,
    monte_carlo_expectation,
)
from contexture_jax.prediction._equations import (
    Solved,
    check_self_adjoint,
    on_inputs,
    solve_columns,
    with_intercept,
)
from contexture_jax.prediction._ridge import ridge as ridge_fit
from contexture_jax.prediction._status import FitStatus, code_of, status_of
from contexture_jax.prediction._target import Scored, Target, as_target, as_weights
from contexture_jax.prediction._transform import SpectralTransform, Truncation

__all__ = ["STKRFit", "as_labelled", "as_tolerance", "stkr"]

# By bytes of a number: in float32 what rounding leaves of β = 1e-3 is not far below.
_TOLERANCES = {4: 1e-4, 8: 1e-12}
# Where the iteration ends. Values are off by residuals times the condition number, up
# to 1e4 for common β; rounding may leave residuals above this that are none of its own.
_AIMS = {4: 1e-4, 8: 1e-15}


@pytree_dataclass
class STKRFit(Scored):
    """A function of X by some labelled inputs, on all inputs of the operator.

    Attributes:
        values: f̂ on the inputs of the operator, shape (n, c).
        of_context: h with f̂(x) = E[h(A)|x] + `intercept` at any x, shape (m, c).
        intercept: shape (c,).
        residuals: of the equations, over the right-hand side, shape (c,): the norm in
            which the iteration is short.
        bound: ‖f̂ − f‖ in L²(P_X) is not above it, f what the equations say exactly,
            shape (c,). Of what is left of them; not of rounding in the products.
        num_iterations: shape ().
        code: how the solve ended, as `FitStatus.code`, shape ().
        fingerprint: of the context, by which `at` knows it.
    """

    values: Float[Array, "n c"]
    of_context: Float[Array, "m c"]
    intercept: Float[Array, " c"]
    residuals: Float[Array, " c"]
    bound: Float[Array, " c"]
    num_iterations: Int[Array, ""]
    code: Int[Array, ""]
    fingerprint: Any

    @property
    def status(self) -> FitStatus | Any:
        """How the solve ended: a `FitStatus`; the code inside a trace."""
        return status_of(self.code)

    def predict(self) -> Array | np.ndarray:
        """Classes, or numbers in the form of the labels, on all inputs."""
        return self.decided(self.values)

    def at(
        self,
        context: Any,
        x_new: Any,
        *,
        operator: MonteCarloOperator | ShardedMonteCarloOperator | None = None,
    ) -> Float[Array, "k c"]:
        """f̂ at new inputs, v_K(x)ᵀ θ: at those of the context `values` again.

        Args:
            context: that of the operator.
            x_new: as of `extend`.
            operator: of a Monte Carlo fit that operator, whose draws are used.

        Raises:
            CapabilityError: if the context cannot take new inputs.
            ValueError: if it is another context, or `x_new` does not fit it.
        """
        context = as_context(context)
        if operator is None:
            there = context.at(x_new)
            expected = "context must be the one of the fit"
            same = of_one_law(self.fingerprint, context.fingerprint, expected)
            found = conditional_expectation(there, self.of_context)
        else:
            expected = "operator must be the one of the fit"
            same = of_one_law(self.fingerprint, operator.fingerprint, expected)
            found = monte_carlo_expectation(operator, context, x_new, self.of_context)
        found = found + self.intercept[None, :]
        return found if same is True else jnp.where(same, found, jnp.nan)


def stkr(
    op: AssociationOperator,
    labels: ArrayLike,
    rows: ArrayLike,
    *,
    transform: SpectralTransform | Truncation,
    ridge: ArrayLike = 1e-3,
    weights: ArrayLike | None = None,
    intercept: bool = True,
    walk: Literal["double", "single"] = "double",
    num_classes: int | None = None,
    tol: float | None = None,
    max_iterations: int = 1000,
) -> STKRFit:
    """Spectrally transformed kernel regression from some labelled inputs of a context.

    The minimum of Σ_i w_i (y_i − b − f(x_i))² + β ‖f‖²_{K_s} over the labelled inputs,
    K_s = Σ_{i≥1} s(λ_i) μ_i μ_i the dual kernel k_X⁺ − 1 with its eigenvalues λ_i =
    s_i² transformed (Zhai, Pukdee, Jin, Balcan & Ravikumar 2024;
    theory.md §8.2). Unlabelled inputs take part through
    P_X and k_X⁺. All classes and b are solved at once, by conjugate gradients on
    products with T and T*; nothing of n × n numbers is stored.

    * `polynomial`: (√w G_s √w + β) a = √w y with G_s by Horner's rule, q double steps
      an iteration, one of which is of the labelled inputs alone where the operator is
      dense or a kernel: of q = 1 an iteration takes l m kernel values, not n m.
    * `inverse_laplacian`, `inverse_polynomial`: the θ form, f = v_Kᵀ θ, by
      h = T* (θ / p) with f = T h and f̂(x) = E[h(A)|x] at new inputs:
      T* (w / p) T h + β ξ(T* T) h = T* (w y / p); a double step an
      iteration, and one more for each ξ beyond ξ_1.
    * `truncation`: d × d equations, solved directly: `ridge` on the functions.

    With `walk="single"` K_s is of T itself, Σ s(s_i) μ_i μ_i, as of a `graph` whose
    weights are a kernel of its points: a polynomial in √λ, which falls more slowly.

    Args:
        op: T, on all inputs, labelled or not, shape (n, m).
        labels: of the labelled inputs: floating numbers, shape (l,) or (l, c), or
            classes of any kind, shape (l,).
        rows: which inputs they are of, shape (l,), integer.
        transform: s.
        ridge: β, positive.
        weights: w of the labelled inputs, over their sum, shape (l,); None: alike.
        intercept: False: b = 0 and the kernel is k_X⁺ itself, whose eigenfunction 1 has
            the eigenvalue 1, penalised with the others.
        walk: "double": of T T*, a step to A and back, of any context; "single": of T,
            where it is self-adjoint and has no negative eigenvalue, with a `polynomial`
            whose first coefficients count walks of one step, two, ….
        num_classes: C for classes 0, …, C − 1; needed inside a trace.
        tol: of the residuals; None: 1e-4 in float32, and in float64 as small as they
            get, of which 1e-12 counts as converged.
        max_iterations: of conjugate gradients.

    Returns:
        Values on all inputs, with residuals, a bound and a status. Inputs without mass
        get b.

    Raises:
        TypeError: if `op` is no operator, `rows` no integers, or the labels neither
            numbers nor classes.
        ValueError: if rows and labels do not match, a row is out of range or without
            mass, a number is not finite, or there is one class, or one without a row;
            or if T is not self-adjoint, or s no polynomial, with a single step.

    Example:
        >>> import numpy as np
        >>> import contexture_jax as cx
        >>> x = np.random.default_rng(0).normal(size=(60, 2)).astype("float32")
        >>> x[30:] += 6  # two clumps, with a label each
        >>> context = cx.contexts.knn(x, 8)
        >>> fit = cx.prediction.stkr(
        ...     cx.association_operator(context), ["a", "b"], [0, 59],
        ...     transform=cx.prediction.inverse_laplacian(0.99),
        ... )
        >>> fit.status == "converged", bool((fit.predict()[30:] == "b").all())
        (True, True)
        >>> fit.at(context, x[:3] + 0.1).shape
        (3, 2)
    """
    row_numbers, target, w = as_labelled(op, labels, rows, weights, num_classes)
    limit = as_tolerance(tol, op.dtype)
    max_iterations = check_integer(max_iterations, "max_iterations", low=1)
    check_coefficient(ridge, "ridge", positive=True)
    if walk not in ("double", "single"):
        raise ValueError(f'walk must be "double" or "single"; got {summary(walk)}')
    is_polynomial = getattr(transform, "form", None) == "polynomial"
    if walk == "single" and not is_polynomial:
        msg = f'transform must be a polynomial with walk="single"; got {transform}'
        raise ValueError(msg)
    if isinstance(transform, Truncation):
        return _truncated(op, target, row_numbers, w, transform, ridge, intercept)
    if not isinstance(transform, SpectralTransform):
        msg = f"transform must be one of prediction; got {summary(transform)}"
        raise TypeError(msg)
    if walk == "single":
        check_self_adjoint(op)
    if not intercept and transform.largest < 1:
        raise ValueError(
            "largest must be 1 without an intercept, as 1 is an eigenvalue"
        )
    columns, mass = at_hand((target.columns, w))
    xp, mass = namespace(columns), mass[:, None]
    if intercept:
        # What b = 1 would be predicted as: its equations give b.
        columns = xp.concatenate([columns, xp.ones_like(columns[:, :1])], axis=1)
    # (n, k): summed, should a row be named twice.
    pull = on_inputs(row_numbers, mass * columns, op.shape[0])
    mass = on_inputs(row_numbers, mass, op.shape[0])
    (beta,) = at_hand((jnp.asarray(ridge, op.dtype),))
    beta = as_devices(namespace(beta).broadcast_to(beta, columns.shape[1:]))
    solved = solve_columns(
        op,
        mass,
        pull,
        beta,
        transform,
        _aim(limit) if tol is None else limit,
        max_iterations,
        rows=None if is_traced(row_numbers) else np.unique(np.asarray(row_numbers)),
        centred=intercept,
        is_single=walk == "single",
    )
    return _fit_of(op, target, solved, mass, pull, limit, max_iterations, intercept)


def as_labelled(
    op: Any, labels: Any, rows: Any, weights: Any, num_classes: int | None
) -> tuple[Int[Array, " l"], Target, Float[Array, " l"]]:
    """Checked rows, their labels as columns, and weights that sum to 1."""
    if not isinstance(op, AssociationOperator):
        msg = (
            f"op must be an operator, as of cx.association_operator; got {summary(op)}"
        )
        raise TypeError(msg)
    numbers = as_device_array(rows, "rows")
    if not jnp.issubdtype(numbers.dtype, jnp.integer):
        msg = f"rows must hold numbers of rows; got dtype {numbers.dtype}"
        raise TypeError(msg)
    check_ndim(numbers, 1, "rows")
    n = op.shape[0]
    check_values(
        numbers, "rows", lambda v: (v >= 0) & (v < n), f"between 0 and {n - 1}"
    )
    target = as_target(labels, numbers.shape[0], op.dtype, num_classes, name="labels")
    if not is_traced(numbers, op.p_x):
        there = np.asarray(op.p_x)[np.asarray(numbers)] > 0
        if not there.all():
            msg = (
                "rows must have mass in the context; row"
                f" {int(np.asarray(numbers)[np.argmin(there)])} has none"
            )
            raise ValueError(msg)
    return numbers, target, as_weights(weights, numbers.shape[0], op.dtype)


def as_tolerance(tol: Any, dtype: Any) -> Float[Array, ""]:
    """The tolerance of the dtype where none is given."""
    tol = _TOLERANCES[np.dtype(dtype).itemsize] if tol is None else tol
    check_coefficient(tol, "tol")
    return jnp.asarray(tol, dtype)


def _aim(limit: Float[Array, ""]) -> Float[Array, ""]:
    """Of the iteration, where no tolerance is given but that of the dtype."""
    return jnp.asarray(_AIMS[limit.dtype.itemsize], limit.dtype)


def _fit_of(
    op: AssociationOperator,
    target: Target,
    solved: Solved,
    mass: Array,
    pull: Array,
    tol: Array,
    max_iterations: int,
    intercept: bool,
) -> STKRFit:
    """The fit of one set of labels, its intercept put in."""
    solved, mass, pull, p_x = at_hand((solved, mass, pull, op.p_x))
    xp = namespace(pull)
    f, h, bound = solved.values, solved.of_context, solved.bound
    b = xp.zeros(target.columns.shape[1], f.dtype)
    # Products that are not finite, or no residual in sight.
    with np.errstate(all="ignore"):
        if intercept:
            f, h, b, bound = with_intercept(p_x, solved, mass, pull)
    finite = xp.isfinite(solved.residuals).all() & xp.isfinite(f).all()
    code = code_of(
        finite,
        (solved.residuals <= at_hand(tol)).all(),
        solved.number >= max_iterations,
    )
    # The mean of the labels, where products are not finite.
    mean = pull.sum(axis=0)[: len(b)]
    found = (
        xp.where(finite, f, mean[None, :]),
        xp.where(finite, h, 0),
        xp.where(finite, b, mean),
        xp.where(finite, solved.residuals, np.inf)[: len(b)],
        xp.where(finite, bound, np.inf),
        solved.number,
        code,
    )
    return STKRFit(
        target.classes,
        target.is_vector,
        *as_devices(found),
        fingerprint=op.fingerprint,
    )


def _truncated(
    op: AssociationOperator,
    target: Target,
    rows: Array,
    w: Array,
    transform: Truncation,
    ridge: Any,
    intercept: bool,
) -> STKRFit:
    """Ridge regression on the functions themselves."""
    if not intercept:
        raise ValueError("intercept must be True with a truncation")
    same = of_one_law(
        transform.result.fingerprint, op.fingerprint, "op must be that of the result"
    )
    left, right = (f.astype(op.dtype) for f in at_hand(transform.features()))
    columns, rows = at_hand((target.columns, rows))
    xp = namespace(columns)
    y = columns if target.classes is None else xp.argmax(columns, axis=1)
    fit = ridge_fit(
        left[rows],
        y,
        ridges=ridge,
        weights=w,
        num_classes=None if target.classes is None else len(target.classes),
    )
    w, b = at_hand((fit.weights, fit.intercept))
    values = product(left, w) + b[None, :]
    xp = namespace(values)
    nothing = xp.zeros_like(b)
    finite = xp.isfinite(values).all() & at_hand(same)
    yes, no = (xp.asarray(one) for one in (True, False))
    found = (
        xp.where(finite, values, 0),
        product(right, w),
        b,
        nothing,
        nothing,
        xp.asarray(0, np.int32),
        code_of(finite, yes, no),
    )
    return STKRFit(
        target.classes,
        target.is_vector,
        *as_devices(found),
        fingerprint=op.fingerprint,
    )
