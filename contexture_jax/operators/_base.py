"""The expectation operator T of a context and its adjoint, as two linear maps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.types import Array, Float, describe

__all__ = ["AssociationOperator", "Cost", "check_block"]


class Cost(NamedTuple):
    """What one `matmat` on r columns takes, known from shapes alone.

    Attributes:
        flops: floating-point operations; an exponential counts as one.
        argument_bytes: bytes of the operator's own arrays and of the input block.
        output_bytes: bytes of the result.
        temporary_bytes: bytes of the work space that the compiled product needs.
    """

    flops: int
    argument_bytes: int
    output_bytes: int
    temporary_bytes: int

    @property
    def bytes(self) -> int:
        """All of it: arguments, output and work space."""
        return self.argument_bytes + self.output_bytes + self.temporary_bytes


class AssociationOperator:
    """T: L²(P_A) → L²(P_X), (T g)(x) = E[g(A)|x], and its adjoint T* (theory.md §1).

    Subclasses are frozen dataclass pytrees with the leaves `p_x`, shape (n,), and
    `p_a`, shape (m,), which are the exact marginals of what is stored, so that in every
    storage, to rounding,

        ⟨f, T g⟩_{P_X} = Σ_x p_x f(x) (T g)(x) = ⟨T* f, g⟩_{P_A}.

    Rows and columns of zero mass are masked: products give 0 there.
    """

    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]

    def __repr__(self) -> str:
        """Shape, dtype and fields in a line or a few."""
        if isinstance(self.p_x, (jax.Array, np.ndarray)):
            return describe(self, {"shape": self.shape, "dtype": self.dtype})
        return describe(self)  # a tree of something else than arrays

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m): the numbers of inputs and of context values."""
        return self.p_x.shape[0], self.p_a.shape[0]

    @property
    def dtype(self) -> Any:
        """The floating dtype of products."""
        return self.p_x.dtype

    def matmat(self, g: Float[Array, "m r"]) -> Float[Array, "n r"]:
        """T g: the conditional expectations E[g_j(A)|x], one column a function."""
        raise NotImplementedError

    def rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "m r"]:
        """T* f: the conditional expectations E[f_j(X)|a], one column a function."""
        raise NotImplementedError

    def squared_norm(self) -> Float[Array, ""] | None:
        """‖T‖²_HS = Σ_{i≥0} s_i² with s_0 = 1, exactly; None where that needs n × m."""
        return None

    def for_passes(self) -> "AssociationOperator":
        """The same operator, laid out for many products: the solvers call it once."""
        return self

    def cost(self, r: int) -> Cost:
        """Bytes and flops of one `matmat` on `r` columns, from shapes alone."""
        raise NotImplementedError

    def as_matrix(self) -> Float[Array, "n m"]:
        """The matrix of T, entry P⁺(a|x); for small cases: it stores n × m numbers."""
        return self.matmat(jnp.eye(self.shape[1], dtype=self.dtype))


def check_block(block: Any, num_rows: int, name: str) -> None:
    """Raise a `ValueError` unless `block` has shape (`num_rows`, r).

    Every `matmat` and `rmatmat` begins with it, inside a trace too: a vector would be
    broadcast without a word in some storages, and fail deep inside JAX in others.
    """
    shape = np.shape(block)
    if len(shape) != 2 or shape[0] != num_rows:
        hint = "; write v[:, None] for a vector v" if shape == (num_rows,) else ""
        msg = f"{name} must have shape ({num_rows}, r); got shape {shape}{hint}"
        raise ValueError(msg)
