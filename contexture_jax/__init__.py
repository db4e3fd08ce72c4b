"""Contextures in JAX: the spectrum of a context, computed, certified and used.

A *context* is a joint law P⁺(x, a) of an input X and a context variable A. Its
*contexture* is the span of the leading singular functions of the expectation operator
(T g)(x) = E[g(A)|x]. Import as `import contexture_jax as cx`; layers load when touched.

Front doors:
    op = cx.association_operator(context)   T and T* as linear maps
    result, info = cx.svd(op, rank, key=k)  singular values and functions, residuals
    cx.extend(result, context, x_new)       the functions at new points
    cx.solvers.certify(result, info, op, key=k)         bounds on values and spans
    cx.evaluation.usefulness(result.singular_values)    τ: is the context any good
    cx.learning.learn(context, x, rank=r, ...)          an encoder from pairs, in order

Contexts, in `cx.contexts`:
    tables        joint, conditional, markov, pairs, labels, graph, neighbors
    features      knn, approximate_knn, knn_of_blocks, rbf, attention, teacher
    laws of A     gaussian_noise, erasure, coordinate_mask, block_mask, crop, shift,
                  flip, cutout, scarf, corruption, cutmix, masked_tokens, same_class,
                  time_lag, next_token
    of others     compose, convolve, convex_combination, mixture, join, tensor_product,
                  reverse, on_rows
    of one's own  any object with such methods (as_context, drawable); check_density

Layers, in the order in which they import each other:
    cx.kernels       products and searches in tiles; cx.data: files as arrays
    cx.contexts      joint laws of X and A; cx.zoo: those with known spectra
    cx.operators     T in dense, sparse, fixed-degree, tiled, low-rank, streamed storage
    cx.solvers       svd, truncated_svd, one_pass, extend, certify
    cx.losses        objectives that learn from batches; cx.models: thin Flax encoders
    cx.training      a step, its compilation for devices, data, loop, checkpoints
    cx.evaluation    τ, decay, compatibility, ratio trace, alignment, sampling error
    cx.prediction    ridge, logistic, neighbours, kernel regression, forecasts
    cx.diagnostics   relations of a representation to its contexts and tasks
    cx.ranking       many contexts of one table, judged by spectrum and by a probe
    cx.learning      a context learned, saved and used on new rows
    cx.planning      what a problem takes on devices not here; cx.benchmarking: on these
    cx.plotting      pictures (extra `plot`); the command is `contexture` (extra `cli`)

`help(cx.svd)` and `help(cx.contexts.knn)` say more of each, with equations and sources.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "AssociationOperator": "operators",
    "CapabilityError": "contexts",
    "Context": "contexts",
    "SVDResult": "solvers",
    "SolveInfo": "solvers",
    "Status": "solvers",
    "association_operator": "operators",
    "extend": "solvers",
    "make_mesh": "_core.devices",
    "single_threaded_lapack": "_core.threads",
    "svd": "solvers",
}

if TYPE_CHECKING:
    from contexture_jax import benchmarking as benchmarking
    from contexture_jax import contexts as contexts
    from contexture_jax import data as data
    from contexture_jax import diagnostics as diagnostics
    from contexture_jax import evaluation as evaluation
    from contexture_jax import kernels as kernels
    from contexture_jax import learning as learning
    from contexture_jax import losses as losses
    from contexture_jax import models as models
    from contexture_jax import operators as operators
    from contexture_jax import planning as planning
    from contexture_jax import plotting as plotting
    from contexture_jax import prediction as prediction
    from contexture_jax import ranking as ranking
    from contexture_jax import solvers as solvers
    from contexture_jax import training as training
    from contexture_jax import zoo as zoo
    from contexture_jax._core.devices import make_mesh as make_mesh
    from contexture_jax._core.threads import (
        single_threaded_lapack as single_threaded_lapack,
    )
    from contexture_jax.contexts import CapabilityError as CapabilityError
    from contexture_jax.contexts import Context as Context
    from contexture_jax.operators import AssociationOperator as AssociationOperator
    from contexture_jax.operators import association_operator as association_operator
    from contexture_jax.solvers import SolveInfo as SolveInfo
    from contexture_jax.solvers import Status as Status
    from contexture_jax.solvers import SVDResult as SVDResult
    from contexture_jax.solvers import extend as extend
    from contexture_jax.solvers import svd as svd

# The layers: `help` would print what else is named here in full.
__all__ = [
    "benchmarking",
    "contexts",
    "data",
    "diagnostics",
    "evaluation",
    "kernels",
    "learning",
    "losses",
    "models",
    "operators",
    "planning",
    "plotting",
    "prediction",
    "ranking",
    "solvers",
    "training",
    "zoo",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    # What is imported here is of no use outside.
    special = (name for name in globals() if name.startswith("__"))
    return sorted({*special, *__all__, *_NAMES})
