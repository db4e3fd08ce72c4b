"""A k-NN context of a table, and how an encoder learns it, for benchmarks."""

import argparse
import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

import contexture_jax as cx

__all__ = [
    "Problem",
    "Setting",
    "add_arguments",
    "learn",
    "parse_setting",
    "prepare",
]


class Problem(NamedTuple):
    """A table, its k-NN context, and the truth about it.

    Attributes:
        x: the features, shape (n, d), float32.
        context: of K neighbours.
        operator: of the context.
        exact: its leading singular functions.
    """

    x: np.ndarray
    context: cx.contexts.Neighbors
    operator: cx.AssociationOperator
    exact: cx.SVDResult


def add_arguments(
    parser: argparse.ArgumentParser, *, neighbors: int, rank: int
) -> None:
    """The arguments that `prepare` and the training look at."""
    parser.add_argument("--data", default="wine", help="a .csv or a built-in set")
    parser.add_argument("--target", default="target", help="column to leave out")
    parser.add_argument("--neighbors", type=int, default=neighbors)
    parser.add_argument("--rank", type=int, default=rank)
    parser.add_argument("--base", default="", help="NAME=VALUE,… of the training")
    parser.add_argument("--seeds", type=int, default=5)


def prepare(args: argparse.Namespace) -> Problem:
    """Read, search and solve."""
    table = cx.data.load_features(args.data, target=args.target)
    x = table.features.astype(np.float32)
    context = cx.contexts.knn(x, num_neighbors=args.neighbors)
    operator = cx.association_operator(context)
    exact, _ = cx.svd(operator, args.rank, key=jax.random.key(0))
    return Problem(x, context, operator, exact)


class Setting(NamedTuple):
    """How an encoder is trained; 0 or "" is for what `learn` chooses.

    Attributes:
        loss: a name that `learn` takes; or "kise-squared" (penalty), "svme-pairs" (one
            draw of A) and "svme-plain" (one draw, Ψ by descent alone).
        ridge: of the whitening of "kise…" and "svme-…", relative to the mean variance.
        batch: rows of a step.
        width: of each hidden layer; 512 where a depth is given.
        depth: hidden layers; 2 where a width is given.
        output: width of the embedding.
        optimizer: "adam", "sgd" (with momentum) or "muon".
        rate: highest learning rate; 0.001 where an optimizer is given.
        steps: of training.
        skip: 0 for no skip connections.
    """

    loss: str = "kise"
    ridge: float = 0.1
    batch: int = 1024
    width: int = 0
    depth: int = 0
    output: int = 512
    optimizer: str = ""
    rate: float = 0.0
    steps: int = 300
    skip: int = 1


def parse_setting(text: str, base: Setting) -> Setting:
    """`name=value` pairs with commas between them, in place of those of `base`."""
    given = dict(pair.split("=") for pair in text.split(",") if pair)
    kinds = Setting.__annotations__
    return base._replace(**{name: kinds[name](value) for name, value in given.items()})


def learn(setting: Setting, seed: int, problem: Problem) -> cx.learning.Learned:
    """Train with a seed."""
    return cx.learning.learn(
        problem.context,
        problem.x,
        rank=len(problem.exact.singular_values),
        num_steps=setting.steps,
        batch_size=setting.batch,
        seed=seed,
        loss=make_loss(setting),
        encoder=make_encoder(setting),
        optimizer=make_optimizer(setting),
        op=problem.operator,
        logging=cx.training.Logging(progress=False),
    )


def make_loss(setting: Setting) -> Any:
    losses, whiten = cx.losses, cx.losses.Whiten(setting.ridge)
    make = {
        "kise": (losses.kise_pairs, {"constraint": whiten}, "views"),
        "kise-squared": (losses.kise_pairs, {"constraint": "squared"}, "views"),
        "svme-pairs": (losses.svme, {"constraint": whiten, "solved": True}, "towers"),
        "svme-plain": (losses.svme, {"constraint": whiten}, "towers"),
    }
    if setting.loss not in make:
        return setting.loss
    loss, given, sees = make[setting.loss]
    return cx.learning.Objective(functools.partial(loss, **given), sees)


def make_encoder(setting: Setting) -> Any:
    hidden: dict[str, Any] = {}
    if setting.width or setting.depth:
        hidden["hidden"] = (setting.width or 512,) * (setting.depth or 2)
    if setting.skip:
        return cx.learning.Encoder(output=setting.output, **hidden)

    def without_skips(inputs: Any, output: int, rngs: nnx.Rngs) -> Any:
        del output
        config = cx.models.MLPConfig(
            in_features=inputs.shape[1],
            out_features=setting.output,
            activation="tanh",
            skip=False,
            **hidden,
        )
        return cx.models.functional(cx.models.MLP(config, rngs=rngs))

    return without_skips


def make_optimizer(setting: Setting) -> Any:
    if not (setting.rate or setting.optimizer):
        return None
    rate = cx.training.warmup_cosine(setting.rate or 1e-3, setting.steps)
    return {
        "": lambda: optax.adamw(rate, weight_decay=1e-5),
        "adam": lambda: optax.adam(rate),
        "sgd": lambda: optax.sgd(rate, momentum=0.9),
        "muon": lambda: optax.contrib.muon(rate),
    }[setting.optimizer]()
