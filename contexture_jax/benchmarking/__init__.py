"""Times of the package on the device at hand, beside what that device does at most.

`run_suites` measures the peaks of the device and then suites of workloads, by JAX's own
interface alone, so that CPU, GPU and TPU, one or many, are timed by the same code;
`compare` holds two such runs against each other. The parts that they are made of serve
scripts of one's own: contestants that take turns, roofs, judges.
"""

from contexture_jax.benchmarking._accuracy import (
    Triples,
    make_entry_judge,
    make_judge,
    sine_of_largest_angle,
)
from contexture_jax.benchmarking._compare import compare, ratio_interval
from contexture_jax.benchmarking._machine import (
    cores,
    describe_device,
    describe_machine,
    load,
    peak_megabytes,
    platform,
    versions,
)
from contexture_jax.benchmarking._memory import peak_memory
from contexture_jax.benchmarking._peers import guarded
from contexture_jax.benchmarking._points import clustered_points
from contexture_jax.benchmarking._report import read_report, write_report
from contexture_jax.benchmarking._roofs import levels, measure_roofs
from contexture_jax.benchmarking._run import SUITES, run_suites
from contexture_jax.benchmarking._sizes import SIZES, Sizes
from contexture_jax.benchmarking._timing import (
    Contestant,
    OnDevice,
    Peaks,
    Setting,
    Work,
    describe_error,
    measure,
)

__all__ = [
    "SIZES",
    "SUITES",
    "Contestant",
    "OnDevice",
    "Peaks",
    "Setting",
    "Sizes",
    "Triples",
    "Work",
    "clustered_points",
    "compare",
    "cores",
    "describe_device",
    "describe_error",
    "describe_machine",
    "guarded",
    "levels",
    "load",
    "make_entry_judge",
    "make_judge",
    "measure",
    "measure_roofs",
    "peak_megabytes",
    "peak_memory",
    "platform",
    "ratio_interval",
    "read_report",
    "run_suites",
    "sine_of_largest_angle",
    "versions",
    "write_report",
]
