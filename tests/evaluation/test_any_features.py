"""Judges of features that are not finite, or in units far from 1: all of them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax import evaluation
from tests.operators.test_door import compilations

RNG = np.random.default_rng(3)
ROWS = 12
OP = cx.association_operator(
    cx.contexts.joint(RNG.gamma(0.5, size=(ROWS, 7)).astype(np.float32) + 0.01)
)
KEY = jax.random.key(0)
# Whole numbers below 2⁹, so that a power of two times them is exact to 2⁻¹⁴⁹.
FEATURES = RNG.integers(-500, 500, size=(ROWS, 3)).astype(np.float32)
OTHER = RNG.normal(size=(ROWS, 3)).astype(np.float32)
LEFT = np.linalg.qr(OTHER)[0]
CLASSES = np.arange(ROWS) % 3
SPECTRUM = np.linspace(0.9, 0.1, ROWS).astype(np.float32)
EXACT = cx.solvers.SVDResult(SPECTRUM[:4], RNG.normal(size=(ROWS, 4)), np.eye(7, 4))
EYE: Any = np.eye(3)
RITZ = evaluation.RayleighRitz(EYE, EYE, EYE, EYE, EYE, None)

OF_FEATURES = {
    "cca": lambda x: evaluation.cca(x, OTHER),
    "cca, second": lambda x: evaluation.cca(OTHER, x),
    "cka": lambda x: evaluation.cka(x, OTHER),
    "cka, second": lambda x: evaluation.cka(OTHER, x),
    "principal_angles": lambda x: evaluation.principal_angles(x, OTHER),
    "projector_distance": lambda x: evaluation.projector_distance(x, OTHER),
    "ratio_trace": lambda x: evaluation.ratio_trace(x, OP),
    "ritz_values": lambda x: evaluation.ritz_values(x, OP),
    "trace_gap": lambda x: evaluation.trace_gap(x, OP, SPECTRUM),
    "compatibility": lambda x: evaluation.compatibility(x, OP),
    "compatibility, one": lambda x: evaluation.compatibility(x[:, 0], OP),
    "target_energy": lambda x: evaluation.target_energy(x, LEFT, OP.p_x),
    "worst_case_error_of": lambda x: evaluation.worst_case_error_of(x, OP, 0.9),
    "worst_case_error_of_coefficients": lambda x: (
        evaluation.worst_case_error_of_coefficients(x, SPECTRUM, 0.2)
    ),
    "rayleigh_ritz": lambda x: evaluation.rayleigh_ritz(x, OP)[:3],
    "rayleigh_ritz, pairs": lambda x: evaluation.rayleigh_ritz(x, OTHER)[:3],
    "rayleigh_ritz, positive": lambda x: (
        evaluation.rayleigh_ritz(x, x[::-1], positive=True, rank=2, key=KEY).held_out
    ),
    "mutual_knn, whitened": lambda x: evaluation.mutual_knn(x, OTHER, 2, whiten=True),
}
OTHERS = {
    "mutual_knn": lambda x: evaluation.mutual_knn(x, OTHER, 2),
    "lipschitz": lambda x: evaluation.lipschitz(OP, x, key=KEY),
    "class_energy": lambda x: evaluation.class_energy(CLASSES, x, OP.p_x, 3),
    "target_energy, left": lambda x: evaluation.target_energy(OTHER, x, OP.p_x),
    "weights": lambda x: evaluation.cca(OTHER, LEFT, jnp.abs(x[:, 0])),
}
OF_VALUES = {
    "usefulness": lambda s: evaluation.usefulness(s).tau,
    "decay_rate": evaluation.decay_rate,
    "chi_squared": evaluation.chi_squared,
    "maximal_correlation": evaluation.maximal_correlation,
    "effective_rank": evaluation.effective_rank,
    "effective_rank, entropy": lambda s: evaluation.effective_rank(s, "entropy"),
    "trace_gap, values": lambda s: evaluation.trace_gap(OTHER, OP, s),
    "trace_gap_bound": lambda s: evaluation.trace_gap_bound(s[1], s[0], 0.5),
    "worst_case_error": lambda s: evaluation.worst_case_error(s, 2, 0.5).value,
    "coefficients, values": lambda s: evaluation.worst_case_error_of_coefficients(
        OTHER, s, 0.5
    ),
    "tail_shares": evaluation.tail_shares,
    "worst_case_curve": lambda s: evaluation.worst_case_curve(s, 0.5),
    "leverage_bound": lambda s: evaluation.leverage_bound(s, 9.0),
    "jackknife": lambda s: evaluation.jackknife(jnp.mean(s), jnp.asarray(s)),
}
# On the host, or only there.
EAGER = {
    "alignment": lambda x: evaluation.alignment(
        x, EXACT, OP, key=KEY, num_neighbors=2, num_shuffles=1
    ),
    "alignment, exact": lambda x: evaluation.alignment(
        OTHER, EXACT._replace(left=x), OP, key=KEY, num_shuffles=1
    ),
    "compare": lambda x: evaluation.compare(x, OTHER, key=KEY),
    "compare, neighbours": lambda x: evaluation.compare(
        OTHER, x, "mutual_knn", key=KEY, num_neighbors=2
    ),
    "compare_all": lambda x: evaluation.compare_all({"a": x, "b": OTHER}, key=KEY),
    "context_fit": lambda x: evaluation.context_fit(x, OP, SPECTRUM, key=KEY),
    "geometry": evaluation.geometry,
    "intrinsic_dimension": evaluation.intrinsic_dimension,
    "kernel_alignment": lambda x: evaluation.kernel_alignment(x, OP, key=KEY),
    "neighbor_purity": lambda x: evaluation.neighbor_purity(
        x, CLASSES, key=KEY, num_neighbors=2
    ),
    "principal_directions": evaluation.principal_directions,
    "units": lambda x: evaluation.units(x, CLASSES, key=KEY),
    "cluster_cosines": lambda x: evaluation.cluster_cosines(x, OTHER, [(0, 3)]),
    "rayleigh_ritz, transform": lambda x: RITZ.transform(x),
    "clusters": lambda x: evaluation.clusters(x[:, 0]),
    "clusters, gap": lambda x: evaluation.clusters(SPECTRUM, gap=float(x[0, 0])),
    "verdict": lambda x: evaluation.verdict(x[:, 0]),
    "verdict, tail": lambda x: evaluation.verdict(
        SPECTRUM, tail_energy=x[0, 0], num_values=20
    ),
    "usefulness_bounds": lambda x: evaluation.usefulness_bounds(SPECTRUM, x[0, 0], 20),
    "usefulness_bounds, error": lambda x: evaluation.usefulness_bounds(
        SPECTRUM, 0.1, 20, tail_error=x[0, 0]
    ),
    "counted_sample": evaluation.counted_sample,
    "concatenate": evaluation.concatenate,
    "cluster_dimension": lambda x: evaluation.cluster_dimension(x[:, 0], 1),
    "energy_dimension": lambda x: evaluation.energy_dimension(x[:, 0], 0.9),
    "spectral_gaps": lambda x: evaluation.spectral_gaps(x[:, 0]),
    "usefulness_grid": lambda x: evaluation.usefulness_grid(x[:, 0]),
    "worst_case_dimension": lambda x: evaluation.worst_case_dimension(
        x[:, 0], 0.5, 0.1
    ),
    "probe_leverage": evaluation.probe_leverage,
    "span_stability": lambda x: evaluation.span_stability(x, OTHER[None]),
    "leave_one_out_errors": lambda x: evaluation.leave_one_out_errors(x[:, 0], OTHER),
    "column_errors": lambda x: evaluation.column_errors(x, OTHER),
    "pearson_correlation": lambda x: evaluation.pearson_correlation(
        x[:, 0], OTHER[:, 0]
    ),
    "distance_correlation": lambda x: evaluation.distance_correlation(
        x[:, 0], OTHER[:, 0]
    ),
    "sphere_geometry": evaluation.sphere_geometry,
    "shifted_risks": lambda x: evaluation.shifted_risks(x[:, 0], key=KEY),
    "context_dependence": lambda x: evaluation.context_dependence(
        x[:, :, None], key=KEY
    ),
    "context_stability": lambda x: evaluation.context_stability(x[:, :, None], key=KEY),
    "perturbation_bound": lambda x: evaluation.perturbation_bound(
        EXACT._replace(left=x), OP, OP, key=KEY
    ),
    "contexture_shift": lambda x: evaluation.contexture_shift(
        EXACT._replace(left=x), EXACT, OP
    ),
    "contexture_shift, target": lambda x: evaluation.contexture_shift(
        EXACT, EXACT, OP, target=x
    ),
    "span_shift_bound": lambda x: evaluation.span_shift_bound(
        EXACT._replace(left=x), cx.operators.reweight(OP, CLASSES + 1.0), 2
    ),
}
# They take whole numbers, samples or operators, which are checked where they are made.
NO_FEATURES = {
    "bootstrap_interval",  # of numbers that may be infinite, as τ may
    "bootstrap_spectrum",
    "chi_squared_bias",
    "cluster_agreement",  # of classes
    "estimate_kappa_squared",
    "estimate_kernel_deviation",
    "expected_kernel_deviation",
    "held_out_spectrum",
    "judge_counts",
    "judge_spectrum",
    "judge_target",  # refuses a target that is not finite itself
    "kappa_squared",
    "kernel_diagonal",
    "kernel_distance",  # of operators
    "monte_carlo_error",
    "monte_carlo_kappa_squared",
    "num_singular_values",
    "pair_sample",
    "permutation_null",
    "probe_tradeoff",  # of bounds, which are not negative
    "subset_usefulness",  # of a function, whose spectra are checked as they come
}


def test_every_judge_is_here():
    functions = {
        name
        for name in evaluation.__all__
        if not isinstance(getattr(evaluation, name), (type, tuple))
    }
    here = {n.split(",")[0] for n in (OF_FEATURES | OTHERS | OF_VALUES | EAGER)}
    assert functions - here == NO_FEATURES


def spoiled(x, value):
    return np.concatenate([np.full_like(x[:1], value), x[1:]])


COMPILED = {n: jax.jit(f) for n, f in (OF_FEATURES | OTHERS | OF_VALUES).items()}


@pytest.mark.parametrize("name", [*OF_FEATURES, *OTHERS, *EAGER])
def test_features_that_are_not_finite_are_refused(name):
    judge = (OF_FEATURES | OTHERS | EAGER)[name]
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"finite|between 0 and 1|whole numbers"):
            judge(spoiled(OTHER, value))


@pytest.mark.parametrize("name", OF_VALUES)
def test_values_that_are_not_finite_are_refused(name):
    expected = r"finite|between 0 and 1|non-negative|in \(0, 1\]"
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match=expected):
            OF_VALUES[name](spoiled(SPECTRUM, value))


@pytest.mark.parametrize("name", [*OF_FEATURES, *OTHERS, *OF_VALUES])
def test_inside_a_trace_they_give_nan(name):
    judge = COMPILED[name]
    base = SPECTRUM if name in OF_VALUES else OTHER
    for value in (np.nan, np.inf):
        found = jax.tree.leaves(judge(spoiled(base, value)))
        assert all(np.isnan(leaf).any() for leaf in found)
        assert not any(np.isfinite(leaf).any() for leaf in found if leaf.ndim == 0)


@pytest.mark.parametrize("name", OF_FEATURES)
def test_the_unit_of_features_does_not_matter(name):
    judge = COMPILED[name]
    expected = judge(FEATURES)
    # 1e20, 1e-20, and units of subnormal numbers, 2⁻¹⁴⁹ and above.
    units = [[66, 66, 66], [-66, -66, -66], [-140, -140, -140]]
    # What pools columns has one unit for all.
    units += [] if name[:3] in ("cka", "tar") else [[-100, 0, 100]]
    for exponents in units:
        jax.tree.map(
            np.testing.assert_array_equal,
            judge(np.ldexp(FEATURES, exponents).astype(np.float32)),
            expected,
        )


def test_an_interval_of_what_is_no_number_is_refused():
    with pytest.raises(ValueError, match="replicates must be numbers; got nan"):
        evaluation.bootstrap_interval(0.5, [0.4, np.nan])


def test_slopes_have_the_unit_of_the_features():
    slope = COMPILED["lipschitz"]
    for exponent in (66, -66):
        np.testing.assert_array_equal(
            slope(np.ldexp(FEATURES, exponent)), np.ldexp(slope(FEATURES), -exponent)
        )


@pytest.mark.slow
def test_functions_of_tiny_embeddings_that_have_no_map_are_refused():
    tiny = np.ldexp(FEATURES[:, :1], -140)
    with pytest.raises(ValueError, match="multiply phi"):
        evaluation.rayleigh_ritz(tiny, tiny)


def test_pairs_of_many_rows_are_counted_beyond_int32():
    x = jax.ShapeDtypeStruct((100_000, 2), np.float32)
    found = jax.eval_shape(
        lambda x: evaluation.compare(x, x, "cka_debiased", key=KEY), x
    )
    assert found.value.shape == ()


@functools.cache
def _drawn() -> Any:
    noise = cx.contexts.gaussian_noise(0.75)
    return cx.operators.monte_carlo_operator(noise, OTHER, 60, key=KEY)


TARGET = np.arange(24) % 3
FEW: dict[str, Any] = {"key": KEY, "num_permutations": 3}
# Loops over what the caller gives, which JAX would compile at each call of eager code.
OFTEN = {
    "input_output": lambda x: cx.diagnostics.input_output(x, TARGET, **FEW),
    "cross_task": lambda x: cx.diagnostics.cross_task(x, {"a": x[:, 0]}, **FEW),
    "compositionality": lambda x: cx.diagnostics.compositionality(x, x, x, **FEW),
    "monte_carlo_error": lambda x: evaluation.monte_carlo_error(
        _drawn(), 2, key=jax.random.key(int(abs(x).sum()))
    ),
    "mutual_knn": lambda x: evaluation.mutual_knn(x, x[::-1], 2),
    "rayleigh_ritz": lambda x: (
        evaluation.rayleigh_ritz(x, x[::-1], positive=True, rank=2, key=KEY).held_out
    ),
    "lipschitz": lambda x: evaluation.lipschitz(OP, x[:ROWS], key=KEY),
    "alignment": lambda x: EAGER["alignment"](x[:ROWS]),
    "shifted_risks": lambda x: EAGER["shifted_risks"](x),
}


@pytest.mark.fast("mutual_knn", "shifted_risks")
@pytest.mark.parametrize("name", OFTEN)
def test_a_second_call_compiles_nothing(name):
    one, other = RNG.normal(size=(2, 24, 3)).astype(np.float32)
    with compilations() as first:
        jax.jit(lambda x: x + 1)(one)  # a function that JAX has not seen
        jax.block_until_ready(OFTEN[name](one))
    assert first
    with compilations() as second:
        jax.block_until_ready(OFTEN[name](other))
    assert [text for text in second if text.startswith("Compiling")] == []
