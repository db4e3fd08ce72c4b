"""What `learn` refuses before anything is trained."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_finite
from contexture_jax.contexts import ConvexCombination
from contexture_jax.learning._objectives import Objective, form_of
from contexture_jax.learning._towers import Encoder
from contexture_jax.losses import MinMax

__all__ = ["check_mixed", "check_options", "checked_encoder", "num_held", "source_of"]

_FIT_OPTIONS = (
    "directory",
    "evaluate",
    "monitor",
    "checkpoints",
    "logging",
    "devices",
)


def check_options(given: dict[str, Any], learn: Callable[..., Any]) -> None:
    """Raise a `TypeError` unless all are options of `fit` that are the caller's."""
    for name in sorted(given.keys() - _FIT_OPTIONS):
        known = (*_FIT_OPTIONS, *inspect.signature(learn).parameters)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        msg = f"learn takes arguments of its own and {_FIT_OPTIONS}; got {name}{hint}"
        raise TypeError(msg)


def checked_encoder(encoder: Any, x: Any, a: Any) -> Any:
    """The encoder, None being the default; raises if it would be shown NaN or ∞."""
    encoder = Encoder() if encoder is None else encoder
    # What the caller's own takes, only it knows.
    if not isinstance(encoder, Encoder):
        return encoder
    tables = list(a) if isinstance(a, (list, tuple)) else [a]
    for name, table in (("x", x), *(("a", table) for table in tables)):
        if table is None or callable(table):
            continue
        values = np.asarray(table)
        if jnp.issubdtype(values.dtype, jnp.floating):
            check_finite(values, name)
    return encoder


def num_held(a: Any, num_draws: int | None) -> int:
    """How many a aligned arrays hold for an x."""
    held = len(a) if isinstance(a, (list, tuple)) else 1
    if num_draws not in (None, held):
        msg = f"num_draws must be that of a, {held}; got {num_draws}"
        raise ValueError(msg)
    return held


def source_of(
    objective: Objective, source: str | None, context: Any, num_draws: int | None
) -> str:
    """Which encoder functions are read from, of those that the loss trains."""
    source = objective.towers[0] if source is None else source
    if source not in objective.towers:
        msg = f"source must be one of {objective.towers} for this loss; got {source!r}"
        raise ValueError(msg)
    if context is None and (source == "psi" or objective.sees == "views"):
        msg = (
            "aligned arrays hold one a for an x, and no law to average over; expected a"
            ' loss of two encoders, as "svme" or "vamp", and source="phi"'
        )
        raise ValueError(msg)
    if context is None and "views" in objective.sees and num_draws == 1:
        msg = (
            "this loss takes two or more a for an x, a list of aligned arrays; got one:"
            ' expected loss="svme"'
        )
        raise ValueError(msg)
    return source


def check_mixed(context: Any, loss: Any, min_max: MinMax | None) -> None:
    """Raise unless contexts that are mixed can be learned by this loss."""
    form = form_of(loss, context)
    if form != "parts" and min_max is not None:
        msg = (
            "min_max finds the weights of a convex_combination of contexts that can"
            ' draw, learned by "kise" or "svme"; got a'
            f" {type(context).__name__} and loss={loss!r}"
        )
        raise ValueError(msg)
    is_seen = isinstance(context, ConvexCombination) and form is None
    if is_seen and not {"table", "kernel"}.intersection(context.capabilities):
        msg = (
            'contexts that draw A itself are learned together by "kise" or "svme", and'
            f" from samples of each; got loss={loss!r} and {context.capabilities}"
        )
        raise ValueError(msg)
