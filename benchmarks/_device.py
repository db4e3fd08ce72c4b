"""Peers on whatever device JAX computes on."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from _common import cores, optional
from contexture_jax.benchmarking import OnDevice, platform

__all__ = ["library", "moved", "peer"]


@functools.cache
def library(name: str) -> Any:
    """PyTorch or CuPy if it works on the device that JAX works on, else None."""
    kind = platform()
    if kind == "tpu" or (name == "cupy" and kind == "cpu"):
        return None
    module = optional(name)
    if module is None or name == "cupy":
        return module
    if kind == "gpu":
        return module if module.cuda.is_available() else None
    module.set_num_threads(cores())
    return module


def moved(module: Any, array: Any) -> Any:
    """An array of JAX or NumPy as one of the peer's on the same device, not copied."""
    return module.from_dlpack(jax.block_until_ready(jax.device_put(array)))


def peer(name: str, module: Any, run: Callable[[int], Any], **options: Any) -> OnDevice:
    """A contestant of PyTorch or CuPy, which is waited for in its own way."""

    def finish(_: Any) -> None:
        if platform() != "gpu":
            return
        if module.__name__ == "torch":
            module.cuda.synchronize()
        else:
            module.cuda.Device().synchronize()

    return OnDevice(name, run, "peer", finish=finish, **options)
