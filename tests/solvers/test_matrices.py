"""What `truncated_svd` takes for a matrix, and what it says of the rest."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental import sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import contexture_jax as cx
from contexture_jax.solvers._matrix import take_apart
from contexture_jax.solvers._truncated import _MatrixProblem
from tests.conftest import X64
from tests.tolerances import tol

DTYPE = np.float64 if X64 else np.float32
KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
A = (RNG.integers(-9, 9, size=(7, 5)) * (RNG.random((7, 5)) < 0.6)).astype(DTYPE)
OneWay: Any = LinearOperator
FORMATS = ("csr", "csc", "coo", "bsr", "dia", "dok", "lil")


class Times:
    """A matrix that is known by `@` alone."""

    def __init__(self, a: Any) -> None:
        self.a, self.shape, self.dtype = a, a.shape, a.dtype

    def __matmul__(self, block: Any) -> Any:
        return self.a @ block


class WithT(Times):
    T = property(lambda self: Times(self.a.T))


class WithH(Times):
    H = property(lambda self: Times(self.a.conj().T))


class WithAdjoint(Times):
    def adjoint(self) -> Times:
        return Times(self.a.conj().T)


class OfVectors:
    """One that takes vectors, in NumPy or in JAX."""

    def __init__(self, a: Any, host: bool = False) -> None:
        self.a, self.shape, self.dtype = a, a.shape, a.dtype
        self.read = np.asarray if host else lambda x: x

    def matvec(self, x: Any) -> Any:
        return self.a @ self.read(x)

    def rmatvec(self, x: Any) -> Any:
        return self.a.conj().T @ self.read(x)


MATRICES = {
    **{f"{name} matrix": getattr(scipy.sparse, f"{name}_matrix") for name in FORMATS},
    **{f"{name} array": getattr(scipy.sparse, f"{name}_array") for name in FORMATS},
    "BCOO": lambda a: sparse.BCOO.fromdense(jnp.asarray(a)),
    "BCOO with padding": lambda a: sparse.BCOO.fromdense(jnp.asarray(a), nse=40),
    "BCSR": lambda a: sparse.BCSR.fromdense(jnp.asarray(a)),
    "list": lambda a: a.tolist(),
    "np.matrix": lambda a: np.asmatrix(a),
    "column-major": np.asfortranarray,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "extended": lambda a: a.astype(np.result_type(a.dtype, np.longdouble)),
    "linear operator": aslinearoperator,
    "of a sparse one": lambda a: aslinearoperator(scipy.sparse.csr_array(a)),
    "@ and T": WithT,
    "@ and H": WithH,
    "@ and adjoint()": WithAdjoint,
    "matvec": OfVectors,
    "matvec on the host": lambda a: OfVectors(a, host=True),
}


SPARSE = [kind for kind in MATRICES if kind.split()[0] in (*FORMATS, "BCOO", "BCSR")]
COMPLEX = A + 1j * A[::-1]


@pytest.mark.slow_cases("BCOO", "BCSR", "BCOO with padding")
@pytest.mark.parametrize("kind", SPARSE)
def test_a_sparse_matrix_of_any_format_is_laid_out_alike(kind):
    for a in (A, COMPLEX):
        expected = take_apart(scipy.sparse.coo_array(a))
        found = take_apart(MATRICES[kind](a))
        assert found[1:] == (None, a.shape, jax.dtypes.canonicalize_dtype(a.dtype))
        for one, other in zip(
            jax.tree.leaves(found.arrays), jax.tree.leaves(expected.arrays), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def check_products(a: np.ndarray, given: Any) -> None:
    arrays, products, shape, dtype = take_apart(given)
    functions = None if products is None else products.functions
    product = _MatrixProblem(functions, shape, dtype)(arrays).map
    assert shape == a.shape
    assert dtype == jax.dtypes.canonicalize_dtype(a.dtype)
    atol = tol(DTYPE, factor=100)
    g, f = np.eye(5, 2, dtype=dtype), np.eye(7, 2, dtype=dtype)
    np.testing.assert_allclose(product.matmat(jnp.asarray(g)), a @ g, atol=atol)
    back = product.rmatmat(jnp.asarray(f))
    np.testing.assert_allclose(back, a.conj().T @ f, atol=atol)


@pytest.mark.slow_cases("csr matrix")
@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("kind", [k for k in MATRICES if k not in SPARSE[1:]])
def test_any_form_of_a_matrix_has_its_products(kind):
    check_products(A, MATRICES[kind](A))
    if kind not in ("list", "csr matrix"):
        check_products(COMPLEX, MATRICES[kind](COMPLEX))


@pytest.mark.slow
def test_a_complex_sparse_matrix_has_its_products():
    check_products(COMPLEX, scipy.sparse.csr_array(COMPLEX))


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int64, np.longdouble])
def test_sparse_matrices_of_other_dtypes_are_promoted(dtype):
    whole = np.abs(A).astype(dtype)
    rows, columns = np.nonzero(whole)
    a = scipy.sparse.coo_array((whole[rows, columns], (rows, columns)), whole.shape)
    arrays, _, _, working = take_apart(a)
    assert working == jnp.zeros(()).dtype
    expected = take_apart(scipy.sparse.coo_array(whole.astype(np.float64))).arrays
    assert arrays.forward.weights.dtype == working
    for one, other in zip(
        jax.tree.leaves(arrays), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_linear_operator_of_scipy_is_solved_and_compiles_once():
    a = aslinearoperator(scipy.sparse.csr_array(A))
    (result, info), (again, _) = (
        cx.solvers.truncated_svd(a, 3, key=KEY) for _ in range(2)
    )
    expected = np.linalg.svd(A, compute_uv=False)[:3]
    np.testing.assert_allclose(result.singular_values, expected, rtol=tol(DTYPE))
    np.testing.assert_array_equal(again.left, result.left)
    assert info.status == "converged"
    for same in (a, WithT(A), WithAdjoint(A), OfVectors(A)):
        assert take_apart(same).products is take_apart(same).products
    assert take_apart(WithT(A)).products is not take_apart(WithT(A)).products


@pytest.mark.slow_cases("exact")
@pytest.mark.parametrize(
    "method", ["exact", pytest.param("krylov", marks=pytest.mark.slow)]
)
def test_a_sparse_matrix_without_entries_is_zero(method):
    a = scipy.sparse.csr_array(A.shape, dtype=DTYPE)
    result, info = cx.solvers.truncated_svd(a, 2, key=KEY, method=method)
    assert (np.asarray(result.singular_values) == 0).all()
    assert float(info.total_energy) == 0
    assert info.status == "rank deficient"
    for side in (result.left, result.right):
        np.testing.assert_allclose(side.T @ side, np.eye(2), atol=tol(DTYPE))


@pytest.mark.parametrize(
    ("a", "error", "message"),
    [
        (Times(A), TypeError, "with shape, @ and an adjoint; got Times without an"),
        ("text", TypeError, "a must be an array of numbers, a sparse matrix.*got str"),
        (np.ma.masked_array(A, A > 0), TypeError, "a must have no mask"),
        (scipy.sparse.csr_array((0, 3)), ValueError, r"not empty; got shape \(0, 3\)"),
        (
            (lambda g: g, lambda f: f, (3,), DTYPE),
            ValueError,
            r"a must be a matrix.*got shape \(3,\)",
        ),
        ((lambda g: g, None, (3, 3), DTYPE), TypeError, "rmatmat must be a function"),
        (
            (lambda g: 1j * g, lambda f: f, (3, 3), DTYPE),
            TypeError,
            "matmat must give the dtype of a, float.*got complex",
        ),
        (
            OneWay(A.shape, matvec=lambda v: A @ v, dtype=DTYPE),
            ValueError,
            r"rmatmat must take blocks such as those of shape \(7, 1\); it failed",
        ),
        (
            cx.operators.dense_operator(jnp.full((2, 2), 0.25, DTYPE)),
            TypeError,
            r"a must be a plain matrix; got an operator.*cx.svd\(op",
        ),
    ],
)
def test_what_is_no_matrix_is_named(a, error, message):
    with pytest.raises(error, match=message):
        cx.solvers.truncated_svd(a, 1, key=KEY)
