"""The encoders of the command line: what they embed, and how wide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contexture_jax.cli._contexts import Recipe
from contexture_jax.data import InputError, counted

if TYPE_CHECKING:
    from contexture_jax.cli._train import TrainOptions

__all__ = ["NUMBERED", "plan_encoder", "plan_output", "plan_rate"]

NUMBERED = ("joint", "graph")  # contexts whose rows have no features
_HIDDEN = (512, 512)  # as `learning.Encoder`, which JAX has to be loaded for


def plan_encoder(options: TrainOptions, recipe: Recipe) -> dict[str, Any]:
    """What embeds the rows.

    Raises:
        InputError: if the rows are not what the encoder embeds.
    """
    if recipe.name in NUMBERED:
        if options.encoder != "mlp" or options.hidden is not None:
            raise InputError(
                f"--context {recipe.name} has numbered rows, without features to embed:"
                " each gets an embedding of its own; expected neither --encoder nor"
                " --hidden"
            )
        return {"kind": "table"}
    shared = {"activation": options.activation}
    if options.encoder == "mlp":
        hidden = _HIDDEN if options.hidden is None else tuple(options.hidden)
        return {"kind": "mlp", "hidden": hidden, **shared}
    if options.hidden is not None:
        raise InputError(
            f"--hidden is of --encoder mlp; got --encoder {options.encoder}"
        )
    return {"kind": options.encoder, **shared}


def plan_output(options: TrainOptions, rank: int, num_rows: int) -> int:
    """The width of the embedding."""
    if options.output is None:
        import contexture_jax as cx

        # One of the settings that tell whether a run is the same: said before `learn`.
        objective = cx.learning.OBJECTIVES[options.loss]
        return objective.width(rank, options.batch_size, num_rows)
    if options.output < rank:
        raise InputError(
            f"--output {options.output} is less than the {counted(rank, 'function')} to"
            f" learn; expected --output {rank} or more, or a smaller --rank"
        )
    return options.output


def plan_rate(options: TrainOptions) -> float:
    """The highest learning rate."""
    import contexture_jax as cx

    of_loss = cx.learning.OBJECTIVES[options.loss].rate
    return of_loss if options.learning_rate is None else options.learning_rate
