"""A context learned, saved, loaded elsewhere, exported."""

import dataclasses
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax.learning import OBJECTIVES, Encoder, Learned, learn, load
from contexture_jax.learning._file import _context, _context_fields
from contexture_jax.learning._law import law_of
from contexture_jax.learning._learn import _own
from contexture_jax.learning._objectives import _OTHERS, embeddings_of, objective_of
from contexture_jax.learning._towers import describe
from tests.conftest import X64
from tests.tolerances import tol

RANK, SMALL = 2, Encoder(hidden=(8,), output=4)
X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
KNN = cx.contexts.knn(X, num_neighbors=6)
QUIET = cx.training.Logging(log_every=10, progress=False)


def learned_of(context: Any, *inputs: Any, **more: Any) -> Learned:
    given = {"rank": RANK, "num_steps": 20, "batch_size": 32, "seed": 0}
    return learn(
        context, *inputs, **{"encoder": SMALL, "logging": QUIET, **given, **more}
    )


@pytest.fixture(scope="module")
def average() -> Learned:
    return learned_of(KNN)


@pytest.fixture(scope="module")
def direct() -> Learned:
    return learned_of(KNN, loss="svme", num_draws=2)


@pytest.mark.slow
def test_what_is_read_off_phi_has_waves_at_the_scale_of_the_rows(
    direct: Learned,
) -> None:
    frequencies = direct.towers["phi"].params["frequencies"]["kernel"]
    assert frequencies.shape == (3, OBJECTIVES["svme"].num_waves)
    made_of = direct.towers["phi"].made_of
    assert made_of is not None
    # E |x − x'|² = 2 Σ var, of which a frequency of this scale makes 2 radians.
    scale = np.sqrt(2 / X.var(axis=0).sum())
    np.testing.assert_allclose(made_of["wave_scale"], scale, rtol=1e-6)
    assert abs(frequencies.std() / scale - 1) < 0.1
    assert "frequencies" not in direct.towers["psi"].params
    for unit in (1e-30, 1e30):  # whose squares float32 has not
        of = describe(X * np.float32(unit), Encoder(num_waves=1), 2, np.float32)
        np.testing.assert_allclose(of["wave_scale"] * unit, scale, rtol=1e-5)
    assert describe(X * 0, Encoder(num_waves=1), 2, np.float32)["wave_scale"] == 1


@pytest.mark.slow_cases("direct")
@pytest.mark.parametrize("which", ["average", "direct"])
def test_functions_at_the_rows_are_those_that_were_found(
    which: str, request: pytest.FixtureRequest
) -> None:
    learned: Learned = request.getfixturevalue(which)
    error = np.abs(learned.transform(X) - learned.left).max()
    assert error < tol(np.float32, size=40)
    np.testing.assert_allclose(
        learned.left.T @ learned.left / 40, np.eye(RANK), atol=tol(np.float32, size=40)
    )


@pytest.mark.slow
def test_values_are_at_most_the_exact_ones(average: Learned, direct: Learned) -> None:
    op = cx.association_operator(KNN)
    exact = cx.svd(op, RANK, key=jax.random.key(0))[0].singular_values
    for learned in (average, direct):
        assert (learned.singular_values <= exact + tol(np.float32)).all()
        assert (learned.singular_values > 0.3).all()
    assert set(direct.ritz) == {"phi", "psi"}


@pytest.mark.parametrize("which", ["average", "direct"])
def test_a_file_holds_the_functions_to_the_bit(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    learned: Learned = request.getfixturevalue(which)
    learned.save(tmp_path / "model", preprocessing={"columns": ["a", "b", "c"]})
    again = load(tmp_path / "model")
    new = X[:5] + np.float32(0.1)
    np.testing.assert_array_equal(again.transform(new), learned.transform(new))
    np.testing.assert_array_equal(again.singular_values, learned.singular_values)
    assert again.preprocessing == {"columns": ["a", "b", "c"]}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["average", "direct"])
def test_another_process_gives_the_same_numbers(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    learned: Learned = request.getfixturevalue(which)
    learned.save(tmp_path / "model.npz")
    np.save(tmp_path / "new.npy", X[:7] + 0.1)
    program = (
        "import sys, numpy as np, contexture_jax as cx\n"
        "x = np.load(sys.argv[2]).astype('float32')\n"
        "np.save(sys.argv[3], cx.learning.load(sys.argv[1]).transform(x))\n"
    )
    paths = [tmp_path / name for name in ("model.npz", "new.npy", "out.npy")]
    # Programs as here: they differ in rounding else.
    flags = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_ENABLE_X64": str(int(X64))}
    command = [sys.executable, "-c", program, *map(str, paths)]
    subprocess.run(command, check=True, env={**os.environ, **flags})
    here = learned.transform((X[:7] + 0.1).astype(np.float32))
    np.testing.assert_array_equal(np.load(paths[2]), here)


@pytest.mark.parametrize("which", ["average", "direct"])
def test_functions_are_exported_for_any_number_of_rows(
    which: str, request: pytest.FixtureRequest
) -> None:
    learned: Learned = request.getfixturevalue(which)
    (count,) = jax.export.symbolic_shape("count")
    rows = jax.ShapeDtypeStruct((count, 3), jnp.float32)
    exported = jax.export.export(jax.jit(learned.transform))(rows)
    error = np.abs(exported.call(X[:9]) - learned.transform(X[:9])).max()
    assert error < tol(np.float32, size=40)


def test_rows_of_several_draws_stay_together() -> None:
    applies = {name: lambda scale, x: scale * x for name in ("phi", "psi")}
    params = {"phi": 1.0, "psi": 10.0}
    a = tuple(jnp.array([[i], [i + 3]]) for i in (1.0, 2.0))
    batch = cx.training.PairBatch(jnp.array([[5.0], [6.0]]), a)
    phi, psi = embeddings_of("towers", applies)(params, batch, None)
    assert phi[:, 0].tolist() == [5, 5, 6, 6]
    assert psi[:, 0].tolist() == [10, 20, 40, 50]
    first, second = embeddings_of("views", applies)(params, batch, None)
    assert (first[:, 0].tolist(), second[:, 0].tolist()) == ([10, 40], [20, 50])
    three = embeddings_of("towers and views", applies)(params, batch, None)
    assert [e[:, 0].tolist() for e in three] == [[5, 6], [10, 40], [20, 50]]


def test_every_loss_is_trained_by_name_or_says_why_not() -> None:
    named = {*OBJECTIVES, *_OTHERS, "kise_pairs"}
    losses = {
        name
        for name in cx.losses.__all__
        if inspect.isfunction(loss := getattr(cx.losses, name))
        and "axis_name" in inspect.signature(loss).parameters
    } - {"update_moments", "kise_mixed", "svme_mixed"}  # `test_mixed` has these
    assert losses == named
    with pytest.raises(ValueError, match="cross_entropy has a head of its own"):
        learned_of(KNN, loss="cross_entropy")
    with pytest.raises(ValueError, match=r"loss must be one of kise, .*; got 'kiss'"):
        learned_of(KNN, loss="kiss")


@pytest.mark.slow
def test_an_objective_says_the_rate_where_nobody_else_does() -> None:
    given = {"loss": OBJECTIVES["svme_views"]._replace(rate=0.0)}
    once, twice = (learned_of(KNN, **given, num_steps=steps) for steps in (1, 2))
    for name in ("phi", "psi"):
        first, second = (run.towers[name].params for run in (once, twice))
        jax.tree.map(np.testing.assert_array_equal, first, second)
    assert OBJECTIVES["svme"].rate > OBJECTIVES["kise"].rate


def test_an_embedding_is_no_wider_than_half_of_what_it_is_fitted_to():
    """A wider one spans whatever there is of few rows, trained or not."""
    width = OBJECTIVES["svme"].width
    assert [width(64, 1024), width(64, 256), width(200, 4096)] == [256, 128, 512]
    assert [width(64, 1024, n) for n in (178, 60, 10_000)] == [89, 64, 256]


@pytest.mark.slow
@pytest.mark.parametrize("loss", OBJECTIVES)
def test_every_objective_learns(loss: str) -> None:
    context, x = KNN, X
    if loss == "lora_kernel":
        context = cx.contexts.teacher(X)
    if loss == "class_balanced":
        context = cx.contexts.labels(np.arange(40) % 3)
    learned = learned_of(context, x, loss=loss)
    assert learned.status == "finished"
    assert np.isfinite(learned.singular_values).all()
    assert learned.left.shape == (40, RANK)


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "least"), [("kise", 0.99), ("svme", 0.97)])
def test_a_known_spectrum_is_learned(loss: str, least: float) -> None:
    given = {"encoder": Encoder(hidden=(16,), output=8), "batch_size": 256}
    learned = learned_of(cx.zoo.gaussian(0.8), loss=loss, num_steps=200, **given)
    known = np.array([0.8, 0.64])
    assert (learned.singular_values <= known + 1e-3).all()
    assert (learned.singular_values >= least * known).all()


@pytest.mark.slow
def test_pairs_that_were_held_out_judge_a_law_without_an_operator(
    tmp_path: Path,
) -> None:
    x = np.random.default_rng(1).normal(size=(2000, 1)).astype(np.float32)
    noise = cx.contexts.gaussian_noise(0.75)  # correlation 1 / √(1 + 0.75²) = 0.8
    learned = learned_of(noise, x, num_steps=100, batch_size=256, rank=1)
    assert learned.held_out is not None
    # The intervals are of what was learned, which is a little less.
    assert learned.held_out.lower[0] < 0.8
    assert 0.75 < learned.held_out.upper[0] < 0.9
    assert learned.rows is not None
    assert learned.left.shape == (len(learned.rows), 1) == (400, 1)
    assert abs(learned.left.std() - 1) < 0.1
    learned.save(tmp_path / "model")
    again = load(tmp_path / "model").transform(x[:9])
    np.testing.assert_array_equal(again, learned.transform(x[:9]))
    series = np.zeros((2001, 1), np.float32)
    normal = np.random.default_rng(2).normal(size=2000)
    for t in range(2000):
        series[t + 1] = 0.8 * series[t] + 0.6 * normal[t]
    given = {"loss": "vamp", "num_steps": 100, "batch_size": 256, "rank": 1}
    learned = learned_of(None, series[:-1], series[1:], **given)
    assert learned.held_out is not None
    # The intervals are of what was learned, which is a little less.
    assert learned.held_out.lower[0] < 0.8
    assert 0.75 < learned.held_out.upper[0] < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["kise", "svme"])
def test_numbered_rows_have_tables(loss: str, tmp_path: Path) -> None:
    context = cx.contexts.joint(np.eye(6, dtype=np.float32) + 0.2)
    learned = learned_of(context, loss=loss)
    learned.save(tmp_path / "model")
    again = load(tmp_path / "model").transform(np.arange(6))
    np.testing.assert_allclose(again, learned.left, atol=tol(np.float32, size=10))
    if loss == "svme":
        with pytest.raises(ValueError, match="x_new must be between 0 and 5; got 6"):
            learned.transform(np.array([6]))
        with pytest.raises(TypeError, match="x_new must hold row numbers"):
            learned.transform(X)


def test_inputs_that_do_not_fit_are_told(direct: Learned, average: Learned) -> None:
    with pytest.raises(ValueError, match=r"the 3 features .* got shape \(4, 2\)"):
        direct.transform(X[:4, :2])
    with pytest.raises(ValueError, match="x_new must be finite"):
        direct.transform(X / 0 if (X == 0).any() else X * np.inf)
    with pytest.raises(ValueError, match="3"):
        average.transform(X[:4, :2])
    with pytest.raises(ValueError, match=r"x must have one row for each x .*, 40"):
        learned_of(KNN, X[:4])
    with pytest.raises(ValueError, match="aligned arrays hold one a for an x"):
        learned_of(None, X, X)
    with pytest.raises(ValueError, match='loss must be "kise"'):
        learned_of(cx.contexts.teacher(X), X, loss="svme")
    with pytest.raises(ValueError, match=r"at least rank = 5; got 4"):
        learned_of(KNN, rank=5)
    with pytest.raises(TypeError, match=r"encoder must be a cx.learning.Encoder"):
        learned_of(KNN, encoder="mlp")


class Near:
    """A law of A at any x of which the dual kernel alone is known."""

    def kernel(self, x: Any, x2: Any) -> Any:
        return jnp.exp(-((x[:, None] - x2[None]) ** 2).sum(axis=-1))


@pytest.mark.parametrize(
    ("given", "more", "error", "message"),
    [
        ((None, X[:-1], X), {}, ValueError, r"rows, .*\(39, 3\) and \(40, 3\)"),
        ((None, X, X[:5]), {}, ValueError, r"rows, .*\(40, 3\) and \(5, 3\)"),
        ((None, X, [X, X[1:]]), {}, ValueError, r"rows, .*\(40, 3\) and \(39, 3\)"),
        ((None, X), {}, ValueError, "got no a"),
        ((None, X, X), {"loss": "svme_views"}, ValueError, "two or more a for an x"),
        ((None, X, [X, X]), {"num_draws": 3}, ValueError, "that of a, 2; got 3"),
        (
            (cx.contexts.gaussian_noise(0.5), X, np.zeros((3, 7))),
            {},
            ValueError,
            r"a plays no part .* got float64\[3,7\]",
        ),
        ((KNN, np.where(X > 0, X, np.nan)), {}, ValueError, "x must be finite"),
        ((KNN,), {"loging": None}, TypeError, "got loging; did you mean logging"),
        ((KNN,), {"enc": None}, TypeError, "got enc"),
        ((Near(), X), {"loss": "kise"}, cx.CapabilityError, "is judged by draws"),
    ],
)
def test_what_would_be_learned_wrong_is_refused_before(
    given: Any, more: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        learned_of(*given, **{"loss": "svme", "num_steps": 1, **more})


@pytest.mark.slow
def test_a_list_of_aligned_arrays_is_several_draws_for_an_x() -> None:
    drawn = [X + 0.1 * np.float32(i) for i in range(2)]
    law = law_of(None, X, drawn, None, objective_of("svme", num_draws=2), 8, 0, 2, 0.2)
    batch = law.pairs.at(0)
    assert len(batch.a) == 2
    np.testing.assert_array_equal(batch.a[0], batch.x)
    learned = learned_of(None, X, drawn, loss="svme", num_steps=2)
    assert learned.rows is not None
    np.testing.assert_allclose(
        learned.transform(X[learned.rows]), learned.left, atol=tol(np.float32, size=10)
    )


def test_files_that_are_none_are_refused(average: Learned, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match=r"is no file that Learned.save"):
        load(path)
    with path.open("wb") as file:
        np.savez(file, x=X)
    with pytest.raises(ValueError, match=r"is no file that Learned.save"):
        load(path)
    average.save(path)
    with np.load(path) as file:
        held = dict(file)
    header = json.loads(held["header"].tobytes())
    for change, message in (
        ({"version": 2}, "is of version 2"),
        ({"context": {"class": "sys", "fields": {}}}, "is damaged"),
    ):
        text = json.dumps({**header, **change}).encode()
        with path.open("wb") as file:
            np.savez(file, **{**held, "header": np.frombuffer(text, np.uint8)})
        with pytest.raises(ValueError, match=message):
            load(path)
    del held["rotation"]
    with path.open("wb") as file:
        np.savez(file, **held)
    with pytest.raises(ValueError, match=r"is damaged: 'rotation' is missing"):
        load(path)


@pytest.mark.slow
def test_an_encoder_of_ones_own_is_trained_and_not_saved(tmp_path: Path) -> None:
    def linear(inputs: Any, output: int, rngs: Any) -> Any:
        start = jax.random.normal(rngs.params(), (inputs.shape[1], output))
        return start, lambda weights, x: x @ weights

    learned = learned_of(KNN, loss="svme", encoder=linear, num_steps=2)
    assert learned.transform(X[:2]).shape == (2, RANK)
    with pytest.raises(
        TypeError, match="the encoder is a function of the caller's own"
    ):
        learned.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_contexts_of_the_zoo_come_back_from_a_file_as_they_were() -> None:
    for name, make in cx.zoo.FAMILIES.items():
        context, held = make(), {}
        laid = json.loads(json.dumps(_context_fields(context, "context", held)))
        again = _context(laid, held)
        assert type(again) is type(context), name
        # On the host in float64, which a device may not have.
        jax.tree.map(np.testing.assert_array_equal, again, context)
        kinds = [list(map(type, jax.tree.leaves(c))) for c in (again, context)]
        assert kinds[0] == kinds[1], name


@pytest.mark.slow
def test_an_average_over_a_law_of_the_zoo_is_saved(tmp_path: Path) -> None:
    learned = learned_of(cx.zoo.label_noise(3, 0.3), num_steps=1)
    learned.save(tmp_path / "model")
    again = load(tmp_path / "model").transform(np.arange(3))
    np.testing.assert_array_equal(again, learned.transform(np.arange(3)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shaken(cx.contexts.SamplingContext):
    """A context of the caller's own."""

    scale: float

    def _draw(self, key: Any, x: Any) -> Any:
        return x + self.scale * jax.random.normal(key, x.shape, x.dtype)


@pytest.mark.slow
def test_functions_of_phi_are_saved_whatever_the_context(tmp_path: Path) -> None:
    average = learned_of(Shaken(0.5), X, num_steps=1)
    with pytest.raises(TypeError, match=r'tell of a Shaken, .*loss="svme"'):
        average.save(tmp_path / "model")
    assert average.capabilities == ("transform",)
    learned = learned_of(Shaken(0.5), X, num_steps=1, loss="svme", savable=True)
    assert learned.capabilities == ("transform", "save")
    learned.save(tmp_path / "model")
    again = load(tmp_path / "model").transform(X)
    np.testing.assert_array_equal(again, learned.transform(X))
    with pytest.raises(TypeError, match="x must hold inputs, one a row"):
        learned_of(Shaken(0.5))


def test_what_is_to_be_saved_and_cannot_be_is_refused_before_it_is_trained() -> None:
    never = {"num_steps": 10**9, "savable": True}
    with pytest.raises(TypeError, match="no file can tell of a Shaken, a class of the"):
        learned_of(Shaken(0.5), X, **never)
    with pytest.raises(TypeError, match="the encoder is a function of the caller's"):
        learned_of(
            KNN, loss="svme", encoder=lambda *_: (1.0, lambda w, x: w * x), **never
        )


class Ring:
    """A walk on five states that knows nothing of this package, but for its table."""

    def table(self) -> Any:
        steps = np.eye(5) + np.roll(np.eye(5), 1, axis=1)
        return steps / steps.sum()


class Placed(Ring):
    """The same, by places on a circle of length 1."""

    def at(self, x_new: Any) -> Any:
        return cx.contexts.joint(self.table()[np.rint(5 * x_new).astype(int)])


@pytest.mark.parametrize("context", [Ring(), Placed()])
def test_a_table_of_any_object_is_learned(context: Any, tmp_path: Path) -> None:
    learned = learned_of(context, num_steps=1)
    x = np.arange(5) / 5 if isinstance(context, Placed) else np.arange(5)
    np.testing.assert_allclose(
        learned.transform(x), learned.left, atol=tol(np.float32, size=10)
    )
    if not isinstance(context, Placed):
        learned.save(tmp_path / "model")
        again = load(tmp_path / "model").transform(x)
        np.testing.assert_array_equal(again, learned.transform(x))


def test_each_process_draws_its_own_part_of_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = np.arange(20.0)[:, None]
    pairs = cx.training.pair_batches(None, 8, seed=1, x=x, a=x)
    alone = cx.training.Devices(mesh=jax.make_mesh((1,), ("x",)))
    assert _own(pairs, None) is pairs
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert _own(pairs, alone) is pairs
    np.testing.assert_array_equal(_own(pairs, None).rows(3), pairs.rows(3)[4:])
