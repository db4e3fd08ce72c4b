"""Types that annotations use, the decorator that makes a class a pytree, its `repr`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import (
    TYPE_CHECKING,
    Any,
    Protocol,
    TypeAlias,
    TypeVar,
    dataclass_transform,
)

import jax
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike as _ArrayLike
from jaxtyping import Bool, Float, Inexact, Int, PRNGKeyArray, Shaped, UInt32

__all__ = [
    "Array",
    "ArrayLike",
    "Bool",
    "Float",
    "Inexact",
    "Int",
    "PRNGKeyArray",
    "Shaped",
    "Size",
    "Static",
    "UInt32",
    "describe",
    "pytree_dataclass",
    "short_repr",
    "static_field",
    "summary",
    "unchecked",
]


class _Convertible(Protocol):
    """What `numpy.asarray` converts: a column or frame, a tensor on the host."""

    def __array__(self) -> np.ndarray: ...


class _Anything(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return True


class _Sizes(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        from jax.export import is_symbolic_dim  # loaded by those who export

        return isinstance(instance, int) or is_symbolic_dim(instance)


if TYPE_CHECKING:
    ArrayLike: TypeAlias = _ArrayLike | Sequence[Any] | _Convertible
    Size: TypeAlias = int
else:

    class Size(metaclass=_Sizes):
        """An axis of an array: an integer, or a number that an export leaves open."""

    class ArrayLike(metaclass=_Anything):
        """An array of JAX or NumPy, a number, nested lists, or what NumPy converts.

        The functions that take one look at what it is: a checker of types at run time
        need not, and help shows this name.
        """


_T = TypeVar("_T")

_LINE = 88
_WORDS = 60  # characters of one value
_MOST_SHOWN = 4  # values of a vector or a list that are written out
_MOST_READ = 256  # entries of a vector that are looked at, for its first and last


def static_field(**kwargs: Any) -> Any:
    """A dataclass field that is part of the tree structure: hashable, never traced."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(
    frozen_default=True, field_specifiers=(static_field, dataclasses.field)
)
def pytree_dataclass(cls: type[_T]) -> type[_T]:
    """Make `cls` a frozen dataclass whose fields are leaves, but for `static_field`s.

    Instances compare by identity: equality of arrays is no truth value. Rebuilding one
    from leaves does not call its constructor, so that leaves may be what JAX puts there
    (shapes, shardings, None), whatever the annotations say of arrays. They print as
    `describe` does, unless the class says how.
    """
    made: Any = dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
    # Unless the class, or one that it is made from, prints itself.
    if made.__repr__ is object.__repr__:
        made.__repr__ = describe
    is_static = {
        field.name: field.metadata.get("static", False)
        for field in dataclasses.fields(made)
    }
    static = [name for name, fixed in is_static.items() if fixed]
    leaves = [name for name, fixed in is_static.items() if not fixed]

    def flatten_with_keys(instance: Any) -> tuple[Any, Any]:
        keyed = [(jax.tree_util.GetAttrKey(n), getattr(instance, n)) for n in leaves]
        return keyed, tuple(getattr(instance, name) for name in static)

    # Without paths, for all who do not ask for them.
    def flatten(instance: Any) -> tuple[Any, Any]:
        return (
            [getattr(instance, name) for name in leaves],
            tuple(getattr(instance, name) for name in static),
        )

    def unflatten(fixed: Any, children: Any) -> Any:
        instance = object.__new__(made)
        for name, value in (
            *zip(static, fixed, strict=True),
            *zip(leaves, children, strict=True),
        ):
            object.__setattr__(instance, name, value)
        return instance

    jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    return made


def unchecked(cls: type[_T], **fields: Any) -> _T:
    """A `pytree_dataclass` without its constructor, so that leaves may be shapes.

    Args:
        cls: the class.
        **fields: all of them, by name.
    """
    instance = object.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(instance, name, value)
    return instance


def short_repr(cls: type[_T]) -> type[_T]:
    """Let a class with fields print as `describe` does: a line or a few."""
    made: Any = cls
    made.__repr__ = describe
    return cls


def describe(instance: Any, first: Mapping[str, Any] | None = None) -> str:
    """The fields of a dataclass or NamedTuple in a line or a few, however large.

    Of an array the dtype and the shape, and of a short vector its first and last entry.

    Args:
        instance: what to describe.
        first: what to say before the fields.
    """
    shown = {**(first or {}), **_fields(instance)}
    parts = [f"{name}={summary(value)}" for name, value in shown.items()]
    lines, line = [], f"{type(instance).__name__}("
    for number, part in enumerate(parts):
        ends = number + 1 == len(parts)
        text = part + (")" if ends else ",")
        # The first field stays beside the name.
        if len(line) + 1 + len(text) > _LINE and number:
            lines.append(line.rstrip())
            line = "    "
        line += text if ends else f"{text} "
    if not parts:
        line += ")"
    return "\n".join([*lines, line])


def _fields(instance: Any) -> dict[str, Any]:
    if isinstance(instance, tuple):
        return dict(zip(getattr(instance, "_fields", ()), instance, strict=True))
    # A field may be missing: trees are made of whatever JAX puts into them.
    names = [field.name for field in dataclasses.fields(instance)]
    return {name: getattr(instance, name, None) for name in names}


def summary(value: Any) -> str:
    """A value in a few words, without a line break: for messages of what came."""
    if isinstance(value, str):
        # A member of an enum of texts is named by its text.
        return _cut(str(value) if isinstance(value, Enum) else repr(value))
    if isinstance(value, np.dtype):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, complex)):
        return _cut(repr(value))
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        # Operators have a shape and a dtype, too.
        is_ours = dataclasses.is_dataclass(value)
        kind, shape = type(value).__name__, getattr(value, "shape", ())
        return f"{kind}{shape}" if is_ours else _array(value)
    if dataclasses.is_dataclass(value) or hasattr(value, "_fields"):
        inner = " ".join(repr(value).split())
        return inner if len(inner) <= _WORDS else f"{type(value).__name__}(…)"
    if isinstance(value, dict):
        return f"{{{_joined([_cut(repr(key)) for key in value])}}}"
    if isinstance(value, (list, tuple)):
        # Cut before anything is printed: a list may hold millions.
        few = list(value[:_MOST_SHOWN])
        shown = _joined([summary(item) for item in few], len(value) - len(few))
        return f"[{shown}]" if isinstance(value, list) else f"({shown})"
    if hasattr(value, "axis_names") and hasattr(value, "devices"):
        return f"Mesh{tuple(value.shape.items())}"
    return _cut(getattr(value, "__name__", None) or repr(value))


def _array(x: Any) -> str:
    """`float32[300,8]`, and what a number or a short vector holds, if it is known."""
    kind = f"{x.dtype}[{','.join(map(str, x.shape))}]"
    short = len(x.shape) < 2 and np.prod(x.shape) <= _MOST_READ
    if isinstance(x, Tracer) or not short or not hasattr(x, "__array__"):
        return kind
    try:
        # Few entries, by what was asked above: a device sends them soon.
        values = np.asarray(x)
    except (RuntimeError, TypeError, ValueError):
        return kind  # deleted, on another process, or no numbers (keys)
    if values.dtype.kind not in "biufc" or not values.size:
        return kind
    if not values.ndim:
        return _number(values)
    ends = values if len(values) <= _MOST_SHOWN else values[[0, -1]]
    gap = ", " if len(values) <= _MOST_SHOWN else " … "
    return f"{kind}({gap.join(map(_number, ends))})"


def _number(value: Any) -> str:
    return f"{value:.5g}" if value.dtype.kind in "fc" else str(value)


def _joined(parts: list[str], more: int = 0) -> str:
    text, count = "", 0
    for part in parts:
        # With room for how many are left out.
        if count and len(text) + len(part) > _WORDS - len(", … 999 more"):
            break
        text += f", {part}" if count else part
        count += 1
    more += len(parts) - count
    return f"{text}, … {more} more" if more else text


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _WORDS else f"{text[: _WORDS - 1]}…"


@pytree_dataclass
class Static:
    """A hashable value as a tree without leaves, for what a backward pass must know.

    Attributes:
        value: static.
    """

    value: Any = static_field()
