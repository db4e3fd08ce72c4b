"""Types that annotations use, and the decorator that makes a class a pytree."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Inexact, Int, PRNGKeyArray, Shaped

__all__ = [
    "Array",
    "ArrayLike",
    "Bool",
    "Float",
    "Inexact",
    "Int",
    "PRNGKeyArray",
    "Shaped",
    "pytree_dataclass",
    "static_field",
]

_T = TypeVar("_T")


def static_field(**kwargs: Any) -> Any:
    """A dataclass field that is part of the tree structure: hashable, never traced."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static_field,))
def pytree_dataclass(cls: type[_T]) -> type[_T]:
    """Make `cls` a frozen dataclass whose fields are leaves, but for `static_field`s.

    Instances compare by identity: equality of arrays is no truth value.
    """
    return jax.tree_util.register_dataclass(
        dataclasses.dataclass(frozen=True, eq=False)(cls)
    )
