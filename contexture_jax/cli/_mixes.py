"""Several contexts as one on the command line: what fits, and how it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from contexture_jax.cli._arguments import Options
from contexture_jax.cli._contexts import (
    Recipe,
    build_context,
    check_belongs,
    plan_context,
)
from contexture_jax.cli._mix_words import DRAWN, MIXABLE, OWNED, Mix, Part
from contexture_jax.data import InputError, Table, counted

if TYPE_CHECKING:
    from contexture_jax.cli._train_options import TrainOptions

__all__ = ["Built", "build", "plan"]

_DEFAULT_RATE = 0.3
# Functions of the first are averages over A, of which a join has no list.
_OF_PHI = ("svme", "lora_svd", "joint_nesting")


class Built(NamedTuple):
    """A context that the data make, and what judges what is learned of it.

    Attributes:
        context: to learn.
        a: what its A are, as `cx.learning.learn` takes them, or None.
        operator_at: the operator, given weights or None for those of the recipe, and
            which set of draws it is of.
        num_draws: of which the operator is an estimate; 0: it is exact.
    """

    context: Any
    a: Any
    operator_at: Callable[..., Any]
    num_draws: int


def plan(options: TrainOptions, table: Table) -> Recipe:
    """Resolve contexts and how they are one against the data.

    The parameters of several are "mix", "weights" if they have any, and "contexts", of
    which each is so again, or the parameters of one beside its name as "context".

    Raises:
        InputError: if they do not fit together, the data or the loss.
    """
    told = _told(options)
    recipe = _planned(options, table, told)
    _check_drawn(told)
    _check_loss(told, options)
    return recipe


def _told(options: TrainOptions) -> Part | Mix:
    """The contexts of the options, or of the file in their place."""
    names, mix = options.context.split("+"), options.mix
    given = {name: getattr(options, name) for name in OWNED}
    if mix is not None and mix.contexts:
        context = None if options.context == Options.context else options.context
        for name, value in {"context": context, **given}.items():
            if value is not None:
                raise InputError(
                    f"--{name.replace('_', '-')} {value} beside --mix FILE, which says"
                    " the contexts and the options of each; expected it there"
                )
        return mix
    for name, value in given.items():
        owner = OWNED[name][0]
        at = owner if owner in names else options.context
        check_belongs(f"--{name.replace('_', '-')}", value, owner, at)
    parts = tuple(
        Part(one, **{k: v for k, v in given.items() if OWNED[k][0] == one})
        for one in names
    )
    if len(names) > 1:
        return _checked((mix or Mix())._replace(contexts=parts), options.context)
    if mix is not None:
        raise InputError(
            "--mix is of two contexts or more, joined by + as --context knn+scarf;"
            f" got --context {options.context}"
        )
    return parts[0]


def _checked(mix: Mix, told: str) -> Mix:
    """A mixture of --context, unless its contexts or weights do not fit."""
    others = [part for part in told.split("+") if part not in MIXABLE]
    if others:
        raise InputError(
            f"--context {others[0]} reads DATA as counts, and is of no mixture;"
            f" expected {', '.join(MIXABLE)}"
        )
    names = told.split("+")
    twice = [name for name in names if names.count(name) > 1]
    if twice and mix.mix in ("convex", "mixture"):
        raise InputError(
            f"--context {told} has {twice[0]} twice with the same options, and a"
            f" {mix.mix} mixture of a context with itself is that context; --mix"
            " FILE.json gives each its own options"
        )
    num = len(mix.contexts)
    if isinstance(mix.weights, tuple) and len(mix.weights) != num:
        raise InputError(
            f"--mix {mix.mix} has {counted(len(mix.weights), 'weight')} for the {num}"
            f" contexts of --context {told}; expected one for each"
        )
    return mix


def _planned(options: TrainOptions, table: Table, told: Part | Mix) -> Recipe:
    num_others = len(table.rows) - 1
    if isinstance(told, Part):
        if told.context == DRAWN:
            rate = _DEFAULT_RATE if told.scarf_rate is None else told.scarf_rate
            return Recipe(DRAWN, {"rate": rate}, num_others, [])
        own = {k: v for k, v in told._asdict().items() if k != "scarf_rate"}
        return plan_context(dataclasses.replace(options, **own), table)
    parts = [_planned(options, table, part) for part in told.contexts]
    names = [f"({p.name})" if "mix" in p.params else p.name for p in parts]
    held = [
        p.params if "mix" in p.params else {"context": p.name, **p.params}
        for p in parts
    ]
    counts = [part.num_triples for part in parts]
    most = {"convex": sum(counts), "mixture": sum(counts), "join": num_others}
    weights = {} if told.weights is None else {"weights": told.weights}
    return Recipe(
        "+".join(names),
        {"mix": told.mix, **weights, "contexts": held},
        min(most.get(told.mix, min(counts)), num_others),
        [note for part in parts for note in part.notes],
    )


def _check_drawn(told: Part | Mix) -> None:
    """Raise where a mixture asks for the values of scarf, of which there is no list."""
    parts = told.contexts if isinstance(told, Mix) else ()
    names = [part.context if isinstance(part, Part) else part.mix for part in parts]
    if not isinstance(told, Mix) or DRAWN not in names:
        return
    others = [name for name in names if name != DRAWN]
    last = "+".join([*others, DRAWN])
    # An encoder sees numbered values by what they stand for, and drawn ones as drawn.
    if told.mix == "convolve" and names[-1] != DRAWN:
        raise InputError(
            "--mix convolve learns what comes last by its values, which a step of scarf"
            f" leaves without a list; expected {DRAWN} at the end, as {last}; got"
            f" {'+'.join(names)}"
        )
    if told.mix in ("compose", "mixture"):
        takes = {
            "compose": "a chain through values, and those of scarf are no rows",
            "mixture": "of contexts with one A, and each scarf draws values of its own",
        }
        raise InputError(
            f"--mix {told.mix} is {takes[told.mix]}; expected --mix convex or convolve"
            f" with {last}, or --mix {told.mix} without {DRAWN}; got {'+'.join(names)}"
        )


def _check_loss(told: Part | Mix, options: TrainOptions) -> None:
    """Raise unless the loss can be trained on such contexts."""
    mix, loss = told if isinstance(told, Mix) else Mix("", None, (told,)), options.loss
    names = [p.context if isinstance(p, Part) else p.mix for p in mix.contexts]
    has_kernel, is_drawn = "teacher" in names, DRAWN in names
    is_pairwise, is_found = loss in ("kise", "svme"), mix.weights == "minmax"
    rules = (
        (
            has_kernel and mix.mix == "join",
            "--mix join is learned from samples of all contexts, and teacher is a"
            " kernel; expected --mix convex or convolve, or a join without it",
        ),
        (
            has_kernel
            and loss != "kise"
            and not (mix.mix == "convolve" and is_pairwise),
            "--context teacher is a kernel on rows, without values of A to embed;"
            " expected --loss kise",
        ),
        (
            names[-1] == "teacher" and loss != "kise",
            "teacher gives no A to embed at the end of a chain; expected --loss kise",
        ),
        (
            has_kernel and is_drawn,
            "teacher is a kernel and scarf is drawn from: expected one of them",
        ),
        (
            has_kernel and is_found,
            "--mix convex:minmax draws from all contexts, and teacher is a kernel;"
            " expected weights, as convex:0.5,0.5",
        ),
        (
            mix.mix == "join" and loss not in _OF_PHI,
            "--mix join is learned by an encoder of X; expected --loss"
            f" {' or '.join(_OF_PHI)}",
        ),
        (
            mix.mix == "convex" and not is_pairwise and (is_drawn or is_found),
            f"--mix convex of {'+'.join(names)} is learned by --loss kise or svme",
        ),
    )
    for is_refused, words in rules:
        if is_refused:
            raise InputError(f"{words}; got --loss {loss}")


def build(
    options: TrainOptions,
    recipe: Recipe,
    table: Table,
    progress: Callable[[int, int], None] | None = None,
) -> Built:
    """Make the context of a recipe, and the operator that judges it.

    Of what is drawn the operator is a Monte Carlo estimate on the rows.

    Raises:
        InputError: if the contexts do not fit together.
    """
    import contexture_jax as cx

    kind, weights = recipe.params.get("mix"), recipe.params.get("weights")
    given = None if weights == "minmax" else weights
    held = recipe.params.get("contexts", [{"context": recipe.name, **recipe.params}])
    parts = [_made(one, options, table, progress) for one in held]
    laws = [_judged_by(part, options.seed) for part in parts]
    samples = tuple(law[1] for law in laws)
    num_draws = max(0 if a is None else len(a) for a in samples)

    def operator_at(weights: Any, again: int = 0) -> Any:
        drawn = laws
        if again:
            drawn = [_judged_by(part, options.seed + again) for part in parts]
        finite = [law[0] for law in drawn]
        context = _mixed(kind, finite, given if weights is None else weights)
        with _told_as_input(kind):
            return cx.association_operator(context)

    # A tuple is for losses that see each part, which need not be told what is known.
    is_told = kind in ("convex", "join") and any(a is not None for a in samples)
    a = samples if is_told else samples[-1]
    return Built(_mixed(kind, parts, given), a, operator_at, num_draws)


def _made(
    params: dict[str, Any],
    options: TrainOptions,
    table: Table,
    progress: Callable[[int, int], None] | None,
) -> Any:
    """The context of parameters as `plan` gives them."""
    from contexture_jax import contexts

    if "mix" in params:
        parts = [_made(one, options, table, progress) for one in params["contexts"]]
        return _mixed(params["mix"], parts, params.get("weights"))
    own = {name: value for name, value in params.items() if name != "context"}
    if params["context"] == DRAWN:
        x = table.features.astype(options.dtype)
        return contexts.on_rows(contexts.scarf(x, **own), x)
    recipe = Recipe(params["context"], own, 0, [])
    return build_context(recipe, table, options.dtype, progress)


def _judged_by(part: Any, seed: int) -> tuple[Any, Any]:
    """A part with a table, and of one that is drawn from the draws of that."""
    import jax

    import contexture_jax as cx

    if not isinstance(part, cx.contexts.OnRows):
        return part, None
    known, samples = cx.operators.sampled(part, key=jax.random.key(seed))
    return known, np.asarray(samples)


def _mixed(kind: str | None, parts: Sequence[Any], weights: Any) -> Any:
    from contexture_jax import contexts

    with _told_as_input(kind):
        if kind is None:
            return parts[0]
        if kind == "convex":
            return contexts.convex_combination(parts, weights)
        if kind == "mixture":
            return contexts.mixture(parts, weights)
        if kind == "join":
            return contexts.join(parts)
        return getattr(contexts, kind)(*parts)


@contextmanager
def _told_as_input(kind: str | None) -> Iterator[None]:
    """Errors of the library, on contexts that do not fit, as those of the input."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if kind is None:
            raise
        raise InputError(
            f"the contexts of --mix {kind} are not mixed so: {error}"
        ) from error
