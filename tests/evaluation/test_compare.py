"""Measures of two representations: definitions, chance, intervals."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import pdist, squareform

from contexture_jax import evaluation
from contexture_jax.evaluation import MEASURES, compare, compare_all
from tests.conftest import X64
from tests.tolerances import monte_carlo

pytestmark = pytest.mark.skipif(not X64, reason="tolerances are those of float64")

RNG = np.random.default_rng(5)
KEY = jax.random.key(5)
F = RNG.normal(size=(40, 3)) * [1, 2, 3] + 4
G = F @ RNG.normal(size=(3, 3)) + RNG.normal(size=(40, 3))
SOME = [
    pytest.param(m, marks=[] if m in ("cca", "rsa") else [pytest.mark.slow])
    for m in MEASURES
]


def hsic(k, l, *, debiased):
    """By n × n matrices, as Song et al. 2012 write it."""
    n = len(k)
    if not debiased:
        h = np.eye(n) - 1 / n
        return np.trace(k @ h @ l @ h)
    k, l = (x - np.diag(np.diag(x)) for x in (k, l))
    one = np.ones(n)
    sums = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return np.trace(k @ l) + sums - 2 / (n - 2) * (one @ k @ l @ one)


def kernel_alignment(k, l, *, debiased=False):
    own = hsic(k, k, debiased=debiased) * hsic(l, l, debiased=debiased)
    return hsic(k, l, debiased=debiased) / np.sqrt(own)


def gaussian(x):
    apart = squareform(pdist(x))
    return np.exp(-(apart**2) / (2 * np.median(pdist(x)) ** 2))


def canonical(x, y):
    (q, _), (r, _) = np.linalg.qr(x - x.mean(0)), np.linalg.qr(y - y.mean(0))
    return np.linalg.svd(q.T @ r, compute_uv=False)


def leading(x, energy=0.99):
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    return u[:, : 1 + np.searchsorted(np.cumsum(s**2) / (s**2).sum(), energy)]


def procrustes(x, y):
    x, y = (z - z.mean(0) for z in (x, y))
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    return np.linalg.svd(x.T @ y, compute_uv=False).sum()


def pwcca(x, y):
    """As Morcos et al. 2018 weigh it, by the features of either side."""
    q, r = (np.linalg.qr(z - z.mean(0))[0] for z in (x, y))
    u, s, vh = np.linalg.svd(q.T @ r)
    found = []
    for h, z in ((q @ u, x), (r @ vh.T, y)):
        alpha = abs(h[:, : len(s)].T @ (z - z.mean(0))).sum(axis=1)
        found.append((alpha * s).sum() / alpha.sum())
    return np.mean(found)


def cknna(x, y, k=10):
    """As Huh et al. 2024 write it, of centred features."""
    x, y = x - x.mean(0), y - y.mean(0)
    off = np.where(np.eye(len(x)), np.inf, 0)
    near = [np.argsort(squareform(pdist(z)) + off)[:, :k] for z in (x, y)]
    masks = [np.zeros(off.shape) for _ in near]
    for mask, one in zip(masks, near, strict=True):
        np.put_along_axis(mask, one, 1, axis=1)
    a, b = ((z @ z.T) * mask for z, mask in zip((x, y), masks, strict=True))
    return (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())


REFERENCES = {
    "cknna": cknna,
    "pwcca": pwcca,
    "cca": lambda x, y: (canonical(x, y) ** 2).mean(),
    "svcca": lambda x, y: canonical(leading(x), leading(y)).mean(),
    "procrustes": procrustes,
    "cka": lambda x, y: kernel_alignment(x @ x.T, y @ y.T),
    "cka_debiased": lambda x, y: kernel_alignment(x @ x.T, y @ y.T, debiased=True),
    "cka_rbf": lambda x, y: kernel_alignment(gaussian(x), gaussian(y)),
    "cka_rbf_debiased": lambda x, y: kernel_alignment(
        gaussian(x), gaussian(y), debiased=True
    ),
    "rsa": lambda x, y: stats.spearmanr(pdist(x), pdist(y))[0],
    "rsa_linear": lambda x, y: np.corrcoef(pdist(x), pdist(y))[0, 1],
    "mutual_knn": lambda x, y: evaluation.mutual_knn(x, y),
}


@pytest.mark.parametrize("measure", SOME)
def test_measures_are_the_published_ones_and_1_of_a_rotated_copy(measure):
    found = compare(F, G, measure, key=KEY)
    assert found.value == pytest.approx(float(REFERENCES[measure](F, G)), abs=1e-10)
    assert found.interval.lower < found.value
    # In shapes of one program.
    turn = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    if measure == "pwcca":
        # Its weights are of the axes.
        turn = np.eye(3)[[2, 0, 1]]
    copy = compare(F, 3 * G @ turn, measure, key=KEY)
    assert copy.value == pytest.approx(float(found.value), abs=1e-10)
    same = compare(F, F @ turn - 1, measure, key=KEY)
    assert same.value == pytest.approx(1, abs=1e-10)
    assert same.p_value == pytest.approx(0.01)
    np.testing.assert_allclose(
        [same.interval.lower, same.interval.estimate, same.interval.upper], 1, atol=1e-8
    )


@pytest.mark.slow
def test_chance_has_the_mean_that_is_known_and_grows_with_the_width():
    n, shuffles = 60, 400
    for d in (2, 30):
        x, y = RNG.normal(size=(2, n, d))
        grams = [z @ z.T for z in (x - x.mean(0), y - y.mean(0))]
        traces = np.prod([np.trace(k) / np.linalg.norm(k) for k in grams])
        # E tr(K P L Pᵀ) = tr K tr L / (n − 1) over permutations, of centred K and L.
        known = {"cca": d / (n - 1), "cka": traces / (n - 1)}
        for measure, mean in known.items():
            found = compare(x, y, measure, key=KEY, num_permutations=shuffles)
            spread = (found.null.upper - found.null.lower) / (2 * 1.645)
            assert found.null.estimate == pytest.approx(
                mean, abs=monte_carlo(float(spread) / shuffles**0.5)
            )
            assert abs(found.adjusted) < 0.1
            # To first order in d / n.
            assert d > 2 or found.interval.lower < 0.01


@pytest.mark.slow
def test_pairs_within_blocks_are_an_estimate_of_all_pairs():
    x = RNG.normal(size=(300, 3))
    y = x + RNG.normal(size=(300, 3))
    whole = REFERENCES["cka_rbf_debiased"](x, y)
    found = compare(x, y, "cka_rbf_debiased", key=KEY, block_rows=64)
    assert found.value == pytest.approx(whole, abs=0.05)
    assert found.interval.lower < whole < found.interval.upper
    program = jax.jit(lambda x, y: compare(x, y, "rsa", key=KEY, block_rows=64))
    text = program.lower(x, y).as_text()
    assert "300x300" not in text
    assert "60x60" in text


@pytest.mark.slow
@pytest.mark.parametrize("measure", ["rsa", "cka_rbf", "cka_rbf_debiased"])
def test_intervals_from_blocks_hold_the_value_of_all_pairs(measure):
    centres = jnp.asarray(RNG.normal(size=(2, 5, 3)))

    def told(key):
        one, two, three, own = jax.random.split(key, 4)
        which = jax.random.randint(three, (320,), 0, 5)
        f, g = (jax.random.normal(k, (320, 3)) for k in (one, two))
        f, g = f + centres[0][which], 0.5 * f + g + centres[1][which]
        options: dict[str, Any] = {"key": own, "num_permutations": 1}
        found = compare(f, g, measure, block_rows=80, **options)
        whole = compare(f, g, measure, block_rows=320, **options).value
        interval = found.interval
        held = (interval.lower <= whole) & (whole <= interval.upper)
        return held, found.value - whole, interval.upper - interval.lower

    keys = jax.random.split(KEY, 120)
    held, off, width = jax.jit(lambda k: jax.lax.map(told, k))(keys)
    assert np.asarray(held).mean() > 0.9
    # But for a bias, pairs left out would tell little of what ever more rows would.
    assert np.asarray(off).std() < 0.25 * np.asarray(width).mean()


@pytest.mark.slow
@pytest.mark.parametrize("measure", MEASURES)
def test_the_null_rejects_at_its_level(measure):
    def p_value(key):
        one, two, own = jax.random.split(key, 3)
        # Wide, skew and of unequal scales: none of it may matter.
        f = jax.random.exponential(one, (24, 6)) * jnp.arange(1.0, 7.0)[None, :]
        g = jax.random.t(two, 3.0, (24, 9))
        options: dict[str, Any] = {
            "num_permutations": 19,
            "num_neighbors": 4,
            "block_rows": 16,
        }
        return compare(f, g, measure, key=own, **options).p_value

    keys = jax.random.split(KEY, 500)
    found = np.asarray(jax.jit(lambda k: jax.lax.map(p_value, k))(keys))
    for level in (0.05, 0.2):
        share = (found <= level + 1e-9).mean()
        # Ties of whole numbers make less of it.
        least = 0 if measure == "mutual_knn" else level
        error = monte_carlo((level * (1 - level) / 500) ** 0.5)
        assert least - error < share < level + error


@pytest.mark.slow
def test_intervals_hold_the_value_of_the_law():
    rho = np.array([0.9, 0.5, 0.0])
    # Of the laws of f and g: mean ρ², and ‖Σ_fg‖² / (‖Σ_f‖ ‖Σ_g‖).
    truth = {"cca": (rho**2).mean(), "cka": (rho**2).sum() / 3, "cka_debiased": None}

    def holds(key, measure):
        one, two, own = jax.random.split(key, 3)
        f, noise = (jax.random.normal(k, (200, 3)) for k in (one, two))
        g = f * rho[None, :] + noise * np.sqrt(1 - rho**2)[None, :]
        found = compare(f, g, measure, key=own, num_permutations=1).interval
        value = truth[measure] or truth["cka"]
        return (found.lower <= value) & (value <= found.upper)

    keys = jax.random.split(KEY, 400)
    for measure in truth:
        one = jax.jit(lambda k, m=measure: jax.lax.map(lambda key: holds(key, m), k))
        assert 0.85 < np.asarray(one(keys)).mean() < 0.95, measure


def test_all_pairs_are_those_one_by_one_and_bad_rows_are_named():
    found = compare_all({"f": F, "g": G}, ("cca",), key=KEY)
    one = compare(G, F, key=KEY)
    np.testing.assert_allclose(
        found.compared["cca"].value, [[1, one.value], [one.value, 1]]
    )
    assert found.compared["cca"].null.upper.shape == (2, 2)
    with pytest.raises(
        ValueError, match="g \\(f\\) and f \\(g\\): b must have 39 rows"
    ):
        compare_all({"f": F, "g": G[1:]}, key=KEY)
    with pytest.raises(ValueError, match="measure must be one of cca"):
        compare(F, G, "cosine", key=KEY)
    with pytest.raises(ValueError, match="at least 8 rows"):
        compare(F[:7], G[:7], key=KEY)


def test_what_cannot_be_negative_has_no_end_below_0():
    rng = np.random.default_rng(3)
    f, g = (rng.normal(size=(60, d)).astype(np.float32) for d in (8, 3))
    found = compare(f, g, "cca", key=jax.random.key(0), num_permutations=9)
    assert float(found.interval.lower) == 0 <= float(found.interval.upper)
