"""What the user asked for, with nothing resolved yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from contexture_jax.data import DEFAULT_MISSING

__all__ = [
    "CONTEXTS",
    "ENCODERS",
    "LOSSES",
    "METHODS",
    "Options",
    "TrainOptions",
]

CONTEXTS = ("knn", "rbf", "labels", "joint", "graph", "teacher")
METHODS = ("auto", "exact", "randomized", "krylov", "nystrom")
ENCODERS = ("mlp", "transformer")
LOSSES = (
    "kise",
    "svme",
    "lora_svd",
    "joint_nesting",
    "spectral_contrastive",
    "vicreg",
)


class Options(NamedTuple):
    """The arguments of `contexture spectrum`; None stands for a default to work out.

    Attributes:
        data: a path or the name of a built-in set.
        target: the column to judge against.
        drop: columns to leave out.
        categorical: columns to take as categories.
        separator: what is between the cells of a CSV; a space stands for any number.
        decimal: what is before the decimals of a number, "." or ",".
        missing: the marks of a missing value, beside an empty cell.
        context: the kind of context.
        num_neighbors: K of a k-NN context.
        gamma: γ of a Gaussian-kernel context, or "auto".
        lazy: whether a walk on a graph is lazy.
        rank: the number of singular triples.
        dtype: the precision of the work.
        seed: the seed of everything random.
        method: the solver.
        tol: the relative residual to stop at.
        max_passes: the bound on passes of the solver.
        devices: how many local devices share the rows.
        bootstrap: how often to draw a sample of pairs anew; 0: not.
        out: the directory to write to.
        plots: whether to draw.
        quiet: whether to print nothing but errors and warnings.
    """

    data: str
    target: str | None = None
    drop: Sequence[str] = ()
    categorical: Sequence[str] = ()
    separator: str | None = None
    decimal: str | None = None
    missing: tuple[str, ...] = DEFAULT_MISSING
    context: str = "knn"
    num_neighbors: int | None = None
    gamma: float | Literal["auto"] | None = None
    lazy: bool = False
    rank: int | None = None
    dtype: str = "float32"
    seed: int = 0
    method: str = "auto"
    tol: float | None = None
    max_passes: int | None = None
    devices: int = 1
    bootstrap: int = 0
    out: str = "contexture-out"
    plots: bool = True
    quiet: bool = False


class TrainOptions(NamedTuple):
    """The arguments of `contexture train`; None stands for a default to work out.

    Attributes:
        base: those that it shares with `contexture spectrum`.
        loss: the objective, by its name in `cx.losses`.
        encoder: what embeds features.
        hidden: widths of the hidden layers of an MLP.
        activation: of the hidden layers.
        output: width of the embedding.
        steps: how many steps.
        batch_size: pairs of a batch.
        learning_rate: the highest.
        weight_decay: of AdamW.
        strategy: how a step is compiled for devices.
        resume: go on with the run in `out`.
    """

    base: Options
    loss: str = "kise"
    encoder: str = "mlp"
    hidden: Sequence[int] | None = None
    activation: str = "tanh"
    output: int | None = None
    steps: int = 1000
    batch_size: int = 1024
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    strategy: str = "jit"
    resume: bool = False
