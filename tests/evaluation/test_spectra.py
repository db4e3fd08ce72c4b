import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contexture_jax import evaluation
from tests.conftest import X64
from tests.evaluation.finite import finite, flip
from tests.tolerances import monte_carlo, tol

pytestmark = pytest.mark.skipif(not X64, reason="tolerances are those of float64")

SPECTRUM = np.random.default_rng(7).beta(1, 3, size=12)

# Compiled, since eager calls compile each operation for each size; the errors, which
# need values, and one comparison below take the functions as they are.
usefulness = jax.jit(evaluation.usefulness, static_argnames=("max_dim", "complete"))
effective_rank = jax.jit(evaluation.effective_rank, static_argnames="kind")


def gaussian(squared_correlation: float, num_values: int) -> np.ndarray:
    return squared_correlation ** (np.arange(1, num_values + 1) / 2)


@pytest.mark.parametrize(
    ("squared_correlation", "tau", "best_dim"),
    [
        (0.1, 1.910101, 1),
        (0.5, 1.833333, 1),
        (0.9, 1.997075, 27),
        (0.99, 2.005794, 480),
    ],
)
def test_usefulness_of_gaussian_pairs_is_the_published_one(
    squared_correlation, tau, best_dim
):
    result = usefulness(gaussian(squared_correlation, 513))
    assert abs(float(result.tau) - tau) < 1e-6  # the published figures have 7 digits
    assert int(result.best_dim) == best_dim
    assert result.curve.shape == (512,)


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_usefulness_follows_its_definition(beta):
    energy = np.sort(SPECTRUM)[::-1] ** 2
    curve = [
        1 / (1 - energy[d]) + beta * energy[:d].sum() / energy[:8].sum()
        for d in range(1, 9)
    ]
    result = usefulness(SPECTRUM, beta, max_dim=8)
    np.testing.assert_allclose(result.curve, curve, rtol=tol(float))
    assert int(result.best_dim) == np.argmin(curve) + 1


@pytest.mark.parametrize(("complete", "num_dims"), [(False, 11), (True, 12)])
def test_only_a_complete_spectrum_spends_its_last_value(complete, num_dims):
    result = usefulness(SPECTRUM, complete=complete)
    assert result.curve.shape == (num_dims,)
    energy = np.pad(np.sort(SPECTRUM)[::-1] ** 2, (0, 1))
    last = 1 / (1 - energy[num_dims]) + 1  # s_{d0+1} is 0 for the complete one
    np.testing.assert_allclose(result.curve[-1], last, rtol=tol(float))


def test_singular_values_of_one_cost_infinity_and_not_nan():
    result = usefulness(np.append(np.ones(3), np.zeros(9)))
    assert np.isinf(result.curve[:2]).all()
    assert int(result.best_dim) == 3
    np.testing.assert_allclose(float(result.tau), 2.0, rtol=tol(float))


def test_tau_is_infinite_where_no_dimension_is_enough():
    result = usefulness(np.ones(12))
    assert np.isinf(result.tau)
    assert int(result.best_dim) == 0


@pytest.mark.slow
def test_compiled_and_eager_usefulness_agree():
    s = gaussian(0.5, 65)
    compiled, eager = usefulness(s), evaluation.usefulness(s)
    np.testing.assert_allclose(compiled.curve, eager.curve, rtol=tol(float))


def test_the_gradient_is_finite_beside_values_of_one():
    s = jnp.asarray(np.append([1.0, 1.0], SPECTRUM[2:]))
    assert np.isfinite(jax.jit(jax.grad(lambda v: usefulness(v).tau))(s)).all()


def test_undefined_or_impossible_spectra_are_refused():
    with pytest.raises(ValueError, match="tau is undefined"):
        evaluation.usefulness(np.zeros(4))
    with pytest.raises(ValueError, match=r"at least 2 values; got 1.*complete=True"):
        evaluation.usefulness(np.array([0.5]))
    with pytest.raises(ValueError, match=r"between 0 and 1.*got 1.2"):
        evaluation.usefulness(np.array([0.5, 1.2]))
    with pytest.raises(ValueError, match="between 0 and 1"):
        evaluation.usefulness(np.array([0.5, np.nan]))
    with pytest.raises(ValueError, match="1 dimension"):
        evaluation.usefulness(np.ones((2, 2)))
    with pytest.raises(ValueError, match="max_dim must be at least 1"):
        evaluation.usefulness(SPECTRUM, max_dim=0)


def test_one_value_is_a_whole_spectrum_if_said_so():
    result = usefulness(np.array([0.5]), complete=True)
    np.testing.assert_allclose(float(result.tau), 2.0, rtol=tol(float))


def test_rounding_above_one_counts_as_one():
    above = np.append(1 + 1e-14, SPECTRUM[1:])
    result = usefulness(above)
    clipped = usefulness(np.minimum(above, 1))
    np.testing.assert_array_equal(result.curve, clipped.curve)


def test_chi_squared_and_maximal_correlation_are_those_of_the_table():
    context = finite(np.kron(flip(0.1), flip(0.3)))
    s = context.values
    independent = np.outer(context.p_x, context.p_a)
    chi_squared = ((context.table - independent) ** 2 / independent).sum()
    np.testing.assert_allclose(evaluation.chi_squared(s), chi_squared, rtol=tol(float))
    np.testing.assert_allclose(evaluation.maximal_correlation(s), 0.8, rtol=tol(float))


@pytest.mark.parametrize("kind", ["participation", "entropy"])
def test_effective_rank_counts_equal_values_and_ignores_zeros_and_scale(kind):
    s = np.array([1e-100] * 3 + [0.0] * 4)
    np.testing.assert_allclose(
        effective_rank(s, kind=kind), 3.0, rtol=tol(float, factor=100)
    )
    assert float(effective_rank(np.zeros(7), kind=kind)) == 0


def test_effective_ranks_follow_their_definitions():
    p = SPECTRUM / SPECTRUM.sum()
    energy = SPECTRUM**2
    np.testing.assert_allclose(
        effective_rank(SPECTRUM, kind="entropy"),
        np.exp(-(p * np.log(p)).sum()),
        rtol=tol(float),
    )
    np.testing.assert_allclose(
        effective_rank(SPECTRUM),
        energy.sum() ** 2 / (energy**2).sum(),
        rtol=tol(float),
    )


def test_effective_rank_refuses_another_kind():
    with pytest.raises(ValueError, match=r"participation.*entropy.*; got 'trace'"):
        evaluation.effective_rank(SPECTRUM, "trace")


def test_counts_of_independent_variables_have_the_stated_bias():
    rng = np.random.default_rng(3)
    num_samples, trials = 500, 400
    p_x, p_a = np.array([0.2, 0.3, 0.5]), np.array([0.1, 0.2, 0.3, 0.4])
    counts = rng.multinomial(num_samples, np.outer(p_x, p_a).ravel(), size=trials)
    tables = counts.reshape(trials, 3, 4) / num_samples
    expected = tables.sum(2)[:, :, None] * tables.sum(1)[:, None, :]
    energy = ((tables - expected) ** 2 / expected).sum((1, 2))
    bias = evaluation.chi_squared_bias(3, 4, num_samples)
    sem = energy.std() / np.sqrt(trials)
    assert abs(energy.mean() - bias) < monte_carlo(sem)


@pytest.mark.parametrize(
    ("spectrum", "complete", "word"),
    [
        (np.zeros(65), False, "too weak"),
        (np.full(65, 1e-3), False, "too weak"),  # tau = 1.02: ratios only
        (np.append(0.6, np.zeros(64)), False, "too weak"),  # tau = 2: under a function
        (gaussian(0.5, 65), False, "moderate"),
        (gaussian(0.99, 65), False, "undecided"),
        (gaussian(0.99, 65), True, "too strong"),
        (np.append(np.ones(9), np.zeros(56)), False, "too strong"),
        (np.ones(1), True, "too strong"),  # labels of two classes
        (np.array([0.99]), True, "too strong"),
        (np.array([0.6, 0.1]), True, "too weak"),
    ],
)
def test_verdict_tells_the_two_extremes_apart(spectrum, complete, word):
    result = evaluation.verdict(spectrum, complete=complete)
    assert result.association == word, result.reason


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shift", [-50, 0, 50])
def test_rounding_decides_no_verdict(dtype, shift):
    rounding = 1 + shift * float(np.finfo(dtype).eps)
    for spectrum, word in (
        (np.sqrt([0.5, 0.5]), "too weak"),  # Σ s² = 1
        (np.sqrt([0.9, 0.1]), "too weak"),
        (np.ones(1), "too strong"),
        (gaussian(0.1, 513), "moderate"),  # s_1² = 0.1
    ):
        s = (spectrum * rounding).astype(dtype)
        assert evaluation.verdict(s, complete=True).association == word, spectrum


SPECTRA = {
    "gaussian": gaussian(0.9, 700),
    "slow": gaussian(0.99, 700),
    "steep": gaussian(0.3, 40),
    "steps": np.repeat([0.9, 0.7, 0.4, 0.2, 0.1], 30),
    "flat tail": np.append(gaussian(0.8, 20), np.full(600, 0.05)),
    "ones": np.ones(80),
    "few": np.array([0.8, 0.5, 0.1]),
}


@pytest.mark.slow_cases("8-gaussian")
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("max_dim", [8, 512])
def test_tau_lies_between_bounds_that_close_as_more_is_known(name, max_dim):
    s = SPECTRA[name]
    whole = evaluation.usefulness(s, max_dim=max_dim, complete=True)
    tau, slack = float(whole.tau), tol(float, factor=1000)
    widths = []
    for rank in sorted({1, 2, 7, 25, len(s)}):
        head, rest = s[:rank], s[rank:]
        if rank > len(s):
            continue
        found = evaluation.usefulness_bounds(
            head, float((rest**2).sum()), len(s), max_dim=max_dim
        )
        assert found.lower <= tau + slack
        assert tau <= found.upper + slack
        widths.append(0 if found.upper == found.lower else found.upper - found.lower)
        if rank > min(max_dim, len(s) - 1):
            assert found.best_dim == int(whole.best_dim)
    assert widths[-1] <= slack
    for wide, narrow in itertools.pairwise(widths):
        assert narrow <= wide + slack


def test_a_tail_that_must_be_of_ones_is_seen_to_be():
    found = evaluation.usefulness_bounds(np.ones(16), 64.0, 80)
    np.testing.assert_allclose(found[:2], 2.0, rtol=tol(float, factor=1000))
    assert found.best_dim == 80
    judged = evaluation.verdict(np.ones(16), tail_energy=64.0, num_values=80)
    assert judged.association == "too strong"
    assert "all 80 singular values are 1" in judged.reason
    beyond = evaluation.verdict(np.ones(16), tail_energy=584.0, num_values=600)
    assert beyond.association == "too strong"


def test_a_head_decides_when_its_tail_cannot_change_the_verdict():
    s = SPECTRA["slow"]

    def judge(rank):
        return evaluation.verdict(
            s[:rank], tail_energy=float((s[rank:] ** 2).sum()), num_values=len(s)
        )

    assert judge(64).association == "undecided"
    assert "one of 513 will" in judge(64).reason
    assert judge(513).association == "too strong"
    steps = SPECTRA["steps"]
    tail = float((steps[70:] ** 2).sum())
    decided = evaluation.verdict(steps[:70], tail_energy=tail, num_values=len(steps))
    assert decided.association == "too strong"
    s = gaussian(0.5, 700)
    assert judge(12).association == "moderate"


def test_a_statistical_tail_widens_the_bounds():
    s = gaussian(0.9, 30)
    exact = evaluation.usefulness_bounds(s, 0.4, 500)
    loose = evaluation.usefulness_bounds(s, 0.4, 500, tail_error=0.05)
    assert loose.lower <= exact.lower
    assert loose.upper > exact.upper


def test_bounds_need_numbers_that_fit():
    with pytest.raises(ValueError, match="num_values must be at least 12; got 11"):
        evaluation.usefulness_bounds(SPECTRUM, 0.1, 11)
    with pytest.raises(ValueError, match="tau is undefined"):
        evaluation.usefulness_bounds(np.zeros(4), 0.0, 4)
    with pytest.raises(ValueError, match=r"go together; got 0\.1 and None"):
        evaluation.verdict(SPECTRUM, tail_energy=0.1)


def test_verdict_needs_values():
    with pytest.raises(TypeError, match="concrete to be judged"):
        jax.jit(lambda s: evaluation.verdict(s).reason)(SPECTRUM)


def test_the_judges_of_values_compile_nothing(caplog):
    values = (0.9 ** np.arange(1, 24)).astype(np.float32)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        evaluation.usefulness(values)
        evaluation.decay_rate(values)
        evaluation.chi_squared(values)
        evaluation.maximal_correlation(values)
        evaluation.verdict(values)
    assert not [m for m in caplog.messages if "Finished XLA compilation" in m]
