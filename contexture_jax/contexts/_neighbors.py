"""Nearest neighbours as contexts: A is one of a fixed number of points near X."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.sharding import Mesh

from contexture_jax._core.arrays import warn_if_float64
from contexture_jax._core.checks import (
    as_integers,
    as_real,
    check_concrete,
    check_integer,
    check_ndim,
    check_nonnegative,
    check_rows_have_mass,
    check_values,
    gathered,
    held_here,
    is_traced,
    spans_processes,
)
from contexture_jax._core.features import as_features, new_rows, uniform_law
from contexture_jax._core.fingerprint import mirrored
from contexture_jax._core.numerics import normalised
from contexture_jax._core.processes import in_shares
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    Int,
    pytree_dataclass,
    static_field,
)
from contexture_jax.contexts._base import Context
from contexture_jax.contexts._numbered import NumberedContext
from contexture_jax.contexts._sparse_joint import SparseJoint, coordinates
from contexture_jax.kernels import (
    Approximate,
    approximate_neighbors,
    in_balls,
    nearest_neighbors,
    nearest_over_mesh,
)

__all__ = [
    "Neighbors",
    "ReversedNeighbors",
    "approximate_knn",
    "knn",
    "neighbors",
]


@pytree_dataclass
class Neighbors(NumberedContext):
    """Each X has the same number K of context values (theory.md §4).

    Attributes:
        indices: the context values of each input by number, shape (n, K), int32.
        weights: P⁺(a|x) of each, shape (n, K), rows summing to 1; None: all 1 / K.
        points: the values of A that neighbours are searched among, shape (m, d); None
            if the graph came from outside.
        p_x: law of X, shape (n,).
        num_points: m. Static.
    """

    indices: Int[Array, "n k"]
    weights: Float[Array, "n k"] | None
    points: Float[Array, "m d"] | None
    p_x: Float[Array, " n"]
    num_points: int = static_field()

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        return self.indices.shape[0], self.num_points

    def slot_weights(self) -> Float[Array, "n k"]:
        """P⁺(a|x) of each slot, stored or not."""
        if self.weights is not None:
            return self.weights
        # Not stored for k-NN graphs: n · K equal numbers.
        share = 1.0 / self.indices.shape[1]
        return jnp.full(self.indices.shape, share, self.p_x.dtype)

    def table(self) -> Float[Array, "n m"]:
        """The joint law as a dense (n, m) table: for small cases."""
        rows = jnp.arange(self.indices.shape[0], dtype=jnp.int32)
        return self.p_x[:, None] * self._laws(rows)

    def _laws(self, x: Int[Array, " k"]) -> Float[Array, "k m"]:
        # Densities of pairs look through all slots: k · m · K numbers.
        weights = self.slot_weights()[x]
        rows = jnp.arange(x.shape[0], dtype=jnp.int32)[:, None]
        return (
            jnp.zeros((x.shape[0], self.num_points), weights.dtype)
            .at[rows, self.indices[x]]
            # Adds, as a list from outside may name a point twice.
            .add(weights)
        )

    def _draw(self, key: Array, x: Array) -> Array:
        if self.weights is None:
            # A slot and not a point: with equal weights no list is looked through.
            slot = jax.random.randint(key, (), 0, self.indices.shape[1])
        else:
            slot = jax.random.categorical(key, jnp.log(self.weights[x]))
        return self.indices[x, slot]

    def _log_density(self, a: Array, x: Array) -> Array:
        # (K,): all slots of a, of which there may be several.
        hits = self.indices[x] == a
        if self.weights is None:
            return jnp.log(hits.mean(dtype=self.p_x.dtype))
        return jnp.log(jnp.where(hits, self.weights[x], 0.0).sum())

    def _law_of_a(self) -> Float[Array, " m"]:
        # In-degrees: being near is not symmetric, so P_A is not uniform (theory.md
        # §4.3).
        joint = self.p_x[:, None] * self.slot_weights()
        return jnp.zeros(self.num_points, joint.dtype).at[self.indices].add(joint)

    def at(self, x_new: ArrayLike) -> Neighbors:
        """New inputs, shape (k, d); for a graph from outside new lists (k, K).

        Where that graph has weights, a pair of lists and weights, both (k, K). The
        neighbours are exact, as those of `knn`; inside a trace to rounding in the
        dtype, and then inputs that are not finite have weights that are NaN.

        Raises:
            TypeError: if it is differentiated in `x_new`.
        """
        # From outside: nothing to search among, so that lists come from outside too.
        if self.points is None:
            if self.weights is None:
                return neighbors(x_new, num_points=self.num_points)
            if not isinstance(x_new, tuple) or len(x_new) != 2:
                raise ValueError(
                    "x_new must be a pair (indices, weights), as the graph has weights;"
                    f" got {type(x_new).__name__}"
                )
            return neighbors(*x_new, num_points=self.num_points)
        new = held_here(new_rows(x_new, self.points))
        num_neighbors = self.indices.shape[1]
        law, weights = uniform_law(new), None
        # Nothing can be decided on the host: neighbours to rounding, and NaN for what a
        # trace cannot refuse.
        if is_traced(new, self.points):
            indices = _traced_neighbors(num_neighbors, new, self.points)
            finite = jnp.isfinite(new).all(axis=1, keepdims=True)
            share = jnp.where(finite, 1.0 / num_neighbors, jnp.nan).astype(new.dtype)
            weights = jnp.broadcast_to(share, indices.shape)
        else:
            indices = nearest_neighbors(new, self.points, num_neighbors)
        return Neighbors(indices, weights, self.points, law, self.num_points)

    def reverse(self) -> ReversedNeighbors:
        """The same law with rows = neighbours and columns = inputs."""
        return ReversedNeighbors(self)


@pytree_dataclass
class ReversedNeighbors(Context):
    """A k-NN law read from A to X: P(x|a) over the x that have a as a neighbour.

    `sample` and `log_density` are those of its `entries`, and so of a concrete context.

    Attributes:
        forward: the law from X to A.
    """

    forward: Neighbors

    @functools.cached_property
    def fingerprint(self) -> Any:
        """That of the graph, mirrored, as of the adjoint of its operator."""
        return mirrored(self.forward.fingerprint)

    @functools.cached_property
    def entries(self) -> SparseJoint:
        """The same law entry by entry, laid out on the host at the first use.

        Raises:
            TypeError: inside a trace of the graph.
        """
        check_concrete(self.forward, "a reversed neighbour context to draw from")
        n, num_slots = self.forward.indices.shape
        # Kept beyond the trace that may be under way.
        with jax.ensure_compile_time_eval():
            joint = self.forward.p_x[:, None] * self.forward.slot_weights()
            return coordinates(
                np.asarray(self.forward.indices).reshape(-1),
                np.repeat(np.arange(n), num_slots),
                np.asarray(joint).reshape(-1),
                (self.forward.num_points, n),
            )

    def sample(self, key: Array, x: ArrayLike, *, row_offset: ArrayLike = 0) -> Array:
        """Draw an x that has a as a neighbour, for each a."""
        return self.entries.sample(key, x, row_offset=row_offset)

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Log P(x|a), of numbers that broadcast."""
        return self.entries.log_density(a, x)

    def table(self) -> Float[Array, "m n"]:
        """The joint law as a dense (m, n) table: for small cases."""
        return self.forward.table().T

    def reverse(self) -> Neighbors:
        """The law from X to A."""
        return self.forward

    def at(self, x_new: ArrayLike) -> SparseJoint:
        """New neighbours, shape (k, d): P(x|a) over the x that have a in their ball.

        The ball of x ends at its farthest neighbour, and what lies on its surface is in
        it. Exact, on the host, in blocks.

        Raises:
            TypeError: inside a trace.
            ValueError: if some new point is in no ball, or inputs are not the points.
        """
        forward = self.forward
        if forward.points is None or forward.indices.shape[0] != forward.num_points:
            raise ValueError(
                "new neighbours need the points that the inputs are: build the context"
                " with `knn(x, ...)`"
            )
        check_concrete((forward, x_new), "a context of new neighbours")
        points = np.asarray(forward.points)
        new = gathered(new_rows(x_new, forward.points))
        # (entry, row) pairs: a is a neighbour of x if it lies in the ball of x, whose
        # radius is the distance of its last neighbour.
        index, column = in_balls(new, points, np.asarray(forward.indices)[:, -1])
        # P(x | a) ∝ P_X(x) · 1 / K: the share 1 / K cancels.
        weights = np.asarray(forward.p_x, np.float64)[column]
        mass = np.bincount(index, weights, len(new))
        if not (mass > 0).all():
            msg = (
                f"row {int(np.argmin(mass > 0))} of x_new is among the"
                f" {forward.indices.shape[1]} nearest neighbours of no input, so E[f(X)"
                "|a] does not exist there"
            )
            raise ValueError(msg)
        weights = (weights / mass[index] / len(new)).astype(forward.p_x.dtype)
        return coordinates(index, column, weights, (len(new), len(points)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _traced_neighbors(num_neighbors: int, new: Array, points: Array) -> Array:
    return nearest_neighbors(new, points, num_neighbors)


def _refuse_gradient(num_neighbors: int, primals: Any, tangents: Any) -> Any:
    # Symbolic zeros are told from arrays of zeros: only what is really differentiated
    # in x_new is refused.
    if not all(isinstance(t, SymbolicZero) for t in tangents):
        raise TypeError(
            "the nearest neighbours of new points are piecewise constant in them, so"
            " functions of a k-NN context have no useful gradient there: use an rbf"
            " context, whose functions are smooth, or jax.lax.stop_gradient(x_new)"
        )
    indices = _traced_neighbors(num_neighbors, *primals)
    return indices, jax.custom_derivatives.zero_from_primal(
        indices, symbolic_zeros=True
    )


_traced_neighbors.defjvp(_refuse_gradient, symbolic_zeros=True)


def knn(
    x: ArrayLike,
    num_neighbors: int = 30,
    *,
    mesh: Mesh | None = None,
    axis: str = "x",
    progress: Callable[[int, int], None] | None = None,
) -> Neighbors:
    """The k-NN context: P⁺(a|x) uniform over the nearest points of x among x.

    One of the contexts of Zhai et al. 2025 (CTX), §5 (theory.md §4). A point is its own
    neighbour. Of points at the same distance the first ones count, so that equal inputs
    have equal laws.

    The graph is exact for the numbers given, in their dtype, whatever their offset and
    scale: distances are compared in float64 wherever rounding could decide (theory.md
    §6.9), and sums of squares are taken in an order that does not depend on that of the
    columns. The error of the graph is therefore 0, and a certificate of the spectrum
    covers the operator of this law. What float32 rounds off float64 data is lost
    before: subtract an offset, or set `jax_enable_x64`.

    In a ring the points are cut over the devices and go round them once, so that no
    device, or process, holds them all. The order is then that of distances by
    differences, to rounding in the dtype, of candidates by products about the mean.

    Args:
        x: features, shape (n, d), floating or integer, finite.
        num_neighbors: K, the point itself included; 1 ≤ K ≤ n.
        mesh: devices to search over. The rows are cut over them and meet in a ring; but
            of rows that each of several processes has whole, each searches for its
            share on the host. All processes make the call. None: one device, and of
            an `x` that is cut over several processes each gathers it, for its share.
        axis: the axis of the mesh that cuts the rows.
        progress: called with (points done, n) from time to time; not in a ring.

    Raises:
        TypeError: if `num_neighbors` is not an integer, or `mesh` no mesh.
        ValueError: if K is not between 1 and n, `x` not a finite matrix, or `axis` no
            axis of the mesh.
    """
    given = as_features(x, "x")
    is_cut = spans_processes(given)
    # Rows that each of several processes has whole are searched by shares.
    ring = mesh if mesh is None or is_cut or not mesh.is_multi_process else None
    points = held_here(given) if ring is None else given
    num_points = points.shape[0]
    if isinstance(num_neighbors, (int, np.integer)) and num_neighbors > num_points:
        msg = (
            f"num_neighbors must be at most the number of points, {num_points};"
            f" got {num_neighbors}"
        )
        raise ValueError(msg)
    num_neighbors = check_integer(num_neighbors, "num_neighbors", low=1)
    if ring is not None:
        indices = nearest_over_mesh(points, num_neighbors, mesh=ring, axis=axis)
    elif is_cut or mesh is not None:
        # A query's neighbours do not depend on the others: shares give the same graph.
        def rows(start: int, stop: int) -> np.ndarray:
            some = points[start:stop]
            found = nearest_neighbors(some, points, num_neighbors, progress=progress)
            return np.asarray(found)

        indices = jnp.asarray(in_shares(num_points, rows, num_neighbors))
    else:
        indices = nearest_neighbors(points, points, num_neighbors, progress=progress)
    return Neighbors(indices, None, points, uniform_law(points), num_points)


def approximate_knn(
    x: ArrayLike,
    num_neighbors: int = 30,
    *,
    key: Array,
    recall: float = 0.99,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Neighbors, Approximate]:
    """`knn` with most of the nearest points, in a part of the time (theory.md §6.9).

    The law is that of the graph that was found, so that a certificate of its spectrum
    says nothing of the neighbours that were missed: `recall` does. New inputs, as of
    `at`, have exact neighbours.

    Args:
        x: features, shape (n, d), floating or integer, finite.
        num_neighbors: K, the point itself included; 1 ≤ K ≤ n.
        key: random key.
        recall: what share of the nearest is to be found, above 0 and below 1.
        progress: called with (points done, n) from time to time.

    Returns:
        The context, and what share a sample says was found, as `recall` with its
        `standard_error`, beside how many lists were searched.

    Raises:
        TypeError: if `num_neighbors` is not an integer or `key` no key.
        ValueError: if K is not between 1 and n, `recall` not between 0 and 1, or `x`
            not a finite matrix.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> x = jax.random.normal(jax.random.key(0), (600, 3))
        >>> context, found = cx.contexts.approximate_knn(x, 9, key=jax.random.key(1))
        >>> context.shape, found.recall > 0.95
        ((600, 600), True)
    """
    points = held_here(as_features(x, "x"))
    check_concrete(points, "points whose neighbours are approximate")
    found = approximate_neighbors(
        points, num_neighbors, key=key, recall=recall, progress=progress
    )
    law = uniform_law(points)
    return Neighbors(found.indices, None, points, law, points.shape[0]), found


def neighbors(
    indices: ArrayLike,
    weights: ArrayLike | None = None,
    num_points: int | None = None,
) -> Neighbors:
    """A context from a neighbour graph computed elsewhere, approximate or not.

    Args:
        indices: the neighbours of each input by number, shape (n, K), integer.
        weights: P⁺(a|x) up to a scale for each row, shape (n, K), non-negative; None:
            uniform.
        num_points: m, how many context values there are; None: one more than the
            largest number in `indices`.

    Raises:
        TypeError: if `indices` are not integers.
        ValueError: if a number is outside 0, …, m − 1 or a row of weights has no mass.
    """
    check_concrete((indices, weights), "a neighbour graph")
    index = as_integers(indices, "indices")
    check_ndim(index, 2, "indices")
    if index.size == 0:
        msg = f"indices must not be empty; got shape {index.shape}"
        raise ValueError(msg)
    size = (
        max(int(index.max()), 0) + 1
        if num_points is None
        else check_integer(num_points, "num_points", low=1, high=2**31 - 1)
    )
    check_values(
        index, "indices", lambda v: (v >= 0) & (v < size), f"between 0 and {size - 1}"
    )
    dtype = jnp.zeros(()).dtype
    shares = None
    if weights is not None:
        shares = gathered(as_real(weights, "weights"))
        warn_if_float64(weights, shares, "weights")
        if shares.shape != index.shape:
            msg = f"weights must have shape {index.shape}; got {shares.shape}"
            raise ValueError(msg)
        check_nonnegative(shares, "weights")
        check_rows_have_mass(shares.max(axis=1), "weights")
        # Row by row: P⁺(·|x) is given up to a scale.
        shares = normalised(shares, axis=1)
        dtype = shares.dtype
    n = index.shape[0]
    p_x = jnp.full((n,), 1.0 / n, dtype)
    return Neighbors(jnp.asarray(index, jnp.int32), shares, None, p_x, size)
