"""How large the workloads are."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SIZES", "Sizes"]


class Sizes(NamedTuple):
    """Of the peaks and the workloads.

    Attributes:
        square: side of square products.
        stream: numbers in an array that no cache holds.
        lists: points, neighbours, columns of the block that is gathered from.
        dense: rows and columns of a table.
        sparse: rows and columns of a table, and entries a row.
        neighbors: points and neighbours of a k-NN operator.
        kernel: points and features of a Gaussian kernel.
        width: columns of a block that operators and kernels multiply.
        rank: singular triples that are solved for.
        solved: points, features and neighbours of the context that is solved.
        search: points, features and neighbours that are looked for.
        batch: rows and columns of embeddings.
        step: rows of a batch, and widths of the network.
    """

    square: int
    stream: int
    lists: tuple[int, int, int]
    dense: tuple[int, int]
    sparse: tuple[int, int, int]
    neighbors: tuple[int, int]
    kernel: tuple[int, int]
    width: int
    rank: int
    solved: tuple[int, int, int]
    search: tuple[int, int, int]
    batch: tuple[int, int]
    step: tuple[int, tuple[int, ...]]


# Rows are multiples of 1,024 where devices share them.
SIZES = {
    "small": Sizes(
        square=256,
        stream=2**20,
        lists=(4096, 8, 16),
        dense=(512, 256),
        sparse=(2048, 1024, 8),
        neighbors=(2048, 8),
        kernel=(512, 8),
        width=16,
        rank=8,
        solved=(512, 8, 8),
        search=(1024, 8, 8),
        batch=(128, 16),
        step=(64, (32, 32, 16)),
    ),
    "medium": Sizes(
        square=1536,
        stream=2**25,
        lists=(131_072, 8, 64),
        dense=(6144, 3072),
        sparse=(102_400, 51_200, 20),
        neighbors=(102_400, 30),
        kernel=(8192, 20),
        width=64,
        rank=32,
        solved=(16_384, 16, 30),
        search=(16_384, 64, 30),
        batch=(1024, 64),
        step=(512, (784, 512, 512, 64)),
    ),
    "large": Sizes(
        square=8192,
        stream=2**28,
        lists=(1_048_576, 8, 64),
        dense=(32_768, 8192),
        sparse=(204_800, 102_400, 25),
        neighbors=(1_048_576, 30),
        kernel=(65_536, 20),
        width=64,
        rank=64,
        solved=(102_400, 32, 30),
        search=(65_536, 128, 30),
        batch=(8192, 128),
        step=(4096, (784, 1024, 1024, 128)),
    ),
}
