"""Contexts made of contexts, learned: mixtures, their weights, convolutions."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import contexture_jax as cx
from contexture_jax.learning import Encoder, Learned, learn, load
from contexture_jax.learning._mixed import seen_at_random
from contexture_jax.losses import (
    MinMax,
    init_part_weights,
    kise_mixed,
    kise_pairs,
    svme_mixed,
    svme_views,
    update_part_weights,
)
from tests.tolerances import tol

C = cx.contexts
F32 = np.float32
RANK, WIDTH, ROWS = 2, 4, 12
QUIET = cx.training.Logging(log_every=5, progress=False)


def law(num_values: int, seed: int, sharpness: float) -> Any:
    """A context of twelve rows, all alike."""
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.normal(size=(ROWS, num_values))
    return C.conditional(np.exp(logits).astype(F32))


ONE, TWO = law(7, 1, 1.5), law(5, 2, 1.5)
POINTS = np.random.default_rng(3).normal(size=(40, 3)).astype(F32)


def learned_of(context: Any, *inputs: Any, **more: Any) -> Learned:
    given = {
        "rank": RANK,
        "num_steps": 200,
        "batch_size": 240,
        "seed": 0,
        "encoder": Encoder(hidden=(16,), output=WIDTH),
        "optimizer": optax.adam(0.05),
        "logging": QUIET,
    }
    return learn(context, *inputs, **{**given, **more})


def energy(values: Any) -> float:
    return float((np.asarray(values, np.float64) ** 2).sum())


def exact(context: Any) -> np.ndarray:
    op = cx.association_operator(context)
    return np.asarray(cx.svd(op, RANK, key=jax.random.key(0))[0].singular_values)


def ratio_trace(left: Any, context: Any) -> float:
    return float(cx.evaluation.ratio_trace(left, cx.association_operator(context)))


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["kise", "svme"])
def test_a_mixture_is_learned_by_a_psi_for_each_context(
    loss: str, tmp_path: Path
) -> None:
    mixed = C.convex_combination([ONE, TWO], [0.75, 0.25])
    learned = learned_of(mixed, loss=loss)
    best = energy(exact(mixed))
    assert 0.98 * best < energy(learned.singular_values) <= best + tol(F32)
    # The leading functions of the parts are others.
    for part in (ONE, TWO):
        alone = cx.svd(cx.association_operator(part), RANK, key=jax.random.key(0))[0]
        assert ratio_trace(alone.left, mixed) < 0.95 * best
    assert learned.towers["psi"].params["parts"][0]["table"].shape == (7, 4)
    assert {"loss_0", "loss_1"} <= set(learned.history)
    assert learned.weights is not None
    np.testing.assert_allclose(learned.weights, [0.75, 0.25], rtol=1e-6)
    x = np.arange(ROWS) if loss == "svme" else tuple(p.table() for p in (ONE, TWO))
    np.testing.assert_allclose(
        learned.transform(x), learned.left, atol=tol(F32, size=100)
    )
    learned.save(tmp_path / "model")
    np.testing.assert_array_equal(
        load(tmp_path / "model").transform(x), learned.transform(x)
    )


def saddle() -> tuple[float, float]:
    """The weight of the first context and the value of the min–max, by a search.

    max over encoders of min over w of the ratio traces is min over w of the sum of as
    many leading eigenvalues of Σ_j w_j T_j T_j* as embeddings are wide, convex in w.
    """
    kernels = []
    for part in (ONE, TWO):
        op = cx.association_operator(part)
        T, p_a = np.asarray(op.as_matrix(), np.float64), np.asarray(op.p_a, np.float64)
        kernels.append((T / p_a) @ T.T / ROWS - 1 / ROWS)
    grid = np.linspace(0, 1, 1001)
    values = [
        np.linalg.eigvalsh(w * kernels[0] + (1 - w) * kernels[1])[-WIDTH:].sum()
        for w in grid
    ]
    return float(grid[np.argmin(values)]), float(min(values))


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["kise", "svme"])
def test_weights_are_those_of_the_exact_min_max(loss: str) -> None:
    weight, value = saddle()  # 0.849 and 0.689
    found = learned_of(
        C.convex_combination([ONE, TWO]),
        loss=loss,
        rank=WIDTH,
        num_steps=600,
        min_max=MinMax(every=5),
    )
    assert found.weights is not None
    np.testing.assert_allclose(found.weights, [weight, 1 - weight], atol=0.03)
    traces = [ratio_trace(found.left, part) for part in (ONE, TWO)]
    # The lesser of the two is what no encoder makes larger than the value.
    assert min(traces) <= value + tol(F32, size=10)
    np.testing.assert_allclose(traces, value, rtol=0.06)
    np.testing.assert_allclose(energy(found.singular_values), value, rtol=0.03)


@pytest.mark.slow
def test_weights_are_resumed_to_the_bit_and_the_same_on_devices(
    tmp_path: Path,
) -> None:
    def run(
        name: str, num_steps: int, strategy: str = "jit", count: int = 1
    ) -> Learned:
        mesh = cx.training.data_mesh(count)
        return learned_of(
            C.convex_combination([ONE, TWO]),
            num_steps=num_steps,
            min_max=MinMax(every=3),
            directory=tmp_path / name,
            checkpoints=cx.training.Checkpoints(save_every=10),
            devices=cx.training.Devices(strategy=strategy, mesh=mesh),
        )

    whole = run("whole", 20)
    run("halves", 10)  # in the midst of three steps
    again = run("halves", 20)
    assert whole.weights is not None
    np.testing.assert_array_equal(again.weights, whole.weights)
    np.testing.assert_array_equal(again.left, whole.left)
    assert abs(whole.weights[0] - 0.5) > 0.01
    many = run("many", 20, "shard_map", 8)
    assert many.weights is not None
    np.testing.assert_allclose(many.weights, whole.weights, atol=1e-4)
    np.testing.assert_allclose(abs(many.left), abs(whole.left), atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("how", [C.mixture, C.convolve, C.join])
def test_a_mixture_is_the_same_on_devices(how: Any) -> None:
    # Of a convolution the recursion, of the others draws; on a common A for `mixture`.
    parts = [law(6, 1, 1.5), law(6, 2, 1.5)]
    if how is C.convolve:
        parts[0] = C.teacher(np.random.default_rng(5).normal(size=(ROWS, 3)))
    mixed = how(*parts) if how is C.convolve else how(parts)

    def run(strategy: str, count: int) -> Learned:
        mesh = cx.training.data_mesh(count)
        devices = cx.training.Devices(strategy=strategy, mesh=mesh)
        return learned_of(mixed, loss="svme", num_steps=8, devices=devices)

    one, many = run("jit", 1), run("shard_map", 8)
    atol = tol(F32, size=10)
    np.testing.assert_allclose(many.singular_values, one.singular_values, atol=atol)
    np.testing.assert_allclose(abs(many.left), abs(one.left), atol=atol)


def test_weights_rise_where_the_loss_is_high() -> None:
    rule = MinMax(rate=0.2, every=2, decay=0.5)
    update = jax.jit(functools.partial(update_part_weights, rule=rule))
    state = init_part_weights(np.array([0.5, 0.5, 0.0], F32))
    for losses in ([1.0, 3.0, 5.0], [3.0, 5.0, 1.0]):
        state = update(state, jnp.array(losses))
    # Means 2, 4, 3: standardised −√1.5, √1.5, 0.
    shares = np.array([np.exp(-0.2 * 1.5**0.5), np.exp(0.2 * 1.5**0.5), 0])
    np.testing.assert_allclose(state.weights, shares / shares.sum(), rtol=1e-5)
    assert (int(state.num_updates), int(state.num_steps)) == (1, 0)
    assert not state.losses.any()


def test_a_part_is_seen_by_its_weight() -> None:
    one, two = jnp.ones((400, 1), F32), -jnp.ones((400, 1), F32)
    found = seen_at_random([(one, two)], [0.9, 0.1], jax.random.key(0))
    (drawn,), (seen,) = jax.tree.map(np.asarray, found)
    # Five standard errors of a share.
    assert abs(float((drawn == 1).mean()) - 0.9) < 5 * (0.9 * 0.1 / 400) ** 0.5
    np.testing.assert_array_equal(seen, np.where(drawn == [1, -1], drawn, 0))


@pytest.mark.slow
def test_a_context_mixed_with_itself_has_the_loss_of_one() -> None:
    rng = np.random.default_rng(0)
    phi, *draws = (jnp.asarray(rng.normal(size=(64, 3)), F32) for _ in range(3))
    twice = [(z, z) for z in draws]
    w = jnp.array([0.4, 0.6])

    @jax.jit
    def both(phi: Any, draws: Any, twice: Any) -> Any:
        plain = kise_pairs(*draws, constraint=cx.losses.Whiten(0.1))
        alone = svme_views(phi, *draws, ridge=0.1)
        one, two = kise_mixed(twice, w), svme_mixed(phi, twice, w)
        return plain, one, alone, two

    plain, one, alone, two = both(phi, draws, twice)
    np.testing.assert_allclose(one.loss, plain, rtol=1e-5)
    np.testing.assert_allclose(one.parts, [plain, plain], rtol=1e-4)
    # What teaches Ψ on its own draws is there once for each.
    own = two.loss - two.parts[0]
    np.testing.assert_allclose(two.parts[0] + own / 2, alone, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["kise", "svme"])
def test_a_convolution_is_learned_by_its_recursion(loss: str) -> None:
    rng = np.random.default_rng(5)
    teacher = C.teacher(rng.normal(size=(ROWS, 3)).astype(F32))
    parts = [C.knn(rng.normal(size=(ROWS, 2)).astype(F32), 4), teacher, TWO]
    # A step that draws, one by its kernel, and then the last.
    mixed = C.convolve(*parts)
    learned = learned_of(mixed, loss=loss, num_steps=400)
    best = energy(exact(mixed))
    assert 0.95 * best < energy(learned.singular_values) <= best + tol(F32)
    assert "sample" not in mixed.capabilities


def test_a_recursion_begins_at_x_again_after_each_kernel() -> None:
    rng = np.random.default_rng(6)
    one, two = (C.teacher(rng.normal(size=(ROWS, 3)).astype(F32)) for _ in range(2))
    mixed: Any = C.convolve(C.knn(POINTS[:ROWS], 4), one, two, TWO)
    rows = jnp.arange(ROWS, dtype=jnp.int32)
    keys = list(jax.random.split(jax.random.key(0)))
    (first, second), draws = mixed.recursion(keys, rows, rows)
    np.testing.assert_array_equal(second, two.kernel(rows, rows))
    # Columns of the first are where a walk by neighbours leads.
    whole = np.asarray(one.kernel(rows, rows))
    assert not np.array_equal(first, whole)
    assert {tuple(c) for c in np.asarray(first).T} <= {tuple(c) for c in whole.T}
    assert [draw.shape for draw in draws] == [(ROWS,)]


@pytest.mark.slow
def test_laws_on_rows_are_mixed_with_neighbours(tmp_path: Path) -> None:
    noise = C.on_rows(C.gaussian_noise(0.3), POINTS)
    mixed = C.convex_combination([C.knn(POINTS, 6), noise])
    few = {"num_steps": 30, "batch_size": 32, "held_out": 0.4}
    learned = learned_of(mixed, **few)
    assert learned.held_out is not None
    assert learned.rows is not None
    assert learned.left.shape == (len(learned.rows), RANK) == (16, RANK)
    learned.save(tmp_path / "model")
    again = load(tmp_path / "model").transform(POINTS)
    np.testing.assert_array_equal(again, learned.transform(POINTS))
    for chain in (
        C.convolve(C.knn(POINTS, 6), noise),
        C.join([C.knn(POINTS, 6), noise]),
    ):
        learned = learned_of(chain, loss="svme", **few)
        assert learned.left.shape == (16, RANK)


@pytest.mark.slow
def test_a_hidden_mixture_of_joins_is_learned_by_its_tuples(tmp_path: Path) -> None:
    classes = C.labels(np.arange(len(POINTS)) % 2)
    mixed = C.mixture([C.join([C.knn(POINTS, k), classes]) for k in (6, 12)])
    few = {"loss": "svme", "num_steps": 30, "batch_size": 32}
    learned = learned_of(mixed, **few)
    best = energy(exact(mixed))
    assert 0.5 * best < energy(learned.singular_values) <= best + tol(F32)
    learned.save(tmp_path / "model")
    again = load(tmp_path / "model").transform(POINTS)
    np.testing.assert_array_equal(again, learned.transform(POINTS))


def test_what_cannot_be_learned_together_is_told() -> None:
    noise = C.on_rows(C.gaussian_noise(0.3), POINTS)
    knn = C.knn(POINTS, 6)
    both = C.convex_combination([knn, noise])
    with pytest.raises(ValueError, match='learned together by "kise" or "svme"'):
        learned_of(both, loss="lora_svd")
    with pytest.raises(ValueError, match="min_max finds the weights of a convex_comb"):
        learned_of(knn, min_max=MinMax())
    with pytest.raises(ValueError, match="num_draws must be at least 2"):
        learned_of(both, num_draws=1)
    with pytest.raises(ValueError, match="a must be a tuple of one table for each"):
        learned_of(both, a=POINTS)
    chain = C.convolve(knn, C.teacher(POINTS))
    with pytest.raises(ValueError, match=r'a Teacher has not; expected loss="kise"'):
        learned_of(chain, POINTS, loss="svme")
    with pytest.raises(ValueError, match="op must be that of a convex combination"):
        learned_of(
            both,
            a=(None, POINTS),
            op=cx.association_operator(knn),
            min_max=MinMax(),
        )
    for wrong in ({"rate": 0.0}, {"every": 0}, {"decay": 2.0}):
        with pytest.raises(ValueError, match=f"MinMax.{next(iter(wrong))}"):
            MinMax(**wrong)  # pyright: ignore
