"""What the compiler asks of a GPU that is not there."""

from __future__ import annotations

__all__ = ["H100"]

# The SXM form. NVIDIA, "H100 Tensor Core GPU Architecture" and its data sheet: 132
# multiprocessors of 128 float32 units, 50 MB of L2, 80 GB of HBM3 at 3.35 TB/s, at most
# 1,980 MHz. "CUDA C++ Programming Guide", technical specifications of compute
# capability 9.0: all limits of threads, registers and shared memory, of which a block
# has 48 KB, or 227 KB if it asks, of the 228 KB of a multiprocessor.
_LIMITS = {
    "threads_per_warp": 32,
    "threads_per_block_limit": 1024,
    "threads_per_core_limit": 2048,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 2**16 - 1,
    "block_dim_limit_z": 2**16 - 1,
    "registers_per_block_limit": 2**16,
    "registers_per_core_limit": 2**16,
    "shared_memory_per_block": 48 * 1024,
    "shared_memory_per_block_optin": 227 * 1024,
    "shared_memory_per_core": 228 * 1024,
    "core_count": 132,
    "fpus_per_core": 128,
    "clock_rate_ghz": 1.98,
    "l2_cache_size": 50 * 2**20,
    "memory_bandwidth": 3_350_000_000_000,
    "device_memory_size": 80_000_000_000,
}

# In the text form of a `GpuTargetConfigProto` of XLA. The CUDA and cuDNN named are the
# oldest that JAX takes: programs may ask no more of either.
H100 = "\n".join(
    [
        "gpu_device_info {",
        *(f"  {name}: {limit}" for name, limit in _LIMITS.items()),
        "  cuda_compute_capability { major: 9 }",
        "}",
        'platform_name: "CUDA"',
        'device_description_str: "NVIDIA H100 80GB HBM3"',
        "runtime_version { major: 12 minor: 1 }",
        "dnn_version_info { major: 9 minor: 8 }",
    ]
)
