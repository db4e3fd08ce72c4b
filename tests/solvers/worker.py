"""One of two processes that compute spectra together.

Run as `python -m tests.solvers.worker INDEX PORT DIRECTORY NAME...`, the names being
those of contexts, and "errors" for inputs that are refused.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests import processes

RANK, NUM_NEIGHBORS, GAMMA = 3, 5, 2.0
NUM_ROWS, NUM_PAIRED = 44, 45  # four devices divide the first


def inputs() -> dict[str, np.ndarray]:
    """What each context is made of, by its name."""
    rng = np.random.default_rng(0)
    table = rng.gamma(0.3, size=(NUM_ROWS, 9))
    table[[5, 30]] = 0.0  # rows without mass, one in each process
    x = np.sort(rng.normal(size=(NUM_ROWS, 1)), axis=0)
    return {
        "joint": table,
        "knn": x,
        "rbf": x,
        "labels": np.arange(NUM_ROWS) ** 2 % 11,
        "teacher": rng.normal(size=(NUM_ROWS, 4)),
        "pairs": np.stack(np.divmod(rng.permutation(NUM_PAIRED * 7)[:150], 7)),
        "square": rng.random((NUM_ROWS, NUM_ROWS)),
        "embedding": rng.normal(size=(NUM_ROWS, 4)),
    }


def make_context(name: str, given: Any) -> Any:
    """A context of such inputs; that of pairs has them as they are in every process."""
    import contexture_jax as cx

    make = cx.contexts
    return {
        "joint": lambda: make.joint(given["joint"]),
        "knn": lambda: make.knn(given["knn"], NUM_NEIGHBORS),
        "rbf": lambda: make.rbf(given["rbf"], GAMMA),
        "labels": lambda: make.labels(given["labels"]),
        "teacher": lambda: make.teacher(given["teacher"], 0.0),
        "pairs": lambda: make.pairs(*inputs()["pairs"]),
    }[name]()


def bad_inputs(given: Any, mesh: Any, index: int) -> dict[str, Any]:
    """Calls that must raise the same in every process, whoever holds what is wrong."""
    import contexture_jax as cx

    make = cx.contexts
    x, table = given["knn"], given["joint"]
    nan_at_40 = x.at[40, 0].set(np.nan)
    return {
        "infinite": lambda: make.knn(nan_at_40, NUM_NEIGHBORS),
        "infinite too": lambda: make.rbf(nan_at_40, GAMMA),
        "negative": lambda: make.joint(table.at[41, 3].set(-1.0).at[3, 2].set(-2.0)),
        "no mass": lambda: make.joint(0.0 * table),
        "row without mass": lambda: make.conditional(table),
        "asymmetric": lambda: make.graph(given["square"]),
        "law without mass": lambda: make.rbf(x, GAMMA, p_x=0.0 * x[:, 0]),
        "rank": lambda: cx.svd(
            cx.association_operator(make.joint(table)), 9, key=jax.random.key(0)
        ),
        "key": lambda: cx.svd(
            cx.association_operator(make.joint(table), mesh=mesh),
            2,
            key=jax.random.key(index),
        ),
        "values": lambda: cx.association_operator(
            make.joint(np.eye(4) + index), mesh=mesh
        ),
        "tol": lambda: cx.svd(
            cx.association_operator(make.joint(table), mesh=mesh),
            2,
            key=jax.random.key(0),
            tol=10.0 ** -(3 + index),
        ),
    }


def main() -> None:
    index, port, directory = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    processes.join(index, port)
    import contexture_jax as cx

    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("x"))
    half = NUM_ROWS // 2

    def own(values: np.ndarray) -> jax.Array:
        """Rows of this process as its part of one array."""
        part = values[index * half : (index + 1) * half]
        return jax.make_array_from_process_local_data(rows, part)

    def whole(array: Any) -> np.ndarray:
        return multihost_utils.process_allgather(array, tiled=True)

    host = inputs()
    given = {name: own(x) for name, x in host.items() if name != "pairs"}
    found: dict[str, Any] = {}
    names = sys.argv[4:]
    for name in [name for name in names if name != "errors"]:
        context = make_context(name, given)
        op = cx.association_operator(context, mesh=mesh)
        # The exact method compiles faster. No rows of padding are in it.
        method = "auto" if name in ("joint", "knn", "pairs") else "exact"
        result, info = cx.svd(op, RANK, key=jax.random.key(0), method=method)
        assert info.status == "converged", name
        at = np.arange(8) if name in ("joint", "pairs") else host[name][:8]
        found |= {
            f"{name} values": result.singular_values,
            f"{name} left": whole(result.left),
            f"{name} right": whole(result.right),
            f"{name} extended": whole(cx.extend(result, context, at)),
        }
        if name == "joint":
            bounds = cx.solvers.certify(
                result, info, op, key=jax.random.key(1), num_passes=3, num_probes=2
            )
            found |= {f"{name} lower": bounds.lower, f"{name} upper": bounds.upper}
        if name == "rbf":
            judge = cx.evaluation
            ritz = judge.rayleigh_ritz(given["embedding"], op, rank=2)
            found |= {
                "ritz": ritz.singular_values,
                "tau": judge.usefulness(result.singular_values).tau,
            }
    calls = bad_inputs(given, mesh, index) if "errors" in names else {}
    for name, call in calls.items():
        try:
            call()
        except ValueError as error:
            found[f"error: {name}"] = str(error)
    found = {name: np.asarray(value) for name, value in found.items()}
    np.savez(directory / f"{index}.npz", **found)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main()
