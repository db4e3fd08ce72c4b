"""Contexts made of contexts: the laws of their algebra, on every pair of kinds.

Truth is made of the tables of the parts by NumPy in float64.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from tests import oracle
from tests.conftest import SOME_DTYPES
from tests.contexts.parts import (
    DTYPE,
    KEY,
    PARTS,
    WEIGHTS,
    C,
    N,
    conditional,
    law,
    law_of,
    part,
    unlike,
    walk,
)
from tests.problems import features
from tests.tolerances import promised, tol


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


# All pairs in the dtype of the run; in the other two storages with themselves. Which
# comes first matters to a chain alone: each kind is first in half of its pairs.
NARROW = ("sparse", "rbf")
PAIRS = [
    pytest.param(one, two, dtype, id=f"{one}, {two}-{np.dtype(dtype).name}")
    for dtype in dict.fromkeys([DTYPE, np.float32])
    for (i, one), (j, two) in itertools.product(enumerate(PARTS), repeat=2)
    if i == j or (i < j) == ((i + j) % 2 == 0)
    if dtype == DTYPE or (i == j and one in NARROW)
]


@pytest.mark.fast(f"knn, labels-{np.dtype(DTYPE).name}")
@pytest.mark.parametrize(("one", "two", "dtype"), PAIRS)
def test_a_mixture_and_its_operator_are_those_of_the_tables(one, two, dtype):
    """The exact joint law, hence the marginals, in every storage of the parts."""
    for word, expected in tables(one, two, dtype).items():
        if word == "compose" and "reverse" not in part(one).capabilities:
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_a_step_leads_into_a_chain_at_new_inputs():
    """Between whose parts the laws are not theirs."""
    there = C.compose(part("knn"), part("knn").reverse()).at(features(DTYPE)[:4] + 0.1)
    step = C.labels([0, 1, 0, 1])
    expected = walk(law_of(step)) @ conditional(law_of(there))
    op = cx.association_operator(C.convolve(step, there))
    joint = np.asarray(op.p_x)[:, None] * np.asarray(op.as_matrix())
    np.testing.assert_allclose(joint, expected, atol=promised(DTYPE))
    np.testing.assert_allclose(op.p_a, expected.sum(axis=0), atol=promised(DTYPE))


@pytest.mark.parametrize(
    "context",
    [
        C.same_class([0, 1, 1, 0]),
        C.same_class([0, 1, 1, 0]).at([1, 1, 0]),
        C.time_lag([3, 2], (-1, 1)),
        C.compose(C.labels([0, 1]), C.joint(np.eye(2) + 1)).at([0, 1, 1]),
    ],
    ids=["same class", "new rows of classes", "time lag", "chain at new inputs"],
)
def test_finite_kinds_without_a_reverse_of_their_own_have_one(context):
    back = C.reverse(context)
    expected = law_of(context).T
    np.testing.assert_allclose(back.table(), expected, atol=promised(DTYPE))
    op = cx.association_operator(back)
    assert op.shape == expected.shape
    np.testing.assert_allclose(op.p_x, expected.sum(axis=1), atol=promised(DTYPE))


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


BAD = [
    (
        lambda: C.reverse(C.join([part("knn"), part("labels")])),
        cx.CapabilityError,
        "a Joined context has no `reverse`; it has: sample, log_density, kernel, at",
    ),
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


def test_concrete_contexts_are_mixed_inside_a_trace():
    parts = [part("knn"), part("labels")]

    @jax.jit
    def weights(w):
        C.convolve(*parts)
        return w * C.convex_combination(parts, [0.25, 0.75]).weights

    np.testing.assert_allclose(weights(2.0), [0.5, 1.5])
    with pytest.raises(TypeError, match="must be concrete"):
        jax.jit(lambda w: C.convex_combination(parts, w).weights)(WEIGHTS)
