"""Tuples of contexts, and mixtures of them, against tables with all tuples."""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from tests import oracle
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
from tests.tolerances import promised


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


@pytest.mark.slow
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


def test_chains_and_mixtures_that_end_in_a_join_draw_tuples():
    pair = C.join([part("knn"), part("labels")])
    x = np.arange(N)
    chain = C.convolve(part("knn"), pair)
    contexts: list[Any] = [chain, C.mixture([pair, chain], WEIGHTS)]
    for context in contexts:
        drawn = context.sample(KEY, x)
        assert [one.shape for one in drawn] == [(N,), (N,)]


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


@pytest.mark.slow_cases("dense")
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
    (
        lambda: cx.operators.join(
            [cx.association_operator(part(name)) for name in ("labels", "teacher")]
        ),
        ValueError,
        r"the law of operators\[1\] must be finite and non-negative; got -",
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
