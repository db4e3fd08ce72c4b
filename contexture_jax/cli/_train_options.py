"""The options of `contexture train`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from contexture_jax.cli._arguments import (
    Options,
    add_context_options,
    add_data_options,
    add_output_options,
    add_rank_options,
    batch,
    count,
    not_negative,
    positive,
    widths,
)

__all__ = ["DESCRIPTION", "ENCODERS", "LOSSES", "TrainOptions", "add_options"]

ENCODERS = ("mlp", "transformer")
LOSSES = (
    "kise",
    "svme",
    "lora_svd",
    "joint_nesting",
    "spectral_contrastive",
    "vicreg",
)
DESCRIPTION = """\
Learn the singular functions of a context on DATA with an encoder, and compare them with
the exact ones. Writes train.json, train.npz and pictures to a directory, and metrics
and checkpoints to its subdirectory run; --resume goes on from the last checkpoint, bit
for bit as if the run had never ended (on other --devices: to rounding).
"""


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


def add_options(parser: Any) -> None:
    """Add the options of the command to its parser."""
    add_data_options(parser.add_argument_group("data"))
    add_context_options(parser.add_argument_group("context"))
    learning = parser.add_argument_group("learning")
    add_rank_options(learning)
    _add_learning_options(learning)
    add_output_options(parser.add_argument_group("output"))


def _add_learning_options(group: Any) -> None:
    group.add_argument(
        "--loss",
        choices=LOSSES,
        default="kise",
        help="default: %(default)s, from two views of a row",
    )
    group.add_argument(
        "--encoder",
        choices=ENCODERS,
        default="mlp",
        help="of features: all together, with skip connections (mlp, the default), or"
        " a token a column (transformer)",
    )
    group.add_argument(
        "--hidden",
        type=widths,
        metavar="W,W,…",
        help="widths of the hidden layers of an mlp, or none; default: 512,512",
    )
    group.add_argument("--activation", choices=("tanh", "gelu", "relu"), default="tanh")
    group.add_argument(
        "--output",
        type=count,
        metavar="D",
        help="width of the embedding; default: four times the rank, at most 512 and a"
        " quarter of a batch (joint_nesting: the rank)",
    )
    group.add_argument("--steps", type=count, default=1000, help="default: 1000")
    group.add_argument(
        "--batch-size", type=batch, default=1024, metavar="B", help="default: 1024"
    )
    group.add_argument(
        "--learning-rate", type=positive, default=1e-3, help="default: 0.001"
    )
    group.add_argument(
        "--weight-decay", type=not_negative, default=1e-5, help="default: 0.00001"
    )
    group.add_argument(
        "--strategy",
        choices=("jit", "shard_map", "pmap"),
        default="jit",
        help="how a step is compiled for several devices; default: %(default)s",
    )
    group.add_argument(
        "--resume", action="store_true", help="go on with the run that --out holds"
    )
