"""What the contexts of the zoo share: clusters of singular values, tables, functions.

Spectra, tables and functions are computed on the host in NumPy float64, whatever the
precision of JAX, and cast once at the end. They need concrete parameters; `sample` and
`log_density` are JAX code and take traced ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import as_device_array, check_integer
from contexture_jax._core.types import Array, ArrayLike, PRNGKeyArray, short_repr
from contexture_jax.contexts import Context, row_keys

__all__ = [
    "MAX_TABLE_ENTRIES",
    "AnalyticContext",
    "Clusters",
    "Functions",
    "IndexedContext",
    "adjoint_functions",
    "check_contexts",
    "check_table_size",
    "collect",
    "exp_minus_one",
    "host",
    "mean_zero_basis",
]

# Values closer than this, relatively, are one value that rounding split.
TIE = 1e-12
# What a quadrature table keeps of the singular values that it resolves.
RESOLUTION = 1e-10
MAX_TABLE_ENTRIES = 2**26
_MAX_MODES = 2**20
_MAX_CERTIFIED = 128
_EXTRA_CAPABILITIES = (
    "clusters",
    "total_energy",
    "num_resolved",
    "inputs",
    "context_values",
    "left_functions",
    "right_functions",
)
_HOOKS = {
    "table": "_joint",
    "num_resolved": "_joint",
    "inputs": "_points",
    "context_values": "_points",
    "left_functions": "_functions",
    "right_functions": "_functions",
}


@short_repr
class Clusters(NamedTuple):
    """Distinct singular values and how often each occurs.

    Attributes:
        values: shape (c,), float64, positive, descending, distinct.
        multiplicities: c integers; Python's own, since they can exceed 64 bits.
    """

    values: np.ndarray
    multiplicities: tuple[int, ...]


@short_repr
class Functions(NamedTuple):
    """Singular triples on the points of the table, T ν_i = s_i μ_i.

    Attributes:
        values: s, shape (r,), float64, positive, descending.
        left: μ, shape (n, r), float64.
        right: ν, shape (m, r), float64.
    """

    values: np.ndarray
    left: np.ndarray
    right: np.ndarray


def collect(
    values: np.ndarray, multiplicities: tuple[int, ...], rounding: float = 0.0
) -> Clusters:
    """Sort values, merge the ones that only rounding tells apart, drop the zeros.

    Args:
        values: shape (c,), non-negative, any order.
        multiplicities: one positive integer for each value.
        rounding: absolute error of the values; what is not above it is zero.
    """
    order = np.argsort(-values, kind="stable")
    order = order[values[order] > rounding]
    if order.size == 0:
        return Clusters(np.zeros(0), ())
    ordered = values[order]
    is_new = ordered[:-1] - ordered[1:] > TIE * ordered[:-1] + rounding
    starts = np.concatenate([[0], np.flatnonzero(is_new) + 1])
    counts = np.array(multiplicities, dtype=object)[order]
    return Clusters(ordered[starts], tuple(np.add.reduceat(counts, starts)))


def host(parameter: ArrayLike) -> np.ndarray:
    """A concrete parameter as NumPy float64."""
    return np.asarray(parameter, dtype=np.float64)


def check_table_size(num_rows: int, num_columns: int) -> None:
    """Raise if a table is too large to be built on the host."""
    if num_rows * num_columns > MAX_TABLE_ENTRIES:
        msg = (
            f"the table would have {num_rows} × {num_columns} entries; at most"
            f" {MAX_TABLE_ENTRIES} are built"
        )
        raise ValueError(msg)


def exp_minus_one(x: float) -> float:
    """e^x - 1, to rounding also where it is small, and inf where it overflows."""
    with np.errstate(over="ignore"):
        return float(np.expm1(x))


def mean_zero_basis(marginal: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the mean-zero functions in L²(marginal), shape (q, q - 1).

    The columns but the first of the Householder reflection that sends e_1 to √p,
    divided by √p; for two letters of equal mass, the parity.
    """
    root = np.sqrt(marginal)
    direction = root - np.eye(root.size)[0]
    length = direction @ direction
    reflection = np.eye(root.size)
    if length > 0:
        reflection -= 2.0 * np.outer(direction, direction) / length
    return reflection[:, 1:] / root[:, None]


def adjoint_functions(
    joint: np.ndarray, left: np.ndarray, values: np.ndarray, rounding: float = 0.0
) -> np.ndarray:
    """ν = T* μ / s of a table (n, m), shape (m, r), of μ (n, r) and s (r,).

    Where s is not above `rounding` it is some finite function.
    """
    scale = np.where(values > rounding, values, 1.0)
    return joint.T @ left / joint.sum(axis=0)[:, None] / scale


class AnalyticContext(Context):
    """A context whose singular values are known (theory.md §5).

    Subclasses give `_leading` (the spectrum) and `total_energy`, and where they can
    `_joint` (the table), `_points` (what its rows and columns stand for) and
    `_functions`; `_draw` for one input and `log_density` for any number. `sample` and
    `log_density` take inputs in the form that `inputs()` gives them, one context value
    for each input or pair.
    """

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The names of the methods that this context has."""
        names = (*super().capabilities, *_EXTRA_CAPABILITIES)
        return tuple(
            name for name in names if name not in _HOOKS or self._has(_HOOKS[name])
        )

    def _has(self, hook: str) -> bool:
        return getattr(type(self), hook) is not getattr(AnalyticContext, hook)

    @property
    def _has_vectors(self) -> bool:
        """Whether one input is a vector, rather than a number."""
        return False

    _needs: ClassVar[Mapping[str, tuple[str, ...] | None]] = {
        "_draw": None,
        "sample": ("_draw",),
    }

    def _draw(self, key: PRNGKeyArray, x: Array) -> Array:  # noqa: ARG002 - to give
        """One a ~ P(·|x) for one x."""
        raise self._lacks("sample", "_draw")

    def sample(
        self, key: PRNGKeyArray, x: ArrayLike, *, row_offset: ArrayLike = 0
    ) -> Array:
        """Draw one a ~ P(·|x) for each input, each with a key of its own.

        Args:
            key: random key.
            x: inputs in the form that `inputs()` gives them, in an array of any shape.
            row_offset: the number of the first, as in every context.
        """
        if "sample" not in self.capabilities:
            raise self._lacks("sample")
        x = as_device_array(x, "x")
        shape = x.shape[: x.ndim - self._has_vectors] if x.ndim else ()
        rows = x.reshape(math.prod(shape), *x.shape[len(shape) :])
        keys = row_keys(key, rows.shape[0], row_offset)
        drawn = jax.vmap(self._draw)(keys, rows)
        return drawn.reshape(*shape, *drawn.shape[1:])

    def _leading(self, k: int) -> Clusters:
        """Whole clusters that hold the k largest values, or all if they are fewer."""
        raise NotImplementedError

    def _joint(self) -> np.ndarray:
        raise self._lacks("table")

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        raise self._lacks("inputs")

    def _functions(self, k: int) -> Functions:  # noqa: ARG002 - for overriders
        """The k leading triples, or all of positive value if they are fewer."""
        raise self._lacks("left_functions")

    def clusters(self, k: int) -> Clusters:
        """The distinct values among the k largest, with their whole multiplicities.

        Args:
            k: non-negative number of singular values to cover.

        Raises:
            ValueError: if `k` is negative.
        """
        k = check_integer(k, "k", low=0)
        if k == 0:
            return Clusters(np.zeros(0), ())
        found = self._leading(k)
        covered, last = 0, 0
        for multiplicity in found.multiplicities:
            if covered >= k:
                break
            covered += multiplicity
            last += 1
        return Clusters(found.values[:last], found.multiplicities[:last])

    def spectrum(self, k: int) -> Array:
        """The k largest non-trivial singular values, with multiplicity, descending.

        Past the last singular value of a finite family the entries are 0.

        Args:
            k: non-negative number of singular values.

        Returns:
            Shape (k,), JAX's default floating dtype, rounded from float64.

        Raises:
            ValueError: if `k` is negative.
        """
        return jnp.asarray(self._spectrum(check_integer(k, "k", low=0)))

    def _spectrum(self, k: int) -> np.ndarray:
        values = np.zeros(k)
        start = 0
        for value, multiplicity in zip(*self.clusters(k), strict=True):
            values[start : start + multiplicity] = value
            start += multiplicity
        return values

    def total_energy(self) -> float:
        """Σ_{i≥1} s_i², which is χ²(P⁺ ‖ P_X ⊗ P_A)."""
        raise NotImplementedError

    def table(self) -> Array:
        """The joint law of the points, shape (n, m), of sum 1.

        Exact for finite families, by quadrature for the others; then its leading
        `num_resolved()` singular values are those of the family to 1e-10 in float64.
        JAX's default floating dtype.

        Raises:
            CapabilityError: if X or A is no finite or low-dimensional set.
            ValueError: if the table has too many entries.
        """
        return jnp.asarray(self._joint())

    def num_resolved(self) -> int:
        """How many leading non-trivial singular values `table()` has.

        To 1e-12 for finite families, all of them; to 1e-10 for quadratures.
        """
        return min(self._joint().shape) - 1

    def inputs(self) -> Array:
        """The inputs x behind the rows of `table()`: shape (n,) or (n, d)."""
        return jnp.asarray(self._points()[0])

    def context_values(self) -> Array:
        """The values a behind the columns of `table()`: shape (m,) or (m, d)."""
        return jnp.asarray(self._points()[1])

    def left_functions(self, k: int) -> Array:
        """μ_1..μ_k on `inputs()`, shape (n, k), orthonormal in L²(P_X), of mean 0.

        Raises:
            CapabilityError: if the family's functions are not provided.
            ValueError: if fewer than `k` singular values are positive.
        """
        return jnp.asarray(self._exactly(k).left)

    def right_functions(self, k: int) -> Array:
        """ν_1..ν_k on `context_values()`, shape (m, k), with T ν_i = s_i μ_i.

        Raises:
            CapabilityError: if the family's functions are not provided.
            ValueError: if fewer than `k` singular values are positive.
        """
        return jnp.asarray(self._exactly(k).right)

    def _exactly(self, k: int) -> Functions:
        k = check_integer(k, "k", low=0)
        found = self._functions(k)
        if found.values.size < k:
            msg = (
                f"k must be at most {found.values.size}, the number of positive"
                f" singular values on the table; got {k}"
            )
            raise ValueError(msg)
        return found


class IndexedContext(AnalyticContext):
    """A family whose functions carry a natural index: degree, frequency, level, ….

    Contexts of equal `basis` have the same left singular functions, index by index, on
    the same inputs, whatever the order of their singular values.
    """

    @property
    def basis(self) -> tuple:
        """What determines P_X and the left functions, index by index; hashable."""
        raise NotImplementedError

    @property
    def _rounding(self) -> float:
        """Absolute error of the values that `modes` gives."""
        return 0.0

    def modes(self, num: int) -> Clusters:
        """Values and multiplicities of indices 1..num, in the order of the index.

        Fewer than `num` if the family has fewer; values can repeat, be 0 and rise.
        """
        raise NotImplementedError

    def _tail(self, num: int) -> float:
        """The largest value past index `num`: by default, values do not rise."""
        values = self.modes(num + 1).values
        return float(values[num]) if values.size > num else 0.0

    def _num_modes(self, k: int) -> int:
        """How many indices surely hold the k largest values."""
        num = 16
        while num <= _MAX_MODES:
            modes = self.modes(num)
            if modes.values.size < num:
                return modes.values.size
            tail = self._tail(num)
            large = modes.values > tail * (1 + TIE)
            if tail == 0.0 or k <= sum(
                m
                for m, is_large in zip(modes.multiplicities, large, strict=True)
                if is_large
            ):
                return num
            num *= 2
        msg = (
            f"the {k} largest singular values are not among the first {_MAX_MODES}"
            " modes: the parameters are too close to a degenerate case"
        )
        raise ValueError(msg)

    def _leading(self, k: int) -> Clusters:
        modes = self.modes(self._num_modes(k))
        return collect(modes.values, modes.multiplicities, self._rounding)

    def _indexed_functions(
        self,
        num: int,  # noqa: ARG002 - for overriders
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Left (n, r) and right (m, r) functions of indices 1..num, and their index.

        The third array, shape (r,), says which mode (from 0) a column belongs to. Where
        the value is 0 the right function can be any finite one.
        """
        raise self._lacks("left_functions")

    def _num_certified(self) -> int:
        """How many leading closed-form triples are triples of the table.

        The largest r for which ‖UᵀU - I‖_F, ‖VᵀV - I‖_F and ‖UᵀMV - diag(s)‖_F are at
        most 1e-11, with M = D_X^{-1/2} P D_A^{-1/2}, U = D_X^{1/2} (μ_1..μ_r) and
        V = D_A^{1/2} (ν_1..ν_r).
        """
        joint = self._joint()
        values, left, right = self._functions(min(*joint.shape, _MAX_CERTIFIED) - 1)
        rows, columns = joint.sum(axis=1), joint.sum(axis=0)
        errors = (
            left.T @ (rows[:, None] * left) - np.eye(values.size),
            right.T @ (columns[:, None] * right) - np.eye(values.size),
            left.T @ joint @ right - np.diag(values),
        )
        # ‖·‖_F² of every leading block at once, by running sums.
        blocks = [np.diag((e**2).cumsum(axis=0).cumsum(axis=1)) for e in errors]
        return int((np.max(blocks, axis=0) <= (0.1 * RESOLUTION) ** 2).sum())

    def _has(self, hook: str) -> bool:
        if hook == "_functions":
            hook, base = "_indexed_functions", IndexedContext
            return getattr(type(self), hook) is not getattr(base, hook)
        return super()._has(hook)

    def _functions(self, k: int) -> Functions:
        num = self._num_modes(k)
        values = self.modes(num).values
        left, right, index = self._indexed_functions(num)
        order = np.argsort(-values[index], kind="stable")
        order = order[values[index][order] > self._rounding][:k]
        return Functions(values[index][order], left[:, order], right[:, order])


def check_contexts(contexts: Iterable, kind: type) -> tuple:
    """At least one context of a kind, `AnalyticContext` or `IndexedContext`."""
    contexts = tuple(contexts)
    if not contexts:
        msg = "contexts must hold at least one context; got none"
        raise ValueError(msg)
    for i, context in enumerate(contexts):
        if not isinstance(context, kind):
            what = "a context of the zoo"
            if kind is IndexedContext:
                what += " with indexed functions"
            msg = f"contexts[{i}] must be {what}; got {type(context).__name__}"
            raise TypeError(msg)
    return contexts
