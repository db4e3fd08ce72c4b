"""The spectrum of an operator: exact, or by randomized linear algebra."""

from contexture_jax.solvers._results import SolveInfo, Status, SVDResult

__all__ = ["SVDResult", "SolveInfo", "Status"]
