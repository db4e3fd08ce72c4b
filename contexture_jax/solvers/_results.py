"""What a solver returns: the triples, and how far they can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
        " ones count as 0, and of those that are 0 functions are an arbitrary"
        " orthonormal completion"
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
    √P_X) is positive; of several within a relative √eps the first.
    """

    fingerprint: Any = None
    # Rows of `left` and `right` that count, where there are more; None: all.
    _sizes: tuple[int, int] | None = None

    def __new__(
        cls, singular_values: Any, left: Any, right: Any, fingerprint: Any = None
    ) -> SVDResult:
        """Triples, and whose they are."""
        return cls._of((singular_values, left, right), fingerprint)

    @classmethod
    def _of(
        cls, triples: Iterable[Any], fingerprint: Any, sizes: Any = None
    ) -> SVDResult:
        # Past `__new__`, which takes them one by one.
        made = tuple.__new__(cls, triples)
        made.fingerprint, made._sizes = fingerprint, sizes
        return made

    @property
    def padded(self) -> _Triples:
        """The triples as they lie: over devices with rows of zeros behind the last one.

        Rows that the devices do not divide are cut over them all the same with these,
        and only so: `left` and `right` leave them out, and gather what is left.
        """
        return _Triples(*tuple.__iter__(self))

    @property
    def sizes(self) -> tuple[int, int]:
        """The numbers n and m, for which nothing is gathered."""
        _, left, right = self.padded
        return self._sizes or (left.shape[-2], right.shape[-2])

    def of_first(self, sizes: tuple[int, int]) -> SVDResult:
        """The functions on the first inputs and context values; the rest is padding."""
        blocks = self.padded[1:]
        if tuple(block.shape[-2] for block in blocks) == sizes:
            return self
        return self._of(self.padded, self.fingerprint, sizes)

    # Not kept: in a trace what is cut is traced, of arrays that are not.
    @property
    def left(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """μ_i as columns."""
        return _first(self.padded.left, self._sizes and self._sizes[0])

    @property
    def right(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """ν_i as columns."""
        return _first(self.padded.right, self._sizes and self._sizes[1])

    def __iter__(self) -> Iterator[Any]:
        """Values, left and right functions."""
        return iter((self.singular_values, self.left, self.right))

    def __getitem__(self, index: Any) -> Any:
        """As of a tuple of the three."""
        return tuple(self)[index]

    def __repr__(self) -> str:
        """Kinds, shapes and dtypes, for which nothing is gathered."""
        blocks = [
            x
            if size is None or not hasattr(x, "dtype")
            else jax.ShapeDtypeStruct((*x.shape[:-2], size, x.shape[-1]), x.dtype)
            for x, size in zip(
                self.padded[1:], self._sizes or (None, None), strict=True
            )
        ]
        return describe(self._of((self.singular_values, *blocks), self.fingerprint))

    # What a tuple of three does, with a fourth that it knows nothing of.
    def _replace(self, **changes: Any) -> SVDResult:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The result with other fields; of another triple the law is not known."""
        # Not None, which would be a tree of another structure.
        kept = forgotten(self.fingerprint) if changes else self.fingerprint
        kept = changes.pop("fingerprint", kept)
        return self._of(self.padded._replace(**changes), kept, self._sizes)


def _first(block: Any, size: int | None) -> Any:
    """Its first rows, of each where there are several; what is no array as it is."""
    is_array = isinstance(block, (jax.Array, np.ndarray)) and block.ndim > 1
    if size is None or not is_array or block.shape[-2] <= size:
        return block
    return block[..., :size, :]


def _flatten(result: SVDResult) -> tuple[tuple[Any, ...], Any]:
    # A leaf, since it may be traced; None is a tree without any.
    return (*result.padded, result.fingerprint), result._sizes


def _flatten_with_keys(result: SVDResult) -> tuple[tuple[Any, ...], Any]:
    # Paths name fields, as those of any NamedTuple.
    keys = map(jax.tree_util.GetAttrKey, (*result._fields, "fingerprint"))
    return tuple(zip(keys, _flatten(result)[0], strict=True)), result._sizes


def _unflatten(sizes: Any, children: Any) -> SVDResult:
    *triples, mark = children
    # Unchecked: leaves are whatever a transformation puts there.
    return SVDResult._of(triples, mark, sizes)


# A tuple of three for whoever unpacks it, a tree of four for JAX.
jax.tree_util.register_pytree_with_keys(
    SVDResult, _flatten_with_keys, _unflatten, _flatten
)


@pytree_dataclass
class SolveInfo:
    """How a result was computed and how exact it is: a tree of arrays.

    Attributes:
        residuals: the larger of the two residuals of each triple, shape (rank,). Krylov
            methods add to their recurrence 10 eps for what rounding may.
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
