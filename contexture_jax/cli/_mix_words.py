"""Several contexts as one: how options, `--mix` and a file say it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from contexture_jax.cli._arguments import (
    CONTEXTS,
    add_context_options,
    count,
    gamma,
    not_negative,
)
from contexture_jax.data import counted, quoted_path

__all__ = [
    "DRAWN",
    "MIXABLE",
    "MIX_FILE",
    "OWNED",
    "Mix",
    "Part",
    "add_mixed_context_options",
    "mix_of_file",
]

DRAWN = "scarf"
_NAMES = (*CONTEXTS, DRAWN)
# Of these DATA are counts, whose rows have no features.
MIXABLE = tuple(name for name in _NAMES if name not in ("joint", "graph"))
_MIXES = ("convex", "mixture", "convolve", "compose", "join")
# What has a table and can be drawn from: a part like any other.
_INSIDE, _MIXES_INSIDE = ("knn", "rbf", "labels"), _MIXES[:-1]
_SUM_TOLERANCE = 1e-6  # of weights, as the library has it
MIX_FILE = """\
--mix FILE.json says the contexts itself, each with its own options, so that one kind
may come twice, and mixtures (of knn, rbf and labels, but no join) may be among them:

  {"mix": "convex", "weights": [0.3, 0.7], "contexts": [
     {"context": "knn", "num_neighbors": 10},
     {"mix": "convolve", "contexts": [{"context": "rbf", "gamma": "auto"}, "labels"]}]}

Beside a context may stand num_neighbors (knn), gamma (rbf) or scarf_rate (scarf). mix
is convex without a word, and weights are equal; "minmax" in their place finds those of
convex.
"""


class Part(NamedTuple):
    """One context; options that are None are worked out from the data.

    Attributes:
        context: its name.
        num_neighbors: of knn.
        gamma: of rbf.
        scarf_rate: of scarf, how likely a feature is replaced.
    """

    context: str
    num_neighbors: int | None = None
    gamma: float | Literal["auto"] | None = None
    scarf_rate: float | None = None


class Mix(NamedTuple):
    """Several contexts as one.

    Attributes:
        mix: how: "convex", "mixture", "convolve", "compose" or "join".
        weights: of the contexts; "minmax": found by training; None: equal, or none.
        contexts: which; none: those of `--context`.
    """

    mix: str = "convex"
    weights: tuple[float, ...] | Literal["minmax"] | None = None
    contexts: tuple[Part | Mix, ...] = ()


def add_mixed_context_options(group: Any) -> None:
    """Add contexts, their parameters, and how several are one."""
    add_context_options(
        group,
        type=_several,
        metavar="NAME[+NAME…]",
        help=f"{', '.join(_NAMES)}, or several joined by +, as knn+scarf; default:"
        " %(default)s",
    )
    group.add_argument(
        "--mix",
        type=_mix,
        metavar="KIND[:W,W…]|FILE",
        help="how several contexts are one: convex (one at random, and which one is"
        " seen), mixture (not seen), convolve (a step of the first, then the next),"
        " compose (a chain) or join (all at once); after a colon the weights of convex"
        " or mixture, as convex:0.5,0.5, or convex:minmax, which finds those that are"
        " worst for an embedding of the width --output; or a"
        " FILE.json that says the contexts too, see above; default: convex, with equal"
        " weights",
    )
    group.add_argument(
        "--scarf-rate",
        type=_share,
        metavar="RATE",
        help="of scarf, how likely a feature is replaced; default: 0.3",
    )


def _share(text: str) -> float:
    value = not_negative(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1; got {text}")
    return value


# The options of a context: whose each is, and what it takes.
OWNED: dict[str, tuple[str, Callable[[str], Any]]] = {
    "num_neighbors": ("knn", count),
    "gamma": ("rbf", gamma),
    "scarf_rate": (DRAWN, _share),
}


def _several(text: str) -> str:
    for name in text.split("+"):
        if name not in _NAMES:
            raise argparse.ArgumentTypeError(
                f"expected one of {', '.join(_NAMES)}, or several joined by +, as"
                f" knn+scarf; got {name!r}"
            )
    return text


def _mix(text: str) -> Mix:
    kind, colon, rest = text.partition(":")
    if kind in _MIXES:
        return Mix(kind, _weights(kind, rest.split(",")) if colon else None)
    if not (text.endswith(".json") or Path(text).is_file()):
        raise argparse.ArgumentTypeError(
            f"expected one of {', '.join(_MIXES)}, as convex:0.5,0.5 or convex:minmax,"
            f" or a file that ends with .json; got {kind!r}"
        )
    return mix_of_file(text)


def mix_of_file(path: str) -> Mix:
    """The mixture that a file of JSON says.

    Raises:
        ArgumentTypeError: if it cannot be read, or says none.
    """
    with _at(quoted_path(path)):
        return _as_mix(_read(Path(path)), _MIXES, MIXABLE)


def _weights(kind: str, texts: Sequence[str]) -> tuple[float, ...] | Literal["minmax"]:
    told = ",".join(texts)
    if kind not in ("convex", "mixture"):
        raise argparse.ArgumentTypeError(f"{kind} takes no weights; got {told!r}")
    if (kind, told) == ("convex", "minmax"):
        return "minmax"
    if told in ("", "minmax"):
        also = ", or minmax" if kind == "convex" else "; minmax is of convex"
        raise argparse.ArgumentTypeError(
            f"expected weights that sum to 1, as 0.5,0.5{also}; got {told!r}"
        )
    try:
        weights = tuple(map(not_negative, texts))
    except argparse.ArgumentTypeError as error:
        also = ", or minmax" if kind == "convex" else ""
        raise argparse.ArgumentTypeError(
            f"expected weights that sum to 1, as 0.5,0.5{also}; got {told!r}: {error}"
        ) from None
    if abs(sum(weights) - 1) > _SUM_TOLERANCE:
        raise argparse.ArgumentTypeError(
            "expected weights that sum to 1, one for each context, as 0.5,0.5;"
            f" got {told!r}, with a sum of {sum(weights):.6g}"
        )
    return weights


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except OSError as error:
        why = error.strerror or str(error)
    # No UTF-8, no JSON, or nested without end.
    except (ValueError, RecursionError) as error:
        why = f"no JSON: {error}"
    raise argparse.ArgumentTypeError(f"cannot be read: {why}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"a key stands twice among {', '.join(keys)}")
    return dict(pairs)


@contextmanager
def _at(place: str) -> Iterator[None]:
    """What is raised inside says where in the file."""
    try:
        yield
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{place}: {error}") from None


def _as_mix(held: Any, kinds: Sequence[str], names: Sequence[str]) -> Mix:
    """A mixture as JSON has it, of one of the kinds and contexts of these names."""
    _check_keys(held, ("mix", "weights", "contexts"))
    kind, parts = held.get("mix", "convex"), held.get("contexts")
    if kind not in kinds:
        raise argparse.ArgumentTypeError(
            f"mix: expected one of {', '.join(kinds)}; got {_shown(kind)}"
        )
    if not isinstance(parts, list) or len(parts) < 2:
        raise argparse.ArgumentTypeError(
            f"contexts: expected a list of two or more; got {_shown(parts)}"
        )
    found = []
    for number, part in enumerate(parts):
        with _at(f"contexts[{number}]"):
            if isinstance(part, dict) and {"mix", "contexts"} & part.keys():
                found.append(_as_mix(part, _MIXES_INSIDE, _INSIDE))
            else:
                found.append(_as_part(part, names))
    with _at("weights"):
        weights = _as_weights(kind, held.get("weights"), len(parts))
        if weights == "minmax" and kinds is not _MIXES:
            raise argparse.ArgumentTypeError(
                "minmax is of the outermost mixture; expected numbers"
            )
    return Mix(kind, weights, tuple(found))


def _as_weights(
    kind: str, held: Any, num_contexts: int
) -> tuple[float, ...] | Literal["minmax"] | None:
    if held is None:
        return None
    if held != "minmax" and not isinstance(held, list):
        raise argparse.ArgumentTypeError(
            f'expected a list of numbers, or "minmax" of convex; got {_shown(held)}'
        )
    texts = ["minmax"] if held == "minmax" else list(map(json.dumps, held))
    weights = _weights(kind, texts)
    if weights != "minmax" and len(weights) != num_contexts:
        raise argparse.ArgumentTypeError(
            f"{counted(len(weights), 'weight')} for {num_contexts} contexts; expected"
            " one for each"
        )
    return weights


def _as_part(held: Any, names: Sequence[str]) -> Part:
    held = {"context": held} if isinstance(held, str) else held
    name: Any = held.get("context") if isinstance(held, dict) else held
    if name not in names:
        raise argparse.ArgumentTypeError(
            f"context: expected one of {', '.join(names)}; got {_shown(name)}"
        )
    own = {option: kind for option, (owner, kind) in OWNED.items() if owner == name}
    _check_keys(held, ("context", *own))
    given = {}
    for option, kind in own.items():
        if option in held:
            value = held[option]
            with _at(option):
                # With its quotation marks, which no number has.
                given[option] = kind(value if value == "auto" else json.dumps(value))
    return Part(name, **given)


def _check_keys(held: Any, known: Sequence[str]) -> None:
    if not isinstance(held, dict):
        raise argparse.ArgumentTypeError(
            f"expected an object with {', '.join(known)}; got {_shown(held)}"
        )
    unknown = [key for key in held if key not in known]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{unknown[0]!r} is no key here; expected {', '.join(known)}"
        )


def _shown(value: Any, longest: int = 40) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= longest else text[: longest - 1] + "…"
