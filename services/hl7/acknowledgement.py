"""Acknowledgements (HL7 v2.5.1 §2.9): what is answered to a message, and reading an answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from models.errors import (
    InvalidValue,
    Malformed,
    OurError,
    SpinechoError,
    Unsupported,
    answer_to,
)
from services.hl7.charsets import codec_of
from services.hl7.er7 import Delimiters, Message, Segment, escape, parse, unescape

_TEXTS = {
    "100": "Segment sequence error",
    "101": "Required field missing",
    "102": "Data type error",
    "103": "Table value not found",
    "104": "Value too long",
    "200": "Unsupported message type",
    "201": "Unsupported event code",
    "202": "Unsupported processing id",
    "203": "Unsupported version id",
    "204": "Unknown key identifier",
    "205": "Duplicate key identifier",
    "206": "Application record locked",
    "207": "Application internal error",
}
"""HL70357."""

_ANSWERS_THEMSELVES = frozenset({"ACK", "ORR", "ORG", "ORI", "ORL", "MCF", "SRR", "RSP"})
_VERSION = re.compile(r"2\.\d(\.\d)?")
_UNREADABLE = str.maketrans("", "", "\x0b\x1c\r\n")
_CODES = {"AA": "CA", "AE": "CE", "AR": "CR"}
"""Application code → commit code (HL70008)."""


def is_acknowledgement(message: Message) -> bool:
    """Whether a message is itself an answer, which is never answered."""
    return message.msh.get(9) in _ANSWERS_THEMSELVES or message.first("MSA") is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a message, as far as its sender is told.

    Parameters
    ----------
    number : int
        Its number in the message log, from which each answer has an MSH-10 of its own.
    at : datetime
        MSH-7 of the answers, written with its UTC offset.
    error : SpinechoError, optional
        Why it was not accepted; becomes MSA-1 and ERR.
    expected : int, optional
        MSA-4, where the sender numbers its messages.
    """

    number: int
    at: datetime
    error: SpinechoError | None = None
    expected: int | None = None

    @property
    def application(self) -> str:
        """MSA-1 in original mode, and of the application acknowledgement: AA, AE or AR."""
        return "AA" if self.error is None else answer_to(self.error).ack

    @property
    def commit(self) -> str:
        """MSA-1 of the commit acknowledgement.

        CR where type, version or processing id are not served; CE where the sender has to keep
        the message, for we failed or its number is not due; CA for all that is safely stored,
        whatever the application then says of its content.
        """
        held = isinstance(self.error, OurError | NotDue)
        return _CODES[self.application] if held or self.application == "AR" else "CA"


def answer(message: Message | None, outcome: Outcome) -> tuple[list[bytes], str]:
    """Return the acknowledgements that are due, in order, and MSA-1 of the last one.

    MSH-15 and MSH-16 both empty is the original mode: one application acknowledgement. Otherwise
    each asks for its own by HL70155, where empty means never (v2.5.1 §2.9.2 and §2.9.3). The code
    is ``none`` where nothing is due.

    Parameters
    ----------
    message : Message or None
        None when what arrived could not be parsed.
    outcome : Outcome
    """
    if message is not None and is_acknowledgement(message):
        return [], "none"
    accept = message.msh.get(15).upper() if message else ""
    application = message.msh.get(16).upper() if message else ""
    codes: list[str] = []
    if not (accept or application):
        codes = [outcome.application]
    else:
        if _is_due(accept, good=outcome.commit == "CA"):
            codes.append(outcome.commit)
        # What was not committed has no application's answer, once the sender was told.
        if codes in ([], ["CA"]) and _is_due(application, good=outcome.application == "AA"):
            codes.append(outcome.application)
    enhanced = bool(accept or application)
    answers = [_acknowledge(message, outcome, code, enhanced=enhanced) for code in codes]
    return answers, codes[-1] if codes else "none"


def _is_due(condition: str, *, good: bool) -> bool:
    if condition in {"", "NE"}:
        return False
    if condition in {"ER", "SU"}:
        return good is (condition == "SU")
    # AL, and what HL70155 does not know: one answer too many does no harm, one too few does.
    return True


def _acknowledge(message: Message | None, outcome: Outcome, code: str, *, enhanced: bool) -> bytes:
    version = message.version if message else ""
    version = version if _VERSION.fullmatch(version) else "2.5.1"
    reply = [""] * 19
    reply[0:2] = ["MSH", "^~\\&"]
    event = ""
    if message is not None:
        reply[2:6] = [_echo(message, n) for n in (5, 6, 3, 4)]
        event = escape(message.msh.get(9, 2))
    reply[6] = outcome.at.strftime("%Y%m%d%H%M%S%z")
    # The structure is named from v2.3.1 on; v2.1 knows no event in an ACK.
    parts = ["ACK", event] if version != "2.1" else ["ACK"]
    if event and version not in {"2.1", "2.2", "2.3"}:
        parts.append("ACK")
    reply[8] = "^".join(parts).rstrip("^")
    reply[9] = f"{code[0]}{outcome.number}"
    reply[10] = (_echo(message, 11) if message else "") or "P"
    reply[11] = version
    if enhanced and code.startswith("A"):
        # A message of its own; and an answer to an answer is what nobody needs.
        reply[14:16] = ["NE", "NE"]
    declared = message.charset if message else ""
    reply[17] = _echo(message, 18) if message else ""
    msa = ["MSA", code, _echo(message, 10) if message else "", "", ""]
    if outcome.expected is not None:
        msa[4] = str(outcome.expected)
    segments = []
    if code not in {"AA", "CA"} and outcome.error is not None:
        segments.append(_err(outcome.error, version))
        if version in _ERR_1_ONLY:
            # No ERR-8 to say it in; MSA-3 holds 80 characters.
            msa[3] = escape(str(outcome.error)[:60])
    lines = ["|".join(reply).rstrip("|"), "|".join(msa).rstrip("|"), *segments]
    text = "\r".join(line.translate(_UNREADABLE) for line in lines) + "\r"
    try:
        return text.encode(codec_of(declared) or "ascii")
    except UnicodeEncodeError:
        # The sender wrote what its own declared set does not hold, or named none that is known.
        reply[17] = "UNICODE UTF-8"
        lines[0] = "|".join(reply).rstrip("|")
        return ("\r".join(line.translate(_UNREADABLE) for line in lines) + "\r").encode()


def split_answers(kept: bytes) -> list[bytes]:
    """Return the answers that were kept as one: commit and application acknowledgement."""
    return [one for one in _HEAD.split(kept) if one]


_HEAD = re.compile(rb"(?<=\r)(?=MSH\|\^~\\&)")


def _echo(message: Message, number: int) -> str:
    """Return a field of the header as we write it, with all its components."""
    delimiters = message.delimiters
    raw = message.msh.raw(number)
    if delimiters == Delimiters():
        return raw
    whole = []
    for repetition in raw.split(delimiters.repetition):
        components = [
            "&".join(
                escape(unescape(part, delimiters)) for part in c.split(delimiters.subcomponent)
            )
            for c in repetition.split(delimiters.component)
        ]
        whole.append("^".join(components))
    return "~".join(whole)


_ERR_1_ONLY = frozenset({"2.1", "2.2", "2.3", "2.3.1", "2.4"})


def _err(error: SpinechoError, version: str) -> str:
    number = getattr(error, "hl7_code", None) or answer_to(error).hl7_code
    location = error.location or ""
    if version in _ERR_1_ONLY:
        # Before v2.5 only ERR-1 exists: segment^sequence^field^code.
        place = [*location.split("^"), "", "", ""][:3]
        return f"ERR|{'^'.join(place)}^{number}&{_TEXTS[number]}&HL70357"
    return f"ERR||{location}|{number}^{_TEXTS[number]}^HL70357|E||||{escape(str(error))}"


class NotDue(InvalidValue):
    """MSH-13 is not the number that was expected: something is missing, or out of turn."""

    hl7_code = "207"


class BadNumber(InvalidValue):
    """MSH-13 is no sequence number."""


class UnsupportedProcessing(Unsupported):
    """MSH-11 says that the message is meant for another kind of installation."""

    hl7_code = "202"


class UnsupportedEvent(Unsupported):
    """MSH-9 names an event that is not served."""

    hl7_code = "201"


class UnsupportedVersion(Unsupported):
    """MSH-12 names a version that is not served."""

    hl7_code = "203"


class NotInTable(InvalidValue):
    """A code is not in its table, or not with the other code beside it."""

    hl7_code = "103"


class TooLong(InvalidValue):
    """A value is longer than the narrower of HL7 and DICOM allows."""

    hl7_code = "104"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a receiver answered."""

    code: str
    control_id: str
    text: str = ""
    reason: str = ""
    """Its HL70357 code and place, ``204 at PID^1^3``: what may be kept and shown without care."""

    @property
    def accepted(self) -> bool:
        """Whether the receiver took the message: AA or CA."""
        return self.code in {"AA", "CA"}


def read_reply(raw: bytes) -> Reply:
    """Read MSA-1, MSA-2 and the first reason given.

    Raises
    ------
    Malformed
        If there is no MSA segment.
    """
    message = parse(raw)
    msa = message.first("MSA")
    if msa is None:
        raise Malformed("the answer has no MSA segment", location="MSA^1")
    err = message.first("ERR")
    text = msa.get(3) or (err.get(8) or err.get(3, 2) if err else "")
    return Reply(code=msa.get(1), control_id=msa.get(2), text=text, reason=_reason(err))


_ERROR_CODE: Final = re.compile(r"\d{1,3}")
_ERROR_PLACE: Final = re.compile(r"[A-Z][A-Z0-9]{2}(?:\^\d{1,4}){0,5}")


def _reason(err: Segment | None) -> str:
    """Read code and place of an ERR segment; a receiver may have written anything there."""
    if err is None:
        return ""
    if err.raw(3):
        code, parts = err.get(3), [err.get(2, n) for n in range(1, 7)]
    else:  # before v2.5: ERR-1 is segment, sequence, field and code
        code, parts = err.get(1, 4), [err.get(1, n) for n in range(1, 4)]
    place = "^".join(parts).rstrip("^")
    named = [code] if _ERROR_CODE.fullmatch(code) else []
    if _ERROR_PLACE.fullmatch(place):
        named.append(f"at {place}")
    return " ".join(named)
