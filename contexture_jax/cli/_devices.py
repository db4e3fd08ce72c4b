"""Devices for a run: asked for before JAX starts its backend, checked after."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from contexture_jax.data import InputError, counted

__all__ = ["make_mesh"]


def make_mesh(num_devices: int) -> Any:
    """A mesh of that many local devices with one axis, "x"; None for one device.

    A CPU is cut into as many devices as are asked for, which JAX does only before it
    first uses one.

    Raises:
        InputError: if there are fewer.
    """
    if num_devices == 1:
        return None
    import jax

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        # Refused where a caller in this process has used JAX: what there is must do.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", num_devices)
    found = jax.local_devices()
    if len(found) < num_devices:
        kind = found[0].platform.upper()
        raise InputError(
            f"--devices {num_devices} is more than the"
            f" {counted(len(found), f'{kind} device')} of this machine; expected"
            f" --devices {len(found)} or less"
        )
    return jax.make_mesh(
        (num_devices,),
        ("x",),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=found[:num_devices],
    )
