"""The six relations of a representation to its contexts, each beside chance."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.chance import Compared, judged_by_chance, without_groups
from contexture_jax._core.checks import (
    as_floating,
    check_finite,
    check_integer,
    check_key,
    check_ndim,
)
from contexture_jax._core.classes import class_codes
from contexture_jax._core.intervals import check_level
from contexture_jax._core.numerics import mm, safe_divide
from contexture_jax._core.types import Array, ArrayLike, Float, short_repr
from contexture_jax.evaluation import (
    ContextFit,
    Geometry,
    compare,
    compatibility,
    context_fit,
    geometry,
    target_energy,
)
from contexture_jax.operators import AssociationOperator
from contexture_jax.prediction import ridge

__all__ = [
    "CrossTask",
    "InputOutput",
    "LayerProfile",
    "compositionality",
    "cross_task",
    "hierarchy",
    "input_output",
]

_FOLDS = 5


@short_repr
class InputOutput(NamedTuple):
    """Whether a representation tells a target.

    Attributes:
        score: of rows left out, of a ridge probe: R², or the share of classes that are
            right.
        compatibility: ρ of the target in the context, pooled over its columns; None
            without one.
        best: the largest R² of any d functions that are ordered as the context's,
            Σ_{i≤d} u_i² over the variance; None without the exact functions.
    """

    score: Compared
    compatibility: Float[Array, ""] | None
    best: Float[Array, ""] | None


@short_repr
class CrossTask(NamedTuple):
    """Whether features that serve one task serve another.

    Attributes:
        tasks: their names, k.
        score: R² of task j from the directions of task i, shape (k, k).
        null: its mean over directions that were found with the rows of task i
            shuffled, shape (k, k).
        p_values: (1 + shuffles that reach the score) / (1 + their number), (k, k).
    """

    tasks: tuple[str, ...]
    score: Float[Array, "k k"]
    null: Float[Array, "k k"]
    p_values: Float[Array, "k k"]


@short_repr
class LayerProfile(NamedTuple):
    """What the layers of a network hold of a context, first to last.

    Attributes:
        context: the ratio trace and the compatibility of each layer.
        cca: with the exact leading functions, as many as there are.
        geometry: of each layer.
    """

    context: list[ContextFit]
    cca: list[Compared]
    geometry: list[Geometry]


def input_output(
    phi: ArrayLike,
    y: ArrayLike,
    *,
    key: Array,
    op: AssociationOperator | None = None,
    functions: ArrayLike | None = None,
    num_permutations: int = 99,
    level: float = 0.9,
) -> InputOutput:
    """Is the representation predictive of the target, and could any be.

    A ridge probe in five folds, α chosen by them. Chance is the target shuffled, with α
    chosen anew.

    Args:
        phi: shape (n, d), floating, n ≥ 16.
        y: numbers, shape (n,) or (n, c), or classes of any kind, shape (n,).
        key: random key of shuffles and groups.
        op: the operator of a context of the same rows.
        functions: its exact functions as columns, orthonormal under P_X; needs `op`.
        num_permutations: how many shuffles.
        level: of both intervals.

    Raises:
        ValueError: if rows do not match, there is one class, or a number is not finite.
    """
    z, target, num_classes = _checked(phi, y, key)
    how = {"num_permutations": num_permutations, "level": level}
    found = _by_chance(_score, z, target, key, num_classes=num_classes, **how)
    rho = best = None
    if op is not None:
        columns = _columns(target, num_classes).astype(op.dtype)
        centred = columns - mm(op.p_x[None, :], columns)
        variances = mm(op.p_x[None, :], centred**2)[0]
        squares = compatibility(columns, op) ** 2
        rho = jnp.sqrt(jnp.sum(squares * variances) / jnp.sum(variances))
        if functions is not None:
            shares = target_energy(columns, functions, op.p_x).fractions
            best = shares[: z.shape[1]].sum()
    return InputOutput(found, rho, best)


def cross_task(
    phi: ArrayLike,
    targets: Mapping[str, ArrayLike],
    *,
    key: Array,
    num_directions: int = 1,
    num_permutations: int = 99,
) -> CrossTask:
    """Do features that serve task i serve task j.

    On half of the rows a ridge probe of task i is fitted; the r leading directions of
    what it makes of the features, C^{1/2} W, are kept. On the other half task j is told
    from these alone, by least squares in folds.

    Args:
        phi: shape (n, d), floating, n ≥ 16.
        targets: of each task one, as for `input_output`.
        key: random key of the halves and the shuffles.
        num_directions: r, of one task at most as many as it has columns.
        num_permutations: how many shuffles.

    Raises:
        ValueError: as `input_output`, or if r is above d.
    """
    names = tuple(targets)
    some = [_checked(phi, y, key) for y in targets.values()]
    z = some[0][0]
    r = check_integer(num_directions, "num_directions", low=1, high=z.shape[1])
    num = check_integer(num_permutations, "num_permutations", low=1)
    columns = [_columns(y, c).astype(z.dtype) for _, y, c in some]
    value, null = _across(z, columns, key, num_directions=r, num_permutations=num)
    reached = jnp.sum(null >= value[None] - 1e-9, axis=0)
    p_values = ((1 + reached) / (1 + num)).astype(value.dtype)
    return CrossTask(names, value, null.mean(axis=0), p_values)


def compositionality(
    first: ArrayLike,
    second: ArrayLike,
    composed: ArrayLike,
    *,
    key: Array,
    num_permutations: int = 99,
    level: float = 0.9,
) -> tuple[Compared, Compared]:
    """Is Φ(x₁ ⊕ x₂) a linear function of Φ(x₁) and Φ(x₂), for any ⊕.

    A ridge regression of the composed from both side by side, in five folds. Chance
    pairs the composed with other inputs.

    Args:
        first: Φ(x₁), shape (n, d), floating, n ≥ 16.
        second: Φ(x₂), likewise.
        composed: Φ(x₁ ⊕ x₂), shape (n, d).
        key: random key of shuffles and groups.
        num_permutations: how many shuffles.
        level: of both intervals.

    Returns:
        R² of rows left out, columns pooled, and the mean cosine of what is told and
        what is, both less the mean, on a half of the rows left out.

    Raises:
        ValueError: if rows do not match, or a number is not finite.
    """
    a, target, _ = _checked(first, composed, key)
    b, _, _ = _checked(second, composed, key)
    target = (target[:, None] if target.ndim == 1 else target).astype(a.dtype)
    z = jnp.concatenate([a, b.astype(a.dtype)], axis=1)
    how = {"num_permutations": num_permutations, "level": level}
    one, other = (
        _by_chance(measure, z, target, key, num_classes=None, **how)
        for measure in (_explained, _cosine)
    )
    return one, other


def hierarchy(
    layers: Sequence[ArrayLike],
    op: AssociationOperator,
    exact: Any,
    *,
    key: Array,
    num_permutations: int = 99,
    level: float = 0.9,
) -> LayerProfile:
    """Does depth add abstraction: each layer beside the exact functions of a context.

    Args:
        layers: of each the rows of `op`, shape (n, d) each, floating.
        op: the operator of the context.
        exact: its `SVDResult`.
        key: random key, the same for all layers.
        num_permutations: how many shuffles.
        level: of the intervals.

    Raises:
        ValueError: if rows do not match, or a number is not finite.
    """
    options = {"key": key, "num_permutations": num_permutations, "level": level}
    functions = exact.left
    return LayerProfile(
        [context_fit(x, op, exact.singular_values, **options) for x in layers],
        [compare(x, functions, "cca", **options) for x in layers],
        [geometry(x, level=level) for x in layers],
    )


def _checked(phi: Any, y: Any, key: Any) -> tuple[Array, Array, int | None]:
    """Features, a target as numbers or as codes, and how many classes or None."""
    z = as_floating(phi, "features")
    check_ndim(z, 2, "features")
    check_finite(z, "features")
    check_key(key)
    check_integer(z.shape[0], "the number of rows", low=16)
    values = y if isinstance(y, jax.Array) else np.asarray(y)
    if jnp.issubdtype(values.dtype, jnp.floating):
        target, num_classes = as_floating(values, "y"), None
        check_finite(target, "y")
    else:
        classes, codes = class_codes(y, "y", discrete=True)
        if len(classes) < 2:
            msg = f"y must hold at least 2 classes; got {classes.tolist()}"
            raise ValueError(msg)
        target, num_classes = jnp.asarray(codes), len(classes)
    if target.shape[0] != z.shape[0]:
        msg = f"y must have {z.shape[0]} rows, as the features; got {target.shape[0]}"
        raise ValueError(msg)
    return z, target, num_classes


def _columns(target: Array, num_classes: int | None) -> Float[Array, "n c"]:
    if num_classes is not None:
        return jax.nn.one_hot(target, num_classes)
    return target[:, None] if target.ndim == 1 else target


_Measure = Callable[[Array, Array, int | None], Array]


def _score(z: Array, y: Array, num_classes: int | None) -> Array:
    fit = ridge(z, y, folds=_FOLDS, standardize=True, num_classes=num_classes)
    return 1 - fit.errors.min()


def _explained(z: Array, y: Array, num_classes: int | None) -> Array:
    del num_classes
    return 1 - ridge(z, y, folds=_FOLDS, standardize=True).squared_errors.min()


def _cosine(z: Array, y: Array, num_classes: int | None) -> Array:
    del num_classes
    half = z.shape[0] // 2
    fit = ridge(z[:half], y[:half], folds=_FOLDS, standardize=True)
    mean = y[:half].mean(axis=0, keepdims=True)
    told, true = fit.scores(z[half:]) - mean, y[half:] - mean
    lengths = jnp.linalg.norm(told, axis=1) * jnp.linalg.norm(true, axis=1)
    return jnp.mean(safe_divide(jnp.sum(told * true, axis=1), lengths))


def _by_chance(
    measure: _Measure,
    z: Array,
    y: Array,
    key: Array,
    *,
    num_classes: int | None,
    num_permutations: int,
    level: float,
) -> Compared:
    num = check_integer(num_permutations, "num_permutations", low=1)
    value, null, groups = _measured(
        z, y, key, measure=measure, num_classes=num_classes, num_permutations=num
    )
    return judged_by_chance(value, null, groups, z.shape[0], check_level(level))


@functools.partial(
    jax.jit, static_argnames=("measure", "num_classes", "num_permutations")
)
def _measured(
    z: Float[Array, "n d"],
    y: Array,
    key: Array,
    *,
    measure: _Measure,
    num_classes: int | None,
    num_permutations: int,
) -> tuple[Array, Array, Array]:
    """Of all rows, of shuffled targets, and without each group of rows."""
    keys, n = jax.random.split(key), z.shape[0]
    # Rows may be sorted by what they are, and folds are every fifth.
    order = jax.random.permutation(keys[1], n)
    z, y = z[order], y[order]
    null = jax.lax.map(
        lambda one: measure(z, jax.random.permutation(one, y), num_classes),
        jax.random.split(keys[0], num_permutations),
    )
    groups = without_groups(
        lambda rows: measure(z[rows], y[rows], num_classes), keys[1], n
    )
    return measure(z, y, num_classes), null, groups


@functools.partial(jax.jit, static_argnames=("num_directions", "num_permutations"))
def _across(
    z: Float[Array, "n d"],
    columns: list[Float[Array, "n ..."]],
    key: Array,
    *,
    num_directions: int,
    num_permutations: int,
) -> tuple[Float[Array, "k k"], Float[Array, "b k k"]]:
    """`cross_task`, and the same where the rows of task i are shuffled."""
    keys, n = jax.random.split(key), z.shape[0]
    order = jax.random.permutation(keys[0], n)
    first, second = order[: n // 2], order[n // 2 :]
    columns = [y - y.mean(axis=0, keepdims=True) for y in columns]

    def scores(rows: Array) -> Array:
        """(k, k), with the targets of `rows` for those of the first half."""
        found = []
        for y in columns:
            w = ridge(z[first], y[rows], folds=_FOLDS, standardize=True).weights
            seen = mm(z[first] - z[first].mean(axis=0, keepdims=True), w)
            _, _, turn = jnp.linalg.svd(seen, full_matrices=False)
            kept = mm(z[second], mm(w, turn[:num_directions].T))
            fits = [
                ridge(kept, one[second], folds=_FOLDS, standardize=True)
                for one in columns
            ]
            found.append(jnp.stack([1 - fit.squared_errors.min() for fit in fits]))
        return jnp.stack(found)

    null = jax.lax.map(
        lambda one: scores(jax.random.permutation(one, first)),
        jax.random.split(keys[1], num_permutations),
    )
    return scores(first), null
