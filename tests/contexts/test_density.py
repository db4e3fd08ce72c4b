"""Densities beside what is drawn: right ones pass at any level, wrong ones do not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

import contexture_jax as cx
from contexture_jax._core.types import pytree_dataclass, static_field
from contexture_jax.contexts._density import judge_density

C = cx.contexts
DTYPE = jnp.zeros(()).dtype
KEY = jax.random.key(4)
X = jax.random.normal(jax.random.key(0), (60, 2), DTYPE)
IMAGES = jax.random.normal(jax.random.key(1), (8, 4, 5, 2), DTYPE)
TOKENS = jax.random.randint(jax.random.key(2), (8, 6), 0, 9)
CLASSES = np.arange(30) % 4

SAID = {
    "right": lambda a, x: norm.logpdf(a, x, 0.5).sum(),
    "up to a factor of a": lambda a, x: norm.logpdf(a, x, 0.5).sum() - (a**2).sum(),
    "too wide": lambda a, x: norm.logpdf(a, x, 0.75).sum(),
    "too narrow": lambda a, x: norm.logpdf(a, x, 0.3).sum(),
    "shifted": lambda a, x: norm.logpdf(a, x + 0.3, 0.5).sum(),
    "of other inputs": lambda a, x: norm.logpdf(a, x[::-1], 0.5).sum(),
    "constant": lambda a, x: jnp.zeros((), a.dtype) + 0 * (a + x).sum(),
    "without its normaliser": lambda a, x: norm.logpdf(a, x, 0.5).sum() + 2 * x[0],
    "zero where it is not": lambda a, x: jnp.where(
        ((a - x) > 0).all(), norm.logpdf(a, x, 0.5).sum(), -jnp.inf
    ),
}
RIGHT = ("right", "up to a factor of a")


@pytree_dataclass
class Noise(C.SamplingContext):
    """X + Z / 2, and what is said of its density."""

    said: str = static_field()

    def _draw(self, key, x):
        return x + 0.5 * jax.random.normal(key, x.shape, x.dtype)

    def _log_density(self, a, x):
        return SAID[self.said](a, x)


@pytest.mark.slow_cases("right", "up to a factor of a")
@pytest.mark.parametrize("said", SAID)
def test_a_wrong_density_is_told_and_builds_no_operator(said):
    context = Noise(said)
    found = C.check_density(context, X, key=KEY)
    build = functools.partial(
        cx.operators.monte_carlo_operator, x=X, num_samples=1000, key=KEY
    )
    if said in RIGHT:
        assert found.p_value > 0.01
        assert np.abs(found.scores).max() < 4
        assert build(context).shape == (60, 1000)
    else:
        assert found.p_value < 1e-9
        assert (found.num_impossible > 0) == (said == "zero where it is not")
        with pytest.raises(ValueError, match=r"must be that of what|must be finite"):
            build(context)


ONE_COLUMN = {
    "noise": lambda x, z: x + 0.5 * z[0],
    "much noise": lambda x, z: x + z[0],
    "either sign": lambda x, z: np.sign(z[1]) * x + 0.3 * z[0],
    "a square": lambda x, z: x**2 + 0.5 * z[0],
    "scale": lambda x, z: x * z[0],
    "a label": lambda x, _: x > 0,
    "tenths": lambda x, z: np.round(10 * (x + 0.5 * z[0])).astype(int),
    "far from 0": lambda x, z: (1e6 + x + 0.5 * z[0]).astype(np.float32),
}


@pytest.mark.parametrize("n", [20, 100])
@pytest.mark.parametrize("drawn", ONE_COLUMN)
def test_a_constant_density_is_told_on_one_column(drawn, n):
    rng = np.random.default_rng(5)
    rows = np.arange(1000) % n
    a = ONE_COLUMN[drawn](rng.normal(size=n)[rows], rng.normal(size=(2, 1000)))
    for samples in (a, a[:, None]):
        assert judge_density(samples, rows, np.full((1000, n), 7.0)).p_value < 1e-7
    none = judge_density(rng.permutation(a), rows, np.full((1000, n), 7.0))
    assert none.p_value > 0.01


@pytest.mark.slow
def test_a_constant_density_of_one_column_builds_no_operator():
    with pytest.raises(ValueError, match="must be that of what `sample` draws"):
        cx.operators.monte_carlo_operator(Noise("constant"), X[:, :1], 100, key=KEY)


@pytree_dataclass
class OfScale(Noise):
    """X + Z / 2 with the density of another scale."""

    scale: float = static_field(default=0.5)

    def _log_density(self, a, x):
        return norm.logpdf(a, x, self.scale).sum()


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.35, 1.0, 5.0, 500.0])
def test_few_draws_tell_a_density_of_another_scale(scale):
    with pytest.raises(ValueError, match="must be that of what `sample` draws"):
        cx.operators.monte_carlo_operator(
            OfScale("", scale), X, num_samples=40, key=KEY
        )


SLOW = functools.partial(pytest.param, marks=pytest.mark.slow)
# Of every kind that has both, and near the ends: draws that name their input, draws
# that say nothing of it, x without a law of their own.
KINDS = {
    "noise": (C.gaussian_noise(0.5), X),
    "little noise": (C.gaussian_noise(1e-3), X),
    "much noise": (C.gaussian_noise(1e3), X),
    "erasure": (C.erasure(0.3), X),
    "mask": (C.coordinate_mask(1), X),
    "block": (C.block_mask(1), X),
    "shift": (C.shift(1), IMAGES),
    "flip": (C.flip(0.3), IMAGES),
    "cutout": (C.cutout(2), IMAGES),
    "scarf": (C.scarf(X, 0.4), X),
    "cutmix": (C.cutmix(X, 0.4), X),
    "classes": (C.same_class(CLASSES), jnp.arange(30)),
    "tokens": (C.masked_tokens(0.3, mask_token=9, vocabulary_size=10), TOKENS),
    "knn": (C.knn(X, 5), jnp.arange(60)),
}


@pytest.mark.slow_cases("flip", "knn")
@pytest.mark.parametrize(
    "name",
    [n if n.endswith(("noise", "knn", "flip")) else SLOW(n) for n in KINDS],
)
def test_the_densities_here_are_those_of_their_samplers(name):
    context, x = KINDS[name]
    found = C.check_density(context, x, key=KEY)
    assert found.p_value > 1e-3
    assert found.num_impossible == 0
    assert np.abs(found.scores).max() < 5


@pytest.mark.slow
def test_shapes_of_densities_and_samples_are_checked():
    @pytree_dataclass
    class Wide(Noise):
        def _log_density(self, a, x):
            return norm.logpdf(a, x, 0.5)

    @pytree_dataclass
    class Whole(C.Context):
        def sample(self, key, x, *, row_offset=0):
            del row_offset
            return x[:5] + 0 * jax.random.normal(key, (5, 1), x.dtype)

        def log_density(self, a, x):
            return (a * x).sum(axis=1)

    build = functools.partial(
        cx.operators.monte_carlo_operator, x=X, num_samples=100, key=KEY
    )
    for judge in (build, lambda context: C.check_density(context, X, key=KEY)):
        with pytest.raises(ValueError, match=r"shape \(\d+,\); got shape \(\d+, 2\)"):
            judge(Wide("right"))
        with pytest.raises(ValueError, match="sample must give one a for each"):
            judge(Whole())


def log_odds(a, centres, scale):
    return -0.5 * ((a[:, None] - centres[None, :]) / scale) ** 2


def tenths(a, centres, scale):
    """Of numbers that are rounded to one decimal, in tenths."""
    ends = ((a[:, None] / 10 - centres[None, :]) + end for end in (0.05, -0.05))
    high, low = (norm.cdf(end / scale) for end in ends)
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(high) - np.asarray(low))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_draws", "whole", "scale"),
    [
        *((64, False, scale) for scale in (0.02, 2.0)),
        (800, False, 0.3),
        *((800, True, scale) for scale in (0.02, 2.0)),
    ],
)
def test_the_level_is_kept(num_draws, whole, scale):
    """Scores are no wider than N(0, 1) under the null; p-values are valid."""
    rng = np.random.default_rng(3)
    centres = rng.normal(size=40)
    found = []
    for _ in range(200):
        rows = np.arange(num_draws) % 40
        a = centres[rows] + scale * rng.normal(size=num_draws)
        if whole:
            a = np.round(10 * a).astype(int)
        law = tenths if whole else log_odds
        found.append(judge_density(a, rows, law(a, centres, scale)))
    p = np.array([one.p_value for one in found])
    scores = np.array([one.scores for one in found])
    for level in (0.2, 0.05, 0.01):
        error = (level * (1 - level) / len(p)) ** 0.5
        assert (p <= level).mean() <= level + 3 * error
    assert (np.abs(scores.mean(axis=0)) <= 4 / len(p) ** 0.5).all()
    assert (scores.std(axis=0) <= 1.15).all()
