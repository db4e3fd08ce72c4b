"""The mesh of devices that operators, solvers and training share rows over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from contexture_jax._core.checks import check_integer

__all__ = ["make_mesh"]


def make_mesh(
    num_devices: int | None = None,
    *,
    axis: str = "x",
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """A mesh over devices with one axis, which cuts rows of operators and batches.

    Its axis type is Auto: on the Explicit axes that `jax.make_mesh` makes by default,
    moments of a batch whose rows are cut raise an error instead of being summed.
    Operators take a mesh of either kind.

    Args:
        num_devices: how many, the first ones; None: all.
        axis: the name of the axis.
        devices: which; None: those of all processes (`jax.devices()`), as programs of
            several processes take.

    Raises:
        TypeError: if `num_devices` is not an integer.
        ValueError: if there are not so many.

    Example:
        >>> import contexture_jax as cx
        >>> cx.make_mesh(1).axis_names
        ('x',)
    """
    found = jax.devices() if devices is None else list(devices)
    if num_devices is not None:
        count = check_integer(num_devices, "num_devices", low=1, high=len(found))
        found = found[:count]
    return jax.make_mesh(
        (len(found),), (axis,), axis_types=(AxisType.Auto,), devices=found
    )
