"""What an order control code asks for, as one table over ORC-1 and ORC-5.

A pair that has no row is refused: an order is never guessed at. The rows cite the place that asks
for them; HL7 means v2.5.1 §4.5.1.1 (ORC-1, table HL70119) and §4.5.1.5 (ORC-5, table HL70038).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class OrderAction(Enum):
    """What is done to the order that a group names."""

    PLACE = "place it"
    CHANGE = "change it in place"
    CANCEL = "cancel it, if the exam has not begun"
    DISCONTINUE = "stop its exam, or cancel it if none has begun"
    REPLACE = "cancel it in favour of the replacement in the same message"
    REPLACEMENT = "place it instead of those that are replaced"
    HOLD = "take it off the worklist for a while"
    RELEASE = "put it back on the worklist"
    SCHEDULED = "note that it is scheduled"
    STARTED = "note that its exam has begun"
    COMPLETED = "take it off the worklist, its exam is done"
    REMOVED = "take it off the worklist, its filler gave it up"
    ASK = "tell its status"
    NUMBER = "note the number that its placer gave it"
    CHILD = "place it and link it to its parent"
    NOTE = "write it on the timeline and do nothing"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: what is done, and who says so."""

    action: OrderAction
    source: str


_A = OrderAction
_HL7 = "HL7 v2.5.1 §4.5.1.1 (HL70119)"
_IHE = "IHE RAD TF-2 §4.4 and §4.13 (Procedure Scheduled, Procedure Update)"
_STATUS = "HL7 v2.5.1 §4.5.1.5 (HL70038)"
_HELD_BY_PLACER = "the sender repeats the status that it last knew"

_NOTED: Final = {
    "OK": "order accepted",
    "UA": "unable to accept",
    "CR": "cancelled as requested",
    "UC": "unable to cancel",
    "DR": "discontinued as requested",
    "UD": "unable to discontinue",
    "XR": "changed as requested",
    "UX": "unable to change",
    "RQ": "replaced as requested",
    "UM": "unable to replace",
    "HR": "on hold as requested",
    "UH": "unable to hold",
    "OR": "released as requested",
    "UR": "unable to release",
    "SR": "response to a status request",
    "UN": "unable to link",
    "SN": "send order number",
    "PA": "parent order",
    "RE": "observations follow",
    "DE": "data errors",
}
"""Answers and announcements: facts for the timeline, nothing to do."""

_ANY: Final = ("", "A", "CA", "CM", "DC", "ER", "HD", "IP", "RP", "SC")
"""HL70038, and silence."""


def _rows(control: str, statuses: tuple[str, ...], action: OrderAction, source: str) -> _Table:
    return {(control, status): Rule(action, source) for status in statuses}


_Table = dict[tuple[str, str], Rule]

RULES: Final[_Table] = {
    **_rows("NW", ("", "SC", "IP"), _A.PLACE, _IHE),
    **_rows("XO", ("", "SC"), _A.CHANGE, _HL7),
    **_rows("XO", ("CM",), _A.COMPLETED, _IHE),
    **_rows("XX", ("", "SC"), _A.CHANGE, _HL7),
    **_rows("XX", ("CM",), _A.COMPLETED, _HL7),
    **_rows("CA", ("", "CA"), _A.CANCEL, _IHE),
    **_rows("CA", ("SC", "IP", "HD"), _A.CANCEL, _HELD_BY_PLACER),
    **_rows("OC", ("", "CA", "DC"), _A.CANCEL, _HL7),
    **_rows("DC", ("", "CA", "DC"), _A.DISCONTINUE, _IHE),
    **_rows("DC", ("SC", "IP", "HD"), _A.DISCONTINUE, _HELD_BY_PLACER),
    **_rows("OD", ("", "CA", "DC"), _A.DISCONTINUE, _HL7),
    **_rows("RP", ("", "RP", "CA", "SC"), _A.REPLACE, _HL7),
    **_rows("RU", ("", "RP", "CA", "SC"), _A.REPLACE, _HL7),
    **_rows("RO", ("", "SC"), _A.REPLACEMENT, _HL7),
    **_rows("HD", ("", "HD", "SC"), _A.HOLD, _HL7),
    **_rows("RL", ("", "HD", "SC"), _A.RELEASE, _HL7),
    **_rows("SC", ("SC",), _A.SCHEDULED, _STATUS),
    **_rows("SC", ("IP",), _A.STARTED, _STATUS),
    **_rows("SC", ("A", "CM"), _A.COMPLETED, _STATUS),
    **_rows("SC", ("CA", "DC"), _A.REMOVED, _STATUS),
    **_rows("SC", ("HD",), _A.HOLD, _STATUS),
    **_rows("SC", ("ER", "RP"), _A.NOTE, _STATUS),
    **_rows("SS", _ANY, _A.ASK, _HL7),
    **_rows("NA", _ANY, _A.NUMBER, _HL7),
    **_rows("CH", ("", "SC", "IP"), _A.CHILD, "HL7 v2.5.1 §4.5.1.8 (ORC-8)"),
    **{
        pair: rule
        for control in _NOTED
        for pair, rule in _rows(control, _ANY, _A.NOTE, _HL7).items()
    },
}
"""(ORC-1, ORC-5) → what is done."""

CONTROLS: Final = frozenset(control for control, _ in RULES)
"""Every ORC-1 that is served with some ORC-5."""


def meaning(control: str) -> str:
    """Return in words what a noted code says; the code itself for any other."""
    return _NOTED.get(control, control)
