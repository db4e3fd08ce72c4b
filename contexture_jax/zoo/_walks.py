"""Random walks on finite abelian groups (theory.md §5, groups and graphs)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_integer
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
    check_table_size,
    collect,
    host,
)
from contexture_jax.zoo._checks import (
    as_integers,
    check_fraction,
    check_law,
)

__all__ = ["cyclic", "hypercube_walk", "lazy_ring", "torus_walk"]

_MAX_GROUP = 2**20
# Characters are sums of cosines of size 1, so their error is absolute.
_ROUNDING = 64 * float(np.finfo(np.float64).eps)


@pytree_dataclass
class _GroupWalk(IndexedContext):
    """A = X + step on ℤ_{n_1} × … × ℤ_{n_d}, X uniform: s = |q̂| at each character."""

    steps: ArrayLike  # (l, d) integers
    probabilities: ArrayLike  # (l,)
    sizes: tuple[int, ...] = static_field()

    @property
    def _has_vectors(self) -> bool:
        # Elements of a ring are numbers, of a product vectors.
        return len(self.sizes) > 1

    @property
    def basis(self) -> tuple:
        return ("group", self.sizes)

    @property
    def _rounding(self) -> float:
        return _ROUNDING

    def _order(self) -> int:
        """Number of elements, as an integer of any size."""
        return int(np.prod(np.array(self.sizes, dtype=object)))

    def _step_law(self) -> np.ndarray:
        if self._order() > _MAX_GROUP:
            msg = (
                f"the group has {self._order()} elements; at most {_MAX_GROUP} are"
                " listed"
            )
            raise ValueError(msg)
        law = np.zeros(self.sizes)
        steps = np.asarray(self.steps) % np.array(self.sizes)
        # Steps that are equal modulo the group add up, as ±1 on a ring of two.
        np.add.at(law, tuple(steps.T), host(self.probabilities))
        return law

    def _characters(self) -> np.ndarray:
        """E[exp(2πi ⟨k, step⟩)] for each non-zero k, in the order of the group."""
        # NumPy's transform has e^{−2πi…}.
        return np.conj(np.fft.fftn(self._step_law())).ravel()[1:]

    def modes(self, num: int) -> Clusters:
        values = np.abs(self._characters())[:num]
        return Clusters(values, (1,) * values.size)

    def _num_modes(self, k: int) -> int:
        # Characters are in no order of size: any of them can be the largest.
        return self._order() - 1 if k else 0

    def _tail(self, num: int) -> float:
        return float(np.abs(self._characters())[num:].max(initial=0.0))

    def total_energy(self) -> float:
        """|G| Σ_g q(g)² - 1."""
        steps = np.asarray(self.steps) % np.array(self.sizes)
        # Parseval, over the steps alone: the group may be too large to list.
        _, which = np.unique(steps, axis=0, return_inverse=True)
        law = np.bincount(which.ravel(), weights=host(self.probabilities))
        return float(self._order()) * float(law @ law) - 1.0

    def _elements(self) -> np.ndarray:
        size = self._order()
        check_table_size(size, size)
        return np.stack(np.unravel_index(np.arange(size), self.sizes), axis=-1)

    def _joint(self) -> np.ndarray:
        elements, law = self._elements(), self._step_law()
        moves = elements[None, :, :] - elements[:, None, :]
        return law[tuple(np.moveaxis(moves % np.array(self.sizes), -1, 0))] / law.size

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        elements = self._elements()
        if not self._has_vectors:
            elements = elements[:, 0]
        return elements, elements

    def _indexed_functions(self, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        elements = self._elements()
        angles = 2 * np.pi * (elements / np.array(self.sizes)) @ elements[1:].T
        # The number of −k.
        negative = np.ravel_multi_index(
            tuple((-elements[1:].T) % np.array(self.sizes)[:, None]), self.sizes
        )
        number = np.arange(1, len(elements))
        # Of k and -k the first takes the cosine, the second the sine.
        shift = np.where(number > negative, -np.pi / 2, 0.0)
        # A character that is its own conjugate is real, of variance 1 as it stands.
        scale = np.where(number == negative, 1.0, np.sqrt(2.0))
        character = self._characters()
        # Of a character of value 0 the phase is rounding.
        phase = np.where(np.abs(character) > _ROUNDING, np.angle(character), 0.0)
        left = scale * np.cos(angles + shift)
        right = scale * np.cos(angles + shift - phase)
        return left[:, :num], right[:, :num], np.arange(len(number[:num]))

    def _draw(self, key: PRNGKeyArray, x: Array) -> Array:
        """Take one step from each of `x`: integers, (...,) on a ring, else (..., d)."""
        x = self._as_vectors(x, "x")
        which = jax.random.categorical(
            key, jnp.log(jnp.asarray(self.probabilities)), shape=x.shape[:-1]
        )
        a = self._reduce(x + jnp.asarray(self.steps, dtype=x.dtype)[which])
        return a if self._has_vectors else a[..., 0]

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Log P(a|x), -inf where no step leads; `a` and `x` of one shape."""
        a, x = self._as_vectors(a, "a"), self._as_vectors(x, "x")
        lead = (1,) * (x.ndim - 1)
        steps = self._reduce(jnp.asarray(self.steps, dtype=x.dtype))
        steps = steps.reshape(lead + steps.shape)
        # (…, l): which steps lead from x to a.
        taken = (self._reduce(a - x)[..., None, :] == steps).all(axis=-1)
        law = jnp.asarray(self.probabilities)
        return jnp.log(
            jnp.where(taken, law.reshape(lead + law.shape), 0.0).sum(axis=-1)
        )

    def _reduce(self, x: Array) -> Array:
        sizes = jnp.asarray(self.sizes, dtype=x.dtype)
        return x % sizes.reshape((1,) * (x.ndim - 1) + sizes.shape)

    def _as_vectors(self, x: ArrayLike, name: str) -> Array:
        x = as_integers(x, name)
        if not self._has_vectors:
            return x[..., None]
        if x.ndim == 0 or x.shape[-1] != len(self.sizes):
            msg = f"{name} must have shape (..., {len(self.sizes)}); got {x.shape}"
            raise ValueError(msg)
        return x


@pytree_dataclass
class _TorusWalk(_GroupWalk):
    """The simple walk on a torus: its spectrum needs no list of the characters."""

    def _leading(self, k: int) -> Clusters:  # noqa: ARG002 - always all
        size, dimension = self.sizes[0], len(self.sizes)
        # cos(2π k / n) is the same for k and n − k.
        frequencies = np.arange(size // 2 + 1)
        cosines = np.cos(2 * np.pi * frequencies / size)
        # 0 and n / 2 are their own mirror images.
        counts = np.where((2 * frequencies) % size == 0, 1, 2).astype(object)
        sums, multiplicities = np.zeros(1), np.ones(1, dtype=object)
        for _ in range(dimension):
            sums = np.add.outer(sums, cosines).ravel()
            multiplicities = np.multiply.outer(multiplicities, counts).ravel()
            # Shifted to be positive, as `collect` wants them; all sums are kept.
            merged = collect(sums + 2 * dimension, tuple(multiplicities), _ROUNDING)
            sums = merged.values - 2 * dimension
            multiplicities = np.array(merged.multiplicities, dtype=object)
            # Before the next coordinate multiplies them.
            if sums.size * cosines.size > _MAX_GROUP:
                msg = f"the torus has more than {_MAX_GROUP} distinct eigenvalues"
                raise ValueError(msg)
        # The largest sum, `dimension`, is that of the trivial character, once.
        return collect(
            np.abs(sums[1:]) / dimension, tuple(multiplicities[1:]), _ROUNDING
        )


def cyclic(step_law: ArrayLike) -> AnalyticContext:
    """The walk on ℤ_n with a step law q: singular values |q̂(k)|, k = 1..n-1.

    q̂(k) = Σ_g q(g) exp(2πi k g / n), X uniform; real Fourier functions, those of A
    shifted by the phase of q̂(k) (theory.md §5; Diaconis 1988, chapter 3C). X and A are
    integers modulo n.

    Args:
        step_law: probabilities of steps 0..n-1, shape (n,).
    """
    law = check_law(step_law, "step_law")
    return _GroupWalk(np.arange(law.size)[:, None], law, (law.size,))


def lazy_ring(num_vertices: int, move: ArrayLike) -> AnalyticContext:
    """The walk on a ring that goes left or right with probability `move` each.

    Singular values |1 - 2 move + 2 move cos(2πk/n)|, k = 1..n-1; T ⪰ 0 for move ≤ 1/4
    (theory.md §5).

    Args:
        num_vertices: n ≥ 2.
        move: probability of each direction, in [0, 1/2].
    """
    size = check_integer(num_vertices, "num_vertices", low=2)
    move = float(host(check_fraction(move, "move")))
    if move > 0.5:
        msg = f"move must be in [0, 1/2]; got {move}"
        raise ValueError(msg)
    law = np.array([1.0 - 2.0 * move, move, move])
    return _GroupWalk(np.array([[0], [1], [-1]]), law, (size,))


def torus_walk(num_vertices: int, dimension: int) -> AnalyticContext:
    """The simple walk on (ℤ_n)^d: one coordinate, chosen evenly, goes up or down by 1.

    Singular values |Σ_i cos(2πk_i/n) / d| over k ≠ 0 (theory.md §5); eigenvalues of T
    are negative too, and -1 occurs for even n (E2 of §0). X and A are vectors of
    integers modulo n, shape (..., d), or integers for d = 1.

    Args:
        num_vertices: n ≥ 2, the length of each cycle.
        dimension: d ≥ 1.
    """
    size = check_integer(num_vertices, "num_vertices", low=2)
    d = check_integer(dimension, "dimension", low=1)
    steps = np.vstack([np.eye(d, dtype=int), -np.eye(d, dtype=int)])
    # ±1 in each coordinate; for n = 2 both are the same step.
    return _TorusWalk(steps, np.full(2 * d, 0.5 / d), (size,) * d)


def hypercube_walk(dimension: int) -> AnalyticContext:
    """The walk on {0, 1}^d that flips one bit, chosen evenly.

    Singular values |1 - 2j/d|, comb(d, j) times for j = 1..d, on the parities; the full
    parity has eigenvalue -1, so s = 1 (theory.md §5, and E2 of §0).

    Args:
        dimension: d ≥ 1.
    """
    return torus_walk(2, dimension)
