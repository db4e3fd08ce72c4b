"""The spectrum of an operator: exact, or by randomized linear algebra."""

from contexture_jax.solvers._extend import extend
from contexture_jax.solvers._plan import Method
from contexture_jax.solvers._results import SolveInfo, Status, SVDResult
from contexture_jax.solvers._svd import svd
from contexture_jax.solvers._truncated import truncated_svd

__all__ = [
    "Method",
    "SVDResult",
    "SolveInfo",
    "Status",
    "extend",
    "svd",
    "truncated_svd",
]
