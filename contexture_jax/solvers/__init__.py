"""The spectrum of an operator: exact, or by randomized linear algebra."""

from contexture_jax.solvers._exact import exact
from contexture_jax.solvers._extend import extend
from contexture_jax.solvers._krylov import krylov
from contexture_jax.solvers._linear_map import LinearMap, symmetrised_map
from contexture_jax.solvers._nystrom import nystrom
from contexture_jax.solvers._orthonormal import orthonormalize
from contexture_jax.solvers._randomized import randomized
from contexture_jax.solvers._results import SolveInfo, Status, SVDResult
from contexture_jax.solvers._svd import svd
from contexture_jax.solvers._triples import Triples
from contexture_jax.solvers._truncated import truncated_svd

__all__ = [
    "LinearMap",
    "SVDResult",
    "SolveInfo",
    "Status",
    "Triples",
    "exact",
    "extend",
    "krylov",
    "nystrom",
    "orthonormalize",
    "randomized",
    "svd",
    "symmetrised_map",
    "truncated_svd",
]
