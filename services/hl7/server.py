"""The HL7 edge as a process of its own."""

from __future__ import annotations

import asyncio
import signal

from models.errors import Unavailable
from services.database.store import Store
from services.hl7.listener import MllpListener
from services.hl7.profiles import Profiles
from services.journal import configure
from services.settings import Settings
from services.workflow.messages import keep_fragment, receive_message


async def serve(settings: Settings, store: Store) -> MllpListener:
    """Start the listener on the configured address and return it.

    Raises
    ------
    Unavailable
        If it would speak cleartext off loopback and no setting allows that.
    ProfileError
        If an interface profile is wrong.
    """
    if not (settings.is_loopback or settings.allow_cleartext):
        raise Unavailable(
            f"refusing cleartext HL7 on {settings.host}; set SPINECHO_ALLOW_CLEARTEXT=1 if the "
            "network is trusted"
        )

    profiles = Profiles(settings.profile_root)

    def receive(message: bytes, peer: str) -> bytes | None:
        answered = receive_message(store, message, peer=peer, settings=settings, profiles=profiles)
        return answered.acknowledgement

    def keep(rest: bytes, peer: str, reason: str) -> None:
        keep_fragment(store, rest, peer=peer, reason=reason)

    listener = MllpListener(receive, keep, limit=settings.max_message_bytes)
    await listener.start(settings.host, settings.hl7_port)
    return listener


async def main() -> None:
    """Serve until SIGTERM."""
    configure()
    settings = Settings()
    store = Store(settings)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    listener = await serve(settings, store)
    await stop.wait()
    await listener.stop()
    store.close()


if __name__ == "__main__":
    asyncio.run(main())
