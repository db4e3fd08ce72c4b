"""An encoder that learns a k-NN context from its neighbours, for benchmarks."""

import argparse
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

import contexture_jax as cx
from contexture_jax.data._features import load_features

__all__ = [
    "Problem",
    "Setting",
    "add_arguments",
    "parse_setting",
    "prepare",
    "train_encoder",
]


class Problem(NamedTuple):
    """A table, its k-NN context, and the truth about it.

    Attributes:
        x: the features, shape (n, d), float32.
        neighbors: by number, shape (n, K).
        operator: of the context.
        exact: its leading singular functions.
    """

    x: np.ndarray
    neighbors: np.ndarray
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
    table = load_features(args.data, target=args.target)
    x = table.features.astype(np.float32)
    context = cx.contexts.knn(x, num_neighbors=args.neighbors)
    operator = cx.association_operator(context)
    exact, _ = cx.svd(operator, args.rank, key=jax.random.key(0))
    return Problem(x, np.asarray(context.indices), operator, exact)


class Setting(NamedTuple):
    """How an encoder is trained.

    Attributes:
        loss: "kise", "kise-squared" (penalty), "kise-none" (low rank) or "vicreg",
            which embed two neighbours of a row by one encoder Ψ; "svme", "svme-plain"
            (Ψ by descent alone), "vamp" or "lora", which embed a row and a neighbour by
            Φ and Ψ; or "svme-views", a row and two neighbours.
        ridge: of the whitening, relative to the mean variance.
        batch: rows of a step.
        width: of each hidden layer.
        depth: hidden layers.
        output: width of the embedding.
        optimizer: "adamw", "adam", "sgd" (with momentum) or "muon".
        rate: highest learning rate.
        steps: of training.
        skip: 1 for skip connections.
    """

    loss: str = "kise"
    ridge: float = 0.1
    batch: int = 1024
    width: int = 512
    depth: int = 2
    output: int = 512
    optimizer: str = "adamw"
    rate: float = 1e-3
    steps: int = 300
    skip: int = 1

    @property
    def two_views(self) -> bool:
        """Whether there is one encoder, of two neighbours."""
        return self.loss in ("kise", "kise-squared", "kise-none", "vicreg")


def parse_setting(text: str, base: Setting) -> Setting:
    """`name=value` pairs with commas between them, in place of those of `base`."""
    given = dict(pair.split("=") for pair in text.split(",") if pair)
    kinds = Setting.__annotations__
    return base._replace(**{name: kinds[name](value) for name, value in given.items()})


def train_encoder(
    setting: Setting, seed: int, x: np.ndarray, neighbors: np.ndarray
) -> tuple[Any, Callable[[Any, Any], Any]]:
    """Parameters of Ψ for two views of a row, else of Φ and Ψ; the function of both."""
    config = cx.models.MLPConfig(
        in_features=x.shape[1],
        hidden=(setting.width,) * setting.depth,
        out_features=setting.output,
        activation="tanh",
        skip=bool(setting.skip),
    )
    rngs = nnx.Rngs(seed)
    towers = [
        cx.models.functional(cx.models.MLP(config, rngs=rngs))
        for _ in range(1 if setting.two_views else 2)
    ]
    apply = towers[0][1]

    def encode(params: Any, batch: Any, key: Any) -> Any:
        del key
        first, *others = batch
        return apply(params[0], first), *(apply(params[-1], a) for a in others)

    optimizer = make_optimizer(setting)
    objective = cx.training.from_loss(make_loss(setting))
    step = cx.training.compile_step(cx.training.make_step(encode, objective, optimizer))
    params = tuple(tower[0] for tower in towers)
    state = step.place_state(cx.training.init_state(params, optimizer))
    key = step.place_state(jax.random.key(seed))
    batches = cx.training.batches(np.arange(len(x)), setting.batch, seed=seed)
    for number in range(setting.steps):
        rng = np.random.default_rng((seed, number))
        rows = batches.at(number)
        slots = rng.integers(neighbors.shape[1], size=(2, len(rows)))
        views = [x[neighbors[rows, slot]] for slot in slots]
        if setting.loss == "svme-views":
            views = [x[rows], *views]
        elif not setting.two_views:
            views = [x[rows], views[0]]
        state, _ = step(state, step.place_batch(tuple(views)), key)
    return state.params, jax.jit(apply)


def make_loss(setting: Setting) -> Callable[..., Any]:
    losses, whiten = cx.losses, cx.losses.Whiten(setting.ridge)
    return {
        "kise": functools.partial(losses.kise_pairs, constraint=whiten),
        "kise-squared": functools.partial(losses.kise_pairs, constraint="squared"),
        "kise-none": losses.lora_evd,
        "vicreg": losses.vicreg,
        "svme": functools.partial(losses.svme, constraint=whiten, solved=True),
        "svme-plain": functools.partial(losses.svme, constraint=whiten),
        "svme-views": functools.partial(losses.svme_views, ridge=setting.ridge),
        "vamp": functools.partial(losses.vamp, ridge=setting.ridge),
        "lora": losses.lora_svd,
    }[setting.loss]


def make_optimizer(setting: Setting) -> Any:
    rate = cx.training.warmup_cosine(setting.rate, setting.steps)
    return {
        "adamw": lambda: optax.adamw(rate, weight_decay=1e-5),
        "adam": lambda: optax.adam(rate),
        "sgd": lambda: optax.sgd(rate, momentum=0.9),
        "muon": lambda: optax.contrib.muon(rate),
    }[setting.optimizer]()
