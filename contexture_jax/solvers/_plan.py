"""Which method runs and with what widths: decided from shapes, before any work."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_integer, check_number
from contexture_jax._core.types import summary

__all__ = ["Method", "Plan", "make_plan"]

Method = Literal["auto", "exact", "randomized", "krylov", "nystrom"]

_EXACT_SIDE = 1024  # a dense SVD of that side takes about a second on two cores
_EXACT_ENTRIES = 2**25  # 128 MB in float32
_DEPTH = 3  # blocks in a Krylov basis: memory against passes
_MIN_BLOCKS = 3  # two in the basis and the one that follows
_MAX_PASSES = 300
_MULTIPLE = 16  # widths that vector units like; oversampling is cheap in large problems
_NYSTROM_FACTOR = 4
_PASSES_TO_STORE = 6  # storing a transpose takes as long as it saves in so many


class Plan(NamedTuple):
    """A method with all that is static about it; hashable.

    Attributes:
        method: "exact", "randomized", "krylov" or "nystrom".
        rank: number of triples.
        width: columns of an iterated block; of what a Krylov restart keeps.
        block_size: columns of a Krylov block.
        depth: blocks in a Krylov basis.
        max_passes: bound on passes.
        tol: relative residual to stop at; 0 to run all passes.
        reason: why this method, in words.
        range_dtype: name of the dtype of a first, coarse solve; "": none.
    """

    method: str
    rank: int
    width: int
    block_size: int
    depth: int
    max_passes: int
    tol: float
    reason: str
    range_dtype: str = ""

    @property
    def stores_transpose(self) -> bool:
        """Whether a transpose stored row by row may pay: on CPU, where there is one.

        There, products with a transposed view take up to twice as long, and storing it
        takes about as long as two products.
        """
        return self.method != "exact" and self.max_passes > _PASSES_TO_STORE

    @property
    def program(self) -> Plan:
        """What a compiled program depends on: all but the words."""
        return self._replace(reason="")


def make_plan(
    shape: tuple[int, int],
    dtype: Any,
    rank: int,
    limit: int,
    *,
    method: Method = "auto",
    tol: float | None = None,
    max_passes: int | None = None,
    num_oversamples: int | None = None,
    num_power_iterations: int | None = None,
    block_size: int | None = None,
    range_dtype: Any = None,
    sharded: bool = False,
) -> Plan:
    """Decide how to solve a problem of this size.

    Args:
        shape: (n, m).
        dtype: floating or complex.
        rank: number of triples asked for.
        limit: number of triples that exist.
        method: as in `svd`.
        tol: as in `svd`.
        max_passes: as in `svd`.
        num_oversamples: as in `svd`.
        num_power_iterations: as in `svd`.
        block_size: as in `svd`.
        range_dtype: as in `svd`.
        sharded: whether the matrix is cut over devices, so that one would have to
            gather it for a dense factorisation.

    Raises:
        TypeError: if a count is not an integer, or a tolerance not a number.
        ValueError: if a value is out of range; says what the range is.
    """
    rank = _check_rank(rank, limit, shape)
    if method not in get_args(Method):
        known = ", ".join(get_args(Method))
        msg = f"method must be one of {known}; got {summary(method)}"
        raise ValueError(msg)
    tolerance = _tolerance(tol, dtype)
    passes = _MAX_PASSES
    if max_passes is not None:
        passes = check_integer(max_passes, "max_passes", low=1)
    if num_power_iterations is not None:
        iterations = check_integer(num_power_iterations, "num_power_iterations", low=0)
        if method not in ("auto", "randomized") or max_passes is not None:
            raise ValueError(
                "num_power_iterations fixes the passes of the randomized method: use it"
                ' with method="randomized" and without max_passes'
            )
        method, passes = "randomized", iterations + 1
        tolerance = 0.0 if tol is None else tolerance
    width = _width(rank, num_oversamples, limit)
    chosen, reason = method, "asked for"
    if method == "auto":
        chosen, reason = _choose(shape, rank, width, limit, sharded=sharded)
    block, depth = width, 0
    if block_size is not None:
        block = min(check_integer(block_size, "block_size", low=1), width)
        if method != "krylov":
            raise ValueError(
                f'block_size goes with method="krylov"; got {summary(method)}'
            )
    if chosen == "krylov":
        block, depth = _krylov_blocks(rank, width, block, limit, passes)
        if depth == 0:
            chosen = "randomized"
            reason = f"Krylov blocks of {block} do not fit into {limit} dimensions"
    if chosen == "nystrom" and num_oversamples is None:
        width = min(_NYSTROM_FACTOR * rank + 10, limit)
    coarse = ""
    if range_dtype is not None:
        coarse = _check_range_dtype(range_dtype, dtype, method, tolerance)
        chosen, reason = "randomized", f"a range finder in {coarse} was asked for"
    return Plan(chosen, rank, width, block, depth, passes, tolerance, reason, coarse)


def _check_rank(rank: Any, limit: int, shape: tuple[int, int]) -> int:
    """A number of triples that exist."""
    rank, size = check_integer(rank, "rank", low=1), f"(shape {shape[0]} × {shape[1]})"
    if limit < 1:
        msg = (
            "the only singular value here is the trivial 1, of constant functions,"
            f" since only one input or one context value has mass {size}; got rank"
            f" {rank}"
        )
        raise ValueError(msg)
    if rank > limit:
        msg = (
            f"rank must be at most {limit}, the number of singular values that exist"
            f" here {size}; got {rank}"
        )
        raise ValueError(msg)
    return rank


def _tolerance(tol: Any, dtype: Any) -> float:
    """The relative residual to stop at."""
    if tol is None:
        # Residuals bound singular values to first order and, squared, to second.
        return max(1e-10, 100 * float(np.finfo(dtype).eps))
    tolerance = check_number(tol, "tol")
    if not 0 < tolerance < 1:
        msg = f"tol must be above 0 and below 1; got {summary(tol)}"
        raise ValueError(msg)
    return tolerance


def _width(rank: int, num_oversamples: Any, limit: int) -> int:
    """Columns of an iterated block."""
    if num_oversamples is not None:
        extra = check_integer(num_oversamples, "num_oversamples", low=0)
        return min(rank + extra, limit)
    width = rank + max(10, rank // 4)
    rounded = -(-width // _MULTIPLE) * _MULTIPLE
    return min(rounded if _MIN_BLOCKS * rounded <= limit else width, limit)


def _choose(
    shape: tuple[int, int], rank: int, width: int, limit: int, *, sharded: bool
) -> tuple[str, str]:
    n, m = shape
    small = min(n, m) <= _EXACT_SIDE
    whole = _MIN_BLOCKS * width > limit
    if n * m <= _EXACT_ENTRIES and (small or whole) and not sharded:
        why = (
            f"the smaller side is at most {_EXACT_SIDE}"
            if small
            else f"{rank} triples are a large part of the {limit} that exist"
        )
        return "exact", why
    if sharded:
        why = f"{n} × {m} is spread over devices, where iterations leave it"
        return "randomized", why
    return "randomized", f"{n} × {m} is too large for a dense factorisation"


def _krylov_blocks(
    rank: int, width: int, block: int, limit: int, max_passes: int
) -> tuple[int, int]:
    """Columns of a block and blocks in a basis; depth 0 if they do not fit."""
    num_kept = -(-width // block)
    # The block that follows a full basis must find room beside it.
    depth = min(-(-_DEPTH * width // block), limit // block - 1)
    if max_passes <= depth:  # no restart: the basis is what the passes fill
        if max_passes * block < rank:
            msg = (
                f"max_passes × block_size must be at least the rank, {rank}; got"
                f" {max_passes} × {block}"
            )
            raise ValueError(msg)
        return block, max_passes
    return block, depth if depth > num_kept else 0


def _check_range_dtype(
    range_dtype: Any, dtype: Any, method: str, tolerance: float
) -> str:
    """The name of a floating dtype coarser than `dtype`."""
    name = np.dtype(range_dtype).name
    if not jnp.issubdtype(np.dtype(range_dtype), jnp.floating) or not (
        jnp.finfo(range_dtype).eps > jnp.finfo(dtype).eps
    ):
        msg = (
            f"range_dtype must be a floating dtype coarser than {np.dtype(dtype).name},"
            f" that of the operator; got {name}"
        )
        raise ValueError(msg)
    if method not in ("auto", "randomized") or tolerance == 0:
        raise ValueError(
            'range_dtype goes with method="randomized" (or "auto") and a tolerance, not'
            " with another method or num_power_iterations"
        )
    return name
