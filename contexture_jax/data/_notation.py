"""Numbers as people write them.

A notation is a decimal sign and a sign between thousands. A column is read in the one
notation that fits all of its cells; where several do and disagree, in none.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Reading", "is_number", "number", "parts_of", "read_numbers", "western"]

_MINUS = re.compile(r"^(\W{0,3})[−–﹣－](?=\W{0,3}\d)")
_ODD = str.maketrans(
    {
        **dict.fromkeys("\u00a0\u2007\u2009\u202f\u3000", " "),
        **{"’": "'", "′": "'", "″": '"', "”": '"', "٫": ".", "٪": "%"},
    }
)
_FULL_WIDTH = range(0xFF01, 0xFF5F)  # of all of ASCII from "!" on
# Signs before or behind a number that leave it one.
_CURRENCY = "$€£¥₹¢₽₩₪₺₴₦฿"
_CODES = "USD|EUR|GBP|JPY|CHF|CAD|AUD|NZD|INR|CNY|SEK|NOK|DKK|PLN|CZK|BRL|MXN|KRW"
_LETTER = rf"[%‰°{_CURRENCY}]|[^\W\d_]"
_PARTS = re.compile(
    rf"(?P<sign>[+-]?)\s?(?P<prefix>[A-Z]{{0,2}}[{_CURRENCY}]|(?:{_CODES})(?=\W|\d)|Rs\.?|)"
    r"\s?(?P<inner>[+-]?)"
    r"(?P<body>[.,]?\d(?:[\d.,٬]|'(?=\d)|\s(?=\d{3}(?!\d)))*)(?P<power>[eE][+-]?\d+)?"
    rf"\s?(?P<suffix>['\"]|(?:{_LETTER})(?:{_LETTER}|[²³/·^\d]){{0,9}}"
    rf"(?: (?:{_LETTER}){{1,9}}){{0,2}}(?=\.?$))?(?:(?<=[^\W\d_])\.)?"
)
# (decimal, thousands): plain first, so that the simplest of equal readings is named.
_NOTATIONS = tuple(
    (d, t) for t in ("", ",", ".", " ", "'", "٬") for d in ".," if d != t
)
_PLURALS = {
    ",": "commas",
    ".": "points",
    " ": "spaces",
    "'": "apostrophes",
    "٬": "Arabic commas",
}
DECIMAL_COMMAS = "decimal commas"


class Reading(NamedTuple):
    """What a column of texts is, read as numbers.

    Attributes:
        values: the number of each text, shape (k,); None if no notation fits all of
            them, or two do and disagree.
        words: what is unlike Python's numbers in how these are written.
        decimals: the decimal signs that fit; empty if none fits all texts.
        misfits: where at least half of the cells are numbers in some notation: which
            texts do not fit the notation of most, shape (k,); None otherwise.
        plain: each text as Python writes numbers, where notation was taken off.
    """

    values: np.ndarray | None = None
    words: tuple[str, ...] = ()
    decimals: frozenset[str] = frozenset()
    misfits: np.ndarray | None = None
    plain: tuple[str, ...] = ()


def number(text: str) -> float | None:
    """The number that Python reads, but for `1_000`, which nobody writes in data."""
    if "_" in text:
        return None
    try:
        # Also of " 1 ", "1e5", "inf" and "nan": callers tell these apart.
        return float(text)
    except ValueError:
        return None


def is_number(text: str) -> bool:
    """Whether a text is a number in some notation, with a unit or without."""
    if number(text) is not None:
        return True
    parts = parts_of(text)
    return parts is not None and any(_fits(parts["body"], n) for n in _NOTATIONS)


def read_numbers(
    texts: Sequence[str], weights: np.ndarray, decimal: str | None = None
) -> Reading:
    """Read texts as numbers of one notation, and of one unit or none.

    Args:
        texts: the different texts, none of them missing.
        weights: how many cells hold each, shape (k,).
        decimal: the decimal sign, where it is known.
    """
    found = [parts_of(text) for text in texts]
    parts = [p for p in found if p is not None]
    # One unit in all cells, or they measure different things.
    affixes = {(p["prefix"], p["suffix"] or "") for p in parts}
    bodies = [p["body"] for p in parts]
    fitting = []
    if len(parts) == len(texts) and len(affixes) == 1:
        # All that fit every text, so that what disagrees is seen.
        fitting = [n for n in _NOTATIONS if all(_fits(body, n) for body in bodies)]
    decimals = frozenset(d for d, _ in fitting)
    # The signs that fit are reported whether they are allowed or not.
    allowed = [n for n in fitting if decimal in (None, n[0])]
    if not allowed:
        return Reading(None, (), decimals, _misfits(texts, found, weights, decimal))
    # By the plainest notation that fits.
    plain = _plain(parts, allowed[0])
    values = np.array([float(text) for text in plain])
    # With one decimal sign all notations agree. With none known, a point that may
    # stand before decimals does, as in Python.
    for other in allowed[1:]:
        if allowed[0] != (".", "") and not np.array_equal(
            values, [float(text) for text in _plain(parts, other)]
        ):
            return Reading(None, (), decimals)
    words = _words(bodies, allowed[0], *affixes.pop())
    # The one sign that `western` leaves, as where it stands decides.
    if any(_MINUS.match(text) for text in texts):
        words.append("typographic minus signs")
    return Reading(values, tuple(words), decimals, plain=tuple(plain))


def parts_of(text: str) -> re.Match[str] | None:
    """What a number is written of: sign, prefix, inner, body, power and suffix.

    None if the text is none, whatever its notation.
    """
    found = _PARTS.fullmatch(_MINUS.sub(r"\1-", western(text)))
    # A sign before and behind a currency is no number.
    return None if found is None or (found["sign"] and found["inner"]) else found


def western(text: str) -> str:
    """A text with the digits and signs of ASCII for those of other scripts."""
    if text.isascii():
        return text

    def of(sign: str) -> str:
        if sign.isdecimal():
            return str(unicodedata.decimal(sign))
        # ASCII, shifted by a constant.
        full = ord(sign) in _FULL_WIDTH
        return chr(ord(sign) - 0xFEE0) if full else sign

    return "".join(map(of, text.translate(_ODD)))


@functools.cache
def _pattern(decimal: str, thousands: str) -> re.Pattern[str]:
    d, t = re.escape(decimal), re.escape(thousands)
    plain = rf"\d+(?:{d}\d*)?|{d}\d+"
    if not thousands:
        return re.compile(plain)
    # Groups of three, the first of one to three digits: 0,123 is no thousand.
    grouped = rf"[1-9]\d{{0,2}}(?:{t}\d{{3}})+(?:{d}\d*)?"
    # Lakhs and crores: groups of two above the last three.
    indian = rf"[1-9]\d?(?:{t}\d\d)+{t}\d{{3}}(?:{d}\d*)?"
    return re.compile(f"{plain}|{grouped}" + (f"|{indian}" if t == "," else ""))


def _fits(body: str, notation: tuple[str, str]) -> bool:
    return _pattern(*notation).fullmatch(body) is not None


def _plain(parts: Sequence[re.Match[str]], notation: tuple[str, str]) -> list[str]:
    """Numbers of a notation as Python writes them, without their units."""
    decimal, thousands = notation

    def plain(parts: re.Match[str]) -> str:
        body = parts["body"]
        if thousands:
            # In this order, as the decimal sign becomes a point.
            body = body.replace(thousands, "")
        body = body.replace(decimal, ".")
        sign = parts["sign"] or parts["inner"]
        return f"{sign}{body}{parts['power'] or ''}"

    return [plain(p) for p in parts]


def _words(
    bodies: Sequence[str], notation: tuple[str, str], prefix: str, suffix: str
) -> list[str]:
    decimal, thousands = notation
    words = []
    if decimal == "," and any("," in body for body in bodies):
        words.append(DECIMAL_COMMAS)
    if thousands and any(thousands in body for body in bodies):
        words.append(f"{_PLURALS[thousands]} between thousands")
    if prefix:
        words.append(f'"{prefix}" before each')
    if suffix:
        quote = "'" if suffix == '"' else '"'
        words.append(f"{quote}{suffix}{quote} behind each")
    return words


def _misfits(
    texts: Sequence[str],
    found: Sequence[re.Match[str] | None],
    weights: np.ndarray,
    decimal: str | None,
) -> np.ndarray | None:
    """The texts that are unlike most, where at least half of the cells are numbers."""
    # A unit in some cells is what makes them misfits.
    bare = [
        None if p is None or p["prefix"] or p["suffix"] else p["body"] for p in found
    ]
    fits = []
    for notation in _NOTATIONS:
        # What Python reads and the patterns do not: inf, nan, exponents.
        plain = notation == (".", "") and decimal != ","
        fit = [
            (body is not None and _fits(body, notation))
            or (plain and number(text) is not None)
            for text, body in zip(texts, bare, strict=True)
        ]
        fits.append(np.array(fit, dtype=bool))
    if 2 * weights[np.any(fits, axis=0)].sum() < weights.sum():
        return None
    allowed = [
        fit
        for fit, (d, _) in zip(fits, _NOTATIONS, strict=True)
        if decimal in (None, d)
    ]
    # The notation of most cells: those outside it are the few to correct.
    return ~max(allowed, key=lambda fit: int(weights[fit].sum()))
