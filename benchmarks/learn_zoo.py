"""What each objective recovers of contexts whose functions are known, at one budget.

Samples are drawn anew in every step; nothing of the exact law is used in training. An
encoder is a multilayer perceptron of one size for all; its functions are brought in
order by Rayleigh–Ritz on the exact operator, and compared with the exact singular
functions, cluster by cluster: the mean squared cosine of the principal angles, and the
relative error of the singular values, of all clusters with s above `--least`. SVME and
joint nesting embed X and A and learn the left functions; KISE (from pairs) and the
spectral contrastive loss embed A alone and learn the right ones.

    python benchmarks/learn_zoo.py --json FILE
"""

import argparse
import functools
import statistics
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

zoo = cx.contexts.zoo
LEAST_COSINE, MOST_ERROR, MOST_SECONDS = 0.99, 0.02, 180.0
OBJECTIVES: dict[str, tuple[bool, Callable[..., Any]]] = {
    # Whether it embeds X and A, and the loss.
    "svme": (True, cx.losses.svme),
    "joint_nesting": (True, cx.losses.joint_nesting),
    "kise_pairs": (False, cx.losses.kise_pairs),
    "spectral_contrastive": (
        False,
        functools.partial(cx.losses.spectral_contrastive, unbiased=True),
    ),
}
NUM_STATES = 2**17
SMOKE = {
    "seeds": 1,
    "steps": 5,
    "batch": 64,
    "hidden": [16],
    "families": ["Gaussian, 1-d"],
    "objectives": ["svme"],
}


class Family(NamedTuple):
    """A context, how to draw X, and what encoders see of X and A."""

    context: Any
    draw_x: Callable[[Any, int], Any]
    see_x: Callable[[Any], Any]
    see_a: Callable[[Any], Any]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 256])
    parser.add_argument("--rate", type=float, default=2e-3, help="highest, of Adam")
    parser.add_argument("--least", type=float, default=0.2, help="value of a cluster")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES))
    args = parse(parser, SMOKE)
    report = Report("learn_zoo", args)
    for family in args.families:
        rows = [run(args, family, objective) for objective in args.objectives]
        report.add_case(f"{family}, {args.steps} steps of {args.batch}", rows)
        for row in rows:
            name, found = row["name"], row["accuracy"]
            for what, measured, bound in (
                ("1 − squared cosine", found["1 − squared cosine"], 1 - LEAST_COSINE),
                ("error of values", found["error of values"], MOST_ERROR),
                ("seconds", row["seconds_median"], MOST_SECONDS),
            ):
                report.add_goal(f"{family}: {what}, worst seed", measured, bound, name)
    report.write()


def run(args: argparse.Namespace, family: str, objective: str) -> dict[str, Any]:
    """Train with each seed; the worst figures over seeds."""
    seconds, cosines, errors = [], [], []
    problem = prepare(FAMILIES[family](), args.least, OBJECTIVES[objective][0])
    for seed in range(args.seeds):
        start = time.perf_counter()
        with cx.single_threaded_lapack():
            found = train(args, problem, objective, seed)
        seconds.append(time.perf_counter() - start)
        cosines.append(found[0])
        errors.append(found[1])
    return {
        "name": objective,
        "kind": "ours",
        "settings": f"{len(problem.values)} functions, output {problem.output}",
        "first_call_seconds": seconds[0],
        "seconds": seconds,
        "seconds_median": statistics.median(seconds),
        "peak_megabytes": None,
        "accuracy": {
            "1 − squared cosine": 1 - min(cosines),
            "1 − squared cosine, median": 1 - statistics.median(cosines),
            "error of values": max(errors),
            "error of values, median": statistics.median(errors),
        },
    }


class Problem(NamedTuple):
    """The truth about one family, and the points to evaluate at."""

    family: Family
    operator: Any
    points: Any
    values: np.ndarray
    functions: np.ndarray
    bounds: list[tuple[int, int]]
    output: int


def prepare(family: Family, least: float, by_x: bool) -> Problem:
    context = family.context
    table = np.asarray(context.table())
    k = int((np.asarray(context.spectrum(context.num_resolved())) > least).sum())
    values = np.asarray(context.spectrum(k))
    functions = context.left_functions(k) if by_x else context.right_functions(k)
    see = family.see_x if by_x else family.see_a
    points = context.inputs() if by_x else context.context_values()
    operator = cx.association_operator(cx.contexts.joint(table if by_x else table.T))
    bounds = cx.evaluation.clusters(values, gap=1e-3)
    return Problem(
        family,
        operator,
        see(points),
        values,
        np.asarray(functions),
        bounds,
        max(16, -(-5 * k // (4 * 16)) * 16),
    )


def train(
    args: argparse.Namespace, problem: Problem, objective: str, seed: int
) -> tuple[float, float]:
    """The least squared cosine and the largest error over clusters."""
    family, (by_x, loss) = problem.family, OBJECTIVES[objective]
    # Nesting orders its outputs: each is a function.
    output = len(problem.values) if objective == "joint_nesting" else problem.output
    rngs = nnx.Rngs(seed)
    keys = jax.random.split(jax.random.key(0), 2)
    x = family.draw_x(keys[0], 2)
    examples = {"a": family.see_a(family.context.sample(keys[1], x))}
    if by_x:
        examples["x"] = family.see_x(x)
    towers = {
        name: cx.models.functional(
            cx.models.MLP(
                cx.models.MLPConfig(
                    in_features=example.shape[1],
                    hidden=tuple(args.hidden),
                    out_features=output,
                    activation="gelu",
                ),
                rngs=rngs,
            )
        )
        for name, example in examples.items()
    }
    applies = {name: tower[1] for name, tower in towers.items()}

    def encode(params: Any, batch: Any, key: Any) -> Any:
        first, second, third = jax.random.split(key, 3)
        x = family.draw_x(first, batch.shape[0])
        a = family.see_a(family.context.sample(second, x))
        psi = applies["a"](params["a"], a)
        if by_x:
            return applies["x"](params["x"], family.see_x(x)), psi
        other = family.see_a(family.context.sample(third, x))
        return psi, applies["a"](params["a"], other)

    schedule = cx.training.warmup_cosine(args.rate, args.steps)
    optimizer = optax.adam(schedule)
    step = cx.training.compile_step(
        cx.training.make_step(encode, cx.training.from_loss(loss), optimizer)
    )
    params = {name: tower[0] for name, tower in towers.items()}
    state = step.place_state(cx.training.init_state(params, optimizer))
    batch = step.place_batch(np.zeros(args.batch, np.float32))
    key = step.place_state(jax.random.key(seed))
    for number in range(args.steps):
        state, metrics = step(state, batch, key)
        if number % 20 == 0:
            jax.block_until_ready(metrics)
    side = "x" if by_x else "a"
    phi = jax.jit(applies[side])(state.params[side], problem.points)
    k = len(problem.values)
    found = cx.evaluation.rayleigh_ritz(phi, problem.operator, rank=min(k, output))
    law = problem.operator.p_x
    cosines = cx.evaluation.cluster_cosines(
        found.left, problem.functions.astype(np.float32), problem.bounds, law
    )
    learned = np.asarray(found.singular_values)
    return min(cosines), float(np.abs(learned / problem.values - 1).max())


def one_gaussian() -> Family:
    return Family(
        zoo.gaussian(0.8),
        lambda key, size: jax.random.normal(key, (size,)),
        lambda x: jnp.asarray(x)[:, None],
        lambda a: jnp.asarray(a)[:, None],
    )


def two_gaussians() -> Family:
    return Family(
        zoo.multivariate_gaussian([0.8, 0.8], num_points=40),
        lambda key, size: jax.random.normal(key, (size, 2)),
        jnp.asarray,
        jnp.asarray,
    )


def erasure_cube() -> Family:
    return Family(
        zoo.product_erasure([[0.5, 0.5]] * 8, [0.5] * 8),
        lambda key, size: jax.random.randint(key, (size, 8), 0, 2),
        lambda x: 2.0 * jnp.asarray(x, jnp.float32) - 1.0,
        lambda a: jax.nn.one_hot(jnp.asarray(a), 3).reshape(len(a), -1),
    )


def von_mises_circle() -> Family:
    def waves(angle: Any) -> Any:
        angle = jnp.asarray(angle)
        return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)

    return Family(
        zoo.von_mises_fisher(2, 2.0),
        lambda key, size: 2 * jnp.pi * jax.random.uniform(key, (size,)),
        waves,
        waves,
    )


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
        waves,
    )


FAMILIES = {
    "Gaussian, 1-d": one_gaussian,
    "Gaussian, 2-d": two_gaussians,
    "erasure cube": erasure_cube,
    "von Mises circle": von_mises_circle,
    "logistic map": logistic_map,
}


if __name__ == "__main__":
    main()
