"""What contexts made of contexts ask of their parts: sizes, laws, rows, and a fit."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    as_real,
    check_probabilities,
    gap_of_laws,
    is_traced,
)
from contexture_jax._core.numerics import safe_divide
from contexture_jax._core.types import Array, ArrayLike, Float, Int
from contexture_jax.contexts._base import Context, as_context
from contexture_jax.contexts._dense_joint import DenseJoint
from contexture_jax.contexts._labels import Labels
from contexture_jax.contexts._neighbors import Neighbors, ReversedNeighbors
from contexture_jax.contexts._paired import SameClass
from contexture_jax.contexts._sampling import SamplingContext
from contexture_jax.contexts._softmax import SoftmaxContext
from contexture_jax.contexts._sparse_joint import SparseJoint
from contexture_jax.contexts._teacher import Teacher

__all__ = [
    "ON_ROWS",
    "as_parts",
    "as_weights",
    "check_chain",
    "check_kinds",
    "check_one_input",
    "has_numbers",
    "is_numbered",
    "law_of_a",
    "law_of_x",
    "parts_on_one_input",
    "row_law",
    "rows_of",
    "size_of",
    "sizes_of",
]

# What makes a law of A at any x one of numbers.
ON_ROWS = (
    "a law of A at any x is on the numbers of rows of data x as"
    " cx.contexts.on_rows(law, x)"
)
# A sum of printed weights is taken for 1 if it is 1 to this.
_SUM_TOLERANCE = 1e-6


def is_numbered(context: Context) -> bool:
    """Whether X and A are the numbers of rows and columns of a table."""
    parts = getattr(context, "contexts", None)
    if isinstance(parts, tuple):
        return getattr(context, "_is_finite", True) and all(map(is_numbered, parts))
    # Of the zoo, points have a form of their own, which `inputs` gives.
    return context._can("table") and "inputs" not in context.capabilities


@functools.singledispatch
def size_of(context: Any) -> tuple[int, int] | None:
    """(n, m) of a finite context; None: a law of A at any x."""
    if not context._can("table"):
        return None
    shape = getattr(context, "shape", None)
    # A class of the user's own may know its table alone.
    n, m = jnp.shape(context.table()) if shape is None else shape
    return n, m


@size_of.register
def _(context: ReversedNeighbors) -> tuple[int, int]:
    n, m = context.forward.shape
    return m, n


@size_of.register
def _(context: Teacher) -> tuple[int, int]:
    return context.features.shape[0], context.training_features.shape[0]


def sizes_of(context: Any) -> tuple[int | None, int | None]:
    """How many numbers X and A are of, each; None: rows of data, or what only it knows.

    Of a context made of contexts as `_ends` says: the part that has its X and the one
    that has its A.
    """
    size = size_of(context)
    if size is not None:
        return size
    own = getattr(context, "_sizes", None)
    if own is not None:
        return own
    ends = getattr(context, "_ends", (None, None))
    x, a = (None if end is None else sizes_of(end[0])[end[1]] for end in ends)
    return x, a


@functools.singledispatch
def law_of_x(context: Any) -> Float[Array, " n"]:
    """P_X of a finite context, by the shortest way that its kind has."""
    own = getattr(context, "_law_of_x", None)
    return jnp.asarray(context.table()).sum(axis=1) if own is None else own()


@law_of_x.register
def _(context: DenseJoint) -> Float[Array, " n"]:
    return context.probabilities.sum(axis=1)


@law_of_x.register
def _(context: SparseJoint) -> Float[Array, " n"]:
    return (
        jnp.zeros(context.shape[0], context.weights.dtype)
        .at[context.rows]
        .add(context.weights)
    )


@law_of_x.register(Neighbors)
@law_of_x.register(SoftmaxContext)
def _(context: Any) -> Float[Array, " n"]:
    return context.p_x


@law_of_x.register(Labels)
@law_of_x.register(SameClass)
@law_of_x.register(Teacher)
def _(context: Any) -> Float[Array, " n"]:
    n, _ = size_of(context) or (0, 0)
    return jnp.full((n,), 1.0 / n)


@law_of_x.register
def _(context: ReversedNeighbors) -> Float[Array, " n"]:
    return context.forward._law_of_a()


@functools.singledispatch
def law_of_a(context: Any) -> Float[Array, " m"]:
    """P_A of a finite context, by the shortest way that its kind has."""
    own = getattr(context, "_law_of_a", None)
    return jnp.asarray(context.table()).sum(axis=0) if own is None else own()


@law_of_a.register
def _(context: SoftmaxContext) -> Float[Array, " m"]:
    # By tiles: the table of a kernel may be too large.
    return law_of_x(context.reverse())


@law_of_a.register
def _(context: ReversedNeighbors) -> Float[Array, " m"]:
    return context.forward.p_x


def rows_of(context: Any, x: Int[Array, " k"] | None = None) -> Float[Array, "k m"]:
    """P⁺(·|x) of the rows numbered so, or of all, 0 where there is no mass."""
    if hasattr(context, "_laws") and not isinstance(context, SoftmaxContext):
        n, _ = size_of(context) or (0, 0)
        return context._laws(jnp.arange(n, dtype=jnp.int32) if x is None else x)
    table = jnp.asarray(context.table())
    table = table if x is None else table[x]
    return safe_divide(table, table.sum(axis=1, keepdims=True))


def as_parts(contexts: Iterable[Any], word: str) -> tuple[Context, ...]:
    """The contexts of a list, one or more; `word` is what they are to make."""
    parts = tuple(as_context(c, f"contexts[{i}]") for i, c in enumerate(contexts))
    if not parts:
        msg = f"{word} needs at least one context; got none"
        raise TypeError(msg)
    return parts


def as_weights(weights: ArrayLike | None, num: int, word: str) -> Float[Array, " j"]:
    """The law of the index for `word`, of concrete weights that sum to 1; None: equal.

    Raises:
        TypeError: if they are traced, or no real numbers.
        ValueError: if their number is another, one is negative, or the sum is not 1.
    """
    if weights is None:
        return jnp.full((num,), 1.0 / num)
    if is_traced(weights):
        raise TypeError(
            f"weights of {word} must be concrete; got a tracer: operators take traced"
            f" weights, as cx.operators.{word}([op1, op2], weights)"
        )
    name = f"weights of {word}"
    given = np.asarray(as_real(weights, name), np.float64)
    check_probabilities(given, name, num)
    total = float(given.sum())
    if abs(total - 1.0) > _SUM_TOLERANCE:
        msg = (
            f"{name} must sum to 1, as weights / sum(weights) does; got a sum of"
            f" {total:.9g}"
        )
        raise ValueError(msg)
    return jnp.asarray(given / total, jnp.zeros(()).dtype)


def check_one_input(parts: Sequence[Context], word: str) -> None:
    """Raise unless all parts have one X and one law of it, as far as can be told."""
    first, *others = parts
    size, _ = sizes_of(first)
    for number, part in enumerate(others, 1):
        check_kinds((first, 0), (part, 0), word, 0, number, "inputs")
        other, _ = sizes_of(part)
        if size is None or other is None:
            continue
        if size != other:
            msg = (
                f"{word} takes contexts of the same inputs; contexts[0], a"
                f" {first._kind}, has {size} and contexts[{number}], a {part._kind},"
                f" {other}"
            )
            raise ValueError(msg)
        gap = _gap(first, part, law_of_x, law_of_x)
        if gap:
            msg = (
                f"{word} takes contexts with one law of X; those of contexts[0], a"
                f" {first._kind}, and contexts[{number}], a {part._kind}, differ by"
                f" {gap:.3g} in total variation (×2): give both one law, as"
                " cx.contexts.conditional(rows, p_x) does"
            )
            raise ValueError(msg)


def parts_on_one_input(contexts: Iterable[Any], word: str) -> tuple[Context, ...]:
    """The contexts of a list, one or more, with one X and one law of it.

    Args:
        contexts: the list.
        word: the function that takes it, for messages.

    Raises:
        TypeError: if there is none, one is no context, or some inputs are numbers and
            others arrays.
        ValueError: if inputs differ in number or law, as far as can be told.
    """
    parts = as_parts(contexts, word)
    check_one_input(parts, word)
    return parts


def check_chain(parts: Sequence[Context]) -> None:
    """Raise unless the A of each part is the X of the next, as far as can be told."""
    for number, (one, two) in enumerate(itertools.pairwise(parts)):
        check_kinds((one, 1), (two, 0), "compose", number, number + 1, "values")
        names = f"contexts[{number}]", f"contexts[{number + 1}]"
        values, inputs = sizes_of(one)[1], sizes_of(two)[0]
        if values is None or inputs is None:
            continue
        if values != inputs:
            msg = (
                f"the A of {names[0]}, a {one._kind}, must be the X of {names[1]}, a"
                f" {two._kind}; they have {values} and {inputs} values"
            )
            raise ValueError(msg)
        gap = _gap(one, two, law_of_a, law_of_x)
        if gap:
            # Between two laws of A₁ the adjoints would not compose.
            msg = (
                f"the law of A in {names[0]}, a {one._kind}, must be the law of X in"
                f" {names[1]}, a {two._kind}; they differ by {gap:.3g} in total"
                " variation (×2). `convolve` takes any two contexts with one law of X,"
                " and cx.contexts.conditional(rows, p_x) gives rows another law"
            )
            raise ValueError(msg)


def _gap(one: Any, two: Any, law: Any, other: Any) -> float:
    """How far two laws are apart beyond rounding; 0 where a trace cannot tell."""
    if (one is two and law is other) or is_traced(one, two):
        return 0.0
    # Inside a trace of something else too.
    with jax.ensure_compile_time_eval():
        return gap_of_laws(law(one), other(two))


# What would fit where one part has numbers and the other rows of data, by the word.
_FITTING = {
    "compose": (
        f"{ON_ROWS}, behind finite ones; `convolve` goes back from its values to the"
        " rows"
    ),
    "mixture": "where values of A differ, convex_combination",
}


def check_kinds(
    one: tuple[Any, int],
    two: tuple[Any, int],
    word: str,
    first: int,
    second: int,
    what: str,
) -> None:
    """Raise if one part has numbers where the other has rows of data.

    Args:
        one: a part, and 0 for its X, 1 for its A.
        two: another.
        word: what the caller is called.
        first: the place of the one part.
        second: that of the other.
        what: "inputs" or "values".
    """
    kinds = [has_numbers(*part) for part in (one, two)]
    if None in kinds or kinds[0] == kinds[1]:
        return
    described = [
        f"contexts[{place}], a {part._kind}, has {'numbers' if kind else 'arrays'}"
        for place, (part, _), kind in zip(
            (first, second), (one, two), kinds, strict=True
        )
    ]
    msg = (
        f"{word} takes contexts with {what} of one kind; {' and '.join(described)}:"
        f" {ON_ROWS if what == 'inputs' else _FITTING[word]}"
    )
    raise TypeError(msg)


def has_numbers(context: Any, side: int) -> bool | None:
    """Whether X, or A, is numbers; None: a class of the user's own, which may be."""
    if is_numbered(context):
        return True
    own = getattr(context, "_sizes", None)
    if own is not None:
        return own[side] is not None
    ends = getattr(context, "_ends", None)
    if ends is not None:
        end = ends[side]
        return False if end is None else has_numbers(*end)
    is_ours = type(context).__module__.startswith(_OURS)
    return False if is_ours and isinstance(context, SamplingContext) else None


def row_law(context: Any) -> Float[Array, " n"] | None:
    """P_X of a context of numbered rows, finite or `on_rows`; None: it takes any x."""
    return law_of_x(context) if has_numbers(context, 0) else None


_OURS = __name__.rpartition(".")[0]
