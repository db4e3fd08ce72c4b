"""float32 in, float32 out, to float32 accuracy: with x64 on and off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax import evaluation
from tests.tolerances import tol

RNG = np.random.default_rng(1)
TABLE = RNG.gamma(0.5, size=(9, 7)).astype(np.float32) + np.float32(0.01)
OP = cx.association_operator(cx.contexts.joint(TABLE))
PHI, PSI = RNG.normal(size=(2, 9, 3)).astype(np.float32)
S = np.sort(RNG.uniform(size=10)).astype(np.float32)[::-1]
LEFT = np.linalg.qr(PHI)[0]
P_X = np.asarray(OP.p_x)
Y = np.arange(9) % 3
KEY = jax.random.key(0)

CALLS = {
    "usefulness": lambda: evaluation.usefulness(S)[::2],
    "decay_rate": lambda: evaluation.decay_rate(S),
    "chi_squared": lambda: evaluation.chi_squared(S),
    "maximal_correlation": lambda: evaluation.maximal_correlation(S),
    "participation": lambda: evaluation.effective_rank(S),
    "entropy": lambda: evaluation.effective_rank(S, "entropy"),
    "ratio_trace": lambda: evaluation.ratio_trace(PHI, OP),
    "ritz_values": lambda: evaluation.ritz_values(PHI, OP),
    "trace_gap": lambda: evaluation.trace_gap(PHI, OP, S),
    "trace_gap_bound": lambda: evaluation.trace_gap_bound(0.1, np.float32(0.9), 0.3),
    "compatibility": lambda: evaluation.compatibility(PHI, OP),
    "target_energy": lambda: evaluation.target_energy(PSI, LEFT, P_X),
    "class_energy": lambda: evaluation.class_energy(Y, LEFT, P_X),
    "principal_angles": lambda: evaluation.principal_angles(PHI, PSI),
    "projector_distance": lambda: evaluation.projector_distance(PHI, PSI),
    "cca": lambda: evaluation.cca(PHI, PSI),
    "mutual_knn": lambda: evaluation.mutual_knn(PHI, PSI, 2),
    "kernel_deviation": lambda: evaluation.expected_kernel_deviation(OP),
    "estimate": lambda: evaluation.estimate_kernel_deviation(OP, 50, key=KEY),
    "kernel_diagonal": lambda: evaluation.kernel_diagonal(OP),
    "kappa_squared": lambda: evaluation.kappa_squared(OP),
    "lipschitz": lambda: evaluation.lipschitz(OP, PHI, key=KEY),
    "worst_case_error": lambda: evaluation.worst_case_error(S, 2, 0.2).value,
    "worst_case_error_of": lambda: evaluation.worst_case_error_of(PHI, OP, 0.9),
    "of_coefficients": lambda: evaluation.worst_case_error_of_coefficients(
        RNG.normal(size=(10, 2)), S, 0.2
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_float32_stays_float32(name):
    for value in jax.tree.leaves(jax.eval_shape(CALLS[name])):
        assert value.dtype == jnp.float32


def test_float32_is_accurate_to_its_rounding():
    whole = TABLE.astype(float) / TABLE.sum(dtype=float)
    p_x, p_a = whole.sum(1), whole.sum(0)
    phi = PHI - p_x @ PHI
    image = (whole / p_a).T @ phi
    C, B = (p_x * phi.T) @ phi, (p_a * image.T) @ image
    np.testing.assert_allclose(
        jax.jit(evaluation.ratio_trace)(PHI, OP),
        np.trace(np.linalg.solve(C, B)),
        rtol=tol(np.float32, size=10),
    )


def test_small_angles_are_exact_in_float32():
    first, second = np.linalg.qr(RNG.normal(size=(9, 2)))[0].T
    angle = 1e-5  # its cosine is 1 to float32 rounding
    turned = np.cos(angle) * first + np.sin(angle) * second
    found = jax.jit(evaluation.principal_angles)(
        first[:, None].astype(np.float32), turned[:, None].astype(np.float32)
    )
    np.testing.assert_allclose(found, [angle], atol=tol(np.float32, factor=3))


def test_integers_and_half_precision_are_promoted():
    for dtype, expected in (
        (jnp.bfloat16, jnp.float32),
        (jnp.int32, jnp.zeros(()).dtype),
    ):
        phi = jnp.asarray(PHI, dtype)
        assert jax.eval_shape(evaluation.cca, phi, PSI).dtype == expected
