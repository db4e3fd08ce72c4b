"""Reports as `run_suites` gives them, of seconds that are drawn."""

from typing import Any

import numpy as np

from contexture_jax.benchmarking._report import FORMAT, VERSION

YARDSTICKS = ("yardstick: product", "yardstick: copy", "yardstick: launches")


def report(
    seed: int,
    *,
    num_rows: int = 20,
    rounds: int = 11,
    noise: float = 0.2,
    machine: float = 1.0,
    factors: dict[str, float] | None = None,
    busy: bool = False,
) -> dict[str, Any]:
    """Rows r0, r1, … of one suite, whose medians are `machine` times `factors`."""
    rng = np.random.default_rng(seed)
    factors = factors or {}

    def row(name: str, kind: str) -> dict[str, Any]:
        middle = 0.01 * machine * factors.get(name, 1.0)
        # Now and then a round takes much longer, as on a machine with others on it.
        late = 1.0 + 3.0 * (rng.random(rounds) < 0.15)
        seconds = middle * late * np.exp(noise * rng.standard_normal(rounds))
        # By the processors' own clock waiting does not count.
        own = 2 * middle * np.exp(noise * rng.standard_normal(rounds))
        if busy:
            seconds *= np.exp(1.5 * rng.standard_normal(rounds))
        return {
            "name": name,
            "kind": kind,
            "seconds": seconds.tolist(),
            "processor_seconds": own.tolist(),
            "accuracy": {"error": 1e-5} if kind == "ours" else {},
            "passes": 4.0,
        }

    rows = [row(name, "limit") for name in YARDSTICKS]
    rows += [row(f"r{i}", "ours") for i in range(num_rows)]
    return {
        "format": FORMAT,
        "version": VERSION,
        "arguments": {"size": "small", "seed": 0, "devices": 1},
        "device": {"platform": "cpu", "kind": "cpu", "count": 1},
        "machine": {"processor": "a processor", "cores": 2, "environment": {}},
        "versions": {"jax": "0.10.0", "contexture_jax": "0.1.0"},
        "peaks": {"flops": 1e11, "bandwidth": 1e10},
        "problems": [],
        "notes": [],
        "suites": {"operators": {"rows": rows, "told": {}, "seconds": 1.0}},
    }
