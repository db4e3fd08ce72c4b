"""What a context is: a joint law P⁺(x, a), and what it may be able to do."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp

from contexture_jax._core.checks import as_device_array, check_values
from contexture_jax._core.fingerprint import fingerprint
from contexture_jax._core.types import Array, ArrayLike, Int
from contexture_jax._core.words import with_article

__all__ = ["CapabilityError", "Context", "as_context", "as_numbers"]

_CAPABILITIES = (
    "sample",
    "log_density",
    "kernel",
    "table",
    "spectrum",
    "at",
    "reverse",
)


def as_numbers(x: Any, name: str, size: int) -> Int[Array, "..."]:
    """Convert to numbers of rows or columns; indexing would take others for the last.

    Args:
        x: integers, any shape.
        name: what the caller calls it, for the message.
        size: how many there are.

    Raises:
        TypeError: if they are not integers.
        ValueError: if one is not in 0, …, size − 1.
    """
    numbers = as_device_array(x, name)
    if not jnp.issubdtype(numbers.dtype, jnp.integer):
        msg = f"{name} must hold row numbers; got dtype {numbers.dtype}"
        raise TypeError(msg)
    check_values(
        numbers, name, lambda v: (v >= 0) & (v < size), f"between 0 and {size - 1}"
    )
    # What is computed with numbers of rows may be out of the range of these.
    is_narrow = numbers.dtype.itemsize < 4
    is_unsigned = jnp.issubdtype(numbers.dtype, jnp.unsignedinteger)
    return numbers.astype(jnp.int32) if is_narrow or is_unsigned else numbers


class CapabilityError(TypeError):
    """A context was asked for something that its kind cannot do."""


class Context:
    """A joint law P⁺(x, a) of an input X and a context variable A (theory.md §1).

    Subclasses are frozen dataclass pytrees: arrays are leaves, the rest is static. Each
    overrides the capabilities that it has; the others raise a `CapabilityError` that
    names those. What they mean is the same for every kind:

    * X and A are arrays with one row each, or, in finite contexts, numbers: row x is
      the x-th input that the constructor took, column a the a-th context value.
    * `sample` gives row i of what comes in a key of its own, `key` with the number
      `row_offset + i` folded in: a batch in parts draws what it draws in one.
    * `log_density` is that of what `sample` draws: `check_density` tests it.
    * `at` takes new inputs in the form that the constructor took, and keeps A.

    A class whose methods call others that its subclasses are to give says so in
    `_needs`: method -> what it calls, None for what is to be given.
    """

    _needs: ClassVar[Mapping[str, tuple[str, ...] | None]] = dict.fromkeys(
        _CAPABILITIES
    )

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The names of the methods that this context has."""
        return tuple(name for name in _CAPABILITIES if self._gives(name))

    @functools.cached_property
    def fingerprint(self) -> Any:
        """Eight small numbers that tell this law from others, by value; shape (8,).

        Results carry it from `association_operator` through `svd`, so that `extend` can
        refuse another context. The same arrays have the same one, loaded from a file or
        cut over devices. None if the class is no pytree of numbers.
        """
        return fingerprint(self)

    @property
    def _kind(self) -> str:
        """What messages call it."""
        return type(self).__name__

    def _can(self, name: str) -> bool:
        """Whether it is one of `capabilities`, without the others if it can be."""
        # A class with `capabilities` of its own may leave some out.
        is_own = type(self).capabilities is not Context.capabilities
        return name in self.capabilities if is_own else self._gives(name)

    def _gives(self, name: str) -> bool:
        """Whether the class of this context has a method, and all that it calls."""
        if name in getattr(self, "__dict__", {}):
            return True  # a field that is a function
        # The class that the method comes from says what that calls: a subclass that
        # overrides the method answers for its own.
        owner = next((c for c in type(self).__mro__ if name in vars(c)), None)
        if owner is None:
            return False
        # Recursive, so that `table` from `_log_density` is there only if that is.
        needs = vars(owner).get("_needs", {}).get(name, ())
        return needs is not None and all(map(self._gives, needs))

    def _lacks(self, name: str, hook: str = "") -> CapabilityError:
        has = ", ".join(self.capabilities) or "none"
        why = f", as its class gives no `{hook}`" if hook else ""
        return CapabilityError(
            f"{with_article(self._kind)} context has no `{name}`{why}; it has: {has}"
        )

    def sample(self, key: Array, x: Array, *, row_offset: ArrayLike = 0) -> Array:
        """Draw one a ~ P⁺(·|x) for each x, row by row from number `row_offset` on."""
        raise self._lacks("sample")

    def log_density(self, a: Array, x: Array) -> Array:
        """Log P⁺(a|x) for each pair."""
        raise self._lacks("log_density")

    def kernel(self, x: Array, x2: Array) -> Array:
        """The dual kernel k_X⁺(x, x2) = Σ_a P⁺(a|x) P⁺(a|x2) / P_A(a), all pairs."""
        raise self._lacks("kernel")

    def table(self) -> Array:
        """The joint law as a dense (n, m) table that sums to 1."""
        raise self._lacks("table")

    def spectrum(self, k: int) -> Array:
        """The k largest non-trivial singular values, with multiplicity, descending."""
        raise self._lacks("spectrum")

    def at(self, x_new: Any) -> Context:
        """The context with rows `x_new` in place of its own, and the same A.

        `x_new` has the form of what the constructor took, row for row.
        """
        raise self._lacks("at")

    def reverse(self) -> Context:
        """The same joint law with X and A in each other's place."""
        raise self._lacks("reverse")


class _Adopted(Context):
    """An object of another class, by the methods of a context that it has."""

    def __init__(self, given: Any) -> None:
        self.given = given
        # Bound on the instance, where `_gives` finds them as fields that are functions.
        for name in _methods(given):
            setattr(self, name, getattr(given, name))

    @functools.cached_property
    def fingerprint(self) -> Any:
        return fingerprint(self.given)

    @property
    def _kind(self) -> str:
        return type(self.given).__name__


def _methods(given: Any) -> list[str]:
    return [name for name in _CAPABILITIES if callable(getattr(given, name, None))]


def as_context(
    context: Any, name: str = "context", *, needs: Sequence[str] = ()
) -> Context:
    """A `Context` as it is; any other object with methods of one as a `Context`.

    Args:
        context: an object with one or more of `sample`, `log_density`, `kernel` and
            `table`, and any other of a context's, which mean what they mean there.
        name: what the caller calls it, for the message.
        needs: the methods that it must have.

    Raises:
        CapabilityError: if it lacks one that is needed.
        TypeError: if it has none of them, or is an array, a frame or a class.
    """
    if not isinstance(context, Context):
        context = _adopted(context, name)
    for method in needs:
        if method not in context.capabilities:
            raise context._lacks(method)
    return context


def _adopted(context: Any, name: str) -> Context:
    # Frames have a `sample` of their own.
    # A class has the methods of its objects, but no law.
    is_data = isinstance(context, type) or hasattr(context, "__array__")
    if is_data or not {"sample", "log_density", "kernel", "table"} & set(
        _methods(context)
    ):
        msg = (
            f"{name} must be a Context, as from cx.contexts.joint(table), or an object"
            f" with methods of one, as `sample` or `table`; got {_what(context)}"
        )
        raise TypeError(msg)
    return _Adopted(context)


def _what(context: Any) -> str:
    if isinstance(context, type):
        return f"the class {context.__name__}"
    return type(context).__name__
