"""The message log: every message that came or went, sealed, with its answer.

What people search by (sender, control id, type, state, time) is plain; numbers of patients and
orders are there as keyed hashes (`Key.blind`); the bytes of message and answer are sealed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

from sqlalchemy import (
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    exists,
    func,
    insert,
    or_,
    select,
    text,
    update,
)

from models.errors import UnknownKey
from services.database.direct import Call, Direct, Prepared
from services.database.partitions import Partitions, month_of
from services.database.tables import message_key, message_log, message_number
from services.security.keys import Key, Keyring

SETTLED_BADLY: Final = ("refused", "failed", "fragment", "rejected")
"""States of a message that nobody acts on any more unless somebody looks."""
_PAGE: Final = 500
"""Messages that are in memory at once while many are read."""
_PLAIN: Final = [
    column for column in message_log.c if column.name not in {"raw", "ack", "key_id", "blind_index"}
]

_NUMBER = Prepared(select(message_number.next_value().label("number")))
_KNOWN = Prepared(
    select(message_key.c.message_id.label("known"), message_log)
    .outerjoin(
        message_log,
        # The time says which part of the log it is in.
        and_(
            message_log.c.id == message_key.c.message_id,
            message_log.c.received_at == message_key.c.received_at,
        ),
    )
    .where(message_key.c.digest == bindparam("sha256"))
)
_CLAIM = Prepared(insert(message_key), [column.name for column in message_key.c])
_TAKE_OVER = Prepared(
    update(message_key)
    .where(message_key.c.digest == bindparam("sha256"))
    .values(message_id=bindparam("number"), received_at=bindparam("at"))
)
_ADD = Prepared(insert(message_log), [column.name for column in message_log.c])


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """One message with its bytes, opened.

    Attributes
    ----------
    raw, ack
        The message and its answer as they stood on the wire, without frames.
    key_id
        The key it was sealed with; None for one from before messages were sealed.
    profile
        The interface profile that read it, with its digest; None where there was none for it.
    attempt_of
        The earlier message whose bytes this is another attempt to apply.
    """

    id: int
    direction: str
    protocol: str
    peer: str
    sender: str
    control_id: str
    type: str
    state: str
    raw: bytes
    ack: bytes | None
    ack_code: str | None
    error: str | None
    profile: str | None
    study_id: str | None
    attempt_of: int | None
    key_id: str | None
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A number for a message that has come; or the message that it repeats."""

    id: int
    known: bool = False
    """Whether the same bytes came before, so that they have a key."""
    by_hand: bool = False
    """Whether somebody had the bytes applied again; the answer counts only if that went well."""
    attempt_of: int | None = None
    repeats: StoredMessage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is looked for; what is None or empty does not matter."""

    ids: Sequence[int] = ()
    references: Sequence[tuple[str, str]] = ()
    control_id: str | None = None
    sender: str | None = None
    """MSH-3, or MSH-3 and MSH-4 with a ``|`` between them."""
    type: str | None = None
    protocol: str | None = None
    states: Sequence[str] = ()
    direction: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class Messages:
    """Repository of the message log."""

    def __init__(
        self,
        connection: Connection,
        now: datetime,
        direct: Direct,
        keys: Keyring,
        partitions: Partitions,
    ) -> None:
        self._connection = connection
        self._now = now
        self._direct = direct
        self._keys = keys
        self._partitions = partitions

    def prepare(self) -> None:
        """Make the key and this month's part of the log where they are missing.

        Raises
        ------
        KeyMissing
            If messages are sealed and the key file is gone or unusable.
        """
        self._current()
        self._partitions.ensure(self._connection, month_of(self._now))

    def begin(
        self, raw: bytes, *, attempt_of: int | None = None, also: Iterable[Call] = ()
    ) -> Attempt:
        """Number a message that has come, unless the same bytes have been answered before.

        The bytes hold the sender (MSH-3, MSH-4) and the control id (MSH-10), so the same bytes are
        the same message. One that failed through a fault of ours gets a new number: it is tried
        afresh. What is to be looked up anyway may be asked in the same round trip.
        """
        asked = _KNOWN(sha256=sha256(raw).digest())
        self._direct.foresee(_NUMBER(), asked, *also)
        row = self._direct.first(asked)
        if attempt_of is not None:
            return Attempt(
                id=self.number(), known=row is not None, attempt_of=attempt_of, by_hand=True
            )
        if row is None:
            return Attempt(id=self.number())
        if row.id is None:  # its month is over
            return Attempt(id=self.number(), known=True)
        if row.state != "failed":
            return Attempt(id=row.id, known=True, repeats=self._opened(row))
        return Attempt(id=self.number(), known=True, attempt_of=row.id)

    def number(self) -> int:
        """Return a number for a message that is to be added."""
        (row,) = self._direct.draw(_NUMBER())
        return int(row.number)

    def add(
        self,
        *,
        direction: str,
        protocol: str,
        peer: str,
        raw: bytes,
        attempt: Attempt | None = None,
        number: int | None = None,
        ack: bytes | None = None,
        references: Iterable[tuple[str, str]] = (),
        **values: Any,
    ) -> int:
        """Record a message, once, with its answer where there is one; return its number.

        Parameters
        ----------
        direction : str
            ``in`` or ``out``.
        protocol, peer : str
        raw, ack : bytes
            Message and answer; they are sealed here.
        attempt : Attempt, optional
            What `begin` gave; the answer is then given to whoever sends the same bytes again.
        number : int, optional
            What `number` gave; for a request whose repetition is not told by its bytes.
        references : iterable of (kind, value)
            What else it is to be found by; only keyed hashes are kept.
        **values
            Further plain columns; none may hold patient data.

        Raises
        ------
        sqlalchemy.exc.IntegrityError
            With the COMMIT, if the same inbound message was recorded at the same moment.
        KeyMissing
            If there is no usable key: nothing is ever kept readable.
        """
        if number is None:
            number = self.number() if attempt is None else attempt.id
        key = self._current()
        self._partitions.ensure(self._connection, month_of(self._now))
        if attempt is not None:
            values["attempt_of"] = attempt.attempt_of
        badly = values.get("state") in SETTLED_BADLY
        if attempt is not None and not (attempt.by_hand and badly):
            digest = sha256(raw).digest()
            self._direct.later(
                _TAKE_OVER(sha256=digest, number=number, at=self._now)
                if attempt.known
                else _CLAIM(digest=digest, message_id=number, received_at=self._now)
            )
        texts = {"sender": "", "control_id": "", "type": ""}
        self._direct.later(
            _ADD(
                id=number,
                received_at=self._now,
                direction=direction,
                protocol=protocol,
                peer=peer,
                key_id=key.id,
                raw=key.seal(raw, _context(number, "raw")),
                ack=None if ack is None else key.seal(ack, _context(number, "ack")),
                blind_index=[key.blind(*reference) for reference in references],
                **(texts | values),
            )
        )
        return number

    def answer(self, message_id: int, *, ack: bytes | None = None, **values: Any) -> None:
        """Record what was answered to a message that went out, or what became of it."""
        if ack is not None:
            key_id = self._connection.execute(
                select(message_log.c.key_id).where(message_log.c.id == message_id)
            ).scalar_one()
            values["ack"] = (
                ack
                if key_id is None
                else self._keys.get(key_id).seal(ack, _context(message_id, "ack"))
            )
        self._connection.execute(
            update(message_log).where(message_log.c.id == message_id).values(**values)
        )

    def get(self, message_id: int) -> StoredMessage:
        """Return one message with its bytes.

        Raises
        ------
        UnknownKey
            If there is none; it may have been dropped when its time was over.
        KeyMissing, DamagedCopy
            If it cannot be opened.
        """
        found = self.find(message_id)
        if found is None:
            raise UnknownKey(f"message {message_id} is not kept here")
        return found

    def find(self, message_id: int) -> StoredMessage | None:
        """Return one message with its bytes, or None."""
        row = self._connection.execute(
            select(message_log).where(message_log.c.id == message_id)
        ).one_or_none()
        return None if row is None else self._opened(row)

    def of_study(self, study_id: str) -> list[Row[Any]]:
        """Return the study's messages, without their bytes, oldest first."""
        return list(
            self._connection.execute(
                select(*_PLAIN).where(message_log.c.study_id == study_id).order_by(message_log.c.id)
            )
        )

    def inbound_of(self, study_id: str) -> list[StoredMessage]:
        """Return the study's inbound HL7 messages with their bytes, oldest first."""
        rows = self._connection.execute(
            select(message_log)
            .where(
                message_log.c.study_id == study_id,
                message_log.c.direction == "in",
                message_log.c.protocol == "hl7",
            )
            .order_by(message_log.c.id)
        )
        return [self._opened(row) for row in rows]

    def search(self, wanted: Wanted, *, limit: int | None = None) -> list[Row[Any]]:
        """Return what is wanted, without bytes, newest first."""
        query = self._matching(select(*_PLAIN), wanted).order_by(message_log.c.id.desc())
        return list(self._connection.execute(query.limit(limit)))

    def opened(self, wanted: Wanted, *, limit: int | None = None) -> list[StoredMessage]:
        """Return what is wanted, with its bytes, newest first."""
        query = self._matching(select(message_log), wanted).order_by(message_log.c.id.desc())
        return [self._opened(row) for row in self._connection.execute(query.limit(limit))]

    def each(self, wanted: Wanted) -> Iterator[StoredMessage]:
        """Yield what is wanted, with its bytes, oldest first; a page of it is in memory."""
        query = self._matching(select(message_log), wanted).order_by(message_log.c.id)
        rows = self._connection.execute(query, execution_options={"yield_per": _PAGE})
        return (self._opened(row) for row in rows)

    def retried(self, message_ids: Iterable[int]) -> dict[int, int]:
        """Return, of these messages, the newest attempt to apply each one again."""
        rows = self._connection.execute(
            select(message_log.c.attempt_of, func.max(message_log.c.id))
            .where(message_log.c.attempt_of.in_(list(message_ids)))
            .group_by(message_log.c.attempt_of)
        )
        return {row[0]: row[1] for row in rows}

    def unsealed(self) -> int:
        """Return how many messages from before sealing are still readable by anybody."""
        return self._connection.execute(
            select(func.count()).select_from(message_log).where(message_log.c.key_id.is_(None))
        ).scalar_one()

    def foreign(self, limit: int) -> Iterator[StoredMessage]:
        """Yield messages that the newest key did not seal, locked for `reseal`."""
        rows = self._connection.execute(
            select(message_log)
            .where(message_log.c.key_id.is_distinct_from(self._current().id))
            .order_by(message_log.c.id)
            .limit(limit)
            .with_for_update()
        ).all()
        return (self._opened(row) for row in rows)

    def reseal(self, message: StoredMessage, references: Iterable[tuple[str, str]]) -> None:
        """Seal a message anew with the newest key."""
        key = self._current()
        self._connection.execute(
            update(message_log)
            .where(
                message_log.c.id == message.id,
                message_log.c.received_at == message.received_at,
            )
            .values(
                key_id=key.id,
                raw=key.seal(message.raw, _context(message.id, "raw")),
                ack=None
                if message.ack is None
                else key.seal(message.ack, _context(message.id, "ack")),
                blind_index=[key.blind(*reference) for reference in references],
            )
        )

    def _matching(self, query: Select[Any], wanted: Wanted) -> Select[Any]:
        log = message_log.c
        for column, value in (
            (log.control_id, wanted.control_id),
            (log.protocol, wanted.protocol),
            (log.type, wanted.type),
            (log.direction, wanted.direction),
        ):
            if value is not None:
                query = query.where(column == value)
        if wanted.sender is not None:
            query = query.where(
                log.sender == wanted.sender
                if "|" in wanted.sender
                else log.sender.startswith(f"{wanted.sender}|", autoescape=True)
            )
        for values, column in ((wanted.ids, log.id), (wanted.states, log.state)):
            if values:
                query = query.where(column.in_(values))
        if wanted.since is not None:
            query = query.where(log.received_at >= wanted.since)
        if wanted.until is not None:
            query = query.where(log.received_at < wanted.until)
        for kind, value in wanted.references:
            # Whichever key was the newest when the message came.
            hashes = [key.blind(kind, value) for key in self._keys.all()]
            query = query.where(or_(*(log.blind_index.contains([one]) for one in hashes)))
        return query

    def _current(self) -> Key:
        return self._keys.current(self._nothing_sealed)

    def _nothing_sealed(self) -> bool:
        sealed = select(exists().where(message_log.c.key_id.is_not(None)))
        return not self._connection.execute(sealed).scalar_one()

    def _opened(self, row: Any) -> StoredMessage:
        values = {name: getattr(row, name) for name in StoredMessage.__slots__}
        if row.key_id is not None:
            key = self._keys.get(row.key_id)
            values["raw"] = key.open(bytes(row.raw), _context(row.id, "raw"))
            if row.ack is not None:
                values["ack"] = key.open(bytes(row.ack), _context(row.id, "ack"))
        return StoredMessage(**values)

    def forget_repeats(self, before: datetime) -> int:
        """Forget which messages came before this time; return how many."""
        gone = self._connection.execute(
            text("DELETE FROM message_key WHERE received_at < :before"), {"before": before}
        )
        return gone.rowcount


def _context(message_id: int, part: str) -> str:
    return f"message {message_id} {part}"
