"""Families of contexts: a few words a context, from which its law is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from contexture_jax._core.checks import (
    as_array,
    check_integer,
    check_ndim,
    check_number,
)
from contexture_jax._core.types import ArrayLike, summary
from contexture_jax.contexts import Context

__all__ = [
    "ContextSpec",
    "NamedContext",
    "numbers_of_neighbors",
    "published_family",
]

_NUM_MASKS, _MASK_SHARE = 50, 0.2
_GAMMA_RANGE = 1e-2, 1e2  # over the median squared distance
_SAMPLE = 512  # rows whose distances the median is taken of


@dataclasses.dataclass(frozen=True)
class ContextSpec:
    """A context of the rows of a table, in words: A is a row too.

    A masked context is the mean of P⁺ over random masks: each leaves out a share of the
    columns, at least one and not all, and distances are those of the rest.

    Attributes:
        kind: "rbf", P⁺(a|x) ∝ exp(−γ ‖x − a‖²), or "knn", uniform over nearest rows.
        parameter: γ, or the number of neighbours, the row itself included.
        mask_share: the share of columns that a mask leaves out; 0: no masks.
        num_masks: how many masks; 1 without.
    """

    kind: Literal["rbf", "knn"]
    parameter: float | int
    mask_share: float | int = 0.0
    num_masks: int = 1

    def __post_init__(self) -> None:
        """Check what does not depend on a table.

        Raises:
            ValueError: if there is no such context.
        """
        if self.kind not in ("rbf", "knn"):
            msg = f'kind must be "rbf" or "knn"; got {summary(self.kind)}'
            raise ValueError(msg)
        if self.kind == "knn":
            check_integer(self.parameter, "parameter", low=1)
        elif not 0 < check_number(self.parameter, "parameter") < np.inf:
            msg = f"parameter must be above 0, as gamma; got {self.parameter}"
            raise ValueError(msg)
        check_integer(self.num_masks, "num_masks", low=1)
        if not 0 <= check_number(self.mask_share, "mask_share") < 1:
            msg = f"mask_share must be in [0, 1); got {self.mask_share}"
            raise ValueError(msg)

    @property
    def type(self) -> str:
        """`rbf`, `knn`, `rbf-mask` or `knn-mask`."""
        return f"{self.kind}-mask" if self.mask_share else self.kind

    @property
    def name(self) -> str:
        """The type and all parameters, so that no two contexts share it."""
        name = f"{self.type}-{self.parameter:.6g}"
        if self.mask_share:
            name += f"-{self.mask_share:g}x{self.num_masks}"
        return name

    @property
    def params(self) -> dict[str, Any]:
        """The parameters by their names in `cx.contexts`."""
        own = "gamma" if self.kind == "rbf" else "num_neighbors"
        masks = {"mask_share": self.mask_share, "num_masks": self.num_masks}
        return {own: self.parameter} | (masks if self.mask_share else {})


@dataclasses.dataclass(frozen=True, eq=False)
class NamedContext:
    """Any finite context of the same rows, beside those that words describe.

    For what `ContextSpec` has no words for: labels, teachers, graphs, and contexts that
    are mixed of others.

    Attributes:
        name: of this context alone.
        context: with an `association_operator` of as many rows as the table; or what
            makes it when its turn comes, so that many are not there at once and one
            that cannot be made is a failure of its own.
        type: by which contexts are coloured and correlated.
        params: what a report should say of it.
    """

    name: str
    context: Context | Callable[[], Context]
    type: str = "other"
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def made(self) -> Context:
        """The context."""
        if isinstance(self.context, Context) or not callable(self.context):
            return self.context
        return self.context()


def published_family(
    x: ArrayLike,
    num_settings: int = 35,
    *,
    mask_share: float = _MASK_SHARE,
    num_masks: int = _NUM_MASKS,
) -> list[ContextSpec]:
    """The contexts of a published experiment: four types, 35 settings each.

    RBF and k-NN contexts of the rows and their masked versions, the mean of P⁺ over 50
    masks of 20 % of the columns (Zhai et al. 2025 (CTX), §5; theory.md §3.1). The
    ranges are not published. Here they reach from too weak to too strong: γ from 1/100
    to 100 over the median squared distance between rows, evenly in its logarithm, and K
    from 2 to half of the rows, likewise, but whole numbers and no two alike.

    Args:
        x: the rows, shape (n, d), n ≥ 4.
        num_settings: of each type; fewer of k-NN where there are not so many K.
        mask_share: of the masked types.
        num_masks: of the masked types.

    Raises:
        ValueError: if there are fewer than 4 rows, or most are alike.
    """
    rows = np.asarray(as_array(x, "x"), np.float64)
    check_ndim(rows, 2, "x")
    check_integer(num_settings, "num_settings", low=1)
    if len(rows) < 4:
        msg = f"x must have at least 4 rows; got shape {rows.shape}"
        raise ValueError(msg)
    some = rows[np.unique(np.linspace(0, len(rows) - 1, _SAMPLE).astype(int))]
    # Row by row: a table of differences would be as wide as the rows.
    apart = [((some[i + 1 :] - row) ** 2).sum(axis=1) for i, row in enumerate(some)]
    median = float(np.median(np.concatenate(apart)))
    if median == 0:
        msg = "x must have rows that differ: the median distance between two is 0"
        raise ValueError(msg)
    low, high = _GAMMA_RANGE
    gammas = np.geomspace(low, high, num_settings) / median
    settings: list[tuple[Literal["rbf", "knn"], list[float | int]]] = [
        # Six digits, which names and files hold.
        ("rbf", [float(f"{gamma:.6g}") for gamma in gammas]),
        ("knn", [*numbers_of_neighbors(len(rows), num_settings)]),
    ]
    masks = ((0.0, 1), (mask_share, num_masks))
    return [
        ContextSpec(kind, parameter, share, count)
        for share, count in masks
        for kind, parameters in settings
        for parameter in parameters
    ]


def numbers_of_neighbors(num_rows: int, count: int) -> list[int]:
    """So many K from 2 to half of the rows, evenly in their logarithm, if there are."""
    highest = max(num_rows // 2, 2)
    wanted, found = min(count, highest - 1), np.array([2])
    # Small ones round to the same: so many more until there are enough.
    for tried in range(count, 50 * count):
        found = np.unique(np.geomspace(2, highest, tried).round().astype(int))
        if len(found) >= wanted:
            break
    return found.tolist()
