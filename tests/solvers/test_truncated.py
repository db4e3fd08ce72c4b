"""The Euclidean layer: any matrix or map, against LAPACK."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental import sparse

import contexture_jax as cx
from contexture_jax.solvers import Method
from contexture_jax.solvers._orthonormal import orthonormalize
from contexture_jax.solvers._random import fold, make_seed, random_block
from tests.conftest import SOME_DTYPES, X64
from tests.tolerances import promised, tol

DTYPES = [np.float32, np.float64] if X64 else [np.float32]
DTYPE = DTYPES[-1]
KEY = jax.random.key(11)
METHODS: list[Method] = ["exact", "randomized", "krylov", "nystrom"]


def decaying(shape, dtype=DTYPE, values=None):
    """A matrix with singular values 0.5^i, or those given, on random bases."""
    rng = np.random.default_rng(0)
    k = min(shape)
    s = 0.5 ** np.arange(k) if values is None else np.pad(values, (0, k - len(values)))
    u, v = (np.linalg.qr(rng.normal(size=(side, k)))[0] for side in shape)
    return (u * s @ v.T).astype(dtype)


def check_triples(a, result, rank, atol):
    s, u, v = result
    a = np.asarray(a)
    np.testing.assert_allclose(u.conj().T @ u, np.eye(rank), atol=atol)
    np.testing.assert_allclose(v.conj().T @ v, np.eye(rank), atol=atol)
    np.testing.assert_allclose(s, np.linalg.svd(a, compute_uv=False)[:rank], atol=atol)
    np.testing.assert_allclose(u.conj().T @ a @ v, np.diag(s), atol=atol)


@pytest.mark.slow_cases(
    "shape0-krylov-float64", "shape0-nystrom-float64", "shape0-exact-float64"
)
@pytest.mark.parametrize("dtype", SOME_DTYPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "shape", [(60, 45), pytest.param((45, 60), marks=pytest.mark.slow)]
)
def test_every_method_finds_the_leading_triples(shape, method, dtype):
    a = decaying(shape, dtype)
    result, info = cx.solvers.truncated_svd(a, 4, key=KEY, method=method)
    assert result.left.dtype == result.singular_values.dtype == dtype
    assert info.method == method
    check_triples(a, result, 4, 10 * promised(dtype))
    assert info.status == "converged"


@pytest.mark.slow_cases("1", "3")
@pytest.mark.parametrize("block_size", [1, 3])
def test_narrow_krylov_blocks_converge_through_restarts(block_size):
    a = decaying((60, 45), values=(1.0 + np.arange(45)) ** -0.5)
    result, info = cx.solvers.truncated_svd(
        a,
        4,
        key=KEY,
        method="krylov",
        tol=max(1e-10, tol(DTYPE, factor=20)),  # the first filling meets the default
        block_size=block_size,
        num_oversamples=1,
    )
    assert info.num_passes > 3 * 5 / block_size + 1  # more than one filling of a basis
    check_triples(a, result, 4, 10 * promised(DTYPE))
    assert info.status == "converged"


def test_many_restarts_keep_krylov_bases_orthonormal():
    a = decaying((200, 200), np.float32, values=1.0 - np.arange(200) / 400)
    result, info = cx.solvers.truncated_svd(
        a, 8, key=KEY, method="krylov", block_size=8
    )
    s, u, v = map(np.asarray, result)
    assert info.status == "converged"
    assert info.num_passes > 20
    atol = tol(np.float32)
    np.testing.assert_allclose(s, 1.0 - np.arange(8) / 400, atol=atol)
    for vectors in (u, v):
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(8), atol=atol)
    assert np.linalg.norm(a @ v - u * s, axis=0).max() < atol
    right = np.linalg.norm(a.T @ u - v * s, axis=0)
    np.testing.assert_allclose(info.right_residuals, right, atol=atol)


@pytest.mark.slow
def test_krylov_residuals_are_those_of_the_triples_when_passes_run_out():
    a = decaying((60, 45), values=(1.0 + np.arange(45)) ** -0.5)
    result, info = cx.solvers.truncated_svd(
        a, 6, key=KEY, method="krylov", block_size=3, max_passes=3
    )
    s, u, v = map(np.asarray, result)
    assert info.status == "max passes"
    assert info.num_passes == 3.5
    right = np.linalg.norm(a.T @ u - v * s, axis=0)
    assert right.max() > 1e-3
    np.testing.assert_allclose(
        info.right_residuals, right, atol=tol(DTYPE, factor=20), rtol=1e-4
    )
    np.testing.assert_allclose(a @ v, u * s, atol=tol(DTYPE, factor=20))


@pytest.mark.slow
def test_narrow_krylov_blocks_gain_more_from_as_many_products():
    a = decaying((60, 45), values=(1.0 + np.arange(45)) ** -0.5)
    truth = np.linalg.svd(a, compute_uv=False)[:6]

    def error(**setting):
        result, info = cx.solvers.truncated_svd(a, 6, key=KEY, **setting)
        return np.abs(result.singular_values / truth - 1).max(), info.num_passes

    narrow, passes = error(method="krylov", block_size=2, max_passes=9)
    wide, wide_passes = error(num_power_iterations=1, num_oversamples=3)
    assert 2 * passes <= 9 * wide_passes
    assert narrow < 0.002 * wide


@pytest.mark.slow_cases("bcoo", "jax", "map", "map on the host")
@pytest.mark.parametrize(
    "wrap",
    [
        jnp.asarray,
        scipy.sparse.csr_matrix,
        scipy.sparse.coo_array,
        lambda a: sparse.BCOO.fromdense(jnp.asarray(a)),
        lambda a: (lambda g: a @ g, lambda f: a.T @ f, a.shape, a.dtype),
        lambda a: (
            lambda g: np.dot(a, np.asarray(g)),
            lambda f: np.dot(a.T, np.asarray(f)),
            a.shape,
            a.dtype,
        ),
    ],
    ids=["jax", "csr", "coo", "bcoo", "map", "map on the host"],
)
def test_every_storage_gives_the_same_triples(wrap):
    a = decaying((40, 30)) * (np.random.default_rng(1).random((40, 30)) < 0.5)
    result, info = cx.solvers.truncated_svd(wrap(a), 3, key=KEY, method="krylov")
    check_triples(a, result, 3, 10 * promised(DTYPE))
    total = (a**2).sum()
    if info.tail_error == 0:
        np.testing.assert_allclose(info.total_energy, total, rtol=tol(DTYPE, factor=50))
    else:
        assert abs(info.total_energy - total) <= 5 * info.tail_error


@pytest.mark.slow
def test_complex_matrices():
    a = decaying((30, 20)) + 1j * decaying((20, 30)).T[::-1]
    for method in METHODS:
        result, _ = cx.solvers.truncated_svd(a, 3, key=KEY, method=method)
        assert jnp.iscomplexobj(result.left)
        assert not jnp.iscomplexobj(result.singular_values)
        check_triples(a, result, 3, 100 * promised(DTYPE))


@pytest.mark.slow_cases("bfloat16", "int32")
@pytest.mark.parametrize("dtype", [np.int32, np.int64, jnp.bfloat16, np.float16, bool])
def test_other_dtypes_are_promoted(dtype):
    a = np.random.default_rng(0).integers(0, 2, size=(12, 9)).astype(dtype)
    result, _ = cx.solvers.truncated_svd(a, 2, key=KEY)
    expected = np.linalg.svd(a.astype(np.float64), compute_uv=False)[:2]
    np.testing.assert_allclose(result.singular_values, expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_beyond_the_rank_values_are_zero_and_vectors_orthonormal(method):
    a = decaying((40, 30), values=[3.0, 3.0, 1.0])
    result, info = cx.solvers.truncated_svd(a, 8, key=KEY, method=method)
    atol = 100 * promised(DTYPE)
    np.testing.assert_allclose(result.singular_values[:3], [3, 3, 1], atol=atol)
    np.testing.assert_allclose(result.singular_values[3:], 0, atol=atol)
    for vectors in (result.left, result.right):
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(8), atol=atol)
    assert info.status == "rank deficient"


@pytest.mark.parametrize("shape", [(400, 40), (40, 400)])
def test_values_that_count_as_zero_are_a_lack_of_rank_and_keep_their_vectors(shape):
    """Below n · eps and above tol: residuals of anything else would be above it too."""
    values = [1.0, 1.0, 0.5, *[tol(np.float32, factor=190)] * 37]
    a = decaying(shape, np.float32, values=values)
    result, info = cx.solvers.truncated_svd(a, 8, key=KEY, method="exact")
    assert info.residuals.max() < 5 * float(np.finfo(np.float32).eps)
    assert info.status == "rank deficient"
    atol = tol(np.float32)
    s, u, v = map(np.asarray, result)
    rest = a - u * s @ v.T
    np.testing.assert_allclose(np.linalg.norm(rest, 2), values[-1], atol=atol)
    np.testing.assert_allclose(result.singular_values, values[:8], atol=atol)
    for vectors in (result.left, result.right):
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(8), atol=atol)


@pytest.mark.slow
def test_zero_has_zero_singular_values_and_no_nan():
    for method in METHODS:
        result, info = cx.solvers.truncated_svd(
            np.zeros((9, 7), DTYPE), 2, key=KEY, method=method
        )
        assert (np.asarray(result.singular_values) == 0).all()
        assert np.isfinite(result.left).all()
        assert np.isfinite(result.right).all()
        assert info.status == "rank deficient"


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_scale_does_not_matter(scale):
    a = decaying((40, 30))
    result, info = cx.solvers.truncated_svd(a * scale, 3, key=KEY, method="krylov")
    expected = np.linalg.svd(a, compute_uv=False)[:3] * scale
    np.testing.assert_allclose(result.singular_values, expected, rtol=promised(DTYPE))
    assert info.status == "converged"


@pytest.mark.slow_cases("1e-28-exact", "1e-28-randomized", "1e+28-exact")
@pytest.mark.parametrize("method", ["exact", "randomized"])
@pytest.mark.parametrize("scale", [1e-28, 1e28])
def test_squares_out_of_range_do_not_matter(scale, method):
    """The square of an entry is 0 or infinite in float32."""
    a = decaying((40, 30)).astype(np.float32) * np.float32(scale)
    result, info = cx.solvers.truncated_svd(a, 3, key=KEY, method=method)
    expected = np.linalg.svd(a.astype(np.float64), compute_uv=False)[:3]
    np.testing.assert_allclose(
        result.singular_values, expected, rtol=promised(np.float32)
    )
    assert info.status == "converged"
    assert 0 < info.residuals.max() < 1e-4 * expected[0]


@pytest.mark.slow
def test_an_exact_solve_asks_both_maps():
    a = jnp.asarray(decaying((40, 30)))
    two = (lambda g: a @ g, lambda f: 2.0 * (a.T @ f), a.shape, a.dtype)
    _, info = cx.solvers.truncated_svd(two, 3, key=KEY, method="exact")
    assert info.status == "max passes"
    assert info.residuals.max() > 0.1


@pytest.mark.slow
def test_power_iterations_are_counted_and_help():
    """Halko et al. 2011: on noise of full rank one pass falls short, more do not."""
    rng = np.random.default_rng(0)
    a = (rng.normal(size=(150, 100)) + decaying((150, 100)) * 20).astype(DTYPE)
    truth = np.linalg.svd(a, compute_uv=False)[:5]
    errors = []
    for iterations in (0, 6):
        result, info = cx.solvers.truncated_svd(
            a, 5, key=KEY, method="randomized", num_power_iterations=iterations
        )
        assert info.num_passes == iterations + 1.5
        errors.append(np.abs(result.singular_values - truth).max())
    assert errors[1] < 0.2 * errors[0]


@pytest.mark.slow
def test_whole_spectra_and_single_rows():
    a = decaying((6, 4))
    for method in METHODS:
        result, _ = cx.solvers.truncated_svd(a, 4, key=KEY, method=method)
        check_triples(a, result, 4, 100 * promised(DTYPE))
    result, _ = cx.solvers.truncated_svd(np.ones((1, 5), DTYPE), 1, key=KEY)
    np.testing.assert_allclose(result.singular_values, [5**0.5], rtol=promised(DTYPE))


@pytest.mark.parametrize(
    ("a", "rank", "error", "message"),
    [
        (np.ones(3), 1, ValueError, r"a must have 2 dimension.*got shape \(3,\)"),
        (
            np.ones((0, 3)),
            1,
            ValueError,
            r"a matrix that is not empty; got shape \(0, 3",
        ),
        (np.ones((3, 4)), 4, ValueError, "rank must be at most 3"),
        (np.array([["a"]]), 1, TypeError, "a must be an array of numbers.*got ndarray"),
        ([[1, 2], [3]], 1, ValueError, "a must be an array; got nested sequences"),
        (
            (lambda g: g, lambda f: f, (3, 4), np.float32),
            1,
            ValueError,
            r"matmat must take \(4, 1\) blocks to \(3, 1\); got shape \(4, 1\)",
        ),
    ],
)
def test_bad_input_is_refused(a, rank, error, message):
    with pytest.raises(error, match=message):
        cx.solvers.truncated_svd(a, rank, key=KEY)


@pytest.mark.slow
def test_a_traced_bcoo_is_refused_in_plain_words():
    matrix = sparse.BCOO.fromdense(jnp.eye(3))
    with pytest.raises(TypeError, match="a, a BCOO, is laid out on the host"):
        jax.eval_shape(lambda a: cx.solvers.truncated_svd(a, 1, key=KEY)[0], matrix)


def alike(kind):
    """Sums of many terms that are alike, which round one way, and their rank."""
    rows, columns = 1500, 1200
    return {
        "ones": (np.ones((rows, columns)), 1),
        "blocks": (np.kron(np.eye(2), np.ones((rows // 2, columns // 2))), 2),
        "columns": (np.outer(np.arange(rows), np.ones(columns)), 1),
        "zeros": (np.zeros((rows, columns)), 0),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        *itertools.product(("ones", "blocks", "columns"), ("auto", "randomized")),
        ("zeros", "auto"),
    ],
)
def test_columns_that_are_alike_are_no_loss_of_rank_beyond_their_own(kind, method):
    """Gram matrices of them are less positive than a shift by eps expects."""
    table, rank = alike(kind)
    (s, u, v), info = cx.solvers.truncated_svd(
        table.astype(np.float32), 4, key=KEY, method=method
    )
    truth = np.linalg.norm(table) / max(rank, 1) ** 0.5
    np.testing.assert_allclose(s[:rank], truth, rtol=5e-5)
    assert (s[rank:] <= 1e-6 * truth).all()
    for vectors in (u, v):
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(4), atol=5e-5)
    assert info.status == "rank deficient"


@pytest.mark.parametrize("method", ["auto", "exact"])
def test_entries_next_to_the_largest_number_are_scaled(method):
    table = np.zeros((40, 30), np.float32)
    table[0, 0], table[1, 1] = 3e38, 1e38
    (s, *_), info = cx.solvers.truncated_svd(table, 3, key=KEY, method=method)
    np.testing.assert_allclose(s[:2], [3e38, 1e38], rtol=1e-6)
    assert s[2] < 1e32
    assert not np.isnan(info.tail_energy)


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_a_dense_factorisation_is_taken_where_iterations_are_hardly_ahead(dtype):
    """Six values apart from a flat rest: iterations would not end."""
    values = np.where(np.arange(500) <= 5, 10, 1) + 0.01 * np.sin(np.arange(500))
    a = decaying((700, 500), dtype, values)
    result, info = cx.solvers.truncated_svd(a, 10, key=KEY)
    assert (info.status, info.method) == ("converged", "exact")
    check_triples(a, result, 10, 3e-5)


@pytest.mark.slow_cases("random-float32")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["random", "ill-conditioned", "repeated", "zero"])
def test_orthonormal_columns_hold_the_span_of_any_block(kind, dtype):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(50, 6))
    if kind == "ill-conditioned":
        z = z * 10.0 ** -np.arange(6) + z[:, :1]
    elif kind == "repeated":
        z[:, 3:] = z[:, :3]
    elif kind == "zero":
        z[:] = 0
    z = z.astype(dtype)
    basis = np.linalg.qr(rng.normal(size=(50, 9)))[0].astype(dtype)
    q = np.asarray(
        orthonormalize(jnp.asarray(z), jnp.uint32(1), basis=jnp.asarray(basis))
    )
    atol = tol(dtype, factor=50)
    np.testing.assert_allclose(q.T @ q, np.eye(6), atol=atol)
    np.testing.assert_allclose(basis.T @ q, 0, atol=atol)
    left = z - basis @ (basis.T @ z)
    np.testing.assert_allclose(q @ (q.T @ left), left, atol=20 * atol)


@pytest.mark.slow
def test_random_blocks_look_independent_and_follow_the_key():
    seed = make_seed(KEY)
    block = np.asarray(random_block(seed, 4000, 5, DTYPE), np.float64)
    sem = 4000**-0.5
    np.testing.assert_allclose(block.T @ block / 4000, np.eye(5), atol=5 * sem)
    np.testing.assert_allclose(block.mean(axis=0), 0, atol=5 * sem)
    shifted = (block[1:] * block[:-1]).mean(axis=0)
    np.testing.assert_allclose(shifted, 0, atol=5 * sem)
    other = np.asarray(random_block(fold(seed, 1), 4000, 5, DTYPE))
    np.testing.assert_allclose((block * other).mean(axis=0), 0, atol=5 * sem)
    np.testing.assert_array_equal(
        random_block(make_seed(KEY), 4, 5, DTYPE), block[:4].astype(DTYPE)
    )


@pytest.mark.parametrize("dtype", SOME_DTYPES)
@pytest.mark.parametrize("method", ["exact", "krylov", "randomized"])
def test_an_infinite_entry_is_told_by_the_status_alone(dtype, method, capfd):
    a = np.random.default_rng(0).standard_normal((60, 40)).astype(dtype)
    a[3, 5] = np.inf
    result, info = cx.solvers.truncated_svd(a, 5, key=KEY, method=method)
    assert info.status == "non-finite"
    assert np.isnan(result.singular_values).all()
    # LAPACK has lines of its own for it.
    assert capfd.readouterr() == ("", "")


def test_a_tolerance_below_rounding_ends_where_passes_bring_no_more():
    a = decaying((2001, 120), np.float32, values=0.9 ** np.arange(120))
    done = [
        cx.solvers.truncated_svd(a, 8, key=KEY, method="randomized", tol=goal)[1]
        for goal in (1e-6, 1e-7)
    ]
    assert [info.status.value for info in done] == ["converged"] * 2
    assert done[1].num_passes < 2 * done[0].num_passes
    assert done[1].residuals.max() < 2 * done[0].residuals.max()


@pytest.mark.parametrize("shape", [(613, 77), (77, 613), (700, 600)])
def test_complex_arrays_and_zeros_compile_no_program_of_a_solver(shape, caplog):
    rng = np.random.default_rng(0)
    a = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    cx.solvers.truncated_svd(a[:9, :8], 2, key=KEY)  # what a key takes
    with jax.log_compiles(), caplog.at_level("WARNING"):
        result, info = cx.solvers.truncated_svd(a, 5, key=KEY)
        cx.solvers.truncated_svd(0 * a.real, 5, key=KEY)
    compiled = [m for m in caplog.messages if "Compiling" in m]
    # Of zeros alone: their squares leave the range.
    assert [m for m in compiled if "choose_scale" not in m] == []
    assert info.status == "converged"
    check_triples(a, result, 5, 0.3 * promised(np.float32) * np.linalg.norm(a, 2))
