"""What is left of a name, a date and a number once the ways of writing them are taken away."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Final

from anyascii import anyascii

from models.patient import PersonName

_UMLAUTS: Final = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa"})
# One sound in several romanisations (Mueller, Muller; Shchukin, Schtschukin; Papadopoulos,
# Papadopoylos; Iwanow, Ivanov). Order matters: the longest first.
_SPELLINGS: Final = (
    *(("schtsch", "sh"), ("shch", "sh"), ("tsch", "ch"), ("sch", "sh"), ("zh", "j"), ("kh", "h")),
    *(("ph", "f"), ("th", "t"), ("ck", "k"), ("ou", "u"), ("oy", "u"), ("ae", "a"), ("oe", "o")),
    *(("ue", "u"), ("aa", "a"), ("w", "v"), ("y", "i"), ("ii", "i")),
)
_SOUNDS: Final = {
    **dict.fromkeys("aeiou", "0"),
    **dict.fromkeys("bp", "1"),
    **dict.fromkeys("fv", "2"),
    **dict.fromkeys("cgkqxj", "3"),
    **dict.fromkeys("sz", "4"),
    **dict.fromkeys("dt", "5"),
    **dict.fromkeys("l", "6"),
    **dict.fromkeys("mn", "7"),
    **dict.fromkeys("r", "8"),
}
_PLACEHOLDERS: Final = frozenset(
    {
        *("unknown", "unbekannt", "inconnu", "desconocido", "unidentified", "notknown", "nn"),
        *("doe", "trauma", "emergency", "temporary", "anonymous", "anonym", "noname", "xx", "xxx"),
    }
)
_NEWBORN: Final = re.compile(
    r"^(?:new ?born|baby|infant|neonate|nb|bb|bg|bebe|saeugling)\b"
    r"(?: (?:of|boy|girl|male|female|son|daughter|junge|maedchen))*"
    r"(?: (?P<tag>[a-d]|[1-4]|i{1,3})\b)?"
)
_SEPARATORS: Final = re.compile(r"[\s\-_./]+")


@lru_cache(maxsize=65536)
def fold(text: str) -> str:
    """Return a name in small unaccented Latin letters, words apart.

    ``Müller-Lüdenscheidt`` becomes ``mueller luedenscheidt``, ``Иванов`` becomes ``ivanov``.
    """
    composed = unicodedata.normalize("NFKC", text).casefold().translate(_UMLAUTS)
    letters = anyascii(composed).lower()
    return " ".join(re.sub(r"[^a-z0-9 ]", "", letters.replace("-", " ")).split())


@lru_cache(maxsize=65536)
def spelling(folded: str) -> str:
    """Return a folded name as one word, in which transliterations of one sound agree."""
    word = folded.replace(" ", "")
    for written, sound in _SPELLINGS:
        word = word.replace(written, sound)
    return re.sub(r"(.)\1+", r"\1", word)


@lru_cache(maxsize=65536)
def phonetic(folded: str) -> str:
    """Return a key that names share which sound alike: consonant classes, vowels only in front."""
    codes = [_SOUNDS.get(letter, "") for letter in spelling(folded)]
    kept: list[str] = []
    before = ""
    for position, code in enumerate(codes):
        if code and code != before and (code != "0" or position == 0):
            kept.append(code)
        before = code or before
    return "".join(kept)[:6]


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A person's name as it is compared.

    Parameters
    ----------
    family, given, middle : str
        Folded; empty where missing or a placeholder.
    newborn : bool
        The given name is "BABY OF", "Baby Girl A" and the like.
    tag : str
        Which of several newborns: ``a`` of "Baby Girl A".
    unknown : bool
        "Doe", "Unknown", a trauma name: says nothing of who it is.
    """

    family: str
    given: str
    middle: str = ""
    newborn: bool = False
    tag: str = ""
    unknown: bool = False


def read_name(name: PersonName) -> Name:
    """Return `name` as it is compared, placeholders recognised."""
    family, given = fold(name.family), fold(name.given)
    middle = fold(name.middle)
    if not middle and " " in given:
        given, _, middle = given.partition(" ")
    whole = f"{given} {middle}".strip()
    newborn = _NEWBORN.match(whole)
    if newborn is not None:
        return Name(family=family, given="", newborn=True, tag=newborn.group("tag") or "")
    words = set(f"{family} {whole}".split())
    # Doe alone is a surname; with a placeholder's usual company it is nobody's name.
    strong = words & _PLACEHOLDERS - {"doe"}
    doe = "doe" in words and bool(words & {"john", "jane", "unknown", "trauma", "baby"})
    if strong or doe or not words:
        return Name(family="", given="", unknown=True)
    return Name(family=family, given=given, middle=middle)


def is_placeholder(birth_date: date) -> bool:
    """Whether registries write this date when they only know the year, or nothing."""
    return (birth_date.month, birth_date.day) == (1, 1)


def swapped(birth_date: date) -> date | None:
    """Return the date with day and month exchanged, or None where that is no other date."""
    if birth_date.day > 12 or birth_date.day == birth_date.month:
        return None
    return date(birth_date.year, birth_date.day, birth_date.month)


def number(value: str) -> str:
    """Return an identifier without separators, case and leading zeros; never as a number."""
    plain = _SEPARATORS.sub("", unicodedata.normalize("NFKC", value)).upper()
    return plain.lstrip("0") or plain[:1]


def core(value: str) -> str:
    """Return the digits of an identifier without its letters: a site's prefix or suffix."""
    digits = re.sub(r"\D", "", value).lstrip("0")
    return digits if len(digits) >= 4 else ""


def check_digit(digits: str, scheme: str) -> str:
    """Return the check digit of `digits` by an HL70061 scheme.

    Parameters
    ----------
    digits : str
        Without the check digit.
    scheme : str
        ``M10`` (Luhn) or ``M11`` (HL7 v2.5.1 §2.A.14, weights 2 to 7 from the right).

    Raises
    ------
    ValueError
        If the scheme is another one, or `digits` are not digits.
    """
    if not digits.isascii() or not digits.isdigit():
        raise ValueError("a check digit needs digits")
    if scheme == "M10":
        total = 0
        for position, digit in enumerate(reversed(digits)):
            doubled = int(digit) * (2 if position % 2 == 0 else 1)
            total += doubled - 9 if doubled > 9 else doubled
        return str(-total % 10)
    if scheme == "M11":
        total = sum(int(d) * (2 + i % 6) for i, d in enumerate(reversed(digits)))
        rest = -total % 11
        return "X" if rest == 10 else str(rest)
    raise ValueError(f"check digit scheme {scheme[:8]!r} is not known")
