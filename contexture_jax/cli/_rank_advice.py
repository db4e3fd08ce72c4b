"""What to do after `contexture rank`: in words, and the commands that do it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from contexture_jax._core.words import rounded
from contexture_jax.cli._arguments import as_option
from contexture_jax.cli._rank_data import Beside
from contexture_jax.cli._rank_family import MIXED
from contexture_jax.data import DEFAULT_MISSING, Table, quoted

if TYPE_CHECKING:
    from contexture_jax.cli._rank import RankOptions
    from contexture_jax.ranking import ContextSpec, NamedContext, RankedContext

    Spec = ContextSpec | NamedContext

__all__ = ["Commands", "advice", "associations"]

_MIXTURES = ("convex", "convolve", "join")
# What mends contexts that are so; of which; and many of it.
_STEPS = {
    "too weak": ("join", "strongest", "joins"),
    "too strong": ("convolve", "weakest", "convolutions"),
}
_SIDE_BY_SIDE = (
    "; or learn each and put their functions side by side: cx.evaluation.concatenate"
)


class Commands(NamedTuple):
    """The commands that make the contexts of a run one by one.

    Attributes:
        options: of the run.
        beside: what of DATA is in no feature.
        target: the name of the target, or None.
        specs: all contexts by name.
    """

    options: RankOptions
    beside: Beside
    target: str | None
    specs: Mapping[str, Spec]

    def of(self, spec: Spec, rank: int | None = None) -> str | None:
        """The command for a context, with so many functions; None: there is none."""
        if spec.type in _MIXTURES:
            weights = spec.params.get("weights")
            parts = [self.specs[name] for name in spec.params["parts"]]
            return self.mixed(spec.type, parts, weights, rank=rank)
        if spec.type == "teacher":
            return self._of_teacher(spec.params["teacher"], rank)
        words = self._context(spec)
        if words is None:
            return None
        if spec.type == "labels":
            return self._command("spectrum", words, rank, label=spec.params["column"])
        if spec.type == "near":
            only = {spec.params["column"]}
            return self._command("spectrum", words, rank, only=only)
        verb = "train" if spec.type == "scarf" else "spectrum"
        return self._command(verb, words, rank)

    def note(self, *specs: Spec) -> str | None:
        """What a reader of a command must know, where it is not what was judged."""
        named = [name for spec in specs for name in spec.params.get("parts", ())]
        parts = [*specs, *(self.specs[name] for name in named)]
        found = []
        columns = [p.params["column"] for p in parts if p.type == "labels"]
        if columns and self.target is not None:
            found.append(
                f"its --target is the column {quoted(columns[0])}, which is the context"
                " here: the probe that it prints is of that, not of"
                f" {quoted(self.target)}"
            )
        if any(part.type == "scarf" for part in parts):
            found.append(
                "judged here by draws of rows whose numbers are told to four quantiles,"
                " where it corrupts the numbers themselves: its errors are others"
            )
        return "; ".join(found) or None

    def mixed(
        self,
        kind: str,
        parts: Sequence[Spec],
        weights: Sequence[float] | None = None,
        rank: int | None = None,
    ) -> str | None:
        """The command that learns a mixture; None where its parts have no words."""
        types = [spec.type for spec in parts]
        words = [self._context(spec) for spec in parts]
        if not set(types) <= set(MIXED) or len(set(types)) < len(types):
            return None
        # A step back from A to X takes a finite law, and a join has no list of A.
        if kind == "convolve" and types[0] == "scarf":
            return None
        how = kind
        if weights is not None:
            how += ":" + ",".join(f"{weight:g}" for weight in weights)
        how += " --loss svme" if kind == "join" else ""
        own = [(word or "").partition(" ")[2] for word in words]
        told = " ".join(filter(None, ["+".join(types), f"--mix {how}", *own]))
        labels = [spec.params["column"] for spec in parts if spec.type == "labels"]
        return self._command("train", told, rank, label=labels[0] if labels else None)

    def _context(self, spec: Spec) -> str | None:
        """What stands after --context."""
        params = spec.params
        if spec.type in ("knn", "near"):
            return f"knn --num-neighbors {params['num_neighbors']}"
        if spec.type == "rbf":
            return f"rbf --gamma {params['gamma']:.6g}"
        if spec.type == "scarf":
            return f"scarf --scarf-rate {params['rate']:g}"
        return "labels" if spec.type == "labels" else None

    def _command(
        self,
        verb: str,
        context: str,
        rank: int | None,
        *,
        label: str | None = None,
        only: set[str] | None = None,
    ) -> str:
        """A command on DATA; `label`: the column that is A; `only`: the features."""
        o, taken = self.options, {*self.options.context_column}
        taken |= {*o.teacher_column}
        drop = [*o.drop, *(n for n in self.beside.names if n in taken and n != label)]
        if only is not None:
            drop = [*o.drop, *(n for n in self.beside.names if n not in only)]
        target = self.target if label is None else label
        if label is not None and self.target is not None:
            drop.append(self.target)
        parts = [f"contexture {verb} {shlex.quote(o.data)} --context {context}"]
        parts += [as_option("--target", target)] if target is not None else []
        parts += [as_option("--drop", name) for name in drop]
        parts += self._reading()
        return " ".join([*parts, *([f"--rank {rank}"] if rank else [])])

    def _of_teacher(self, name: str, rank: int | None) -> str:
        if name not in self.options.teacher:
            only = {*self.options.teacher_column}
            return self._command("spectrum", "teacher", rank, only=only)
        words = [f"contexture spectrum {shlex.quote(name)} --context teacher"]
        return " ".join([*words, *([f"--rank {rank}"] if rank else [])])

    def _reading(self) -> list[str]:
        """How DATA is written, as it was said."""
        o = self.options
        parts = [as_option("--categorical", name) for name in o.categorical]
        for option, value in (("--separator", o.separator), ("--decimal", o.decimal)):
            parts += [as_option(option, value)] if value is not None else []
        if tuple(o.missing) != tuple(DEFAULT_MISSING):
            parts.append(as_option("--missing", ",".join(o.missing)))
        return parts


def associations(
    ranked: Sequence[RankedContext], *, mixed: bool = False
) -> Counter[str]:
    """How many contexts are how strong, by which is advised; `mixed`: of mixtures."""
    return Counter(
        "failed" if row.status == "failed" else row.association
        for row in ranked
        if (row.spec.type in _MIXTURES) == mixed
    )


def advice(
    commands: Commands,
    table: Table,
    ordered: Sequence[RankedContext],
    guess: tuple[float, float] | None = None,
) -> list[str]:
    """What to do next, in words and with what does it.

    Args:
        commands: of the run.
        table: the data.
        ordered: contexts, by τ.
        guess: the error on the target without any function, and its standard error,
            if there is a target.
    """
    done = [row for row in ordered if row.status != "failed"]
    if not done:
        return ["every context failed: see the reasons in rank.json"]
    # By errors on the target; without, by those on the columns, not by τ.
    told = sorted(done, key=_error)
    if guess is not None:
        splits = commands.options.splits
        known = [row for row in told if not _is_chance(row, *guess, splits)]
        if not known:
            return [
                f"no context surely tells the target: the least of {len(told)} errors"
                f" is {_with_spread(told[0])}, that of a guess {rounded(guess[0], 3)};"
                " judge by the columns, without --target, or give more rows or --splits"
            ]
        told = known
    mixed = [row for row in told if row.spec.type in _MIXTURES]
    alone = [row for row in told if row.spec.type not in _MIXTURES]
    is_judged = guess is not None
    found = [_mixing(commands, done, alone, is_judged=is_judged)]
    if mixed and alone and _error(mixed[0]) >= _error(alone[0]):
        found.append("no mixture is better than the best context alone")
    elif mixed:
        found.append(_best_mixture(commands, mixed[0], done))
    by = "" if table.target is not None else ", by its error on the columns"
    for place, row in enumerate(alone):
        command = commands.of(row.spec, _how_many(row))
        if command is None:
            continue
        words = "the best context that is no mixture"
        if not place:
            words += _but(row)
        else:
            best, least = alone[0].spec.name, rounded(_error(alone[0]), 3)
            words = (
                f"{words}, {best} (error {least}), has no command; the best that has"
                f" one{_but(row)} (error {rounded(_error(row), 3)})"
            )
        found.append(_noted(f"{words}{by}: {command}", commands.note(row.spec)))
        break
    if table.target is None and all(row.abstains for row in done):
        found.append("tau tells nothing here: --target judges by errors")
    return [words for words in found if words is not None]


def _noted(words: str, note: str | None) -> str:
    return words if note is None else f"{words} ({note})"


def _mixing(
    commands: Commands,
    done: Sequence[RankedContext],
    told: Sequence[RankedContext],
    *,
    is_judged: bool,
) -> str | None:
    """What to mix, by how strong most contexts are, and by what the run has tried.

    Args:
        commands: of the run.
        done: all contexts, by whose association is advised.
        told: those worth mixing, no mixtures, the least error first.
        is_judged: whether errors are of the target.
    """
    words, most = associations(done), associations(done).total() / 2
    for word, (kind, which, many) in _STEPS.items():
        parts = [r for r in told if r.spec.type in MIXED and r.association == word]
        if not is_judged:
            parts.sort(
                key=lambda row: row.chi_squared or 0.0, reverse=word == "too weak"
            )
        if words[word] <= most or not _pairs(parts, kind):
            continue
        pairs = [
            p for p in _pairs(parts, kind) if not _is_vain(p, kind, done, commands)
        ]
        if not pairs:
            return (
                f"most contexts are {word}, but this run has tried {many} of such: none"
                " is better than the best context alone"
            )
        how = commands.mixed(kind, pairs[0])
        if how is None:
            continue
        which = "best" if is_judged else which
        how = _noted(how, commands.note(*pairs[0]))
        also = _SIDE_BY_SIDE if kind == "join" else ""
        return f"most contexts are {word}: {kind} the {which} of these: {how}{also}"
    pairs = _pairs([row for row in told if row.spec.type in MIXED], "convex")
    # What was tried tells for itself.
    if not pairs or associations(done, mixed=True):
        return None
    how = commands.mixed("convex", pairs[0], (0.5, 0.5))
    note = commands.note(*pairs[0])
    return how and _noted(f"combine the best of two types: {how}", note)


def _pairs(rows: Sequence[RankedContext], kind: str) -> list[list[Spec]]:
    """All pairs of two types, those of the first rows first."""
    found = []
    for place, row in enumerate(rows):
        for other in rows[place + 1 :]:
            if other.spec.type == row.spec.type:
                continue
            two = [row.spec, other.spec]
            # `train` takes no step back from what is drawn.
            is_drawn = kind == "convolve" and two[0].type == "scarf"
            found.append(two[::-1] if is_drawn else two)
    return found


def _is_vain(
    pair: Sequence[Spec], kind: str, done: Sequence[RankedContext], commands: Commands
) -> bool:
    """Whether the run has mixed such contexts so, whatever their settings, in vain."""

    def sources(specs: Sequence[Spec]) -> set[tuple[str, Any]]:
        return {(spec.type, spec.params.get("column")) for spec in specs}

    alone = (_error(row) for row in done if row.spec.type not in _MIXTURES)
    tried = [
        _error(row)
        for row in done
        if row.spec.type == kind
        and sources(pair)
        == sources([commands.specs[n] for n in row.spec.params["parts"]])
    ]
    return bool(tried) and min(tried) >= min(alone)


def _best_mixture(
    commands: Commands, best: RankedContext, done: Sequence[RankedContext]
) -> str | None:
    command = commands.of(best.spec, _how_many(best))
    if command is None:
        return None
    errors = {row.spec.name: rounded(_error(row), 3) for row in done}
    parts = " and ".join(errors.get(name, "?") for name in best.spec.params["parts"])
    of = " on the columns" if best.probe is None else ""
    words = f"the best mixture has the error {_with_spread(best)}{of}, its parts"
    return _noted(f"{words} {parts}{_but(best)}: {command}", commands.note(best.spec))


def _but(row: RankedContext) -> str:
    """What its spectrum says against a context that its error speaks for."""
    return "" if row.association == "moderate" else f" ({row.association})"


def _is_chance(
    best: RankedContext, guess: float, deviation: float, splits: int
) -> bool:
    """Whether the least error of a run is within two standard errors of a guess."""
    if best.probe is None:
        return False
    # Of few splits the spread says little, and rows left out are few.
    spread = best.probe.validated_error_std / max(splits - 1, 1) ** 0.5
    return best.probe.validated_error + 2 * max(spread, deviation) >= guess


def _with_spread(row: RankedContext) -> str:
    told = rounded(_error(row), 3)
    if row.probe is None:
        return told
    return f"{told} ± {rounded(row.probe.validated_error_std, 2)} over the splits"


def _how_many(row: RankedContext) -> int | None:
    """That of the error which the context was chosen by; never by τ."""
    return row.column_dim if row.probe is None else row.probe.validated_dim


def _error(row: RankedContext) -> float:
    if row.probe is not None:
        return row.probe.validated_error
    return np.inf if row.least_column_error is None else row.least_column_error
