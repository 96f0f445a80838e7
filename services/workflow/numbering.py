"""The sequence number protocol (HL7 v2.5.1 §2.10.1): MSH-13 counted, MSA-4 told."""

from __future__ import annotations

import re
from dataclasses import dataclass

from models.errors import PeerError
from services.database.store import UnitOfWork
from services.hl7.acknowledgement import BadNumber, NotDue
from services.hl7.er7 import Message

_NUMBER = re.compile(r"-1|\d{1,15}")
START, RESYNCHRONISE = 0, -1


@dataclass(frozen=True, slots=True)
class Turn:
    """Whether a message is the one whose turn it is.

    Parameters
    ----------
    given : int or None
        MSH-13; None where the sender does not number its messages.
    expected : int or None
        The number that is due; None takes whatever comes.
    error : PeerError or None
        Why the message must not be applied.
    """

    given: int | None = None
    expected: int | None = None
    error: PeerError | None = None


def turn_of(uow: UnitOfWork, message: Message, sender: str) -> Turn:
    """Compare MSH-13 with what is due from `sender`, whose row is locked until the end.

    0 and −1 are always in turn: the first asks which number is due, the second that the next one
    is taken whatever it is.
    """
    written = message.msh.get(13)
    if not written:
        return Turn()
    if not _NUMBER.fullmatch(written):
        return Turn(error=BadNumber("MSH-13 is not a sequence number", location="MSH^1^13"))
    given, expected = int(written), uow.sequences.expected(sender)
    if given in {START, RESYNCHRONISE} or expected in {None, given}:
        return Turn(given, expected)
    return Turn(
        given,
        expected,
        NotDue(
            f"sequence number {given} where {expected} is due: send that one, or resynchronise "
            "with -1 if it cannot be found",
            location="MSH^1^13",
        ),
    )


def take(uow: UnitOfWork, turn: Turn, sender: str) -> int | None:
    """Remember that the message in turn was taken; return the number now due, for MSA-4."""
    if turn.given is None or turn.error is not None:
        return turn.expected
    if turn.given == RESYNCHRONISE:
        uow.sequences.take(sender, None)
        return None
    last = turn.given
    if turn.given == START and turn.expected is not None:
        return turn.expected
    uow.sequences.take(sender, last)
    return last + 1
