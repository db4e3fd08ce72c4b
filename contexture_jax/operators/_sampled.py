"""A law on rows by a table of draws: what is drawn, between numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.meshes import beside_context, tree_on_auto_axes
from contexture_jax._core.types import Array, short_repr
from contexture_jax.contexts import DenseJoint, OnRows, as_context, conditional
from contexture_jax.operators._monte_carlo import check_draws, draw_values

__all__ = ["SampledLaw", "sampled"]

_NUM_BATCHES = 10
# Of the table of densities, in numbers, where nobody says how many draws to take.
_MOST_DENSITIES = 2**25


@short_repr
class SampledLaw(NamedTuple):
    """A law on rows by draws of A.

    Attributes:
        context: between the numbers of rows and of draws, with a table.
        samples: the draws a_1, …, a_m, leading axis m.
    """

    context: DenseJoint
    samples: Any


@beside_context
def sampled(
    context: OnRows, num_samples: int | None = None, *, key: Array
) -> SampledLaw:
    """A law on rows as one between numbers, by draws from its P_A (theory.md §4.8).

    P(j|x_i) ∝ P⁺(a_j|x_i) / P_A(a_j), with P_X uniform, as `monte_carlo_operator` has
    it but for rows that sum to 1, so that it has the law of X of `knn` or `labels` and
    mixes with them. Rows of which no draw is at all likely have a law all the same.

    Args:
        context: as of `contexts.on_rows`, with `sample` and `log_density`.
        num_samples: m, a multiple of 10; None: about two a row, fewer where the table
            would have more than 2²⁵ numbers.
        key: random key.

    Raises:
        TypeError: if the context is another.
        CapabilityError: if it has no density.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> x = jax.numpy.arange(20.0)[:, None]
        >>> noise = cx.contexts.on_rows(cx.contexts.gaussian_noise(2.0), x)
        >>> cx.operators.sampled(noise, 100, key=jax.random.key(0)).context.shape
        (20, 100)
    """
    if not isinstance(context, OnRows):
        msg = (
            "sampled takes a law on rows, as of cx.contexts.on_rows; got a"
            f" {type(context).__name__}"
        )
        raise TypeError(msg)
    n = len(context.x)
    if num_samples is None:
        tenth = min(2 * n, _MOST_DENSITIES // n) // _NUM_BATCHES
        num_samples = _NUM_BATCHES * max(1, tenth)
    num_samples, _ = check_draws(key, num_samples, _NUM_BATCHES)
    law = tree_on_auto_axes(as_context(context.law, needs=("sample", "log_density")))
    draws = draw_values(law, context.x, num_samples, key, _NUM_BATCHES)
    # Row by row from the logarithms: where draws are fewer than rows, all densities of
    # a row may be too small for float32.
    shares = jax.nn.softmax(draws.log_ratios.T, axis=1)
    dtype = jnp.promote_types(shares.dtype, jnp.float32)
    return SampledLaw(conditional(shares.astype(dtype)), draws.samples)
