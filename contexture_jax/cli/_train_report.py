"""What `contexture train` reports: what is learned beside what is exact, in words.

Imports JAX; the command imports this only after the input has been found good.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

import contexture_jax as cx
from contexture_jax._core.words import rounded
from contexture_jax.cli._arguments import Options
from contexture_jax.data import Table, counted, quoted

__all__ = ["compare", "describe", "exact_spectrum", "probed", "rows_of_table", "tie_at"]

_MEASURES = {
    "ratio_trace": "ratio trace",
    "cca": "CCA",
    "mutual_knn": "mutual k-NN",
    "cka": "CKA",
}
_ERRORS = {"classes": "misclassified", "numbers": "squared error over variance"}
# Of 20 alike the largest is a given one once in 20: a level of 5 %.
_NUM_SHUFFLES = 19
# Of the value: nearer ones are one in the digits that are shown.
_TIE = 1e-4


def exact_spectrum(
    op: cx.AssociationOperator, rank: int, most: int, *, seed: int
) -> tuple[cx.SVDResult, str]:
    """The exact functions, one more than asked for if there is one, and how sure.

    The one more tells whether the rank cuts a cluster.
    """
    result, info = cx.svd(op, min(rank + 1, most), key=jax.random.key(seed))
    return jax.device_get(result), str(info.status)


def tie_at(singular_values: Any, rank: int) -> list[str]:
    """A note if the last function taken and the first left out have one value."""
    # All there are were taken: nothing is cut.
    if singular_values.shape[0] <= rank:
        return []
    last, following = np.asarray(singular_values)[rank - 1 : rank + 1]
    # Functions of one value are determined as a span alone (theory.md §1.5).
    if last - following > _TIE * last:
        return []
    return [
        f"functions {rank} and {rank + 1} have the same singular value, {last:.4g}:"
        " which of them are taken is chance, and only the ratio trace (not CCA, k-NN,"
        " CKA or the probe) tells how good the learned ones are; take another --rank"
    ]


def compare(
    left: Any, exact: cx.SVDResult, op: cx.AssociationOperator, *, seed: int
) -> dict[str, Any]:
    """Learned functions, shape (n, rank), beside the exact ones."""
    found = cx.evaluation.alignment(
        left,
        exact,
        op,
        key=jax.random.key(seed),
        # Beside the row itself there are no more.
        num_neighbors=min(10, op.shape[0] - 1),
        num_shuffles=_NUM_SHUFFLES,
    )
    measures = {name: getattr(found, name) for name in _MEASURES}
    return {
        **{name: float(measured.value) for name, measured in measures.items()},
        "nulls": {
            name: float(measured.null.upper) for name, measured in measures.items()
        },
        "clusters": [
            # From 1 on, as the indices of s_i are.
            {"first": first + 1, "last": end, "squared_cosine": cosine}
            for (first, end), cosine in zip(
                found.clusters, found.cluster_cosines, strict=True
            )
        ],
    }


def probed(
    learned: np.ndarray, exact: np.ndarray, table: Table, options: Options
) -> tuple[dict[str, Any] | None, list[str]]:
    """The errors of linear probes on the same rows left out, as plain Python.

    Args:
        learned: functions of the rows, shape (n, rank).
        exact: the same, exact.
        table: the data, with a target.
        options: the seed is of the rows left out.

    Returns:
        (probe, notes): the error of each kind of features; None, and why, where there
        can be no probe.
    """
    assert table.target is not None
    features = {"learned": learned, "exact": exact, "features": table.features}
    try:
        probes = {
            name: cx.prediction.linear_probe(z, table.target.values, seed=options.seed)
            for name, z in features.items()
        }
    # Of a target that no probe can be of; the rest of the report stands.
    except ValueError as error:
        why = " ".join(str(error).split())
        return None, [f"no probe of the target {quoted(table.target.name)}: {why}"]
    # By the seed all three leave the same rows out: any one says how many.
    one = probes["learned"]
    return {
        "measure": _ERRORS[one.kind],
        "num_test_rows": int(one.held_out.sum()),
        **{name: probe.error for name, probe in probes.items()},
    }, []


def describe(learned: Any) -> dict[str, Any]:
    """How training went, and what came of it."""
    # Empty where the run had no step to log.
    losses = learned.history.get("loss", np.zeros(0))
    leaves = jax.tree.leaves([tower.params for tower in learned.towers.values()])
    return {
        "status": learned.status,
        "message": learned.message,
        "steps_done": learned.num_steps,
        "parameters": sum(leaf.size for leaf in leaves),
        "loss_last": float(losses[-1]) if len(losses) else None,
        "learned_singular_values": learned.singular_values,
        "weights": learned.weights,
    }


def rows_of_table(d: dict[str, Any], files: list[str]) -> list[tuple[str, str]]:
    """The report as (label, text) pairs, in the order to read them."""
    encoder = d["encoder"]
    layers = " → ".join(map(str, [*encoder.get("hidden", []), encoder["output"]]))
    kind = ", ".join(
        encoder[name] for name in ("kind", "activation") if name in encoder
    )
    rows = [
        ("data", f"{d['data']}: {d['num_rows']:,} rows"),
        ("context", _in_words({"context": d["context"], **d["params"]})),
        ("loss", d["loss"]),
        ("encoder", f"{layers} ({kind}, {d['parameters']:,} numbers)"),
        ("status", f"{d['status']} after {counted(d['steps_done'], 'step')}"),
        *(
            [("weights", " ".join(rounded(w, 3) for w in d["weights"]))]
            if d["weights"] is not None
            else []
        ),
        ("learned", _values(d["learned_singular_values"])),
        ("exact", _values(d["exact_singular_values"])),
    ]
    if d["exact_num_draws"]:
        largest = max(d["exact_between_draws"], default=0.0)
        rows[-1] = (
            "estimated",
            f"{rows[-1][1]}  (by {d['exact_num_draws']:,} draws; by as many others"
            f" within {rounded(largest, 2)})",
        )
    for name, label in _MEASURES.items():
        null = d["nulls"][name]
        rows.append((label, f"{d[name]:.3f}  (of shuffled rows: {null:.3f} at most)"))
    if d["probe"] is not None:
        probe = d["probe"]
        rows.append(
            (
                "probe error",
                f"{probe['learned']:.3f} learned, {probe['exact']:.3f} exact,"
                f" {probe['features']:.3f} features  ({probe['measure']})",
            )
        )
    rows += [("note", note) for note in d["notes"]]
    rows.append(("files", "\n".join(files)))
    return rows


def _in_words(params: dict[str, Any]) -> str:
    """A context with its parameters; a mixture as --mix has it, with its parts."""
    if "mix" not in params:
        own = ", ".join(f"{k} = {v}" for k, v in params.items() if k != "context")
        return params["context"] + (f" ({own})" if own else "")
    weights = params.get("weights", ())
    told = weights if isinstance(weights, str) else ",".join(f"{w:g}" for w in weights)
    parts = ", ".join(map(_in_words, params["contexts"]))
    return f"{params['mix']}{told and ':'}{told} of ({parts})"


def _values(values: list[float], shown: int = 10) -> str:
    more = f" … ({len(values)} in all)" if len(values) > shown else ""
    return " ".join(rounded(v, 4) for v in values[:shown]) + more
