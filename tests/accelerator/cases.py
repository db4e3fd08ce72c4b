"""What a device must compute: answers in float32 beside those of a CPU in float64.

Plain functions, so that a machine without pytest can run them: `benchmarks/
accelerator.py` does, and `test_cases.py` collects them. A case gives named arrays that
no choice of basis changes, from the same numbers in either dtype.

    python -m tests.accelerator.cases FILE [NAME ...]

writes the answers in float64, by the CPU whatever else there is.
"""

import functools
import itertools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

import contexture_jax as cx
from contexture_jax._core.numerics import PRECISIONS, mm
from tests.losses import registry

ROOT = Path(__file__).parents[2]
ROWS, COLUMNS, BLOCK, RANK = 192, 128, 24, 6
TOPICS = 10  # rank of the dense table with its trivial triple
EPS = float(np.finfo(np.float32).eps)
Answers = dict[str, Any]
Process = subprocess.Popen[bytes]


class Case(NamedTuple):
    """One thing to compute.

    Attributes:
        run: from a dtype to named arrays.
        factor: errors may be so many eps of float32, by the largest entry of an array.
        of: the same for arrays of these names alone.
    """

    run: Callable[[Any], Answers]
    factor: float
    of: Mapping[str, float] = MappingProxyType({})


def draws(seed: int, *shape: int) -> np.ndarray:
    """The same float32 numbers for both dtypes."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def low_rank_table() -> np.ndarray:
    """A mixture of laws under which both sides are independent; well separated."""
    rng = np.random.default_rng(0)
    left = rng.dirichlet(np.full(ROWS, 0.3), TOPICS)
    right = rng.dirichlet(np.full(COLUMNS, 0.3), TOPICS)
    shares = 0.8 ** np.arange(TOPICS)
    mixed = (
        0.5 * left + 0.5 * np.roll(left, 1, axis=0) * 0.6 ** np.arange(TOPICS)[:, None]
    )
    return np.einsum("t,tn,tm->nm", shares, mixed, right).astype(np.float32)


def lists() -> np.ndarray:
    return np.random.default_rng(3).integers(0, ROWS, (ROWS, 8))


def contexts(dtype: Any) -> dict[str, Callable[[], cx.Context]]:
    """A context of every storage."""
    points, other = draws(1, ROWS, 5), draws(2, COLUMNS, 5)
    weights = np.abs(draws(4, ROWS, 8)) + np.float32(0.1)
    entries = np.nonzero(draws(5, ROWS, COLUMNS) > 0.8)
    counts = np.abs(draws(6, len(entries[0]))) + np.float32(0.1)
    make = cx.contexts
    return {
        "dense": lambda: make.joint(low_rank_table().astype(dtype)),
        "sparse": lambda: make.pairs(
            entries[0], entries[1], counts.astype(dtype), (ROWS, COLUMNS)
        ),
        "fixed degree": lambda: make.neighbors(lists(), weights.astype(dtype), ROWS),
        "k-NN": lambda: make.knn(points.astype(dtype), 8),
        "rbf": lambda: make.rbf(points.astype(dtype), 0.4),
        "attention": lambda: make.attention(points.astype(dtype), other.astype(dtype)),
        "low rank": lambda: make.teacher(points.astype(dtype)),
    }


def devices() -> Any:
    """A mesh of one device, on which an operator takes the path of many."""
    return jax.make_mesh(
        (1,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1]
    )


def make_operator(name: str, dtype: Any) -> cx.AssociationOperator:
    kind, _, how = name.partition(", ")
    if kind in COMPOSED:
        return COMPOSED[kind](functools.partial(make_operator, dtype=dtype))
    options: dict[str, Any] = {}
    if how == "sharded":
        options = {"mesh": devices()}
    elif how == "small tiles":
        options = {"tile_size": 64}
    return cx.association_operator(contexts(dtype)[kind](), **options)


COMPOSED: dict[str, Callable[[Any], cx.AssociationOperator]] = {
    "adjoint": lambda of: cx.operators.reverse(of("sparse")),
    "product": lambda of: cx.operators.compose(of("adjoint"), of("sparse")),
    "mixture": lambda of: cx.operators.mixture([of("rbf"), of("rbf, small tiles")]),
    "convex combination": lambda of: cx.operators.convex_combination(
        [of("k-NN"), of("rbf")]
    ),
}
OPERATORS = (
    "dense",
    "sparse",
    "fixed degree",
    "k-NN",
    "rbf",
    "rbf, small tiles",
    "attention",
    "low rank",
    *COMPOSED,
    *(f"{name}, sharded" for name in ("dense", "sparse", "k-NN", "rbf", "low rank")),
)


def products(name: Any, dtype: Any) -> Answers:
    """T g, T* f and ‖T‖² of an operator."""
    kind, _, level = name.partition(" at ")
    op = make_operator(kind, dtype).with_precision(level or "exact")
    g, f = (
        draws(8, size, BLOCK).astype(op.dtype) for size in (op.shape[1], op.shape[0])
    )
    found = {"T g": op.matmat(g), "T* f": op.rmatmat(f)}
    squared = op.squared_norm()
    return found if squared is None else {**found, "squared norm": squared}


def sampled(dtype: Any) -> Answers:
    """A Monte Carlo table beside that of its own draws in float64: 1 and the gap."""
    x = draws(7, 60, 2)
    op = cx.operators.monte_carlo_operator(
        cx.contexts.gaussian_noise(0.5), x.astype(dtype), 120, key=jax.random.key(0)
    )
    gaps = np.asarray(op.samples, np.float64)[None] - x[:, None]
    law = np.exp(-2 * (gaps**2).sum(axis=2))
    exact = law / law.sum(axis=0) / law.shape[1]
    return {"one": 1.0 + (np.asarray(op.joint, np.float64) - exact) / exact.max()}


def differentiated(dtype: Any) -> Answers:
    """⟨f, T g⟩ of a Gaussian kernel, by its points, γ and g."""
    points = draws(1, ROWS, 5).astype(dtype)
    g, f = (draws(seed, ROWS, BLOCK).astype(dtype) for seed in (8, 9))

    @functools.partial(jax.grad, argnums=(0, 1, 2))
    def gradient(x: Any, gamma: Any, g: Any) -> Any:
        op = cx.association_operator(cx.contexts.rbf(x, gamma), tile_size=64)
        return jnp.vdot(f, op.matmat(g), precision="highest")

    by = jax.jit(gradient)(points, jnp.asarray(0.4, dtype), g)
    return dict(zip(("points", "gamma", "g"), by, strict=True))


def spectrum(name: str, dtype: Any, **options: Any) -> Answers:
    """Values, and what the span of the functions is: projections of fixed functions."""
    op = make_operator(name, dtype)
    if np.dtype(dtype) == np.float64:
        options = {"method": "exact"}
    result, info = cx.svd(op, RANK, key=jax.random.key(1), **options)
    certificate = cx.solvers.certify(result, info, op, key=jax.random.key(2))
    return {
        "values": result.singular_values,
        "left": projected(result.left, op.p_x),
        "right": projected(result.right, op.p_a),
        "status": info.status == "converged",
        "bounds": bool((certificate.lower <= certificate.upper).all()),
        "rank of values": int((np.asarray(result.singular_values) > 0.01).sum()),
    }


def projected(functions: Any, law: Any) -> np.ndarray:
    """Where fixed functions fall in a span, in L²(law); on the host in float64."""
    functions, law = (np.asarray(x, np.float64) for x in (functions, law))
    fixed = draws(10, len(law), 4)
    return functions @ (functions.T @ (law[:, None] * fixed))


def plain_svd(kind: Any, dtype: Any) -> Answers:
    """`truncated_svd` of a matrix with a known spectrum."""
    u, v = (np.linalg.qr(draws(s, n, 40).astype(np.float64))[0] for s, n in PLAIN)
    matrix = ((u * 0.8 ** np.arange(40)) @ v.T).astype(np.float32).astype(dtype)
    result, info = cx.solvers.truncated_svd(
        matrix, RANK, key=jax.random.key(3), method=kind
    )
    return {
        "values": result.singular_values,
        "left": projected(result.left, np.ones(len(u))),
        "status": info.status == "converged",
    }


PLAIN = ((11, ROWS), (12, COLUMNS))


def by_the_table(dtype: Any) -> Answers:
    """The gradient of Σ s_i² in a table: implicit, through one product."""
    table = low_rank_table().astype(dtype)

    def energy(table: Any) -> Any:
        op = cx.association_operator(cx.contexts.joint(table))
        result, _ = cx.svd(op, RANK, key=jax.random.key(1), method="randomized")
        return (result.singular_values**2).sum()

    return {"gradient": jax.jit(jax.grad(energy))(table)}


def extended(dtype: Any) -> Answers:
    """Functions at new points, by their products."""
    points = draws(1, ROWS, 5).astype(dtype)
    context = cx.contexts.rbf(points, 0.4)
    op = cx.association_operator(context)
    result, _ = cx.svd(op, RANK, key=jax.random.key(1), method="exact")
    new = cx.extend(result, context, points[:50] + np.asarray(0.1, dtype))
    gram = np.asarray(new, np.float64) @ np.asarray(new, np.float64).T
    return {"products of functions": gram}


def loss(name: str, dtype: Any) -> Answers:
    """An objective and its gradients in the embeddings."""
    rows, width = 192, 16
    data = registry.make_data(rows, np.float32)
    data = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == np.float32 else x, data)
    phi = draws(13, rows, width)
    psi = (phi + 0.7 * draws(14, rows, width)).astype(dtype)
    head = (draws(15, width, registry.CLASSES), draws(16, registry.CLASSES))
    head = tuple(x.astype(dtype) for x in head)
    if name in OF_WIDTH_OF_DATA:
        head = (draws(15, width, data.x.shape[1]).astype(dtype), None)

    def of(phi: Any, psi: Any) -> Any:
        sigma = jnp.linspace(0.9, 0.1, width, dtype=dtype)
        embeddings = registry.Embeddings(phi, psi, sigma, head, data)
        return registry.OBJECTIVES[name](embeddings, None)

    value, by = jax.jit(jax.value_and_grad(of, argnums=(0, 1)))(phi.astype(dtype), psi)
    return {"value": value, "by phi": by[0], "by psi": by[1]}


def trained(strategy: str, dtype: Any) -> Answers:
    """Parameters after two steps of a small network, on one device."""
    import optax

    widths = (20, 32, 8)
    params = [
        (draws(17 + i, *size) / size[0] ** 0.5).astype(dtype)
        for i, size in enumerate(itertools.pairwise(widths))
    ]

    def encode(params: Any, batch: Any, key: Any) -> Any:
        del key
        hidden, out = params
        return tuple(mm(jnp.tanh(mm(view, hidden)), out) for view in batch)

    optimizer = optax.adam(1e-2, eps=1e-3)
    loss = functools.partial(
        cx.losses.non_contrastive, constraint=cx.losses.Whiten(0.1)
    )
    objective = cx.training.from_loss(loss)
    step = cx.training.make_step(encode, objective, optimizer)
    compiled = cx.training.compile_step(step, strategy, cx.training.data_mesh(1))
    first = draws(19, 96, widths[0]).astype(dtype)
    views = (first, first + draws(20, *first.shape).astype(dtype))
    state = compiled.place_state(cx.training.init_state(params, optimizer))
    metrics: Any = None
    for _ in range(2):
        state, metrics = compiled(state, views, jax.random.key(4))
    names = ("hidden", "out")
    return {"loss": metrics["loss"], **dict(zip(names, state.params, strict=True))}


def search(dtype: Any) -> Answers:
    """Exact neighbours of points and of queries, by number."""
    points = draws(21, 3000, 12)
    context = cx.contexts.knn(points.astype(dtype), 10)
    queries = draws(22, 50, 12).astype(dtype)
    return {"lists": context.indices, "queries": context.at(queries).indices}


def leveled(level: Any, dtype: Any) -> Answers:
    """A product of rows of many scales at a level of precision."""
    a, b = draws(23, 256, 512), draws(24, 512, 64)
    a *= np.exp(2 * draws(25, 256, 1))
    product = jax.jit(functools.partial(mm, precision=level))
    return {"a b": product(a.astype(dtype), b.astype(dtype))}


def memory(dtype: Any) -> Answers:
    """Whether work space grows with n alone, where n × n numbers would be 268 MB."""
    op = cx.association_operator(cx.contexts.rbf(draws(26, 8192, 5).astype(dtype), 0.4))
    block = jax.ShapeDtypeStruct((op.shape[1], 8), op.dtype)
    compiled = jax.jit(lambda op, g: op.matmat(g)).lower(op, block).compile()
    found = compiled.memory_analysis()
    # Not every platform says.
    return {"in tiles": found is None or found.temp_size_in_bytes < 67e6}


def cases() -> dict[str, Case]:
    """Every case by its name, one of each kind in turn: a part of them tells most."""
    groups = [
        [
            (
                f"product: {level}",
                Case(functools.partial(leveled, level), LEVELS[level]),
            )
            for level in PRECISIONS
        ],
        [
            *(
                (f"operator: {name}", Case(functools.partial(products, name), 32))
                for name in OPERATORS
            ),
            *(
                (
                    f"operator: {name} at {level}",
                    Case(
                        functools.partial(products, f"{name} at {level}"),
                        4 * LEVELS[level],
                    ),
                )
                for name in ("dense", "rbf", "low rank")
                for level in ("split", "high", "coarse")
            ),
            ("operator: Monte Carlo", Case(sampled, 64)),
            ("operator: gradients", Case(differentiated, 64)),
        ],
        _spectra(),
        [
            (f"step: {strategy}", Case(functools.partial(trained, strategy), 128))
            for strategy in ("jit", "shard_map", "pmap")
        ],
        [
            (f"loss: {name}", Case(functools.partial(loss, name), _factor(name)))
            for name in dict.fromkeys([*registry.SELECTED, *registry.OBJECTIVES])
        ],
        [("neighbours", Case(search, 0)), ("memory", Case(memory, 0))],
    ]
    turns = itertools.zip_longest(*groups)
    return dict(pair for turn in turns for pair in turn if pair is not None)


def _spectra() -> list[tuple[str, Case]]:
    # Spans are as exact as the tolerance of 100 eps over the gaps that bound them.
    spans = {"left": 1024.0, "right": 1024.0}
    options: dict[str, tuple[str, dict[str, Any]]] = {
        "randomized": ("dense", {"method": "randomized"}),
        "exact": ("dense", {"method": "exact"}),
        "krylov": ("dense", {"method": "krylov"}),
        "nystrom": ("dense", {"method": "nystrom"}),
        "range in bfloat16": ("dense", {"range_dtype": "bfloat16"}),
        **{
            name: (name, {"method": "randomized"})
            for name in ("sparse", "k-NN", "rbf", "dense, sharded")
        },
    }
    return [
        ("svd: gradient", Case(by_the_table, 256)),
        *(
            (
                f"svd: {key}",
                Case(functools.partial(spectrum, name, **chosen), 64, spans),
            )
            for key, (name, chosen) in options.items()
        ),
        ("svd: extend", Case(extended, 64)),
        *(
            (
                f"svd: truncated, {method}",
                Case(functools.partial(plain_svd, method), 32, spans),
            )
            for method in ("randomized", "exact", "krylov")
        ),
    ]


def _factor(name: str) -> float:
    return 1024 if name.startswith(WHITENED) else 64


# Eps of float32 that the operands of a product are rounded to, and some for its sums.
LEVELS = {"exact": 16, "split": 16, "high": 256, "coarse": 2.0**16}
# The least ridge of a covariance is a multiple of the dtype's eps: not the same number.
WHITENED = (
    *("svme", "kise", "vamp", "class_balanced", "non_contrastive", "graph"),
    *("squared_error", "reconstruction"),
)


OF_WIDTH_OF_DATA = ("squared_error head", "masked_reconstruction")


def errors(found: Answers, truth: Answers) -> dict[str, float]:
    """Of each array by its largest entry; where it is no real number, 0 or ∞."""
    assert found.keys() == truth.keys(), (found.keys(), truth.keys())
    return {name: _error(found[name], truth[name]) for name in truth}


def _error(found: Any, truth: Any) -> float:
    found, truth = np.asarray(found), np.asarray(truth)
    if found.shape != truth.shape:
        return float("inf")
    if truth.dtype.kind != "f":
        return 0.0 if np.array_equal(found, truth) else float("inf")
    largest = max(float(np.abs(truth).max()), float(np.finfo(np.float32).tiny))
    gap = float(np.abs(found.astype(np.float64) - truth).max()) / largest
    return gap if gap < float("inf") else float("inf")  # NaN is not


def answers(names: Iterable[str]) -> Iterator[tuple[str, Answers | str]]:
    """Cases in float64 by this process; text where one raised an error."""
    every = cases()
    for name in names:
        try:
            answer = every[name].run(np.float64)
            yield name, {key: np.asarray(value) for key, value in answer.items()}
        except Exception as error:
            yield name, f"{type(error).__name__}: {error}"


def start_answers(folder: Path, names: Sequence[str], processes: int) -> list[Process]:
    """`answers` in processes of their own, on the CPU, whatever JAX works on here."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "tests.accelerator.cases"]
    return [
        subprocess.Popen(
            [*command, str(folder / f"{number}.pickle"), *names[number::processes]],
            env=environment,
            cwd=ROOT,
        )
        for number in range(min(processes, len(names)))
    ]


def read_answers(folder: Path) -> dict[str, Answers | str]:
    """What such processes have written so far."""
    found: dict[str, Answers | str] = {}
    for file in folder.glob("*.pickle"):
        found |= pickle.loads(file.read_bytes())
    return found


def main() -> None:
    target, *chosen = sys.argv[1:]
    found: dict[str, Answers | str] = {}
    for name, answer in answers(chosen or cases()):
        found[name] = answer
        # Whoever reads meanwhile finds a whole file.
        part = Path(f"{target}.part")
        part.write_bytes(pickle.dumps(found))
        part.replace(target)


if __name__ == "__main__":
    main()
