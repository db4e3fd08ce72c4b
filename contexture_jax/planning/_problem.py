"""A problem by its sizes, and its programs from those alone."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import optax
from flax import nnx
from jax.sharding import Mesh

from contexture_jax._core.checks import check_integer
from contexture_jax._core.types import summary
from contexture_jax.contexts import joint, knn, rbf
from contexture_jax.learning import OBJECTIVES
from contexture_jax.models import MLP, MLPConfig, functional
from contexture_jax.operators import operator_shapes
from contexture_jax.solvers import lower
from contexture_jax.training import compile_step, from_loss, init_state, make_step

__all__ = ["Problem"]

_KINDS = ("knn", "rbf", "joint", "mlp")
_MOST_BYTES = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class Problem:
    """A spectrum to compute, or an encoder to train, by sizes.

    Attributes:
        kind: the context, "knn", "rbf" or "joint" (a dense table), of which `svd`
            computes the spectrum; or the encoder, "mlp", of which there is a step.
        rows: n, values of X; of an encoder the rows of a batch.
        columns: of a table the values of A, else features.
        rank: singular functions; of an encoder the width of its embeddings.
        neighbors: K, of "knn".
        dtype: "float32" or "float64".
        loss: of an encoder, a key of `learning.OBJECTIVES` that sees views or towers.
        hidden: widths of the hidden layers of an encoder.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if one is out of range, or there is no such kind, dtype or loss.
    """

    kind: str = "knn"
    rows: int = 1_000_000
    columns: int = 64
    rank: int = 64
    neighbors: int = 30
    dtype: str = "float32"
    loss: str = "kise"
    hidden: tuple[int, ...] = (512, 512)

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"kind must be one of {_KINDS}; got {summary(self.kind)}")
        if self.dtype not in ("float32", "float64"):
            msg = f"dtype must be float32 or float64; got {summary(self.dtype)}"
            raise ValueError(msg)
        for name in ("rows", "columns", "rank", "neighbors"):
            check_integer(getattr(self, name), name, low=1)
        width = max(self.columns, self.rank, self.neighbors)
        if self.rows * width * self.itemsize > _MOST_BYTES:
            msg = (
                f"rows × {width:,} must take at most 2⁶³ bytes, which XLA can count;"
                f" got rows = {self.rows:,}"
            )
            raise ValueError(msg)
        if self.is_step:
            seen = {n: o for n, o in OBJECTIVES.items() if o.sees in _SEEN}
            if self.loss not in seen:
                known = ", ".join(seen)
                raise ValueError(f"loss must be one of {known}; got {self.loss!r}")
            return
        limit = self.num_values - 1
        if self.rank > limit:
            msg = f"rank must be at most {limit}, of such sizes; got {self.rank}"
            raise ValueError(msg)
        if self.kind == "knn" and self.neighbors > self.rows:
            msg = f"neighbors must be at most rows, {self.rows}; got {self.neighbors}"
            raise ValueError(msg)

    @property
    def is_step(self) -> bool:
        """Whether it is an encoder to train."""
        return self.kind == "mlp"

    @property
    def num_values(self) -> int:
        """The smaller number of values, of X and of A."""
        return min(self.rows, self.columns) if self.kind == "joint" else self.rows

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return 8 if self.dtype == "float64" else 4

    @property
    def peak(self) -> str:
        """Which of the peaks of a chip its products have."""
        # Layers of a network follow JAX's default, all else is exact.
        return "layers" if self.is_step and self.dtype == "float32" else self.dtype

    def operator(self, mesh: Mesh) -> Any:
        """Its operator over a mesh, of shapes."""
        table = jax.ShapeDtypeStruct((self.rows, self.columns), self.dtype)
        make: Any = {"joint": joint, "rbf": rbf}.get(self.kind) or functools.partial(
            knn, num_neighbors=self.neighbors
        )
        return operator_shapes(jax.eval_shape(make, table), mesh=mesh)

    def lower(self, mesh: Mesh) -> jax.stages.Lowered:
        """The program of `svd`, or of a training step, not yet compiled."""
        if not self.is_step:
            return lower(self.operator(mesh), self.rank)
        objective = OBJECTIVES[self.loss]
        params, applies = {}, {}
        for name in objective.towers:
            config = MLPConfig(
                in_features=self.columns,
                out_features=self.rank,
                hidden=self.hidden,
                num_waves=objective.num_waves if name == "phi" else 0,
                dtype=self.dtype,
                param_dtype=self.dtype,
            )
            made = functional(MLP(config, rngs=nnx.Rngs(0)))
            params[name], applies[name] = made
        # Φ(x) first, if there is one, then Ψ of each draw of A.
        which = ("phi",) * ("phi" in params) + ("psi",) * objective.num_draws

        def encode(params: Any, batch: Any, key: Any) -> tuple[Any, ...]:
            del key
            return tuple(
                applies[name](params[name], x)
                for name, x in zip(which, batch, strict=True)
            )

        optimizer = optax.adamw(1e-3)
        state = jax.eval_shape(lambda p: init_state(p, optimizer), params)
        rows = jax.ShapeDtypeStruct((self.rows, self.columns), self.dtype)
        step = make_step(encode, from_loss(objective.loss), optimizer)
        compiled = compile_step(step, mesh=mesh)
        key = jax.eval_shape(lambda: jax.random.key(0))
        return compiled.lower(state, (rows,) * len(which), key)

    def resized(self, what: str, size: int, num_chips: int) -> Problem:
        """With another number of rows, in equal shares, or another rank."""
        if what == "rank":
            most = size if self.is_step else min(size, self.num_values - 1)
            return dataclasses.replace(self, rank=max(1, most))
        least = 2 if self.is_step else self.rank + 1
        rows = max(size // num_chips, math.ceil(least / num_chips)) * num_chips
        return dataclasses.replace(self, rows=rows)


_SEEN = ("views", "towers", "towers and views")
