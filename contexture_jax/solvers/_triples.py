"""What the Euclidean solvers return to the front doors."""

from __future__ import annotations

from typing import NamedTuple

from contexture_jax._core.either import Either
from contexture_jax._core.types import Float, Inexact

__all__ = ["Triples"]


class Triples(NamedTuple):
    """Leading singular triples of a matrix and how well they fit.

    Attributes:
        singular_values: s_i ≥ 0, descending, shape (rank,).
        left: u_i as columns, orthonormal, shape (n, rank); further columns may follow.
        right: v_i as columns, orthonormal, shape (m, rank), likewise.
        left_residuals: ‖M v_i − s_i u_i‖, shape (rank,).
        right_residuals: ‖Mᴴ u_i − s_i v_i‖, shape (rank,).
        num_passes: half the number of products with M or Mᴴ, shape ().
    """

    singular_values: Float[Either, " rank"]
    left: Inexact[Either, "n rank"]
    right: Inexact[Either, "m rank"]
    left_residuals: Float[Either, " rank"]
    right_residuals: Float[Either, " rank"]
    num_passes: Float[Either, ""]
