"""Probes: closed forms against fits that leave the rows out, one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax.prediction import logistic, nearest_neighbors, ridge
from tests.conftest import X64
from tests.tolerances import tol

RNG = np.random.default_rng(3)
N, D = 40, 5
Z = RNG.normal(size=(N, D)) @ RNG.normal(size=(D, D)) + 3
Y = Z[:, :2] @ RNG.normal(size=(2, 2)) + RNG.normal(size=(N, 2))
CLASSES = np.where(Y[:, 0] > Y[:, 0].mean(), "up", np.where(Z[:, 4] > 3, "at", "down"))
W = RNG.gamma(2.0, size=N)
DTYPE = np.float64 if X64 else np.float32
RIDGES = np.array([0.0, 0.01, 1.0])


def direct(z, y, p, alpha):
    """w and b of Σ p (y − b − z w)² + α ‖w‖²."""
    phi = np.column_stack([np.ones(len(z)), z])
    penalty = alpha * np.diag([0.0] + [1.0] * z.shape[1])
    w = np.linalg.solve(phi.T @ (p[:, None] * phi) + penalty, phi.T @ (p[:, None] * y))
    return w[1:], w[0]


def left_out(z, y, p, alpha, folds):
    """What each row is predicted by a fit to the rows of other folds."""
    told = np.empty_like(y)
    for fold in np.unique(folds):
        seen = folds != fold
        w, b = direct(z[seen], y[seen], p[seen], alpha)
        told[~seen] = z[~seen] @ w + b
    return told


@pytest.mark.parametrize("folds", [None, 4])
@pytest.mark.parametrize("of_classes", [False, True])
@pytest.mark.fast("True-None", "False-4")
def test_every_number_of_features_and_ridge_is_judged_as_if_fitted(folds, of_classes):
    p = W / W.sum()
    names = np.unique(CLASSES)
    y = (CLASSES[:, None] == names).astype(float) if of_classes else Y
    dims = (1, 3, 5)
    fit = ridge(
        Z.astype(DTYPE),
        CLASSES if of_classes else Y.astype(DTYPE),
        ridges=RIDGES.astype(DTYPE),
        dims=dims,
        folds=folds,
        weights=W,
    )
    which = np.arange(N) if folds is None else np.arange(N) % folds
    squared, wrong = np.empty((3, 3)), np.empty((3, 3))
    for i, d in enumerate(dims):
        for j, alpha in enumerate(RIDGES):
            told = left_out(Z[:, :d], y, p, alpha, which)
            squared[i, j] = p @ ((told - y) ** 2).sum(axis=1)
            wrong[i, j] = p @ (told.argmax(axis=1) != y.argmax(axis=1))
    squared /= p @ ((y - p @ y) ** 2).sum(axis=1)
    rounding = tol(DTYPE, factor=1e3, size=N)
    np.testing.assert_allclose(fit.squared_errors, squared, rtol=rounding)
    errors = wrong if of_classes else squared
    np.testing.assert_allclose(fit.errors, errors, rtol=rounding, atol=rounding)
    order = np.lexsort((squared.ravel(), np.round(errors, 6).ravel()))
    i, j = np.unravel_index(order[0], (3, 3))
    assert (int(fit.dim), float(fit.ridge)) == (dims[i], DTYPE(RIDGES[j]))
    w, b = direct(Z[:, : dims[i]], y, p, RIDGES[j])
    scores = Z[:, : dims[i]] @ w + b
    np.testing.assert_allclose(fit.scores(Z.astype(DTYPE)), scores, atol=rounding)
    told = fit.predict(Z.astype(DTYPE))
    expected = names[scores.argmax(axis=1)] if of_classes else scores
    if of_classes:
        assert (told == expected).all()
    else:
        np.testing.assert_allclose(told, expected, atol=rounding)


@pytest.mark.slow
def test_dependent_features_and_rows_alone_are_told_and_never_nan():
    z = np.column_stack([Z, Z[:, 0], np.zeros(N), np.arange(N) == 7]).astype(DTYPE)
    fit = ridge(z, Y[:, 0].astype(DTYPE), ridges=[0.0, 0.1])
    assert np.isinf(fit.squared_errors[0, 0])  # row 7 alone has a feature
    assert float(fit.ridge) == DTYPE(0.1)
    assert np.isfinite(fit.scores(z)).all()
    assert fit.predict(z).shape == (N,)


@pytest.mark.slow
def test_a_standardised_fit_does_not_depend_on_units():
    units = np.array([1e-3, 1, 1e3, 1, 10])
    one, other = (
        ridge(z.astype(DTYPE), Y.astype(DTYPE), ridges=0.1, standardize=True)
        for z in (Z, Z * units)
    )
    rounding = tol(DTYPE, factor=1e3, size=N)
    np.testing.assert_allclose(
        one.weights, units[:, None] * other.weights, rtol=rounding
    )


@pytest.mark.slow
def test_features_whose_squares_leave_the_range_are_fitted():
    z, far = Z.astype(np.float32), np.float32(1e25)
    one, other = (ridge(x, CLASSES, ridges=0.0) for x in (z, far * z))
    np.testing.assert_allclose(one.scores(z), other.scores(far * z), atol=1e-4)


@pytest.mark.parametrize("probe", [ridge, nearest_neighbors, logistic])
@pytest.mark.slow
def test_probes_pass_through_transformations(probe):
    z, codes = jnp.asarray(Z[:, :2], DTYPE), np.unique(CLASSES, return_inverse=True)[1]
    targets = jnp.asarray(np.stack([codes, codes[::-1]]))

    def told(y):
        return probe(z, y, num_classes=3).scores(z)

    batched = jax.jit(jax.vmap(told))(targets)
    one = told(np.asarray(targets[1]))
    np.testing.assert_allclose(batched[1], one, atol=tol(DTYPE, factor=1e5, size=N))


def test_neighbours_are_judged_by_those_of_other_rows():
    counts = (1, 4, 9)
    fit = nearest_neighbors(
        Z.astype(DTYPE), Y.astype(DTYPE), num_neighbors=counts, weights=W
    )
    p = W / W.sum()
    apart = np.linalg.norm(Z[:, None] - Z[None], axis=2)
    order = np.argsort(apart, axis=1)[:, 1:]
    spread = p @ ((Y - p @ Y) ** 2).sum(axis=1)
    expected = []
    for k in counts:
        near = order[:, :k]
        told = (p[near][:, :, None] * Y[near]).sum(1) / p[near].sum(1)[:, None]
        expected.append(p @ ((told - Y) ** 2).sum(axis=1) / spread)
    rounding = tol(DTYPE, factor=1e2, size=N)
    np.testing.assert_allclose(fit.errors, expected, rtol=rounding)
    assert int(fit.num_neighbors) == counts[int(np.argmin(expected))]
    k = int(fit.num_neighbors)
    near = np.argsort(np.linalg.norm(Z[:3, None] + 0.1 - Z[None], axis=2), axis=1)[
        :, :k
    ]
    told = (p[near][:, :, None] * Y[near]).sum(1) / p[near].sum(1)[:, None]
    np.testing.assert_allclose(
        fit.predict((Z[:3] + 0.1).astype(DTYPE)), told, rtol=rounding
    )


@pytest.mark.slow
def test_a_logistic_fit_has_no_gradient_left():
    z = (Z * np.array([1e-3, 1, 1e3, 1, 10])).astype(DTYPE)  # of any units
    fit = logistic(z, CLASSES, ridges=1e-3, weights=W)
    assert fit.status == "converged"
    names, p = np.unique(CLASSES), W / W.sum()
    y = (CLASSES[:, None] == names).astype(float)
    rest = np.asarray(fit.probabilities(z), np.float64) - y
    scale = z.std(axis=0)[:, None]
    slope = z.astype(float).T @ (p[:, None] * rest) + 1e-3 * np.asarray(fit.weights)
    assert np.abs(slope / scale).max() < (1e-5 if X64 else 1e-3)
    assert np.abs(p @ rest).max() < (1e-5 if X64 else 1e-3)
    assert (fit.predict(z) == CLASSES).mean() > 0.7


@pytest.mark.slow
def test_folds_choose_the_penalty_of_a_logistic_fit():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(30, 8)).astype(DTYPE)
    y = np.where(z[:, 0] + 2 * rng.normal(size=30) > 0, 1, 0)
    fit = logistic(z, y, ridges=[1e-3, 10.0], folds=5)
    losses, errors = np.zeros(2), np.zeros(2)
    for j, alpha in enumerate((1e-3, 10.0)):
        for fold in range(5):
            held = np.arange(30) % 5 == fold
            # Its weights sum to 1, and those of the rows that stay to 4 / 5.
            one = logistic(z, y, ridges=alpha / 0.8, weights=np.where(held, 0.0, 1.0))
            chances = np.asarray(one.probabilities(z[held]))
            losses[j] -= np.log(chances[np.arange(6), y[held]]).sum() / 30
            errors[j] += (chances.argmax(axis=1) != y[held]).sum() / 30
    assert fit.losses is not None
    assert fit.errors is not None
    np.testing.assert_allclose(fit.losses, losses, rtol=1e-5 if X64 else 1e-3)
    np.testing.assert_allclose(fit.errors, errors, atol=1e-6)
    best = np.lexsort((losses, np.round(errors, 6)))[0]
    assert float(fit.ridge) == DTYPE((1e-3, 10.0)[best])


@pytest.mark.slow
def test_separable_classes_without_a_penalty_end_within_range():
    z = np.linspace(-1, 1, 20)[:, None].astype(DTYPE)
    fit = logistic(z, z[:, 0] > 0, ridges=0.0, max_iterations=30)
    assert fit.status in ("converged", "max iterations", "rounding")
    assert np.isfinite(fit.weights).all()
    assert np.isfinite(fit.gradient_norm)
    assert (fit.predict(z) == (z[:, 0] > 0)).all()


@pytest.mark.parametrize("probe", [ridge, nearest_neighbors, logistic])
def test_what_cannot_be_fitted_is_refused(probe):
    z = np.ones((12, 2), np.float32) * np.arange(12)[:, None].astype(np.float32)
    y = np.arange(12) % 2
    for x, target, why in [
        (z[:9], y, r"y must have 9 rows; got shape \(12,\)"),
        (z * np.nan, y, "features must be finite"),
        (z[:, :0], y, "at least 1 column"),
        (z, y * 0, "at least 2 classes"),
    ]:
        with pytest.raises(ValueError, match=why):
            probe(x, target)
    with pytest.raises(ValueError, match="got none of class 2"):
        probe(z, y, num_classes=3)
    with pytest.raises(ValueError, match="weights must have length 12"):
        probe(z, y, weights=np.ones(5))


def test_more_of_what_is_refused():
    z = np.ones((12, 2), np.float32) * np.arange(12)[:, None].astype(np.float32)
    numbers = np.arange(12, dtype=np.float32)
    with pytest.raises(ValueError, match="y must vary"):
        ridge(z, 0 * numbers)
    with pytest.raises(ValueError, match="y must be finite"):
        ridge(z, np.where(numbers > 3, np.nan, numbers))
    with pytest.raises(ValueError, match="ridges must be finite and non-negative"):
        ridge(z, numbers, ridges=[-1.0])
    with pytest.raises(ValueError, match="dims must be between 1 and 2"):
        ridge(z, numbers, dims=[3])
    with pytest.raises(ValueError, match="folds must be between 2 and 12"):
        ridge(z, numbers, folds=1)
    with pytest.raises(TypeError, match="y must hold classes"):
        logistic(z, numbers)
    with pytest.raises(ValueError, match="one number without folds"):
        logistic(z, numbers > 3, ridges=[0.1, 1.0])
    with pytest.raises(ValueError, match="num_neighbors must be between 1 and 11"):
        nearest_neighbors(z, numbers, num_neighbors=12)
    with pytest.raises(TypeError, match="num_classes given"):
        jax.jit(lambda y: ridge(z, y).weights)(jnp.arange(12) % 2)


@pytest.mark.slow
def test_probes_agree_with_those_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    z = Z.astype(DTYPE)
    theirs = linear_model.LogisticRegression(C=1.0, tol=1e-10, max_iter=5000)
    theirs.fit(Z, CLASSES)
    ours = logistic(z, CLASSES, ridges=1 / N)
    np.testing.assert_allclose(
        ours.probabilities(z), theirs.predict_proba(Z), atol=1e-5 if X64 else 1e-3
    )
    alphas = np.array([0.1, 1.0, 10.0])
    theirs = linear_model.RidgeCV(alphas=alphas).fit(Z, Y[:, 0])
    ours = ridge(z, Y[:, 0].astype(DTYPE), ridges=(alphas / N).astype(DTYPE))
    np.testing.assert_allclose(ours.weights[:, 0], theirs.coef_, rtol=1e-4)
    assert float(ours.ridge) * N == pytest.approx(theirs.alpha_)
    assert cx.prediction.ridge is ridge
