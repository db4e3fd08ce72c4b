import jax
import numpy as np
import pytest
from scipy.linalg import subspace_angles

from contexture_jax import evaluation
from tests.conftest import X64
from tests.tolerances import monte_carlo, tol

pytestmark = pytest.mark.skipif(not X64, reason="tolerances are those of float64")

RNG = np.random.default_rng(2)
A, B = RNG.normal(size=(50, 3)), RNG.normal(size=(50, 5))
WEIGHTS = RNG.dirichlet(np.ones(50))
TIGHT = tol(float, factor=10, size=100)

# Compiled, since eager calls compile each operation for each shape.
principal_angles = jax.jit(evaluation.principal_angles)
projector_distance = jax.jit(evaluation.projector_distance)
cca = jax.jit(evaluation.cca)
mutual_knn = jax.jit(evaluation.mutual_knn, static_argnames=("num_neighbors", "whiten"))


def rotation_pair(angles: list[float], n: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Two spans of R^n with the given principal angles, in random bases."""
    d = len(angles)
    frame = np.linalg.qr(RNG.normal(size=(n, 2 * d)))[0]
    first, second = frame[:, :d], frame[:, d:]
    turned = first * np.cos(angles) + second * np.sin(angles)
    return first @ RNG.normal(size=(d, d)), turned @ RNG.normal(size=(d, d))


def test_principal_angles_agree_with_scipy():
    expected = subspace_angles(A, B)[::-1]
    np.testing.assert_allclose(principal_angles(A, B), expected, atol=TIGHT)
    np.testing.assert_allclose(principal_angles(B, A), expected, atol=TIGHT)


def test_angles_of_every_size_are_exact_to_rounding():
    angles = [1e-12, 1e-9, 1e-5, 0.7, np.pi / 2 - 1e-9]
    found = principal_angles(*rotation_pair(angles))
    # Rounding enters through the random bases, whose condition is about 100.
    np.testing.assert_allclose(found, angles, atol=tol(float, factor=1000))


def test_weights_are_those_of_the_inner_product():
    root = np.sqrt(WEIGHTS)[:, None]
    expected = subspace_angles(root * A, root * B)[::-1]
    for scale in (1.0, 17.0):
        found = principal_angles(A, B, scale * WEIGHTS)
        np.testing.assert_allclose(found, expected, atol=TIGHT)


def test_a_direction_that_is_missing_counts_as_a_right_angle():
    found = principal_angles(np.column_stack([A[:, :2], A[:, 0]]), B)
    expected = subspace_angles(A[:, :2], B)[::-1]
    np.testing.assert_allclose(found, [*expected, np.pi / 2], atol=TIGHT)
    deficient = np.column_stack([A, A[:, :2]])
    found = principal_angles(deficient, deficient)
    np.testing.assert_allclose(found, [0] * 3 + [np.pi / 2] * 2, atol=TIGHT)


def test_more_columns_than_rows_span_everything():
    wide = RNG.normal(size=(4, 6))
    found = principal_angles(wide, wide)
    np.testing.assert_allclose(found, [0] * 4 + [np.pi / 2] * 2, atol=TIGHT)


def test_projector_distance_follows_its_definition():
    P, Q = (x @ np.linalg.pinv(x) for x in (A, B))
    found = projector_distance(A, B)
    np.testing.assert_allclose(found, np.linalg.norm(P - Q), rtol=TIGHT)


def test_projector_distance_of_nearly_equal_spans_is_exact():
    found = projector_distance(*rotation_pair([1e-10, 0.0, 0.0]))
    np.testing.assert_allclose(found, np.sqrt(2) * 1e-10, atol=tol(float, factor=1000))


def test_cca_is_the_mean_squared_cosine_of_the_centred_spans():
    root = np.sqrt(WEIGHTS)[:, None]
    centred = [root * (x - WEIGHTS @ x) for x in (A, B)]
    expected = (np.cos(subspace_angles(*centred)) ** 2).mean()
    np.testing.assert_allclose(cca(A, B, WEIGHTS), expected, rtol=TIGHT)


def test_cca_sees_no_invertible_affine_map():
    moved = B @ RNG.normal(size=(5, 5)) + 7
    np.testing.assert_allclose(cca(A, moved), cca(A, B), rtol=TIGHT)
    spanned = B @ RNG.normal(size=(5, 3)) + 7
    np.testing.assert_allclose(cca(spanned, B), 1, rtol=TIGHT)


def test_cca_of_a_collapsed_encoder_is_low():
    collapsed = B[:, :1] @ np.ones((1, 3)) + 2
    np.testing.assert_allclose(cca(collapsed, B), 1 / 3, rtol=TIGHT)


def test_cca_of_unrelated_embeddings_has_the_stated_mean():
    noise = RNG.normal(size=(400, 50, 3))
    values = np.asarray(jax.jit(jax.vmap(lambda x: evaluation.cca(x, B)))(noise))
    sem = values.std() / np.sqrt(len(values))
    assert abs(values.mean() - 5 / 49) < monte_carlo(sem)


def neighbor_sets(x: np.ndarray, k: int) -> list[set[int]]:
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    return [set(row) for row in np.argsort(distance, axis=1, kind="stable")[:, :k]]


@pytest.mark.parametrize("num_neighbors", [1, 10, 49])
def test_mutual_knn_follows_its_definition(num_neighbors):
    near = A + 0.5 * RNG.normal(size=A.shape)
    shared = zip(
        neighbor_sets(A, num_neighbors), neighbor_sets(near, num_neighbors), strict=True
    )
    expected = np.mean([len(s & t) for s, t in shared]) / num_neighbors
    found = mutual_knn(A, near, num_neighbors=num_neighbors)
    np.testing.assert_allclose(found, expected, rtol=TIGHT)


def test_mutual_knn_sees_only_the_span_of_whitened_features():
    moved = 100 + A @ np.array([[1, 0, 0], [0, 30, 0], [5, 0, 0.1]])
    assert float(mutual_knn(A, moved)) < 0.9
    np.testing.assert_allclose(mutual_knn(A, moved, whiten=True), 1, rtol=TIGHT)


def test_mutual_knn_is_exact_far_from_the_origin():
    np.testing.assert_allclose(mutual_knn(A, A + 1e8), 1, rtol=TIGHT)


@pytest.mark.slow_cases("mutual_knn1")
@pytest.mark.parametrize("shared", [mutual_knn, evaluation.mutual_knn])
def test_mutual_knn_of_answers_and_the_same_moved_is_one(shared):
    answers = np.random.default_rng(5).integers(1, 6, size=(900, 4)).astype(np.float32)
    assert float(shared(answers, answers + 3)) == 1
    assert float(shared(answers, answers * np.float32(2.0**70))) == 1
    copies = np.ones((40, 2), np.float32)  # rows that are not in their own lists
    assert float(shared(copies, 2 * copies)) == 1


def test_mutual_knn_stores_nothing_of_size_n_by_n():
    n = 4099
    shape = jax.ShapeDtypeStruct((n, 3), np.float32)
    text = str(jax.make_jaxpr(evaluation.mutual_knn)(shape, shape))
    assert f"[{n},{n}]" not in text
    assert f"[{n},3]" in text  # shapes print so


def test_pairs_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"b must have 50 rows; got shape \(49, 5\)"):
        evaluation.cca(A, B[:49])
    with pytest.raises(ValueError, match="2 dimension"):
        evaluation.principal_angles(A, B[:, 0])
    with pytest.raises(ValueError, match="weights must have length 50; got 49"):
        evaluation.principal_angles(A, B, WEIGHTS[:49])
    with pytest.raises(ValueError, match="num_neighbors must be between 1 and 49"):
        evaluation.mutual_knn(A, B, 50)
