"""What products take: the part of the model of times that operators tell of."""

from __future__ import annotations

from typing import NamedTuple

from contexture_jax.operators import AssociationOperator

__all__ = ["BYTES", "FLOPS", "Work", "work_of"]

# What one core of a processor does in a second, roughly.
FLOPS = 7e10
BYTES = 1e10
_GATHERED_BYTES = 3e10  # rows of a block, which stay in caches


class Work(NamedTuple):
    """What one product with M takes, as a function of the number of columns.

    Attributes:
        flops: operations for each column.
        fixed_flops: operations whatever the number of columns.
        stored_bytes: bytes of M that are read.
        gathered_bytes: bytes that each column reads at scattered places.
    """

    flops: float
    fixed_flops: float = 0.0
    stored_bytes: float = 0.0
    gathered_bytes: float = 0.0

    @classmethod
    def dense(cls, shape: tuple[int, int], itemsize: int) -> Work:
        """Of a matrix whose every entry is read; also of what is not known."""
        entries = float(shape[0]) * shape[1]
        return cls(2.0 * entries, stored_bytes=itemsize * entries)

    @classmethod
    def blas(cls, shape: tuple[int, int], itemsize: int) -> Work:
        """Of a dense matrix by BLAS, which reads a copy of it that it makes first."""
        work = cls.dense(shape, itemsize)
        return work._replace(stored_bytes=2.0 * work.stored_bytes)

    @classmethod
    def sparse(cls, num_entries: int, itemsize: int) -> Work:
        """Of a matrix whose entries each take a row of the block."""
        # Each number stands beside its place, and reads a row of the block.
        flops, moved = 2.0 * num_entries, float(itemsize * num_entries)
        return cls(flops, stored_bytes=2 * moved, gathered_bytes=moved)

    def seconds(self, columns: int) -> float:
        """Of a product with M and one with Mᴴ."""
        # Reading M is paid once for all columns of a block, gathering once for each.
        work = (self.flops * columns + self.fixed_flops) / FLOPS
        moved = self.gathered_bytes * columns / _GATHERED_BYTES
        return 2.0 * (work + moved + self.stored_bytes / BYTES)


def work_of(op: AssociationOperator) -> Work | None:
    """What a product takes, as an operator says it; None if it does not."""
    try:
        # Their difference grows with the block, the rest does not.
        fixed, column = op.cost(0), op.cost(1)
    except NotImplementedError:
        return None
    flops, stored = column.flops - fixed.flops, fixed.argument_bytes
    itemsize = op.dtype.itemsize
    # A number of a table, or of a factor, is two operations for a column; beside a
    # number that stands somewhere stands where.
    is_sparse = flops < op.shape[0] * op.shape[1] and flops * itemsize < 1.5 * stored
    gathered = itemsize * flops / 2.0 if is_sparse else 0.0
    return Work(flops, fixed.flops, stored, gathered)
