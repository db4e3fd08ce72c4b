"""Whether two representations of the same rows agree, beside chance."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.chance import (
    Compared,
    judged_by_chance,
    without_groups,
)
from contexture_jax._core.checks import check_integer, check_key
from contexture_jax._core.intervals import Interval, check_level
from contexture_jax._core.types import Array, ArrayLike, Float, Int, short_repr, summary
from contexture_jax.evaluation._common import as_number, weighted_basis
from contexture_jax.evaluation._linear_measures import LINEAR, linear_measure
from contexture_jax.evaluation._near_kernels import near_kernels
from contexture_jax.evaluation._pair_measures import OF_PAIRS, pair_measure
from contexture_jax.evaluation._similarity import (
    check_pair,
    other_neighbors,
    shared_neighbors,
)

__all__ = ["MEASURES", "Comparisons", "compare", "compare_all"]

# All that `compare` knows.
_NEAR = ("mutual_knn", "cknna")
_SIGNED = ("cka_debiased", "cka_rbf_debiased", "rsa", "rsa_linear", "cknna")
MEASURES = (*LINEAR, *OF_PAIRS, *_NEAR)


@short_repr
class Comparisons(NamedTuple):
    """All pairs of a set of representations.

    Attributes:
        names: of the k representations.
        compared: of each measure, its numbers of shape (k, k): symmetric, and 1 on the
            diagonal, where nothing was computed.
    """

    names: tuple[str, ...]
    compared: dict[str, Compared]


def compare(
    f: ArrayLike,
    g: ArrayLike,
    measure: str = "cca",
    *,
    key: Array,
    num_permutations: int = 99,
    level: float = 0.9,
    energy: float = 0.99,
    bandwidth: float = 1.0,
    num_neighbors: int = 10,
    whiten: bool = False,
    block_rows: int = 1024,
) -> Compared:
    """How alike two representations are, with an interval and beside chance.

    At most 1 each, and 1 of a representation and itself. With A and B centred:

    * "cca": the mean squared canonical correlation, as `cca`;
    * "svcca": the mean canonical correlation of the fewest principal components that
      hold `energy` of the variance (Raghu et al. 2017, arXiv 1706.05806);
    * "pwcca": the mean canonical correlation, weighed by Σ_j |⟨h_i, x_j⟩| of the i-th
      canonical variable with all features (Morcos et al. 2018, arXiv 1806.05759), and
      the mean of what the features of either side make of it; alone of all, it depends
      on the axes of features, as their absolute values do;
    * "procrustes": ‖AᵀB‖_* / (‖A‖ ‖B‖); the least squared distance ‖A − B Q‖² over
      rotations Q, at length 1 each, is 2 less twice that (Williams et al. 2021);
    * "cka": of linear kernels, as `cka`; "cka_debiased" by HSIC₁, without the pairs of
      a row with itself (Song et al. 2012; Murphy et al. 2024, arXiv 2405.01012);
    * "cka_rbf", "cka_rbf_debiased": of exp(−|x − y|² / 2 σ²), σ being `bandwidth` times
      the median distance (Kornblith et al. 2019);
    * "rsa": Spearman's correlation of the distances of pairs (Kriegeskorte et al.
      2008), of ties the mean rank; "rsa_linear": Pearson's;
    * "mutual_knn": as `mutual_knn`;
    * "cknna": linear CKA of the pairs that are nearest neighbours in both, Σ a_ij b_ij
      over the root of Σ a_ij² Σ b_ij², each of the neighbours in one alone (Huh et al.
      2024, arXiv 2405.07987, of centred features).

    Most of these are far from 0 for unrelated features and grow with the width: read
    the null beside the value. Shuffling the rows of `f` is an exact test of
    independence whatever the widths.

    Nothing of size n × n is stored. Measures by kernels and distances take pairs within
    blocks of at most `block_rows` rows, which are drawn, of equal size, with fewer rows
    left out than there are blocks: of more rows than a block holds they are estimates
    ("cka_rbf" with the bias of a block, "cka_rbf_debiased" with none in its parts), and
    shuffles stay within blocks: a larger `block_rows` makes them exact where memory
    allows. Every row is in a block, so that the pairs between blocks add little to what
    the rows say: in simulations the interval holds the value of all pairs at its level
    or more often. The interval of "rsa" ranks once, and those of "mutual_knn" and
    "cknna" are centred at the value, which has no limit beyond these rows; "cka" and
    the others take all rows and pairs. Works under `jit` and `vmap`.

    Args:
        f: shape (n, d1), floating, n ≥ 8.
        g: likewise, shape (n, d2).
        measure: one of `MEASURES`; static, as are all that follow but the key.
        key: random key of shuffles, groups and blocks.
        num_permutations: how many shuffles; the smallest p-value is one over one more.
        level: of the interval, and of the quantiles of the null.
        energy: of "svcca".
        bandwidth: of "cka_rbf" and "cka_rbf_debiased".
        num_neighbors: of "mutual_knn" and "cknna", at most n / 2.
        whiten: of these two: whether features are whitened first.
        block_rows: at least 16.

    Raises:
        ValueError: if rows do not match or are fewer than 8, a number is not finite (a
            trace gives NaN), or an option is out of range.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> x = jax.random.normal(jax.random.key(0), (60, 4))
        >>> found = cx.evaluation.compare(x, 3 * x[:, ::-1], key=jax.random.key(1))
        >>> bool(found.value > 0.999), bool(found.p_value == 0.01)
        (True, True)
        >>> bool(0.0 < found.null.estimate < 0.2)
        True
    """
    f, g, _ = check_pair(f, g, None)
    check_key(key)
    n = f.shape[0]
    if measure not in MEASURES:
        msg = f"measure must be one of {', '.join(MEASURES)}; got {summary(measure)}"
        raise ValueError(msg)
    if n < 8:
        raise ValueError(f"f and g must have at least 8 rows; got {n}")
    num_permutations = check_integer(num_permutations, "num_permutations", low=1)
    level = check_level(level)
    energy, bandwidth = as_number(energy, "energy"), as_number(bandwidth, "bandwidth")
    if not 0 < energy <= 1 or bandwidth <= 0:
        msg = "energy must be in (0, 1] and bandwidth above 0; got"
        raise ValueError(f"{msg} {energy} and {bandwidth}")
    block_rows = check_integer(block_rows, "block_rows", low=16)
    keys = jax.random.split(key)
    shared = {"num_permutations": num_permutations, "level": level}
    if measure in _NEAR:
        k = check_integer(num_neighbors, "num_neighbors", low=1, high=n // 2)
        if whiten:
            w = jnp.full(n, 1 / n, f.dtype)
            f, g = (weighted_basis(x, w, centre=True)[0] for x in (f, g))
        # More than k, so that k are left of them without a tenth of the rows.
        longer = min(n - 1, 2 * k + 10)
        # Outside a trace exact, on the host.
        near = other_neighbors(f, longer), other_neighbors(g, longer)
        if measure == "cknna":
            return near_kernels(f, g, *near, keys, num_neighbors=k, **shared)
        isfinite = jnp.isfinite(f).all() & jnp.isfinite(g).all()
        poison = jnp.where(isfinite, 0, jnp.nan).astype(f.dtype)
        return _of_neighbors(*near, poison, keys, num_neighbors=k, **shared)
    return _of_features(
        f,
        g,
        keys,
        measure=measure,
        energy=energy,
        bandwidth=bandwidth,
        block_rows=block_rows,
        **shared,
    )


def compare_all(
    representations: Mapping[str, ArrayLike],
    measures: Sequence[str] = ("cca", "cka_debiased", "mutual_knn"),
    *,
    key: Array,
    **options: Any,
) -> Comparisons:
    """All pairs of a set of representations of the same rows, on the host.

    Args:
        representations: of each name one, shape (n, d); at least one.
        measures: as for `compare`.
        key: random key, the same for all pairs: nulls have the same shuffles.
        **options: of `compare`.

    Raises:
        ValueError: as `compare`, with the names of the two.
    """
    names = tuple(representations)
    k = len(names)
    found: dict[str, list[list[Any]]] = {}
    for measure in measures:
        table: list[list[Any]] = [[None] * k for _ in range(k)]
        for i in range(k):
            for j in range(i):
                pair = representations[names[i]], representations[names[j]]
                try:
                    one = compare(*pair, measure, key=key, **options)
                except ValueError as error:
                    msg = f"{names[i]} (f) and {names[j]} (g): {error}"
                    raise ValueError(msg) from error
                table[i][j] = table[j][i] = one
        found[measure] = table
    return Comparisons(names, {m: _stacked(found[m], options) for m in measures})


def _stacked(table: list[list[Any]], options: Mapping[str, Any]) -> Compared:
    """A table of numbers as numbers of tables, with 1 on the diagonal."""
    one = jnp.ones(())
    level = check_level(options.get("level", 0.9))
    sure = Interval(one, one, one, level)
    itself = Compared(one, sure, sure, one)
    rows = [[itself if x is None else x for x in row] for row in table]
    stack = functools.partial(jax.tree.map, lambda *x: jnp.stack(x))
    return stack(*[stack(*row) for row in rows])


@functools.partial(
    jax.jit,
    static_argnames=(
        "measure",
        "num_permutations",
        "level",
        "energy",
        "bandwidth",
        "block_rows",
    ),
)
def _of_features(
    f: Float[Array, "n d1"],
    g: Float[Array, "n d2"],
    keys: Array,
    *,
    measure: str,
    num_permutations: int,
    level: float,
    energy: float,
    bandwidth: float,
    block_rows: int,
) -> Compared:
    n, least = f.shape[0], -1.0 if measure in _SIGNED else 0.0
    if measure in LINEAR:
        found = linear_measure(measure, f, g, keys, num_permutations, energy)
        return judged_by_chance(*found, n, level, least=least)
    found = pair_measure(measure, f, g, keys, num_permutations, bandwidth, block_rows)
    num_blocks = -(-n // block_rows)
    return judged_by_chance(*found, n // num_blocks, level, least=least)


@functools.partial(
    jax.jit, static_argnames=("num_neighbors", "num_permutations", "level")
)
def _of_neighbors(
    near_f: Int[Array, "n l"],
    near_g: Int[Array, "n l"],
    poison: Float[Array, ""],
    keys: Array,
    *,
    num_neighbors: int,
    num_permutations: int,
    level: float,
) -> Compared:
    """`mutual_knn` of lists of neighbours: a shuffle gives rows other numbers."""
    n, k, dtype = near_f.shape[0], num_neighbors, poison.dtype
    first, second = near_f[:, :k], near_g[:, :k]

    def shuffled(key: Array) -> Array:
        order = jax.random.permutation(key, n)
        numbers = jnp.argsort(order)
        # Row i is now `order[i]`, and its neighbours have their new numbers.
        return shared_neighbors(numbers[first[order]], second, k, dtype)

    def without(rows: Array) -> Array:
        kept = jnp.zeros(n, bool).at[rows].set(True)
        return shared_neighbors(near_f, near_g, k, dtype, kept)

    value = shared_neighbors(first, second, k, dtype) + poison
    null = jax.lax.map(shuffled, jax.random.split(keys[0], num_permutations)) + poison
    groups = without_groups(without, keys[1], n)
    return judged_by_chance(value, null, groups, n, level, unbiased=True, least=0.0)
