"""One contract for every kind of context: what its methods mean, and a key a row."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import contexture_jax as cx
from tests.contexts.test_density import KINDS
from tests.problems import CONTEXTS, holey_table, symmetric_weights
from tests.tolerances import MONTE_CARLO_SIGMAS, tol

C = cx.contexts
DTYPE = jnp.zeros(()).dtype
KEY = jax.random.key(11)
NUM = 2000  # draws of a row

NUMBERED = {
    **{
        name: functools.partial(CONTEXTS[name], DTYPE)
        for name in ("joint", "pairs", "knn", "neighbors", "rbf", "attention")
    },
    "sparse joint": lambda: C.joint(scipy.sparse.csr_array(holey_table(DTYPE))),
    "joint with zeros": lambda: C.joint(holey_table(DTYPE)),
    "sparse graph": lambda: C.graph(
        scipy.sparse.csr_array(symmetric_weights(DTYPE)), lazy=True
    ),
    "reversed pairs": lambda: CONTEXTS["pairs"](DTYPE).reverse(),
    "new rows of pairs": lambda: CONTEXTS["pairs"](DTYPE).at(np.eye(4) + 1),
    "markov": lambda: C.markov(np.array([[0.5, 0.5], [0.9, 0.1]], DTYPE)),
    "labels": lambda: C.labels(list("abcab")),
    "same class": lambda: C.same_class([0, 1, 0, 0, 1]),
    "time lag": lambda: C.time_lag([4, 3], (-1, 1, 2), [1, 2, 3]),
    "next token": lambda: C.next_token([0, 1, 2, 0, 1, 0, 1, 2], 2),
    "new rows of classes": lambda: C.same_class([5, 7, 5, 9, 9, 5, 7]).at([7, 5, 7]),
    "some times": lambda: C.time_lag([4, 3], (-1, 1, 2), [1, 2, 3]).at([5, 1, 1]),
    "new windows": lambda: C.next_token([0, 1, 2, 0, 1, 0, 1], 1).at([[1], [0]]),
    "convolution": lambda: C.convolve(
        CONTEXTS["knn"](DTYPE), C.same_class([0, 1] * 7), CONTEXTS["rbf"](DTYPE)
    ),
    "mixture that is seen": lambda: C.convex_combination(
        [CONTEXTS["knn"](DTYPE), C.labels([0, 1] * 7)], [0.3, 0.7]
    ),
    "mixture that is not seen": lambda: C.mixture(
        [CONTEXTS["knn"](DTYPE), CONTEXTS["rbf"](DTYPE)], [0.3, 0.7]
    ),
    "chain of tables": lambda: C.compose(
        CONTEXTS["pairs"](DTYPE).reverse(), CONTEXTS["pairs"](DTYPE)
    ).reverse(),
    "reversed mixture": lambda: C.mixture(
        [CONTEXTS["knn"](DTYPE), CONTEXTS["rbf"](DTYPE)]
    ).reverse(),
    "new rows of a convolution": lambda: C.convolve(
        CONTEXTS["knn"](DTYPE), CONTEXTS["rbf"](DTYPE)
    ).at(np.arange(6.0).reshape(2, 3) + 3),
}


@jax.jit
def everything(context: Any, x: Any) -> Any:
    """What a context says of rows: draws of each, in one block and in two."""
    many = jnp.repeat(x, NUM)
    half = many.shape[0] // 2
    parts = (
        context.sample(KEY, many[:half]),
        context.sample(KEY, many[half:], row_offset=half),
    )
    columns = jnp.arange(context.shape[1])
    return {
        "table": context.table(),
        "draws": context.sample(KEY, many),
        "parts": jnp.concatenate(parts),
        "logs": context.log_density(columns[None, :], x[:, None]),
        "kernel": context.kernel(x, x),
    }


@pytest.mark.fast("knn", "labels", "pairs")
@pytest.mark.parametrize("name", NUMBERED)
def test_methods_on_numbers_are_those_of_the_table(name):
    context = NUMBERED[name]()
    table = np.asarray(context.table(), np.float64)
    x = np.flatnonzero(table.sum(axis=1))[:4]
    found = everything(context, jnp.asarray(x))
    rows = table[x] / table[x].sum(axis=1, keepdims=True)
    p_a = table.sum(axis=0)
    atol = tol(found["table"].dtype, factor=500)
    np.testing.assert_allclose(found["table"], table, atol=atol)
    np.testing.assert_allclose(np.exp(found["logs"]), rows, atol=atol)
    kernel = rows / np.where(p_a > 0, p_a, 1.0) @ rows.T
    np.testing.assert_allclose(found["kernel"], kernel, atol=atol * kernel.max())
    np.testing.assert_array_equal(found["parts"], found["draws"])
    assert found["draws"].dtype == jnp.int32
    for law, drawn in zip(rows, found["draws"].reshape(-1, NUM), strict=True):
        share = np.bincount(drawn, minlength=len(p_a)) / NUM
        error = MONTE_CARLO_SIGMAS * np.sqrt(law * (1 - law) / NUM)
        assert (np.abs(share - law) <= error + 1e-6).all()


VECTORS = jax.random.normal(jax.random.key(0), (40, 4), DTYPE)
BITS = (VECTORS > 0).astype(DTYPE)
IMAGES = jax.random.normal(jax.random.key(1), (40, 3, 4, 2), DTYPE)
TOKENS = jax.random.randint(jax.random.key(2), (40, 6), 0, 9)


class Unregistered(C.SamplingContext):
    """Of one's own, and no pytree."""

    def _draw(self, key: Any, x: Any) -> Any:
        return x[:2] + jax.random.normal(key, (2,), x.dtype)

    def _log_density(self, a: Any, x: Any) -> Any:
        return jax.scipy.stats.norm.logpdf(a, x[:2]).sum()


class Walk:
    """No context at all, but it has the methods: a step to 0, 1 or 2 from a number."""

    def sample(self, key: Any, x: Any, *, row_offset: Any = 0) -> Any:
        keys = C.row_keys(key, len(x), row_offset)
        step = jax.vmap(lambda k: jax.random.randint(k, (), 0, 3))(keys)
        return jnp.asarray(x) + step

    def log_density(self, a: Any, x: Any) -> Any:
        step = jnp.asarray(a) - jnp.asarray(x)
        return jnp.where((step >= 0) & (step < 3), -jnp.log(3.0), -jnp.inf)


LAWS = {
    "noise": (lambda: C.gaussian_noise(1.0), VECTORS),
    "erasure": (lambda: C.erasure(0.4, fill=2), BITS),
    "mask": (lambda: C.coordinate_mask(2, fill=2), BITS),
    "block": (lambda: C.block_mask(2, fill=2), BITS),
    "scarf": (lambda: C.scarf(BITS, 0.4), BITS),
    "corruption": (lambda: C.corruption(VECTORS, 0.6), VECTORS),
    "cutmix": (lambda: C.cutmix(BITS, 0.4), BITS),
    "crop": (lambda: C.crop(2), IMAGES),
    "shift": (lambda: C.shift(1), IMAGES),
    "flip": (lambda: C.flip(0.3), IMAGES),
    "cutout": (lambda: C.cutout(2), IMAGES),
    "tokens": (
        lambda: C.masked_tokens(0.4, mask_token=9, vocabulary_size=9),
        TOKENS,
    ),
    "chain": (lambda: C.compose(C.gaussian_noise(1.0), Unregistered()), VECTORS),
    "chain of numbers": (
        lambda: C.compose(C.labels([0, 1] * 20), C.joint([[1, 2, 1], [2, 0, 2]])),
        jnp.arange(40),
    ),
    "of one's own": (Unregistered, VECTORS),
    "no context": (Walk, jnp.arange(40)),
    # Of the others the test above compares parts, draws and densities with the table.
    **{name: (NUMBERED[name], None) for name in ("rbf", "sparse joint", "time lag")},
}


def inputs_of(name: str) -> tuple[Any, Any]:
    make, x = LAWS[name]
    context = make()
    if x is None:
        rows = np.flatnonzero(np.asarray(context.table()).sum(axis=1))
        x = jnp.asarray(np.resize(rows, 40))
    return context, x


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
def test_rows_keep_their_draws_in_any_block_and_densities_are_of_the_sampler(name):
    context, x = inputs_of(name)
    whole = context.sample(KEY, x)
    assert len(whole) == 40
    for start, end in ((0, 20), (20, 40)):
        part = context.sample(KEY, x[start:end], row_offset=start)
        np.testing.assert_array_equal(part, whole[start:end])
    if "log_density" not in C.as_context(context).capabilities:
        return
    logs = context.log_density(whole, x)
    assert logs.shape == (40,)
    assert jnp.issubdtype(logs.dtype, jnp.floating)
    assert np.isfinite(logs).all()
    if name in KINDS:  # which `test_density` judges
        return
    found = C.check_density(context, x, key=KEY, num_samples=400)
    assert found.num_impossible == 0
    assert found.p_value > 1e-4


# One of each class: parameters have no part in whose key a row draws by.
DRAWN = {
    type(context): name
    for name, make in reversed(cx.zoo.FAMILIES.items())
    if {"sample", "inputs"} <= set((context := make()).capabilities)
}.values()


@pytest.mark.fast("gaussian")
@pytest.mark.parametrize("name", DRAWN)
def test_families_of_the_zoo_keep_the_draws_of_a_row(name):
    context = cx.zoo.FAMILIES[name]()
    x = np.asarray(context.inputs())
    x = jnp.asarray(x[np.arange(40) % len(x)])
    whole = context.sample(KEY, x)
    part = context.sample(KEY, x[20:], row_offset=20)
    np.testing.assert_array_equal(part, whole[20:])
    folded = context.sample(KEY, x.reshape(5, 8, *x.shape[1:]))
    np.testing.assert_array_equal(folded.reshape(whole.shape), whole)


def test_shares_of_a_long_row_are_drawn_to_a_part_in_two_to_the_32():
    size = 2**17
    context = C.pairs(np.zeros(size, int), np.arange(size))
    widths = np.diff(np.asarray(context.ends, np.int64), prepend=-1)
    assert (np.abs(widths - 2**15) <= 1).all()
    assert widths.sum() == 2**32


@pytest.mark.parametrize("make", [np.asarray, scipy.sparse.csr_array])
def test_a_row_without_mass_has_no_law(make):
    context = C.joint(make(holey_table(DTYPE)))
    message = "x must hold numbers of rows with mass; got 3"
    for call in (
        lambda: context.sample(KEY, [0, 3]),
        lambda: context.log_density([0, 0], [0, 3]),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_any_object_with_the_methods_is_a_context():
    adopted = C.as_context(Walk())
    assert adopted.capabilities == ("sample", "log_density")
    with pytest.raises(cx.CapabilityError, match="a Walk context has no `table`; it"):
        cx.association_operator(Walk())
    for given in (None, [1, 2], np.eye(2), Walk):
        with pytest.raises(TypeError, match="or an object with methods of one"):
            C.as_context(given)
