"""What a kernel's eigenvalues are turned into: s(λ), in the forms that can be solved.

All are for the eigenvalues λ_i = s_i² of the dual kernel of a context, which lie
between 0 and 1 (theory.md §8.2).
"""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from numpy.polynomial import polynomial as series

from contexture_jax._core.checks import (
    as_array,
    check_coefficient,
    check_finite,
    check_integer,
    check_ndim,
)
from contexture_jax._core.either import as_devices, at_hand, namespace
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    pytree_dataclass,
    static_field,
)
from contexture_jax.solvers import SVDResult

__all__ = [
    "SpectralTransform",
    "Truncation",
    "inverse_laplacian",
    "inverse_polynomial",
    "polynomial",
    "truncation",
]

_SLACK = 1e-12


@pytree_dataclass
class SpectralTransform:
    """s(λ) = Σ_{p≥1} π_p λ^p, or its inverse 1 / s(λ) = Σ_{p≥0} ξ_p λ^(p−1).

    Attributes:
        form: which of the two. Static.
        coefficients: π_1, π_2, … or ξ_0, ξ_1, … Static.
        largest: no eigenvalue is above it, at most 1. Static.
    """

    form: Literal["polynomial", "inverse"] = static_field()
    coefficients: tuple[float, ...] = static_field()
    largest: float = static_field(default=1.0)

    def __call__(self, eigenvalues: ArrayLike) -> Float[Array, "..."]:
        """s(λ), entry by entry."""
        x = jnp.asarray(eigenvalues)
        value = jnp.zeros_like(x)
        for coefficient in reversed(self.coefficients):
            value = value * x + coefficient
        return x * value if self.form == "polynomial" else x / value

    @property
    def lowest(self) -> float:
        """The least of s(λ) / λ or ξ(λ) = λ / s(λ) for 0 ≤ λ ≤ `largest`."""
        roots = series.polyroots(series.polyder(self.coefficients))
        real = roots.real[abs(roots.imag) < 1e-6 * (1 + abs(roots))]
        places = np.concatenate([[0.0, self.largest], np.clip(real, 0, self.largest)])
        return float(series.polyval(places, self.coefficients).min())

    @property
    def highest(self) -> float:
        """What s(λ) is not above."""
        if self.form == "inverse":
            return self.largest / self.lowest
        powers = self.largest ** np.arange(1, len(self.coefficients) + 1)
        return float(np.dot(np.abs(self.coefficients), powers))


@pytree_dataclass
class Truncation:
    """S on the leading functions of a context and 0 on all others.

    Attributes:
        result: the functions, as `svd` returns them.
        dim: how many of them count. Static.
        transform: s of their eigenvalues; None: 1. Static.
    """

    result: SVDResult
    dim: int = static_field()
    transform: SpectralTransform | None = static_field(default=None)

    def features(self) -> tuple[Float[Array, "n dim"], Float[Array, "m dim"]]:
        """√s μ_i on X and the functions of A whose expectation they are, √s ν_i / s_i.

        Where s_i is 0 both are.
        """
        found = self.result.singular_values, self.result.left, self.result.right
        s, left, right = (f[..., : self.dim] for f in at_hand(found))
        xp = namespace(s)
        there = s > 10 * float(np.finfo(s.dtype).eps)
        inverse = xp.where(there, 1 / xp.where(there, s, 1), 0)
        root = xp.where(there, 1, 0).astype(s.dtype)
        if self.transform is not None:
            root = root * xp.sqrt(at_hand(self.transform(s**2))).astype(s.dtype)
        return as_devices((left * root[None, :], right * (root * inverse)[None, :]))


def polynomial(coefficients: ArrayLike, *, largest: float = 1.0) -> SpectralTransform:
    """s(λ) = π_1 λ + … + π_q λ^q: a mixture of walks of p double steps.

    One coefficient is kernel regression with the dual kernel as it is.

    Args:
        coefficients: π_1, …, π_q, shape (q,).
        largest: what no eigenvalue is above: s_1², or 1.

    Raises:
        ValueError: if s is negative or 0 for some 0 < λ ≤ `largest`.
    """
    found = _transform("polynomial", coefficients, largest)
    if found.lowest < -_SLACK or not any(found.coefficients):
        msg = (
            f"coefficients must make s(λ) not negative for λ up to {found.largest:g};"
            f" got {found.coefficients}, with s(λ) / λ down to {found.lowest:.3g}"
        )
        raise ValueError(msg)
    return found


def inverse_laplacian(eta: float, *, largest: float = 1.0) -> SpectralTransform:
    """s(λ) = λ / (1 − η λ), of which 1 / s(λ) = 1 / λ − η, with 0 ≤ η < 1 / λ_1.

    Args:
        eta: η.
        largest: what no eigenvalue is above: s_1², or 1.

    Raises:
        ValueError: if η is out of range.
    """
    value, top = check_coefficient(eta, "eta"), _largest(largest)
    if not value * top < 1:
        msg = f"eta must be below 1 / largest = {1 / top:g}; got {value:g}"
        raise ValueError(msg)
    return inverse_polynomial([1.0, -value], largest=top)


def inverse_polynomial(
    coefficients: ArrayLike, *, largest: float = 1.0
) -> SpectralTransform:
    """1 / s(λ) = ξ_0 / λ + ξ_1 + ξ_2 λ + …: a sum of smoothness penalties.

    Args:
        coefficients: ξ_0, …, ξ_q, shape (q + 1,).
        largest: what no eigenvalue is above: s_1², or 1.

    Raises:
        ValueError: if λ / s(λ) is not positive for all 0 ≤ λ ≤ `largest`.
    """
    found = _transform("inverse", coefficients, largest)
    if not found.lowest > 0:
        msg = (
            f"coefficients must make λ / s(λ) positive for λ up to {found.largest:g};"
            f" got {found.coefficients}, with a least value of {found.lowest:.3g}"
        )
        raise ValueError(msg)
    return found


def truncation(
    result: SVDResult,
    dim: int | None = None,
    transform: SpectralTransform | None = None,
) -> Truncation:
    """The first functions of a context alone: kernel PCA where s is not known.

    Args:
        result: of `svd` on the operator that will be predicted with.
        dim: how many functions; None: all of `result`.
        transform: s of their eigenvalues, as of `polynomial`; None: 1, with which the
            regression is `ridge` on the functions.

    Raises:
        TypeError: if `result` is none of `svd`.
        ValueError: if there are fewer functions.
    """
    if not isinstance(result, SVDResult):
        msg = f"result must be the first that svd returns; got {type(result).__name__}"
        raise TypeError(msg)
    rank = result.left.shape[1]
    kept = rank if dim is None else check_integer(dim, "dim", low=1, high=rank)
    return Truncation(result, kept, transform)


def _transform(form: Any, coefficients: Any, largest: Any) -> SpectralTransform:
    values = np.atleast_1d(np.asarray(as_array(coefficients, "coefficients"), float))
    check_ndim(values, 1, "coefficients")
    if values.size == 0:
        raise ValueError("coefficients must hold at least 1 number; got none")
    check_finite(values, "coefficients")
    return SpectralTransform(form, tuple(values.tolist()), _largest(largest))


def _largest(largest: Any) -> float:
    top = float(check_coefficient(largest, "largest", positive=True))
    if top > 1 + 1e-6:
        msg = f"largest must be at most 1, as singular values are; got {top:g}"
        raise ValueError(msg)
    return top
