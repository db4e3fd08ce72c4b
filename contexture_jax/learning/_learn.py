"""Learning a context: pairs, encoders, an objective, a run, and functions in order."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from contexture_jax._core.checks import check_integer
from contexture_jax._core.types import Array
from contexture_jax.contexts import TupleContext, as_context, drawable
from contexture_jax.evaluation import RayleighRitz, rayleigh_ritz
from contexture_jax.learning._checks import (
    check_mixed,
    check_options,
    checked_encoder,
    num_held,
    source_of,
)
from contexture_jax.learning._law import Law, law_of
from contexture_jax.learning._learned import Functions, Learned, check_run
from contexture_jax.learning._mixed import (
    columns_of_parts,
    functions_of_parts,
    reweighted,
    seen_at_random,
)
from contexture_jax.learning._objectives import (
    Objective,
    embeddings_of,
    objective_of,
)
from contexture_jax.learning._towers import Encoder, Tower, make_tower
from contexture_jax.losses import MinMax, with_part_weights
from contexture_jax.operators import AssociationOperator
from contexture_jax.training import (
    FitResult,
    PairBatches,
    fit,
    from_loss,
    init_state,
    make_step,
    warmup_cosine,
)

__all__ = ["learn"]

_adamw = functools.partial(optax.adamw, weight_decay=1e-5)


def learn(
    context: Any,
    x: Any = None,
    a: Any = None,
    *,
    rank: int,
    num_steps: int,
    batch_size: int,
    seed: int,
    loss: str | Objective = "kise",
    encoder: Any = None,
    num_draws: int | None = None,
    source: str | None = None,
    optimizer: Any = None,
    op: AssociationOperator | None = None,
    held_out: float = 0.2,
    savable: bool = False,
    min_max: MinMax | None = None,
    **fit_options: Any,
) -> Learned:
    """Learn the leading singular functions of a context with an encoder, from pairs.

    Batches of pairs (x, a) are drawn, embedded, and judged by the loss; `fit` trains;
    Rayleigh–Ritz brings the functions in order (theory.md §7.1 says what each loss
    recovers, and which to take when). They are read from Φ where one is trained, else
    from the average encoder T Ψ.

    Where the law can be summed over, its operator judges what was learned, and Ritz
    values are at most the exact ones. For a context that draws A for any x, and for
    aligned arrays, a part of the rows is held out of training and judges it by pairs.

    Contexts made of contexts are learned as others are. A `convex_combination` has one
    Φ and a Ψ for each context, by "kise" and "svme", from draws of all of them for the
    same x; with `min_max` its weights are found on the way. A `convolve` whose steps
    cannot draw, as that of a teacher, is learned by their kernels (theory.md §7.8).

    `Learned.save` keeps functions of Φ for any context, and averages T Ψ, as of the
    default loss, for contexts of `cx.contexts` and `cx.zoo`: learn a context of your
    own with loss="svme" if it is to be saved. `savable=True` refuses what could not be,
    before anything is trained; `Learned.capabilities` tells it after.

    Args:
        context: the law of pairs, as in `pair_batches`: a context between numbered rows
            (`knn`, `joint`, …), one that draws A for any x (`gaussian_noise`, the zoo,
            …), any object with methods of one, or None for aligned arrays.
        x: what the encoder of X sees of each row: features, shape (n, d); None: the
            points of `knn`, the inputs that a context of the zoo gives, else numbers.
            For a context that draws A, its inputs, or a sampler `x(key, count)`.
        a: what the encoder of A sees of each value, likewise; None: `x` where A is a
            row as X is (`knn`, `rbf`, `same_class`, `time_lag`), else numbers. For a
            context that draws A, the context values that the columns of `op` stand for.
            For a `convex_combination` or `join` a tuple of one for each context, None
            for what is known without. For aligned arrays as many rows as x, or a list
            of such arrays: several draws for an x, the first of which judges.
        rank: how many functions.
        num_steps: steps of the whole run.
        batch_size: pairs of a batch, of all processes together, each of which draws its
            own.
        seed: of all that is random.
        loss: the name of one of `cx.losses`, or an `Objective`. "kise" is `kise_pairs`,
            or `kise` where a context of numbered rows has a kernel and no samples.
        encoder: an `Encoder`, None for its defaults, or a function of (inputs, output,
            rngs) which returns (params, apply), as from `cx.models.functional`.
        num_draws: draws of A for an x; None: as many as the loss takes. More make more
            pairs of a row: less noise, for as many more embeddings.
        source: "phi" or "psi": of which of two encoders the functions are; None: Φ.
        optimizer: an Optax transformation of {"phi": …, "psi": …}; None: AdamW with a
            rate of 0.001 at most, of SVME 0.003.
        op: the operator of the context, which may lie over a mesh; None: it is built
            where that can be.
        held_out: the share of the rows that are held out where there is no operator.
        savable: whether to refuse to learn what `Learned.save` would refuse to write.
        min_max: how the weights of a `convex_combination` are found: those with the
            largest loss at the best encoder, from its own on. Best of its width, which
            is more than `rank` where nothing is said: at another width others are best.
            `Learned.weights` are those at the end, and functions and values are of the
            mixture with them.
        **fit_options: of `fit`: `directory`, `evaluate`, and the groups `monitor`,
            `checkpoints`, `logging` and `devices`.

    Returns:
        The functions, their values and how the run ended. A run that met NaN returns
        its last checkpoint, or values that are NaN, as `status` says.

    Raises:
        CapabilityError: if the context can neither sample nor give a kernel, or it
            takes any x and cannot sample: a kernel alone is no judge of what is learned
            (`pair_batches(kernel=True)` trains from it).
        TypeError: if an argument is of another type or no argument, there is no `x`
            where the context has no inputs of its own, or what is to be savable is not.
        ValueError: if sizes do not fit, a feature is not finite, `a` plays no part, the
            loss cannot be trained from such pairs, or there are no weights for
            `min_max` to find.

    Example:
        >>> import contexture_jax as cx
        >>> context = cx.zoo.gaussian(0.8)  # singular values 0.8, 0.64, 0.512, …
        >>> learned = cx.learning.learn(
        ...     context, rank=1, num_steps=100, batch_size=256, seed=0,
        ...     encoder=cx.learning.Encoder(hidden=(16,), output=8),
        ... )
        >>> bool(0.7 < learned.singular_values[0] <= 0.8001)
        True
    """
    check_options(fit_options, learn)
    encoder = checked_encoder(encoder, x, a)
    rank = check_integer(rank, "rank", low=1)
    given = None if context is None else as_context(context)
    context = None if given is None else drawable(given)
    num_draws = num_held(a, num_draws) if context is None else num_draws
    objective = objective_of(loss, context, num_draws=num_draws)
    check_mixed(context, loss, min_max)
    source = source_of(objective, source, context, num_draws)
    law = law_of(context, x, a, op, objective, batch_size, seed, num_draws, held_out)
    towers = _towers(law, objective, encoder, rank, batch_size, seed)
    # Its own law at new inputs, where pairs are drawn from its table.
    own = given if "at" in getattr(given, "capabilities", ()) else law.pairs.context
    if savable:
        check_run(source, towers[source], own, is_summed=law.is_summed)
    if optimizer is None:
        optimizer = _adamw(warmup_cosine(objective.rate, num_steps))
    params, applies = (
        {name: tower[part] for name, tower in towers.items()} for part in (0, 1)
    )
    judged, loss_state = _objective(objective, law, min_max)
    result = fit(
        make_step(embeddings_of(objective.sees, applies), judged, optimizer),
        init_state(params, optimizer, loss_state=loss_state),
        _own(law.pairs, fit_options.get("devices")),
        num_steps=num_steps,
        key=jax.random.key(seed),
        **fit_options,
    )
    # Off the mesh of the run, if it had one: judging and `transform` have none.
    trained = jax.tree.map(jnp.asarray, jax.device_get(result.state.params))
    towers = {n: t._replace(params=trained[n]) for n, t in towers.items()}
    if min_max is not None:
        law = reweighted(law, jax.device_get(result.state.loss_state.weights))
    judge = functools.partial(_by_pairs, seed=seed) if law.op is None else _by_operator
    functions, left, ritz = judge(law, towers, source, rank, batch_size)
    if functions.context is not None:
        functions = dataclasses.replace(functions, context=own)
    return _learned(law, result, functions, left, towers, ritz)


def _own(pairs: PairBatches, devices: Any) -> PairBatches:
    """This process's part of each batch, where the run is one of several."""
    mesh = getattr(devices, "mesh", None)
    if jax.process_count() == 1 or (mesh is not None and not mesh.is_multi_process):
        return pairs
    return dataclasses.replace(pairs, shard=(jax.process_index(), jax.process_count()))


def _learned(
    law: Law,
    result: FitResult,
    functions: Functions,
    left: Any,
    towers: dict[str, Tower],
    ritz: dict[str, RayleighRitz],
) -> Learned:
    found = ritz[functions.source]
    return Learned(
        np.asarray(found.singular_values),
        np.asarray(left),
        functions,
        towers,
        ritz,
        found.held_out,
        law.rows,
        str(result.status),
        result.message,
        int(result.state.step),
        result.history,
        weights=law.weights,
    )


def _objective(
    objective: Objective, law: Law, min_max: MinMax | None
) -> tuple[Any, Any]:
    """The objective of a step, and the state that it begins with."""
    loss: Any = objective.loss
    if objective.sees.endswith("of parts"):
        if min_max is not None:  # an operator without weights is told before the run
            reweighted(law, law.weights)
        return with_part_weights(loss, law.pairs.context.weights, min_max)
    if objective.sees == "classes":
        if law.op is None:
            msg = "class_balanced takes a context whose A is a class, numbered"
            raise ValueError(msg)
        loss = functools.partial(loss, num_classes=law.op.shape[1])
    return from_loss(loss), ()


def _towers(
    law: Law,
    objective: Objective,
    encoder: Any,
    rank: int,
    batch_size: int,
    seed: int,
) -> dict[str, Tower]:
    output = encoder.output if isinstance(encoder, Encoder) else None
    if output is None:
        num_rows = None if law.op is None else law.op.shape[0]
        output = objective.width(rank, batch_size, num_rows)
    if output < rank:
        msg = f"the output of the encoder must be at least rank = {rank}; got {output}"
        raise ValueError(msg)
    seen = {"phi": law.x}
    if "psi" in objective.towers:
        seen["psi"] = _as_drawn(law, is_ours=isinstance(encoder, Encoder))
    dtype = jnp.zeros(()).dtype if law.op is None else law.op.dtype
    # One stream, from which both draw in turn: they do not begin alike.
    rngs = nnx.Rngs(seed)
    joined, towers = isinstance(law.pairs.context, TupleContext), {}
    for name in objective.towers:
        chosen = encoder
        if isinstance(encoder, Encoder) and encoder.num_waves is None:
            waves = objective.num_waves if name == "phi" else 0
            chosen = dataclasses.replace(encoder, num_waves=waves)
        towers[name] = make_tower(
            seen[name], chosen, output, dtype, rngs, joined=joined
        )
    return towers


def _as_drawn(law: Law, *, is_ours: bool) -> Any:
    """What Ψ sees: tables, and draws where there are none."""
    known = law.a if isinstance(law.a, tuple) else (law.a,)
    if all(table is not None for table in known):
        return law.a
    # For its shape and dtype. Of numbers it does not tell how many there are.
    drawn = law.pairs.at(0).a[0]
    values = drawn if isinstance(drawn, tuple) else (drawn,)
    known = known if law.a is not None else (None,) * len(values)
    found = []
    for table, a in zip(known, values, strict=True):
        is_seen = table is None and is_ours and jnp.ndim(a) == 1
        if is_seen and jnp.issubdtype(a.dtype, jnp.integer):
            msg = (
                "A is drawn as whole numbers, of which the encoder would need to know"
                " how many there are; expected encoder=function, or a context with a"
                " table"
            )
            raise ValueError(msg)
        found.append(a if table is None else table)
    return tuple(found) if isinstance(drawn, tuple) else found[0]


def _by_operator(
    law: Law, towers: dict[str, Tower], source: str, rank: int, batch_size: int
) -> tuple[Functions, Array, dict[str, RayleighRitz]]:
    """Functions, they at the rows of the law (n, r), and what towers hold, by it."""
    op, of_parts = law.op, law.pairs.form == "parts"
    assert op is not None
    embeddings = {}
    for name, tower in towers.items():
        if name == "phi":
            embeddings[name] = _embed(tower, law.x, batch_size)
        elif of_parts:
            embeddings[name] = columns_of_parts(tower, law.a, _embed, batch_size)
        # Columns of a join are no tuples.
        elif not isinstance(law.pairs.context, TupleContext):
            embeddings[name] = _embed(tower, law.a, batch_size)
    ritz = {
        # (n, d): Ψ is judged by its average T Ψ.
        name: _ritz(_average(op, z) if name == "psi" else z, op, rank=rank)
        for name, z in embeddings.items()
    }
    if source not in ritz:
        msg = (
            "the average of a join is over tuples, of which its operator has no list;"
            ' expected a loss that trains Φ, as "svme"'
        )
        raise ValueError(msg)
    found, values = ritz[source], None
    if source == "psi" and law.is_summed and not of_parts:
        # T is linear and keeps constants: (T Ψ − mean) R = T ((Ψ − mean) R), of which
        # this is what T is applied to, (m, r).
        values = np.asarray(_transform(found, embeddings["psi"]))
    functions = Functions(
        source, towers[source], np.asarray(found.mean), np.asarray(found.rotation)
    )
    return _with_law(functions, law, batch_size, values), found.left, ritz


def _by_pairs(
    law: Law,
    towers: dict[str, Tower],
    source: str,
    rank: int,
    batch_size: int,
    seed: int,
) -> tuple[Functions, Array, dict[str, RayleighRitz]]:
    """Likewise, at rows held out, by their pairs and the correlation of halves."""
    first, second, key = jax.random.split(jax.random.key(seed), 3)
    context: Any = law.pairs.context
    ritz = {}
    # One a, or two that are independent given x.
    drawn = (
        [law.a]
        if context is None
        else [law.pairs.draw(k, law.given) for k in (first, second)]
    )
    embed = functools.partial(_embed, batch_size=batch_size)
    halves = {"rank": rank, "key": key}
    # Without Ψ: the same encoder of A, or A itself.
    of_a: Any = towers.get("psi", towers.get("phi"))
    embedded = [embed(of_a, a) for a in drawn]
    beside = embedded
    if law.pairs.form == "parts":
        embedded, beside = seen_at_random(embedded, context.weights, key)  # pyright: ignore
    if "phi" in towers:
        ritz["phi"] = _ritz(embed(towers["phi"], law.x), beside[0], **halves)
    if "psi" in towers and context is not None:
        # Cov(Ψ(A), Ψ(A⁺)) is R of theory.md §7.1, the covariance of T Ψ: its Ritz
        # values are squares of singular values, and no operator is needed.
        ritz["psi"] = _ritz(*embedded, positive=True, **halves)
    found = ritz[source]
    rotation = np.asarray(found.rotation)
    if source == "psi":  # T ν = s μ
        s = np.asarray(found.singular_values)
        rotation = rotation * np.divide(1, s, out=np.zeros_like(s), where=s > 0)
    functions = Functions(source, towers[source], np.asarray(found.mean), rotation)
    functions = _with_law(functions, law, batch_size)
    return functions, functions(law.x), ritz


def _with_law(
    functions: Functions, law: Law, batch_size: int, values: np.ndarray | None = None
) -> Functions:
    """Functions with what T Ψ needs at new inputs; those of Φ need nothing."""
    context = law.pairs.context
    if functions.source == "phi":
        return functions
    if law.pairs.form == "parts":
        return functions_of_parts(functions, context, law.a, _embed, batch_size)
    return dataclasses.replace(functions, context=context, values=values)


def _embed(tower: Tower, inputs: Any, batch_size: int) -> Any:
    """Embeddings of all rows, a batch at a time."""
    # One program for all batches but a shorter last one.
    compiled = jax.jit(tower.apply)
    num_rows = len(jax.tree.leaves(inputs)[0])
    parts = [
        compiled(
            tower.params,
            jax.tree.map(lambda leaf, i=start: leaf[i : i + batch_size], inputs),
        )
        for start in range(0, num_rows, batch_size)
    ]
    return jax.tree.map(lambda *blocks: jnp.concatenate(blocks), *parts)


_average = jax.jit(lambda op, psi: op.matmat(psi))
# Compiled also for runs that diverged: NaN is told by the status, not refused.
_ritz = jax.jit(rayleigh_ritz, static_argnames=("rank", "positive"))
_transform = jax.jit(RayleighRitz.transform)
