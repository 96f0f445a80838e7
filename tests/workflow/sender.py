"""A sender that speaks to the real intake, one message after another."""

from __future__ import annotations

from services.database.store import Store
from services.hl7.er7 import parse
from services.settings import Settings
from services.workflow.messages import receive_message

PID = "PID|1||0012345^^^HOSP&1.2.3.4&ISO^MR||DOE^JANE^Q||19800214|F"


class Sender:
    """Gives each message a control id of its own and tells MSA-1, with ERR-3 where there is one."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store, self.settings, self.sent = store, settings, 0

    def __call__(self, raw: bytes) -> str:
        self.sent += 1
        lines = raw.split(b"\r")
        msh = lines[0].split(b"|")
        msh[9] = b"C%d" % self.sent
        lines[0] = b"|".join(msh)
        answered = receive_message(
            self.store, b"\r".join(lines), peer="test", settings=self.settings
        )
        assert answered.acknowledgement is not None
        err = parse(answered.acknowledgement).first("ERR")
        if err is None:
            return answered.code
        return f"{answered.code} {err.get(3) or err.get(1, 4)}"


def message(kind: str, *segments: str) -> bytes:
    """A message of v2.5.1 with these segments behind MSH."""
    msh = f"MSH|^~\\&|EMR|HOSP|ENGINE|RAD|20260301080000||{kind}|X|P|2.5.1||||||UNICODE UTF-8"
    return "\r".join([msh, *segments, ""]).encode()
