"""Tuples of contexts of known spectrum, where what they tell is a context again."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from contexture_jax._core.forms import of_a_list
from contexture_jax._core.types import summary
from contexture_jax.zoo._base import AnalyticContext, check_contexts, host
from contexture_jax.zoo._combinations import _Product
from contexture_jax.zoo._letters import _Erased, _Strings
from contexture_jax.zoo._polynomials import _Gaussian

__all__ = ["join"]


@of_a_list
def join(contexts: Sequence[AnalyticContext]) -> AnalyticContext:
    """What several contexts tell of X: A = (A_1, …, A_r), independent given X.

    As a context of the zoo with the same spectrum, whose A is a sufficient statistic of
    the tuple (theory.md §5):

    * normals of correlations ρ_j: precisions add up, ρ² / (1 − ρ²) = Σ_j ρ_j² / (1 −
      ρ_j²);
    * erasures of one law with rates η_j: what one of them shows is seen, η = ∏_j η_j;
    * strings and tensor products of such: coordinate by coordinate.

    Other tuples have no closed form here; `contexts.join` is exact for small ones.

    Args:
        contexts: of the zoo, at least one, all of one family with one law of X.

    Raises:
        TypeError: if one is no context of the zoo.
        ValueError: if there is none, or no closed form.
    """
    return functools.reduce(_join, check_contexts(contexts, AnalyticContext))


def _join(one: AnalyticContext, two: AnalyticContext) -> AnalyticContext:
    if isinstance(one, _Gaussian) and isinstance(two, _Gaussian):
        squares = [float(host(c.correlation)) ** 2 for c in (one, two)]
        precision = sum(s / (1.0 - s) for s in squares)
        rho = math.sqrt(precision / (1.0 + precision))
        return _Gaussian(rho, max(one.num_points, two.num_points))
    if isinstance(one, _Erased) and isinstance(two, _Erased) and _is_one_law(one, two):
        return _Erased(one.marginal, float(host(one.rate) * host(two.rate)))
    if (
        isinstance(one, _Strings)
        and isinstance(two, _Strings)
        and one.dimension == two.dimension
    ):
        letter: Any = _join(one.letter, two.letter)
        return _Strings(letter, one.dimension)
    if isinstance(one, _Product) and isinstance(two, _Product):
        pairs = zip(one.factors, two.factors, strict=False)
        if len(one.factors) == len(two.factors):
            return _Product(tuple(_join(*pair) for pair in pairs))
    msg = (
        "contexts must be normals, erasures of one law, or strings and tensor products"
        f" of such; got {summary(one)} and {summary(two)}: contexts.join is exact for"
        " small tables of any kind"
    )
    raise ValueError(msg)


def _is_one_law(one: _Erased, two: _Erased) -> bool:
    return np.array_equal(host(one.marginal), host(two.marginal))
