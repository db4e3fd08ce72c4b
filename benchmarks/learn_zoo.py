"""What each objective recovers of contexts whose functions are known, at one budget.

Of a family all objectives have the same number of steps, batch and encoder; the highest
learning rate is the objective's, and the ridge that of the family (both in the title).
Samples are drawn anew in every step; nothing of the exact law is used in training. An
encoder is a multilayer perceptron; its functions are brought in
order by Rayleigh–Ritz on the exact operator, and compared with the exact singular
functions, cluster by cluster: the mean squared cosine of the principal angles, and the
relative error of the singular values, of all clusters with s above `--least`. SVME and
joint nesting embed X by Φ and A by Ψ. KISE (from pairs) and the spectral contrastive
loss embed two contexts of one X by one encoder Ψ. What is judged is the average encoder
T Ψ, and beside it Φ itself (for one encoder T Ψ is Φ).

    python benchmarks/learn_zoo.py --json FILE
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import contexture_jax as cx
from _common import Report, make_parser, parse

zoo = cx.zoo
LEAST_COSINE, MOST_ERROR, MOST_SECONDS = 0.99, 0.02, 180.0
# Highest learning rate of Adam.
RATES = {
    "svme": 2e-3,
    "joint_nesting": 2e-3,
    "kise_pairs": 1e-3,
    "spectral_contrastive": 2e-3,
}
OBJECTIVES = tuple(RATES)
NUM_STATES = 2**17
NUM_WAVES, FREQUENCY = 64, 1.5  # that encoders see of normal coordinates
SMOKE = {
    "seeds": 1,
    "steps": 5,
    "batch": 64,
    "width": 16,
    "output": 16,
    "families": ["Gaussian, 1-d"],
    "objectives": ["svme"],
}


class Budget(NamedTuple):
    """What every objective may spend on a family."""

    steps: int
    batch: int
    width: int
    output: int
    svme_ridge: float = 1.0
    kise_ridge: float = 1.0


class Family(NamedTuple):
    """A context, how to draw X, what encoders see of X and A, and the exact μ."""

    context: Any
    draw_x: Callable[[Any, int], Any]
    see: Callable[[Any], Any]
    functions: Callable[[int], Any]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="else the family's budget")
    parser.add_argument("--batch", type=int, help="likewise")
    parser.add_argument("--width", type=int, help="likewise, of two hidden layers")
    parser.add_argument("--output", type=int, help="likewise, of the embedding")
    parser.add_argument("--svme-ridge", type=float, help="likewise, of its whitening")
    parser.add_argument("--kise-ridge", type=float, help="likewise")
    parser.add_argument("--least", type=float, default=0.2, help="value of a cluster")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES))
    args = parse(parser, SMOKE)
    report = Report("learn_zoo", args)
    for family in args.families:
        budget = budget_of(args, family)
        rows = [run(args, family, budget, which) for which in args.objectives]
        described = ", ".join(f"{k} {v}" for k, v in budget._asdict().items())
        report.add_case(f"{family}; {described}", rows)
        for row in rows:
            name, found = row["name"], row["accuracy"]
            for what, measured, bound in (
                ("1 − squared cosine", found["1 − squared cosine"], 1 - LEAST_COSINE),
                ("error of values", found["error of values"], MOST_ERROR),
                ("seconds", max(row["seconds"]), MOST_SECONDS),
            ):
                report.add_goal(f"{family}: {what}, worst seed", measured, bound, name)
        if args.json:  # what is done is kept
            report.write()
    if not args.json:
        report.write()


def budget_of(args: argparse.Namespace, family: str) -> Budget:
    given = {name: getattr(args, name) for name in Budget._fields}
    changes = {name: value for name, value in given.items() if value is not None}
    return BUDGETS.get(family, EASY)._replace(**changes)


def run(
    args: argparse.Namespace, family: str, budget: Budget, objective: str
) -> dict[str, Any]:
    """Train with each seed; the worst figures over seeds."""
    seconds, runs = [], []
    problem = prepare(FAMILIES[family](), args.least)
    for seed in range(args.seeds):
        start = time.perf_counter()
        with cx.single_threaded_lapack():
            found = train(problem, budget, objective, seed)
        seconds.append(time.perf_counter() - start)
        print(family, objective, seed, *found, seconds[-1], file=sys.stderr)
        runs.append(found)
    cosines, errors, own_cosines, own_errors = zip(*runs, strict=True)
    return {
        "name": objective,
        "kind": "ours",
        "settings": f"{len(problem.values)} functions, {args.seeds} seeds",
        "first_call_seconds": seconds[0],
        "seconds": seconds,
        "seconds_median": statistics.median(seconds),
        "peak_megabytes": None,
        "accuracy": {
            "1 − squared cosine": 1 - min(cosines),
            "1 − squared cosine, median": 1 - statistics.median(cosines),
            "error of values": max(errors),
            "error of values, median": statistics.median(errors),
            "1 − squared cosine of Φ": 1 - min(own_cosines),
            "error of values of Φ": max(own_errors),
        },
    }


class Problem(NamedTuple):
    """The truth about one family."""

    family: Family
    operator: Any
    values: np.ndarray
    functions: np.ndarray
    bounds: list[tuple[int, int]]


def prepare(family: Family, least: float) -> Problem:
    context = family.context
    k = int((np.asarray(context.spectrum(context.num_resolved())) > least).sum())
    values = np.asarray(context.spectrum(k))
    return Problem(
        family,
        cx.association_operator(cx.contexts.joint(np.asarray(context.table()))),
        values,
        np.asarray(family.functions(k)),
        cx.evaluation.clusters(values, gap=1e-3),
    )


def make_loss(objective: str, budget: Budget) -> cx.learning.Objective:
    losses, partial = cx.losses, functools.partial
    loss, sees = {
        "svme": (
            partial(losses.svme, constraint=losses.Whiten(budget.svme_ridge)),
            "towers",
        ),
        "joint_nesting": (losses.joint_nesting, "towers"),
        "kise_pairs": (
            partial(losses.kise_pairs, constraint=losses.Whiten(budget.kise_ridge)),
            "views",
        ),
        "spectral_contrastive": (
            partial(losses.spectral_contrastive, unbiased=True),
            "views",
        ),
    }[objective]
    return cx.learning.Objective(loss, sees)


def train(
    problem: Problem, budget: Budget, objective: str, seed: int
) -> tuple[float, float, float, float]:
    """The least squared cosine and largest error, of T Ψ and then of Φ."""
    family = problem.family

    def encoder(inputs: Any, output: int, rngs: nnx.Rngs) -> Any:
        del output
        config = cx.models.MLPConfig(
            in_features=family.see(inputs[:2]).shape[1],
            hidden=(budget.width,) * 2,
            out_features=budget.output,
        )
        params, apply = cx.models.functional(cx.models.MLP(config, rngs=rngs))
        return params, lambda params, inputs: apply(params, family.see(inputs))

    learned = cx.learning.learn(
        family.context,
        family.draw_x,
        rank=len(problem.values),
        num_steps=budget.steps,
        batch_size=budget.batch,
        seed=seed,
        loss=make_loss(objective, budget),
        encoder=encoder,
        optimizer=optax.adam(cx.training.warmup_cosine(RATES[objective], budget.steps)),
        op=problem.operator,
        logging=cx.training.Logging(progress=False),
    )
    found = judge(problem, learned.ritz["psi"])
    if "phi" in learned.ritz:
        return *found, *judge(problem, learned.ritz["phi"])
    return *found, *found


def judge(problem: Problem, found: Any) -> tuple[float, float]:
    """The least squared cosine and the largest error of a value."""
    cosines = cx.evaluation.cluster_cosines(
        found.left,
        problem.functions.astype(np.float32),
        problem.bounds,
        problem.operator.p_x,
    )
    learned = np.asarray(found.singular_values)
    return min(cosines), float(np.abs(learned / problem.values - 1).max())


def fourier_features(x: Any) -> Any:
    """Random waves (Rahimi and Recht 2007): perceptrons alone are slow to bend."""
    x = jnp.asarray(x).reshape(len(x), -1)
    normal = np.random.default_rng(0).normal(size=(x.shape[1], NUM_WAVES))
    waves = x @ jnp.asarray(FREQUENCY * normal, x.dtype)
    return jnp.concatenate([x, jnp.sin(waves), jnp.cos(waves)], axis=1)


def one_gaussian() -> Family:
    context = zoo.gaussian(0.8)
    return Family(
        context,
        lambda key, size: jax.random.normal(key, (size,)),
        fourier_features,
        context.left_functions,
    )


def two_gaussians() -> Family:
    context = zoo.multivariate_gaussian([0.8, 0.8], num_points=48)
    return Family(
        context,
        lambda key, size: jax.random.normal(key, (size, 2)),
        fourier_features,
        context.left_functions,
    )


def erasure_cube() -> Family:
    context = zoo.product_erasure([[0.5, 0.5]] * 8, [0.5] * 8)
    return Family(
        context,
        lambda key, size: jax.random.randint(key, (size, 8), 0, 2),
        # A is 0, 1 or erased.
        lambda x: jax.nn.one_hot(jnp.asarray(x), 3).reshape(len(x), -1),
        context.left_functions,
    )


def von_mises_circle() -> Family:
    def draw(key: Any, size: int) -> Any:
        normal = jax.random.normal(key, (size, 2))
        return normal / jnp.linalg.norm(normal, axis=1, keepdims=True)

    context = zoo.von_mises_fisher(2, 2.0)

    def waves(k: int) -> np.ndarray:
        x, y = np.asarray(context.inputs()).T
        angles = np.arctan2(y, x)[:, None] * np.arange(1, k // 2 + 1)
        both = np.stack([np.cos(angles), np.sin(angles)], axis=2)
        return np.sqrt(2) * both.reshape(len(x), -1)

    return Family(context, draw, jnp.asarray, waves)


def logistic_map() -> Family:
    context = zoo.logistic_map(5)
    # Its stationary law, by running many chains for a while.
    states = jax.random.uniform(jax.random.key(7), (NUM_STATES,))
    sample = jax.jit(context.sample)
    for number in range(50):
        states = sample(jax.random.key(number), states)

    def waves(x: Any) -> Any:
        return 2.0 * jnp.asarray(x)[:, None] - 1.0

    return Family(
        context,
        lambda key, size: states[jax.random.randint(key, (size,), 0, NUM_STATES)],
        waves,
        lambda k: exact_functions(context, k),
    )


def exact_functions(context: Any, k: int) -> np.ndarray:
    """Of a context without formulas for them."""
    operator = cx.association_operator(cx.contexts.joint(np.asarray(context.table())))
    return np.asarray(
        cx.svd(operator, k, key=jax.random.key(0), method="exact")[0].left
    )


EASY = Budget(800, 2048, 128, 64)
# Those with many functions to learn.
BUDGETS = {
    "Gaussian, 2-d": Budget(500, 4096, 256, 256, svme_ridge=0.1),
    "erasure cube": Budget(600, 2048, 256, 256, kise_ridge=0.1),
}
FAMILIES = {
    "Gaussian, 1-d": one_gaussian,
    "Gaussian, 2-d": two_gaussians,
    "erasure cube": erasure_cube,
    "von Mises circle": von_mises_circle,
    "logistic map": logistic_map,
}


if __name__ == "__main__":
    main()
