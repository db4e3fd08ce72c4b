"""A judge of contexts before any task: do their functions tell the columns of X?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from contexture_jax._core.types import Array, ArrayLike, Bool, Float, Int, short_repr
from contexture_jax.evaluation._tradeoff import leave_one_out_errors

__all__ = ["ColumnErrors", "column_errors"]

_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_LEAST_TOLD = 0.05  # of the variance: less is taken for nothing


@short_repr
class ColumnErrors(NamedTuple):
    """How well functions of the rows tell the columns of rows left out.

    Attributes:
        errors: of the first d functions, as a share of the variance of the columns,
            d = 1, …, k, shape (k,).
        least: the smallest of them, shape ().
        best_dim: the smallest d that attains it, shape ().
        abstains: whether no d tells a twentieth of the variance: then the order of two
            such contexts means nothing, shape ().
    """

    errors: Float[Array, " k"]
    least: Float[Array, ""]
    best_dim: Int[Array, ""]
    abstains: Bool[Array, ""]


def column_errors(
    columns: ArrayLike,
    left: ArrayLike,
    p_x: ArrayLike | None = None,
    *,
    ridges: Sequence[float] = _RIDGES,
) -> ColumnErrors:
    """The error of the first d functions of a context on the columns of its inputs.

    A criterion without labels: the target is taken for one more column. Of a table with
    c + 1 columns, one of which, drawn at random, is called the target, the mean error
    on the other c is, but for the place of that one among the inputs, an unbiased
    estimate of the mean error on the target. Here each column is predicted for every
    row by ridge regression on the other rows, in closed form (`leave_one_out_errors`),
    and errors are pooled by variance: columns count as their scale makes them count in
    the distances of a context. It takes both extremes for what they are: functions of
    an identity-like context tell of one row what no other row knows, those of a context
    that is too weak are few or nothing but noise; and it has a d of its own.

    On the twelve tables of `benchmarks/README.md` it goes with the error of a target at
    least as closely as τ, by both correlations: the error at the d of τ with `errors`
    there on 9, that at the d of validation with `least` on 11. It fails at the d of τ
    on abalone and wine, of which one row in a hundred and in thirty is of the smaller
    class, and both ways on phoneme, whose classes take finer functions than its
    columns. What it does not see:

    * A target unlike the columns. Functions that are linear in the columns tell them
      all with d = c: of points on rings a context with linear functions has error 0,
      and the target "which ring" needs others.
    * A column of noise, which no function tells, counts as any other; and a context
      that was made of one column has no credit for a target that is that column.
    * Contexts of which two have nearly one error: the spread over other tables is that
      of columns, of which there may be few.

    Args:
        columns: the rows as the context sees them, in its scale, shape (n, c), real.
        left: functions as columns, orthonormal in L²(P_X), shape (n, k).
        p_x: probabilities of the rows, shape (n,); None: uniform.
        ridges: as for `leave_one_out_errors`.

    Raises:
        TypeError: if an argument is traced.
        ValueError: if shapes do not fit, or all columns are constant.

    Example:
        >>> import numpy as np
        >>> import contexture_jax as cx
        >>> x = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
        >>> q, _ = np.linalg.qr(x - x.mean(axis=0))
        >>> found = cx.evaluation.column_errors(x, 60**0.5 * q)
        >>> int(found.best_dim), bool(found.least < 0.01)
        (2, True)
    """
    curve = np.asarray(leave_one_out_errors(columns, left, p_x, ridges=ridges))
    best = int(curve.argmin())
    least = curve[best]
    found = (curve, least, np.int32(best + 1), np.asarray(least > 1 - _LEAST_TOLD))
    return ColumnErrors(*jax.device_put(found))
