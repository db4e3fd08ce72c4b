"""Types that annotations use, and the decorator that makes a class a pytree."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar, dataclass_transform

import jax
from jax import Array
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
    "Static",
    "UInt32",
    "pytree_dataclass",
    "static_field",
]

ArrayLike: TypeAlias = _ArrayLike | Sequence[Any]
"""An array of JAX or NumPy, a number, or nested lists of numbers."""

_T = TypeVar("_T")


def static_field(**kwargs: Any) -> Any:
    """A dataclass field that is part of the tree structure: hashable, never traced."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static_field,))
def pytree_dataclass(cls: type[_T]) -> type[_T]:
    """Make `cls` a frozen dataclass whose fields are leaves, but for `static_field`s.

    Instances compare by identity: equality of arrays is no truth value. Rebuilding one
    from leaves does not call its constructor, so that leaves may be what JAX puts there
    (shapes, shardings, None), whatever the annotations say of arrays.
    """
    made: Any = dataclasses.dataclass(frozen=True, eq=False)(cls)
    is_static = {
        field.name: field.metadata.get("static", False)
        for field in dataclasses.fields(made)
    }
    static = [name for name, fixed in is_static.items() if fixed]
    leaves = [name for name, fixed in is_static.items() if not fixed]

    def flatten_with_keys(instance: Any) -> tuple[Any, Any]:
        keyed = [(jax.tree_util.GetAttrKey(n), getattr(instance, n)) for n in leaves]
        return keyed, tuple(getattr(instance, name) for name in static)

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


@pytree_dataclass
class Static:
    """A hashable value as a tree without leaves, for what a backward pass must know.

    Attributes:
        value: static.
    """

    value: Any = static_field()
