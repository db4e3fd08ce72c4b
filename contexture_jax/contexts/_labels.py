"""Labels as a context: A is the class of X."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.arrays import kind_of
from contexture_jax._core.checks import check_concrete
from contexture_jax._core.classes import as_classes, class_codes
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    Int,
    UInt32,
    pytree_dataclass,
    static_field,
)
from contexture_jax.contexts._numbered import NumberedContext, shares_of
from contexture_jax.contexts._sparse_joint import SparseJoint, coordinates

__all__ = ["Labels", "labels", "labels_of"]

_MOST_CLASSES_NAMED = 8
_KINDS = {"U": "text", "f": "floating numbers", "M": "dates", "m": "durations"}


@pytree_dataclass
class Labels(NumberedContext):
    """X is an example, A its class: P⁺(a|x) = 1[a = y(x)] (theory.md §4).

    The singular values are 1, with multiplicity (number of classes − 1), then 0.

    Attributes:
        codes: class of each example as a number in 0, …, C−1, shape (n,), int32.
        class_words: the class values as given, ascending, shape (C, w), uint32: for
            integers the low and the high half of each, so that 64-bit identifiers stay
            whole where JAX has no 64-bit integers; for text its characters.
        kind: what the values are: "int64", "uint64" or "text"; of `SameClass` also
            "float64" and dates, whose 64 bits are held likewise. Static.
    """

    codes: Int[Array, " n"]
    class_words: UInt32[Array, "c w"]
    kind: str = static_field(default="int64")

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return self.class_words.shape[0]

    @property
    def classes(self) -> np.ndarray:
        """The class values, ascending, shape (C,), as `kind` says, on the host."""
        # Classes are words of 32 bits on the device, and whole again here.
        words = np.ascontiguousarray(self.class_words)
        if self.kind == "text":
            return words.view(f"<U{words.shape[1]}")[:, 0]
        low, high = words.astype(np.uint64).T
        return (low | high << np.uint64(32)).view(self.kind)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, C)."""
        return self.codes.shape[0], self.num_classes

    def _draw(self, key: Array, x: Array) -> Array:
        del key  # nothing is left to chance
        return self.codes[x]

    def _log_density(self, a: Array, x: Array) -> Array:
        return jnp.where(self.codes[x] == a, 0.0, -jnp.inf)

    def kernel(self, x: ArrayLike, x2: ArrayLike) -> Float[Array, "k l"]:
        """k_X⁺(x, x2) = 1[y(x) = y(x2)] / P(y(x)), between examples by number."""
        x, x2 = self._pair(x, x2)
        share = shares_of(self.codes, self.num_classes)
        same = self.codes[x][:, None] == self.codes[x2][None, :]
        return same / share[self.codes[x]][:, None]

    def at(self, x_new: Any) -> Labels:
        """Examples given by their class values, shape (k,)."""
        check_concrete((self.class_words, x_new), "x_new, with the classes,")
        classes = self.classes
        is_discrete = classes.dtype.kind in "iuU"
        values = as_classes(x_new, "x_new", discrete=is_discrete)
        expected, came = (_KINDS.get(v.dtype.kind) for v in (classes, values))
        if expected != came:
            msg = (
                f"x_new must hold classes as {expected or 'integers'}; got"
                f" {kind_of(values)}"
            )
            raise TypeError(msg)
        if expected or values.dtype == classes.dtype:
            shared, cast = np.ones(values.shape, bool), values
        else:
            # Of int64 and uint64 NumPy would compare the nearest doubles.
            shared = (values >= 0) & (values <= np.iinfo(np.int64).max)
            # What int64 does not hold is no class of such a context, nor the other way
            # round.
            cast = np.where(shared, values, 0).astype(classes.dtype)
        # The place where it would be; whether it is there is compared next.
        codes = np.clip(np.searchsorted(classes, cast), 0, len(classes) - 1)
        unknown = ~shared | (classes[codes] != cast)
        if unknown.any():
            first = ", ".join(map(repr, classes[:_MOST_CLASSES_NAMED].tolist()))
            rest = len(classes) - _MOST_CLASSES_NAMED
            msg = (
                f"x_new must hold classes among [{first}]"
                f"{f' and {rest} more' if rest > 0 else ''};"
                f" got {values[unknown][:1].tolist()[0]!r}"
            )
            raise ValueError(msg)
        return Labels(jnp.asarray(codes, jnp.int32), self.class_words, self.kind)

    def reverse(self) -> SparseJoint:
        """The law with rows = classes (by number) and columns = examples."""
        n = self.codes.shape[0]
        # One entry an example: sparse whatever the number of classes.
        weights = np.full(n, 1.0 / n, jnp.zeros(()).dtype)
        shape = (self.num_classes, n)
        return coordinates(self.codes, np.arange(n), weights, shape)


def labels(y: ArrayLike) -> Labels:
    """A context whose A is the class of X: P⁺(a|x) = 1[a = y(x)] (theory.md §4).

    Args:
        y: class of each example, shape (n,): integers of up to 64 bits, booleans, or
            text, as an array, a list or a column of a frame.

    Raises:
        TypeError: if `y` is of another type, or of several.
        ValueError: if `y` is not a non-empty vector, or a class is missing (None, NaN).

    Example:
        >>> import contexture_jax as cx
        >>> context = cx.contexts.labels(["cat", "dog", "cat"])
        >>> context.classes.tolist(), context.at(["dog"]).codes.tolist()
        (['cat', 'dog'], [1])
    """
    check_concrete(y, "y")
    classes, codes = class_codes(y, "y", discrete=True)
    return labels_of(classes, codes)


def labels_of(classes: np.ndarray, codes: np.ndarray) -> Labels:
    """Labels from what `class_codes` gives: classes, ascending, and numbers of them."""
    if classes.dtype.kind == "U":
        # UCS-4 of NumPy's text, in one byte order, so that files move between machines.
        words = classes.astype(classes.dtype.newbyteorder("<")).view("<u4")
        words, kind = words.reshape(len(classes), -1), "text"
    else:
        if classes.dtype.kind == "f":
            classes = classes.astype(np.float64)
        # The 64 bits as they are: `classes` reads them back in the same way.
        bits, kind = classes.view(np.uint64), classes.dtype.name
        words = np.stack([bits & np.uint64(2**32 - 1), bits >> np.uint64(32)], axis=1)
    return Labels(
        jnp.asarray(codes, jnp.int32), jnp.asarray(words.astype(np.uint32)), kind
    )
