"""The expectation operator T of a context and its adjoint, as two linear maps."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from contexture_jax._core.checks import (
    as_floating,
    check_integer,
    check_probabilities,
    holds_callers,
    is_concrete,
    is_traced,
)
from contexture_jax._core.meshes import beside_context, tree_on_auto_axes
from contexture_jax._core.numerics import (
    Precision,
    cast_floating,
    check_precision,
    weights_or_nan,
)
from contexture_jax._core.processes import ready
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    Size,
    describe,
    summary,
)
from contexture_jax.kernels import Implementation, check_implementation

__all__ = ["AssociationOperator", "Cost", "as_law_of", "check_operator", "check_total"]

# Sums of many float32 numbers that were to be 1.
_MASS_TOLERANCE = 1e-3


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

    A storage implements `_matmat` and `_rmatmat`, on blocks of its own dtype and of the
    right shape, by operations of JAX. `matmat` and `rmatmat` stand before them: they
    take whatever is an array of numbers, and outside a trace compile one program for
    each structure of operators and shape of blocks. A subclass that overrides those two
    instead is called as it is.

    `fingerprint`, the last field of each storage, is that of the context that it was
    built from, shape (8,), which results carry on; None where that is not known. That
    of `op.T` is another one, made of it.
    """

    fingerprint: Any = None
    # An array of NumPy on the left leaves `@` to the operator.
    __array_ufunc__: ClassVar[None] = None
    # The fields that may be in half precision within a coarse product.
    _tables: ClassVar[tuple[str, ...]] = ()
    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]

    def __repr__(self) -> str:
        """Shape, dtype and fields in a line or a few."""
        if isinstance(self.p_x, (jax.Array, np.ndarray)):
            return describe(self, {"shape": self.shape, "dtype": self.dtype})
        return describe(self)  # a tree of something else than arrays

    @property
    def shape(self) -> tuple[Size, Size]:
        """(n, m): the numbers of inputs and of context values."""
        return self.p_x.shape[0], self.p_a.shape[0]

    @property
    def dtype(self) -> Any:
        """The floating dtype of products."""
        return self.p_x.dtype

    @property
    def T(self) -> AssociationOperator:
        """T* as an operator, from L²(P_X) to L²(P_A); no transposed matrix."""
        # Here, since `_adjoint` is built on this module.
        from contexture_jax.operators._adjoint import reverse

        return reverse(self)

    def __matmul__(self, g: ArrayLike) -> Float[Array, "n r"] | Float[Array, " n"]:
        """T g of a block, shape (m, r), or of one function, shape (m,), as `matmat`."""
        if isinstance(g, AssociationOperator):
            msg = (
                "op @ g takes functions of A as an array; the product of operators is"
                " cx.operators.compose(op, other)"
            )
            raise TypeError(msg)
        g = as_floating(g, "g")
        if g.ndim != 1:
            return self.matmat(g)
        m = self.shape[1]
        if g.shape[0] != m:
            msg = f"g must have shape ({m},) or ({m}, r); got shape {tuple(g.shape)}"
            raise ValueError(msg)
        return self.matmat(g[:, None])[:, 0]

    def __rmatmul__(self, f: Any) -> Any:
        """Refused: nothing tells a row of functions from a row of masses.

        T* of functions f of X, shape (n, r), is `op.T @ f`; masses q of X go to those
        of A as `op.p_a * (op.T @ (q / op.p_x))`.
        """
        msg = (
            f"an array on the left, as in f @ op, is not defined; got {summary(f)}:"
            " T* f, the expectations E[f(X)|a] of functions of X, is op.T @ f"
        )
        raise TypeError(msg)

    def matmat(self, g: ArrayLike) -> Float[Array, "n r"]:
        """T g: the conditional expectations E[g_j(A)|x], one column a function.

        Args:
            g: functions of A, shape (m, r), real numbers of any dtype.

        Returns:
            Shape (n, r), the dtype of the operator.

        Raises:
            TypeError: if `g` does not hold real numbers, or is a masked array.
            ValueError: if `g` has another shape; `op @ v` takes a vector v.
        """
        return _product(self, "_matmat", g, "g")

    def rmatmat(self, f: ArrayLike) -> Float[Array, "m r"]:
        """T* f: the conditional expectations E[f_j(X)|a], one column a function.

        Args:
            f: functions of X, shape (n, r), real numbers of any dtype.

        Returns:
            Shape (m, r), the dtype of the operator.

        Raises:
            TypeError: as `matmat`.
            ValueError: as `matmat`.
        """
        return _product(self, "_rmatmat", f, "f")

    def _matmat(self, g: Float[Array, "m r"]) -> Float[Array, "n r"]:
        """T g of a checked block, as operations to be traced."""
        raise NotImplementedError

    def _rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "m r"]:
        """T* f of a checked block, as operations to be traced."""
        raise NotImplementedError

    def squared_norm(self) -> Float[Array, ""] | None:
        """‖T‖²_HS = Σ_{i≥0} s_i² with s_0 = 1, exactly; None where that needs n × m."""
        return None

    def with_precision(self, precision: Precision) -> AssociationOperator:
        """The same operator with its products at another level, of float32.

        "exact" is what operators are built with. "split" is as exact, by the tensor
        cores of a GPU (compute capability 8 or more); "high" keeps 2⁻¹⁶ of what is
        multiplied and "coarse" 2⁻⁸, for whoever makes that good later: a solver takes
        an operator as it is, and its residuals are no more exact than the products;
        `certify` multiplies exactly. On CPU all levels are "exact". So are everywhere
        products of sparse and fixed-degree storage, log weights of kernels,
        `squared_norm` and products in float64.

        Raises:
            ValueError: if there is no such level.
        """
        level = check_precision(precision)

        def changes(part: AssociationOperator) -> dict[str, Any]:
            # Storages without levels are exact and stay as they are.
            same = getattr(part, "precision", level) == level
            return {} if same else {"precision": level}

        return self._changed(changes)

    def with_implementation(
        self, implementation: Implementation
    ) -> AssociationOperator:
        """The same operator with its products computed another way.

        "xla" is what operators are built with. "pallas" takes a fused kernel where
        there is one and the program is for a TPU, in float32: of contexts kept in
        tiles whose log weights are one product of factors, and of T of neighbours; all
        else stays as it is, and so do all other devices. There all levels of
        `with_precision` above "coarse" are exact. No kernel has been timed on a TPU by
        this project. "interpret" runs the same kernels step by step on any device,
        slowly: it is for tests.

        Raises:
            ValueError: if there is no such implementation.
        """
        way = check_implementation(implementation)

        def changes(part: AssociationOperator) -> dict[str, Any]:
            same = getattr(part, "implementation", way) == way
            return {} if same else {"implementation": way}

        return self._changed(changes)

    def narrowed(self, dtype: Any) -> AssociationOperator:
        """The same operator for coarse products, in a narrower dtype.

        In half precision only the tables of products are: sums and marginals are in
        float32, which then is the dtype.
        """
        # float32 is a whole precision: all of it may be, marginals too.
        if np.dtype(dtype).itemsize >= 4:
            return cast_floating(self, dtype)

        def halved(part: AssociationOperator) -> dict[str, Any]:
            tables = {name: getattr(part, name) for name in part._tables}
            return cast_floating(tables, dtype)

        whole = cast_floating(self, jnp.float32)
        return whole.with_precision("coarse")._changed(halved)

    def _changed(
        self, change: Callable[[AssociationOperator], dict[str, Any]]
    ) -> AssociationOperator:
        """With fields as `change` says, in the operators within too."""

        def is_inner(part: Any) -> bool:
            return isinstance(part, AssociationOperator) and part is not self

        # From the inside: parts first, then what is made of them.
        whole = jax.tree.map(
            lambda part: part._changed(change) if is_inner(part) else part,
            self,
            is_leaf=is_inner,
        )
        changes = change(whole)
        return dataclasses.replace(whole, **changes) if changes else whole

    def at_rows(self, rows: ArrayLike) -> AssociationOperator | None:
        """T g at some inputs alone, shape (l, r), and T* of what is 0 at all others.

        With P_A as it is and P_X of those inputs, which sums to less than 1. None where
        it would cost as much as T.

        Args:
            rows: which inputs, distinct, shape (l,).
        """
        del rows
        return None

    def for_passes(self) -> AssociationOperator:
        """The same operator, laid out for many products: the solvers call it once."""
        return self

    def padded(self) -> AssociationOperator:
        """The same operator with rows of no mass, so that its devices divide them.

        The laws are then cut as the rows are, and so is all that a program makes of
        them. Itself on one device, and where the devices divide the rows.
        """
        return self

    @property
    def share(self) -> tuple[Size, Size]:
        """Rows of functions of X, and of A, that a device holds; (n, m) on one."""
        return self.shape

    @property
    def is_made_in_place(self) -> bool:
        """Whether T g, as a term of a sum, is made as it is added, without a block."""
        return False

    def cost(self, r: int) -> Cost:
        """Bytes and flops of one `matmat` on `r` columns, from shapes alone."""
        raise NotImplementedError

    def collectives(self, r: int) -> tuple[Any, ...]:
        """What devices tell each other in a `matmat` and a `rmatmat` on `r` columns.

        Those of the operators within, each a `Collective`; () on one device. Where rows
        of parts are cut otherwise, the compiler moves rows of blocks besides.
        """
        within = jax.tree.leaves(
            self, is_leaf=lambda x: isinstance(x, AssociationOperator) and x is not self
        )
        parts = [x for x in within if isinstance(x, AssociationOperator)]
        return tuple(each for part in parts for each in part.collectives(r))

    @beside_context
    def lower(self, r: int, *, adjoint: bool = False) -> jax.stages.Lowered:
        """The program of `matmat` on r columns, or of `rmatmat`, not yet compiled.

        From shapes alone: nothing is computed, and arrays may be
        `jax.ShapeDtypeStruct`s, as of `operator_shapes`. `lower(r).compile()` tells
        memory, costs and collectives. Rows that devices do not divide are `padded`.
        """
        op = tree_on_auto_axes(self).padded()
        law: Any = op.p_x if adjoint else op.p_a
        # Blocks are cut as the laws of their rows are.
        block = jax.ShapeDtypeStruct(
            (law.shape[0], check_integer(r, "r", low=1)),
            law.dtype,
            sharding=getattr(law, "sharding", None),
        )
        return _compiled.lower(op, block, name="_rmatmat" if adjoint else "_matmat")

    def as_matrix(self) -> Float[Array, "n m"]:
        """The matrix of T, entry P⁺(a|x); for small cases: it stores n × m numbers."""
        # Column a is T of the indicator of a.
        return self.matmat(jnp.eye(self.shape[1], dtype=self.dtype))


_Map = Literal["_matmat", "_rmatmat"]


@beside_context
def _product(op: AssociationOperator, name: _Map, block: Any, what: str) -> Array:
    """A map of an operator, on a block as it came from the caller."""
    num_rows = op.shape[1] if name == "_matmat" else op.shape[0]
    # Before anything is compiled: what is wrong raises here, by its name.
    block = _as_block(block, num_rows, what).astype(op.dtype)
    op = tree_on_auto_axes(op)
    if _can_compile(op, block):
        return ready(_compiled(op, block, name=name))
    # In a trace, or with a part of the user's own, which may give another dtype.
    return getattr(op, name)(block).astype(op.dtype)


def _as_block(block: Any, num_rows: int, name: str) -> Float[Array, "{num_rows} r"]:
    """Convert a block; raise unless it has shape (`num_rows`, r).

    Inside a trace too: a vector would be broadcast without a word in some storages, and
    fail deep inside JAX in others.
    """
    block = as_floating(block, name)
    if block.ndim != 2 or block.shape[0] != num_rows:
        shape = tuple(block.shape)
        hint = "; v[:, None] is a block, and op @ v takes a vector v"
        hint = hint if shape == (num_rows,) else ""
        msg = f"{name} must have shape ({num_rows}, r); got shape {shape}{hint}"
        raise ValueError(msg)
    return block


def _can_compile(op: AssociationOperator, block: Array) -> bool:
    """Whether a product is to be a program: outside a trace, of what is ours alone.

    Parts with a `matmat` of their own may be no tree of arrays, or call NumPy. What
    holds a function of the caller's would be kept alive by a program: parts of it that
    do not are programs all the same.
    """

    def is_foreign(node: Any) -> bool:
        return isinstance(node, AssociationOperator) and (
            type(node).matmat is not AssociationOperator.matmat
            or type(node).rmatmat is not AssociationOperator.rmatmat
        )

    # A foreign part is a leaf here and no array: one is enough to say no.
    leaves = jax.tree.leaves(op, is_leaf=is_foreign)
    return all(
        isinstance(leaf, (jax.Array, np.ndarray)) and not isinstance(leaf, Tracer)
        for leaf in (block, *leaves)
    ) and not holds_callers(op)


# Eager loops over tiles and slots are traced in each call, for longer than they run.
@functools.partial(jax.jit, static_argnames="name")
def _compiled(op: AssociationOperator, block: Array, *, name: _Map) -> Array:
    return getattr(op, name)(block).astype(op.dtype)


def as_law_of(law: Any, name: str, size: int, dtype: Any) -> Float[Array, " n"]:
    """Convert a law to an array, as it is; raise unless it sums to 1.

    Raises:
        TypeError: if it does not hold real numbers.
        ValueError: if it has another length, a negative entry or another sum; inside a
            trace it is NaN then.
    """
    law = as_floating(law, name).astype(dtype)
    check_probabilities(law, name, size)
    # By NumPy where it can be: a sum is no reason for a program.
    check_total(np.asarray(law).sum() if is_concrete(law) else law.sum(), name)
    if is_traced(law):
        is_one = abs(law.sum() - 1) <= _MASS_TOLERANCE
        law = jnp.where(is_one, weights_or_nan(law), jnp.nan)
    return law


def check_total(total: Any, name: str, hint: str = "") -> None:
    """Raise a `ValueError` unless a concrete sum is 1 up to rounding."""
    # So written NaN is refused, too.
    if is_concrete(total) and not abs(float(total) - 1) <= _MASS_TOLERANCE:
        msg = f"{name} must sum to 1{hint}; got {float(total):.6g}"
        raise ValueError(msg)


def check_operator(op: Any, name: str) -> None:
    """Raise a `TypeError` unless `op` is an operator."""
    if not isinstance(op, AssociationOperator):
        msg = (
            f"{name} must be an operator, as from cx.association_operator(context); got"
            f" {type(op).__name__}"
        )
        raise TypeError(msg)
