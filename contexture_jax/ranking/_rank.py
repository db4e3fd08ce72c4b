"""A family of contexts solved and judged one by one, and τ held against the errors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from contexture_jax._core.checks import (
    as_array,
    check_coefficient,
    check_finite,
    check_integer,
    check_ndim,
    check_number,
)
from contexture_jax._core.threads import in_turn
from contexture_jax._core.types import ArrayLike, Float, Int, short_repr, summary
from contexture_jax.evaluation import (
    distance_correlation,
    pearson_correlation,
)
from contexture_jax.ranking._family import ContextSpec, NamedContext
from contexture_jax.ranking._judged import (
    RankedContext,
    Solved,
    are_solved_beside,
    is_too_strong,
    judged,
    judged_by_columns,
    solved,
    solved_context,
)
from contexture_jax.ranking._laws import LawsOfGroups, groups
from contexture_jax.ranking._probe import RidgeProbe

__all__ = ["Correlations", "correlations", "rank_contexts"]

_BYTES = 900 * 2**20  # all K of 5,000 rows at once
_FEWEST = 3  # contexts that are correlated
_VERDICTS = ("too weak", "moderate", "too strong", "undecided")
ErrorName = Literal[
    "error", "squared_error", "validated_error", "validated_squared_error"
]
CriterionName = Literal["tau", "column_error", "least_column_error"]


class _How(NamedTuple):
    """How a context is solved and judged: arguments of `rank_contexts`."""

    x: Float[np.ndarray, "n d"]
    probe: RidgeProbe | None
    max_dim: int
    beta: float
    energy_share: float
    tol: float
    seed: int

    def done(
        self, part: tuple[ContextSpec | NamedContext, Any]
    ) -> tuple[Solved | None, RankedContext]:
        """A context and its law, if it was made, solved and judged."""
        spec, law = part
        try:
            found = self._solved(spec, law)
            return found, self._judged(spec, found)
        # Whatever it is, the others are worth their time.
        except Exception as error:
            return None, _failed(spec, error)

    def _solved(self, spec: ContextSpec | NamedContext, law: Any) -> Solved:
        n, how = len(self.x), {"tol": self.tol, "seed": self.seed}
        if isinstance(spec, NamedContext):
            return solved_context(spec.made(), n, self.max_dim, **how)
        is_strong = functools.partial(
            is_too_strong, beta=self.beta, max_dim=self.max_dim
        )
        return solved(law, min(self.max_dim + 1, n - 1), is_enough=is_strong, **how)

    def _judged(self, spec: ContextSpec | NamedContext, found: Solved) -> RankedContext:
        row = judged(
            spec,
            found,
            max_dim=self.max_dim,
            beta=self.beta,
            energy_share=self.energy_share,
        )
        row = judged_by_columns(row, found, self.x)
        if self.probe is None:
            return row
        errors = self.probe.errors(found.functions, row.best_dim or 1)
        return row._replace(probe=errors)


@short_repr
class Correlations(NamedTuple):
    """How a criterion goes with the error of a probe, over contexts.

    Attributes:
        num_contexts: over how many.
        pearson: Pearson's correlation; None if there are fewer than 3 contexts, or one
            of the lists is constant.
        distance: the distance correlation, likewise.
    """

    num_contexts: int
    pearson: float | None
    distance: float | None


def rank_contexts(
    x: ArrayLike,
    specs: Sequence[ContextSpec | NamedContext],
    *,
    columns: ArrayLike | None = None,
    probe: RidgeProbe | None = None,
    max_dim: int = 512,
    beta: float = 1.0,
    energy_share: float = 0.9,
    tol: float = 0.03,
    seed: int = 0,
    max_bytes: int | None = None,
    on_context: Callable[[RankedContext], bool | None] | None = None,
    on_solved: Callable[[ContextSpec | NamedContext, Solved], None] | None = None,
) -> list[RankedContext]:
    """Solve and judge many contexts of one table: τ, its bounds, dimensions, errors.

    X and A are the rows of the table, P_X is uniform. Distances are computed once a
    mask for all contexts of a type that fit in memory together; a context takes a dense
    solve (`tol` bounds its relative residuals, and `tau_lower` and `tau_upper` say what
    they leave open), up to some thousand rows one on each core. A context that fails is
    one of the results, with the reason.

    τ never tells d by itself: beside its d there are the d that keeps `energy_share` of
    Σ s_i², the d that is best for the columns of x, and with a probe the d that
    validation prefers. Nor is τ the only judge without labels: the errors on the
    columns go with those on a target more closely on most tables (`column_errors`).

    Args:
        x: the rows, shape (n, d), finite; columns of one scale.
        specs: the contexts, each of another name; as they are done those that are named
            come first, others by type.
        columns: the number of the column of the table that each feature comes from,
            shape (d,), which masks leave out whole; None: each is one.
        probe: of a target of the rows, for errors.
        max_dim: d0 of τ.
        beta: β of τ.
        energy_share: of Σ s_i², in (0, 1].
        tol: relative residual of solves of more than 2,000 rows.
        seed: of masks and solver.
        max_bytes: of the laws that are there at once; one is there in any case. None:
            900 MiB, or 4 n² if that is more: one law in float32, or four of counts.
        on_context: called with each as it is done; the run ends if it returns true.
        on_solved: called with each and what was solved, before `on_context`: for
            criteria of your own.

    Returns:
        The contexts that were done, in the order of `specs`.

    Raises:
        ValueError: if shapes do not fit, a feature is not finite, or a number is out of
            its range.
    """
    check_integer(max_dim, "max_dim", low=1)
    check_coefficient(beta, "beta")
    for name, number in (("energy_share", energy_share), ("tol", tol)):
        if not 0 < check_number(number, name) <= 1:
            raise ValueError(f"{name} must be above 0 and at most 1; got {number}")
    rows, of_columns = _checked(x, columns)
    n = len(rows)
    if probe is not None and probe.num_rows != n:
        raise ValueError(f"probe must have {n} rows, as x; got {probe.num_rows}")
    if len({spec.name for spec in specs}) < len(specs):
        raise ValueError("specs must have names of their own; got one twice")
    room = max(_BYTES, 4 * n**2) if max_bytes is None else max_bytes
    grouped = _grouped(specs, n, room)
    of_groups = LawsOfGroups(grouped, rows, of_columns, seed)
    how = _How(rows, probe, max_dim, beta, energy_share, tol, seed)
    done: dict[str, RankedContext] = {}
    for group in grouped:
        for found, row in _each(group, of_groups, how):
            if found is not None and on_solved is not None:
                on_solved(row.spec, found)
            done[row.spec.name] = row
            if on_context is not None and on_context(row):
                return _in_order(specs, done)
    return _in_order(specs, done)


def _each(
    group: Sequence[Any], of_groups: LawsOfGroups, how: _How
) -> Iterable[tuple[Solved | None, RankedContext]]:
    """What is solved of a group, or None, and judged, one after the other."""
    try:
        is_made = isinstance(group[0], ContextSpec)
        tables = of_groups.laws(group) if is_made else group
    except Exception as error:
        return [(None, _failed(spec, error)) for spec in group]
    parts = zip(group, tables, strict=True)
    beside = are_solved_beside(len(how.x), len(group))
    return in_turn(how.done, parts) if beside else map(how.done, parts)


def _failed(spec: ContextSpec | NamedContext, error: Exception) -> RankedContext:
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return RankedContext(spec, reason=words)


def _checked(
    x: ArrayLike, columns: ArrayLike | None
) -> tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " d"]]:
    """The rows in float64, and the number of the column of each feature."""
    rows = np.asarray(as_array(x, "x"), np.float64)
    check_ndim(rows, 2, "x")
    check_finite(rows, "x")
    num_features = rows.shape[1]
    of_columns = np.arange(num_features) if columns is None else np.asarray(columns)
    check_ndim(of_columns, 1, "columns")
    if len(rows) < 3 or of_columns.shape != (num_features,):
        msg = (
            "x must have at least 3 rows, and columns one number for each of its"
            f" {num_features} features; got {rows.shape} and {of_columns.shape}"
        )
        raise ValueError(msg)
    return rows, of_columns


def _grouped(
    specs: Sequence[ContextSpec | NamedContext], num_rows: int, num_bytes: int
) -> list[list[Any]]:
    """What is made together: what is named, or cannot be made, is by itself."""
    words = [spec for spec in specs if isinstance(spec, ContextSpec)]
    fit = [s for s in words if s.kind != "knn" or s.parameter <= num_rows]
    names = {spec.name for spec in fit}
    alone = [[spec] for spec in specs if spec.name not in names]
    return alone + groups(fit, num_rows, num_bytes)


def correlations(
    contexts: Sequence[RankedContext],
    *,
    error: ErrorName = "error",
    by: CriterionName = "tau",
    leave_out: Sequence[str] = (),
    kind: str | None = None,
) -> Correlations:
    """How τ, or another criterion, goes with the error, over contexts that have both.

    Which contexts count moves the figure more than anything else: of those that τ
    abstains from, identity-like ones have τ without bound, which Pearson's correlation
    then follows alone. Say which were left out beside any figure.

    Args:
        contexts: from `rank_contexts`, with a probe.
        error: a field of `ProbeErrors`: at the d of τ, or of validation.
        by: which criterion.
        leave_out: the verdicts of contexts that do not count, as "too strong".
        kind: of this type only; None: of all.

    Raises:
        ValueError: if there is no such error, criterion or verdict.
    """
    if by not in get_args(CriterionName):
        names = ", ".join(get_args(CriterionName))
        raise ValueError(f"by must be one of {names}; got {summary(by)}")
    unknown = [word for word in leave_out if word not in _VERDICTS]
    if error not in get_args(ErrorName) or unknown:
        msg = (
            f"error must be one of {', '.join(get_args(ErrorName))}, and leave_out of"
            f" {', '.join(_VERDICTS)}; got {summary(error)} and {list(leave_out)}"
        )
        raise ValueError(msg)
    pairs = [
        (getattr(row, by), getattr(row.probe, error))
        for row in contexts
        if row.probe is not None
        and getattr(row, by) is not None
        and np.isfinite(getattr(row, by))
        and row.association not in leave_out
        and kind in (None, row.spec.type)
    ]
    if len(pairs) < _FEWEST:
        return Correlations(len(pairs), None, None)
    scores, errors = np.array(pairs).T
    if np.ptp(scores) == 0 or np.ptp(errors) == 0:
        return Correlations(len(pairs), None, None)
    return Correlations(
        len(pairs),
        pearson_correlation(scores, errors),
        distance_correlation(scores, errors),
    )


def _in_order(
    specs: Sequence[ContextSpec | NamedContext], done: dict[str, RankedContext]
) -> list[RankedContext]:
    return [done[spec.name] for spec in specs if spec.name in done]
