"""Objectives that learn the contexture from batches of embeddings.

Each is a pure function `loss(embeddings..., *, weights=None, axis_name=None)` to be
minimised: of `(phi, psi)`, an input and what is paired with it, by an encoder each, or
of `(z, z_plus)`, two views by one encoder. theory.md §7 has the table: minimum, what is
recovered, and the source.

Where the law of a test differs, per-example losses (`cross_entropies`,
`squared_errors`) go into a reduction in place of a mean: `cvar`, `chi_squared_dro`,
`importance_weighted`, `group_weighted` or `group_dro` (theory.md §9.1). An encoder that
reads a context is kept from ignoring it by `context_use` and `context_entropy`.
"""

from contexture_jax.losses._constraint import (
    Constraint,
    HingePenalty,
    SquaredPenalty,
    Whiten,
)
from contexture_jax.losses._context_use import context_entropy, context_use
from contexture_jax.losses._contrastive import clip, info_nce, simclr
from contexture_jax.losses._graph import graph
from contexture_jax.losses._low_rank import (
    joint_nesting,
    lora_evd,
    lora_kernel,
    lora_svd,
    sequential_nesting,
)
from contexture_jax.losses._min_max import (
    MinMax,
    MixedLoss,
    PartWeights,
    init_part_weights,
    update_part_weights,
    with_part_weights,
)
from contexture_jax.losses._mixed import kise_mixed, svme_mixed
from contexture_jax.losses._neural_ef import neural_ef, neural_eigenmaps
from contexture_jax.losses._orbital import orbital_minimisation
from contexture_jax.losses._reconstruction import masked_reconstruction, reconstruction
from contexture_jax.losses._running import (
    RunningMoments,
    init_moments,
    running_covariance,
    running_mean,
    update_moments,
    whiten,
    with_running_moments,
)
from contexture_jax.losses._shift import (
    chi_squared_dro,
    cvar,
    group_dro,
    group_weighted,
    importance_weighted,
    with_group_weights,
)
from contexture_jax.losses._spectral_contrastive import (
    non_contrastive,
    spectral_contrastive,
    spectral_contrastive_published,
)
from contexture_jax.losses._supervised import (
    class_balanced,
    cross_entropies,
    cross_entropy,
    squared_error,
    squared_errors,
)
from contexture_jax.losses._svme import kise, kise_pairs, svme, svme_views
from contexture_jax.losses._vamp import ncp, vamp, vamp_e
from contexture_jax.losses._vicreg import barlow_twins, vicreg

__all__ = [
    "Constraint",
    "HingePenalty",
    "MinMax",
    "MixedLoss",
    "PartWeights",
    "RunningMoments",
    "SquaredPenalty",
    "Whiten",
    "barlow_twins",
    "chi_squared_dro",
    "class_balanced",
    "clip",
    "context_entropy",
    "context_use",
    "cross_entropies",
    "cross_entropy",
    "cvar",
    "graph",
    "group_dro",
    "group_weighted",
    "importance_weighted",
    "info_nce",
    "init_moments",
    "init_part_weights",
    "joint_nesting",
    "kise",
    "kise_mixed",
    "kise_pairs",
    "lora_evd",
    "lora_kernel",
    "lora_svd",
    "masked_reconstruction",
    "ncp",
    "neural_ef",
    "neural_eigenmaps",
    "non_contrastive",
    "orbital_minimisation",
    "reconstruction",
    "running_covariance",
    "running_mean",
    "sequential_nesting",
    "simclr",
    "spectral_contrastive",
    "spectral_contrastive_published",
    "squared_error",
    "squared_errors",
    "svme",
    "svme_mixed",
    "svme_views",
    "update_moments",
    "update_part_weights",
    "vamp",
    "vamp_e",
    "vicreg",
    "whiten",
    "with_group_weights",
    "with_part_weights",
    "with_running_moments",
]
