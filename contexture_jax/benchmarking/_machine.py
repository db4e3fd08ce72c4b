"""What figures depend on: device, processor, load, thread settings, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform as system
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

__all__ = [
    "blas_libraries",
    "cores",
    "describe_device",
    "describe_machine",
    "load",
    "peak_megabytes",
    "platform",
    "versions",
]

# What changes times: the compiler's options, and the threads of libraries.
_SETTINGS = (
    "XLA_FLAGS",
    "JAX_PLATFORMS",
    "JAX_DISABLE_MOST_OPTIMIZATIONS",
    "JAX_COMPILATION_CACHE_DIR",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
)
# By the name that is imported, the one that is installed.
_PACKAGES = {
    "contexture_jax": "contexture_jax",
    "jax": "jax",
    "jaxlib": "jaxlib",
    "numpy": "numpy",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "faiss": "faiss-cpu",
    "pykeops": "pykeops",
    "prince": "prince",
    "pandas": "pandas",
    "matplotlib": "matplotlib",
}


def platform() -> str:
    """What JAX calls the kind of device that it computes on: cpu, gpu or tpu."""
    return jax.default_backend()


def cores() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load() -> float | None:
    """How many processes want a processor, over the last minute, if that is told."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def describe_device() -> dict[str, Any]:
    """The device that the figures are of, by the name that JAX has for it."""
    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    limit = stats.get("bytes_limit")
    return {
        "platform": platform(),
        "kind": device.device_kind,
        "count": jax.device_count(),
        "memory_gigabytes": None if limit is None else round(limit / 1e9, 1),
    }


def peak_megabytes() -> float | None:
    """The most memory of the device that the process has held, where that is told."""
    stats = jax.devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    return None if peak is None else peak / 1e6


def describe_machine() -> dict[str, Any]:
    """The host: processor, cores in use, memory, load, thread settings."""
    return {
        "processor": _processor_name(),
        "cores": cores(),
        "memory_gigabytes": _memory_gigabytes(),
        "system": f"{system.system()} {system.machine()}",
        "python": system.python_version(),
        "load_average_at_end": load(),
        "blas": blas_libraries(),
        # A path tells no more than that there is one.
        "environment": {
            name: "set" if os.sep in os.environ[name] else os.environ[name]
            for name in _SETTINGS
            if name in os.environ
        },
    }


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return system.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else system.processor() or "unknown"


def _memory_gigabytes() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError):
        return None


def blas_libraries() -> list[str]:
    """Thread pools that are loaded, with the kernels they chose and their threads."""
    try:
        import threadpoolctl
    except ImportError:
        return []
    pools: Sequence[dict[str, Any]] = threadpoolctl.threadpool_info()
    return [
        f"{Path(pool['filepath']).name}: {pool['internal_api']}"
        f" {pool.get('architecture') or ''} {pool['num_threads']} threads"
        for pool in pools
    ]


def versions() -> dict[str, str]:
    """Of the packages that the run has loaded."""
    loaded = {m: name for m, name in _PACKAGES.items() if m in sys.modules}
    return {name: _version(module, name) for module, name in loaded.items()}


def _version(module: str, distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return sys.modules[module].__version__
