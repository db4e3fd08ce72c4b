"""Letters that are kept, erased or resampled, and strings of them (theory.md §5)."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import as_real, check_integer
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
    exp_minus_one,
    host,
    mean_zero_basis,
)
from contexture_jax.zoo._checks import (
    as_integers,
    check_fraction,
    check_law,
)
from contexture_jax.zoo._combinations import tensor_product

__all__ = [
    "binary_symmetric",
    "complete_graph",
    "erasure",
    "global_erasure",
    "identity",
    "label_noise",
    "product_erasure",
    "scarf",
]


class _Letter(IndexedContext):
    """One letter X, numbered from 0: one singular value, of multiplicity q - 1."""

    marginal: ArrayLike  # (q,)
    rate: ArrayLike  # ()

    def _value(self) -> float:
        """The singular value."""
        raise NotImplementedError

    def _square(self) -> Array:
        """s², in JAX."""
        raise NotImplementedError

    def _num_symbols(self) -> int:
        """The number of values of A."""
        raise NotImplementedError

    def _probability(self, a: Any, x: Any, marginal: Any, rate: Any) -> Any:
        """P(a|x) for letters that broadcast; NumPy in, NumPy out, and JAX likewise."""
        raise NotImplementedError

    def _right(self, functions: np.ndarray) -> np.ndarray:
        """ν of orthonormal μ with T ν = s μ, for any μ of mean 0."""
        raise NotImplementedError

    @property
    def basis(self) -> tuple:
        return ("letters", tuple(host(self.marginal).tolist()), 1)

    def modes(self, num: int) -> Clusters:
        size = np.shape(self.marginal)[0]
        # One letter has no mean-zero function.
        if num < 1 or size == 1:
            return Clusters(np.zeros(0), ())
        return Clusters(np.array([self._value()]), (size - 1,))

    def total_energy(self) -> float:
        """(q - 1) s²."""
        return (np.shape(self.marginal)[0] - 1) * self._value() ** 2

    def _draw(self, key: PRNGKeyArray, x: Array) -> Array:
        """Draw a letter for each of `x`, integers of any shape; dtype of `x`."""
        x = as_integers(x, "x")
        shape = (*x.shape, self._num_symbols())
        letters = jax.lax.broadcasted_iota(x.dtype, shape, x.ndim)
        # All values of A for each x: alphabets are small.
        logits = self.log_density(letters, jnp.broadcast_to(x[..., None], shape))
        return jax.random.categorical(key, logits, axis=-1).astype(x.dtype)

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Log P(a|x), -inf where impossible; `a` and `x` integers of one shape."""
        a, x, marginal = as_integers(a, "a"), as_integers(x, "x"), self.marginal
        marginal = jnp.asarray(marginal)
        rate = jnp.asarray(self.rate, dtype=marginal.dtype)
        return jnp.log(self._probability(a, x, marginal, rate))

    def _joint(self) -> np.ndarray:
        marginal, (x, a) = host(self.marginal), self._points()
        check_table_size(x.size, a.size)
        return marginal[:, None] * self._probability(
            a[None, :], x[:, None], marginal, host(self.rate)
        )

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(np.shape(self.marginal)[0]), np.arange(self._num_symbols())

    def _indexed_functions(self, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        # Any orthonormal basis will do: the value is one, of multiplicity q − 1.
        left = mean_zero_basis(host(self.marginal))[:, : None if num else 0]
        return left, self._right(left), np.zeros(left.shape[1], dtype=int)


@pytree_dataclass
class _Resampled(_Letter):
    """P(a|x) = (1 - c) 1[a = x] + c P_X(a); c up to where this stays non-negative."""

    marginal: ArrayLike
    rate: ArrayLike

    def _value(self) -> float:
        return abs(1.0 - float(host(self.rate)))

    def _square(self) -> Array:
        return (1.0 - jnp.asarray(self.rate)) ** 2

    def _num_symbols(self) -> int:
        return np.shape(self.marginal)[0]

    def _probability(self, a: Any, x: Any, marginal: Any, rate: Any) -> Any:
        law = (1.0 - rate) * (a == x) + rate * marginal[a]
        # Rates above 1 cancel where a = x, to a rounding of either sign.
        return law.clip(min=0.0)

    def _right(self, functions: np.ndarray) -> np.ndarray:
        # For c > 1 the eigenvalue 1 − c is negative: the sign goes into ν.
        return functions if host(self.rate) <= 1 else -functions


@pytree_dataclass
class _Erased(_Letter):
    """A = X with probability 1 - α, otherwise the letter q, which says nothing."""

    marginal: ArrayLike
    rate: ArrayLike

    def _value(self) -> float:
        return float(np.sqrt(1.0 - host(self.rate)))

    def _square(self) -> Array:
        return 1.0 - jnp.asarray(self.rate)

    def _num_symbols(self) -> int:
        return np.shape(self.marginal)[0] + 1

    def _probability(self, a: Any, x: Any, marginal: Any, rate: Any) -> Any:
        return (1.0 - rate) * (a == x) + rate * (a == marginal.shape[0])

    def _draw(self, key: PRNGKeyArray, x: Array) -> Array:
        """Keep or erase each letter of `x`, integers of any shape; dtype of `x`."""
        x = as_integers(x, "x")
        is_erased = jax.random.bernoulli(key, jnp.asarray(self.rate), x.shape)
        return jnp.where(is_erased, jnp.full_like(x, self._num_symbols() - 1), x)

    def _right(self, functions: np.ndarray) -> np.ndarray:
        # T* μ = μ on letters that are kept and 0 on the erased one; over s, for
        # variance 1.
        scale = self._value() or 1.0
        return np.vstack([functions / scale, np.zeros((1, functions.shape[1]))])


@pytree_dataclass
class _Strings(IndexedContext):
    """Strings of `dimension` independent copies of a bit, shape (..., dimension).

    T is a tensor power: on the comb(d, j) parities of j coordinates it is s^j.
    """

    letter: _Letter
    dimension: int = static_field()

    @property
    def _has_vectors(self) -> bool:
        return True

    @property
    def basis(self) -> tuple:
        return ("letters", tuple(host(self.letter.marginal).tolist()), self.dimension)

    def modes(self, num: int) -> Clusters:
        degrees = range(1, min(num, self.dimension) + 1)
        # One value a degree, of comb(d, j) parities.
        values = self.letter._value() ** np.array(degrees)
        return Clusters(values, tuple(comb(self.dimension, j) for j in degrees))

    def total_energy(self) -> float:
        """(1 + s²)^d - 1."""
        # (1 + s²)^d − 1 by logarithms: for small s the 1 would cancel.
        return exp_minus_one(self.dimension * np.log1p(self.letter.total_energy()))

    def _draw(self, key: PRNGKeyArray, x: Array) -> Array:
        """Draw a string for each of `x`, integers of shape (..., dimension)."""
        return self.letter._draw(key, self._strings(x, "x"))

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Log P(a|x); `a` and `x` of one shape (..., dimension), result (...)."""
        a, x = self._strings(a, "a"), self._strings(x, "x")
        return self.letter.log_density(a, x).sum(axis=-1)

    def kernel(self, x: ArrayLike, x2: ArrayLike) -> Array:
        """∏_i (1 + s² (1[x_i = x2_i] / P_X(x_i) - 1)), all pairs.

        For uniform bits ∏_i (1 + s² (±1)), + where bits agree; x (n, d), x2 (n2, d).
        """
        x, x2 = self._strings(x, "x"), self._strings(x2, "x2")
        marginal = jnp.asarray(self.letter.marginal)
        # (n, n2, d): the kernel of one letter, 1 + s² (1[x = x'] / p − 1), multiplies
        # over coordinates.
        agree = (x[:, None, :] == x2[None, :, :]) / marginal[x][:, None, :]
        return (1.0 + self.letter._square() * (agree - 1.0)).prod(axis=-1)

    def _strings(self, x: ArrayLike, name: str) -> Array:
        x = as_integers(x, name)
        if x.ndim == 0 or x.shape[-1] != self.dimension:
            msg = f"{name} must have shape (..., {self.dimension}); got {x.shape}"
            raise ValueError(msg)
        return x

    def _joint(self) -> np.ndarray:
        # Coordinates are independent: a Kronecker power.
        letter = self.letter._joint()
        check_table_size(*(size**self.dimension for size in letter.shape))
        joint = np.ones((1, 1))
        for _ in range(self.dimension):
            joint = np.kron(joint, letter)
        return joint

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        sizes = self.letter._joint().shape
        check_table_size(*(size**self.dimension for size in sizes))
        rows, columns = (
            np.stack(
                np.unravel_index(np.arange(q**self.dimension), (q,) * self.dimension)
            )
            for q in sizes
        )
        return rows.T, columns.T

    def _indexed_functions(self, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        left, right, _ = self.letter._indexed_functions(1)
        left = np.hstack([np.ones((left.shape[0], 1)), left])
        right = np.hstack([np.ones((right.shape[0], 1)), right])
        # 0 for the constant, 1 for any other function of a letter.
        degree = np.minimum(np.arange(left.shape[1]), 1)
        functions = (np.ones((1, 1)), np.ones((1, 1)), np.zeros(1, dtype=int))
        for _ in range(self.dimension):
            degrees = np.add.outer(functions[2], degree).ravel()
            # Degrees only grow: what is beyond `num` need not be carried on.
            few = degrees <= num
            functions = (
                np.kron(functions[0], left)[:, few],
                np.kron(functions[1], right)[:, few],
                degrees[few],
            )
        some = functions[2] > 0
        return functions[0][:, some], functions[1][:, some], functions[2][some] - 1


def _uniform(size: int) -> np.ndarray:
    return np.full(size, 1.0 / size)


def identity(marginal: ArrayLike) -> AnalyticContext:
    """A = X: the context that tells everything.

    All q - 1 singular values are 1 and every mean-zero function is singular
    (theory.md §5). X is a number, 0..q-1.

    Args:
        marginal: law of X, shape (q,), positive.
    """
    # Resampled never.
    return _Resampled(check_law(marginal, "marginal", positive=True), 0.0)


def global_erasure(marginal: ArrayLike, rate: ArrayLike) -> AnalyticContext:
    """A = X with probability 1 - rate, otherwise the symbol q, which says nothing.

    The singular value √(1 - rate), q - 1 times: association with no decay at all
    (theory.md §5). X is a number, 0..q-1, and every mean-zero function is singular.

    Args:
        marginal: law of X, shape (q,), positive.
        rate: probability of erasure, in [0, 1].
    """
    law = check_law(marginal, "marginal", positive=True)
    return _Erased(law, check_fraction(rate, "rate"))


def label_noise(
    num_classes: int, rate: ArrayLike, *, to_another: bool = False
) -> AnalyticContext:
    """Balanced labels, of which a fraction `rate` is replaced.

    With `to_another=False` the replacement is uniform over all C classes and the
    singular value is 1 - η; with `True` over the C - 1 others and it is
    |1 - η C / (C - 1)|. Multiplicity C - 1, any mean-zero functions (theory.md §5).
    Needs balanced classes. X and A are class numbers.

    Args:
        num_classes: C ≥ 2.
        rate: η, in [0, 1].
        to_another: whether a replaced label always changes.
    """
    size = check_integer(num_classes, "num_classes", low=2)
    rate = check_fraction(rate, "rate")
    if to_another:
        # A move to another class is a uniform draw that may come back: more often, so
        # that the rate may pass 1.
        rate = rate * size / (size - 1)
    return _Resampled(_uniform(size), rate)


def complete_graph(num_vertices: int) -> AnalyticContext:
    """One step of the walk on the complete graph K_n without loops.

    The singular value 1 / (n - 1), n - 1 times; all eigenvalues of T but the trivial
    one are negative (theory.md §5, and E2 of §0). X and A are vertex numbers.

    Args:
        num_vertices: n ≥ 2.
    """
    return label_noise(
        check_integer(num_vertices, "num_vertices", low=2), 1.0, to_another=True
    )


def binary_symmetric(dimension: int, flip: ArrayLike) -> AnalyticContext:
    """Uniform bits, each flipped independently with probability `flip`.

    Singular values |1 - 2 flip|^|S| over non-empty sets S of coordinates, so that
    comb(d, j) of them are |1 - 2 flip|^j; functions are the parities
    χ_S(x) = ∏_{i∈S} (-1)^{x_i}; Σ s_i² = (1 + (1 - 2 flip)²)^d - 1 (theory.md §5; the
    noise operator of the analysis of Boolean functions). X and A are bits 0, 1.

    Args:
        dimension: d ≥ 1, the number of bits.
        flip: in [0, 1].
    """
    d = check_integer(dimension, "dimension", low=1)
    # A flip is a redrawn bit that differs, half of the time.
    rate = 2.0 * check_fraction(flip, "flip")
    return _Strings(_Resampled(_uniform(2), rate), d)


def erasure(dimension: int, rate: ArrayLike) -> AnalyticContext:
    """Uniform bits, each erased visibly and independently with probability `rate`.

    Singular values (1 - rate)^{|S|/2} on the parities, comb(d, j) of them with
    |S| = j; Σ s_i² = (2 - rate)^d - 1 (theory.md §5). X has bits 0, 1; in A an erased
    bit is 2. A tuple of r independent such copies is `erasure(d, rate**r)`.

    Args:
        dimension: d ≥ 1, the number of bits.
        rate: in [0, 1].
    """
    d = check_integer(dimension, "dimension", low=1)
    return _Strings(_Erased(_uniform(2), check_fraction(rate, "rate")), d)


def product_erasure(
    marginals: Sequence[ArrayLike],
    rates: ArrayLike,
) -> AnalyticContext:
    """Independent coordinates, each erased visibly with its own probability.

    Singular values ∏_{i∈S} √(1 - rates_i) over non-empty S, each ∏_{i∈S} (|X_i| - 1)
    times; functions are tensor products (Efron & Stein 1981; theory.md §5). Fails for
    dependent coordinates. X has letters 0..|X_i|-1; an erased letter is |X_i|.

    Args:
        marginals: one positive law for each coordinate, shape (|X_i|,).
        rates: one probability in [0, 1] for each coordinate, or one for all.
    """
    laws, fractions = _coordinates(marginals, rates)
    return tensor_product([_Erased(p, c) for p, c in zip(laws, fractions, strict=True)])


def scarf(
    marginals: Sequence[ArrayLike],
    rates: ArrayLike,
) -> AnalyticContext:
    """Independent coordinates, each replaced, unseen, by a draw from its own law.

    The corruption of SCARF (Bahri et al. 2022): singular values ∏_{i∈S} (1 - rates_i)
    over non-empty S, each ∏_{i∈S} (|X_i| - 1) times, so a stronger decay than erasure
    at equal rates (theory.md §5). Fails for dependent coordinates, and for a
    replacement that is not of the coordinate's own law.

    Args:
        marginals: one positive law for each coordinate, shape (|X_i|,).
        rates: one probability in [0, 1] for each coordinate, or one for all.
    """
    laws, fractions = _coordinates(marginals, rates)
    return tensor_product(
        [_Resampled(p, c) for p, c in zip(laws, fractions, strict=True)]
    )


def _coordinates(
    marginals: Sequence[ArrayLike],
    rates: ArrayLike,
) -> tuple[list[np.ndarray], list[float | Array]]:
    laws = [
        check_law(p, f"marginals[{i}]", positive=True) for i, p in enumerate(marginals)
    ]
    if not laws:
        msg = "marginals must have at least one law; got none"
        raise ValueError(msg)
    fractions = np.asarray(as_real(rates, "rates"), dtype=np.float64)
    if fractions.ndim == 0:
        return laws, [check_fraction(fractions, "rates")] * len(laws)
    if fractions.shape != (len(laws),):
        msg = (
            f"rates must be one number or one for each of the {len(laws)} marginals;"
            f" got shape {fractions.shape}"
        )
        raise ValueError(msg)
    return laws, [check_fraction(c, f"rates[{i}]") for i, c in enumerate(fractions)]
