"""Objectives with their gradients, and whole training steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from contexture_jax import losses as objectives
from contexture_jax._core.threads import single_threaded_lapack
from contexture_jax.benchmarking._timing import OnDevice, Setting, Work
from contexture_jax.models import MLP, MLPConfig, functional
from contexture_jax.training import (
    compile_step,
    data_mesh,
    from_loss,
    init_state,
    make_step,
)

__all__ = ["losses", "step"]

# One of each kind: pairs and kernels, whitened and penalised, sums over pairs of rows.
_OF_VIEWS: dict[str, Callable[..., Any]] = {
    "svme": objectives.svme,
    "non_contrastive": objectives.non_contrastive,
    "spectral_contrastive": objectives.spectral_contrastive,
    "vicreg": objectives.vicreg,
    "barlow_twins": objectives.barlow_twins,
    "vamp": objectives.vamp,
    "neural_ef": objectives.neural_ef,
    "orbital_minimisation": objectives.orbital_minimisation,
    "lora_svd": objectives.lora_svd,
    "simclr": objectives.simclr,
}
_RATE = 1e-3
_STEPS = 10  # of a run


def losses(setting: Setting, peers: bool) -> list[OnDevice]:
    """A value and its gradients; the value against the same in float64."""
    del peers
    n, d = setting.sizes.batch
    rng = np.random.default_rng(setting.seed)
    z = rng.standard_normal((n, d), np.float32)
    views = z, (z + rng.standard_normal((n, d), np.float32)) / np.float32(2**0.5)
    square = rng.standard_normal((n, n), np.float32) / np.float32(n**0.5)
    kernel = square @ square.T
    made = [_loss(name, loss, views) for name, loss in _OF_VIEWS.items()]
    return [*made, _loss("kise", objectives.kise, (z, kernel))]


def _loss(
    name: str,
    loss: Callable[..., Any],
    arrays: tuple[np.ndarray, np.ndarray],
) -> OnDevice:
    n, d = arrays[0].shape
    both = tuple(map(jax.device_put, arrays))
    # A kernel is data: nothing is differentiated by it.
    of = (0, 1) if arrays[1].shape == (n, d) else (0,)
    run = jax.jit(jax.value_and_grad(loss, argnums=of))

    def judge(found: Any) -> dict[str, float]:
        with jax.enable_x64(True):
            exact = float(loss(*(array.astype(np.float64) for array in arrays)))
        return {"error": abs(float(found[0]) - exact) / max(abs(exact), 1e-3)}

    def once(_: int) -> Any:
        with single_threaded_lapack():
            return jax.block_until_ready(run(*both))

    moved = 4.0 * (sum(array.size for array in arrays) + len(of) * n * d)
    return OnDevice(
        f"{name}, with gradient",
        once,
        "ours",
        f"{n} rows of {d}",
        judge=judge,
        facts=lambda _: {"bytes": moved},
    )


def step(setting: Setting, peers: bool) -> list[OnDevice]:
    """Ten steps of a perceptron on two views, by Adam, with a whitened loss."""
    del peers
    rows, widths = setting.sizes.step
    found = []
    for name, loss in (
        ("svme", objectives.svme),
        ("vicreg", objectives.vicreg),
    ):
        found.append(_step(f"step, {name}", loss, rows, widths, setting))
    return found


def _step(
    name: str,
    loss: Callable[..., Any],
    rows: int,
    widths: tuple[int, ...],
    setting: Setting,
) -> OnDevice:
    config = MLPConfig(
        in_features=widths[0], hidden=widths[1:-1], out_features=widths[-1], skip=False
    )
    params, apply = functional(MLP(config, rngs=nnx.Rngs(0)))

    def encode(params: Any, batch: Any, key: Any) -> Any:
        del key
        return tuple(apply(params, view) for view in batch)

    optimizer = optax.adam(_RATE)
    mesh = data_mesh(1) if setting.mesh is None else setting.mesh
    compiled = compile_step(make_step(encode, from_loss(loss), optimizer), "jit", mesh)
    rng = np.random.default_rng(setting.seed)
    views = rng.standard_normal((2, rows, widths[0]), np.float32)
    views[1] += views[0]
    batch = compiled.place_batch(tuple(views))
    key = compiled.place_state(jax.random.key(0))
    state = [compiled.place_state(init_state(params, optimizer))]

    def run(_: int) -> Any:
        metrics: Any = None
        with single_threaded_lapack():
            for _ in range(_STEPS):
                state[0], metrics = compiled(state[0], batch, key)
            return float(metrics["loss"])

    weights = sum(a * b for a, b in itertools.pairwise(widths))
    # Forward, and twice as much backward; Adam reads and writes four numbers of each.
    work = Work(
        _STEPS * 3 * 2.0 * 2 * rows * weights,
        _STEPS * 4.0 * (2 * rows * sum(widths) * 2 + 8 * weights),
    )
    return OnDevice(
        name,
        run,
        "ours",
        f"{'-'.join(map(str, widths))}, 2 × {rows} rows, {_STEPS} steps",
        needs=lambda _: work,
        facts=lambda _: {"steps": _STEPS},
    )
