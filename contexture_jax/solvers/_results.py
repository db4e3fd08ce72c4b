"""What a solver returns: the triples, and how far they can be trusted."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, NamedTuple

import jax
import numpy as np

from contexture_jax._core.checks import gathered, is_concrete
from contexture_jax._core.fingerprint import forgotten
from contexture_jax._core.types import (
    Array,
    Float,
    Inexact,
    Int,
    describe,
    pytree_dataclass,
    short_repr,
    static_field,
)

__all__ = ["SVDResult", "SolveInfo", "Status"]


class Status(StrEnum):
    """How a solve ended. Compares equal to its text, as in `status == "converged"`."""

    CONVERGED = "converged"
    MAX_PASSES = "max passes"
    STOPPED = "stopped"
    RANK_DEFICIENT = "rank deficient"
    NON_FINITE = "non-finite"
    ABOVE_ONE = "above one"

    @property
    def code(self) -> int:
        """The integer that compiled solvers return in place of the text."""
        # By the order of definition, in which `SolveInfo.status` reads it back.
        return list(Status).index(self)

    @property
    def advice(self) -> str:
        """What to make of it, and what to do next."""
        return _ADVICE[self]


_ADVICE = {
    Status.CONVERGED: "every residual is at most tol times the largest singular value",
    Status.MAX_PASSES: (
        "some residuals are above tol: raise max_passes, num_oversamples or tol; after"
        ' method="exact": the two products are not adjoint to each other, or entries'
        " span more orders of magnitude than the dtype has"
    ),
    Status.STOPPED: (
        "on_step asked for an end: the triples are those of the last pass, as exact as"
        " their residuals say; go on from the state"
    ),
    Status.RANK_DEFICIENT: (
        "the operator has fewer than `rank` singular values above rounding: the last"
        " ones are 0 and their functions an arbitrary orthonormal completion"
    ),
    Status.NON_FINITE: "the operator returned NaN or infinity: check its entries",
    Status.ABOVE_ONE: (
        "a singular value is above 1, the norm of every expectation operator, by more"
        " than rounding: the products are not those of one joint law, or their entries"
        " have lost digits: use float64"
    ),
}


class _Triples(NamedTuple):
    singular_values: Float[Array, " rank"]
    left: Inexact[Array, "n rank"]
    right: Inexact[Array, "m rank"]


@short_repr
class SVDResult(_Triples):
    """The leading singular triples, the trivial one (s_0 = 1, constants) left out.

    Attributes:
        singular_values: s_1 ≥ s_2 ≥ … ≥ 0, shape (rank,).
        left: μ_i as columns, shape (n, rank). From `svd`: orthonormal in L²(P_X) with
            mean 0; from `truncated_svd`: orthonormal.
        right: ν_i as columns, shape (m, rank); likewise in L²(P_A).
        fingerprint: that of the context that the operator was built from, shape
            (8,), by which `extend` and `certify` know what the result is of; None if
            that is not known, and −1 throughout after `_replace` of a part. It is none
            of the three that are unpacked.

    Signs: in each left column the entry that is largest in modulus (after weighting by
    √P_X) is positive.
    """

    fingerprint: Any = None

    def __new__(
        cls, singular_values: Any, left: Any, right: Any, fingerprint: Any = None
    ) -> SVDResult:
        """Triples, and whose they are."""
        return cls._of((singular_values, left, right), fingerprint)

    @classmethod
    def _of(cls, triples: Iterable[Any], fingerprint: Any) -> SVDResult:
        # Past `__new__`, which takes them one by one.
        made = tuple.__new__(cls, triples)
        made.fingerprint = fingerprint
        return made

    # What a tuple of three does, with a fourth that it knows nothing of.
    def _replace(self, **changes: Any) -> SVDResult:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The result with other fields; of another triple the law is not known."""
        # Not None, which would be a tree of another structure.
        kept = forgotten(self.fingerprint) if changes else self.fingerprint
        kept = changes.pop("fingerprint", kept)
        return self._of(super()._replace(**changes), kept)


def _flatten(result: SVDResult) -> tuple[tuple[Any, ...], None]:
    # A leaf, since it may be traced; None is a tree without any.
    return (*result, result.fingerprint), None


def _flatten_with_keys(result: SVDResult) -> tuple[tuple[Any, ...], None]:
    # Paths name fields, as those of any NamedTuple.
    keys = map(jax.tree_util.GetAttrKey, (*result._fields, "fingerprint"))
    return tuple(zip(keys, _flatten(result)[0], strict=True)), None


def _unflatten(_: None, children: Any) -> SVDResult:
    *triples, mark = children
    # Unchecked: leaves are whatever a transformation puts there.
    return SVDResult._of(triples, mark)


# A tuple of three for whoever unpacks it, a tree of four for JAX.
jax.tree_util.register_pytree_with_keys(
    SVDResult, _flatten_with_keys, _unflatten, _flatten
)


@pytree_dataclass
class SolveInfo:
    """How a result was computed and how exact it is: a tree of arrays.

    Attributes:
        residuals: the larger of the two residuals of each triple, shape (rank,).
        left_residuals: ‖T ν_i − s_i μ_i‖, shape (rank,).
        right_residuals: ‖T* μ_i − s_i ν_i‖, shape (rank,).
        num_passes: how often the operator and its adjoint were applied to a block, in
            passes: half the number of products, shape ().
        total_energy: Σ_{i≥1} s_i² of the whole operator, shape ().
        tail_energy: Σ_{i>rank} s_i² = total energy − Σ_{i≤rank} s_i², shape ().
        tail_error: standard error of the two energies: 0 where they are exact, shape
            ().
        code: how the solve ended, as `Status.code`, shape (); `status` in words.
        scale: a bound on the norm of the matrix before deflation, which rounding is
            measured by, shape (): 1 from `svd`; 0 from `truncated_svd`, whose matrices
            have none; None if not known.
        method: the method that ran.
        reason: why `method="auto"` chose it, in words.
    """

    residuals: Float[Array, " rank"]
    left_residuals: Float[Array, " rank"]
    right_residuals: Float[Array, " rank"]
    num_passes: Float[Array, ""]
    total_energy: Float[Array, ""]
    tail_energy: Float[Array, ""]
    tail_error: Float[Array, ""]
    code: Int[Array, ""]
    scale: Float[Array, ""] | None = None
    method: str | None = static_field(default=None)
    reason: str | None = static_field(default=None)

    @property
    def status(self) -> Status | Any:
        """How the solve ended: a `Status`.

        Of several solves at once, as by `vmap`, an array of them; inside a trace, where
        it is not known, the code.
        """
        if not is_concrete(self.code):
            return self.code
        codes = np.asarray(gathered(self.code))
        words = list(Status)
        if not codes.ndim:
            return words[int(codes)]
        return np.array([words[i] for i in codes.flat], object).reshape(codes.shape)

    def __repr__(self) -> str:
        """Status and fields in a line or a few."""
        # Trees of shapes or shardings are printed as well.
        status = self.status if isinstance(self.code, (jax.Array, np.ndarray)) else None
        return describe(self, {"status": status})
