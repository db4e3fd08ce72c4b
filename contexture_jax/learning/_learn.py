"""Learning a context: pairs, encoders, an objective, a run, and functions in order."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from contexture_jax._core.checks import as_array, check_integer, check_number
from contexture_jax._core.types import Array
from contexture_jax.contexts import (
    Neighbors,
    Rbf,
    SameClass,
    TimeLag,
    as_context,
    drawable,
)
from contexture_jax.evaluation import RayleighRitz, rayleigh_ritz
from contexture_jax.learning._learned import Functions, Learned, check_run
from contexture_jax.learning._objectives import Objective, embeddings_of, objective_of
from contexture_jax.learning._towers import Encoder, Tower, make_tower
from contexture_jax.operators import AssociationOperator, association_operator
from contexture_jax.training import (
    PairBatches,
    fit,
    from_loss,
    init_state,
    make_step,
    pair_batches,
    warmup_cosine,
)

__all__ = ["learn"]

_WEIGHT_DECAY = 1e-5


class _Law(NamedTuple):
    """What is learned, and what judges it.

    Attributes:
        pairs: to train on.
        x: what Φ sees at the rows of the operator, or at the rows held out.
        a: what Ψ sees at the columns of the operator, or of pairs held out, a draw
            each.
        op: the operator, or None.
        rows: which rows are held out, or None.
    """

    pairs: PairBatches
    x: Any
    a: Any
    op: AssociationOperator | None
    rows: np.ndarray | None


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
        rank: how many functions.
        num_steps: steps of the whole run.
        batch_size: pairs of a batch.
        seed: of all that is random.
        loss: the name of one of `cx.losses`, or an `Objective`. "kise" is `kise_pairs`,
            or `kise` where a context has a kernel and no samples.
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
        **fit_options: of `fit`: `directory`, `evaluate`, and the groups `monitor`,
            `checkpoints`, `logging` and `devices`.

    Returns:
        The functions, their values and how the run ended. A run that met NaN returns
        its last checkpoint, or values that are NaN, as `status` says.

    Raises:
        CapabilityError: if the context can neither sample nor give a kernel.
        TypeError: if an argument is of another type, there is no `x` where the context
            has no inputs of its own, or what is to be savable is not.
        ValueError: if sizes do not fit, or the loss cannot be trained from such pairs.

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
    encoder = Encoder() if encoder is None else encoder
    rank = check_integer(rank, "rank", low=1)
    given = None if context is None else as_context(context)
    context = None if given is None else drawable(given)
    objective = objective_of(
        loss,
        can_sample=context is None or "sample" in context.capabilities,
        num_draws=1 if context is None else num_draws,
    )
    draws = objective.num_draws if num_draws is None else num_draws
    source = _source(objective, source, context)
    law = _law(context, x, a, op, objective, batch_size, seed, draws, held_out)
    towers = _towers(law, objective, encoder, rank, batch_size, seed)
    # Its own law at new inputs, where pairs are drawn from its table.
    own = given if "at" in getattr(given, "capabilities", ()) else law.pairs.context
    if savable:
        is_summed = law.op is not None and law.pairs.takes_numbers
        check_run(source, towers[source], own, is_summed=is_summed)
    if optimizer is None:
        schedule = warmup_cosine(objective.rate, num_steps)
        optimizer = optax.adamw(schedule, weight_decay=_WEIGHT_DECAY)
    params = {name: tower.params for name, tower in towers.items()}
    encode = embeddings_of(objective.sees, {n: t.apply for n, t in towers.items()})
    result = fit(
        make_step(encode, from_loss(_loss(objective, law.op)), optimizer),
        init_state(params, optimizer),
        law.pairs,
        num_steps=num_steps,
        key=jax.random.key(seed),
        **fit_options,
    )
    # Off the mesh of the run, if it had one: judging and `transform` have none.
    trained = jax.tree.map(jnp.asarray, jax.device_get(result.state.params))
    towers = {n: t._replace(params=trained[n]) for n, t in towers.items()}
    judge = _by_operator if law.op is not None else _by_pairs
    functions, left, ritz = judge(law, towers, source, rank, batch_size, seed)
    if functions.context is not None:
        functions = dataclasses.replace(functions, context=own)
    return Learned(
        np.asarray(ritz[source].singular_values),
        np.asarray(left),
        functions,
        towers,
        ritz,
        ritz[source].held_out,
        law.rows,
        str(result.status),
        result.message,
        int(result.state.step),
        result.history,
    )


def _source(objective: Objective, source: str | None, context: Any) -> str:
    source = objective.towers[0] if source is None else source
    if source not in objective.towers:
        msg = f"source must be one of {objective.towers} for this loss; got {source!r}"
        raise ValueError(msg)
    if context is None and (source == "psi" or objective.sees == "views"):
        msg = (
            "aligned arrays hold one a for an x, and no law to average over; expected a"
            ' loss of two encoders, as "svme" or "vamp", and source="phi"'
        )
        raise ValueError(msg)
    return source


def _loss(objective: Objective, op: AssociationOperator | None) -> Any:
    if objective.sees != "classes":
        return objective.loss
    if op is None:
        raise ValueError("class_balanced takes a context whose A is a class, numbered")
    return functools.partial(objective.loss, num_classes=op.shape[1])


def _law(
    context: Any,
    x: Any,
    a: Any,
    op: AssociationOperator | None,
    objective: Objective,
    batch_size: int,
    seed: int,
    num_draws: int,
    held_out: float,
) -> _Law:
    """Pairs to train on, and what judges them."""
    # A loss of the kernel takes 0 draws, which are no pairs to ask for.
    make = functools.partial(
        pair_batches, context, batch_size, seed=seed, num_draws=max(num_draws, 1)
    )
    capabilities = getattr(context, "capabilities", ())
    # X and A are numbers, as `pair_batches` tells them apart: what has inputs of its
    # own draws for those.
    if "table" in capabilities and "inputs" not in capabilities:
        op = association_operator(context) if op is None else op
        x, a = _numbered_inputs(context, x, a, op)
        is_kernel = objective.sees == "kernel"
        shown = None if is_kernel or objective.sees == "classes" else a
        # Rows come by the law of the operator that judges.
        pairs = make(x=x, a=shown, weights=op.p_x, kernel=is_kernel)
        return _Law(pairs, x, a, op, None)
    if "inputs" in capabilities and "table" in capabilities and a is None:
        a = np.asarray(context.context_values())
        op = association_operator(context) if op is None else op
        points = np.asarray(context.inputs())
        x = points if x is None else x
        if callable(x):
            # New inputs at every step, and the context's own to judge at.
            return _Law(make(x=x), points, a, op, None)
    if op is not None:
        if callable(x) or a is None:
            msg = "an operator of drawn A takes x and a at its rows and columns"
            raise ValueError(msg)
        return _Law(make(x=x, weights=op.p_x), x, a, op, None)
    if callable(x):
        key = jax.random.fold_in(jax.random.key(seed), 1)
        # A step gives the sampler a key with one more number folded in: none of these
        # inputs is trained on.
        judged = x(key, 4 * batch_size)
        return _Law(make(x=x), judged, None, None, None)
    if x is None:
        msg = (
            "x must hold inputs, one a row, or be a sampler of them, x(key, count),"
            " where the context has none of its own; got None"
        )
        raise TypeError(msg)
    share = check_number(held_out, "held_out")
    num_rows = len(as_array(x, "x"))
    order = np.random.default_rng(seed).permutation(num_rows)
    count = int(num_rows * share)
    # Two, as judging halves them.
    if not 2 <= count < num_rows:
        msg = f"held_out must leave 2 or more of the {num_rows} rows out, and some in"
        raise ValueError(msg)
    out, kept = np.sort(order[:count]), np.sort(order[count:])
    x = np.asarray(x)
    if context is None:
        a = np.asarray(a)
        return _Law(make(x=x[kept], a=a[kept]), x[out], a[out], None, out)
    return _Law(make(x=x[kept]), x[out], None, None, out)


def _numbered_inputs(
    context: Any, x: Any, a: Any, op: AssociationOperator
) -> tuple[Any, Any]:
    """What encoders see of numbered rows and values."""
    n, m = op.shape
    # A context `at` new inputs has other rows than its points.
    if x is None and isinstance(context, (Neighbors, Rbf)) and n == m:
        x = context.points
    if a is None and isinstance(context, (Neighbors, Rbf, SameClass, TimeLag)):
        a = x if n == m else None
    inputs = []
    for name, table, size in (("x", x, n), ("a", a, m)):
        table = np.arange(size, dtype=np.int32) if table is None else np.asarray(table)
        if len(table) != size:
            msg = (
                f"{name} must have one row for each {name} of the context, {size}; got"
                f" shape {table.shape}"
            )
            raise ValueError(msg)
        inputs.append(table)
    return inputs[0], inputs[1]


def _towers(
    law: _Law,
    objective: Objective,
    encoder: Any,
    rank: int,
    batch_size: int,
    seed: int,
) -> dict[str, Tower]:
    output = encoder.output if isinstance(encoder, Encoder) else None
    if output is None:
        output = objective.width(rank, batch_size)
    if output < rank:
        msg = f"the output of the encoder must be at least rank = {rank}; got {output}"
        raise ValueError(msg)
    seen = {"phi": law.x, "psi": law.a}
    if seen["psi"] is None and "psi" in objective.towers:
        # For its shape and dtype. Of numbers it does not tell how many there are.
        seen["psi"] = law.pairs.at(0).a[0]
        if jnp.ndim(seen["psi"]) == 1 and isinstance(encoder, Encoder):
            _check_no_numbers(seen["psi"])
    dtype = jnp.zeros(()).dtype if law.op is None else law.op.dtype
    # One stream, from which both draw in turn: they do not begin alike.
    rngs = nnx.Rngs(seed)
    towers = {}
    for name in objective.towers:
        chosen = encoder
        if isinstance(encoder, Encoder) and encoder.num_waves is None:
            waves = objective.num_waves if name == "phi" else 0
            chosen = dataclasses.replace(encoder, num_waves=waves)
        towers[name] = make_tower(seen[name], chosen, output, dtype, rngs)
    return towers


def _check_no_numbers(a: Any) -> None:
    if jnp.issubdtype(a.dtype, jnp.integer):
        msg = (
            "A is drawn as whole numbers, of which the encoder would need to know how"
            " many there are; expected encoder=function, or a context with a table"
        )
        raise ValueError(msg)


def _by_operator(
    law: _Law,
    towers: dict[str, Tower],
    source: str,
    rank: int,
    batch_size: int,
    seed: int,
) -> tuple[Functions, Array, dict[str, RayleighRitz]]:
    """Functions by the law itself."""
    del seed
    op, ritz = law.op, {}
    assert op is not None
    embeddings = {
        name: _embed(tower, {"phi": law.x, "psi": law.a}[name], batch_size)
        for name, tower in towers.items()
    }
    for name, embedding in embeddings.items():
        # (n, d): Ψ is judged by its average T Ψ.
        phi = _average(op, embedding) if name == "psi" else embedding
        ritz[name] = _ritz(phi, op, rank=rank)
    found = ritz[source]
    context, values = None, None
    if source == "psi":
        context = law.pairs.context
        if law.pairs.takes_numbers:
            # T is linear and keeps constants: (T Ψ − mean) R = T ((Ψ − mean) R), of
            # which this is what T is applied to, (m, r).
            values = np.asarray(_transform(found, embeddings["psi"]))
    mean, rotation = (np.asarray(v) for v in (found.mean, found.rotation))
    functions = Functions(source, towers[source], mean, rotation, context, values)
    return functions, found.left, ritz


def _by_pairs(
    law: _Law,
    towers: dict[str, Tower],
    source: str,
    rank: int,
    batch_size: int,
    seed: int,
) -> tuple[Functions, Array, dict[str, RayleighRitz]]:
    """Functions by pairs that were held out, and by the correlation of their halves."""
    first, second, key = jax.random.split(jax.random.key(seed), 3)
    context, ritz = law.pairs.context, {}
    # One a, or two that are independent given x.
    drawn = (
        [law.a]
        if context is None
        else [context.sample(k, jnp.asarray(law.x)) for k in (first, second)]
    )
    embed = functools.partial(_embed, batch_size=batch_size)
    halves = {"rank": rank, "key": key}
    if "phi" in towers:
        phi = embed(towers["phi"], law.x)
        # Without Ψ: the same encoder of A, or A itself.
        of_a = towers.get("psi", towers["phi"])
        ritz["phi"] = _ritz(phi, embed(of_a, drawn[0]), **halves)
    if "psi" in towers and context is not None:
        # Cov(Ψ(A), Ψ(A⁺)) is R of theory.md §7.1, the covariance of T Ψ: its Ritz
        # values are squares of singular values, and no operator is needed.
        psi, psi_plus = (embed(towers["psi"], a) for a in drawn)
        ritz["psi"] = _ritz(psi, psi_plus, positive=True, **halves)
    found = ritz[source]
    rotation = np.asarray(found.rotation)
    if source == "psi":  # T ν = s μ
        s = np.asarray(found.singular_values)
        rotation = rotation * np.divide(1, s, out=np.zeros_like(s), where=s > 0)
    tower = towers[source]
    context = context if source == "psi" else None
    functions = Functions(source, tower, np.asarray(found.mean), rotation, context)
    return functions, functions(law.x), ritz


def _embed(tower: Tower, inputs: Any, batch_size: int) -> Array:
    """Embeddings of all rows, a batch at a time."""
    # One program for all batches but a shorter last one.
    compiled = jax.jit(tower.apply)
    parts = [
        compiled(tower.params, inputs[start : start + batch_size])
        for start in range(0, len(inputs), batch_size)
    ]
    return jnp.concatenate(parts)


_average = jax.jit(lambda op, psi: op.matmat(psi))
# Compiled also for runs that diverged: NaN is told by the status, not refused.
_ritz = jax.jit(rayleigh_ritz, static_argnames=("rank", "positive"))
_transform = jax.jit(RayleighRitz.transform)
