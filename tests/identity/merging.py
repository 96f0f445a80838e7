"""A process that applies one HL7 message when it is told to, and says what it answered."""

from __future__ import annotations

import sys

from services import journal
from services.database.store import Store
from services.settings import Settings
from services.workflow.messages import receive_message


def main() -> None:
    """Read the message from standard input, say ``ready``, wait for ``go``, apply it."""
    journal.configure(to="stderr")
    raw = bytes.fromhex(sys.stdin.readline().strip())
    settings = Settings()
    store = Store(settings)
    store.check()
    print("ready", flush=True)
    sys.stdin.readline()
    print(receive_message(store, raw, peer="test", settings=settings).code, flush=True)


if __name__ == "__main__":
    main()
