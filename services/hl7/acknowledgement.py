"""Acknowledgements (HL7 v2.5.1 §2.9): what is answered to a message, and reading an answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from models.errors import InvalidValue, Malformed, SpinechoError, Unsupported, answer_to
from services.hl7.er7 import Message, escape, parse

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

NEVER_ANSWERED = frozenset({"ACK", "ORR", "ORG", "ORI", "MCF", "SRR"})
"""An acknowledgement is never acknowledged."""


def acknowledge(
    message: Message | None, now: datetime, error: SpinechoError | None = None
) -> tuple[bytes, str]:
    """Return the acknowledgement of `message` and its MSA-1.

    Parameters
    ----------
    message : Message or None
        None when what arrived could not be parsed.
    now : datetime
        MSH-7, written with its UTC offset.
    error : SpinechoError, optional
        Why it was not accepted; becomes MSA-1, ERR-1 to ERR-4 and ERR-8.
    """
    code = "AA" if error is None else answer_to(error).ack
    version = (message.version if message else "") or "2.5.1"
    reply = [""] * 13
    reply[0:2] = ["MSH", "^~\\&"]
    event = ""
    control_id = ""
    if message is not None:
        reply[2:6] = [escape(message.msh.get(n)) for n in (5, 6, 3, 4)]
        event = escape(message.msh.get(9, 2))
        control_id = escape(message.control_id)
    reply[6] = now.strftime("%Y%m%d%H%M%S%z")
    reply[8] = f"ACK^{event}^ACK" if event else "ACK"
    reply[9] = f"A{control_id}"[:199] if control_id else f"A{now:%Y%m%d%H%M%S%f}"
    reply[10] = (message.msh.get(11) if message else "") or "P"
    reply[11] = version
    segments = ["|".join(reply).rstrip("|"), f"MSA|{code}|{control_id}"]
    if error is not None:
        segments.append(_err(error, version))
    charset = "utf-8"
    text = "\r".join(segments) + "\r"
    return text.encode(charset), code


def _err(error: SpinechoError, version: str) -> str:
    number = getattr(error, "hl7_code", None) or answer_to(error).hl7_code
    location = error.location or ""
    if version in {"2.1", "2.2", "2.3", "2.3.1", "2.4"}:
        # Before v2.5 only ERR-1 exists: segment^sequence^field^code.
        place = [*location.split("^"), "", "", ""][:3]
        return f"ERR|{'^'.join(place)}^{number}&{_TEXTS[number]}&HL70357"
    return f"ERR||{location}|{number}^{_TEXTS[number]}^HL70357|E||||{escape(str(error))}"


class UnsupportedEvent(Unsupported):
    """MSH-9 names an event that is not served."""

    hl7_code = "201"


class UnsupportedVersion(Unsupported):
    """MSH-12 names a version that is not served."""

    hl7_code = "203"


class TooLong(InvalidValue):
    """A value is longer than the narrower of HL7 and DICOM allows."""

    hl7_code = "104"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a receiver answered."""

    code: str
    control_id: str
    text: str = ""

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
    return Reply(code=msa.get(1), control_id=msa.get(2), text=text)
