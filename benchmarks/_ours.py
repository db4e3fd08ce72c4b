"""Settings of our solvers as text, so that a run can try others."""

import ast
from typing import Any

__all__ = ["read_setting"]


def read_setting(text: str) -> dict[str, Any]:
    """`num_power_iterations=4,num_oversamples=10` as keyword arguments."""
    pairs = (item.split("=") for item in text.split(",") if item)
    return {name.strip(): _value(value.strip()) for name, value in pairs}


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
