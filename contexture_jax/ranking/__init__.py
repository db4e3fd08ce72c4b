"""Many contexts of one table, each solved and judged: which is worth training on.

`published_family` lists the contexts of a published experiment, `rank_contexts` solves
them one after the other and judges each by its spectrum and, with a target, by the
error of a ridge probe on its functions. `scarf_family`, `column_family` and
`teacher_family` list contexts of other kinds, `mixture_family` mixes some of them;
`min_max_weights` and `criterion_weights` find weights with which several are mixed.
`spectra_of_rows` solves contexts on some of the rows of a larger table.
"""

from contexture_jax.ranking._family import (
    ContextSpec,
    NamedContext,
    published_family,
)
from contexture_jax.ranking._judged import RankedContext, Solved
from contexture_jax.ranking._kinds import (
    best_of_types,
    column_family,
    mixture_family,
    quantile_codes,
    scarf_family,
    teacher_family,
)
from contexture_jax.ranking._probe import RIDGES, ProbeErrors, RidgeProbe
from contexture_jax.ranking._rank import (
    Correlations,
    CriterionName,
    ErrorName,
    correlations,
    rank_contexts,
)
from contexture_jax.ranking._subsets import spectra_of_rows
from contexture_jax.ranking._weights import (
    Criterion,
    FoundWeights,
    criterion_weights,
    min_max_weights,
)

__all__ = [
    "RIDGES",
    "ContextSpec",
    "Correlations",
    "Criterion",
    "CriterionName",
    "ErrorName",
    "FoundWeights",
    "NamedContext",
    "ProbeErrors",
    "RankedContext",
    "RidgeProbe",
    "Solved",
    "best_of_types",
    "column_family",
    "correlations",
    "criterion_weights",
    "min_max_weights",
    "mixture_family",
    "published_family",
    "quantile_codes",
    "rank_contexts",
    "scarf_family",
    "spectra_of_rows",
    "teacher_family",
]
