"""Certificates hold whatever the solver did, and say something where they can."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax._core.remainder import remainder_norm
from contexture_jax.solvers._linear_map import LinearMap
from contexture_jax.solvers._random import random_block
from tests import oracle
from tests.conftest import SOME_DTYPES, X64
from tests.problems import random_table
from tests.solvers.test_spectra import padded, table_of, truth
from tests.tolerances import MONTE_CARLO_SIGMAS, promised, tol

DTYPES = [np.float32, np.float64] if X64 else [np.float32]
KEY, OTHER = jax.random.key(7), jax.random.key(8)
# Decaying, slow, repeated, zero, cut and nearly equal spectra.
NAMES = [
    "circle_shift",
    "complete_bipartite",
    "erasure",
    "gaussian",
    "mask_law",
    "torus_walk",
    "tree",
]
CASES = [
    pytest.param(name, *dtype.values, marks=dtype.marks)
    for name in NAMES
    for dtype in SOME_DTYPES
]
CONVERGED, STOPPED = "converged", "stopped"


class Solved(NamedTuple):
    op: cx.AssociationOperator
    result: cx.SVDResult
    info: cx.SolveInfo
    alone: cx.solvers.Certificate
    probed: cx.solvers.Certificate

    @property
    def weighted(self) -> tuple[np.ndarray, np.ndarray]:
        """The functions in coordinates where they are orthonormal."""
        left, right = (
            np.sqrt(np.asarray(law))[:, None] * np.asarray(functions)
            for law, functions in (
                (self.op.p_x, self.result.left),
                (self.op.p_a, self.result.right),
            )
        )
        return left.astype(np.float64), right.astype(np.float64)


class Dense(NamedTuple):
    matrix: np.ndarray
    left: np.ndarray
    values: np.ndarray
    right: np.ndarray


@functools.cache
def dense(name: str) -> Dense:
    """The deflated matrix of a padded table and its decomposition, in float64."""
    table = padded(table_of(name), np.float64)
    matrix = oracle.symmetrised(table, deflated=True)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return Dense(matrix, left, values, right.T)


@functools.cache
def solved(name: str, run: str, dtype: type) -> Solved:
    op = cx.association_operator(cx.contexts.joint(padded(table_of(name), dtype)))
    rank, _ = truth(name)
    # No oversampling: blocks of one width, so that families share a program.
    if run == CONVERGED:
        # To rounding, and not to what is asked for by default.
        tol = 1e-13 if dtype == np.float64 else None
        result, info = cx.svd(
            op, rank, key=KEY, method="krylov", num_oversamples=0, tol=tol
        )
    else:
        result, info = cx.svd(
            op, rank, key=KEY, num_oversamples=0, num_power_iterations=0
        )
    alone = cx.solvers.certify(result, info)
    probed = cx.solvers.certify(result, info, op, key=OTHER)
    return Solved(op, result, info, alone, probed)


def largest_sine(span: np.ndarray, true: np.ndarray) -> float:
    return float(np.linalg.norm(span - true @ (true.T @ span), 2))


@pytest.mark.fast("circle_shift-float64-stopped")
@pytest.mark.parametrize("run", [CONVERGED, STOPPED])
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_the_truth_is_inside(name, dtype, run):
    case = solved(name, run, dtype)
    rank = len(case.result.singular_values)
    true = dense(name).values
    for certificate in (case.alone, case.probed):
        assert certificate.lower.dtype == certificate.upper.dtype == dtype
        assert (np.asarray(certificate.lower) <= true[:rank]).all()
        assert (true[:rank] <= np.asarray(certificate.upper)).all()
        assert true[rank] <= certificate.proved.next_upper


@pytest.mark.slow_cases(
    "circle_shift-float64-converged", "complete_bipartite-float64-converged"
)
@pytest.mark.parametrize("run", [CONVERGED, STOPPED])
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_with_probes_the_bounds_are_near_the_error(name, dtype, run):
    case = solved(name, run, dtype)
    s = np.asarray(case.result.singular_values)
    errors = np.abs(s - dense(name).values[: len(s)])
    widths = np.asarray(case.probed.upper - case.probed.lower)
    cut = [c.start for c in case.probed.clusters if c.cut]
    whole = cut[0] if cut else len(s)
    if run == CONVERGED:
        assert (widths[:whole] <= 3 * promised(dtype)).all()
        # A value as large as one that was not computed: what probes can tell.
        assert (widths[whole:] <= 0.12 * s[whole:] + 3 * promised(dtype)).all()
    else:
        assert widths.max() <= 4 * (errors.max() + promised(dtype))


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_converged_bounds_from_residuals_are_at_rounding(name, dtype):
    certificate = solved(name, CONVERGED, dtype).alone
    width = np.asarray(certificate.if_found.upper - certificate.lower)
    assert width.max() <= 10 * certificate.rounding + 1e-10
    assert float(certificate.rounding) <= tol(dtype, size=5)


@pytest.mark.parametrize("run", [CONVERGED, STOPPED])
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_the_assumption_of_the_other_bounds_is_what_they_say(name, dtype, run):
    case = solved(name, run, dtype)
    left, right = case.weighted
    s = np.asarray(case.result.singular_values)
    matrix = dense(name).matrix
    missed = matrix - left @ (left.T @ matrix)
    missed = np.linalg.norm(missed - (missed @ right) @ right.T, 2)
    slack = float(case.alone.rounding)
    holds = missed <= s[-1] + slack
    inside = dense(name).values[: len(s)] <= np.asarray(case.alone.if_found.upper)
    assert inside.all() or not holds
    if run == CONVERGED:
        assert holds
    assert float(case.probed.proved.next_upper) >= missed


def test_a_run_that_was_stopped_can_break_the_assumption():
    case = solved("erasure", STOPPED, DTYPES[-1])
    true = dense("erasure").values[: len(case.result.singular_values)]
    assert (true > np.asarray(case.alone.if_found.upper)).any()


@pytest.mark.fast("mask_law-float64-converged")
@pytest.mark.parametrize("run", [CONVERGED, STOPPED])
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_true_spans_are_within_the_angles(name, dtype, run):
    case = solved(name, run, dtype)
    for certificate in (case.alone, case.probed):
        for computed, true in zip(
            case.weighted, (dense(name).left, dense(name).right), strict=True
        ):
            for d in range(1, computed.shape[1] + 1):
                sine = largest_sine(computed[:, :d], true[:, :d])
                bound = float(certificate.proved.leading_sines[d - 1])
                assert bound >= 1 or sine <= bound
            for cluster in certificate.clusters:
                here = slice(cluster.start, cluster.stop)
                sine = largest_sine(computed[:, here], true[:, here])
                assert cluster.sine >= 1 or sine <= cluster.sine


@pytest.mark.slow_cases("float32")
@pytest.mark.parametrize("dtype", DTYPES)
def test_spans_of_separate_values_are_certified(dtype):
    certificate = solved("gaussian", CONVERGED, dtype).probed
    bound = 200 * float(certificate.rounding)
    assert np.asarray(certificate.proved.leading_sines).max() <= bound
    assert np.asarray(certificate.proved.cluster_sines).max() <= 2 * bound


@pytest.mark.slow_cases("float32")
@pytest.mark.parametrize("dtype", DTYPES)
def test_repeated_values_are_clusters_with_their_multiplicities(dtype):
    def ranges(name):
        clusters = solved(name, CONVERGED, dtype).probed.clusters
        assert all(c.multiplicity == c.stop - c.start for c in clusters)
        return [(c.start, c.stop, c.cut) for c in clusters]

    # Four values 0.7^(1/2), then the first two of six that are 0.7.
    assert ranges("erasure") == [(0, 4, False), (4, 6, True)]
    assert ranges("gaussian") == [(i, i + 1, False) for i in range(6)]
    # Multiplicities 1, 2, 4, …: the third cluster is cut.
    assert ranges("tree") == [(0, 1, False), (1, 3, False), (3, 6, True)]
    cluster = solved("erasure", CONVERGED, dtype).probed.clusters[0]
    assert cluster.sine <= 50 * promised(dtype)


def test_nearly_equal_values_are_a_cluster_if_told_so():
    case = solved("gaussian", CONVERGED, DTYPES[-1])
    apart = np.diff(np.asarray(case.result.singular_values))
    wide = cx.solvers.certify(
        case.result, case.info, cluster_tol=float(-apart[3]) * 1.01
    )
    assert [(c.start, c.stop) for c in wide.clusters] == [
        (0, 1),
        (1, 2),
        (2, 3),
        (3, 6),
    ]


@pytest.mark.slow
def test_a_value_that_was_missed_is_bounded():
    """True triples without the second: no residual tells."""
    dtype = DTYPES[-1]
    case, truth = solved("gaussian", CONVERGED, dtype), dense("gaussian")
    kept = np.array([0, 2, 3, 4, 5, 6])
    weights = [np.sqrt(np.asarray(p, np.float64)) for p in (case.op.p_x, case.op.p_a)]
    left, right = (
        np.divide(
            v[:, kept], w[:, None], out=np.zeros((len(w), 6)), where=w[:, None] > 0
        )
        for v, w in zip((truth.left, truth.right), weights, strict=True)
    )
    s = truth.values[kept]
    result = cx.SVDResult(*(jnp.asarray(x, dtype) for x in (s, left, right)))
    nothing = jnp.zeros(6, dtype)
    info = dataclasses.replace(
        case.info,
        residuals=nothing,
        left_residuals=nothing,
        right_residuals=nothing,
        tail_energy=jnp.asarray((truth.values**2).sum() - (s**2).sum(), dtype),
    )
    for certificate in (
        cx.solvers.certify(result, info),
        cx.solvers.certify(result, info, case.op, key=OTHER),
    ):
        assert (np.asarray(certificate.lower) <= truth.values[:6]).all()
        assert (truth.values[:6] <= np.asarray(certificate.upper)).all()
        assert certificate.proved.next_upper >= truth.values[6]
        assert certificate.upper[1] <= 1.01 * truth.values[1]
        assert np.asarray(certificate.proved.leading_sines)[1:].min() == 1
        assert (truth.values[:6] > np.asarray(certificate.if_found.upper)).any()


@pytest.fixture(scope="module")
def probing():
    """Bounds on the norm of a flat-tailed 60 × 50 matrix, over many seeds."""
    rng = np.random.default_rng(0)
    u, _ = np.linalg.qr(rng.normal(size=(60, 50)))
    v, _ = np.linalg.qr(rng.normal(size=(50, 50)))
    matrix = jnp.asarray((u * np.linspace(0.9, 0.5, 50)) @ v.T, DTYPES[-1])
    known = jnp.asarray(u[:, :2], matrix.dtype), jnp.asarray(v[:, :2], matrix.dtype)
    a = LinearMap(lambda g: matrix @ g, lambda f: matrix.T @ f, (60, 50), matrix.dtype)

    @functools.partial(jax.jit, static_argnums=(1, 2, 3))
    def bounds(seeds, num_passes, num_probes, probability):
        return jax.vmap(
            lambda seed: remainder_norm(
                a,
                *known,
                random_block(seed, 50, num_probes, matrix.dtype),
                num_passes=num_passes,
                failure_probability=probability,
            )
        )(seeds)

    return bounds, float(np.linspace(0.9, 0.5, 50)[2])


def test_probes_bound_what_is_left_and_not_by_much(probing):
    bounds, true = probing
    found = np.asarray(bounds(jnp.arange(200, dtype=jnp.uint32), 10, 8, 1e-6))
    assert found.min() >= true
    assert found.max() <= 1.1 * true


def test_probes_fail_no_more_often_than_said(probing):
    bounds, true = probing
    seeds, probability = jnp.arange(2000, dtype=jnp.uint32), 0.5
    failures = (np.asarray(bounds(seeds, 2, 1, probability)) < true).mean()
    error = (probability * (1 - probability) / 2000) ** 0.5
    assert failures <= probability + MONTE_CARLO_SIGMAS * error


def test_a_plain_matrix_has_a_scale_of_its_own():
    matrix = 50.0 * random_table(DTYPES[-1], seed=3)
    true = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    result, info = cx.solvers.truncated_svd(matrix, 3, key=KEY)
    certificate = cx.solvers.certify(result, info, scale=0.0)
    assert (np.asarray(certificate.lower) <= true[:3]).all()
    assert (true[:3] <= np.asarray(certificate.upper)).all()
    assert float(certificate.rounding) <= tol(matrix.dtype, factor=20) * true[0]


@pytest.fixture(scope="module")
def twice():
    """An operator that does not know its norm, and the energies of its spectrum."""
    table = random_table(DTYPES[-1])
    one = cx.operators.dense_operator(jnp.asarray(table))
    both = cx.operators.convex_combination([one, one])
    return both, oracle.singular_values(table) ** 2


@pytest.mark.slow
def test_an_estimated_tail_bounds_nothing_by_itself(twice):
    op, energy = twice
    result, info = cx.svd(op, 3, key=KEY, method="exact")
    assert info.tail_error > 0
    assert (np.asarray(cx.solvers.certify(result, info).upper) == 1).all()
    probed = cx.solvers.certify(result, info, op, key=OTHER)
    assert energy[0] ** 0.5 <= probed.upper[0] <= 1.01 * energy[0] ** 0.5
    assert float(probed.failure_probability) == pytest.approx(1e-6)


@pytest.mark.slow
def test_the_tail_estimate_is_unbiased_and_its_error_is_honest(twice):
    """Over many keys, for a spectrum whose head outweighs its tail."""
    op, energy = twice
    info = jax.vmap(lambda key: cx.svd(op, 3, key=key, method="exact")[1])(
        jax.random.split(KEY, 400)
    )
    tail, error = np.asarray(info.tail_energy), np.asarray(info.tail_error)
    head, true = energy[:3].sum(), energy[3:].sum()
    assert abs(tail.mean() - true) <= MONTE_CARLO_SIGMAS * tail.std() / 20
    assert 0.8 <= error.mean() / tail.std() <= 1.2
    # An error of the tail: probes of the whole would have one of the head's size.
    assert head > 2 * true
    assert tail.std() <= true * (2 / 16) ** 0.5
    atol = tol(DTYPES[-1], factor=100)
    np.testing.assert_allclose(info.total_energy, tail + head, atol=atol)


@pytest.mark.parametrize("probed", [False, True])
def test_a_program_gives_what_the_host_does(probed):
    case = solved("gaussian", CONVERGED, DTYPES[-1])
    probes = {"op": case.op, "key": OTHER, "num_passes": 2} if probed else {}

    def certify(result, info, op):
        return cx.solvers.certify(result, info, **(probes | ({"op": op} if op else {})))

    def told(certificate):
        if not probed:
            return certificate
        # Sines are rounding over a gap, of bases that are orthonormal up to rounding.
        nothing = jnp.zeros(())
        proved, if_found = (
            bounds._replace(cluster_sines=nothing, leading_sines=nothing)
            for bounds in (certificate.proved, certificate.if_found)
        )
        return certificate._replace(proved=proved, if_found=if_found)

    arguments = (case.result, case.info, probes.get("op"))
    atol = tol(case.alone.upper.dtype, factor=20 if probed else 1)
    for one, other in zip(
        jax.tree.leaves(told(jax.jit(certify)(*arguments))),
        jax.tree.leaves(told(certify(*arguments))),
        strict=True,
    ):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_allclose(one, other, atol=atol)


def test_a_first_certificate_compiles_two_products_and_a_seed(caplog):
    op = cx.association_operator(cx.contexts.joint(random_table(DTYPES[-1], seed=5)))
    result, info = cx.svd(op, 3, key=KEY)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        cx.solvers.certify(result, info, op, key=OTHER, num_probes=7)
    compiled = [m for m in caplog.messages if "Finished XLA compilation" in m]
    assert 2 <= len(compiled) <= 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_passes": 0}, ValueError, "num_passes must be at least 1"),
        ({"num_probes": 0}, ValueError, "num_probes must be at least 1"),
        ({"scale": -1.0}, ValueError, "scale must be between 0 and inf"),
        ({"cluster_tol": -1.0}, ValueError, "cluster_tol must be between 0 and"),
        ({"failure_probability": 0.9}, ValueError, "failure_probability must be"),
        ({"key": None}, TypeError, "key must be given with op"),
        ({"key": jnp.zeros(3)}, TypeError, "key must be a random key"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    case = solved("gaussian", CONVERGED, DTYPES[-1])
    with pytest.raises(error, match=message):
        cx.solvers.certify(
            **{
                "result": case.result,
                "info": case.info,
                "op": case.op,
                "key": OTHER,
                **arguments,
            }
        )


def test_products_of_a_certificate_can_be_compiled_ahead(caplog):
    # A shape that no other test has.
    op = cx.association_operator(cx.contexts.joint(random_table(np.float32)[:9]))
    result, info = cx.svd(op, 2, key=KEY, method="exact")

    def compiled(function) -> list[str]:
        caplog.clear()
        with jax.log_compiles(), caplog.at_level("WARNING"):
            function()
        lines = [record.getMessage() for record in caplog.records]
        return [line for line in lines if "Compiling jit(_product)" in line]

    def ahead() -> None:
        cx.solvers.compile_certificate(op, 2, "exact")

    assert len(compiled(ahead)) == 2
    assert compiled(lambda: cx.solvers.certify(result, info, op, key=KEY)) == []


def test_a_certificate_multiplies_by_the_programs_of_the_solver(caplog):
    """Of subspace iteration, where so many columns cost less than to compile."""
    x = np.random.default_rng(0).normal(size=(311, 4)).astype(np.float32)
    op = cx.association_operator(cx.contexts.rbf(x))
    result, info = cx.svd(op, 20, key=KEY, method="randomized")
    caplog.clear()
    with jax.log_compiles(), caplog.at_level("WARNING"):
        cx.solvers.compile_certificate(op, 20, "randomized")
        found = cx.solvers.certify(result, info, op, key=KEY)
    said = [record.getMessage() for record in caplog.records]
    assert not [line for line in said if "Compiling" in line]
    # What is beside the probes does not change what they say.
    krylov = dataclasses.replace(info, method="krylov")
    narrow = cx.solvers.certify(result, krylov, op, key=KEY)
    np.testing.assert_allclose(found.proved.upper, narrow.proved.upper, rtol=1e-4)
