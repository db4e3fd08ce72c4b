"""Results know what they are of: fingerprints, scales, and what they refuse."""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax._core import fingerprint as fingerprints
from contexture_jax._core.fingerprint import fingerprint, is_known, mirrored
from contexture_jax.solvers import SVDResult, certify, truncated_svd
from tests import oracle
from tests.conftest import X64
from tests.problems import features

DTYPE = np.float64 if X64 else np.float32
KEY, OTHER = jax.random.split(jax.random.key(5))
POINTS = features(DTYPE, 24)
KNN = cx.contexts.knn(POINTS, 5)
RBF = cx.contexts.rbf(POINTS, 0.5)
TABLE = np.random.default_rng(0).gamma(0.5, size=(9, 9)).astype(DTYPE) + 0.01


@pytest.fixture(scope="module")
def solved():
    return cx.svd(cx.association_operator(KNN), 3, key=KEY)


TREE = {
    "double": np.linspace(-1, 1, 7).reshape(7, 1),
    "single": np.arange(12, dtype=np.float32).reshape(3, 4),
    "whole": np.arange(5, dtype=np.int8),
    "truth": np.array([True, False, True]),
    "complex": np.array([1j, 2.0]),
}


def on_device(tree):
    return jax.tree.map(jnp.asarray, tree)


@pytest.mark.slow
def test_a_fingerprint_is_that_of_the_values_wherever_they_are(monkeypatch):
    on_host = fingerprint(on_device(TREE))
    assert on_host.shape == (8,)
    assert (on_host == np.floor(on_host)).all()
    assert (on_host < 2**16).all()
    np.testing.assert_array_equal(jax.jit(fingerprint)(on_device(TREE)), on_host)
    monkeypatch.setattr(fingerprints, "_SMALL", 0)
    np.testing.assert_array_equal(fingerprint(on_device(TREE)), on_host)
    mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    cut = jax.NamedSharding(mesh, jax.P("x"))
    rows = np.arange(8.0, dtype=DTYPE)
    np.testing.assert_array_equal(
        fingerprint(jax.device_put(rows, cut)), fingerprint(rows)
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.at[0, 0].add(1e-3),
        lambda x: x[::-1],
        lambda x: x.at[jnp.array([0, 1]), jnp.array([1, 2])].multiply(-1),
        lambda x: x.astype(np.float16),
        lambda x: x.T,
    ],
)
def test_another_tree_has_another(change):
    x = on_device(TREE)["single"]
    assert (fingerprint(change(x)) != fingerprint(x)).any()


def test_inside_a_trace_what_is_concrete_stays_so():
    seen = []
    jax.jit(lambda x: seen.append(fingerprint(TREE)) or x)(1.0)
    np.testing.assert_array_equal(seen[0], fingerprint(TREE))


def test_no_numbers_of_words_stay_behind(monkeypatch):
    monkeypatch.setattr(fingerprints, "_SMALL", 0)
    rows = jnp.zeros(12_345, DTYPE)
    fingerprint(rows)
    sizes = {array.size for array in jax.live_arrays() if array.dtype == np.uint32}
    assert not sizes & {12_345, 2 * 12_345}


def test_a_result_is_a_triple_and_carries_its_law(solved):
    result, info = solved
    s, left, right = result
    assert len(result) == 3
    assert left.shape == right.shape == (24, 3)
    np.testing.assert_array_equal(result.fingerprint, KNN.fingerprint)
    same = [
        jax.tree.map(lambda x: x, result),
        jax.jit(lambda r: r)(result),
        pickle.loads(pickle.dumps(result)),
        result._replace(),
    ]
    for other in same:
        assert isinstance(other, SVDResult)
        np.testing.assert_array_equal(other.fingerprint, result.fingerprint)
        np.testing.assert_array_equal(other.left, left)
    assert SVDResult(s, left, right).fingerprint is None
    # Another triple: of which law, nothing knows. The tree is as before.
    changed = result._replace(left=2 * left)
    assert not is_known(changed.fingerprint)
    assert jax.tree.structure(changed) == jax.tree.structure(result)
    assert np.isfinite(cx.extend(changed, RBF, POINTS[:2])).all()
    assert info.scale == 1


@pytest.mark.slow_cases("context1", "context0")
@pytest.mark.parametrize("context", [KNN, RBF, cx.contexts.joint(TABLE)])
def test_operators_of_one_context_have_its_law(context):
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    choices: list[dict[str, Any]] = [{}, {"storage": "dense"}, {"mesh": mesh}]
    for options in choices:
        op = cx.association_operator(context, **options)
        np.testing.assert_array_equal(op.fingerprint, context.fingerprint)
    again = pickle.loads(pickle.dumps(jax.tree.map(np.asarray, context)))
    np.testing.assert_array_equal(
        jax.tree.map(jnp.asarray, again).fingerprint, context.fingerprint
    )


def test_functions_extend_to_new_points_of_their_own_context_only(solved):
    result, _ = solved
    same = cx.contexts.knn(POINTS, 5)
    assert np.isfinite(cx.extend(result, same, POINTS[:2])).all()
    for other, what in (
        (cx.contexts.knn(POINTS, 6), "another kind, shape, dtype or option"),
        (cx.contexts.knn(POINTS[::-1], 5), "same kind with other values"),
        (RBF, "another kind"),
    ):
        with pytest.raises(ValueError, match=f"context must be the one .*{what}"):
            cx.extend(result, other, POINTS[:2])
    # Of a result without a law nothing can be said.
    assert np.isfinite(cx.extend(SVDResult(*result), RBF, POINTS[:2])).all()


def test_an_adjoint_has_a_law_of_its_own(solved):
    result, info = solved
    op, reverse = cx.association_operator(KNN), cx.contexts.reverse(KNN)
    there = cx.association_operator(reverse).fingerprint
    np.testing.assert_array_equal(op.T.fingerprint, there)
    np.testing.assert_array_equal(op.T.T.fingerprint, KNN.fingerprint)
    np.testing.assert_array_equal(jax.jit(mirrored)(KNN.fingerprint), there)
    with pytest.raises(ValueError, match="with X and A in each other's place"):
        certify(result, info, op.T, key=OTHER)
    joint = cx.contexts.joint(TABLE)
    mark = cx.association_operator(joint).T.fingerprint
    known = SVDResult(jnp.ones(2), jnp.ones((9, 2)), jnp.ones((9, 2)), mark)
    with pytest.raises(ValueError, match="with X and A in each other's place"):
        cx.extend(known, joint, [0, 1])
    # Arrays of its own, and the same law.
    assert np.isfinite(cx.extend(known, joint.reverse(), [0, 1])).all()
    traced = jax.jit(lambda r, there: cx.extend(r, there, [0]))
    assert np.isnan(traced(known, joint)).all()
    assert np.isfinite(traced(known, joint.reverse())).all()
    assert np.isfinite(
        jax.jit(lambda r: cx.extend(r, joint.reverse(), [0]))(known)
    ).all()


@pytest.mark.slow
def test_a_part_of_a_mixture_is_another_context():
    parts = [cx.association_operator(RBF)] * 2
    result, _ = cx.svd(cx.operators.mixture(parts, [0.9, 0.1]), 2, key=KEY)
    with pytest.raises(ValueError, match="context must be the one of the result"):
        cx.extend(result, RBF, POINTS[:2])


@pytest.mark.slow
def test_inside_a_trace_another_context_gives_nan():
    @jax.jit
    def extended(law, points, gamma):
        known = SVDResult(jnp.ones(2), jnp.ones((24, 2)), jnp.ones((24, 2)), law)
        return cx.extend(known, cx.contexts.rbf(points, gamma=gamma), points[:2])

    gamma = jnp.asarray(0.5, DTYPE)
    law = jax.jit(lambda x, g: cx.contexts.rbf(x, gamma=g).fingerprint)(POINTS, gamma)
    assert np.isfinite(extended(law, POINTS, gamma)).all()
    assert np.isnan(extended(law, POINTS, gamma + 1)).all()


@pytest.mark.slow
def test_gradients_pass_by_the_law():
    op = cx.association_operator(cx.contexts.joint(TABLE))
    slope = jax.grad(lambda op: cx.svd(op, 2, key=KEY)[0].singular_values.sum())(op)
    assert np.isfinite(slope.joint).all()
    assert (slope.fingerprint == 0).all()


def test_a_result_of_another_operator_is_not_certified(solved):
    result, info = solved
    for other in (cx.contexts.knn(POINTS, 6), RBF):
        op = cx.association_operator(other)
        with pytest.raises(ValueError, match="op must be the operator of the result"):
            certify(result, info, op, key=OTHER)
    with pytest.raises(ValueError, match=r"of shape \(24, 24\); got \(9, 9\)"):
        certify(
            result,
            info,
            cx.association_operator(cx.contexts.joint(TABLE)),
            key=OTHER,
        )
    with pytest.raises(ValueError, match="must belong together") as caught:
        certify(result._replace(singular_values=jnp.ones(3, DTYPE)), info)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="must be that of the result"):
        certify(SVDResult(*(x[..., :2] for x in result)), info)


@pytest.mark.slow
def test_without_a_law_the_bounds_are_those_of_the_operator(solved):
    result, info = solved
    op = cx.association_operator(RBF)
    law = np.asarray(op.p_x, float)[:, None] * np.asarray(op.as_matrix(), float)
    truth = oracle.singular_values(law)
    certificate = certify(SVDResult(*result), info, op, key=OTHER)
    assert (np.asarray(certificate.lower) <= truth[:3]).all()
    assert (np.asarray(certificate.upper) >= truth[:3]).all()
    # It is that of its own operator as well as with a law.
    own = cx.association_operator(KNN)
    known, unknown = (
        certify(r, info, own, key=OTHER) for r in (result, SVDResult(*result))
    )
    np.testing.assert_allclose(unknown.lower, known.lower, atol=1e-5)


@pytest.mark.slow_cases("1000.0", "1e-25")
@pytest.mark.parametrize("unit", [1e3, 1e-25, 1e25])
def test_bounds_of_a_plain_matrix_need_no_scale(unit):
    matrix = (unit * TABLE.astype(np.float32)).astype(np.float32)
    true = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    result, info = truncated_svd(matrix, 3, key=KEY)
    assert info.scale == 0
    certificate = certify(result, info)
    lower, upper = (np.asarray(x) for x in (certificate.lower, certificate.upper))
    assert (lower <= true[:3]).all()
    assert (true[:3] <= upper).all()
    assert (lower > 0.99 * true[:3]).all()
    if unit == 1e3:
        with pytest.raises(ValueError, match="values above the scale"):
            certify(result, info, scale=1.0)


def test_values_do_not_exceed_one():
    """Classes that the context determines: every value is 1, whatever rounding does."""
    labels, masses = np.arange(60) % 7, np.random.default_rng(0).random((60, 1))
    context = cx.contexts.joint(
        (masses * (labels[:, None] == range(7))).astype(np.float32)
    )
    result, info = cx.svd(cx.association_operator(context), 6, key=KEY)
    s = np.asarray(result.singular_values)
    assert s.max() <= 1
    np.testing.assert_allclose(s, 1, atol=1e-5)
    assert info.status == "converged"
    certificate = certify(result, info)
    assert (certificate.lower <= s).all()
    assert (certificate.upper == 1).all()


def test_a_value_beyond_rounding_stays_and_the_status_says_so():
    op: Any = cx.association_operator(cx.contexts.joint(TABLE))
    wrong = cx.operators.DenseOperator(3 * op.joint, op.p_x, op.p_a)
    result, info = cx.svd(wrong, 2, key=KEY)
    assert result.singular_values[0] > 1.1
    status = info.status
    assert "joint law" in status.advice
    assert status == "above one"
