"""The products of a certificate's probes, where they can be had without compiling."""

from __future__ import annotations

from typing import Any

import numpy as np

from contexture_jax._core.either import LITTLE, at_hand
from contexture_jax.operators import (
    AssociationOperator,
    is_streamed,
    mesh_of,
    near_products,
)
from contexture_jax.solvers._linear_map import (
    LinearMap,
    compile_products,
    filtering_map,
    scipy_map,
)
from contexture_jax.solvers._plan import Method, make_plan, shared_width
from contexture_jax.solvers._work import work_of

__all__ = ["NUM_PROBES", "compile_certificate", "probing_map"]

NUM_PROBES = 8  # columns of a pass over the operator


def compile_certificate(
    op: AssociationOperator, rank: int, method: Method = "auto"
) -> None:
    """Compile the products that `certify` takes of an operator, and run none.

    For a thread of its own while `svd` solves, on a machine of several cores. Of an
    operator over several devices nothing is compiled, nor where `certify` multiplies by
    SciPy or the programs of `svd`.

    Args:
        op: the operator.
        rank: of the result.
        method: as given to `svd`.
    """
    if mesh_of(op) is not None or is_streamed(op) or near_products(op) is not None:
        return
    if method == "auto":
        # As `svd` would, but for what has no mass.
        limit, work = min(op.shape) - 1, work_of(op)
        method = make_plan(
            op.shape, op.dtype, rank, limit, work=work, may_grow=True
        ).method  # pyright: ignore[reportAssignmentType]
    if _width(op, rank, method, NUM_PROBES) == NUM_PROBES:
        compile_products(op, NUM_PROBES)


def probing_map(
    op: AssociationOperator, a: LinearMap, rank: int, method: Any, num_probes: int
) -> LinearMap:
    """The matrix of an operator, to be multiplied by blocks of probes.

    SciPy multiplies with the entries of sparse tables and neighbours, if they are not
    very many. Else, where a product of as many columns as subspace iteration has takes
    less than to compile one of fewer, blocks of NumPy are filled up with columns of
    zeros.

    Args:
        op: the operator.
        a: its symmetrised matrix.
        rank: of the result.
        method: that found it.
        num_probes: columns of a block.
    """
    near = near_products(op)
    if near is not None:
        return scipy_map(op, a, *near.lay_out())
    width = _width(op, rank, method, num_probes)
    if width == num_probes:
        return a
    # As the solver does between small blocks: one program has both products.
    b = filtering_map(a, width) if max(a.shape) * width <= LITTLE else a

    def widened(multiply: Any, plain: Any) -> Any:
        def product(block: Any) -> Any:
            if not isinstance(block, np.ndarray):
                return plain(block)
            zeros = np.zeros((block.shape[0], width - num_probes), block.dtype)
            wide = multiply(np.concatenate([block, zeros], axis=1))
            return at_hand(wide)[:, :num_probes]

        return product

    return a._replace(
        matmat=widened(b.matmat, a.matmat), rmatmat=widened(b.rmatmat, a.rmatmat)
    )


def _width(op: AssociationOperator, rank: int, method: Any, num_probes: int) -> int:
    """Columns of a product: more than there are probes where that spares a program."""
    if method != "randomized" or mesh_of(op) is not None or is_streamed(op):
        return num_probes
    return shared_width(work_of(op), rank, num_probes, min(op.shape) - 1)
