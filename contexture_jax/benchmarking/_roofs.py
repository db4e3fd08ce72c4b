"""What the device does at most: the peaks that workloads are held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.numerics import PRECISIONS
from contexture_jax.benchmarking._machine import platform
from contexture_jax.benchmarking._timing import OnDevice, Peaks, Setting, measure

__all__ = ["levels", "measure_roofs", "yardsticks"]

Product = Callable[[Any, Any], Any]
_REPEATS = 4
_CACHED = 2**20  # numbers
_LISTS = 8  # rows that one row is the mean of
_CHECKED = 64
_SIDE, _LONG, _LAUNCHES = 1024, 2**23, 50  # of yardsticks
_EXACT = 4.0  # times the least error: of the same kind


def levels() -> dict[str, Product]:
    """Products of float32 blocks at every precision that the platform may have."""
    named: dict[str, Any] = dict(PRECISIONS)
    if platform() == "gpu":
        named["TF32"] = jax.lax.DotAlgorithmPreset.TF32_TF32_F32
    if platform() != "cpu":
        named["the platform's default"] = jax.lax.Precision.DEFAULT

    def at(precision: Any) -> Product:
        return lambda a, b: jnp.matmul(a, b, precision=precision)

    def halves(a: Any, b: Any) -> Any:
        half = jnp.bfloat16
        return jnp.matmul(
            a.astype(half), b.astype(half), preferred_element_type=jnp.float32
        )

    return {name: at(precision) for name, precision in named.items()} | {
        "bfloat16 operands": halves
    }


def measure_roofs(
    setting: Setting,
) -> tuple[dict[str, list[dict[str, Any]]], Peaks]:
    """Rows of all roofs by kind, and the rates in them that bound the workloads."""
    rng = np.random.default_rng(setting.seed)
    kinds = {
        "memory": measure(list(_streams(setting, rng)), setting),
        "exponentials": measure(list(_exponentials(setting)), setting),
        "launches": measure(list(_launches()), setting),
    }
    products, checks = _products(setting, rng)
    rows = measure(products, setting)
    for row in rows:
        row["accuracy"] = {"error": checks[row["name"]]()}
    kinds["products"] = rows
    finest = min((row["accuracy"]["error"] for row in rows), default=0.0)
    exact = [row for row in rows if row["accuracy"]["error"] <= _EXACT * finest]
    memory = kinds["memory"]
    return kinds, Peaks(
        _best(exact),
        _best([row for row in memory if row["name"] == "copy"]),
        _best(kinds["exponentials"]),
        _best([row for row in memory if row["name"] == "gather"]),
    )


def yardsticks(setting: Setting) -> list[OnDevice]:
    """Work that no code of ours is in, to be timed in turns with what is.

    By it two runs tell how the speed of the machine has changed between them: of
    products, of memory, and of many small programs one after the other.
    """
    rng = np.random.default_rng(setting.seed)
    side = min(setting.sizes.square, _SIDE)
    a = jax.device_put(rng.standard_normal((side, side), np.float32))
    long = jnp.ones(min(setting.sizes.stream, _LONG), jnp.float32)
    few = jnp.ones(8, jnp.float32)
    product, copy, add = (
        jax.jit(lambda a: jnp.matmul(a, a, precision="highest")),
        jax.jit(lambda x: x + 1.0),
        jax.jit(lambda x: x * 2.0),
    )

    def launches(_: int) -> Any:
        x = few
        for _ in range(_LAUNCHES):
            x = add(x)
        return x

    return [
        OnDevice("yardstick: product", lambda _: product(a), "limit", f"{side}³"),
        OnDevice("yardstick: copy", lambda _: copy(long), "limit", f"{long.size}"),
        OnDevice("yardstick: launches", launches, "limit", f"{_LAUNCHES}"),
    ]


def _best(rows: list[dict[str, Any]]) -> float:
    """The rate of the fastest round of all: a peak is what was seen once."""
    rates = (
        1e9 * row["rate"] * row["seconds_median"] / min(row["seconds"]) for row in rows
    )
    return max(rates, default=float("nan"))


def _repeated(step: Callable[..., Any]) -> Callable[..., Any]:
    """A program that does a step again and again: launches are paid for once."""

    @jax.jit
    def run(x: Any, *rest: Any) -> Any:
        return jax.lax.fori_loop(0, _REPEATS, lambda _, x: step(x, *rest), x)

    return run


def _streams(setting: Setting, rng: np.random.Generator) -> Iterator[OnDevice]:
    sizes = setting.sizes
    long = jnp.ones(sizes.stream, jnp.float32)
    copy = _repeated(lambda x: x + 1.0)
    bytes_ = 8.0 * sizes.stream
    yield _roof(
        "copy", lambda _: copy(long), bytes_, "B/s", f"{4e-6 * sizes.stream:.0f} MB"
    )

    n, _, width = sizes.lists
    lists = jax.device_put(rng.integers(0, n, (_LISTS, n), np.int32))
    table = jax.device_put(rng.standard_normal((n, width), np.float32))
    gather = _repeated(lambda x, lists: sum(x[i] for i in lists) / _LISTS)
    work = 4.0 * width * lists.size
    words = f"sums of {_LISTS} rows of {width} from {n}"
    yield _roof("gather", lambda _: gather(table, lists), work, "B/s", words)


def _exponentials(setting: Setting) -> Iterator[OnDevice]:
    """Of numbers that a CPU's caches hold, or many in a row, where none is moved."""
    on_cpu = platform() == "cpu"
    count = min(setting.sizes.stream // 8, _CACHED if on_cpu else 2**26)
    numbers = jnp.ones(count, jnp.float32)

    def chain(times: int) -> Callable[[Any], Any]:
        def run(x: Any) -> Any:
            for _ in range(times):
                x = jnp.exp(-x)
            return x

        return run

    for times in (1, 16) if on_cpu else (1, 16, 64):
        run = _repeated(chain(times))
        work, words = float(times * numbers.size), f"{times} in a row"
        yield _roof(
            f"exponentials, {words}",
            lambda _, run=run: run(numbers),
            work,
            "exp/s",
            f"{numbers.size} numbers",
        )


def _launches() -> Iterator[OnDevice]:
    few = jnp.ones(8, jnp.float32)
    add, turns = jax.jit(lambda x: x + 1.0), 1000
    yield OnDevice("launch of a program", lambda _: add(few), "limit")
    loop = jax.jit(lambda x: jax.lax.fori_loop(0, turns, lambda _, x: jnp.sin(x), x))
    yield OnDevice("turn of a loop", lambda _: loop(few), "limit", repeats=turns)


def _roof(
    name: str, run: Callable[[int], Any], work: float, unit: str, settings: str
) -> OnDevice:
    return OnDevice(
        name, run, "limit", settings, work=work, unit=unit, repeats=_REPEATS
    )


def _products(
    setting: Setting, rng: np.random.Generator
) -> tuple[list[OnDevice], dict[str, Callable[[], float]]]:
    """Square products at every level, and the error of one product of each."""
    side = setting.sizes.square
    host = [rng.standard_normal((side, side), np.float32) for _ in range(2)]
    host[0] *= np.float32(side**-0.5)  # so that powers stay in range
    a, b = map(jax.device_put, host)
    exact = host[0][:_CHECKED].astype(np.float64) @ host[1].astype(np.float64)
    contestants, checks = [], {}
    for level, product in levels().items():
        name = f"product, {level}"
        loop = _repeated(lambda x, a, product=product: product(a, x))

        def check(product: Product = product) -> float:
            found = np.asarray(jax.jit(product)(a[:_CHECKED], b), np.float64)
            return float(np.abs(found - exact).max() / np.abs(exact).max())

        work, words = 2.0 * side**3, f"{side}³"
        contestants.append(
            _roof(name, lambda _, loop=loop: loop(b, a), work, "FLOP/s", words)
        )
        checks[name] = check
    return contestants, checks
