"""Contexts of known spectrum side by side, or one of several (theory.md §5.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import is_traced
from contexture_jax._core.forms import of_a_list
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    PRNGKeyArray,
    pytree_dataclass,
)
from contexture_jax.zoo._base import (
    TIE,
    AnalyticContext,
    Clusters,
    Functions,
    IndexedContext,
    check_contexts,
    check_table_size,
    collect,
    exp_minus_one,
    host,
)
from contexture_jax.zoo._checks import check_law

__all__ = ["convex_combination", "index_law", "tensor_product"]


def _multiply(first: Clusters, second: Clusters, k: int) -> Clusters:
    """Whole clusters that hold the k largest non-trivial products of s_i and t_j.

    Both lists are completed by the trivial value 1. A pair of clusters (i, j) that at
    least k + 1 others dominate entry by entry is not needed, which leaves about k log k
    pairs; those bound the k-th value from below, and all pairs above it are taken.
    """
    # The trivial value first: a pair (1, t_j) is a value of the product.
    values = [np.concatenate([[1.0], c.values]) for c in (first, second)]
    counts = [(1, *c.multiplicities) for c in (first, second)]
    # Python's integers: multiplicities of products pass 64 bits.
    totals = [np.add.accumulate(np.array(c, dtype=object)) for c in counts]
    sizes = []
    for i in range(values[0].size):
        if totals[0][i] - counts[0][i] > k:
            break
        for j in range(values[1].size):
            own = counts[0][i] * counts[1][j]
            # That many pairs are at least as large, entry by entry; those further on
            # only more so.
            if totals[0][i] * totals[1][j] - own > k:
                break
            sizes.append((values[0][i] * values[1][j], own))
    # A bound from below on the (k + 1)-th product; the trivial one is among them.
    covered, least = 0, 0.0
    for value, size in sorted(sizes, reverse=True):
        covered += size
        if covered > k:
            least = value * (1 - TIE)
            break
    products, multiplicities = [], []
    for i in range(values[0].size):
        row = values[0][i] * values[1]
        # Descending in j: all that are not below the bound.
        row = row[: np.searchsorted(-row, -least, side="right")]
        # But (1, 1), the constant.
        products.append(row if i else row[1:])
        some = counts[1][: row.size] if i else counts[1][1 : row.size]
        multiplicities.extend(counts[0][i] * count for count in some)
    return collect(np.concatenate(products), tuple(multiplicities))


@pytree_dataclass
class _Product(AnalyticContext):
    """Independent contexts side by side: T is the tensor product."""

    factors: tuple[AnalyticContext, ...]

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the product and all of its factors have."""
        return tuple(
            name
            for name in super().capabilities
            if all(name in factor.capabilities for factor in self.factors)
            and not (name in _SCALAR_ONLY and self._has_vector_factors())
        )

    @property
    def _has_vectors(self) -> bool:
        return True

    def _has_vector_factors(self) -> bool:
        return any(factor._has_vectors for factor in self.factors)

    def _check_has(self, name: str) -> None:
        if name not in self.capabilities:
            raise self._lacks(name)

    def _leading(self, k: int) -> Clusters:
        found = Clusters(np.zeros(0), ())
        # Associative: two lists at a time, each cut to what k values need.
        for factor in self.factors:
            found = _multiply(found, factor.clusters(k), k)
        return found

    def total_energy(self) -> float:
        """∏ (1 + E_j) - 1."""
        # 1 + E multiplies; by logarithms, as a product of many may overflow.
        logs = [math.log1p(factor.total_energy()) for factor in self.factors]
        return exp_minus_one(math.fsum(logs))

    def num_resolved(self) -> int:
        """As many as lie above the first value that some factor's table lacks."""
        self._check_has("table")
        lost = 0.0
        for factor in self.factors:
            num = factor.num_resolved()
            # What one table lacks is lacking in the product, times the constants of the
            # others.
            lost = max(lost, float(factor._spectrum(num + 1)[-1]))
        if lost == 0.0:
            return min(self._shape()) - 1
        num = 1
        while (values := self._spectrum(num))[-1] > lost * (1 + TIE):
            num *= 2
        return int((values > lost * (1 + TIE)).sum())

    def _shape(self) -> tuple[int, int]:
        shapes = np.array(
            [factor._joint().shape for factor in self.factors], dtype=object
        )
        num_rows, num_columns = shapes.prod(axis=0)
        return num_rows, num_columns

    def _joint(self) -> np.ndarray:
        self._check_has("table")
        check_table_size(*self._shape())
        joint = np.ones((1, 1))
        for factor in self.factors:
            # Row-major in the factors, as `_points` and `_functions` have it.
            joint = np.kron(joint, factor._joint())
        return joint

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        self._check_has("inputs")
        sides = zip(*(factor._points() for factor in self.factors), strict=True)
        x, a = (np.meshgrid(*side, indexing="ij") for side in sides)
        return (
            np.stack([axis.ravel() for axis in x], axis=-1),
            np.stack([axis.ravel() for axis in a], axis=-1),
        )

    def _functions(self, k: int) -> Functions:
        values, left, right = np.ones(1), np.ones((1, 1)), np.ones((1, 1))
        for factor in self.factors:
            some = factor._functions(k)
            # With the constant of each factor, so that functions of some coordinates
            # alone are among them.
            products = np.multiply.outer(values, np.append(1.0, some.values)).ravel()
            # The constant pair stays among the k + 1 largest: it is the first of all.
            order = np.argsort(-products, kind="stable")[: k + 1]
            left = np.kron(left, _with_constant(some.left))[:, order]
            right = np.kron(right, _with_constant(some.right))[:, order]
            values = products[order]
        return Functions(values[1:], left[:, 1:], right[:, 1:])

    def _draw(self, key: PRNGKeyArray, x: Array) -> Array:
        """Draw a string for each of `x`, shape (..., number of factors)."""
        # Factors are independent given x, coordinate by coordinate.
        keys = jax.random.split(key, len(self.factors))
        columns = self._columns(x, "x")
        drawn = [
            factor._draw(k, column)
            for factor, k, column in zip(self.factors, keys, columns, strict=True)
        ]
        return jnp.stack(drawn, axis=-1)

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Log P(a|x), the sum over factors; `a`, `x` of one shape (..., factors)."""
        self._check_has("log_density")
        pairs = zip(self._columns(a, "a"), self._columns(x, "x"), strict=True)
        terms = [
            factor.log_density(*pair)
            for factor, pair in zip(self.factors, pairs, strict=True)
        ]
        return jnp.stack(terms, axis=-1).sum(axis=-1)

    def _columns(self, x: ArrayLike, name: str) -> list[Array]:
        x = jnp.asarray(x)
        if x.ndim == 0 or x.shape[-1] != len(self.factors):
            msg = f"{name} must have shape (..., {len(self.factors)}); got {x.shape}"
            raise ValueError(msg)
        return [x[..., i] for i in range(len(self.factors))]


# A product stacks the coordinates of its factors, so that these have to be numbers.
_SCALAR_ONLY = ("sample", "log_density", "inputs", "context_values")


def _with_constant(functions: np.ndarray) -> np.ndarray:
    return np.hstack([np.ones((functions.shape[0], 1)), functions])


@pytree_dataclass
class _Mixture(IndexedContext):
    """A = (J, A_J) with visible J: λ_i = Σ_j w_j λ_i^(j), index by index."""

    components: tuple[IndexedContext, ...]
    weights: ArrayLike

    @property
    def basis(self) -> tuple:
        return self.components[0].basis

    @property
    def _has_vectors(self) -> bool:
        return self.components[0]._has_vectors

    def _has(self, hook: str) -> bool:
        return hook != "_points" and all(c._has(hook) for c in self.components)

    @property
    def _rounding(self) -> float:
        return max(component._rounding for component in self.components)

    def modes(self, num: int) -> Clusters:
        parts = [component.modes(num) for component in self.components]
        longest = max(parts, key=lambda part: part.values.size)
        squares = np.zeros(longest.values.size)
        for weight, part in zip(host(self.weights), parts, strict=True):
            # λ, not s: T T* is the mean of the T_j T_j*.
            squares[: part.values.size] += weight * part.values**2
        return Clusters(np.sqrt(squares), longest.multiplicities)

    def _tail(self, num: int) -> float:
        tails = np.array([component._tail(num) for component in self.components])
        # Tails are bounds of s: in squares, as the values are.
        return float(np.sqrt(host(self.weights) @ tails**2))

    def total_energy(self) -> float:
        """Σ_j w_j E_j."""
        energies = [component.total_energy() for component in self.components]
        return float(host(self.weights) @ np.array(energies))

    def num_resolved(self) -> int:
        return min(component.num_resolved() for component in self.components)

    def _joint(self) -> np.ndarray:
        tables = [c._joint() for c in self.components]
        return np.hstack(
            # Side by side, as J is seen; added up it would be the hidden mixture.
            [w * table for w, table in zip(host(self.weights), tables, strict=True)]
        )

    def _indexed_functions(self, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values = self.modes(num).values
        parts, blocks = [c._indexed_functions(num) for c in self.components], []
        left, _, index = max(parts, key=lambda part: part[2].size)
        for component, (_, right, own_index) in zip(
            self.components, parts, strict=True
        ):
            # A component that ends before the others has value 0 from there.
            block = np.zeros((right.shape[0], index.size))
            ratio = component.modes(num).values[own_index]
            whole = values[own_index]
            # T* μ_i / s_i, block by block: ν_i is (s_i^(j) / s_i) ν_i^(j) where J = j.
            ratio = np.divide(ratio, whole, out=np.zeros_like(ratio), where=whole > 0)
            block[:, : own_index.size] = right * ratio
            blocks.append(block)
        return left, np.vstack(blocks), index


@of_a_list
def tensor_product(contexts: Sequence[AnalyticContext]) -> AnalyticContext:
    """Independent contexts side by side: X = (X_1, …, X_r), A = (A_1, …, A_r).

    Singular values are all products of one value of each factor, trivial ones
    included but not all trivial; functions are tensor products; 1 + Σ s_i² multiplies
    (theory.md §5). The largest are found without forming all combinations.

    Args:
        contexts: at least one context of the zoo. Where all inputs are numbers, a
            point of the product is a vector of them.

    Raises:
        TypeError: if one is no context of the zoo.
        ValueError: if there is none.
    """
    return _Product(check_contexts(contexts, AnalyticContext))


@of_a_list
def convex_combination(
    contexts: Sequence[AnalyticContext], weights: ArrayLike | None = None
) -> AnalyticContext:
    """A = (J, A_J): one of several contexts of the same X, and which one is seen.

    T T* is the mean Σ_j w_j T_j T_j*; if the contexts share their left functions,
    s_i² = Σ_j w_j (s_i^(j))², index by index (degree, frequency, set, level), not rank
    by rank (theory.md §5). A hidden J is another operator: `mixture`.

    Args:
        contexts: at least one context of the zoo, all with the same law of X and the
            same functions: walks on one group, noises on one circle or sphere, pairs
            of polynomials in the same X, letters or strings of one law, one nesting.
        weights: law of J, one positive weight each; None: equal.

    Raises:
        TypeError: if one is no such context.
        ValueError: if they do not share their functions, or weights are wrong.
    """
    components = check_contexts(contexts, IndexedContext)
    law = index_law(weights, len(components), "convex_combination")
    for i, component in enumerate(components):
        if component.basis != components[0].basis:
            msg = (
                "contexts must share their left singular functions; contexts[0] has"
                f" {components[0].basis} and contexts[{i}] has {component.basis}"
            )
            raise ValueError(msg)
    return _Mixture(components, law)


def index_law(weights: ArrayLike | None, num: int, word: str) -> np.ndarray:
    """The law of J for `word`, of positive weights that sum to 1; None: equal.

    Raises:
        TypeError: if they are traced.
        ValueError: if their number is another, one is not positive, or their sum is not
            1.
    """
    if weights is None:
        weights = np.full(num, 1 / num)
    if is_traced(weights):
        raise TypeError(f"weights of {word} must be concrete; got a tracer")
    law = check_law(weights, f"weights of {word}", positive=True)
    if law.size != num:
        msg = f"weights of {word} must have length {num}; got {law.size}"
        raise ValueError(msg)
    return law
