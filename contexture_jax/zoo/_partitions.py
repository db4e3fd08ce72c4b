"""Contexts that say in which cell of a partition X lies (theory.md §5)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_integer, check_ndim
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    PRNGKeyArray,
    pytree_dataclass,
    static_field,
)
from contexture_jax.zoo._base import (
    AnalyticContext,
    Clusters,
    IndexedContext,
    adjoint_functions,
    check_table_size,
    host,
)
from contexture_jax.zoo._checks import as_integers, check_law

__all__ = ["deterministic_labels", "nested", "tree"]


class _Resolutions(IndexedContext):
    """A = (J, cell of X in partition J): finer and finer partitions, visible level J.

    T T* = E_J[projection on the functions of partition J]; on what level ℓ adds to the
    level before, λ_ℓ = P(J ≥ ℓ). Level 0 is the partition of one cell.
    """

    level_probabilities: tuple[float, ...]

    def _num_cells(self) -> tuple[int, ...]:
        """Of levels 0, 1, …, L."""
        raise NotImplementedError

    def _cells(self) -> tuple[np.ndarray, np.ndarray]:
        """The law of X, shape (n,), and its cell at each level, shape (L + 1, n)."""
        raise NotImplementedError

    def modes(self, num: int) -> Clusters:
        # P(J ≥ ℓ) for ℓ = 0, …, L.
        survival = np.cumsum(self.level_probabilities[::-1])[::-1]
        growth = np.diff(np.array(self._num_cells(), dtype=object))
        # A level that splits nothing adds no function.
        some = np.flatnonzero(growth > 0)[:num]
        return Clusters(np.sqrt(survival[1:][some]), tuple(growth[some].tolist()))

    def total_energy(self) -> float:
        """E[number of cells of partition J] - 1."""
        # 1 + Σ s_i² = E k(X, X), of which each cell is 1.
        cells = np.array([float(c) for c in self._num_cells()])
        return float(np.array(self.level_probabilities) @ cells) - 1.0

    def _joint(self) -> np.ndarray:
        law, cells = self._cells()
        blocks = []
        for probability, cell, num in zip(
            self.level_probabilities, cells, self._num_cells(), strict=True
        ):
            # Levels that never occur have no columns.
            if probability > 0:
                block = np.zeros((law.size, num))
                block[np.arange(law.size), cell] = probability * law
                blocks.append(block)
        return np.hstack(blocks)

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        num_rows, num_columns = self._joint().shape
        return np.arange(num_rows), np.arange(num_columns)

    def _cell(self, level: Array, x: Array) -> Array:
        """The cell of x at a level, in JAX; integers of one shape."""
        raise NotImplementedError

    def _starts(self, x: Array) -> tuple[Array, Array]:
        """The levels of positive probability, and where their columns start."""
        sizes = np.array(self._num_cells(), dtype=object)
        some = np.flatnonzero(np.array(self.level_probabilities) > 0)
        ends = np.cumsum(sizes[some])
        # Numbers of columns grow as branching^depth, past int32.
        if max(ends[-1], sizes[-1]) > np.iinfo(x.dtype).max:
            msg = f"{ends[-1]} context values are too many for numbers of {x.dtype}"
            raise ValueError(msg)
        starts = (ends - sizes[some]).astype(np.int64)
        return jnp.asarray(some, dtype=x.dtype), jnp.asarray(starts, dtype=x.dtype)

    def _draw(self, key: PRNGKeyArray, x: Array) -> Array:
        """Draw a column number of the table for each row number of `x`."""
        x = as_integers(x, "x")
        levels, starts = self._starts(x)
        law = jnp.asarray(self.level_probabilities)[levels]
        which = jax.random.categorical(key, jnp.log(law), shape=x.shape)
        return starts[which] + self._cell(levels[which], x)

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Log P(a|x) for column and row numbers of the table, of one shape."""
        a, x = as_integers(a, "a"), as_integers(x, "x")
        levels, starts = self._starts(x)
        # The level that a column number belongs to.
        which = jnp.searchsorted(starts, a, side="right") - 1
        is_there = a - starts[which] == self._cell(levels[which], x)
        law = jnp.asarray(self.level_probabilities)[levels[which]]
        return jnp.where(is_there, jnp.log(law), -jnp.inf)

    def _indexed_functions(self, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        law, cells = self._cells()
        root = np.sqrt(law)[:, None]
        # Orthonormal in plain ℝⁿ: coordinates √p f of functions f. First the constant.
        basis, index, values = root.copy(), [], self.modes(num).values
        for cell, num_cells in zip(cells[1:], self._num_cells()[1:], strict=True):
            added = num_cells - basis.shape[1]
            # Nothing new, or as many indices as were asked for.
            if added == 0 or (index and index[-1] + 1 == values.size):
                continue
            indicators = root * (cell[:, None] == np.arange(num_cells))
            indicators /= np.linalg.norm(indicators, axis=0)
            # What the level adds is orthogonal to all before it; its span has `added`
            # dimensions.
            rest = indicators - basis @ (basis.T @ indicators)
            # The leading left vectors; the others are of value 0.
            basis = np.hstack([basis, np.linalg.svd(rest)[0][:, :added]])
            index += [index[-1] + 1 if index else 0] * added
        left = basis[:, 1:] / root
        right = adjoint_functions(self._joint(), left, values[index])
        return left, right, np.array(index, dtype=int)


@pytree_dataclass
class _Nested(_Resolutions):
    """Partitions given cell by cell."""

    marginal: ArrayLike  # (n,)
    cells: ArrayLike  # (L + 1, n) integers
    num_cells: tuple[int, ...] = static_field()
    level_probabilities: tuple[float, ...] = static_field()

    @property
    def basis(self) -> tuple:
        law, cells = self._cells()
        return ("nested", tuple(law.tolist()), tuple(map(tuple, cells.tolist())))

    def _num_cells(self) -> tuple[int, ...]:
        return self.num_cells

    def _cell(self, level: Array, x: Array) -> Array:
        return jnp.asarray(self.cells, dtype=x.dtype)[level, x]

    def _cells(self) -> tuple[np.ndarray, np.ndarray]:
        return host(self.marginal), np.asarray(self.cells)


@pytree_dataclass
class _Tree(_Resolutions):
    """Leaves of a regular tree, uniform; a cell is the leaves below one ancestor."""

    branching: int = static_field()
    level_probabilities: tuple[float, ...] = static_field()

    @property
    def basis(self) -> tuple:
        return ("tree", self.branching, len(self.level_probabilities) - 1)

    def _num_cells(self) -> tuple[int, ...]:
        return tuple(
            self.branching**level for level in range(len(self.level_probabilities))
        )

    def _cells(self) -> tuple[np.ndarray, np.ndarray]:
        sizes = self._num_cells()
        check_table_size(sizes[-1], sum(sizes))
        leaves = np.arange(sizes[-1])
        law = np.full(leaves.size, 1.0 / leaves.size)
        # Leaves below one ancestor are neighbours in number.
        return law, np.stack([leaves // (leaves.size // size) for size in sizes])

    def _cell(self, level: Array, x: Array) -> Array:
        sizes = np.array(self._num_cells(), dtype=object)
        # Python's integers, as powers pass 64 bits before they are divided.
        widths = (sizes[-1] // sizes).astype(np.int64)
        return x // jnp.asarray(widths, dtype=x.dtype)[level]


def nested(
    marginal: ArrayLike,
    partitions: ArrayLike,
    level_probabilities: ArrayLike,
) -> AnalyticContext:
    """A says a random level J and the cell of X in the J-th of nested partitions.

    s_ℓ² = P(J ≥ ℓ) on the functions of partition ℓ that are orthogonal to those of
    partition ℓ - 1, as many as cells are added; a visible filtration of σ-algebras
    (theory.md §5). Any decreasing spectrum can be prescribed. X and A are row and
    column numbers of the table: levels in order, cells in order, levels of probability
    0 left out.

    Args:
        marginal: law of X, shape (n,), positive.
        partitions: (L, n) integers, the cell 0, 1, … of each x at levels 1..L; each
            level splits cells of the one before. Level 0, one cell, is not given.
        level_probabilities: law of J on 0..L, shape (L + 1,).

    Raises:
        TypeError: if partitions are no integers.
        ValueError: if shapes or laws are wrong, a cell is empty or not nested.
    """
    law = check_law(marginal, "marginal", positive=True)
    levels = check_law(level_probabilities, "level_probabilities")
    cells = np.asarray(as_integers(partitions, "partitions"))
    check_ndim(cells, 2, "partitions")
    if cells.shape != (levels.size - 1, law.size):
        msg = (
            f"partitions must have shape ({levels.size - 1}, {law.size}), levels by"
            f" inputs; got {cells.shape}"
        )
        raise ValueError(msg)
    cells = np.vstack([np.zeros((1, law.size), dtype=cells.dtype), cells])
    for level in range(1, levels.size):
        found = np.unique(cells[level])
        if not np.array_equal(found, np.arange(found.size)):
            msg = (
                f"partitions[{level - 1}] must use the cells 0, 1, … without gaps; got"
                f" {found.tolist()}"
            )
            raise ValueError(msg)
        # (cell before, cell) pairs: more of them than cells means that one cell lies in
        # two.
        pairs = np.unique(cells[level - 1 : level + 1], axis=1)
        if pairs.shape[1] > found.size:
            msg = f"partitions[{level - 1}] must split cells of the level before it"
            raise ValueError(msg)
    return _nested(law, cells, tuple(levels.tolist()))


def _nested(
    law: np.ndarray, cells: np.ndarray, level_probabilities: tuple[float, ...]
) -> _Nested:
    num_cells = tuple(int(cell.max()) + 1 for cell in cells)
    return _Nested(law, cells, num_cells, level_probabilities)


def deterministic_labels(
    class_probabilities: ArrayLike, inputs_per_class: int = 1
) -> AnalyticContext:
    """A = class of X: singular values 1, C - 1 times, and 0.

    Functions are the class indicators, centred and orthonormal; k_X⁺(x, x) is one over
    the probability of the class (theory.md §5). X is a row number: the inputs of class
    0 first, all of one class equally probable; A is the class.

    Args:
        class_probabilities: shape (C,), positive.
        inputs_per_class: number of inputs that each class has.
    """
    law = check_law(class_probabilities, "class_probabilities", positive=True)
    size = check_integer(inputs_per_class, "inputs_per_class", low=1)
    cells = np.repeat(np.arange(law.size), size)
    cells = np.stack([np.zeros_like(cells), cells])
    return _nested(np.repeat(law / size, size), cells, (0.0, 1.0))


def tree(branching: int, level_probabilities: ArrayLike) -> AnalyticContext:
    """X a uniform leaf of a regular tree, A its ancestor at a random visible level J.

    s_ℓ² = P(J ≥ ℓ) for ℓ = 1..depth, branching^(ℓ-1) (branching - 1) times, on
    Haar-type wavelets: differences between siblings (theory.md §5). The root is level
    0, the leaves are level `depth`. A is a column number, levels from the root down.

    Args:
        branching: number of children of a vertex, at least 2.
        level_probabilities: law of J on 0..depth, shape (depth + 1,).
    """
    b = check_integer(branching, "branching", low=2)
    law = check_law(level_probabilities, "level_probabilities")
    return _Tree(b, tuple(law.tolist()))
