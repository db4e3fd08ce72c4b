"""The contexts that `contexture rank` ranks: which there are, and which to mix."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from contexture_jax.cli._rank_data import Beside, columns_of
from contexture_jax.data import Table

if TYPE_CHECKING:
    from contexture_jax.cli._rank import RankOptions
    from contexture_jax.ranking import ContextSpec, NamedContext, RankedContext

    Spec = ContextSpec | NamedContext

__all__ = ["MIXED", "PRESETS", "kinds", "kinds_of", "mixtures", "specs_of"]

_PUBLISHED = ("rbf", "knn", "rbf-mask", "knn-mask")
_KINDS = (*_PUBLISHED, "scarf", "mix")
PRESETS = {"all": _KINDS, "published": _PUBLISHED}
# Of what `contexture train --mix` takes.
MIXED = ("knn", "rbf", "scarf", "labels")


def kinds(text: str) -> tuple[str, ...]:
    """Kinds of contexts with commas between them, once each."""
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    unknown = [kind for kind in found if kind not in _KINDS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"expected some of {', '.join(_KINDS)}, with commas between; got"
            f" {unknown[0]!r}"
        )
    return found


def kinds_of(options: RankOptions) -> tuple[str, ...]:
    """The kinds asked for, by name or as a preset."""
    return tuple(options.contexts or PRESETS[options.preset])


def specs_of(options: RankOptions, table: Table, beside: Beside) -> list[Spec]:
    """All contexts but mixtures.

    Raises:
        ValueError: if the table has no such contexts, or there is nothing to rank.
    """
    from contexture_jax import ranking

    wanted, x = kinds_of(options), table.features
    published = ranking.published_family(x, options.settings, num_masks=options.masks)
    found: list[Spec] = [spec for spec in published if spec.type in wanted]
    if "scarf" in wanted:
        codes = _codes(table)
        found += ranking.scarf_family(codes, options.settings, seed=options.seed)
    for name, values in beside.columns.items():
        found += ranking.column_family(values, name, options.settings)
    for name, features in beside.teachers.items():
        found += ranking.teacher_family(features, name)
    if not found:
        parts = ", ".join(kind for kind in _KINDS if kind in MIXED)
        raise ValueError(f"mix is made of contexts beside it: add some of {parts}")
    return found


def mixtures(
    options: RankOptions, table: Table, ranked: Sequence[RankedContext]
) -> list[Spec]:
    """Those of the best of each type that can be learned mixed.

    Args:
        options: what was asked for.
        table: the data.
        ranked: all contexts but mixtures, judged.
    """
    from contexture_jax import ranking

    if "mix" not in kinds_of(options):
        return []
    columns = [row for row in ranked if row.spec.type == "labels"]
    others = [kind for kind in MIXED if kind != "labels"]
    # Of labels, each column is a context of its own.
    parts = ranking.best_of_types(ranked, others)
    parts += [row for row in columns if row.status != "failed"]
    specs = [row.spec for row in parts]
    found = ranking.mixture_family(specs, table.features, seed=options.seed)
    # A step back from A to X takes a finite law: `train` convolves scarf last.
    return [
        mixed
        for mixed in found
        if mixed.type != "convolve" or not mixed.params["parts"][0].startswith("scarf-")
    ]


def _codes(table: Table) -> np.ndarray:
    """Every column as few values: categories, and numbers by their quantiles."""
    from contexture_jax import ranking

    of_features = columns_of(table)
    return np.stack(
        [
            table.features[:, of_features == number].argmax(axis=1)
            if encoding.categories
            else ranking.quantile_codes(table.features[:, of_features == number][:, 0])
            for number, encoding in enumerate(table.encodings)
        ],
        axis=1,
    )
