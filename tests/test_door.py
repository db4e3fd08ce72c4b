"""What people hand over: every kind of array, counts of any range, classes by name."""

import decimal
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
from flax import nnx
from jax.experimental import sparse

import contexture_jax as cx
from contexture_jax._core import arrays
from contexture_jax._core.checks import as_floating, as_integers

C, L = cx.contexts, cx.losses
DTYPE = jnp.zeros(()).dtype
# Halves: exact in every width.
X = np.random.default_rng(0).integers(1, 9, size=(6, 3)) / 2.0
Y = np.array([0, 1, 2, 0, 1, 2])
HEAD = (np.eye(3), np.zeros(3))


class Tensor:
    """As a tensor of another library: no array of NumPy, but it becomes one."""

    def __init__(self, values: Any, *, requires_grad: bool = False) -> None:
        self.values = np.asarray(values)
        self.shape, self.dtype = self.values.shape, "float64"
        self.requires_grad = requires_grad

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values

    def detach(self) -> "Tensor":
        return Tensor(self.values)

    def cpu(self) -> "Tensor":
        return self


class FarTensor(Tensor):
    """One that is on another device."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def pandas_frame(x: Any, dtype: Any = None) -> Any:
    frame = pd.DataFrame(x)
    return frame if dtype is None else frame.astype(dtype)


def polars_frame(x: Any) -> Any:
    return pl.DataFrame(np.asarray(x))


def objects(x: Any) -> np.ndarray:
    mixed = np.asarray(x).astype(object)
    mixed[0, 0] = decimal.Decimal(float(x[0, 0]))
    return mixed


TAKEN: dict[str, Callable[[Any], Any]] = {
    "lists": lambda x: x.tolist(),
    "big-endian": lambda x: x.astype(">f8"),
    "extended": lambda x: x.astype(np.longdouble),
    "numbers as objects": objects,
    "tensor": Tensor,
    "list of tensors": lambda x: [Tensor(row) for row in x],
    "pandas": pandas_frame,
    "pandas, nullable": lambda x: pandas_frame(x, "Float64"),
    "polars": polars_frame,
    "strided": lambda x: np.repeat(x, 2, axis=0)[::2],
}

HIDDEN = np.ma.masked_array(X, mask=X > 4)
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "masked": (lambda: HIDDEN, "must have no mask; got a masked array"),
    "list of masked": (lambda: list(HIDDEN), "must have no mask"),
    "complex": (lambda: X + 0j, "got dtype complex"),
    "text": (lambda: X.astype(str), "got text"),
    "dates": (lambda: X.astype("M8[D]"), "got dates"),
    "objects": (lambda: [[1.0, "Oslo"]], r"got 'Oslo' \(str\) at \w+\[0, 1\]|got text"),
    "none within": (lambda: [[1.0, None]], r"None at \w+\[0, 1\]: a missing value"),
    "nothing": (lambda: None, "got None"),
    "dict": (lambda: {"a": 1.0}, "got dict"),
    "recording": (lambda: Tensor(X, requires_grad=True), r"pass x.detach\(\)"),
    "far": (lambda: FarTensor(X), r"cuda:0.*pass x.detach\(\).cpu\(\)"),
    "nulls": (
        lambda: pandas_frame({"a": [1, None]}, "Int64"),
        "no missing values; got some in column 'a'",
    ),
    "polars nulls": (
        lambda: pl.DataFrame({"a": [1, None]}),
        "no missing values; got some in column 'a'",
    ),
    "named": (
        lambda: pandas_frame({"a": [1.5], "city": ["Oslo"]}),
        "'Oslo' .* column 'city'",
    ),
}
SPARSE = ("must be a dense array; got a csr", lambda: scipy.sparse.csr_matrix(X))


def step_on(batch: Any) -> Any:
    """The batch of a step, as the encoder sees it."""
    return cx.training.global_batch(batch, cx.training.data_mesh(1))


MLP = cx.models.MLP(
    cx.models.MLPConfig(in_features=3, out_features=2, hidden=()), rngs=nnx.Rngs(0)
)
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "joint": C.joint,
    "conditional": C.conditional,
    "rbf": C.rbf,
    "attention": lambda x: C.attention(x, x),
    "knn": lambda x: C.knn(x, 2),
    "teacher": C.teacher,
    "neighbors": lambda x: C.neighbors(np.zeros((6, 3), int), x),
    "at": lambda x: C.rbf(X).at(x),
    "rows of a table": lambda x: C.joint(X).at(x),
    "scarf": lambda x: C.scarf(x, 0.5),
    "corruption": lambda x: C.corruption(x, 0.5),
    "cutmix": lambda x: C.cutmix(x, 0.5),
    "sample": lambda x: C.erasure(0.5).sample(jax.random.key(0), x),
    "batches": lambda x: cx.training.batches(x, 4, seed=0).at(0),
    "a batch": step_on,
    "parameters": lambda x: cx.training.init_state(x, _NoOptimizer()).params,
    "model": MLP,
}
PAIRS = (
    *(L.svme, L.spectral_contrastive, L.spectral_contrastive_published),
    *(L.non_contrastive, L.lora_svd),
    *(L.joint_nesting, L.sequential_nesting, L.neural_ef, L.neural_eigenmaps),
    *(L.vicreg, L.barlow_twins, L.vamp, L.orbital_minimisation, L.info_nce, L.clip),
    *(L.simclr, L.graph, L.kise_pairs, L.lora_evd),
)
LOSSES: dict[str, Callable[[Any], Any]] = {
    **{loss.__name__: lambda x, loss=loss: loss(x, x) for loss in PAIRS},
    "kise": lambda x: L.kise(x, np.eye(6)),
    "lora_kernel": lambda x: L.lora_kernel(x, np.eye(6)),
    "vamp_e": lambda x: L.vamp_e(x, X, np.ones((3, 3))),
    "ncp": lambda x: L.ncp(x, X, np.ones(3)),
    "squared_error": lambda x: L.squared_error(X, x),
    "head": lambda x: L.squared_error(x, X, head=HEAD),
    "cross_entropy": lambda x: L.cross_entropy(x, Y),
    "class_balanced": lambda x: L.class_balanced(x, Y, 3),
    "reconstruction": lambda x: L.reconstruction(x, X),
    "masked_reconstruction": lambda x: L.masked_reconstruction(x, X, X > 1),
}
# One of those that convert in the same place.
SOME = {name: LOSSES[name] for name in LOSSES.keys() - {p.__name__ for p in PAIRS[1:]}}


class _NoOptimizer:
    """Stands for a transformation without state."""

    def init(self, params: Any) -> tuple[()]:
        del params
        return ()


@pytest.mark.parametrize("kind", TAKEN)
def test_functions_take_every_kind_of_array_as_its_float64_values(kind):
    for name, function in FUNCTIONS.items():
        if name in ("a batch", "parameters", "batches") and "list" in kind:
            continue  # a pytree of its own
        expected = jax.tree.leaves(function(X))
        for got, want in zip(
            jax.tree.leaves(function(TAKEN[kind](X))), expected, strict=True
        ):
            got, want = np.asarray(got), np.asarray(want)
            assert got.dtype == want.dtype, name
            if jnp.issubdtype(want.dtype, jnp.number):
                np.testing.assert_array_equal(got, want, err_msg=name)


@pytest.mark.parametrize("kind", TAKEN)
def test_losses_take_every_kind_of_array(kind):
    """Traced only: what is given is concrete, and checked and converted as such."""
    x = TAKEN[kind](X)
    some = LOSSES if kind == "extended" else SOME
    out = jax.eval_shape(lambda: [loss(x) for loss in some.values()])
    assert {leaf.dtype for leaf in out} == {DTYPE}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_array_of_numbers_is_refused_with_what_came(kind):
    make, message = REFUSED[kind]
    given = make()
    some = LOSSES if kind == "masked" else SOME
    for name, function in (FUNCTIONS | some).items():
        if name in ("a batch", "parameters", "batches", "cutmix", "sample", "scarf"):
            continue  # pytrees, and whatever has values
        if name == "neighbors" and given is None:
            continue  # no weights
        with pytest.raises(TypeError, match=message):
            jax.eval_shape(lambda function=function: function(given))


def test_a_sparse_matrix_is_refused_where_a_dense_one_is_expected():
    message, make = SPARSE
    for name, function in (FUNCTIONS | SOME).items():
        if name not in ("joint", "rows of a table"):
            with pytest.raises(TypeError, match=message):
                function(make())


def test_numbers_within_objects_keep_their_bits():
    large = [2**62 + 1, 2**62 + 2]
    np.testing.assert_array_equal(as_integers(np.array(large, object), "x"), large)
    frame = pd.Series(large, dtype="Int64")
    np.testing.assert_array_equal(as_integers(frame, "x"), large)
    with pytest.raises(ValueError, match=r"x must be below 2\*\*63"):
        as_integers(np.array([2**63], np.uint64), "x")


@pytest.fixture
def without_x64() -> Iterator[None]:
    before = DTYPE.itemsize == 8
    jax.config.update("jax_enable_x64", False)
    said = list(arrays._said)
    arrays._said.clear()
    yield
    jax.config.update("jax_enable_x64", before)
    arrays._said[:] = said


@pytest.mark.usefixtures("without_x64")
def test_float64_without_x64_is_told_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        as_floating([1.5, 2.5], "x")  # lists have no width
        as_floating(np.float64(1.5), "x")
        as_floating(np.arange(3), "x")
        as_floating(np.array([2**24]), "x")
        assert not caught
        C.joint(X)
        C.rbf(X)
        as_floating(np.array([2**24 + 1]), "x")
        step_on(X)
    assert len(caught) == 1
    assert caught[0].category is UserWarning
    assert "jax_enable_x64" in str(caught[0].message)


@pytest.mark.usefixtures("without_x64")
def test_integers_that_float32_rounds_or_32_bits_cannot_hold_are_told():
    with pytest.warns(UserWarning, match=r"integers beyond 2\*\*24"):
        as_floating(np.array([2**24 + 1]), "times")
    with pytest.raises(ValueError, match="batch must hold integers of 32 bits"):
        step_on(np.array([2**40]))
    with pytest.raises(ValueError, match="x must be within float32; got 1e"):
        as_floating(np.array([1e39]), "x")


SMALL = np.random.default_rng(1).normal(size=(30, 3)) * 1e-60
BELOW = {
    "knn": lambda: C.knn(SMALL, 4),
    "rbf": lambda: C.rbf(SMALL),
    "cca": lambda: cx.evaluation.cca(SMALL / 1e-60, SMALL),
    "svd": lambda: cx.solvers.truncated_svd(SMALL, 2, key=jax.random.key(0)),
    "svd, sparse": lambda: cx.solvers.truncated_svd(
        scipy.sparse.csr_array(SMALL), 2, key=jax.random.key(0)
    ),
    "svd, complex": lambda: cx.solvers.truncated_svd(
        SMALL * 1j, 2, key=jax.random.key(0)
    ),
    "step": lambda: step_on(SMALL),
    "subnormal": lambda: as_floating(SMALL * 1e21, "x"),
}


@pytest.mark.usefixtures("without_x64")
@pytest.mark.parametrize("name", BELOW)
def test_numbers_all_below_float32_are_refused(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="must be within float32, whose smallest"):
            BELOW[name]()
        mixed = as_floating(np.array([1e-60, 1.0, 0.0]), "x")
        np.testing.assert_array_equal(mixed, [0, 1, 0])
        np.testing.assert_array_equal(as_floating(np.zeros(3), "x"), np.zeros(3))


COUNTS = np.array([[3, 0, 1], [0, 200, 55], [7, 7, 255]])
SCALES = {
    "uint8": lambda t: t.astype(np.uint8),
    "bool": lambda t: t > 0,
    "int64": lambda t: t.astype(np.int64) << 54,
    "huge": lambda t: t * 1e300,
    "tiny": lambda t: t * 1e-310,
    "beyond float32": lambda t: t * 1e38,
    "below float32": lambda t: t * 1e-60,
    "big-endian": lambda t: (t * 1e60).astype(">f8"),
}
TABLES: dict[str, Callable[[Any], Any]] = {
    "dense": C.joint,
    "graph": lambda t: C.graph(t | t.T if t.dtype == bool else t + t.T),
    "csr": lambda t: C.joint(scipy.sparse.csr_array(t)),
    "coo": lambda t: C.joint(scipy.sparse.coo_array(t)),
    "pairs": lambda t: C.pairs(*np.nonzero(t >= 0), t.reshape(-1), t.shape),
}
LAWS: dict[str, Callable[[Any], Any]] = {
    "conditional": C.conditional,
    "p_x": lambda t: C.conditional(np.ones((3, 3)), p_x=t[2]),
    "rbf": lambda t: C.rbf(np.eye(3), p_x=t[2]),
    "neighbors": lambda t: C.neighbors([[0, 1, 2]] * 3, t),
    "time_lag": lambda t: C.time_lag(9, (1, 2, 3), weights=t[2]),
    "new rows": lambda t: C.joint(np.eye(3)).at(t),
}


def of_native(table: np.ndarray) -> np.ndarray:
    """SciPy's own formats refuse foreign byte order in places."""
    return table.astype(table.dtype.newbyteorder("="))


@pytest.mark.usefixtures("without_x64")
@pytest.mark.parametrize("scale", SCALES)
def test_counts_of_any_range_are_their_law(scale):
    """In float32 as well: normalised in float64, then rounded once."""
    given = SCALES[scale](COUNTS)
    exact = of_native(given).astype(np.float64)
    exact = exact / exact.max()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, make in TABLES.items():
            table = of_native(given) if name in ("csr", "coo") else given
            if name == "graph" and scale == "uint8":
                table = (COUNTS // 2).astype(np.uint8)
            want = exact if name != "graph" else None
            got = np.asarray(make(table).table(), np.float64)
            if want is None:
                both = of_native(table).astype(np.float64)
                want = (both > 0) | (both.T > 0) if scale == "bool" else both + both.T
            want = want / want.max()
            np.testing.assert_allclose(got, want / want.sum(), rtol=2e-7, err_msg=name)
        for name, make in LAWS.items():
            rows = jax.tree.leaves(make(given))
            wanted = jax.tree.leaves(make(exact))
            for one, two in zip(rows, wanted, strict=True):
                np.testing.assert_allclose(one, two, rtol=3e-6, err_msg=name)


@pytest.mark.slow
def test_a_bcoo_of_small_integers_and_a_chain_of_integers():
    small = sparse.BCOO.fromdense(jnp.full((20, 20), 255, jnp.uint8))
    np.testing.assert_allclose(C.joint(small).table(), 1 / 400, rtol=1e-6)
    swap = C.markov(np.array([[0, 1], [1, 0]]))
    np.testing.assert_allclose(swap.table(), [[0, 0.5], [0.5, 0]])


NAMES = ["b", "a", "NA", "b", "None", "a", "NA", "None"]
NUMBERS = np.unique(NAMES, return_inverse=True)[1]


def pandas_series(values: Any, dtype: Any) -> Any:
    return pd.Series(values, dtype=dtype)


CLASSES: dict[str, Callable[[], Any]] = {
    "list": lambda: NAMES,
    "text": lambda: np.array(NAMES),
    "objects": lambda: np.array(NAMES, object),
    "bytes": lambda: np.array(NAMES, "S"),
    "StringDType": lambda: np.array(NAMES, np.dtypes.StringDType()),
    "pandas": lambda: pandas_series(NAMES, None),
    "categorical": lambda: pandas_series(NAMES, "category"),
    "polars": lambda: pl.Series(NAMES),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_classes_by_name_are_classes(kind):
    y = CLASSES[kind]()
    context = C.labels(y)
    assert context.classes.tolist() == ["NA", "None", "a", "b"]
    np.testing.assert_array_equal(context.codes, NUMBERS)
    np.testing.assert_array_equal(context.at(["None", "b"]).codes, [1, 3])
    np.testing.assert_array_equal(
        jax.jit(lambda c: c)(context).classes, context.classes
    )
    with pytest.raises(ValueError, match=r"among \['NA', 'None', 'a', 'b'\]; got 'c'"):
        context.at(["a", "c"])
    with pytest.raises(TypeError, match="x_new must hold classes as text; got dtype"):
        context.at([1])
    np.testing.assert_array_equal(C.same_class(y).groups.group, NUMBERS)
    phi = np.random.default_rng(0).normal(size=(8, 4))
    energy = cx.evaluation.class_energy
    left, p_x = np.linalg.qr(phi - phi.mean(axis=0))[0] * 8**0.5, np.full(8, 1 / 8)
    for some in (None, 4) if kind == "list" else ():
        got = energy(y, left, p_x, num_classes=some)
        want = energy(NUMBERS, left, p_x, num_classes=some)
        jax.tree.map(np.testing.assert_array_equal, got, want)
    for loss in (L.cross_entropy, lambda f, a: L.class_balanced(f, a, 4)):
        np.testing.assert_array_equal(loss(phi, y), loss(phi, NUMBERS))


def test_names_of_fewer_classes_than_there_are_have_no_number():
    with pytest.raises(ValueError, match=r"name all of 4 classes.* got 2 names"):
        L.cross_entropy(np.ones((2, 4)), ["a", "b"])


MISSING: dict[str, Callable[[], Any]] = {
    "None": lambda: ["a", None],
    "NaN": lambda: np.array(["a", np.nan], object),
    "NaN among numbers": lambda: np.array([1.0, np.nan]),
    "NA": lambda: pandas_series(["a", None], "category"),
    "nullable": lambda: pandas_series([1, None], "Int64"),
    "polars": lambda: pl.Series(["a", None]),
    "masked": lambda: np.ma.masked_array([1, 2], [False, True]),
}


@pytest.mark.parametrize("kind", MISSING)
@pytest.mark.parametrize("function", [C.labels, C.same_class])
def test_a_missing_class_is_refused(function, kind):
    with pytest.raises((TypeError, ValueError), match=r"missing|no mask"):
        function(MISSING[kind]())


@pytest.mark.parametrize("names", [["a", "a\0", "b"], [b"a", b"b", b"a\0"]])
@pytest.mark.parametrize("function", [C.labels, C.same_class])
def test_names_that_differ_by_a_nul_at_the_end_are_no_one_class(function, names):
    for given in (names * 2, np.array(names * 2, object)):
        with pytest.raises(ValueError, match="y must hold text that does not end in"):
            function(given)
    assert C.labels(["a", "a\0b", "\0a"]).num_classes == 3


def test_classes_of_several_types_are_refused_and_64_bits_kept():
    with pytest.raises(TypeError, match=r"one type; got 1 \(int\) .* 'a' \(str\)"):
        C.labels([1, "a"])
    with pytest.raises(TypeError, match="integer classes, or text; got dtype float64"):
        C.labels([1.0, 2.0])
    ids = [2**53, 2**53 + 1, 2**63 - 1]
    assert C.labels(ids).classes.tolist() == ids
    assert C.labels([*ids, 2**64 - 1]).classes.tolist() == [*ids, 2**64 - 1]
    assert C.labels(np.array(ids, object)).classes.tolist() == ids
    with pytest.raises(ValueError, match="integers of 64 bits"):
        C.labels([-1, 2**63])
    assert C.labels([True, False]).at([True]).codes.tolist() == [1]
