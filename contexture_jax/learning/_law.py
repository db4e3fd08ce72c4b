"""What is learned of a context, by which pairs, and what judges it."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from contexture_jax._core.checks import as_array, check_number
from contexture_jax._core.types import summary
from contexture_jax.contexts import (
    CapabilityError,
    Composed,
    ConvexCombination,
    DualStep,
    MixedContext,
    Mixture,
    Neighbors,
    OnRows,
    Rbf,
    SameClass,
    TimeLag,
    TupleContext,
)
from contexture_jax.learning._objectives import Objective
from contexture_jax.operators import AssociationOperator, association_operator
from contexture_jax.training import PairBatches, pair_batches, takes_numbers

__all__ = ["Law", "law_of"]


class Law(NamedTuple):
    """What is learned, and what judges it.

    Attributes:
        pairs: to train on.
        x: what Φ sees at the rows of the operator, or at the rows held out.
        a: what Ψ sees at the columns of the operator, or of pairs held out, a draw
            each; a tuple of one for each context where there are several.
        op: the operator, or None.
        rows: which rows are held out, or None.
    """

    pairs: PairBatches
    x: Any
    a: Any
    op: AssociationOperator | None
    rows: np.ndarray | None

    @property
    def is_summed(self) -> bool:
        """Whether averages are sums over all values of A."""
        pairs = self.pairs
        has_operator = self.op is not None and pairs.takes_numbers
        return has_operator and "table" in pairs.context.capabilities

    @property
    def weights(self) -> np.ndarray | None:
        """Of the contexts of a mixture whose index is seen."""
        context = self.pairs.context
        is_seen = isinstance(context, ConvexCombination)
        return np.asarray(context.weights) if is_seen else None

    @property
    def given(self) -> Any:
        """What the context draws for, at the rows held out."""
        is_numbered = self.pairs.takes_numbers and self.rows is not None
        return self.rows.astype(np.int32) if is_numbered else self.x  # pyright: ignore


def law_of(
    context: Any,
    x: Any,
    a: Any,
    op: AssociationOperator | None,
    objective: Objective,
    batch_size: int,
    seed: int,
    num_draws: int | None,
    held_out: float,
) -> Law:
    """Pairs to train on, and what judges them; arguments as of `learn`.

    Raises:
        CapabilityError: if a context that takes any x cannot draw.
        TypeError: if there are no inputs.
        ValueError: if tables or `a` do not fit the context, the operator or each other.
    """
    sees = objective.sees
    num_draws = objective.num_draws if num_draws is None else num_draws
    make = functools.partial(
        pair_batches,
        context,
        batch_size,
        seed=seed,
        # A loss of the kernel takes 0 draws, which are no pairs to ask for.
        num_draws=0 if sees == "recursion" else max(num_draws, 1),
        parts=sees.endswith("of parts"),
        recursion=sees.endswith("recursion"),
    )
    if context is not None and takes_numbers(context):
        # Rows come by the law of the operator that judges.
        if op is None and _has_operator(context):
            op = association_operator(context)
        return _of_rows(make, context, x, a, op, objective, seed, held_out)
    if (
        context is not None
        and a is None
        and {"inputs", "table"} <= {*context.capabilities}
    ):
        a = np.asarray(context.context_values())
        op = association_operator(context) if op is None else op
        points = np.asarray(context.inputs())
        x = points if x is None else x
        if callable(x):
            # New inputs at every step, and the context's own to judge at.
            return Law(make(x=x), points, a, op, None)
    if op is not None:
        if callable(x) or a is None:
            msg = "an operator of drawn A takes x and a at its rows and columns"
            raise ValueError(msg)
        return Law(make(x=x, weights=op.p_x), x, a, op, None)
    if context is not None and any(t is not None for t in _tables_given(a)):
        msg = (
            "a plays no part where the context draws A and there is no op, as encoders"
            f" see what is drawn: expected None; got {summary(a)}"
        )
        raise ValueError(msg)
    if callable(x):
        key = jax.random.fold_in(jax.random.key(seed), 1)
        # A step gives the sampler a key with one more number folded in: none of these
        # inputs is trained on.
        judged = x(key, 4 * batch_size)
        return Law(make(x=x), judged, None, None, None)
    return _of_inputs(make, context, x, a, seed, held_out)


def _of_inputs(
    make: Any, context: Any, x: Any, a: Any, seed: int, held_out: float
) -> Law:
    """The law of a context that draws A for any x, or of arrays, on rows held out."""
    if x is None:
        msg = (
            "x must hold inputs, one a row, or be a sampler of them, x(key, count),"
            " where the context has none of its own; got None"
        )
        raise TypeError(msg)
    x = as_array(x, "x")
    if context is not None:
        _check_draws(context)
        out, kept = _held_out(len(x), held_out, seed)
        return Law(make(x=x[kept]), x[out], None, None, out)
    if a is None:
        raise ValueError("without a context a must be aligned with x; got no a")
    draws = [as_array(one, "a") for one in _tables_given(a)]
    for table in draws:
        # Here, as a cut to the rows that are kept makes all of one length.
        if table.shape[:1] != x.shape[:1]:
            msg = (
                "x and a must have the same number of rows, as row i of one goes with"
                f" row i of the other; got shapes {x.shape} and {table.shape}"
            )
            raise ValueError(msg)
    out, kept = _held_out(len(x), held_out, seed)
    pairs = make(x=x[kept], a=[table[kept] for table in draws])
    # Judged by one a of a row: several are not independent pairs.
    return Law(pairs, x[out], draws[0][out], None, out)


def _tables_given(a: Any) -> list[Any]:
    """The tables or draws of an argument `a`; one alone, or None, as it is."""
    return list(a) if isinstance(a, (list, tuple)) else [a]


def _check_draws(context: Any) -> None:
    """Raise unless a context that takes any x can be judged by draws."""
    if "sample" not in context.capabilities:
        msg = (
            f"{context._lacks('sample')}. What is learned of a law of A at any x is"
            " judged by draws; a kernel alone trains by cx.losses.kise, from batches of"
            " cx.training.pair_batches(context, …, x=x, kernel=True)"
        )
        raise CapabilityError(msg)


def _has_operator(context: Any) -> bool:
    """Whether the law of A can be summed over: no part of it is only drawn."""
    if isinstance(context, MixedContext):
        return all(map(_has_operator, context.contexts))
    return not isinstance(context, OnRows)


def _of_rows(
    make: Any,
    context: Any,
    x: Any,
    a: Any,
    op: AssociationOperator | None,
    objective: Objective,
    seed: int,
    held_out: float,
) -> Law:
    """The law of a context whose X is the number of a row."""
    sees = objective.sees
    num_rows = _num_drawn_rows(context) if op is None else op.shape[0]
    x = _table(_own_x(context, num_rows) if x is None else x, "x", num_rows)
    if sees.endswith("of parts") or isinstance(context, TupleContext):
        a = _tables_of_parts(context, x, a)
        # What is drawn by itself is seen as it is drawn.
        pairs = zip(_parts(context), a, strict=True)
        shown = tuple(t if _has_operator(part) else None for part, t in pairs)
    elif _has_operator(context) and op is not None:
        a = _table(_own_a(context, x) if a is None else a, "a", op.shape[1])
        shown = None if sees in ("kernel", "classes") else a
    else:
        shown = None
    if op is None:
        out, _ = _held_out(num_rows, held_out, seed)
        weights = np.ones(num_rows)
        weights[out] = 0
        return Law(make(x=x, a=shown, weights=weights), x[out], a, None, out)
    tables = a if isinstance(a, tuple) else (a,)
    if "psi" in objective.towers and any(table is None for table in tables):
        msg = (
            "an operator of drawn A takes a at its columns: for each context that draws"
            " A itself, what they stand for"
        )
        raise ValueError(msg)
    pairs = make(x=x, a=shown, weights=op.p_x, kernel=sees == "kernel")
    return Law(pairs, x, a, op, None)


def _num_drawn_rows(context: Any) -> int:
    """How many rows there are where A is drawn for some, of which there is no table."""
    if isinstance(context, OnRows):
        return len(context.x)
    return max(map(_num_drawn_rows, getattr(context, "contexts", ())), default=0)


def _own_x(context: Any, num_rows: int) -> Any:
    """What an encoder of X sees by itself: points; None: numbers."""
    if isinstance(context, MixedContext):
        # X of a chain is that of its first.
        parts = context.contexts
        parts = parts[:1] if isinstance(context, Composed) else parts
        found = (_own_x(part, num_rows) for part in parts)
        return next((x for x in found if x is not None), None)
    if isinstance(context, OnRows):
        return context.x
    # A context `at` new inputs has other rows than its points.
    is_own = isinstance(context, (Neighbors, Rbf)) and _is_square(context)
    return context.points if is_own else None


def _own_a(context: Any, x: Any) -> Any:
    """What an encoder of A sees by itself: x where A is a row; None: numbers."""
    if isinstance(context, (Composed, Mixture)):
        return _own_a(context.contexts[-1], x)
    if isinstance(context, DualStep):
        return x
    kinds = (Neighbors, Rbf, SameClass, TimeLag)
    return x if isinstance(context, kinds) and _is_square(context) else None


def _is_square(context: Any) -> bool:
    return context.shape[0] == context.shape[1]


def _parts(context: Any) -> tuple[Any, ...]:
    """The contexts whose values a tuple or a seen mixture has."""
    return context.tupled if isinstance(context, TupleContext) else context.contexts


def _tables_of_parts(context: Any, x: Any, a: Any) -> tuple[Any, ...]:
    """What each part's encoder sees of its values; None: what it draws itself."""
    parts = _parts(context)
    given = (None,) * len(parts) if a is None else a
    if not isinstance(given, tuple) or len(given) != len(parts):
        msg = (
            f"a must be a tuple of one table for each of the {len(parts)} contexts, or"
            f" None; got {summary(given)}"
        )
        raise ValueError(msg)
    tables = []
    for number, (part, table) in enumerate(zip(parts, given, strict=True)):
        if _has_operator(part):
            own = _own_a(part, x) if table is None else table
            table = _table(own, f"a[{number}]", _num_values(part))
        tables.append(None if table is None else np.asarray(table))
    return tuple(tables)


def _num_values(context: Any) -> int:
    shape = getattr(context, "shape", None)
    return association_operator(context).shape[1] if shape is None else shape[1]


def _table(table: Any, name: str, size: int) -> np.ndarray:
    """A table with one row for each number; None: the numbers."""
    table = np.arange(size, dtype=np.int32) if table is None else np.asarray(table)
    if len(table) != size:
        msg = (
            f"{name} must have one row for each {name} of the context, {size}; got"
            f" shape {table.shape}"
        )
        raise ValueError(msg)
    return table


def _held_out(num_rows: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows held out, and the others."""
    count = int(num_rows * check_number(share, "held_out"))
    order = np.random.default_rng(seed).permutation(num_rows)
    # Two, as judging halves them.
    if not 2 <= count < num_rows:
        msg = f"held_out must leave 2 or more of the {num_rows} rows out, and some in"
        raise ValueError(msg)
    return np.sort(order[:count]), np.sort(order[count:])
