"""How an iteration of a fit ended."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np

from contexture_jax._core.checks import is_concrete
from contexture_jax._core.either import Either, namespace
from contexture_jax._core.types import Int

__all__ = ["FitStatus", "code_of", "status_of"]


class FitStatus(StrEnum):
    """How a fit ended. Compares equal to its text, as in `status == "converged"`."""

    CONVERGED = "converged"
    MAX_ITERATIONS = "max iterations"
    ROUNDING = "rounding"
    NON_FINITE = "non-finite"

    @property
    def code(self) -> int:
        """The integer that compiled fits return in place of the text."""
        return list(FitStatus).index(self)

    @property
    def advice(self) -> str:
        """What to make of it, and what to do next."""
        return _ADVICE[self]


_ADVICE = {
    FitStatus.CONVERGED: "what is left of the equations is at most tol",
    FitStatus.MAX_ITERATIONS: (
        "what is left of the equations is above tol: raise max_iterations, tol or the"
        " ridge"
    ),
    FitStatus.ROUNDING: (
        "no step makes it better: tol is below what rounding leaves; raise it, or use"
        " float64"
    ),
    FitStatus.NON_FINITE: (
        "a product or a loss is NaN or infinite: the fit is the last that was finite;"
        " check the entries, and the scale of the features"
    ),
}


def status_of(code: Int[Any, "..."]) -> FitStatus | Any:
    """The word of a code; of several an array of words, inside a trace the code."""
    if not is_concrete(code):
        return code
    codes, words = np.asarray(code), list(FitStatus)
    if not codes.ndim:
        return words[int(codes)]
    return np.array([words[i] for i in codes.flat], object).reshape(codes.shape)


def code_of(finite: Either, done: Either, exhausted: Either) -> Int[Any, ""]:
    """The code of an iteration that ended."""
    where = namespace(finite).where
    ended = where(exhausted, FitStatus.MAX_ITERATIONS.code, FitStatus.ROUNDING.code)
    ended = where(done, FitStatus.CONVERGED.code, ended)
    return where(finite, ended, FitStatus.NON_FINITE.code).astype(np.int32)
