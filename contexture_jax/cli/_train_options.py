"""The options of `contexture train`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from contexture_jax.cli._arguments import (
    Options,
    add_data_options,
    add_output_options,
    add_process_options,
    add_rank_options,
    batch,
    count,
    not_negative,
    positive,
    widths,
)
from contexture_jax.cli._mix_words import Mix, add_mixed_context_options

__all__ = ["ENCODERS", "LOSSES", "TrainOptions", "add_options"]

ENCODERS = ("mlp", "transformer")
LOSSES = (
    "kise",
    "svme",
    "lora_svd",
    "joint_nesting",
    "spectral_contrastive",
    "vicreg",
)


@dataclasses.dataclass(frozen=True)
class TrainOptions(Options):
    """The arguments of `contexture train`; None stands for a default to work out.

    Attributes:
        mix: how several contexts are one.
        scarf_rate: of scarf, how likely a feature is replaced.
        loss: the objective, by its name in `cx.losses`.
        encoder: what embeds features.
        hidden: widths of the hidden layers of an MLP.
        activation: of the hidden layers.
        output: width of the embedding.
        steps: how many steps.
        batch_size: pairs of a batch.
        learning_rate: the highest, that of the loss by default.
        weight_decay: of AdamW.
        strategy: how a step is compiled for devices.
        resume: go on with the run in `out`.
    """

    mix: Mix | None = None
    scarf_rate: float | None = None
    loss: str = "kise"
    encoder: str = "mlp"
    hidden: Sequence[int] | None = None
    activation: str = "tanh"
    output: int | None = None
    steps: int = 1000
    batch_size: int = 1024
    learning_rate: float | None = None
    weight_decay: float = 1e-5
    strategy: str = "jit"
    resume: bool = False


def add_options(parser: Any) -> None:
    """Add the options of the command to its parser."""
    add_data_options(parser.add_argument_group("data"))
    add_mixed_context_options(parser.add_argument_group("context"))
    learning = parser.add_argument_group("learning")
    add_rank_options(learning)
    _add_learning_options(learning)
    add_process_options(parser.add_argument_group("several processes"))
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
        help="width of the embedding; default: four times the rank, at most 512 and"
        " half a batch or of the rows (joint_nesting: the rank)",
    )
    group.add_argument("--steps", type=count, default=1000, help="default: 1000")
    group.add_argument(
        "--batch-size", type=batch, default=1024, metavar="B", help="default: 1024"
    )
    group.add_argument(
        "--learning-rate",
        type=positive,
        metavar="RATE",
        help="the highest; default: 0.001 (svme: 0.003)",
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
