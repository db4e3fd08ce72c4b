"""Pieces of our own contestants that more than one benchmark needs."""

import ast
from typing import Any

import jax
import numpy as np

import contexture_jax as cx
from _measure import Contestant

__all__ = ["matmat", "product", "read_setting", "rmatmat"]


def matmat(operator: cx.AssociationOperator, block: Any) -> Any:
    """T g, as a function for `jax.jit`."""
    return operator.matmat(block)


def rmatmat(operator: cx.AssociationOperator, block: Any) -> Any:
    """T* f, as a function for `jax.jit`."""
    return operator.rmatmat(block)


def product(
    name: str, function: Any, operator: Any, block: np.ndarray, work: float
) -> Contestant:
    """One of the two above, compiled, on a block that is in place already."""
    compiled, argument = jax.jit(function), jax.device_put(block)
    return Contestant(
        name, lambda _: compiled(operator, argument), "ours", "jit", work=work
    )


def read_setting(text: str) -> dict[str, Any]:
    """`num_power_iterations=4,num_oversamples=10` as keyword arguments."""
    pairs = (item.split("=") for item in text.split(",") if item)
    return {name.strip(): _value(value.strip()) for name, value in pairs}


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
