"""Contexts made of contexts: the laws of their algebra, on every pair of kinds.

Truth is made of the tables of the parts by NumPy in float64.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import contexture_jax as cx
from tests import oracle
from tests.conftest import SOME_DTYPES, X64
from tests.problems import features
from tests.tolerances import promised, tol

C = cx.contexts
DTYPE = np.float64 if X64 else np.float32
KEY = jax.random.key(3)
N, M = 14, 9
WEIGHTS = np.array([0.3, 0.7])


def table(dtype: Any, seed: int, holes: float = 0.0) -> np.ndarray:
    """Random rows of equal mass, some of whose entries are 0."""
    rng = np.random.default_rng(seed)
    rows = rng.gamma(0.5, size=(N, M)) + 0.01
    rows[rng.random((N, M)) < holes] = 0.0
    return (rows / rows.sum(axis=1, keepdims=True)).astype(dtype)


def ring(dtype: Any) -> np.ndarray:
    step = np.eye(N, dtype=dtype)[[*range(1, N), 0]]
    return step + step.T


PARTS: dict[str, Callable[[Any], Any]] = {
    "joint": lambda dtype: C.joint(table(dtype, 0)),
    "sparse": lambda dtype: C.joint(scipy.sparse.csr_array(table(dtype, 1, 0.6))),
    "knn": lambda dtype: C.knn(features(dtype), 4),
    "rbf": lambda dtype: C.rbf(features(dtype), 0.5),
    "attention": lambda dtype: C.attention(features(dtype) - 5, features(dtype, M) - 5),
    "teacher": lambda dtype: C.teacher(features(dtype)),
    "labels": lambda _: C.labels(np.arange(N) % 3),
    "same class": lambda _: C.same_class(np.arange(N) % 3),
    "graph": lambda dtype: C.graph(ring(dtype), lazy=True),
    "next token": lambda _: C.next_token(np.arange(N + 1) ** 2 % 5, 1),
    "chain": lambda dtype: C.compose(
        C.same_class(np.arange(N) % 2, include_self=True), C.knn(features(dtype), 3)
    ),
    "seen": lambda dtype: C.convex_combination(
        [C.knn(features(dtype), 3), C.labels(np.arange(N) % 2)], WEIGHTS
    ),
    "hidden": lambda dtype: C.mixture(
        [C.knn(features(dtype), 3), C.rbf(features(dtype), 2.0)], WEIGHTS
    ),
    "convolution": lambda dtype: C.convolve(
        C.knn(features(dtype), 5), C.rbf(features(dtype), 2.0)
    ),
}
"""Contexts on the same 14 inputs, uniformly distributed, of every kind."""


@functools.cache
def part(name: str, dtype: Any = DTYPE) -> Any:
    return PARTS[name](dtype)


def law_of(context: Any) -> np.ndarray:
    return np.asarray(context.table(), np.float64)


@functools.cache
def law(name: str, dtype: Any = DTYPE) -> np.ndarray:
    return law_of(part(name, dtype))


def walk(joint: np.ndarray) -> np.ndarray:
    """P(x, x\N{PRIME}) of a step of the dual kernel."""
    p_a = joint.sum(axis=0)
    return joint / np.where(p_a > 0, p_a, 1.0) @ joint.T


def conditional(joint: np.ndarray) -> np.ndarray:
    return joint / joint.sum(axis=1, keepdims=True)


def tables(one: str, two: str, dtype: Any = DTYPE) -> dict[str, np.ndarray]:
    """The joint laws that two contexts should make, by word."""
    A, B = law(one, dtype), law(two, dtype)
    found = {
        "convolve": walk(A) @ conditional(B),
        "convex": np.hstack([WEIGHTS[0] * A, WEIGHTS[1] * B]),
        "compose": A.T @ conditional(B),
    }
    if A.shape == B.shape:
        found["mixture"] = WEIGHTS[0] * A + WEIGHTS[1] * B
    return found


def made(word: str, one: Any, two: Any) -> Any:
    """The context that a word makes of two."""
    return {
        "convolve": lambda: C.convolve(one, two),
        "convex": lambda: C.convex_combination([one, two], WEIGHTS),
        "compose": lambda: C.compose(one.reverse(), two),
        "mixture": lambda: C.mixture([one, two], WEIGHTS),
    }[word]()


def matrix_of(op: Any, *, compiled: bool) -> np.ndarray:
    """T as one program, or by those of the parts, which all pairs share: N columns."""
    if compiled:
        return np.asarray(op.as_matrix())
    m = op.shape[1]
    eye = np.eye(m, -(-m // N) * N, dtype=op.dtype)
    blocks = [op._matmat(jnp.asarray(b)) for b in np.split(eye, eye.shape[1] // N, 1)]
    return np.concatenate(blocks, axis=1)[:, :m]


# All pairs in the dtype of the run; in the other each kind with itself.
PAIRS = [
    pytest.param(one, two, dtype, id=f"{one}, {two}-{np.dtype(dtype).name}")
    for dtype in dict.fromkeys([DTYPE, np.float32])
    for (i, one), (j, two) in itertools.product(enumerate(PARTS), repeat=2)
    if dtype == DTYPE or i == j
]
# Which comes first matters to a chain alone.
ORDERED = ("convolve", "compose")


@pytest.mark.fast(f"knn, labels-{np.dtype(DTYPE).name}")
@pytest.mark.parametrize(("one", "two", "dtype"), PAIRS)
def test_a_mixture_and_its_operator_are_those_of_the_tables(one, two, dtype):
    """The exact joint law, hence the marginals, in every storage of the parts."""
    for word, expected in tables(one, two, dtype).items():
        if word == "compose" and "reverse" not in part(one).capabilities:
            continue
        if word not in ORDERED and list(PARTS).index(one) > list(PARTS).index(two):
            continue
        context = made(word, part(one, dtype), part(two, dtype))
        atol = promised(dtype)
        np.testing.assert_allclose(context.table(), expected, atol=atol)
        op = cx.association_operator(context)
        joint = np.asarray(op.p_x)[:, None] * matrix_of(op, compiled=one == two)
        np.testing.assert_allclose(joint, expected, atol=atol)
        np.testing.assert_allclose(op.p_a, expected.sum(axis=0), atol=atol)
        found = oracle.singular_values(joint)
        values = oracle.singular_values(expected)
        np.testing.assert_allclose(found, values, atol=atol)
        if one != two:  # of the same rows as the table
            continue
        p_x = expected.sum(axis=1)
        x = np.array([0, len(p_x) - 1])
        kernel = (walk(expected) / np.outer(p_x, p_x))[x][:, x]
        np.testing.assert_allclose(context.kernel(x, x), kernel, atol=100 * atol)


@pytest.mark.parametrize("dtype", SOME_DTYPES)
def test_composing_and_convolving_weaken_and_hiding_the_index_too(dtype):
    """On every pair of kinds: s_i is at most that of each part."""

    def values(joint: np.ndarray) -> np.ndarray:
        return np.pad(oracle.singular_values(joint), (0, N))[:N]

    atol = promised(dtype)
    for one, two in itertools.product(PARTS, repeat=2):
        first, second = values(law(one, dtype)), values(law(two, dtype))
        found = {word: values(joint) for word, joint in tables(one, two, dtype).items()}
        assert (found["convolve"] <= np.minimum(first**2, second) + atol).all()
        assert (found["compose"] <= np.minimum(first, second) + atol).all()
        # Visible: T T* = Σ w T_j T_j*, whose largest values sum to at most the mean.
        mixed = WEIGHTS @ np.cumsum([first**2, second**2], axis=1)
        assert (np.cumsum(found["convex"] ** 2) <= mixed + N * atol).all()
        if "mixture" in found:
            assert (found["mixture"] <= found["convex"] + atol).all()


def test_a_context_mixed_with_itself_and_chains_that_are_one():
    context, other = part("knn"), part("rbf")
    alone = oracle.singular_values(law("knn"))
    twice = oracle.singular_values(law_of(C.convex_combination([context] * 2, WEIGHTS)))
    atol = promised(DTYPE)
    np.testing.assert_allclose(twice, alone, atol=atol)
    np.testing.assert_allclose(law_of(C.mixture([context] * 3)), law("knn"), atol=atol)
    cubed = oracle.singular_values(law_of(C.convolve(context, context)))
    np.testing.assert_allclose(cubed, alone**3, atol=atol)
    # The same tree of parts, and not only the same law.
    nested = C.convolve(context, C.convolve(other, context))
    flat = C.convolve(context, other, context)
    np.testing.assert_array_equal(nested.fingerprint, flat.fingerprint)
    walks = [part("same class"), part("graph"), part("teacher")]
    left = C.compose(C.compose(*walks[:2]), walks[2])
    right = C.compose(walks[0], C.compose(*walks[1:]))
    np.testing.assert_array_equal(left.fingerprint, right.fingerprint)
    assert C.convolve(context) is context


def test_the_seen_mixture_is_the_sum_of_dual_kernels_and_not_the_hidden_one():
    parts = [part("knn"), part("rbf")]
    x = np.arange(N)
    seen, hidden = C.convex_combination(parts, WEIGHTS), C.mixture(parts, WEIGHTS)
    kernels = [np.asarray(c.kernel(x, x)) for c in parts]
    expected = WEIGHTS[0] * kernels[0] + WEIGHTS[1] * kernels[1]
    np.testing.assert_allclose(seen.kernel(x, x), expected, atol=promised(DTYPE))
    values = [oracle.singular_values(law_of(c))[:5] for c in (seen, hidden)]
    assert (values[0] - values[1] > 0.01).all()


def test_families_with_common_functions_multiply_and_mix_exactly():
    """Parities under flips and erasures, translations under walks on a ring."""
    zoo = cx.zoo
    for one, two in [
        (zoo.binary_symmetric(3, 0.1), zoo.erasure(3, 0.3)),
        (zoo.cyclic([0.3, 0, 0, 0, 0.7, 0, 0, 0]), zoo.lazy_ring(8, 0.2)),
    ]:
        for mixed, expected in [
            (C.convolve(one, two), zoo.convolve(one, two)),
            (C.convolve(one, two, two), zoo.convolve(one, two, two)),
            (C.convex_combination([one, two]), zoo.convex_combination([one, two])),
        ]:
            np.testing.assert_allclose(
                oracle.singular_values(mixed.table()),
                expected.spectrum(7),
                atol=promised(DTYPE),
            )


EXTENDED = {
    "convolve": lambda a, b: C.convolve(a, b),
    "convex": lambda a, b: C.convex_combination([a, b], WEIGHTS),
    "mixture": lambda a, b: C.mixture([a, b], WEIGHTS),
    "nested": lambda a, b: C.convex_combination(
        [C.convolve(a, b), C.mixture([a, C.convolve(b, b)])], WEIGHTS
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXTENDED)
def test_functions_extend_to_new_inputs_and_give_the_known_ones_back(name):
    context = EXTENDED[name](part("knn"), part("rbf"))
    result, _ = cx.svd(cx.association_operator(context), 2, key=KEY)
    back = cx.extend(result, context, features(DTYPE))
    np.testing.assert_allclose(back, result.left, atol=promised(DTYPE))
    new = features(DTYPE)[:3] + 0.1
    there = context.at(new)
    op = cx.association_operator(there)
    joint = np.asarray(op.p_x)[:, None] * np.asarray(op.as_matrix())
    np.testing.assert_allclose(joint, there.table(), atol=tol(DTYPE, factor=100))
    np.testing.assert_allclose(op.p_a, joint.sum(axis=0), atol=tol(DTYPE, factor=100))
    means = np.asarray(op.as_matrix()) @ np.asarray(result.right)
    expected = means / np.asarray(result.singular_values)
    found = cx.extend(result, context, new)
    np.testing.assert_allclose(found, expected, atol=promised(DTYPE))


@pytest.mark.slow
def test_laws_at_any_input_are_mixed_by_their_samples_and_densities():
    x = jnp.asarray(features(DTYPE))
    parts = [C.gaussian_noise(0.5), C.gaussian_noise(2.0)]
    hidden = C.mixture(parts, WEIGHTS)
    assert hidden.capabilities == ("sample", "log_density")
    assert C.check_density(hidden, x, key=KEY).p_value > 1e-3
    seen = C.convex_combination(parts, WEIGHTS)
    a = seen.sample(KEY, x)
    rows = np.arange(N)
    drawn = np.stack(a.values)[a.number, rows]
    logs = [
        np.log(WEIGHTS[j])
        + float(parts[j].log_density(drawn[i : i + 1], x[i : i + 1])[0])
        for i, j in zip(rows, np.asarray(a.number), strict=True)
    ]
    np.testing.assert_allclose(seen.log_density(a, x), logs, rtol=tol(DTYPE, size=10))
    assert (np.stack(a.values)[1 - a.number, rows] == 0).all()
    # On rows of data, as the messages say, they go with contexts between numbers.
    drawn = cx.operators.monte_carlo_operator(parts[0], x, 200, key=KEY)
    finite = C.conditional(drawn.as_matrix())
    mixed: Any = C.convolve(finite, C.convex_combination([finite, part("knn")]))
    assert mixed.shape == (
        N,
        200 + N,
    )


def unlike() -> Any:
    """Of the same inputs, with another law of them."""
    return C.conditional(table(DTYPE, 0), np.arange(1.0, N + 1))


BAD = [
    (lambda: C.convolve(), TypeError, "convolve needs at least one context"),
    (lambda: C.convolve(part("knn"), 3), TypeError, r"contexts\[1\] must be a Context"),
    (
        lambda: C.convolve(C.gaussian_noise(1.0), part("knn")),
        cx.CapabilityError,
        "no `table`; it has: sample, log_density: convolve takes a step back",
    ),
    (
        lambda: C.convolve(part("knn"), C.labels([0, 1])),
        ValueError,
        r"same inputs; contexts\[0\], a Neighbors, has 14 and .*, 2",
    ),
    (
        lambda: C.convex_combination([part("knn"), unlike()]),
        ValueError,
        r"one law of X; those of .* differ by 0\.\d+.*give both one law, as cx",
    ),
    (
        lambda: C.compose(part("knn"), part("knn")),
        ValueError,
        r"the law of A in contexts\[0\].*`convolve` takes any two",
    ),
    (
        lambda: C.compose(part("joint"), part("knn")),
        ValueError,
        "they have 9 and 14 values",
    ),
    (
        lambda: C.compose(part("knn"), C.gaussian_noise(1.0)),
        TypeError,
        r"contexts\[0\], a Neighbors, has numbers and contexts\[1\], a GaussianNoise,",
    ),
    (
        lambda: C.mixture([part("knn"), C.gaussian_noise(1.0)]),
        TypeError,
        "inputs of one kind.*on_rows",
    ),
    (
        lambda: C.mixture([part("knn"), part("joint")]),
        ValueError,
        r"got \[14, 9\] of them: where they differ, convex_combination",
    ),
    (
        lambda: C.mixture([part("knn")] * 2, [1.5, -0.5]),
        ValueError,
        "weights of mixture must be finite and non-negative; got -0.5",
    ),
    (
        lambda: C.mixture([part("knn")] * 2, [1, 1]),
        ValueError,
        "weights of mixture must sum to 1, as weights / sum",
    ),
    (
        lambda: C.mixture([part("knn")] * 2, [1.0]),
        ValueError,
        "weights of mixture must have length 2; got 1",
    ),
    (
        lambda: jax.eval_shape(
            lambda w: C.mixture([part("knn")] * 2, w).weights, WEIGHTS
        ),
        TypeError,
        "weights of mixture must be concrete; got a tracer: operators take traced",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_what_does_not_fit_is_refused_in_a_line_that_says_what_would(
    call, error, message
):
    with pytest.raises(error, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)


def tuples(*names: str) -> np.ndarray:
    """The joint law of X and the tuple, with a column for each."""
    rows = [conditional(law(name)) for name in names]
    joint = rows[0] / N
    for more in rows[1:]:
        joint = (joint[:, :, None] * more[:, None, :]).reshape(N, -1)
    return joint


LAWS = [name for name in PARTS if name != "teacher"]


@pytest.mark.parametrize(
    "names",
    [
        ("knn", "labels"),
        ("joint", "rbf"),
        ("sparse", "knn", "labels"),
        *[
            pytest.param(pair, marks=pytest.mark.slow)
            for pair in itertools.combinations_with_replacement(LAWS, 2)
        ],
    ],
)
def test_a_join_is_exact_and_stronger_than_its_parts(names):
    """By the dual kernel of the whole table of tuples, which the join never makes."""
    expected = tuples(*names)
    context = C.join([part(name) for name in names])
    op = cx.association_operator(context)
    assert op.shape[1] <= max(N, context.num_entries())
    atol = promised(DTYPE)
    np.testing.assert_allclose(op.p_x, expected.sum(axis=1), atol=atol)
    joint = np.asarray(op.p_x)[:, None] * np.asarray(op.as_matrix())
    found, wanted = (oracle.singular_values(t)[: N - 1] for t in (joint, expected))
    np.testing.assert_allclose(found, wanted, atol=atol)
    x = np.arange(N)
    np.testing.assert_allclose(
        context.kernel(x, x), walk(expected) * N**2, atol=100 * atol
    )
    for name in names:
        alone = np.pad(oracle.singular_values(law(name)), (0, N))[: len(wanted)]
        assert (wanted >= alone - atol).all()


def test_kernels_multiply_only_where_what_is_joined_is_independent():
    one, two = part("joint"), part("rbf")
    x = np.arange(N)
    both = np.asarray(one.kernel(x, x)) * np.asarray(two.kernel(x, x))
    assert np.abs(np.asarray(C.join([one, two]).kernel(x, x)) - both).max() > 0.1
    # X = (X₁, X₂) with independent parts, of which each context sees its own.
    first, second = ([[3, 1, 1], [1, 2, 2]], [[4, 1], [1, 3], [1, 5]])
    rows = [np.repeat(first, 3, axis=0), np.tile(second, (2, 1))]
    p_x = np.kron([5, 5], [5, 4, 6])
    parts = [C.conditional(r / r.sum(axis=1, keepdims=True), p_x) for r in rows]
    x = np.arange(6)
    product = np.asarray(parts[0].kernel(x, x)) * np.asarray(parts[1].kernel(x, x))
    found = C.join(parts).kernel(x, x)
    np.testing.assert_allclose(found, product, atol=promised(DTYPE))


def test_joins_of_the_zoo_have_their_closed_form_and_are_joins_at_every_level():
    zoo = cx.zoo
    parts = [zoo.erasure(3, 0.5), zoo.erasure(3, 0.4)]
    expected = np.asarray(zoo.erasure(3, 0.2).spectrum(7))
    np.testing.assert_allclose(zoo.join(parts).spectrum(7), expected, atol=1e-6)
    tables = [C.joint(np.asarray(c.table())) for c in parts]
    operators = [cx.association_operator(t) for t in tables]
    for op in (cx.association_operator(C.join(tables)), cx.operators.join(operators)):
        joint = np.asarray(op.p_x)[:, None] * np.asarray(op.as_matrix())
        found = oracle.singular_values(joint)[:7]
        np.testing.assert_allclose(found, expected, atol=promised(DTYPE))
    normal = zoo.join([zoo.gaussian(0.6), zoo.gaussian(-0.8)])
    np.testing.assert_allclose(normal.total_energy(), 0.36 / 0.64 + 0.64 / 0.36)
    with pytest.raises(ValueError, match=r"must be normals.*contexts\.join is exact"):
        zoo.join([zoo.gaussian(0.5), zoo.erasure(3, 0.5)])


def test_joins_go_into_mixtures_and_joins():
    a, b, c = part("knn"), part("labels"), part("rbf")
    nested, flat = C.join([C.join([a, b]), c]), C.join([a, b, c])
    np.testing.assert_array_equal(nested.fingerprint, flat.fingerprint)
    # By T T* and not by a table, which it has none of.
    both = C.convex_combination([C.join([a, b]), c], WEIGHTS)
    op = cx.association_operator(both)
    f = jnp.eye(N, dtype=op.dtype)
    kernel = np.asarray(op.matmat(op.rmatmat(f))) * N
    x = np.arange(N)
    parts = [np.asarray(k.kernel(x, x)) for k in (C.join([a, b]), c)]
    expected = WEIGHTS[0] * parts[0] + WEIGHTS[1] * parts[1]
    np.testing.assert_allclose(kernel, expected, atol=100 * promised(DTYPE))
    drawn = both.sample(KEY, x)
    assert drawn.number.shape == (N,)
    assert np.isfinite(both.log_density(drawn, x)).all()


def hidden_joins(kind: str) -> tuple[Any, Any, np.ndarray]:
    """A mixture of joins, what it takes at its own inputs, and its table of tuples."""
    own = features(DTYPE)
    if kind == "sparse":
        # In other classes of as many: tuples of which one join alone has some.
        classes = [np.arange(N) % 3, np.arange(N) * 2 % 5 % 3]
        one, two = (
            [C.knn(own, size), C.labels(y)]
            for size, y in zip((4, 3), classes, strict=True)
        )
        given: Any = tuple((own, y) for y in classes)
    else:
        one, two = ([part("knn"), part("rbf")], [part("rbf"), C.rbf(own, 2.0)])
        given = own
    whole = [
        (
            conditional(law_of(a))[:, :, None] * conditional(law_of(b))[:, None, :]
        ).reshape(N, -1)
        for a, b in (one, two)
    ]
    context: Any = C.mixture([C.join(one), C.join(two)], WEIGHTS)
    assert context.is_sparse == (kind == "sparse")
    return context, given, np.tensordot(WEIGHTS, whole, 1) / N


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_a_hidden_mixture_of_joins_is_exact(kind):
    context, _, expected = hidden_joins(kind)
    op = cx.association_operator(context)
    joint = np.asarray(op.p_x)[:, None] * np.asarray(op.as_matrix())
    found, wanted = (oracle.singular_values(t)[: N - 1] for t in (joint, expected))
    np.testing.assert_allclose(found, wanted, atol=promised(DTYPE))
    kernel = walk(expected) * N**2
    own = joint / np.asarray(op.p_a) @ joint.T * N**2
    np.testing.assert_allclose(own, kernel, atol=100 * promised(DTYPE))
    x = np.arange(N)
    np.testing.assert_allclose(context.kernel(x, x), kernel, atol=100 * promised(DTYPE))
    # As one mixture of all joins, whichever are mixed first.
    halves = [C.mixture([join], [1.0]) for join in context.contexts]
    again = C.mixture(halves, WEIGHTS)
    np.testing.assert_array_equal(again.fingerprint, context.fingerprint)
    seen = cx.association_operator(C.convex_combination(context.contexts, WEIGHTS))
    stronger = oracle.singular_values(
        np.asarray(seen.p_x)[:, None] * np.asarray(seen.as_matrix())
    )
    assert (found <= stronger[: len(found)] + promised(DTYPE)).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_functions_of_a_hidden_mixture_of_joins_extend(kind):
    context, given, _ = hidden_joins(kind)
    result, _ = cx.svd(cx.association_operator(context), 3, key=KEY)
    back = cx.extend(result, context, given)
    np.testing.assert_allclose(back, result.left, atol=promised(DTYPE))


def test_a_join_of_the_zoo_has_the_operator_of_its_tables():
    parts = [cx.zoo.cyclic([0.5, 0.3, 0.0, 0.2]), cx.zoo.lazy_ring(4, 0.2)]
    rows = [conditional(law_of(part)) for part in parts]
    expected = (rows[0][:, :, None] * rows[1][:, None, :]).reshape(4, -1) / 4
    op = cx.association_operator(C.join(parts))
    joint = np.asarray(op.p_x)[:, None] * np.asarray(op.as_matrix())
    np.testing.assert_allclose(
        oracle.singular_values(joint),
        oracle.singular_values(expected),
        atol=promised(DTYPE),
    )


@pytest.mark.slow
def test_tuples_are_drawn_where_there_is_no_table_of_them():
    """The dual kernel by Monte Carlo over tuples, with its error."""
    context = C.join([part("knn"), part("rbf")])
    x = np.arange(N)
    op = cx.operators.monte_carlo_operator(context, x, 4000, key=KEY)
    found = cx.operators.monte_carlo_kernel(op, x[:4], x, level=0.999)
    exact = np.asarray(context.kernel(x[:4], x))
    inside = (found.lower <= exact) & (exact <= found.upper)
    assert inside.mean() > 0.95
    assert np.abs(np.asarray(found.estimate) - exact).max() < 0.5 * exact.max()


def joined(kind: str) -> Any:
    """Stored by the tuples that occur, or by its root."""
    second = {"sparse": C.knn(features(DTYPE), 3), "dense": part("rbf")}[kind]
    context = C.join([part("knn"), second])
    assert context.is_sparse == (kind == "sparse")
    return context


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_a_join_at_new_inputs_keeps_its_functions(kind):
    context = joined(kind)
    result, _ = cx.svd(cx.association_operator(context), 3, key=KEY)
    back = cx.extend(result, context, features(DTYPE))
    np.testing.assert_allclose(back, result.left, atol=promised(DTYPE))
    # Between rows, where each part alone knows what to do.
    new = features(DTYPE)[:4] + 0.05
    there = context.at(new)
    known, others = (
        [np.asarray(c.table()) for c in joins]
        for joins in (context.contexts, there.contexts)
    )
    one, two = (
        (conditional(a)[:, :, None] * conditional(b)[:, None, :]).reshape(len(a), -1)
        for a, b in (known, others)
    )
    p_a = one.mean(axis=0)
    cross = two @ (one / np.where(p_a > 0, p_a, 1.0)).T
    squares = np.asarray(result.singular_values) ** 2
    expected = cross @ np.asarray(result.left) / N / squares
    found = cx.extend(result, context, new)
    np.testing.assert_allclose(found, expected, atol=promised(DTYPE))
    drawn = there.sample(KEY, np.arange(4))
    assert np.isfinite(there.log_density(drawn, np.arange(4))).all()
    if kind == "dense":  # whose tuples are all known
        op = cx.association_operator(there)
        means = np.asarray(op.matmat(result.right)) / np.sqrt(squares)
        np.testing.assert_allclose(means, expected, atol=promised(DTYPE))
        both = C.convex_combination([context, part("labels")], WEIGHTS)
        mixed, _ = cx.svd(cx.association_operator(both), 2, key=KEY)
        given = (features(DTYPE), np.arange(N) % 3)
        back = cx.extend(mixed, both, given)
        np.testing.assert_allclose(back, mixed.left, atol=promised(DTYPE))


JOIN_BAD = [
    (
        lambda: cx.association_operator(joined("sparse").at(features(DTYPE)[:9] * 2)),
        ValueError,
        "x_new has tuples that no input of the join has, of probability",
    ),
    (lambda: C.join([part("teacher")]), cx.CapabilityError, "takes laws P⁺"),
    (
        lambda: C.join([part("knn"), unlike()]),
        ValueError,
        "join takes contexts with one law of X",
    ),
    (
        lambda: cx.association_operator(C.join([C.gaussian_noise(1.0)] * 2)),
        cx.CapabilityError,
        "monte_carlo_operator",
    ),
    (
        lambda: C.mixture(
            [
                C.join([part("knn"), part("labels")]),
                C.join([part("labels"), part("knn")]),
            ]
        ),
        ValueError,
        r"got \[\(14, 3\), \(3, 14\)\] of them: where they differ, convex_combination",
    ),
    (
        lambda: cx.association_operator(
            C.mixture([C.join([C.joint(np.ones((64, 64)))] * 4)] * 2)
        ),
        ValueError,
        "at most 67108864; got 1073741824: draw tuples by",
    ),
    (
        lambda: cx.association_operator(
            C.mixture([C.join([C.gaussian_noise(1.0)] * 2)] * 2)
        ),
        cx.CapabilityError,
        "a MixtureOfJoins context has no `kernel`.*monte_carlo_operator",
    ),
    (
        lambda: C.join([C.joint(np.ones((64, 64)))] * 4).kernel([0], [0]),
        ValueError,
        "at most 67108864; got 1073741824: draw tuples by",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), JOIN_BAD)
def test_joins_that_cannot_be_are_refused_with_a_way_out(call, error, message):
    with pytest.raises(error, match=message):
        call()
