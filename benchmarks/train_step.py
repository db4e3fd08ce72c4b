"""A training step with a whitened spectral loss, beside PyTorch.

A multilayer perceptron 784-512-512-128 embeds two views of 1,024 rows; the loss is L_N
with the covariance of both views solved exactly inside it (`non_contrastive`,
constraint "whiten"); Adam. PyTorch does the same eagerly, with its fused Adam; the two
first losses, from the same parameters and batch, are compared. Then the loss and its
gradient alone, and what reading and placing a batch takes.

    python benchmarks/train_step.py --json FILE
"""

import argparse
import itertools
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

import contexture_jax as cx
from _common import Report, make_parser, parse
from _measure import Contestant, measure, ratio, row_named
from _peers import optional_torch

OURS, TORCH = "contexture_jax, jit", "torch eager, fused Adam"
LOSS, INPUT = "loss and its gradient alone", "reading and placing a batch"
RATE = 1e-3
RIDGE = 1e-6
SMOKE = {"rows": 32, "widths": [8, 16, 16, 4], "data_rows": 100, "steps": 2}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=1024, help="of a view")
    parser.add_argument("--widths", type=int, nargs="+", default=[784, 512, 512, 128])
    parser.add_argument("--steps", type=int, default=10, help="of a run")
    parser.add_argument("--data-rows", type=int, default=60_000)
    args = parse(parser, SMOKE)
    report = Report("train_step", args)
    rng = np.random.default_rng(args.seed)
    views = rng.standard_normal((2, args.rows, args.widths[0]), np.float32)
    views[1] += views[0]
    contestants, traces = ours(args, views)
    contestants += torch_step(args, views)
    rows = measure(contestants, rounds=args.rounds, judge=lambda found: found)
    report.add_case(
        f"{'-'.join(map(str, args.widths))}, 2 × {args.rows} rows, {args.steps} steps",
        rows,
        traces=len(traces),
    )
    add_goals(report, rows, args.steps, len(traces))
    report.write()


def ours(
    args: argparse.Namespace, views: np.ndarray
) -> tuple[list[Contestant], list[int]]:
    """The compiled step, the loss alone, and the input pipeline."""
    config = cx.models.MLPConfig(
        in_features=args.widths[0],
        hidden=tuple(args.widths[1:-1]),
        out_features=args.widths[-1],
        activation="relu",
        skip=False,
    )
    params, apply = cx.models.functional(cx.models.MLP(config, rngs=nnx.Rngs(0)))
    traces: list[int] = []

    def encode(params: Any, batch: Any, key: Any) -> Any:
        del key
        traces.append(1)
        return tuple(apply(params, view) for view in batch)

    optimizer = optax.adam(RATE)
    step = cx.training.make_step(
        encode, cx.training.from_loss(cx.losses.non_contrastive), optimizer
    )
    compiled = cx.training.compile_step(step, "jit")
    batch = compiled.place_batch(tuple(views))
    key = compiled.place_state(jax.random.key(0))
    start = cx.training.init_state(params, optimizer)
    state = [compiled.place_state(start)]

    def run(number: int) -> dict[str, float]:
        del number
        metrics: Any = None
        with cx.single_threaded_lapack():
            for _ in range(args.steps):
                state[0], metrics = compiled(state[0], batch, key)
            return {"loss": float(metrics["loss"])}

    gradient = jax.jit(jax.value_and_grad(cx.losses.non_contrastive, argnums=(0, 1)))
    embeddings = [jax.jit(apply)(params, view) for view in views]

    def loss_alone(number: int) -> Any:
        del number
        found: Any = None
        with cx.single_threaded_lapack():
            for _ in range(args.steps):
                found = jax.block_until_ready(gradient(*embeddings))
            return {"loss": float(found[0])}

    rng = np.random.default_rng(1)
    data = rng.standard_normal((args.data_rows, args.widths[0]), np.float32)
    stream = cx.training.batches((data, data), args.rows, seed=0)
    counter = itertools.count()

    def read(number: int) -> dict[str, float]:
        del number
        for _ in range(args.steps):
            jax.block_until_ready(compiled.place_batch(stream.at(next(counter))))
        return {}

    return [
        Contestant(OURS, run, "ours"),
        Contestant(LOSS, loss_alone, "ours"),
        Contestant(INPUT, read, "ours"),
    ], traces


def torch_step(
    args: argparse.Namespace, views: np.ndarray, device: str = "cpu"
) -> list[Contestant]:
    """The same network, loss and optimiser in PyTorch."""
    torch = optional_torch()
    if torch is None:
        return []
    torch.manual_seed(0)
    layers: list[Any] = []
    for wide, narrow in itertools.pairwise(args.widths):
        layers += [torch.nn.Linear(wide, narrow), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers[:-1]).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE, fused=True)
    first, second = (torch.from_numpy(view).to(device) for view in views)
    eye = torch.eye(args.widths[-1], device=device)
    width = args.widths[-1]

    def loss_of(z: Any, z_plus: Any) -> Any:
        both = torch.cat([z, z_plus])
        both = both - both.mean(dim=0)
        z, z_plus = both.chunk(2)
        covariance = both.T @ both / len(both)
        cross = z.T @ z_plus / len(z)
        ridge = RIDGE * torch.trace(covariance) / width
        factor = torch.linalg.cholesky(covariance + ridge * eye)
        held = torch.cholesky_solve(0.5 * (cross + cross.T), factor)
        return 2 * (width - torch.trace(held))

    def run(number: int) -> dict[str, float]:
        del number
        loss: Any = None
        for _ in range(args.steps):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(network(first), network(second))
            loss.backward()
            optimizer.step()
        return {"loss": float(loss.detach())}

    return [Contestant(TORCH, run)]


def add_goals(
    report: Report, rows: list[dict[str, Any]], steps: int, traces: int
) -> None:
    report.add_goal(f"train step: time / {TORCH}", ratio(rows, OURS, TORCH), 0.85)
    report.add_goal("train step: share of the loss", ratio(rows, LOSS, OURS), 0.25)
    report.add_goal("train step: share of the input", ratio(rows, INPUT, OURS), 0.03)
    report.add_goal("train step: traces", float(traces), 1.0)
    for name in (OURS, TORCH):
        row = row_named(rows, name)
        if row is not None:
            row["steps_per_second"] = steps / row["seconds_median"]


if __name__ == "__main__":
    main()
