"""Tables in files that need not fit into memory, read block by block."""

from contexture_jax.data.shards._shards import (
    Block,
    Shards,
    is_sharded,
    open_shards,
)

__all__ = ["Block", "Shards", "is_sharded", "open_shards"]
