"""What is like a number but none, and numbers in notations that are not read."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np

from contexture_jax.data._notation import parts_of, western

__all__ = ["looks_like", "not_quite_numbers"]

_DAY = r"\d{1,2}"
_WORD = r"[^\W\d_]{3,10}"
_NUM = r"\d[\d.,]*"
_CLOCK = r"\d+:\d\d(?::\d\d)?(?:[.,]\d+)?"
_UNIT_OF_TIME = (
    r"(?:y(?:(?:ea)?rs?)?|mo(?:nth)?s?|w(?:(?:ee)?ks?)?|d(?:ays?)?|h(?:(?:ou)?rs?)?"
    r"|m(?:in(?:ute)?s?)?|s(?:ec(?:ond)?s?)?|ms|[uµμ]s|ns)\.?"
)
_FOOT = r"(?:'|ft\.?|foot|feet)"
_INCH = r"(?:\"|''|in\.?|inch|inches)"
_ABOUT = (
    r"about|around|approx\.?|approximately|circa|ca?\.|roughly|over|under|up to|above"
    r"|below|less than|more than|at least|at most|min\.?|max\.?"
)
_POWER = r"(?:[eE][+-]?\d+)"
_PER_TEN = r"(?: ?[x×*·] ?10\W?\d.*|[dD][+-]?\d+)"
# The first that at least half of the cells are gives its name; of one kind or another
# is what matters, which of them only to whoever reads the message.
_LOOKS = {
    "dates": (
        rf"\d{{4}}[-/.]{_DAY}[-/.]{_DAY}(?:[T ].*)?",
        rf"{_DAY}[-/.]{_DAY}[-/.]\d{{2}}(?:\d{{2}})?(?: .*)?",
        rf"(?:{_WORD}\.?,? )?{_DAY}[ -.]{{0,2}}(?:(?:de|d') ?)?[^\W\d_]{{3,10}}\.?"
        r"(?: de)?[ ,-]{0,2}\d{2}(?:\d{2})?(?: .*)?",
        rf"(?:{_WORD}\.?,? )?[^\W\d_]{{3,9}}\.? {_DAY},? \d{{4}}(?: .*)?",
        r"\d{4}[-/]\d{1,2}|[^\W\d_]{3,9}\.?[ -]\d{4}|\d{4}-? ?Q[1-4]|Q[1-4][ -/]?\d{4}",
        r"\d{4}-?W\d\d(?:-?\d)?",
        r"\d{4} ?年.*",
    ),
    "times": (
        rf"{_CLOCK}(?: ?[AaPp]\.?[Mm]\.?)?(?:Z|[+-]\d\d(?::?\d\d)?| [A-Z]{{3,4}})?",
        rf"{_DAY} ?[AaPp]\.?[Mm]\.?",
    ),
    "durations": (
        rf"[+-]?\d+ days?,? [+-]?{_CLOCK}",
        rf"[+-]?(?:{_NUM} ?{_UNIT_OF_TIME}(?:,|,? and)? ?)+(?:\d+)?",
        r"[+-]?P(?=.*\d)(?:[\d.,]+[YMWD])*(?:T(?:[\d.,]+[HMS])*)?",
        r"\d+:\d\d:\d\d:\d\d",
    ),
    "telephone numbers": (
        r"(?:tel:)?\+\d[\d ().\-/]{6,}",
        r"(?:\+?\d{1,3}[ .-]?)?\(\d{2,5}\)[ -]?\d[\d -.]{4,}(?: ?x\d+)?",
        r"(?:1[-. ])?\d{3}[-. ]\d{3}[-. ]\d{4}(?: ?x\d+)?|\d{3}-\d{4}",
    ),
    "fractions": (
        rf"[+-]?(?:\d+[ -])?{_NUM} ?[/⁄] ?{_NUM}",
        r"[+-]?\d*[½⅓¼⅔¾⅛⅜⅝⅞]",
        r"\d+ (?:in|of|out of) \d+",
    ),
    "coordinates": (
        r"(?:[NSEWO] ?)?[+-]?\d[\d.]* ?[°º] ?(?:\d.*|[NSEWO])",
        r"[NS] ?\d[\d.]*,? ?[EW](?: ?\d[\d.]*)?",
        r"\W?[+-]?\d+\.\d+ ?[NSns]?[,; ] ?[+-]?\d+\.\d+ ?[EWOewo]?\W?",
    ),
    "ranges": (r"\W?\d[\d.,]* ?(?:-|–|—|to|\.\.|…) ?\W?\d[\d.,]*\W?",),
    "numbers in parentheses": (r"[+-]?\(\W?\d[\d.,]*\)",),
    "numbers in quotation marks": (r"=?[\"'“‘«„`]+\W?\d[\d.,]*[\"'”’»“`]*",),
    "bounds": (rf"(?:[<>≤≥~≈±]=?|{_ABOUT}) ?=? ?\d[\d.,]*.*",),
    "numbers with underscores": (r"[+-]?\d+(?:_\d+)+(?:\.\d*)?",),
    "numbers with a sign behind": (r"\d[\d.,]*[+-]",),
    "numbers as powers of ten": (rf"[+-]?{_NUM}{_PER_TEN}",),
    "lengths in feet and inches": (
        rf"{_NUM} ?{_FOOT},? ?-? ?{_NUM}(?: ?\d/\d)? ?{_INCH}?",
        rf"{_NUM} ?(?:{_FOOT}|{_INCH})",
    ),
    "complex numbers": (
        rf"\(?[+-]?(?:{_NUM}{_POWER}? ?[+-] ?)?(?:{_NUM})?{_POWER}?[*]?[ij]\)?",
    ),
    "hexadecimal, octal or binary numbers": (
        r"[+-]?0[xX][\da-fA-F]+|[+-]?0[bo]\d+|\\x[\da-fA-F]+",
    ),
    "numbers with an uncertainty": (
        rf"[+-]?{_NUM}[^\d]{{0,4}}(?:±|\+/-|\+-|\( ?±) ?{_NUM}.*",
    ),
    "ratios": (rf"{_NUM}(?: ?: ?{_NUM})+",),
    "sizes of several numbers": (rf"{_NUM}(?:[^\W\d_]*? ?[x×*X] ?{_NUM})+.*",),
    "network addresses": (
        r"\d{1,3}(?:\.\d{1,3}){3}(?:[:/]\d+)?",
        r"(?:[\da-fA-F]{2}[:-]){5}[\da-fA-F]{2}",
        r"(?=.*:.*:)[\da-fA-F:]+(?:/\d+)?",
    ),
    "version numbers": (
        r"[vV]?\d+(?:\.\d+){2,}\.?(?:[-+. ]?[^\W_].*)?|[vV]\d+(?:\.\d+)+",
    ),
    "numbers with marks": (
        r"(?:[#№]|[Nn][ro]\.|[Nn]º) ?\d[\d.,]*",
        rf"[+-]?{_NUM} ?(?:[*†‡#!?]+|\[\w+\]|\(\w+[%°]?\)|/ ?[^\W\d_]{{1,9}})",
    ),
}
_LOOKS_COMPILED = {
    look: re.compile("|".join(f"(?:{p})" for p in patterns))
    for look, patterns in _LOOKS.items()
}
# Numbers to whoever reads them, dates to who wrote them.
_MONTH, _YEAR = r"(?:0[1-9]|1[0-2])", r"(?:1[89]|20)\d\d"
_AS_NUMBERS = {
    "years with months": re.compile(
        rf"{_YEAR}[.,](?:{_MONTH}|[1-9])|(?:{_MONTH}|[1-9])[.,]{_YEAR}|{_YEAR}{_MONTH}"
    ),
    "dates": re.compile(rf"{_YEAR}{_MONTH}(?:0[1-9]|[12]\d|3[01])"),
}
_FRACTION = re.compile(rf"{_YEAR}[.,][1-9]")
_IDENTIFIER = re.compile(r"[\da-fA-F-]{8,}")
_RUNS = re.compile(r"\d+|[^\W\d_]+")
_NAME = re.compile(r"[A-Z][^\W\d_]{4,}|[A-Z][^\W\d_]+ .*|.* [A-Z][^\W\d_]{2,}")
_LONGEST = 80  # characters
_LONGEST_UNIT = 3  # letters


def looks_like(texts: Sequence[str], weights: np.ndarray) -> str | None:
    """What at least half of the cells are that are like numbers but none, or None."""
    # Long texts are prose, and patterns slow on them.
    texts = [western(text) if len(text) <= _LONGEST else "" for text in texts]

    def are_most(cells: np.ndarray) -> bool:
        return bool(2 * weights[cells].sum() >= weights.sum())

    # Without a digit it is like no number: most text columns end here.
    if not are_most(np.array([any(map(str.isnumeric, text)) for text in texts])):
        return None
    numeric = np.zeros(len(texts), dtype=bool)
    for look, pattern in _LOOKS_COMPILED.items():
        matched = np.array([pattern.fullmatch(text) is not None for text in texts])
        if are_most(matched):
            return look
        # Kinds that are each too rare add up below.
        numeric |= matched
    found = [parts_of(text) for text in texts]
    # A number with a unit is read, if all have the same.
    units = ["" if p is None else p["prefix"] + (p["suffix"] or "") for p in found]
    matched = np.array(
        [
            p is not None and _NAME.fullmatch(unit) is None
            for p, unit in zip(found, units, strict=True)
        ]
    )
    if are_most(matched):
        several = len({units[i] for i in np.flatnonzero(matched)}) > 1
        alike = "numbers that are not all written alike"
        return "numbers of several units" if several else alike
    matched |= numeric | np.array([_is_mostly_digits(text) for text in texts])
    return "numbers in a notation that is not read" if are_most(matched) else None


def not_quite_numbers(texts: Iterator[str]) -> str | None:
    """What numbers are, as they are written, to whoever wrote them, or None.

    Args:
        texts: those that were read as numbers, as many as are looked at.
    """
    # The first tells which kind it may be; the others are looked at only then.
    first = list(itertools.islice(texts, 1))
    for what, pattern in _AS_NUMBERS.items():
        if first and pattern.fullmatch(first[0]):
            shown = [*first, *texts]
            if not all(map(pattern.fullmatch, shown)):
                return None
            # 2019.5 is a year and a half more often than May 2019.
            return None if all(map(_FRACTION.fullmatch, shown)) else what
    return None


def _is_mostly_digits(text: str) -> bool:
    """Whether a text is digits and signs, and letters no more than units take.

    What begins with a letter is a name with a number, and so is what digits and the
    letters of hexadecimals are mixed in at random.
    """
    runs = _RUNS.findall(text)
    if not runs or not runs[0].isdecimal() or _is_identifier(text):
        return False
    letters = [len(run) for run in runs if not run.isdecimal()]
    num_digits = sum(len(run) for run in runs if run.isdecimal())
    return max(letters, default=0) <= _LONGEST_UNIT and 2 * num_digits >= sum(letters)


def _is_identifier(text: str) -> bool:
    return _IDENTIFIER.fullmatch(text) is not None and any(map(str.isalpha, text))
