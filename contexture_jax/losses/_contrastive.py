"""Softmax contrastive objectives: InfoNCE, SimCLR and CLIP."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import as_floating, check_values
from contexture_jax._core.moments import Batch, batch_of
from contexture_jax._core.numerics import mm
from contexture_jax._core.types import Array, ArrayLike, Float
from contexture_jax.losses._common import as_pair, unit_rows

__all__ = ["clip", "info_nce", "simclr"]


def info_nce(
    phi: ArrayLike,
    psi: ArrayLike,
    *,
    temperature: float | Float[Array, ""] = 0.1,
    normalise: bool = True,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """−E log (e^{h_ii} / Σ_j e^{h_ij}), h_ij = ⟨φ_i, ψ_j⟩ / temperature.

    The sum runs over the batch of all devices, gathered, with gradients back to where
    the rows came from. In the limit of many negatives the optimal critic is h(x, a) =
    log dP⁺/d(P_X P_A) + c(x), and the loss log N − I(X; A), I the mutual information.
    What is recovered are neither functions nor a span of the contexture but its density
    ratio; kernel PCA of exp h gives the functions.

    With weights the sum is N Σ_j p_j e^{h_ij}, so that a table of weighted pairs stands
    for its law: the value at the optimum is then log N − I(X; A) exactly.

    Args:
        phi: embeddings of x, shape (b, d).
        psi: embeddings of the a paired with them, shape (b, d).
        temperature: positive; may be a traced scalar.
        normalise: scale rows to length 1 first; a row of zeros stays zero.
        weights: of the pairs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        van den Oord, Li, Vinyals 2018, arXiv 1807.03748, eq. 4; Johnson, El Hanchi,
        Maddison 2023, arXiv 2210.01883.
    """
    f, g, batch = _prepared(phi, psi, ("phi", "psi"), temperature, normalise, weights,
                          axis_name)  # fmt: skip
    return _one_side(f, g, batch)


def clip(
    phi: ArrayLike,
    psi: ArrayLike,
    *,
    temperature: float | Float[Array, ""] = 0.07,
    normalise: bool = True,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """The mean of `info_nce` from x to a and from a to x.

    Its optimal critic is fixed up to one constant, h = log dP⁺/d(P_X P_A) + c.

    Args:
        phi: embeddings of x, shape (b, d).
        psi: embeddings of the a paired with them, shape (b, d).
        temperature: positive; may be a traced scalar.
        normalise: scale rows to length 1 first.
        weights: of the pairs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        Radford et al. 2021, arXiv 2103.00020, fig. 3.
    """
    f, g, batch = _prepared(phi, psi, ("phi", "psi"), temperature, normalise, weights,
                          axis_name)  # fmt: skip
    # A term c(x) that the first direction does not see counts in the second: only a
    # constant is left open.
    return (_one_side(f, g, batch) + _one_side(g, f, batch)) / 2


def simclr(
    z: ArrayLike,
    z_plus: ArrayLike,
    *,
    temperature: float | Float[Array, ""] = 0.5,
    normalise: bool = True,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """NT-Xent: every view against all other views in the batch, itself left out.

    −½ E Σ_views log (e^{h(z, z⁺)} / Σ_{all others} e^{h}), with the 2 N − 1 views of
    all devices in the sum. The optimal critic is that of `info_nce` between two views.
    For unit vectors and N ≤ d + 1 pairs that have nothing in common the minimum is at a
    regular simplex: −1/t + log(e^{1/t} + 2 (N − 1) e^{−1/((N − 1) t)}).

    Args:
        z: embeddings Ψ(a), shape (b, d).
        z_plus: embeddings Ψ(a⁺) by the same encoder, shape (b, d).
        temperature: t, positive; may be a traced scalar.
        normalise: scale rows to length 1 first.
        weights: of the pairs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        Chen, Kornblith, Norouzi, Hinton 2020, arXiv 2002.05709, eq. 1.
    """
    x, y, batch = _prepared(z, z_plus, ("z", "z_plus"), temperature, normalise, weights,
                          axis_name)  # fmt: skip
    # (b,): h(z, z⁺), the same for both views.
    positive = jnp.sum(x * y, axis=1)
    # (N, d) each.
    everyone = (batch.gather(x), batch.gather(y))
    log_weights = _log_weights(batch)
    own = batch.row_numbers()[:, None] == jnp.arange(batch.global_size)[None, :]
    losses = []
    for number, view in enumerate((x, y)):
        # Two blocks of (b, N): against the first views and against the second.
        logits = [mm(view, others.T) + log_weights for others in everyone]
        # A view does not compete with itself; its partner, the positive, stays in the
        # sum.
        logits[number] = jnp.where(own, -jnp.inf, logits[number])
        # Over 2 N − 1 logits. They reach 1 / t in modulus, 100 at t = 0.01, where exp
        # overflows float32: hence logsumexp, here and below.
        total = jax.nn.logsumexp(jnp.concatenate(logits, axis=1), axis=1)
        losses.append(batch.mean(total - positive))
    return (losses[0] + losses[1]) / 2


def _prepared(
    x: ArrayLike,
    y: ArrayLike,
    names: tuple[str, str],
    temperature: Any,
    normalise: bool,
    weights: Any,
    axis_name: Any,
) -> tuple[Array, Array, Batch]:
    """Checked embeddings whose inner products are logits."""
    f, g = as_pair(x, y, names)
    t = as_floating(temperature, "temperature").astype(f.dtype)
    if t.shape:
        msg = f"temperature must be one number; got shape {t.shape}"
        raise ValueError(msg)
    check_values(t, "temperature", lambda v: v > 0, "positive")
    # Before the temperature, so that logits are cosines over t.
    if normalise:
        f, g = unit_rows(f), unit_rows(g)
    # On each side the root, so that what is gathered needs no temperature any more.
    root = jnp.sqrt(1 / t)
    batch = batch_of(f, weights=weights, axis_name=axis_name)
    return f * root, g * root, batch


def _one_side(
    f: Float[Array, "b d"], g: Float[Array, "b d"], batch: Batch
) -> Float[Array, ""]:
    # (b, N), its columns in the order of the devices' rows.
    logits = mm(f, batch.gather(g).T) + _log_weights(batch)
    # The mean over rows is taken with p; the sum over alternatives has N p_j inside the
    # exponent, so that weighted pairs stand for their law (theory.md §7.6).
    total = jax.nn.logsumexp(logits, axis=1)
    return batch.mean(total - jnp.sum(f * g, axis=1))


def _log_weights(batch: Batch) -> Any:
    """The logarithm of N p_j for all devices' rows, −∞ where p_j = 0; shape (1, N)."""
    if batch.probabilities is None:
        return 0.0
    # Held: a weight is data, and the derivative of the logarithm at 0 is infinite.
    relative = (
        batch.gather(jax.lax.stop_gradient(batch.probabilities)) * batch.global_size
    )
    return jnp.log(relative)[None, :]
