"""Which method runs and with what widths: decided from sizes, before any work.

"auto" takes the method that a model of their times says is the fastest (theory.md
§6.6). Its constants were fitted to processor seconds of problems of
`benchmarks/auto_grid.py` on one CPU; what counts is their ratios.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_integer, check_number
from contexture_jax._core.either import LITTLE
from contexture_jax._core.types import summary
from contexture_jax.solvers._work import BYTES, FLOPS, Work

__all__ = ["Method", "Plan", "make_plan", "shared_width"]

Method = Literal["auto", "exact", "randomized", "krylov", "nystrom"]

_EXACT_ENTRIES = 2**25  # 128 MB in float32
_DEPTH = 3  # blocks in a Krylov basis: memory against passes
_DEEP = 6  # where NumPy multiplies, which takes of a basis what it holds
_DEEP_COLUMNS = 512  # at most, beyond what any basis has: their decomposition is small
_GROWN_COLUMNS = 768  # likewise of a basis that grows
_DEEP_SHARE = (0.44, 0.13)  # of passes: fixed, and by the width over the block
_MIN_BLOCKS = 3  # two in the basis and the one that follows
# Nine times what 1e-10 is estimated to take.
_MAX_PASSES = 300
_COMPILING = 0.3  # seconds that two small programs of a product take at least
_MULTIPLE = 16  # widths that vector units like; oversampling is cheap in large problems
# Of the rank: its error is the tail beyond the width, and there is but one look.
_NYSTROM_FACTOR = 4
_CLOSE = 1.25  # times a dense factorisation may take what iterations are estimated at
_PASSES_TO_STORE = 6  # storing a transpose takes as long as it saves in so many

_SMALL_SVD = 2.7e-10  # seconds, times the cube of the side
_GRAM = 1.8e-10  # likewise, of a decomposition by a Gram matrix without its vectors
_VECTOR = 1.1e-9  # and of a vector, times the square of the side
_PASS = 1.5e-3  # seconds of calls and of factorisations with few columns
_NEAR_PASS = 5e-4  # where NumPy does them
_WORDS = {
    "exact": "a dense SVD",
    "randomized": "subspace iteration",
    "krylov": "block Krylov iteration",
}


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
        one_sided: whether a Krylov solve keeps one basis only (`_one_sided`).
        guards_clusters: whether a Krylov solve that meets as many equal values as a
            block has columns, and might miss more of them, is done again by subspace
            iteration.
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
    one_sided: bool = False
    guards_clusters: bool = False

    @property
    def stores_transpose(self) -> bool:
        """Whether a transpose stored row by row may pay: on CPU, where there is one.

        There, products with a transposed view take up to twice as long, and storing it
        takes about as long as two products.
        """
        return self.method != "exact" and self.max_passes > _PASSES_TO_STORE

    @property
    def iterates(self) -> bool:
        """Whether pass follows pass with little but products between them."""
        return self.method in ("randomized", "krylov")

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
    work: Work | None = None,
    sharded: bool = False,
    traced: bool = False,
    near: bool = False,
    may_grow: bool = False,
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
        work: what products take; None: as those of a dense matrix.
        sharded: whether the matrix is cut over devices, so that one would have to
            gather it for a dense factorisation.
        traced: whether it runs inside a program, where no value decides what follows.
        near: whether NumPy does all of it.
        may_grow: whether Python drives, and shapes of bases may follow what they hold.

    Raises:
        TypeError: if a count is not an integer, or a tolerance not a number.
        ValueError: if a value is out of range; says what the range is.
    """
    rank = _check_rank(rank, limit, shape)
    if method not in get_args(Method):
        known = ", ".join(get_args(Method))
        raise ValueError(f"method must be one of {known}; got {summary(method)}")
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
    chosen, reason, block, depth, one_sided = method, "asked for", width, 0, False
    itemsize = np.dtype(dtype).itemsize
    work = work or (Work.blas if near else Work.dense)(shape, itemsize)
    size = _Sizes(shape, itemsize, rank, width, limit, tolerance, near, may_grow)
    if method == "auto":
        blocks_fit = not (sharded or traced) and range_dtype is None
        chosen, block, reason = _choose(
            size, work, max_passes, sharded=sharded, blocks_fit=blocks_fit
        )
    if block_size is not None:
        block = min(check_integer(block_size, "block_size", low=1), width)
        if method != "krylov":
            raise ValueError(
                f'block_size goes with method="krylov"; got {summary(method)}'
            )
    if chosen == "krylov":
        one_sided = _is_one_sided(size, work, block, passes)
        columns = size.columns(deep=near and method == "auto", one_sided=one_sided)
        block, depth = _krylov_blocks(size, block, passes, columns)
        if depth == 0:
            chosen, one_sided = "randomized", False
            reason = f"Krylov blocks of {block} do not fit into {limit} dimensions"
    if chosen == "nystrom" and num_oversamples is None:
        width = min(_NYSTROM_FACTOR * rank + 10, limit)
    coarse = ""
    if range_dtype is not None:
        coarse = _check_range_dtype(range_dtype, dtype, method, tolerance)
        chosen, reason = "randomized", f"a range finder in {coarse} was asked for"
    return Plan(
        chosen, rank, width, block, depth, passes, tolerance, reason, coarse, one_sided,
        # Who asks for Krylov blocks has chosen how many copies they hold, and how much.
        guards_clusters=chosen == "krylov" and method == "auto",
    )  # fmt: skip


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


def shared_width(work: Work | None, rank: int, num_columns: int, limit: int) -> int:
    """Columns of a product that `svd` has a program for, where they are cheap.

    Args:
        work: what products take.
        rank: that the default width of subspace iteration goes with.
        num_columns: needed, of 20 products or so.
        limit: how many triples exist.

    Returns:
        `num_columns` itself where so many more take longer than to compile another.
    """
    width = _width(rank, None, limit)
    if work is None or width < num_columns or 10 * work.seconds(width) > _COMPILING:
        return num_columns
    return width


def _width(rank: int, num_oversamples: Any, limit: int) -> int:
    """Columns of an iterated block."""
    if num_oversamples is not None:
        extra = check_integer(num_oversamples, "num_oversamples", low=0)
        return min(rank + extra, limit)
    width = rank + max(10, rank // 4)
    rounded = -(-width // _MULTIPLE) * _MULTIPLE
    # Where dimensions are few, rounding up would take most of them.
    return min(rounded if _MIN_BLOCKS * rounded <= limit else width, limit)


class _Sizes(NamedTuple):
    """What the times of all methods depend on, beside the work of products."""

    shape: tuple[int, int]
    itemsize: int
    rank: int
    width: int
    limit: int
    tol: float
    near: bool
    may_grow: bool

    def columns(self, *, deep: bool = False, one_sided: bool = False) -> int:
        """Of a Krylov basis."""
        (n, m), columns = self.shape, _DEPTH * self.width
        most = columns
        if deep:
            most = min(_DEEP * self.width, _DEEP_COLUMNS)
        elif one_sided:
            # In the memory of two.
            most = min(columns * (n + m) // m, _GROWN_COLUMNS, self.limit)
        return max(columns, most)

    @property
    def num_passes(self) -> float:
        """Of subspace iteration over a spectrum that is neither fast nor flat."""
        # 3.3 passes a digit (theory.md §6.6).
        return max(3.0, -3.3 * math.log10(self.tol))


def _choose(
    size: _Sizes,
    work: Work,
    max_passes: int | None,
    *,
    sharded: bool,
    blocks_fit: bool,
) -> tuple[str, int, str]:
    """Method, columns of a block, and why: the least of the estimated times."""
    (n, m), width = size.shape, size.width
    if sharded:
        why = f"{n} × {m} is spread over devices, where iterations leave it"
        return "randomized", width, why
    is_dense = n * m <= _EXACT_ENTRIES
    # Where three blocks have no room iterations see the whole matrix anyway.
    if is_dense and _MIN_BLOCKS * width > size.limit:
        why = f"{size.rank} triples are a large part of the {size.limit} that exist"
        return "exact", width, why
    # Seconds by (method, columns of a block).
    # Fitted: mean passes over spectra from fast to flat, by those over a slow one.
    whole, fixed, wide = (1.1, *_DEEP_SHARE) if size.near else (1.0, 0.35, 0.2)
    passes = whole * size.num_passes
    times = {("randomized", width): passes * _subspace_pass(size, work)}
    if is_dense:
        times["exact", width] = _dense_seconds(size)
    if blocks_fit and (max_passes is None or max_passes > 4 * size.num_passes):
        widest = width if size.near else max(_MULTIPLE, width // 2)
        for block in range(_MULTIPLE, widest + 1, _MULTIPLE):
            columns = size.columns(deep=size.near)
            _, depth = _krylov_blocks(size, block, _MAX_PASSES, columns)
            if depth:
                each = _krylov_pass(size, work, block, depth)
                share = fixed + wide * width / block
                times["krylov", block] = size.num_passes * share * each
                if _is_one_sided(size, work, block, _MAX_PASSES):
                    each = _one_sided_pass(size, work, block)
                    share = _DEEP_SHARE[0] + _DEEP_SHARE[1] * width / block
                    times["krylov", block] = size.num_passes * share * each
    method, block = min(times, key=times.__getitem__)
    dense = "exact", width
    # Estimates are of a spectrum like most: a dense one takes as long whatever it is.
    if dense in times and times[dense] <= _CLOSE * times[method, block]:
        method, block = dense
    # Only to say by how much the choice is ahead.
    others = {
        name: min(t for (of, _), t in times.items() if of == name)
        for name, _ in times
        if name != method
    }
    if not others:
        return method, block, f"{n} × {m} is too large for a dense factorisation"
    other = min(others, key=others.__getitem__)
    share = times[method, block] / others[other]
    blocks = f" in blocks of {block}" if method == "krylov" else ""
    why = f"{_WORDS[method]}{blocks} is estimated at {share:.2g} of the time of"
    return method, block, f"{n} × {m}, rank {size.rank}: {why} {_WORDS[other]}"


def _dense_seconds(size: _Sizes) -> float:
    """Of a dense decomposition."""
    (n, m), small = size.shape, min(size.shape)
    if size.near and size.itemsize == 4:
        return _GRAM * n * m * small + _VECTOR * small**2 * size.rank
    return _SMALL_SVD * n * m * small


def _subspace_pass(size: _Sizes, work: Work) -> float:
    """Seconds of a pass of subspace iteration; two in five end in a Ritz step."""
    rows, width = sum(size.shape), size.width
    # Factors are fitted, as those of a Krylov pass (theory.md §6.6).
    flops = 3.6 * rows * width**2 / FLOPS
    moved = 5.0 * size.itemsize * rows * width / BYTES
    small = 0.4 * _SMALL_SVD * width**3
    calls = _NEAR_PASS if size.near else _PASS
    return work.seconds(width) + flops + moved + small + calls


def _krylov_pass(size: _Sizes, work: Work, block: int, depth: int) -> float:
    """Seconds of a pass of block Krylov iteration, with its share of a restart.

    A block is cleaned twice off its basis, which takes two products each time.
    """
    rows, columns = sum(size.shape), block * depth
    # NumPy takes of a basis what it holds.
    held = 0.5 * columns if size.near else columns
    basis = size.itemsize * rows * columns / BYTES
    # A restart keeps blocks for the width, and the rest is filled again.
    passes_to_restart = depth - -(-size.width // block)
    # The small matrix is decomposed, and both bases are rotated.
    restart = _SMALL_SVD * columns**3 + 2.0 * rows * columns * size.width / FLOPS
    restart += 2.0 * basis
    flops = 8.0 * rows * held * block / FLOPS
    calls = 3.0 * _NEAR_PASS if size.near else 1.5 * _PASS
    each = work.seconds(block) + flops + 6.0 * basis + calls
    return each + restart / passes_to_restart


def _one_sided_pass(size: _Sizes, work: Work, block: int) -> float:
    """Seconds of a pass with one basis, half of it there, which cleans a block once."""
    (n, m), held = size.shape, 0.5 * size.columns(one_sided=True)
    flops = (4.0 * m * held * block + 16.0 * (n + m) * block**2) / FLOPS
    moved = size.itemsize * (2.0 * m * held + 12.0 * (n + m) * block) / BYTES
    calls = 3.0 * (_NEAR_PASS if size.near else _PASS)
    return work.seconds(block) + flops + moved + calls


def _is_one_sided(size: _Sizes, work: Work, block: int, max_passes: int) -> bool:
    """Whether one basis is estimated to be faster than two of a Krylov iteration."""
    # Of what is smaller programs take longer to compile than they save, where there are
    # any; a dense product with all that is kept, which follows, is not worth it.
    pays = size.near or max(size.shape) * size.width > 4 * LITTLE
    if not (size.may_grow and pays and work.gathered_bytes > 0):
        return False
    _, depth = _krylov_blocks(size, block, _MAX_PASSES, size.columns())
    passes = min(max_passes, size.num_passes)
    # Left vectors take half a pass of all columns more.
    one = passes * _one_sided_pass(size, work, block) + 0.5 * work.seconds(size.width)
    return depth > 0 and one < passes * _krylov_pass(size, work, block, depth)


def _krylov_blocks(
    size: _Sizes, block: int, max_passes: int, columns: int
) -> tuple[int, int]:
    """Columns of a block and blocks in a basis; depth 0 if they do not fit."""
    num_kept, limit, rank = -(-size.width // block), size.limit, size.rank
    # The block that follows a full basis must find room beside it.
    depth = min(-(-columns // block), limit // block - 1)
    if max_passes <= depth:  # no restart: the basis is what the passes fill
        if max_passes * block < rank:
            msg = (
                f"max_passes × block_size must be at least the rank, {rank}; got"
                f" {max_passes} × {block}"
            )
            raise ValueError(msg)
        return block, max_passes
    # A restart that leaves no room for a block would go on for ever.
    return block, depth if depth > num_kept else 0


def _check_range_dtype(
    range_dtype: Any, dtype: Any, method: str, tolerance: float
) -> str:
    """The name of a floating dtype coarser than `dtype`."""
    name = np.dtype(range_dtype).name
    # By eps: float16 and bfloat16 have the same size, and are not equally fine.
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
