"""Tables of files as arrays: what the command does to DATA, callable from Python.

`load_features` reads a CSV, an `.npy` or `.npz`, a Parquet or a Feather file, or a
built-in set, tells numbers from categories and encodes both; `load_counts` reads a
table that is itself a law. Needs the extra `cli` for text, Parquet and Feather files.
"""

from contexture_jax.data._counts import load_counts
from contexture_jax.data._encoding import Encoding, as_encodings
from contexture_jax.data._features import load_features
from contexture_jax.data._like import load_like
from contexture_jax.data._matrix import load_matrix
from contexture_jax.data._messages import (
    InputError,
    Message,
    counted,
    quoted,
    quoted_path,
)
from contexture_jax.data._own_rows import Share, load_own_rows
from contexture_jax.data._source import DEFAULT_MISSING
from contexture_jax.data._table import (
    Table,
    Target,
    auto_gamma,
    num_directions,
    of_order_1,
)
from contexture_jax.data.shards import Shards, is_sharded, open_shards

__all__ = [
    "DEFAULT_MISSING",
    "Encoding",
    "InputError",
    "Message",
    "Shards",
    "Share",
    "Table",
    "Target",
    "as_encodings",
    "auto_gamma",
    "counted",
    "is_sharded",
    "load_counts",
    "load_features",
    "load_like",
    "load_matrix",
    "load_own_rows",
    "num_directions",
    "of_order_1",
    "open_shards",
    "quoted",
    "quoted_path",
]
