"""What contexts made of contexts share, and two such: a dual step and a reverse."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import is_traced
from contexture_jax._core.fingerprint import mirrored
from contexture_jax._core.numerics import mm, safe_divide
from contexture_jax._core.types import Array, ArrayLike, Float, Int, pytree_dataclass
from contexture_jax.contexts._base import Context, as_numbers
from contexture_jax.contexts._neighbors import ReversedNeighbors
from contexture_jax.contexts._numbered import NumberedContext
from contexture_jax.contexts._on_rows import Posterior
from contexture_jax.contexts._paired import SameClass, TimeLag
from contexture_jax.contexts._parts import (
    has_numbers,
    is_numbered,
    law_of_a,
    law_of_x,
    rows_of,
    size_of,
)
from contexture_jax.contexts._sampling import row_keys
from contexture_jax.contexts._sparse_joint import coordinates

__all__ = [
    "DualStep",
    "MixedContext",
    "Reversed",
    "laid_out",
    "to_draw_from",
    "turned",
]


class MixedContext(Context):
    """What contexts made of contexts share; `contexts` are the parts.

    Subclasses give `_laws`, the rows P⁺(·|x), from which densities, the kernel and the
    table of finite ones follow, and say in `_gives` what their parts must have.
    """

    contexts: tuple[Any, ...]

    # Whether finite parts make a finite table, which is their numbers' in turn.
    _is_finite: ClassVar[bool] = True

    def _all(self, name: str) -> bool:
        """Whether all parts have a capability."""
        return all(part._can(name) for part in self.contexts)

    @property
    def _ends(self) -> tuple[Any, Any]:
        """The part that has X and the one that has A, with the side; None: no part."""
        return (self.contexts[0], 0), (self.contexts[-1], 1)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m) of a finite one."""
        raise self._lacks("table")

    def _check_has(self, name: str) -> None:
        if not self._gives(name):
            raise self._lacks(name)

    def _laws(self, x: Int[Array, " k"]) -> Float[Array, "k m"]:
        """P⁺(·|x) as rows, 0 where x has no mass."""
        raise NotImplementedError

    def _law_of_x(self) -> Float[Array, " n"]:
        return law_of_x(self.contexts[0])

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Log P⁺(a|x) of numbers that broadcast, from whole rows of the law."""
        self._check_has("log_density")
        n, m = self.shape
        a, x = jnp.broadcast_arrays(as_numbers(a, "a", m), as_numbers(x, "x", n))
        rows = self._laws(x.reshape(-1))
        picked = jnp.take_along_axis(rows, a.reshape(-1, 1), axis=1)
        return jnp.log(picked).reshape(x.shape)

    def log_densities(self, a: Any, x: ArrayLike) -> Float[Array, "m k"]:
        """Log P⁺(a_j|x_i) for all pairs, for fixed j with respect to one measure."""
        self._check_has("log_density")
        n, m = self.shape
        return jnp.log(self._laws(as_numbers(x, "x", n))[:, as_numbers(a, "a", m)]).T

    def kernel(self, x: ArrayLike, x2: ArrayLike) -> Float[Array, "k l"]:
        """The dual kernel k_X⁺ between the rows numbered `x` and `x2`.

        Of whole rows of the law: (k + l) · m numbers.
        """
        self._check_has("kernel")
        n, _ = self.shape
        x, x2 = as_numbers(x, "x", n), as_numbers(x2, "x2", n)
        # Σ_a P⁺(a|x) P⁺(a|x₂) / p_a (theory.md §1.1).
        return mm(safe_divide(self._laws(x), law_of_a(self)[None, :]), self._laws(x2).T)

    def table(self) -> Float[Array, "n m"]:
        """The joint law as a dense (n, m) table: for small cases."""
        self._check_has("table")
        rows = self._laws(jnp.arange(self.shape[0], dtype=jnp.int32))
        return self._law_of_x()[:, None] * rows


@pytree_dataclass
class DualStep(MixedContext):
    """A step of the dual kernel of a context, X → A → X′: T T*, of law P_X again.

    P(x′|x) = p_x(x′) k_X⁺(x, x′) (theory.md §4.6).

    Attributes:
        source: the context, of which the second half is the reverse.
        new: the same with other inputs, for the first half; None: `source` itself.
        back: the law of X′ given A to draw from; None: no `sample`.
    """

    source: Any
    new: Any = None
    back: Any = None

    @property
    def forward(self) -> Context:
        """The first half, X → A."""
        return self.source if self.new is None else self.new

    @property
    def contexts(self) -> tuple[Any, ...]:  # pyright: ignore
        """The context of which this is a step."""
        return (self.source,)

    def _gives(self, name: str) -> bool:
        if name == "sample":
            return self.back is not None and self._all(name)
        if name == "log_density":
            return self._all(name) and is_numbered(self.source)
        if name == "reverse":
            return self.new is None
        if name == "kernel":
            return is_numbered(self.source)
        return name != "spectrum" and self._all(name)

    @property
    def _ends(self) -> tuple[Any, Any]:
        return (self.forward, 0), (self.source, 0)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n); after `at` (k, n)."""
        n, m = size_of(self.source), size_of(self.forward)
        if n is None or m is None:
            raise self._lacks("table")
        return m[0], n[0]

    def _laws(self, x: Int[Array, " k"]) -> Float[Array, "k n"]:
        joint = law_of_x(self.source)[:, None] * rows_of(self.source)
        # To A by P⁺, and back by Bayes' rule.
        back = safe_divide(joint, law_of_a(self.source)[None, :]).T
        return mm(rows_of(self.forward, x), back)

    def _law_of_x(self) -> Float[Array, " n"]:
        return law_of_x(self.forward)

    def _law_of_a(self) -> Float[Array, " n"]:
        if self.new is None:
            return law_of_x(self.source)
        return mm(self._law_of_x(), self._laws(jnp.arange(self.shape[0])))

    def sample(self, key: Array, x: ArrayLike, *, row_offset: ArrayLike = 0) -> Array:
        """Draw a value of A for each x, and an input for that."""
        self._check_has("sample")
        there, back = row_keys(key, 2)
        drawn = self.forward.sample(there, jnp.asarray(x), row_offset=row_offset)
        return self.back.sample(back, drawn, row_offset=row_offset)

    def at(self, x_new: Any) -> DualStep:
        """New inputs in the form that the context takes; X′ is kept."""
        self._check_has("at")
        return DualStep(self.source, self.source.at(x_new), self.back)

    def reverse(self) -> DualStep:
        """The same: T T* is its own adjoint."""
        self._check_has("reverse")
        return self


@pytree_dataclass
class Reversed(NumberedContext):
    """X and A in each other's place, of a context whose kind has no shorter way.

    Its operator is the adjoint; `sample` and `log_density` form the table.

    Attributes:
        source: the law from X to A.
    """

    source: Any

    @functools.cached_property
    def fingerprint(self) -> Any:
        """That of the context, mirrored, as of the adjoint of its operator."""
        return mirrored(self.source.fingerprint)

    @property
    def contexts(self) -> tuple[Any, ...]:
        """The context that is reversed."""
        return (self.source,)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m): the values and the inputs of the context."""
        n, m = size_of(self.source) or (0, 0)
        return m, n

    def table(self) -> Float[Array, "n m"]:
        """The transposed table."""
        return jnp.asarray(self.source.table()).T

    def _has_law(self, x: Int[Array, " k"]) -> Array:
        return law_of_a(self.source)[x] > 0

    def _law_of_x(self) -> Float[Array, " n"]:
        return law_of_a(self.source)

    def _law_of_a(self) -> Float[Array, " m"]:
        return law_of_x(self.source)

    def _laws(self, x: Int[Array, " k"]) -> Float[Array, "k m"]:
        rows = self.table()[x]
        return safe_divide(rows, rows.sum(axis=1, keepdims=True))

    def _draw(self, key: Array, x: Array) -> Array:
        return jax.random.categorical(key, jnp.log(self.table()[x]))

    def _log_density(self, a: Array, x: Array) -> Array:
        row = self.table()[x]
        return jnp.log(safe_divide(row[a], row.sum()))

    def reverse(self) -> Context:
        """The law from X to A."""
        return self.source


@functools.singledispatch
def turned(context: Any) -> Context:
    """The reverse of a finite context, whether its kind has one of its own or not."""
    return context.reverse() if "reverse" in context.capabilities else Reversed(context)


@turned.register
def _(context: SameClass) -> Context:
    # Pairs within a class are symmetric; new inputs are none of the rows.
    own = context.inputs.codes is context.groups.group or np.array_equal(
        context.inputs.codes, context.groups.group
    )
    return context if own else Reversed(context)


@turned.register
def _(context: TimeLag) -> Context:
    rows, columns, shares = context.entries()
    weights = (shares / shares.sum()).astype(context.log_weights.dtype)
    return coordinates(columns, rows, weights, context.shape)


def to_draw_from(context: Context) -> Context | None:
    """The reverse as a law to draw X from, laid out once; None: it has none."""
    # Sparse kinds are sorted on the host, which a trace does not see.
    if "sample" not in context.capabilities or is_traced(context):
        return None
    if not is_numbered(context):
        # The row that a value came from, by Bayes' rule.
        is_law = has_numbers(context, 0) and "log_density" in context.capabilities
        return Posterior(context) if is_law else None
    back = laid_out(turned(context))
    return back if "sample" in back.capabilities else None


def laid_out(context: Any) -> Any:
    """A context whose `sample` passes through `jit`, parts and all.

    Reversed neighbours are drawn by entries that are sorted on the host.
    """
    if isinstance(context, ReversedNeighbors):
        return context.entries
    if isinstance(context, MixedContext) and "contexts" in context.__dict__:
        parts = tuple(map(laid_out, context.contexts))
        return dataclasses.replace(context, contexts=parts)  # pyright: ignore
    return context
