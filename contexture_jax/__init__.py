"""Contextures in JAX: the spectrum of a context, computed, certified and used.

A *context* is a joint law P⁺(x, a) of an input X and a context variable A. Its
*contexture* is the span of the leading singular functions of the expectation operator
(T g)(x) = E[g(A)|x]. Import as `import contexture_jax as cx`; layers load when touched.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAYERS = ("contexts", "evaluation", "models", "operators", "plotting", "solvers")
_NAMES = {
    "AssociationOperator": "operators",
    "CapabilityError": "contexts",
    "Context": "contexts",
    "SVDResult": "solvers",
    "SolveInfo": "solvers",
    "Status": "solvers",
    "association_operator": "operators",
    "extend": "solvers",
    "single_threaded_lapack": "_core.threads",
    "svd": "solvers",
}

if TYPE_CHECKING:
    from contexture_jax import (
        contexts,
        evaluation,
        models,
        operators,
        plotting,
        solvers,
    )
    from contexture_jax._core.threads import single_threaded_lapack
    from contexture_jax.contexts import CapabilityError, Context
    from contexture_jax.operators import AssociationOperator, association_operator
    from contexture_jax.solvers import SolveInfo, Status, SVDResult, extend, svd

__all__ = [
    "AssociationOperator",
    "CapabilityError",
    "Context",
    "SVDResult",
    "SolveInfo",
    "Status",
    "__version__",
    "association_operator",
    "contexts",
    "evaluation",
    "extend",
    "models",
    "operators",
    "plotting",
    "single_threaded_lapack",
    "solvers",
    "svd",
]


def __getattr__(name: str) -> Any:
    if name in _LAYERS:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
