"""Kernel regression and propagation against their dense formulas in float64."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax.prediction import (
    choose_propagation,
    choose_stkr,
    inverse_laplacian,
    inverse_polynomial,
    label_propagation,
    polynomial,
    ridge,
    stkr,
    truncation,
)
from tests import oracle
from tests.conftest import X64
from tests.problems import operator, symmetric_weights
from tests.tolerances import tol

DTYPE = np.float64 if X64 else np.float32
RNG = np.random.default_rng(5)
POINTS = np.concatenate([RNG.normal(size=(14, 2)), RNG.normal(size=(16, 2)) + 4])
POINTS = POINTS.astype(DTYPE)
KNN = cx.contexts.knn(POINTS, 6)
ROWS = np.array([2, 5, 11, 15, 19, 28, 7])
NAMES = np.array(["b", "b", "b", "a", "c", "a", "b"])
TOL = 1e-14 if X64 else 1e-7
FORMS = {
    "polynomial": polynomial([0.5, 0.0, 2.0]),
    "inverse Laplacian": inverse_laplacian(0.95),
    "inverse, three terms": inverse_polynomial([1.0, -0.6, -0.3]),
}


def dense_kernel(op, transform, centred=True, single=False):
    """K_s(x, x′) on inputs with mass, by eigenvalues."""
    p, step = np.asarray(op.p_x, np.float64), np.asarray(op.as_matrix(), np.float64)
    back = np.asarray(op.T.as_matrix(), np.float64)
    root = np.sqrt(p)
    walk = root[:, None] * (step if single else step @ back) / root[None, :]
    if centred:
        walk = walk - np.outer(root, root)
    values, vectors = np.linalg.eigh((walk + walk.T) / 2)
    s = np.asarray(transform(np.maximum(values, 0)), np.float64)
    return (vectors * s) @ vectors.T / np.outer(root, root)


def direct(kernel, y, w, rows, beta, intercept=True):
    """The bordered system of the labelled rows, and its function on all rows."""
    k = kernel[np.ix_(rows, rows)]
    system = k + beta * np.diag(1 / w)
    if not intercept:
        return kernel[:, rows] @ np.linalg.solve(system, y)
    ones = np.ones((len(rows), 1))
    bordered = np.block([[system, ones], [ones.T, np.zeros((1, 1))]])
    solved = np.linalg.solve(bordered, np.vstack([y, np.zeros((1, y.shape[1]))]))
    return kernel[:, rows] @ solved[:-1] + solved[-1]


def one_hot(names):
    return (names[:, None] == np.unique(names)).astype(np.float64)


@pytest.mark.parametrize(
    ("form", "intercept"),
    [
        ("polynomial", True),
        ("polynomial", False),
        ("inverse Laplacian", True),
        ("inverse, three terms", False),
    ],
)
@pytest.mark.fast("polynomial-False", "inverse Laplacian-True")
def test_values_are_those_of_the_dense_equations(form, intercept):
    op, transform = cx.association_operator(KNN), FORMS[form]
    weights = np.arange(1.0, 8.0)
    w = weights / weights.sum()
    beta = 1e-3 if X64 else 0.02
    # With the tolerance that nobody asked for.
    fit = stkr(
        op,
        NAMES,
        ROWS,
        transform=transform,
        ridge=beta,
        weights=weights,
        intercept=intercept,
    )
    assert fit.status == "converged"
    kernel = dense_kernel(op, transform, intercept)
    expected = direct(kernel, one_hot(NAMES), w, ROWS, beta, intercept)
    error = np.asarray(fit.values, np.float64) - expected
    largest = 1e-12 if X64 else 1e-4
    assert np.abs(error).max() < largest
    law = np.asarray(op.p_x, np.float64)
    assert (
        np.sqrt(law @ error**2) <= np.asarray(fit.bound) + tol(DTYPE, factor=1e3)
    ).all()
    assert (fit.predict() == np.unique(NAMES)[expected.argmax(axis=1)]).all()


@pytest.mark.parametrize("storage", ["dense", "sparse"])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.fast("True-dense")
def test_a_single_step_is_the_kernel_of_the_points_itself(storage, intercept):
    distances = ((POINTS[:, None] - POINTS[None, :]) ** 2).sum(axis=2)
    context = cx.contexts.graph(np.exp(-0.3 * distances))
    op = cx.association_operator(context, storage=storage)
    transform = polynomial([1.0, 0.5])
    fit = stkr(
        op,
        NAMES,
        ROWS,
        transform=transform,
        ridge=0.02,
        walk="single",
        intercept=intercept,
        tol=TOL,
    )
    kernel = dense_kernel(op, transform, intercept, single=True)
    w = np.full(7, 1 / 7)
    expected = direct(kernel, one_hot(NAMES), w, ROWS, 0.02, intercept)
    largest = 1e-10 if X64 else 1e-4
    np.testing.assert_allclose(fit.values, expected, atol=largest)
    # f = E[h(A)|x] + b.
    h = np.asarray(op.matmat(fit.of_context)) + np.asarray(fit.intercept)
    np.testing.assert_allclose(h, expected, atol=largest)
    other, laplacian = cx.association_operator(KNN), inverse_laplacian(0.9)
    with pytest.raises(ValueError, match="op must be self-adjoint"):
        stkr(other, NAMES, ROWS, transform=transform, walk="single")
    with pytest.raises(ValueError, match="transform must be a polynomial"):
        stkr(op, NAMES, ROWS, transform=laplacian, walk="single")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["attention", "rbf, dense"])
def test_the_ends_of_a_walk_are_of_the_labelled_rows_alone(name):
    op, transform = operator(name, DTYPE), polynomial([0.5, 2.0])
    rows = np.array([5, 2, 8, 2])  # one of them twice
    y = np.array([0.0, 1.0, -1.0, 3.0], DTYPE)
    part = op.at_rows(np.array([2, 5, 8]))
    assert part is not None
    block = RNG.normal(size=(op.shape[1], 2)).astype(DTYPE)
    rounding = tol(DTYPE, factor=1e2)
    np.testing.assert_allclose(
        part.matmat(block), op.matmat(block)[np.array([2, 5, 8])], atol=rounding
    )
    some = np.zeros((op.shape[0], 2), DTYPE)
    some[[2, 5, 8]] = block[:3]
    np.testing.assert_allclose(part.rmatmat(block[:3]), op.rmatmat(some), atol=rounding)
    fit = stkr(op, y, rows, transform=transform, ridge=0.1, tol=TOL)
    expected = direct(
        dense_kernel(op, transform), y[:, None], np.full(4, 0.25), rows, 0.1
    )
    np.testing.assert_allclose(fit.values, expected, atol=1e-10 if X64 else 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["polynomial", "inverse Laplacian"])
def test_a_bound_holds_before_the_end(form):
    op, transform = cx.association_operator(KNN), FORMS[form]
    y = np.random.default_rng(0).normal(size=(7, 1))
    kernel = dense_kernel(op, transform, centred=False)
    expected = direct(kernel, y, np.full(7, 1 / 7), ROWS, 0.02, intercept=False)
    law, seen = np.asarray(op.p_x), []
    for steps in (1, 6, 8):
        fit = stkr(
            op,
            y[:, 0].astype(DTYPE),
            ROWS,
            transform=transform,
            ridge=0.02,
            intercept=False,
            max_iterations=steps,
        )
        assert steps == 8 or fit.status == "max iterations"
        error = np.sqrt(law @ (np.asarray(fit.values) - expected) ** 2)[0]
        seen.append(float(fit.bound[0]))
        # In float32 what is left after the last step is rounding.
        assert error <= seen[-1] + (0 if X64 else 1e-4)
    assert seen[2] < 0.1 * seen[0]


@pytest.mark.slow
def test_new_inputs_at_the_old_ones_have_the_values():
    op = cx.association_operator(KNN)
    y = RNG.normal(size=7).astype(DTYPE)
    result, _ = cx.svd(op, 6, key=jax.random.key(0))
    for transform in (*list(FORMS.values())[:2], truncation(result, 4)):
        fit = stkr(op, y, ROWS, transform=transform)
        np.testing.assert_allclose(
            fit.at(KNN, POINTS), fit.values, atol=1e-8 if X64 else 1e-3
        )
        assert fit.predict().shape == (30,)
        with pytest.raises(ValueError, match="must be the one of the fit"):
            fit.at(cx.contexts.knn(POINTS, 5), POINTS)


@pytest.mark.slow
def test_a_truncation_is_ridge_on_functions_and_the_kernel_cut_off():
    op = cx.association_operator(KNN)
    result, _ = cx.svd(op, 6, key=jax.random.key(0))
    fit = stkr(op, NAMES, ROWS, transform=truncation(result, 4), ridge=0.1)
    probe = ridge(result.left[ROWS, :4], NAMES, ridges=0.1)
    rounding = 1e-8 if X64 else 1e-3
    np.testing.assert_allclose(
        fit.values, probe.scores(result.left[:, :4]), atol=rounding
    )
    transform = polynomial([0.0, 1.0])
    fit = stkr(op, NAMES, ROWS, transform=truncation(result, 4, transform), ridge=0.1)
    law, step = np.asarray(op.p_x), np.asarray(op.as_matrix())
    found = oracle.triples(law[:, None] * step)
    kernel = (found.left[:, :4] * found.values[:4] ** 4) @ found.left[:, :4].T
    expected = direct(kernel, one_hot(NAMES), np.full(7, 1 / 7), ROWS, 0.1)
    np.testing.assert_allclose(fit.values, expected, atol=rounding)


@pytest.mark.parametrize("name", ["joint with zeros", "rbf in tiles", "teacher"])
@pytest.mark.slow
def test_any_operator_with_rows_without_mass_as_well(name):
    op = operator(name, DTYPE)
    there = np.flatnonzero(np.asarray(op.p_x) > 0)
    rows = there[[0, 2, 3, 5]]
    y = np.array([0.0, 1.0, -1.0, 3.0], DTYPE)
    fit = jax.jit(
        lambda op, y: stkr(op, y, rows, transform=inverse_laplacian(0.5), ridge=0.1)
    )(op, jnp.asarray(y))
    assert fit.status == "converged"
    masked = np.full(op.shape[0], float(fit.intercept[0]))
    p = np.asarray(op.p_x, np.float64)[there]
    walk = np.asarray(op.as_matrix()) @ np.asarray(op.T.as_matrix())
    root = np.sqrt(p)
    inner = root[:, None] * walk[np.ix_(there, there)] / root - np.outer(root, root)
    s, v = np.linalg.eigh((inner + inner.T) / 2)
    kernel = (v * (s / (1 - 0.5 * s))) @ v.T / np.outer(root, root)
    places = np.searchsorted(there, rows)
    masked[there] = direct(kernel, y[:, None], np.full(4, 0.25), places, 0.1)[:, 0]
    np.testing.assert_allclose(fit.values[:, 0], masked, atol=1e-9 if X64 else 1e-3)


@pytest.mark.slow
def test_the_best_transform_and_ridge_are_those_of_labels_left_out():
    op = cx.association_operator(KNN)
    result, _ = cx.svd(op, 5, key=jax.random.key(0))
    rows, y = np.arange(0, 30, 2), np.sin(POINTS[::2, 0]).astype(DTYPE)
    transforms = [inverse_laplacian(0.9), truncation(result, 3)]
    ridges = np.array([0.01, 1.0], DTYPE)
    found = choose_stkr(op, y, rows, transforms=transforms, ridges=ridges, folds=3)
    expected = np.zeros((2, 2))
    for i, transform in enumerate(transforms):
        for j, beta in enumerate(ridges):
            for fold in range(3):
                held = np.arange(15) % 3 == fold
                fit = stkr(
                    op,
                    y[~held],
                    rows[~held],
                    transform=transform,
                    ridge=beta * 1.5,  # the labels that stay weigh 2 / 3 there
                )
                rest = np.asarray(fit.values)[rows[held], 0] - y[held]
                expected[i, j] += (rest**2).sum() / 15 / y.var()
    np.testing.assert_allclose(
        found.squared_errors, expected, rtol=1e-7 if X64 else 1e-2
    )
    k, m = np.unravel_index(expected.argmin(), (2, 2))
    assert (found.transform, found.ridge) == (k, ridges[m])
    assert found.fit.status == "converged"


def propagated(weights, labels, rows, kind, alpha):
    degree = weights.sum(axis=1)
    y = np.zeros((len(weights), labels.shape[1]))
    y[rows] = labels
    if kind == "zhou":
        root = np.sqrt(np.where(degree > 0, degree, 1))
        s = weights / np.outer(root, root)
        f = np.linalg.solve(np.eye(len(s)) - alpha * s, y)
    else:
        free = np.setdiff1d(np.flatnonzero(degree), rows)
        laplacian = (np.diag(degree) - weights)[np.ix_(free, free)]
        f = y
        f[free] = np.linalg.solve(laplacian, weights[np.ix_(free, rows)] @ labels)
    total = f.sum(axis=1, keepdims=True)
    return np.where(total > 0, f / np.where(total > 0, total, 1), labels.mean(axis=0))


@pytest.mark.parametrize("walk", ["single", "double"])
@pytest.mark.parametrize("kind", ["zhou", "zhu"])
@pytest.mark.fast("zhou-single", "zhu-double")
def test_propagation_is_the_textbooks(kind, walk):
    weights = symmetric_weights()
    op = cx.association_operator(cx.contexts.graph(weights.astype(DTYPE)))
    if walk == "double":
        law = np.asarray(op.p_x, np.float64)
        weights = (
            law[:, None] * np.asarray(op.as_matrix()) @ np.asarray(op.T.as_matrix())
        )
    rows, labels = np.array([0, 2, 6]), np.array([1, 0, 1])
    fit = label_propagation(op, labels, rows, kind=kind, alpha=0.9, walk=walk, tol=TOL)
    expected = propagated(weights, one_hot(labels), rows, kind, 0.9)
    np.testing.assert_allclose(fit.values, expected, atol=1e-10 if X64 else 1e-4)
    # Vertex 4 has no edge.
    assert (np.asarray(fit.reached) == (np.arange(8) != 4)).all()
    np.testing.assert_allclose(fit.values[4], [1 / 3, 2 / 3], rtol=1e-6)


@pytest.mark.parametrize("of", ["classes", "numbers"])
@pytest.mark.fast("classes")
def test_the_best_alpha_is_that_of_labels_left_out(of):
    op = cx.association_operator(KNN)
    rows = np.array([2, 15, 5, 19, 11, 28, 7])
    labels = np.array([0, 1, 1, 1, 0, 0, 1])
    classes: Any = {"num_classes": 2}
    if of == "numbers":
        labels, classes = labels.astype(DTYPE) + rows.astype(DTYPE) / 10, {}
    choice = choose_propagation(
        op, labels, rows, alphas=(0.2, 0.9), folds=3, tol=TOL, **classes
    )
    expected = []
    for alpha in (0.2, 0.9):
        told = np.zeros(len(rows))
        for fold in range(3):
            held = np.arange(len(rows)) % 3 == fold
            fit = label_propagation(
                op, labels[~held], rows[~held], alpha=alpha, tol=TOL, **classes
            )
            told[held] = np.asarray(fit.predict())[rows[held]]
        wrong = told != labels if of == "classes" else (told - labels) ** 2
        expected.append(wrong.mean() / (1 if of == "classes" else labels.var()))
    np.testing.assert_allclose(choice.errors, expected, rtol=1e-9 if X64 else 1e-4)
    assert choice.alpha == (0.2, 0.9)[int(np.argmin(expected))]
    fit = label_propagation(op, labels, rows, alpha=choice.alpha, tol=TOL, **classes)
    np.testing.assert_array_equal(choice.fit.values, fit.values)
    with pytest.raises(ValueError, match="alphas must hold at least 1"):
        choose_propagation(op, labels, rows, alphas=(), **classes)


@pytest.mark.slow
def test_propagation_is_a_limit_of_kernel_regression():
    # Uniform P_X, and all labels alike but for one.
    op = cx.association_operator(KNN)
    fit = label_propagation(op, NAMES, ROWS, alpha=0.8, tol=TOL)
    other = stkr(
        op,
        NAMES,
        ROWS,
        transform=inverse_laplacian(0.8),
        ridge=1e8 if X64 else 1e4,
        intercept=False,
        tol=TOL,
    )
    free = np.setdiff1d(np.arange(30), ROWS)
    shares = np.asarray(other.values)[free]
    shares = shares / shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(fit.values[free], shares, atol=1e-6 if X64 else 1e-3)


@pytest.mark.slow
def test_components_without_a_label_have_the_mean_of_the_labels():
    apart = np.kron(np.eye(3), np.ones((4, 4)))
    op = cx.association_operator(cx.contexts.graph(apart.astype(DTYPE)))
    for kind in ("zhou", "zhu"):
        fit = label_propagation(op, np.array([1.0, 4.0], DTYPE), [0, 5], kind=kind)
        np.testing.assert_allclose(
            fit.predict(), np.repeat([1, 4, 2.5], 4), rtol=tol(DTYPE, factor=1e3)
        )
        assert np.asarray(fit.reached).sum() == 8
        assert fit.status == "converged"


def test_what_cannot_be_predicted_is_refused():
    op = cx.association_operator(KNN)
    lap = inverse_laplacian(0.9)
    for labels, rows, why in [
        ([0, 1], [3], r"labels must have 1 rows; got shape \(2,\)"),
        ([0, 1], [3, 30], "rows must be between 0 and 29"),
        ([0, 0], [3, 4], "at least 2 classes"),
        ([0.5, np.nan], [3, 4], "labels must be finite"),
    ]:
        with pytest.raises(ValueError, match=why):
            stkr(op, labels, rows, transform=lap)
        with pytest.raises(ValueError, match=why):
            label_propagation(op, labels, rows)
    with pytest.raises(ValueError, match="got none of class 2"):
        stkr(op, [0, 1], [3, 4], transform=lap, num_classes=3)
    with pytest.raises(ValueError, match="ridge must be finite and positive"):
        stkr(op, [0, 1], [3, 4], transform=lap, ridge=0.0)
    with pytest.raises(TypeError, match="rows must hold numbers of rows"):
        stkr(op, [0, 1], [3.0, 4.0], transform=lap)
    with pytest.raises(ValueError, match="eta must be below 1"):
        inverse_laplacian(1.0)
    assert inverse_laplacian(1.5, largest=0.5).highest == pytest.approx(2.0)
    with pytest.raises(ValueError, match="not negative for λ up to 1"):
        polynomial([1.0, -3.0, 1.9])
    with pytest.raises(ValueError, match="positive for λ up to 1"):
        inverse_polynomial([1.0, -3.0, 2.0])
    with pytest.raises(ValueError, match="rows must have mass"):
        stkr(operator("joint with zeros", DTYPE), [0, 1], [3, 4], transform=lap)
    with pytest.raises(ValueError, match="rows must be distinct"):
        label_propagation(op, [0, 1], [3, 3])
    with pytest.raises(ValueError, match="op must be self-adjoint"):
        label_propagation(op, [0, 1], [3, 4], walk="single")
    with pytest.raises(ValueError, match="alpha must be at least 0 and below 1"):
        label_propagation(op, [0, 1], [3, 4], alpha=1.0)


@pytest.mark.slow
def test_what_is_not_finite_is_told_and_not_returned():
    table = jnp.ones((4, 4), DTYPE) / 16
    op: Any = cx.association_operator(cx.contexts.joint(table))

    @jax.jit
    def told(scale):
        broken = dataclasses.replace(op, p_x=op.p_x * scale)
        return stkr(
            broken,
            jnp.asarray([0.0, 1.0], DTYPE),
            [0, 1],
            transform=inverse_laplacian(0.5),
        )

    fit = told(jnp.asarray(np.nan, DTYPE))
    assert fit.status == "non-finite"
    assert np.isfinite(fit.values).all()


@pytest.mark.slow
def test_propagation_agrees_with_scikit_learn():
    semi = pytest.importorskip("sklearn.semi_supervised")
    apart = ((POINTS[:, None] - POINTS[None]) ** 2).sum(axis=2)
    weights = np.exp(-apart / 4) * (1 - np.eye(30))
    given = np.full(30, -1)
    given[ROWS] = np.unique(NAMES, return_inverse=True)[1]
    theirs = semi.LabelSpreading(
        kernel=lambda *_: weights, alpha=0.9, max_iter=100_000, tol=1e-14
    ).fit(POINTS, given)
    op = cx.association_operator(cx.contexts.graph(weights.astype(DTYPE)))
    ours = label_propagation(op, NAMES, ROWS, alpha=0.9, walk="single", tol=TOL)
    np.testing.assert_allclose(
        ours.values, theirs.label_distributions_, atol=1e-8 if X64 else 1e-3
    )
