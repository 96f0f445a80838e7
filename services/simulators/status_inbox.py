"""Where the EMR hears what becomes of its orders (IHE RAD-3): an MLLP server of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from services.simulators.inbox import Inbox, Received
from services.simulators.mllp import field, segments, text_of

_STATUSES: Final = frozenset({"A", "CA", "CM", "DC", "ER", "HD", "IP", "RP", "SC"})
_KINDS: Final = ("ORM^O01", "OMG^O19")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedStatus(Received):
    """One status of an order.

    Attributes
    ----------
    status
        ORC-5, HL70038.
    result
        OBR-25, HL70123.
    """

    result: str


def read_status(raw: bytes) -> ReceivedStatus:
    """Read an order's status with the eyes of the EMR that placed it (HL7 v2.5.1 §4.5.1)."""
    parts = segments(text_of(raw))
    msh = parts[0] if parts else []
    pid, orc, obr, zds = (
        next((s for s in parts if s[0] == name), []) for name in ("PID", "ORC", "OBR", "ZDS")
    )
    values = {
        "MSH-10": field(msh, 10),
        "PID-3": field(pid, 3).split("^")[0],
        "ORC-2": field(orc, 2).split("^")[0],
        "ORC-3": field(orc, 3).split("^")[0],
        "ORC-9": field(orc, 9),
        "OBR-4": field(obr, 4).split("^")[0],
        "OBR-18": field(obr, 18),
        "ZDS-1": field(zds, 1).split("^")[0],
    }
    problems = [f"{name} is empty" for name, value in values.items() if not value]
    kind = field(msh, 9)
    if not kind.startswith(_KINDS):
        problems.append("MSH-9 is neither ORM^O01 nor OMG^O19")
    if field(orc, 1) != "SC":
        problems.append("ORC-1 is not SC")
    if field(orc, 5) not in _STATUSES:
        problems.append("ORC-5 is none of HL70038")
    return ReceivedStatus(
        control_id=values["MSH-10"],
        kind=kind,
        patient_id=values["PID-3"],
        placer=values["ORC-2"],
        filler=values["ORC-3"],
        accession=values["OBR-18"],
        status=field(orc, 5),
        result=field(obr, 25),
        study_uid=values["ZDS-1"],
        problems=tuple(problems),
        answered="",
        raw=raw,
    )


class StatusInbox(Inbox[ReceivedStatus]):
    """Where the status of orders arrives.

    Parameters
    ----------
    port
        Zero for any free port; read it back from `port`.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(read_status, _KINDS, host, port)

    def seen(self, accession: str) -> list[tuple[str, str]]:
        """Give ORC-5 and OBR-25 of one order in the order in which they came."""
        return [(m.status, m.result) for m in self.accepted if m.accession == accession]
