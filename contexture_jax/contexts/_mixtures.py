"""One of several contexts at random, and which one is seen (theory.md §4.6)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import as_device_array
from contexture_jax._core.forms import of_a_list
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    Int,
    pytree_dataclass,
    short_repr,
)
from contexture_jax._core.words import with_article
from contexture_jax.contexts._base import Context
from contexture_jax.contexts._density import all_log_densities
from contexture_jax.contexts._mixed import MixedContext, Reversed
from contexture_jax.contexts._parts import (
    as_weights,
    is_numbered,
    law_of_a,
    parts_on_one_input,
    rows_of,
    size_of,
)
from contexture_jax.contexts._sampling import row_keys

__all__ = [
    "ConvexCombination",
    "Indexed",
    "Seen",
    "as_wide",
    "convex_combination",
    "shape_of",
    "useful",
]


@short_repr
class Seen(NamedTuple):
    """A = (J, A_J), of contexts whose A are no column numbers.

    Attributes:
        number: J, shape (b,), int32.
        values: for each part what it would be, leading axis b, 0 where J is another.
    """

    number: Array
    values: tuple[Any, ...]


class Indexed(MixedContext):
    """What both mixtures share: P(J = j|x) = w_j, as all parts have one law of X."""

    contexts: tuple[Any, ...]
    weights: Float[Array, " j"]

    def _gives(self, name: str) -> bool:
        if name == "reverse":
            return self._all("table") and is_numbered(self)
        return name != "spectrum" and self._all(name)

    def _weight(self, number: int, dtype: Any) -> Array:
        return jnp.asarray(self.weights)[number].astype(dtype)

    def _draw_all(
        self, key: Array, x: ArrayLike, row_offset: ArrayLike
    ) -> tuple[Array, list[Any]]:
        """J for each row, shape (b,), and what each part draws."""
        self._check_has("sample")
        of_index, *keys = row_keys(key, len(self.contexts) + 1)
        drawn = [
            part.sample(k, x, row_offset=row_offset)
            for part, k in zip(self.contexts, keys, strict=True)
        ]
        shape = as_device_array(x, "x").shape
        # Row numbers come in arrays of any shape, others with a leading axis.
        shape = shape if is_numbered(self) else shape[:1]
        rows = 1
        for size in shape:
            rows *= size
        logits = jnp.log(jnp.asarray(self.weights))
        choose = functools.partial(jax.random.categorical, logits=logits)
        index = jax.vmap(choose)(row_keys(of_index, rows, row_offset))
        return index.astype(jnp.int32).reshape(shape), drawn

    def at(self, x_new: Any) -> Any:
        """New inputs in the form that the parts took, or a tuple of one for each."""
        self._check_has("at")
        num = len(self.contexts)
        many = x_new if isinstance(x_new, tuple) and len(x_new) == num else None
        given = (x_new,) * num if many is None else many
        parts = tuple(c.at(x) for c, x in zip(self.contexts, given, strict=True))
        return type(self)(parts, self.weights)  # pyright: ignore

    def reverse(self) -> Context:
        """The same law from A to X, by its table; its operator is the adjoint."""
        self._check_has("reverse")
        return Reversed(self)

    def _by_part(self, values: Sequence[Any], x: ArrayLike) -> Array:
        """Log w_j + log P_j(a|x) of all pairs, shape (j, m, k), of an a for each j."""
        self._check_has("log_density")
        pairs = zip(self.contexts, values, strict=True)
        logs = jnp.stack([all_log_densities(part, a, x) for part, a in pairs])  # pyright: ignore
        weights = jnp.log(jnp.asarray(self.weights, logs.dtype))
        return logs + weights[:, None, None]


@pytree_dataclass
class ConvexCombination(Indexed):
    """A = (J, A_J) with P(J = j) = w_j, and J seen: T T* = Σ_j w_j T_j T_j*.

    Attributes:
        contexts: the parts, with one X.
        weights: w_j, shape (j,), summing to 1.
    """

    contexts: tuple[Any, ...]
    weights: Float[Array, " j"]

    @property
    def shape(self) -> tuple[int, int]:
        """(n, Σ m_j): columns of the parts, one part after the other."""
        return shape_of(self, lambda sizes: sum(m for _, m in sizes))

    def _laws(self, x: Int[Array, " k"]) -> Float[Array, "k m"]:
        rows = [rows_of(part, x) for part in self.contexts]
        return jnp.concatenate(
            [self._weight(j, r.dtype) * r for j, r in enumerate(rows)], axis=1
        )

    def _law_of_a(self) -> Float[Array, " m"]:
        laws = [law_of_a(part) for part in self.contexts]
        return jnp.concatenate(
            [self._weight(j, p.dtype) * p for j, p in enumerate(laws)]
        )

    def kernel(self, x: ArrayLike, x2: ArrayLike) -> Array:
        """Σ_j w_j k_j(x, x2), of whatever inputs the parts take."""
        self._check_has("kernel")
        parts = [part.kernel(x, x2) for part in self.contexts]
        return sum(self._weight(j, k.dtype) * k for j, k in enumerate(parts))  # pyright: ignore

    def sample(self, key: Array, x: ArrayLike, *, row_offset: ArrayLike = 0) -> Any:
        """Draw J and A_J: columns of the parts, one after the other, or a `Seen`."""
        index, drawn = self._draw_all(key, x, row_offset)
        if not is_numbered(self):
            return Seen(
                index, tuple(_where(index == j, a) for j, a in enumerate(drawn))
            )
        starts = self._starts()
        return sum(
            jnp.where(index == j, start + a, 0)
            for j, (start, a) in enumerate(zip(starts, drawn, strict=True))
        ).astype(jnp.int32)  # pyright: ignore

    def sample_all(
        self, key: Array, x: ArrayLike, *, row_offset: ArrayLike = 0
    ) -> tuple[Any, ...]:
        """Draw A_j of every part for each x, as `sample` would if J were j."""
        return tuple(self._draw_all(key, x, row_offset)[1])

    def log_density(self, a: Any, x: ArrayLike) -> Array:
        """Log w_j + log P_j(a_j|x), of what `sample` gives."""
        if is_numbered(self):
            return super().log_density(a, x)
        self._check_has("log_density")
        logs = [
            part.log_density(value, x)
            for part, value in zip(self.contexts, a.values, strict=True)
        ]
        all_logs = jnp.stack(logs) + jnp.log(jnp.asarray(self.weights))[:, None]
        return jnp.take_along_axis(all_logs, a.number[None, :], axis=0)[0]

    def log_densities(self, a: Any, x: ArrayLike) -> Float[Array, "m k"]:
        """Log P⁺(a_j|x_i) for all pairs, for fixed j with respect to one measure."""
        if is_numbered(self):
            return super().log_densities(a, x)
        logs = self._by_part(a.values, x)
        return jnp.take_along_axis(logs, a.number[None, :, None], axis=0)[0]

    @property
    def _ends(self) -> tuple[Any, Any]:
        return (self.contexts[0], 0), None

    def _starts(self) -> list[int]:
        """The first column of each part."""
        starts = [0]
        for part in self.contexts[:-1]:
            starts.append(starts[-1] + (size_of(part) or (0, 0))[1])
        return starts


def _where(chosen: Array, drawn: Any) -> Any:
    """What was drawn, 0 in rows that are not chosen."""
    return jax.tree.map(
        lambda a: jnp.where(as_wide(chosen, a), a, jnp.zeros_like(a)), drawn
    )


def as_wide(chosen: Array, a: Array) -> Array:
    """A truth value a row, to go with what was drawn for the rows."""
    return chosen.reshape(*chosen.shape, *(1,) * (a.ndim - chosen.ndim))


def shape_of(
    context: MixedContext, width: Callable[[list[tuple[int, int]]], int]
) -> tuple[int, int]:
    """(n, m) of finite parts, where `width` tells m by the sizes of all."""
    sizes = [size_of(part) for part in context.contexts]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        raise context._lacks("table")
    return known[0][0], width(known)


@of_a_list
def convex_combination(
    contexts: Sequence[Context | Any], weights: ArrayLike | None = None
) -> ConvexCombination:
    """One of several contexts at random, and which one is seen: A = (J, A_J).

    T T* = Σ_j w_j T_j T_j*: the dual kernels are mixed, and so s_i² where functions are
    common (theory.md §4.6). A network that learns it has one Φ, and a Ψ for each
    context (Algorithm 2 of the dissertation; `learning.learn`). Where the contexts have
    the same A, `mixture` hides J, which can only weaken: each s_i of it is at most that
    of this.
    Take this one to learn what any of the contexts knows, and `mixture` as the model of
    data that comes from several sources without a mark.

    Weights are given, or found by `ranking.min_max_weights` and
    `ranking.criterion_weights`.

    Column numbers of finite parts are those of the first, then of the second, …; other
    parts draw a `Seen`. `at` takes one array for all parts, or a tuple of one for each.

    Args:
        contexts: at least one, all of one X: all finite or `on_rows` with one law of
            it, or all laws of A at any x.
        weights: w_j = P(J = j), shape (j,), concrete, non-negative, summing to 1; None:
            equal.

    Raises:
        TypeError: if there is none, one is no context, weights are traced, or some
            inputs are numbers and others arrays.
        ValueError: if inputs differ in number or law, a weight is negative, or their
            sum is not 1.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> x = jax.numpy.arange(12.0)[:, None]
        >>> both = [cx.contexts.knn(x, 3), cx.contexts.labels([0, 1] * 6)]
        >>> cx.contexts.convex_combination(both, [0.3, 0.7]).shape
        (12, 14)
    """
    parts = parts_on_one_input(contexts, "convex_combination")
    law = as_weights(weights, len(parts), "convex_combination")
    return useful(ConvexCombination(parts, law), "convex_combination")


def useful(context: Any, word: str) -> Any:
    """A context that can do something, or an error that says what its parts can."""
    if context.capabilities:
        return context
    has = [
        f"{with_article(c._kind)} has {', '.join(c.capabilities)}"
        for c in context.contexts
    ]
    msg = (
        f"{word} takes contexts with a method in common, as `sample` or `table`;"
        f" {' and '.join(has)}"
    )
    raise TypeError(msg)
