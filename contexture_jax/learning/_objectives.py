"""The losses of `cx.losses` by name, and what each is shown of a pair (x, a)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from contexture_jax import losses
from contexture_jax._core.types import Array, summary
from contexture_jax.contexts import Composed, ConvexCombination

__all__ = ["OBJECTIVES", "Objective", "embeddings_of", "form_of", "objective_of"]

# Of the mean variance: in a batch, directions of less are noise that whitening would
# blow up (theory.md §7.3).
_RIDGE = 0.1
_LARGEST_WIDTH = 512


class Objective(NamedTuple):
    """A loss, and what it is shown.

    Attributes:
        loss: `loss(*embeddings, axis_name=...)`, as in `cx.losses`.
        sees: what the embeddings of a batch are:
            "views": Ψ(a), Ψ(a⁺) of two draws given one x, by one encoder;
            "towers": Φ(x), Ψ(a) by two;
            "towers and views": Φ(x), Ψ(a), Ψ(a⁺) and so on by two, of all draws;
            "walk": Φ(x), Φ(a) by one, where A is a row as X is;
            "kernel": Φ(x) and the dual kernel of the batch;
            "views of parts", "towers and views of parts": as those without "of parts",
            with Ψ_j(a_j) for each context of a mixture;
            "recursion", "towers and recursion": Φ(x), the kernels of a convolution, and
            Ψ(a), Ψ(a⁺) and so on of the draws after them;
            "values": Φ(x) and a, "classes": the same, a being a number;
            "inputs": Ψ(a) and x.
        ordered: whether columns come out in order, so that no more are learned than
            are asked for.
        rate: the highest learning rate, where no optimizer is given.
        num_waves: of the encoder of X, where an `Encoder` does not say.
    """

    loss: Callable[..., Any]
    sees: str
    ordered: bool = False
    rate: float = 1e-3
    num_waves: int = 0

    @property
    def num_draws(self) -> int:
        """How many draws of a it takes."""
        # Φ is fitted to the mean of the draws, whose noise is what keeps it from more.
        if self.sees in ("kernel", "recursion"):
            return 0
        if "views" not in self.sees and "recursion" not in self.sees:
            return 1
        return 4 if "towers" in self.sees else 2

    @property
    def towers(self) -> tuple[str, ...]:
        """The encoders that it trains: "phi" of X, "psi" of A."""
        if "towers" in self.sees:
            return "phi", "psi"
        return ("psi",) if "views" in self.sees or self.sees == "inputs" else ("phi",)

    def width(self, rank: int, batch_size: int, num_rows: int | None = None) -> int:
        """How wide its embeddings are where nobody says.

        Four times the rank, at most 512 and half a batch, or half of so many rows; the
        rank if it is ordered, or if that is more.
        """
        # Wider than asked for: the leading Ritz values of a larger span are no smaller
        # (theory.md §2.6). But a covariance of as many columns as rows is noise, which
        # whitening blows up (§7.3).
        seen = batch_size if num_rows is None else min(batch_size, num_rows)
        wide = min(4 * rank, _LARGEST_WIDTH, seen // 2)
        return rank if self.ordered else max(rank, wide)


def _whitened(loss: Callable[..., Array]) -> Callable[..., Array]:
    return functools.partial(loss, constraint=losses.Whiten(_RIDGE))


# T averages away much of what Ψ gets wrong; Φ is read as it is, and takes longest to
# fit (theory.md §7.2). At this rate more layers do worse on the zoo; waves, which reach
# short distances from the start, do better everywhere.
_OF_PHI: dict[str, Any] = {"rate": 3e-3, "num_waves": 256}
# From several draws of A; of pairs that hold one a for an x, from that.
_SVME = Objective(
    functools.partial(losses.svme_views, ridge=_RIDGE),
    "towers and views",
    **_OF_PHI,
)
_SVME_OF_PAIRS = Objective(
    functools.partial(_whitened(losses.svme), solved=True), "towers", **_OF_PHI
)
OBJECTIVES = {
    "kise": Objective(_whitened(losses.kise_pairs), "views"),
    "spectral_contrastive": Objective(losses.spectral_contrastive, "views"),
    "non_contrastive": Objective(_whitened(losses.non_contrastive), "views"),
    "spectral_contrastive_published": Objective(
        losses.spectral_contrastive_published, "views"
    ),
    "vicreg": Objective(losses.vicreg, "views"),
    "barlow_twins": Objective(losses.barlow_twins, "views"),
    "simclr": Objective(losses.simclr, "views"),
    "lora_evd": Objective(losses.lora_evd, "views"),
    "neural_ef": Objective(losses.neural_ef, "views", ordered=True),
    "neural_eigenmaps": Objective(losses.neural_eigenmaps, "views", ordered=True),
    "orbital_minimisation": Objective(losses.orbital_minimisation, "views"),
    "svme": _SVME,
    "svme_views": _SVME,
    "lora_svd": Objective(losses.lora_svd, "towers"),
    "vamp": Objective(functools.partial(losses.vamp, ridge=_RIDGE), "towers"),
    "joint_nesting": Objective(losses.joint_nesting, "towers", ordered=True),
    "sequential_nesting": Objective(losses.sequential_nesting, "towers", ordered=True),
    "info_nce": Objective(losses.info_nce, "towers"),
    "clip": Objective(losses.clip, "towers"),
    "lora_kernel": Objective(losses.lora_kernel, "kernel"),
    "graph": Objective(_whitened(losses.graph), "walk"),
    "squared_error": Objective(losses.squared_error, "values"),
    "class_balanced": Objective(losses.class_balanced, "classes"),
    "reconstruction": Objective(losses.reconstruction, "inputs"),
}
_OF_KERNEL = Objective(_whitened(losses.kise), "kernel")


def _kise_of_recursion(phi: Array, kernels: Any, *, axis_name: Any = None) -> Array:
    *steps, last = kernels
    return losses.kise(
        phi,
        last,
        constraint=losses.Whiten(_RIDGE),
        unbiased=True,
        kernels=steps,
        axis_name=axis_name,
    )


def _svme_of_recursion(
    phi: Array, kernels: Any, *psi: Array, axis_name: Any = None
) -> Array:
    return losses.svme_views(
        phi, *psi, ridge=_RIDGE, kernels=kernels, axis_name=axis_name
    )


# What is learned by more than pairs: of a mixture, and of a convolution with steps that
# cannot draw.
_BY_FORM = {
    "parts": {
        "kise": Objective(
            functools.partial(losses.kise_mixed, ridge=_RIDGE), "views of parts"
        ),
        "svme": Objective(
            functools.partial(losses.svme_mixed, ridge=_RIDGE),
            "towers and views of parts",
            **_OF_PHI,
        ),
    },
    "recursion": {
        "kise": Objective(_kise_of_recursion, "recursion"),
        "svme": Objective(_svme_of_recursion, "towers and recursion", **_OF_PHI),
    },
}
_OTHERS = {
    "cross_entropy": "has a head of its own",
    "masked_reconstruction": "has a decoder of its own",
    "ncp": "has singular values of its own to learn",
    "vamp_e": "has a coupling of its own to learn",
    **dict.fromkeys(
        (
            "chi_squared_dro",
            "cvar",
            "group_dro",
            "group_weighted",
            "importance_weighted",
        ),
        "reduces losses of rows, and learns no context",
    ),
    **dict.fromkeys(
        ("context_entropy", "context_use"),
        "regularises an encoder that reads a context, beside another loss",
    ),
}


def form_of(loss: Any, context: Any) -> str | None:
    """What a loss is shown of a context beyond pairs: "parts", "recursion", or None."""
    if not isinstance(loss, str) or loss not in ("kise", "svme", "svme_views"):
        return None
    can_sample = "sample" in getattr(context, "capabilities", ())
    if isinstance(context, ConvexCombination) and can_sample:
        return "parts"
    if isinstance(context, Composed) and not can_sample and context.has_recursion:
        return "recursion"
    return None


def objective_of(
    loss: Any, context: Any = None, *, num_draws: int | None = None
) -> Objective:
    """The objective of a name, for what can be drawn.

    KISE is from the kernel of a context without samples, SVME from single pairs where
    `num_draws` is 1; both are of all contexts of a mixture, and of a convolution by its
    recursion where it cannot draw (`form_of`).

    Raises:
        TypeError: if `loss` is no name and no `Objective`.
        ValueError: if it is no loss that can be trained from pairs alone, or takes
            samples where there are none.
    """
    form = form_of(loss, context)
    if form is not None:
        found = _BY_FORM[form][loss.removesuffix("_views")]
        _check_form(found, form, context, num_draws)
        return found
    can_sample = context is None or "sample" in context.capabilities
    if isinstance(loss, Objective):
        found = loss
    elif not isinstance(loss, str):
        msg = f"loss must be a name or a cx.learning.Objective; got {summary(loss)}"
        raise TypeError(msg)
    elif loss in OBJECTIVES:
        # More draws give less variance where there are some (theory.md §7.2).
        is_of_pairs = loss == "svme" and num_draws == 1
        found = _SVME_OF_PAIRS if is_of_pairs else OBJECTIVES[loss]
    elif loss in _OTHERS:
        msg = f"loss {loss} {_OTHERS[loss]}: write the step with cx.training.make_step"
        raise ValueError(msg)
    else:
        msg = f"loss must be one of {', '.join(OBJECTIVES)}; got {summary(loss)}"
        raise ValueError(msg)
    if can_sample or found.sees == "kernel":
        return found
    if loss != "kise":
        msg = (
            'loss must be "kise" or "lora_kernel" for a context without `sample`; got'
            f" {loss!r}"
        )
        raise ValueError(msg)
    return _OF_KERNEL


def _check_form(found: Objective, form: str, context: Any, draws: int | None) -> None:
    # Of a single draw no Ψ could be learned by itself.
    if draws is not None and draws < 2 and found.num_draws:
        msg = f"num_draws must be at least 2 for this loss and context; got {draws}"
        raise ValueError(msg)
    last = context.contexts[-1]
    needs = "sample" if found.num_draws else "kernel"
    if form == "recursion" and needs not in last.capabilities:
        other = "kise" if needs == "sample" else "svme"
        msg = (
            f"this loss takes the `{needs}` of the last context of a convolution, which"
            f' a {last._kind} has not; expected loss="{other}"'
        )
        raise ValueError(msg)


def embeddings_of(
    sees: str, applies: dict[str, Any]
) -> Callable[[Any, Any, Any], tuple[Any, ...]]:
    """The function `encode(params, batch, key)` of an objective, for `make_step`.

    Several draws of a for one x are several pairs: rows of x are repeated, so that a
    row's pairs stay together however the batch is cut.
    """

    def embed(name: str, params: Any, inputs: Any) -> Any:
        return applies[name](params[name], inputs)

    def encode(params: Any, batch: Any, key: Any) -> tuple[Any, ...]:
        del key
        if sees in ("kernel", "recursion"):
            return embed("phi", params, batch.x), batch.kernel
        if "views" in sees or sees == "inputs" or "towers" in sees:
            drawn = [embed("psi", params, a) for a in batch.a]
        else:
            drawn = list(batch.a)
            if sees == "walk":
                # A is a row as X is, so that one encoder serves both.
                drawn = [embed("phi", params, a) for a in drawn]
        if sees == "views of parts":
            return (tuple(drawn),)
        if sees == "views":
            # Each two draws once: k (k − 1) / 2 pairs of a row, for k embeddings of it.
            pairs = [(i, j) for j in range(len(drawn)) for i in range(j)]
            return _rows([drawn[i] for i, _ in pairs]), _rows(
                [drawn[j] for _, j in pairs]
            )
        if sees == "inputs":
            return _rows(drawn), _rows([batch.x] * len(drawn))
        phi = embed("phi", params, batch.x)
        if sees == "towers and views of parts":
            return phi, tuple(drawn)
        if sees == "towers and recursion":
            return phi, batch.kernel, *drawn
        # As they are, without pairing: the loss takes all of a row together.
        if sees == "towers and views":
            return phi, *drawn
        return _rows([phi] * len(drawn)), _rows(drawn)

    return encode


def _rows(blocks: list[Array]) -> Array:
    """Blocks of shape (b, …) as one of (b k, …), those of a row together."""
    if len(blocks) == 1:
        return blocks[0]
    # (b, k, …): after the reshape row i is in places i k to i k + k − 1, which is where
    # a device that has row i has its pairs too.
    stacked = jnp.stack(blocks, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])
