"""Attribute matching (PS3.4 C.2.2.2) of one C-FIND identifier against one candidate, in memory.

Declared for the conformance statement: PN matches without regard to case and accents; a value list
with backslashes matches any of its values for every VR that has no wildcard in it.
"""

from __future__ import annotations

import unicodedata
from datetime import datetime
from typing import Final

from pydicom import DataElement, Dataset
from pydicom.multival import MultiValue

WILDCARD_VRS: Final = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}
RANGE_VRS: Final = {"DA", "TM", "DT"}
SINGLE_VALUE: Final = {"ScheduledStationAETitle", "Modality"}
"""Keys that take no wildcard though their VR would (PS3.4 Table K.6-1)."""
COMBINED: Final = {
    "ScheduledProcedureStepStartDate": "ScheduledProcedureStepStartTime",
    "StudyDate": "StudyTime",
}
"""Two ranges of a pair are one interval of date and time (PS3.4 K.2.2.1.2.1)."""
NO_KEYS: Final = {"SpecificCharacterSet", "TimezoneOffsetFromUTC", "QueryRetrieveLevel"}
"""In an identifier without being keys."""


def values_of(element: DataElement) -> list[str]:
    """Return an element's values as text, padding gone; empty if it has none."""
    value = element.value
    if value is None:
        return []
    several = isinstance(value, MultiValue | list | tuple)
    texts = [str(part).strip("\0 ") for part in (value if several else [value])]
    return [text for text in texts if text]


def matches(query: Dataset, candidate: Dataset) -> bool:
    """Return whether `candidate` matches every key of `query` that it has itself.

    A key that the candidate does not have is an unsupported optional key and decides nothing.
    """
    combined: set[str] = set()
    for date_key, time_key in COMBINED.items():
        dates, times = _range_text(query, date_key), _range_text(query, time_key)
        if "-" in dates and "-" in times:
            combined |= {date_key, time_key}
            if not _in_interval(dates, times, candidate, date_key, time_key):
                return False
    return all(
        element.keyword in combined
        or element.keyword in NO_KEYS
        or element.tag not in candidate
        or _element_matches(element, candidate[element.tag])
        for element in query
        if element.tag.element != 0
    )


def _element_matches(key: DataElement, held: DataElement) -> bool:
    if key.VR == "SQ":
        # one item in the key; any item of the candidate may match all of it
        return not key.value or any(matches(key.value[0], item) for item in held.value)
    wanted = values_of(key)
    if not wanted or wanted == ["*"]:
        return True
    # An unknown value matches only universal queries (PS3.4 K.2.2.1.1.1): `any` of nothing.
    return any(_value_matches(key.keyword, key.VR, w, h) for w in wanted for h in values_of(held))


def _value_matches(keyword: str, vr: str, wanted: str, held: str) -> bool:
    if vr in RANGE_VRS:
        return _range_matches(vr, wanted, held)
    if vr == "PN":
        wanted, held = _fold_name(wanted), _fold_name(held)
    if vr in WILDCARD_VRS and keyword not in SINGLE_VALUE:
        return glob(wanted, held)
    if vr in ("IS", "DS"):
        return _number(wanted) == _number(held)
    return wanted == held


def glob(pattern: str, text: str) -> bool:
    """Match ``*`` and ``?`` in time that no hostile pattern can make exponential."""
    at = here = 0
    star, mark = -1, 0
    while here < len(text):
        if at < len(pattern) and pattern[at] in ("?", text[here]) and pattern[at] != "*":
            at, here = at + 1, here + 1
        elif at < len(pattern) and pattern[at] == "*":
            star, mark, at = at, here, at + 1
        elif star >= 0:
            mark += 1
            at, here = star + 1, mark
        else:
            return False
    return not pattern[at:].strip("*")


def _fold_name(name: str) -> str:
    # the alphabetic group decides; a name in ideographs alone is compared as it is
    groups = name.split("=")
    chosen = groups[0] if groups[0].strip("^ ") else "=".join(groups)
    decomposed = unicodedata.normalize("NFKD", chosen)
    plain = "".join(c for c in decomposed if not unicodedata.combining(c))
    return "^".join(part.strip() for part in plain.casefold().split("^")).rstrip("^")


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def bounds(vr: str, wanted: str) -> tuple[str, str]:
    """Return the inclusive bounds of a range or single value, in the form of `normal`.

    Raises
    ------
    ValueError
        If a bound is no value of this VR.
    """
    if "-" not in wanted:
        return normal(vr, wanted, last=False), normal(vr, wanted, last=True)
    low, _, high = wanted.partition("-")
    low, high = low.strip(), high.strip()
    return (
        normal(vr, low, last=False) if low else "",
        normal(vr, high, last=True) if high else "\uffff",
    )


def normal(vr: str, text: str, *, last: bool) -> str:
    """Write a date or time so that text order is time order.

    A time of less precision stands for its first, or with `last` its last, microsecond. The old
    forms ``YYYY.MM.DD`` and ``HH:MM:SS`` are read too (PS3.5 Table 6.2-1).

    Raises
    ------
    ValueError
    """
    if vr == "DA":
        digits = text.replace(".", "").replace("-", "")
        datetime.strptime(digits, "%Y%m%d")  # noqa: DTZ007 (only checked)
        return digits
    whole, _, fraction = text.replace(":", "").partition(".")
    if not whole.isdigit() or len(whole) % 2 or (vr == "TM" and len(whole) > 6):
        raise ValueError("no time")
    full = "99991231235959" if vr == "DT" else "235959"
    least = "00010101000000" if vr == "DT" else "000000"
    filler = full if last else least
    padded = whole + filler[len(whole) :]
    return f"{padded}.{(fraction + ('999999' if last else '000000'))[:6]}"


def _range_matches(vr: str, wanted: str, held: str) -> bool:
    try:
        low, high = bounds(vr, wanted)
        return low <= normal(vr, held, last=False) <= high
    except ValueError:
        return wanted == held


def _range_text(query: Dataset, keyword: str) -> str:
    return "".join(values_of(query[keyword])) if keyword in query else ""


def _in_interval(dates: str, times: str, candidate: Dataset, date_key: str, time_key: str) -> bool:
    held_date, held_time = (_range_text(candidate, k) for k in (date_key, time_key))
    if not held_date:
        return False
    try:
        low_date, high_date = bounds("DA", dates)
        low_time, high_time = bounds("TM", times)
        at = normal("DA", held_date, last=False) + normal("TM", held_time or "00", last=False)
    except ValueError:
        return False
    return low_date + low_time <= at <= high_date + high_time


def project(query: Dataset, candidate: Dataset) -> tuple[Dataset, bool]:
    """Return what `query` asks for of `candidate`, and whether it asked for something unknown.

    An unsupported optional key is not returned at all (PS3.4 C.2.2.1.3) and makes the status FF01.
    """
    answer, unknown = Dataset(), False
    for element in query:
        if element.tag.element == 0 or element.keyword in NO_KEYS:
            continue
        if element.tag not in candidate:
            unknown = True
            continue
        held = candidate[element.tag]
        if element.VR == "SQ" and element.value and len(element.value[0]):
            items = []
            for item in held.value:
                part, unknown_inside = project(element.value[0], item)
                unknown = unknown or unknown_inside
                items.append(part)
            setattr(answer, held.keyword, items)
        else:
            answer.add(held)
    return answer, unknown
