"""Does reweighting help under a shift? Where a model fits every row, no; else yes.

Least squares by gradient descent from 0, with weights of the rows or without, judged on
rows of another law by the mean and by the worst of two groups. (a) 400 features of 60
rows: every weighting ends at the interpolator of least norm. (b) A line for a curve:
the best line under the test law is another, and weights find it. (c) The same line for
two groups, one of a twentieth of the rows.

    python benchmarks/shift.py --json FILE
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import contexture_jax as cx
from _common import Report, make_parser, parse

SMOKE = {"steps": 200, "test_rows": 200, "replicates": 20}
PLAIN = "mean"


class Problem(NamedTuple):
    """Rows of the training law, and of the one that counts."""

    x: Any
    y: Any
    groups: Any
    ratios: Any  # dQ / dP at the training rows
    x_test: Any
    y_test: Any
    groups_test: Any


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--test-rows", type=int, default=4000)
    parser.add_argument("--replicates", type=int, default=500, help="of the bootstrap")
    args = parse(parser, SMOKE)
    report = Report("shift", args)
    problems = {
        "interpolating: 400 features, 60 rows": interpolating,
        "a line for a curve": line,
        "a line for two groups": two_groups,
    }
    for title, make in problems.items():
        problem = make(np.random.default_rng(args.seed), args.test_rows)
        rows = [judged(args, problem, name) for name in REDUCTIONS]
        plain = rows[0]["predictions"]
        for row in rows:
            gap = np.abs(row.pop("predictions") - plain).max() / np.abs(plain).max()
            row["accuracy"]["change of predictions"] = float(gap)
        report.add_case(title, rows)
        claims(report, title, rows, args.smoke)
    report.write()


def claims(
    report: Report, title: str, rows: list[dict[str, Any]], is_smoke: bool
) -> None:
    """What the theory says, as goals; of a run that has not converged nothing."""
    found = {row["name"]: row["accuracy"] for row in rows}
    risk = {name: accuracy["test risk"] for name, accuracy in found.items()}
    worst = {name: accuracy["worst group"] for name, accuracy in found.items()}
    if is_smoke:
        return
    if title.startswith("interpolating"):
        moved = max(accuracy["change of predictions"] for accuracy in found.values())
        report.add_goal("interpolating: weights change predictions by", moved, 1e-3)
    elif title.endswith("curve"):
        ratio = risk["importance"] / risk[PLAIN]
        report.add_goal("a line: test risk, weighted over plain", ratio, 0.5)
    else:
        ratio = worst["group DRO"] / worst[PLAIN]
        report.add_goal("two groups: worst group, DRO over plain", ratio, 0.5)


def judged(args: argparse.Namespace, problem: Problem, name: str) -> dict[str, Any]:
    """A model fitted with one reduction, and its risks under the test law."""
    start = time.perf_counter()
    coefficients = fit(problem, REDUCTIONS[name], args.steps)
    seconds = time.perf_counter() - start
    predictions = problem.x_test @ np.asarray(coefficients)
    errors = cx.losses.squared_errors(predictions, problem.y_test)
    risks: Any = cx.evaluation.shifted_risks(
        errors,
        key=jax.random.key(args.seed),
        alphas=[0.1],
        radii=[1.0],
        groups=problem.groups_test,
        num_replicates=args.replicates,
    )
    training = np.square(problem.x @ np.asarray(coefficients) - problem.y).mean()
    accuracy = {
        "training risk": training,
        "test risk": risks.mean.estimate,
        "lower": risks.mean.lower,
        "upper": risks.mean.upper,
        "CVaR 0.1": risks.cvar.estimate[0],
        "χ² risk 1": risks.chi_squared.estimate[0],
        "worst group": risks.worst_group.estimate,
    }
    return {
        "name": name,
        "kind": "ours",
        "settings": f"{args.steps} steps",
        "first_call_seconds": seconds,
        "seconds": [seconds],
        "seconds_median": seconds,
        "peak_megabytes": None,
        "accuracy": {key: float(value) for key, value in accuracy.items()},
        "predictions": predictions,
    }


def fit(problem: Problem, reduction: Callable[..., Any], steps: int) -> Any:
    """Gradient descent from 0, at 1 / 20 of what the largest curvature allows.

    Weights can make a row count 20 times.
    """
    x, y = jnp.asarray(problem.x), jnp.asarray(problem.y)
    rate = 0.05 / float(np.linalg.norm(problem.x, 2) ** 2 / len(problem.x))

    def risk(beta: Any, q: Any) -> Any:
        errors = cx.losses.squared_errors(jnp.matmul(x, beta, precision="highest"), y)
        return reduction(errors, problem, q)

    def step(state: Any, _: Any) -> Any:
        beta, q = state
        slope, q = jax.grad(risk, has_aux=True)(beta, q)
        return (beta - rate * slope, q), None

    first = jnp.zeros((x.shape[1], 1), x.dtype), jnp.full(2, 0.5, x.dtype)
    return jax.jit(lambda s: jax.lax.scan(step, s, None, length=steps)[0][0])(first)


def by_group(errors: Any, problem: Problem, q: Any) -> Any:
    return cx.losses.group_dro(errors, problem.groups, q, rate=0.01)


def stateless(loss: Callable[..., Any]) -> Callable[..., Any]:
    return lambda errors, problem, q: (loss(errors, problem), q)


REDUCTIONS = {
    PLAIN: stateless(lambda errors, _: jnp.mean(errors)),
    "importance": stateless(
        lambda errors, problem: cx.losses.importance_weighted(errors, problem.ratios)
    ),
    "CVaR 0.2": stateless(lambda errors, _: cx.losses.cvar(errors, 0.2)),
    "χ² ball 1": stateless(lambda errors, _: cx.losses.chi_squared_dro(errors, 1.0)),
    "group DRO": by_group,
}


def tilt(x: Any) -> Any:
    """Q over P for x of a standard normal law, and Q one of mean 1."""
    return np.exp(x - 0.5)


def interpolating(rng: np.random.Generator, num_test: int) -> Problem:
    """More features than rows, and noise: the shift is of the first feature."""
    direction = rng.normal(size=400) / 20

    def draw(num: int, mean: float) -> tuple[Any, Any]:
        x = rng.normal(size=(num, 400))
        x[:, 0] += mean
        return x, (x @ direction + 0.5 * rng.normal(size=num))[:, None]

    (x, y), (x_test, y_test) = draw(60, 0.0), draw(num_test, 1.0)
    groups, groups_test = (z[:, 0] > 1 for z in (x, x_test))
    return made(x, y, groups, tilt(x[:, 0]), x_test, y_test, groups_test)


def line(rng: np.random.Generator, num_test: int) -> Problem:
    """(1, x) for y = x²: under N(0, 1) the best line is flat, under N(1, ½) steep."""

    def draw(num: int, mean: float, spread: float) -> tuple[Any, Any]:
        x = mean + spread * rng.normal(size=num)
        return x, (x**2 + 0.1 * rng.normal(size=num))[:, None]

    (x, y), (x_test, y_test) = draw(1000, 0.0, 1.0), draw(num_test, 1.0, 0.5)
    ratios = np.exp(-2 * (x - 1) ** 2 + x**2 / 2)
    features = (np.stack([np.ones_like(z), z], axis=1) for z in (x, x_test))
    wide, wide_test = features
    return made(wide, y, x > 1, ratios, wide_test, y_test, x_test > 1)


def two_groups(rng: np.random.Generator, num_test: int) -> Problem:
    """(1, x) where y falls with x in a group of a twentieth, and counts half."""

    def draw(num: int, share: float) -> tuple[Any, Any, Any]:
        x, rare = rng.normal(size=num), rng.uniform(size=num) < share
        y = np.where(rare, -x, x) + 0.1 * rng.normal(size=num)
        return np.stack([np.ones(num), x], axis=1), y[:, None], rare

    (x, y, rare), (x_test, y_test, rare_test) = draw(1000, 0.05), draw(num_test, 0.5)
    ratios = np.where(rare, 0.5 / 0.05, 0.5 / 0.95)
    return made(x, y, rare, ratios, x_test, y_test, rare_test)


def made(x, y, groups, ratios, x_test, y_test, groups_test) -> Problem:
    single = functools.partial(np.asarray, dtype=np.float32)
    codes = functools.partial(np.asarray, dtype=np.int32)
    rows = (single(x), single(y), codes(groups), single(ratios))
    return Problem(*rows, single(x_test), single(y_test), codes(groups_test))


if __name__ == "__main__":
    main()
