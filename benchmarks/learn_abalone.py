"""What makes an encoder learn a k-NN context: the constraint, and how the pairs enter.

A table of features (or a built-in set) with its 30 nearest neighbours; an over-wide
perceptron with skip connections; minibatches; Rayleigh–Ritz on the exact operator. Each
variant is a loss with the ridge of its whitening, relative to the mean variance. KISE
embeds two neighbours of a row by one encoder, SVME and VAMP-2 embed a row and a
neighbour by two. Figures are those of the worst seed.

    python benchmarks/learn_abalone.py --data TABLE.csv --json FILE
"""

import argparse
import functools
import statistics
import time
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

import contexture_jax as cx
from _common import Report, make_parser, parse
from contexture_jax.cli._data import load_features

LEAST_RATIO, LEAST_CCA = 0.985, 0.90
VARIANTS = ("kise:0.1", "kise:1e-6", "svme:0.1", "vamp:0.1")
SMOKE = {
    "steps": 4,
    "batch": 64,
    "hidden": [16],
    "output": 16,
    "rank": 4,
    "seeds": 1,
    "variants": ["kise:0.1", "svme:0.1"],
}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data", default="wine", help="a .csv or a built-in set")
    parser.add_argument("--target", default="target", help="column to leave out")
    parser.add_argument("--neighbors", type=int, default=30)
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--output", type=int, default=512)
    parser.add_argument("--hidden", type=int, nargs="+", default=[512, 512])
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--variants", nargs="+", default=VARIANTS, help="LOSS:RIDGE, several"
    )
    args = parse(parser, SMOKE)
    report = Report("learn_abalone", args)
    table = load_features(args.data, target=args.target)
    x = table.features.astype(np.float32)
    context = cx.contexts.knn(x, num_neighbors=args.neighbors)
    operator = cx.association_operator(context)
    with cx.single_threaded_lapack():
        exact, _ = cx.svd(operator, args.rank, key=jax.random.key(0))
        rows = [run(args, name, x, context, operator, exact) for name in args.variants]
    title = f"{len(x)} rows, K = {args.neighbors}, rank {args.rank}, {args.steps} steps"
    report.add_case(f"{title} of {args.batch}", rows)
    for row in rows:
        found, name = row["accuracy"], row["name"]
        gap, lack = 1 - LEAST_RATIO, 1 - LEAST_CCA
        report.add_goal("1 − ratio trace", found["1 − ratio trace"], gap, name)
        report.add_goal("1 − CCA", found["1 − CCA"], lack, name)
    report.write()


def run(
    args: argparse.Namespace,
    variant: str,
    x: np.ndarray,
    context: Any,
    operator: Any,
    exact: Any,
) -> dict[str, Any]:
    """Train with each seed; the worst figures."""
    seconds, figures = [], []
    for seed in range(args.seeds):
        start = time.perf_counter()
        left, values = train(args, variant, seed, x, context, operator)
        seconds.append(time.perf_counter() - start)
        s = np.asarray(exact.singular_values)
        figures.append(
            {
                "1 − ratio trace": 1 - float((values**2).sum() / (s**2).sum()),
                "1 − CCA": 1 - float(cx.evaluation.cca(left, exact.left)),
                "1 − mutual 10-NN": 1
                - float(cx.evaluation.mutual_knn(left, exact.left, whiten=True)),
                "mean error of s²": float(np.abs(values**2 - s**2).mean()),
            }
        )
    return {
        "name": variant,
        "kind": "ours",
        "settings": f"output {args.output}, {args.seeds} seeds",
        "first_call_seconds": seconds[0],
        "seconds": seconds,
        "seconds_median": statistics.median(seconds),
        "peak_megabytes": None,
        "accuracy": {key: max(f[key] for f in figures) for key in figures[0]},
    }


def train(
    args: argparse.Namespace,
    variant: str,
    seed: int,
    x: np.ndarray,
    context: Any,
    operator: Any,
) -> tuple[jax.Array, np.ndarray]:
    """The learned left functions and their values."""
    name, _, ridge = variant.partition(":")
    two_views = name == "kise"
    loss = make_loss(name, float(ridge))
    config = cx.models.MLPConfig(
        in_features=x.shape[1],
        hidden=tuple(args.hidden),
        out_features=args.output,
        activation="tanh",
    )
    rngs = nnx.Rngs(seed)
    towers = [
        cx.models.functional(cx.models.MLP(config, rngs=rngs))
        for _ in range(1 if two_views else 2)
    ]
    apply = towers[0][1]

    def encode(params: Any, batch: Any, key: Any) -> Any:
        del key
        first, second = batch
        return apply(params[0], first), apply(params[-1], second)

    optimizer = optax.adamw(
        cx.training.warmup_cosine(args.rate, args.steps), weight_decay=1e-5
    )
    step = cx.training.compile_step(
        cx.training.make_step(encode, cx.training.from_loss(loss), optimizer)
    )
    params = tuple(tower[0] for tower in towers)
    state = step.place_state(cx.training.init_state(params, optimizer))
    key = step.place_state(jax.random.key(seed))
    rows = cx.training.batches(np.arange(len(x)), args.batch, seed=seed)
    near = np.asarray(context.indices)
    for number in range(args.steps):
        rng = np.random.default_rng((seed, number))
        chosen = rows.at(number)
        slots = rng.integers(near.shape[1], size=(2, len(chosen)))
        views = [x[near[chosen, slot]] for slot in slots]
        pair = tuple(views) if two_views else (x[chosen], views[0])
        state, _ = step(state, step.place_batch(pair), key)
    phi = jax.jit(apply)(state.params[0], x)
    if two_views:  # the average encoder Φ = T Ψ
        phi = operator.matmat(phi)
    found = cx.evaluation.rayleigh_ritz(phi, operator, rank=args.rank)
    return found.left, np.asarray(found.singular_values)


def make_loss(name: str, ridge: float) -> Any:
    whiten = cx.losses.Whiten(ridge)
    losses = {
        "kise": functools.partial(cx.losses.kise_pairs, constraint=whiten),
        "svme": functools.partial(cx.losses.svme, constraint=whiten),
        "vamp": functools.partial(cx.losses.vamp, ridge=ridge),
        "lora": cx.losses.lora_svd,
    }
    return losses[name]


if __name__ == "__main__":
    main()
