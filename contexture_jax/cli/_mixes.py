"""Several contexts as one on the command line: options, what fits, how it is made."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from contexture_jax.cli._arguments import CONTEXTS, add_context_options, not_negative
from contexture_jax.cli._contexts import (
    Recipe,
    build_context,
    check_belongs,
    plan_context,
)
from contexture_jax.data import InputError, Table, counted

if TYPE_CHECKING:
    from contexture_jax.cli._train_options import TrainOptions

__all__ = ["Built", "Mix", "add_mixed_context_options", "build", "plan"]

MIXES = ("convex", "mixture", "convolve", "compose", "join")
_DRAWN = "scarf"
_DEFAULT_RATE = 0.3
_SUM_TOLERANCE = 1e-6  # of weights, as the library has it
_OF_COUNTS = ("joint", "graph")
# Functions of the first are averages over A, of which a join has no list.
_OF_PHI = ("svme", "lora_svd", "joint_nesting")


class Mix(NamedTuple):
    """How several contexts are one.

    Attributes:
        kind: one of `MIXES`.
        weights: of the contexts; "minmax": found by training; None: equal, or none.
    """

    kind: str = "convex"
    weights: tuple[float, ...] | Literal["minmax"] | None = None


class Built(NamedTuple):
    """A context that the data make, and what judges what is learned of it.

    Attributes:
        context: to learn.
        a: what its A are, as `cx.learning.learn` takes them, or None.
        operator_at: the operator, given weights or None for those of the recipe.
    """

    context: Any
    a: Any
    operator_at: Callable[[Any], Any]


def add_mixed_context_options(group: Any) -> None:
    """Add contexts, their parameters, and how several are one."""
    add_context_options(
        group,
        type=_several,
        metavar="NAME[+NAME…]",
        help=f"{', '.join((*CONTEXTS, _DRAWN))}, or several joined by +, as knn+scarf;"
        " default: %(default)s",
    )
    group.add_argument(
        "--mix",
        type=_mix,
        metavar="KIND[:W,W…]",
        help="how several contexts are one: convex (one at random, and which one is"
        " seen), mixture (not seen), convolve (a step of the first, then the next),"
        " compose (a chain) or join (all at once); after a colon the weights of convex"
        " or mixture, as convex:0.5,0.5, or convex:minmax, which finds them; default:"
        " convex, with equal weights",
    )
    group.add_argument(
        "--scarf-rate",
        type=_share,
        metavar="RATE",
        help="of scarf, how likely a feature is replaced; default: 0.3",
    )


def _several(text: str) -> str:
    known = (*CONTEXTS, _DRAWN)
    for name in text.split("+"):
        if name not in known:
            raise argparse.ArgumentTypeError(
                f"expected one of {', '.join(known)}, or several joined by +, as"
                f" knn+scarf; got {name!r}"
            )
    return text


def _mix(text: str) -> Mix:
    kind, colon, rest = text.partition(":")
    if kind not in MIXES:
        raise argparse.ArgumentTypeError(
            f"expected one of {', '.join(MIXES)}, as convex:0.5,0.5 or convex:minmax;"
            f" got {kind!r}"
        )
    if not colon:
        return Mix(kind)
    if kind not in ("convex", "mixture"):
        raise argparse.ArgumentTypeError(f"{kind} takes no weights; got {rest!r}")
    if (kind, rest) == ("convex", "minmax"):
        return Mix(kind, "minmax")
    if rest in ("", "minmax"):
        also = ", or convex:minmax" if kind == "convex" else "; minmax is of convex"
        raise argparse.ArgumentTypeError(
            f"expected weights after the colon, as {kind}:0.5,0.5{also}; got {rest!r}"
        )
    weights = tuple(map(not_negative, rest.split(",")))
    if abs(sum(weights) - 1) > _SUM_TOLERANCE:
        raise argparse.ArgumentTypeError(
            f"expected weights that sum to 1, as {kind}:0.5,0.5; {rest} sum to"
            f" {sum(weights):.6g}"
        )
    return Mix(kind, weights)


def _share(text: str) -> float:
    value = not_negative(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1; got {text}")
    return value


def plan(options: TrainOptions, table: Table) -> Recipe:
    """Resolve contexts and how they are one against the data.

    The parameters of several are those of each by its name, and `mix`.

    Raises:
        InputError: if they do not fit together, the data or the loss.
    """
    names, mix = options.context.split("+"), _mix_of(options)
    for option, value, owner in (
        ("--num-neighbors", options.num_neighbors, "knn"),
        ("--gamma", options.gamma, "rbf"),
        ("--scarf-rate", options.scarf_rate, _DRAWN),
    ):
        check_belongs(
            option, value, owner, owner if owner in names else "+".join(names)
        )
    parts = [_plan_one(options, table, name) for name in names]
    _check_loss(names, mix, options)
    if mix is None:
        return parts[0]
    counts, num_rows = [part.num_triples for part in parts], len(table.rows)
    most = {"convex": sum(counts), "mixture": sum(counts), "join": num_rows}
    params = {part.name: part.params for part in parts if part.params}
    weights = {} if mix.weights is None else {"weights": mix.weights}
    return Recipe(
        options.context,
        {**params, "mix": mix.kind, **weights},
        min(most.get(mix.kind, min(counts)), num_rows - 1),
        [note for part in parts for note in part.notes],
    )


def _mix_of(options: TrainOptions) -> Mix | None:
    names, mix = options.context.split("+"), options.mix
    if len(names) == 1:
        if mix is not None:
            raise InputError(
                "--mix is of two contexts or more, joined by + as --context knn+scarf;"
                f" got --context {options.context}"
            )
        return None
    mix = Mix() if mix is None else mix
    for name in _OF_COUNTS:
        if name in names:
            raise InputError(
                f"--context {name} reads DATA as counts, and is of no mixture; expected"
                f" {', '.join(n for n in (*CONTEXTS, _DRAWN) if n not in _OF_COUNTS)}"
            )
    if isinstance(mix.weights, tuple) and len(mix.weights) != len(names):
        raise InputError(
            f"--mix {mix.kind} has {counted(len(mix.weights), 'weight')} for the"
            f" {len(names)} contexts of --context {options.context}; expected one for"
            " each"
        )
    return mix


def _plan_one(options: TrainOptions, table: Table, name: str) -> Recipe:
    if name == _DRAWN:
        rate = options.scarf_rate
        rate = _DEFAULT_RATE if rate is None else rate
        return Recipe(_DRAWN, {"rate": rate}, len(table.rows) - 1, [])
    own = {
        "num_neighbors": options.num_neighbors if name == "knn" else None,
        "gamma": options.gamma if name == "rbf" else None,
    }
    return plan_context(dataclasses.replace(options, context=name, **own), table)


def _check_loss(names: list[str], mix: Mix | None, options: TrainOptions) -> None:
    """Raise unless the loss can be trained on such contexts."""
    kind, loss = None if mix is None else mix.kind, options.loss
    pairwise = loss in ("kise", "svme")
    by_kernel = "teacher" in names
    refused = None
    if by_kernel and not (loss == "kise" or (kind == "convolve" and pairwise)):
        refused = "--context teacher is a kernel on rows, without values of A to embed;"
        refused += " expected --loss kise"
    elif by_kernel and names[-1] == "teacher" and loss != "kise":
        refused = "teacher gives no A to embed at the end of a chain; expected --loss"
        refused += " kise"
    elif by_kernel and mix is not None and _DRAWN in names:
        refused = "teacher is a kernel and scarf is drawn from: expected one of them"
    elif by_kernel and mix is not None and mix.weights == "minmax":
        refused = (
            "--mix convex:minmax draws from all contexts, and teacher is a kernel;"
        )
        refused += " expected weights, as convex:0.5,0.5"
    elif kind == "join" and loss not in _OF_PHI:
        refused = "--mix join is learned by an encoder of X; expected --loss"
        refused += f" {' or '.join(_OF_PHI)}"
    elif (
        kind == "convex"
        and not pairwise
        and (_DRAWN in names or (mix is not None and mix.weights == "minmax"))
    ):
        refused = f"--mix convex of {'+'.join(names)} is learned by --loss kise or svme"
    if refused is not None:
        raise InputError(f"{refused}; got --loss {loss}")


def build(
    options: TrainOptions,
    table: Table,
    progress: Callable[[int, int], None] | None = None,
) -> Built:
    """Make the context, and the operator that judges it.

    Of what is drawn the operator is a Monte Carlo estimate on the rows.

    Raises:
        InputError: if the contexts do not fit together.
    """
    import contexture_jax as cx

    names, mix = options.context.split("+"), _mix_of(options)
    parts = [_build_one(options, table, name, progress) for name in names]
    given = None if mix is None or mix.weights == "minmax" else mix.weights

    def mixed(of: list[Any], weights: Any) -> Any:
        return of[0] if mix is None else _mixed(mix.kind, of, weights)

    with _told_by(options):
        context = mixed(parts, given)
    laws = [_judged_by(part, options.seed) for part in parts]
    samples = tuple(drawn for _, drawn in laws)
    several = mix is not None and mix.kind in ("convex", "join")
    a = samples if several else samples[-1]
    if mix is None and names[0] in ("knn", "rbf"):
        a = table.features.astype(options.dtype)
    finite = [known for known, _ in laws]

    def operator_at(weights: Any) -> Any:
        used = given if weights is None else weights
        with _told_by(options):
            return cx.association_operator(mixed(finite, used))

    return Built(context, a, operator_at)


@contextmanager
def _told_by(options: TrainOptions) -> Iterator[None]:
    """Errors of the library, on contexts that do not fit, as those of the input."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if "+" not in options.context:
            raise
        raise InputError(
            f"the contexts of --context {options.context} are not mixed so: {error}"
        ) from error


def _build_one(
    options: TrainOptions,
    table: Table,
    name: str,
    progress: Callable[[int, int], None] | None,
) -> Any:
    from contexture_jax import contexts

    one = _plan_one(options, table, name)
    if name != _DRAWN:
        return build_context(one, table, options.dtype, progress)
    x = table.features.astype(options.dtype)
    return contexts.on_rows(contexts.scarf(x, one.params["rate"]), x)


def _judged_by(part: Any, seed: int) -> tuple[Any, Any]:
    """A part with a table, and of one that is drawn from the draws of that."""
    import jax

    import contexture_jax as cx

    if not isinstance(part, cx.contexts.OnRows):
        return part, None
    known, samples = cx.operators.sampled(part, key=jax.random.key(seed))
    return known, np.asarray(samples)


def _mixed(kind: str, parts: list[Any], weights: Any) -> Any:
    from contexture_jax import contexts

    if kind == "convex":
        return contexts.convex_combination(parts, weights)
    if kind == "mixture":
        return contexts.mixture(parts, weights)
    if kind == "join":
        return contexts.join(parts)
    return getattr(contexts, kind)(*parts)
