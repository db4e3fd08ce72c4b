"""Features of a teacher as a context: the dual kernel is their inner product."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_values, held_here, is_traced
from contexture_jax._core.factorizations import thin_svd
from contexture_jax._core.features import as_features, new_rows
from contexture_jax._core.numerics import mm, rank_cutoff
from contexture_jax._core.types import Array, ArrayLike, Float, pytree_dataclass
from contexture_jax.contexts._base import Context, as_numbers

__all__ = ["Teacher", "teacher"]


@pytree_dataclass
class Teacher(Context):
    """The context whose dual kernel is k(x, x') = 1 + Σ_j s_j² φ_j(x) φ_j(x').

    A is numbered as X is, and T the positive square root of T_k; its joint "law" may be
    negative in places (theory.md §4, §0 E14).

    Attributes:
        features: φ_j on the rows, shape (n, r).
        training_features: φ_j on the values of A, shape (m, r), mean 0 and orthonormal
            under the uniform law.
        values: s_j, shape (r,), descending, in (0, 1].
        center: what is taken off raw features, shape (d,).
        whitening: what multiplies them then, shape (d, r).
    """

    features: Float[Array, "n r"]
    training_features: Float[Array, "m r"]
    values: Float[Array, " r"]
    center: Float[Array, " d"]
    whitening: Float[Array, "d r"]

    def table(self) -> Float[Array, "n m"]:
        """P_X P_A (1 + Σ_j s_j φ_j(x) φ_j(a)), shape (n, m); signed."""
        # P⁺ / (p_x p_a) as in theory.md §1.1, with ν_j = φ_j: both margins are uniform.
        density = 1.0 + mm(
            self.features * self.values[None, :], self.training_features.T
        )
        return density / density.size

    def kernel(self, x: ArrayLike, x2: ArrayLike) -> Float[Array, "k l"]:
        """The dual kernel between the rows numbered `x` and `x2`."""
        n = self.features.shape[0]
        x, x2 = as_numbers(x, "x", n), as_numbers(x2, "x2", n)
        # s_j² for the dual kernel, where the law has s_j.
        scaled = self.features * (self.values * self.values)[None, :]
        return 1.0 + mm(scaled[x], self.features[x2].T)

    def spectrum(self, k: int) -> Float[Array, " k"]:
        """The values s_j, then zeros."""
        # The rank is known: beyond it all values are 0.
        return jnp.pad(self.values, (0, k))[:k]

    def at(self, x_new: ArrayLike) -> Teacher:
        """New raw features, shape (k, d)."""
        new = new_rows(x_new, self.center[None, :])
        # The map of the training rows: new rows get the functions and no whitening of
        # their own.
        features = mm(new - self.center[None, :], self.whitening)
        return Teacher(
            features, self.training_features, self.values, self.center, self.whitening
        )

    def reverse(self) -> Teacher:
        """The same law from A to X: itself, unless `at` gave X other rows than A."""
        return Teacher(
            self.training_features,
            self.features,
            self.values,
            self.center,
            self.whitening,
        )


def teacher(z: ArrayLike, threshold: float | None = None) -> Teacher:
    """A context from features: dual kernel N·z zᵀ + 1 of centred, whitened z.

    With z whitened over all N rows (zᵀz = I) the non-constant eigenvalues of the kernel
    are 1; the factor is N and not a batch size, which would shrink them (theory.md §0
    E14; Zhai 2025, dissertation code, whose spectral step `threshold` follows).

    Args:
        z: features, shape (N, d), floating or integer, finite.
        threshold: None: whiten fully, s_j = 1 for every direction above rounding. A
            positive number: s_j = 1 for the directions whose singular value (of the
            centred z) is at least that, the others dropped. 0: no whitening, s_j =
            singular value / largest one.

    Raises:
        TypeError: if `z` is traced: whitened features have a spectrum of ones, with
            nothing to differentiate, and their number depends on values.
        ValueError: if `z` has no direction left, or `threshold` is negative.
    """
    raw = as_features(z, "z")
    if is_traced(raw):
        msg = (
            "z must be concrete: its rank decides shapes; build the context outside of"
            " jit, grad and vmap"
        )
        raise TypeError(msg)
    raw = held_here(raw)  # each process decides the rank for itself, and alike
    num_rows = raw.shape[0]
    # (d,): centring takes the constant out, which the 1 of the kernel stands for.
    center = raw.mean(axis=0)
    # (N, r), (r,), (r, d). By the SVD of z, not of its covariance, whose small
    # eigenvalues are lost below √eps.
    u, sigma, vh = thin_svd(raw - center[None, :])
    values = np.asarray(sigma)
    floor = float(rank_cutoff((num_rows, raw.shape[1]), values.dtype, sigma[0]))
    # Directions of rounding are no functions, however they are weighted.
    if threshold is None or threshold == 0:
        kept = values > floor
    else:
        check_values(
            np.asarray(threshold), "threshold", lambda v: v > 0, "non-negative"
        )
        kept = (values >= threshold) & (values > floor)
    rank = int(kept.sum())
    if rank == 0:
        msg = (
            "z must have a direction that varies, with a singular value above"
            f" {floor if threshold is None else max(threshold, floor):.3g}; the largest"
            f" is {values[0]:.3g}"
        )
        raise ValueError(msg)
    # √N: columns of u have length 1, functions variance 1 under the uniform law (E14).
    scale = jnp.asarray(np.sqrt(num_rows), raw.dtype)
    features = u[:, :rank] * scale
    shares = sigma[:rank] / sigma[0] if threshold == 0 else jnp.ones_like(sigma[:rank])
    # (d, r): (z − c) vhᵀ √N / σ = √N u, the features.
    whitening = vh[:rank].T * (scale / sigma[:rank])[None, :]
    return Teacher(features, features, shares, center, whitening)
