"""The spectrum of an operator: exact, or by randomized linear algebra."""

from contexture_jax.solvers._certificate import (
    Bounds,
    Certificate,
    Cluster,
    certify,
)
from contexture_jax.solvers._exact import all_singular_values
from contexture_jax.solvers._extend import extend
from contexture_jax.solvers._one_pass import Sketch, one_pass
from contexture_jax.solvers._plan import Method
from contexture_jax.solvers._probing import compile_certificate
from contexture_jax.solvers._results import SolveInfo, Status, SVDResult
from contexture_jax.solvers._state import (
    Progress,
    SolveState,
    load_state,
    save_state,
)
from contexture_jax.solvers._svd import block_width, lower, svd
from contexture_jax.solvers._truncated import truncated_svd

__all__ = [
    "Bounds",
    "Certificate",
    "Cluster",
    "Method",
    "Progress",
    "SVDResult",
    "Sketch",
    "SolveInfo",
    "SolveState",
    "Status",
    "all_singular_values",
    "block_width",
    "certify",
    "compile_certificate",
    "extend",
    "load_state",
    "lower",
    "one_pass",
    "save_state",
    "svd",
    "truncated_svd",
]
