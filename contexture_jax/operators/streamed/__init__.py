"""Operators whose entries are read block by block, pass after pass."""

from contexture_jax._core.streams import ArrayShards, BlockSource
from contexture_jax.operators.streamed._kernel import (
    StreamedKernelOperator,
    streamed_rbf,
)
from contexture_jax.operators.streamed._operator import (
    StreamedOperator,
    streamed_operator,
)
from contexture_jax.operators.streamed._read import is_streamed

__all__ = [
    "ArrayShards",
    "BlockSource",
    "StreamedKernelOperator",
    "StreamedOperator",
    "is_streamed",
    "streamed_operator",
    "streamed_rbf",
]
