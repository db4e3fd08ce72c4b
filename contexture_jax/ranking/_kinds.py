"""Contexts beside those of distances: columns, teachers, SCARF, and mixtures."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from contexture_jax._core.checks import (
    as_array,
    check_finite,
    check_integer,
    check_ndim,
)
from contexture_jax._core.types import ArrayLike, Int
from contexture_jax.contexts import (
    Context,
    conditional,
    convex_combination,
    convolve,
    knn,
    labels,
    rbf,
    teacher,
)
from contexture_jax.ranking._family import (
    ContextSpec,
    NamedContext,
    numbers_of_neighbors,
)
from contexture_jax.ranking._judged import RankedContext
from contexture_jax.ranking._laws import laws

__all__ = [
    "best_of_types",
    "column_family",
    "mixture_family",
    "quantile_codes",
    "scarf_family",
    "teacher_family",
]

_DRAWS_OF_A_ROW = 4
_MOST_NUMBERS = 2**25  # of a law of values that were drawn
_MOST_TUPLES = 2**25  # pairs of a row and a tuple, up to which a join is summed exactly
_LEVELS = 4
_MOST_RATES = 9
_WEIGHTS = (0.25, 0.5, 0.75)


def column_family(
    values: ArrayLike, name: str, num_settings: int = 35
) -> list[NamedContext]:
    """A is what a column of the table holds: its class, or a row that is near in it.

    Integers are classes, one context of type "labels": it determines its functions, so
    that τ abstains, and is of use in mixtures. Floating numbers are k-NN contexts of
    this column alone, type "near", with K as in `published_family`.

    Args:
        values: shape (n,): integers for classes, or floating numbers, finite.
        name: of the column.
        num_settings: how many K.

    Raises:
        ValueError: if a number is not finite.
    """
    column = np.asarray(as_array(values, "values"))
    check_ndim(column, 1, "values")
    if column.dtype.kind != "f":
        classes, codes = np.unique(column, return_inverse=True)
        params = {"column": name, "num_classes": len(classes)}
        make = functools.partial(labels, codes)
        return [NamedContext(f"labels-{name}", make, "labels", params)]
    check_finite(column, "values")
    points = column.astype(np.float32)[:, None]
    return [
        NamedContext(
            f"near-{name}-{num}",
            functools.partial(knn, points, num),
            "near",
            {"column": name, "num_neighbors": num},
        )
        for num in numbers_of_neighbors(len(column), num_settings)
    ]


def teacher_family(features: ArrayLike, name: str) -> list[NamedContext]:
    """The one context whose dual kernel is that of whitened features of a teacher.

    Its values are 1 for as many functions as the features span, so that τ abstains.

    Args:
        features: shape (n, d).
        name: of the teacher.
    """
    make = functools.partial(teacher, np.asarray(features, np.float32))
    return [NamedContext(f"teacher-{name}", make, "teacher", {"teacher": name})]


def quantile_codes(values: ArrayLike, levels: int = _LEVELS) -> Int[np.ndarray, " n"]:
    """Numbers told to so many levels, each of about as many rows; fewer as they are.

    Args:
        values: shape (n,), finite.
        levels: how many, at least 2. A column of no more values keeps them.
    """
    column = np.asarray(as_array(values, "values"), np.float64)
    check_ndim(column, 1, "values")
    check_finite(column, "values")
    levels = check_integer(levels, "levels", low=2)
    distinct, codes = np.unique(column, return_inverse=True)
    if len(distinct) <= levels:
        return codes
    edges = np.quantile(column, np.arange(1, levels) / levels)
    return np.searchsorted(edges, column)


def scarf_family(
    codes: ArrayLike, num_settings: int = 35, *, seed: int = 0
) -> list[NamedContext]:
    """A is the row with entries replaced by those of other rows, by SCARF, at rates.

    `contexts.scarf` has no finite table: A is one of ∏ (values of a column) rows. Its
    finite form is by sampling, as of `operators.monte_carlo_operator`: a_1, …, a_m are
    drawn from P_A of the table, four for each row but at most 2²⁵ / n, and P⁺(a_j|x_i)
    is in proportion to the density ratio P⁺(a_j|x_i) / P_A(a_j), which is exact. Values
    scatter by m^{−1/2}, weak ones upwards: bounds on τ are of the solver and hold
    nothing of that. Where a column has a value of its own in each row, an entry that is
    kept tells the row, and the context is the identity but for rates near 1: so give
    numbers as `quantile_codes`.

    Args:
        codes: whole numbers from 0, of a few values in each column, shape (n, c).
        num_settings: how many rates from 0.1 to 0.9, nine at most.
        seed: of the draws.

    Raises:
        TypeError: if the codes are not integers.
        ValueError: if one is negative.
    """
    values = np.asarray(as_array(codes, "codes"))
    check_ndim(values, 2, "codes")
    if values.dtype.kind not in "iu":
        raise TypeError(f"codes must be integers; got {values.dtype}")
    if values.size and values.min() < 0:
        raise ValueError(f"codes must be 0 or more; got {values.min()}")
    count = check_integer(num_settings, "num_settings", low=1)
    found = []
    for rate in np.linspace(0.1, 0.9, min(count, _MOST_RATES)) if count > 1 else [0.5]:
        rate = float(f"{rate:.3g}")  # as names have it
        params = {"rate": rate, "num_draws": _num_draws(len(values))}
        make = functools.partial(_scarf, values, rate, seed)
        found.append(NamedContext(f"scarf-{rate:g}", make, "scarf", params))
    return found


def best_of_types(
    ranked: Sequence[RankedContext], types: Sequence[str]
) -> list[RankedContext]:
    """The best context of each of some types, of those that were solved.

    With a probe by its error at the d that validation prefers, on rows left out, so
    that errors of what is made of them are a little too low; without by the least
    error on the columns of the rows, never by τ.

    Args:
        ranked: from `rank_contexts`.
        types: in the order of the result; those without a context are left out.
    """
    found = []
    for kind in types:
        own = [r for r in ranked if r.spec.type == kind and r.status != "failed"]
        if own:
            found.append(min(own, key=_badness))
    return found


def _badness(row: RankedContext) -> tuple[Any, ...]:
    if row.probe is not None:
        return (row.probe.validated_error, row.probe.validated_squared_error)
    return (np.inf if row.least_column_error is None else row.least_column_error,)


def mixture_family(
    parts: Sequence[ContextSpec | NamedContext],
    x: ArrayLike,
    *,
    weights: Sequence[float] = _WEIGHTS,
    columns: ArrayLike | None = None,
    seed: int = 0,
) -> list[NamedContext]:
    """Convex combinations, convolutions and joins of every two of some contexts.

    Convolutions in both orders. A join is exact up to 2²⁵ pairs of a row and a tuple;
    beyond, tuples are drawn as by `scarf_family`. P_X is uniform. A teacher, whose
    "law" is signed, fails to be joined.

    Args:
        parts: of the rows `x`, none twice.
        x: shape (n, d), as of `rank_contexts`.
        weights: of the first of two in a convex combination.
        columns: as of `rank_contexts`, for masked parts.
        seed: of masks and draws, as of `rank_contexts`.
    """
    rows = np.asarray(as_array(x, "x"), np.float64)
    check_ndim(rows, 2, "x")
    of_columns = np.arange(rows.shape[1]) if columns is None else np.asarray(columns)

    def made(specs: Sequence[ContextSpec | NamedContext]) -> list[Context]:
        return [_as_context(spec, rows, of_columns, seed) for spec in specs]

    def named(kind: str, two: Any, make: Callable, *shares: float) -> NamedContext:
        names = [spec.name for spec in two]
        first = "-".join([kind, *(f"{share:g}" for share in shares)])
        params: dict[str, Any] = {"parts": names}
        params |= {"weights": list(shares)} if shares else {}
        num_draws = _num_drawn(two, len(rows), joined=kind == "join")
        if num_draws is not None:
            params["num_draws"] = num_draws
        return NamedContext(f"{first}-{'+'.join(names)}", make, kind, params)

    found = []
    for two in itertools.combinations(parts, 2):
        for share in weights:
            law = [share, 1 - share]

            def combined(two: Any = two, law: Any = law) -> Context:
                return convex_combination(made(two), law)

            found.append(named("convex", two, combined, *law))
        for order in (two, two[::-1]):

            def convolved(order: Any = order) -> Context:
                return convolve(*made(order))

            found.append(named("convolve", order, convolved))

        def joined(two: Any = two) -> Context:
            return _joined(made(two), len(rows), seed)

        found.append(named("join", two, joined))
    return found


def _num_drawn(
    parts: Sequence[ContextSpec | NamedContext], num_rows: int, *, joined: bool
) -> int | None:
    """How many draws a mixture is known from; None: it is exact."""
    params = [p.params if isinstance(p, NamedContext) else {} for p in parts]
    drawn = [one["num_draws"] for one in params if "num_draws" in one]
    sizes = [one.get("num_draws", one.get("num_classes", num_rows)) for one in params]
    if joined and num_rows * math.prod(sizes) > _MOST_TUPLES:
        drawn.append(_num_draws(num_rows))
    return min(drawn, default=None)


def _as_context(
    spec: ContextSpec | NamedContext, x: np.ndarray, columns: np.ndarray, seed: int
) -> Context:
    if isinstance(spec, NamedContext):
        return spec.made()
    if spec.mask_share:
        (gathered,) = laws([spec], x, columns, seed)
        return conditional(gathered.astype(np.float32))
    points = x.astype(np.float32)
    if spec.kind == "knn":
        return knn(points, int(spec.parameter))
    return rbf(points, spec.parameter)


def _joined(parts: Sequence[Context], num_rows: int, seed: int) -> Context:
    """The join of laws with a uniform P_X, by all tuples or by some that are drawn."""
    tables = [np.asarray(part.table(), np.float32) * num_rows for part in parts]
    if any((table < 0).any() for table in tables):
        raise ValueError("a join is of laws P⁺(a|x); that of a teacher is signed")
    if num_rows * np.prod([table.shape[1] for table in tables]) <= _MOST_TUPLES:
        law = functools.reduce(_products, tables)
        return conditional(law[:, law.any(axis=0)])
    rng = np.random.default_rng(seed)
    rows = np.arange(_num_draws(num_rows)) % num_rows
    ratios = np.ones((num_rows, len(rows)), np.float32)
    for table in tables:
        sums, where = table.cumsum(axis=1), rng.random(len(rows))
        drawn = [
            min(int(np.searchsorted(sums[x], u * sums[x, -1])), table.shape[1] - 1)
            for x, u in zip(rows, where, strict=True)
        ]
        ratios *= table[:, drawn]
    return conditional(ratios / ratios.mean(axis=0))


def _products(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return (one[:, :, None] * two[:, None, :]).reshape(len(one), -1)


def _scarf(codes: Int[np.ndarray, "n c"], rate: float, seed: int) -> Context:
    """P⁺(a_j|x) / P_A(a_j) up to a factor of x, for rows a_j that were drawn."""
    num_rows, num_columns = codes.shape
    rng = np.random.default_rng(seed)
    rows = np.arange(_num_draws(num_rows)) % num_rows
    size = len(rows), num_columns
    others = np.take_along_axis(codes, rng.integers(num_rows, size=size), axis=0)
    drawn = np.where(rng.random(size) < rate, others, codes[rows])
    # One column a value: log P⁺(a|x) is, but for a term of a alone, the sum over cells
    # that agree of log (1 + (1 − r) / (r p)).
    starts = np.concatenate([[0], np.cumsum(codes.max(axis=0) + 1)])

    def one_hot(values: np.ndarray) -> np.ndarray:
        found = np.zeros((len(values), starts[-1]), np.float32)
        np.put_along_axis(found, values + starts[:-1], 1.0, axis=1)
        return found

    own = one_hot(codes)
    shares = np.maximum(own.mean(axis=0), 1 / num_rows)
    agreeing = np.log1p((1 - rate) / (rate * shares)).astype(np.float32)
    logs = (own * agreeing) @ one_hot(drawn).T
    ratios = np.exp(logs - logs.max(axis=0))
    return conditional(ratios / ratios.mean(axis=0))


def _num_draws(num_rows: int) -> int:
    return max(num_rows, min(_DRAWS_OF_A_ROW * num_rows, _MOST_NUMBERS // num_rows))
