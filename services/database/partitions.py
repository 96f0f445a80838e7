"""The monthly parts of the message log: made ahead, and dropped whole when their time is over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Final

from sqlalchemy import Connection, text

_TABLE: Final = "message_log"
_NAME: Final = re.compile(rf"{_TABLE}_(\d{{4}})_(\d\d)$")
_LOCK: Final = 7332


def month_of(moment: datetime) -> date:
    """Return the first day of the month, in UTC."""
    return moment.astimezone(UTC).date().replace(day=1)


def following(month: date, count: int = 1) -> date:
    """Return the month that is `count` months later."""
    months = month.year * 12 + month.month - 1 + count
    return date(months // 12, months % 12 + 1, 1)


class Partitions:
    """Which parts exist, remembered so that a message need not ask."""

    def __init__(self) -> None:
        self._known: set[date] = set()

    def ensure(self, connection: Connection, month: date) -> None:
        """Make the part of this month unless it is there."""
        if month in self._known:
            return
        if _exists(connection, month):
            # Only now: what this transaction makes itself may still be rolled back.
            self._known.add(month)
            return
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        if not _exists(connection, month):
            create(connection, month)


def create(connection: Connection, month: date) -> None:
    """Make the part of one month; senders are served meanwhile."""
    name = _name(month)
    # Attached, not made as a part: that would lock out every reader and writer for the moment.
    connection.execute(text(f"CREATE TABLE {name} (LIKE {_TABLE} INCLUDING ALL)"))
    connection.execute(
        text(
            f"ALTER TABLE {_TABLE} ATTACH PARTITION {name} "
            f"FOR VALUES FROM ('{month} 00:00+00') TO ('{following(month)} 00:00+00')"
        )
    )


def months(connection: Connection) -> Iterator[date]:
    """Yield the months that have a part, oldest first."""
    names = connection.execute(
        text(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "  # noqa: S608
            f"WHERE i.inhparent = '{_TABLE}'::regclass ORDER BY c.relname"
        )
    ).scalars()
    for name in names:
        if match := _NAME.match(name):
            yield date(int(match[1]), int(match[2]), 1)


def drop(connection: Connection, month: date) -> None:
    """Drop the part of one month with every message in it."""
    connection.execute(text(f"DROP TABLE {_name(month)}"))


def rewrite(connection: Connection, month: date) -> None:
    """Write the files of a part anew, so that what was deleted or replaced is gone from them."""
    connection.execute(text(f"VACUUM (FULL) {_name(month)}"))


def _name(month: date) -> str:
    return f"{_TABLE}_{month:%Y_%m}"


def _exists(connection: Connection, month: date) -> bool:
    found = connection.execute(text("SELECT to_regclass(:name)"), {"name": _name(month)})
    return found.scalar() is not None
