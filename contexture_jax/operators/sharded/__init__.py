"""The storages over a mesh of devices: rows are shared out, collectives are few."""

from contexture_jax.operators.sharded._common import (
    Collective,
    ShardedOperator,
    check_mesh,
    mesh_of,
)
from contexture_jax.operators.sharded._dense import (
    ShardedDenseOperator,
    ShardedLowRankOperator,
    shard_dense,
    shard_low_rank,
)
from contexture_jax.operators.sharded._kernel import (
    ShardedKernelOperator,
    shard_softmax,
)
from contexture_jax.operators.sharded._slots import (
    ShardedSparseOperator,
    shard_entries,
)

__all__ = [
    "Collective",
    "ShardedDenseOperator",
    "ShardedKernelOperator",
    "ShardedLowRankOperator",
    "ShardedOperator",
    "ShardedSparseOperator",
    "check_mesh",
    "mesh_of",
    "shard_dense",
    "shard_entries",
    "shard_low_rank",
    "shard_softmax",
]
