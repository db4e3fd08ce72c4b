"""The symmetrised matrix M = D_X^{1/2} T D_A^{-1/2} of arrays, of NumPy or of JAX."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from contexture_jax._core.either import Either, namespace
from contexture_jax._core.numerics import safe_reciprocal, safe_sqrt
from contexture_jax._core.types import Array, Float

__all__ = ["Roots", "marginal_roots", "symmetrised"]


class Roots(NamedTuple):
    """Square roots of the marginals, for many products with one M.

    Attributes:
        x: √p_x, shape (n,).
        a: √p_a, shape (m,).
        inverse_x: 1 / √p_x, and 0 where there is no mass, shape (n,).
        inverse_a: likewise, shape (m,).
    """

    x: Float[Array, " n"]
    a: Float[Array, " m"]
    inverse_x: Float[Array, " n"]
    inverse_a: Float[Array, " m"]


def marginal_roots(p_x: Either, p_a: Either) -> Roots:
    """The square roots of both marginals and their reciprocals, of NumPy or JAX."""
    on_host = namespace(p_x) is np
    # Only JAX differentiates, and √p has an infinite slope at 0.
    x, a = (np.sqrt(p) if on_host else safe_sqrt(p) for p in (p_x, p_a))
    return Roots(x, a, _inverse(x), _inverse(a))


def _inverse(x: Either) -> Either:
    if namespace(x) is not np:
        return safe_reciprocal(x)
    # 0 stays 0, without a warning.
    return np.divide(1.0, x, out=np.zeros_like(x), where=x != 0)


def symmetrised(conditional: Either, roots: Roots) -> Either:
    """√p_x P⁺(a|x) / √p_a, of a table or of some of its columns (theory.md §1.2)."""
    return roots.x[:, None] * conditional * roots.inverse_a[None, :]
