"""The contexts of the command line: what each needs of the data, and how it is made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from contexture_jax.cli._arguments import Options, as_option, as_words
from contexture_jax.data import (
    InputError,
    Message,
    Share,
    Table,
    auto_gamma,
    counted,
    load_counts,
    load_features,
    load_own_rows,
    num_directions,
    of_order_1,
    quoted,
)

__all__ = [
    "Recipe",
    "build_context",
    "check_belongs",
    "digest",
    "load",
    "plan_context",
    "plan_rank",
]

_DEFAULT_NEIGHBORS = 30
_DEFAULT_RANK = 64


class Recipe(NamedTuple):
    """A context that the data can make.

    Attributes:
        name: as on the command line.
        params: its parameters, resolved.
        num_triples: how many non-trivial singular triples it has at most.
        notes: what a reader should know of the parameters.
    """

    name: str
    params: dict[str, Any]
    num_triples: int
    notes: list[str]


def load(
    options: Options,
    *,
    sparse: bool = False,
    unlabelled: bool = False,
    share: Share | None = None,
) -> Table:
    """Read DATA as counts or as features, whichever the context is made of.

    Args:
        options: what the user asked for.
        sparse: whether a large sparse matrix of counts may stay one.
        unlabelled: whether rows without a target stay.
        share: the rows of this process, which reads no others where it can do without:
            features are then those of these rows.
    """
    # Neighbours are searched among all points, and other contexts summed over them.
    is_plain = not (options.target or options.drop or options.categorical)
    if share is not None and options.context == "rbf" and is_plain:
        own = load_own_rows(options.data, share)
        if own is not None:
            return own
    shared = {
        "target": options.target,
        "drop": options.drop,
        "categorical": options.categorical,
        "separator": options.separator,
        "decimal": options.decimal,
        "missing": options.missing,
        "unlabelled": unlabelled,
    }
    if options.context in ("joint", "graph"):
        is_graph = options.context == "graph"
        table = load_counts(options.data, graph=is_graph, sparse=sparse, **shared)
    else:
        table = load_features(options.data, **shared)
    # In words of options, where the library speaks of parameters.
    return table._replace(
        notes=[Message(note.worded(as_words)) for note in table.notes]
    )


def digest(table: Table) -> str:
    """A few letters that tell the numbers of one table from those of another."""
    x = table.features
    # Each process has others.
    if x.shape[0] < len(table.rows):
        return f"{table.title} with {len(table.rows)} rows"
    parts = [x] if isinstance(x, np.ndarray) else [x.indptr, x.indices, x.data]
    content = hashlib.sha256()
    for part in parts:
        content.update(np.ascontiguousarray(part).data)
    if table.target is not None:
        content.update(np.asarray(table.target.values).astype(str).tobytes())
    return content.hexdigest()[:16]


def plan_context(options: Options, table: Table) -> Recipe:
    """Resolve the parameters of a context against the data.

    Raises:
        InputError: if an option belongs to another context, a parameter does not fit
            the data, or the context would have no non-trivial singular triple.
    """
    name = options.context
    for option, value, owner in (
        ("--num-neighbors", options.num_neighbors, "knn"),
        ("--gamma", options.gamma, "rbf"),
        # False is no choice of the user's.
        ("--lazy", options.lazy or None, "graph"),
    ):
        check_belongs(option, value, owner, name)
    num_rows = len(table.rows)
    plans = {
        "knn": _plan_knn,
        "rbf": _plan_rbf,
        "labels": _plan_labels,
        # A graph is a symmetric table: its rank is bounded alike.
        "joint": _plan_counts,
        "graph": _plan_counts,
        "teacher": _plan_teacher,
    }
    recipe = plans[name](options, table)
    if recipe.num_triples < 1:
        raise InputError(
            f"--context {name} of {table.title} ({counted(num_rows, 'row')}) has no"
            " singular functions beside the constant; it takes at least 2 rows and 2"
            " values of the context"
        )
    return recipe


def check_belongs(option: str, value: Any, owner: str, context: str) -> None:
    """Refuse an option of another context that was given.

    Raises:
        InputError: if `value` is not None and `context` not the `owner` of the option.
    """
    if value is not None and context != owner:
        raise InputError(
            f"{option} goes with --context {owner}; here it is --context {context}"
        )


def plan_rank(rank: int | None, recipe: Recipe, num_triples: int) -> int:
    """The rank to compute: what was asked for, or as many of 64 as there are.

    Raises:
        InputError: if more was asked for than exists.
    """
    if rank is None:
        return min(_DEFAULT_RANK, num_triples)
    if rank > num_triples:
        raise InputError(
            f"--rank {rank} is more than there is: this {recipe.name} context has"
            f" {counted(num_triples, 'singular value')} beside the trivial one;"
            f" expected --rank {num_triples} or less"
        )
    return rank


def build_context(
    recipe: Recipe,
    table: Table,
    dtype: str,
    progress: Callable[[int, int], None] | None = None,
    mesh: Any = None,
) -> Any:
    """Make the context in the given precision; processes of a mesh share the work."""
    import contexture_jax as cx

    if recipe.name == "labels":
        assert table.target is not None  # `_plan_labels` has seen to it
        return cx.contexts.labels(table.target.values.astype(np.int32))
    x = table.features
    if recipe.name in ("joint", "graph"):
        # Before the cast, which could overflow.
        x = of_order_1(x)
    x = x.astype(dtype)
    if x.shape[0] < len(table.rows):
        x = _of_all_processes(x, len(table.rows), mesh)
    if recipe.name == "knn":
        return cx.contexts.knn(x, mesh=mesh, progress=progress, **recipe.params)
    makers = {
        "rbf": cx.contexts.rbf,
        "joint": cx.contexts.joint,
        "graph": cx.contexts.graph,
        "teacher": cx.contexts.teacher,
    }
    return makers[recipe.name](x, **recipe.params)


def _of_all_processes(own: np.ndarray, num_rows: int, mesh: Any) -> Any:
    """Rows that each process has, as one array that is cut over the mesh."""
    import jax

    cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    shape = (num_rows, own.shape[1])
    return jax.make_array_from_process_local_data(cut, own, shape)


def _plan_knn(options: Options, table: Table) -> Recipe:
    num_rows = len(table.features)
    wanted, notes = options.num_neighbors, []
    if wanted is None:
        # Half of few rows: if all were neighbours, every row would have one law.
        wanted = min(_DEFAULT_NEIGHBORS, max(1, num_rows // 2))
        # Said, since it is not the number that --help gives.
        if wanted < _DEFAULT_NEIGHBORS:
            notes.append(
                f"{counted(num_rows, 'row')} only: num_neighbors is {wanted}, not"
                f" {_DEFAULT_NEIGHBORS}"
            )
    elif wanted > num_rows:
        raise InputError(
            f"--num-neighbors {wanted} is more than the {counted(num_rows, 'row')} of"
            f" {table.title}; expected --num-neighbors {num_rows} or less"
        )
    return Recipe("knn", {"num_neighbors": wanted}, num_rows - 1, notes)


def _plan_rbf(options: Options, table: Table) -> Recipe:
    gamma = 1.0 if options.gamma is None else options.gamma
    if gamma == "auto":
        gamma = auto_gamma(table)
    if gamma < float(np.finfo(options.dtype).tiny):
        raise InputError(
            f"--gamma {gamma:g} is 0 in {options.dtype}: every row would be as near"
            f" as any; expected a value near 1 / {table.num_columns}, as --gamma auto"
            " takes"
        )
    # γ |x − a|² is at most four times this, and so stays far from the end of the range.
    reach = float(gamma) * float((table.features**2).sum(axis=1).max())
    largest = float(np.finfo(options.dtype).max) ** 0.5
    if reach > largest:
        raise InputError(
            f"--gamma {gamma:g} overflows {options.dtype} on data of this size;"
            f" expected a value near 1 / {table.num_columns}, as --gamma auto takes"
        )
    return Recipe("rbf", {"gamma": float(gamma)}, len(table.rows) - 1, [])


def _plan_labels(options: Options, table: Table) -> Recipe:
    target = table.target
    if target is None:
        raise InputError(
            "--context labels takes the target as the context: name it with --target"
        )
    if target.kind != "classes":
        raise InputError(
            f"--context labels takes classes; target {quoted(target.name)} of"
            f" {table.title} holds numbers ("
            f"{as_option('--categorical', target.name)} makes each a class)"
        )
    del options
    num_classes = len(target.class_names)
    notes = ["the target is the context itself: judging against it says nothing new"]
    # Indicators of the classes span all functions of A; one is the constant.
    num_triples = min(num_classes, len(target.values)) - 1
    return Recipe("labels", {"num_classes": num_classes}, num_triples, notes)


def _plan_counts(options: Options, table: Table) -> Recipe:
    weighty = table.features != 0
    # Columns first, as `axis` is what is summed over. Without mass there is no law to
    # be conditioned on (theory.md §1.2).
    present = [int(np.count_nonzero(weighty.sum(axis=axis))) for axis in (0, 1)]
    params = {"lazy": options.lazy} if options.context == "graph" else {}
    notes = [
        f"{counted(size - count, what)} without any weight: functions are 0 there"
        for what, size, count in zip(
            ("column", "row"), table.features.shape[::-1], present, strict=True
        )
        if count < size
    ]
    return Recipe(options.context, params, min(present) - 1, notes)


def _plan_teacher(options: Options, table: Table) -> Recipe:
    # In the dtype of the work, as whitening will see them.
    num_triples = num_directions(table.features.astype(options.dtype))
    return Recipe("teacher", {}, min(num_triples, len(table.features) - 1), [])
