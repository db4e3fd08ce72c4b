"""Two encoders side by side: Φ of X and Ψ of A."""

from __future__ import annotations

from typing import Any

from flax import nnx

from contexture_jax._core.types import Array, Float

__all__ = ["TwoTower"]


class TwoTower(nnx.Module):
    """(Φ(x), Ψ(a)), each through a head of its own if there is one.

    The pair of embeddings that losses of two encoders take. Pass one module as both
    towers for A of the kind of X with shared parameters. Features for later use are
    those before the heads: `functional(pair.phi)` with `params["phi"]`.
    """

    def __init__(
        self,
        phi: nnx.Module,
        psi: nnx.Module,
        *,
        phi_head: nnx.Module | None = None,
        psi_head: nnx.Module | None = None,
    ) -> None:
        self.phi = phi
        self.psi = psi
        self.phi_head = nnx.data(phi_head)
        self.psi_head = nnx.data(psi_head)

    def __call__(
        self, x: Any, a: Any
    ) -> tuple[Float[Array, "b d"], Float[Array, "b e"]]:
        """Embed a batch of pairs; a tuple is passed on as several inputs."""
        return _embed(self.phi, self.phi_head, x), _embed(self.psi, self.psi_head, a)


def _embed(tower: Any, head: Any, inputs: Any) -> Array:
    # As `CrossAttentionEncoder` takes (x, a).
    features = tower(*inputs) if isinstance(inputs, tuple) else tower(inputs)
    return features if head is None else head(features)
