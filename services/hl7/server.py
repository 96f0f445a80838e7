"""The HL7 edge as a process of its own."""

from __future__ import annotations

import gc
import signal

import structlog
from sqlalchemy.exc import SQLAlchemyError

from models.errors import Unavailable
from services.database.store import Store
from services.hl7.listener import MllpListener
from services.hl7.profiles import Profiles
from services.hl7.tls import listener_context
from services.journal import configure
from services.settings import Settings
from services.workflow.messages import keep_fragment, receive_message

log = structlog.get_logger()


def serve(settings: Settings, store: Store) -> MllpListener:
    """Start the listener on the configured address and return it.

    Raises
    ------
    Unavailable
        If it would speak cleartext off loopback and no setting allows that, or its certificate
        cannot be used.
    ProfileError
        If an interface profile is wrong and was never right.
    KeyMissing
        If the key of the messages that are stored is not here.
    """
    tls = listener_context(settings)
    if tls is None and not (settings.is_loopback or settings.allow_cleartext):
        raise Unavailable(
            f"refusing cleartext HL7 on {settings.host}; set SPINECHO_HL7_TLS_CERTIFICATE, or "
            "SPINECHO_ALLOW_CLEARTEXT=1 if the network is trusted"
        )

    profiles = Profiles(settings.profile_root, good=settings.last_good_profiles)
    try:
        with store() as uow:
            uow.messages.prepare()
    except SQLAlchemyError as error:
        # Each message looks after itself; until the database is back, none is answered.
        log.warning("hl7.store_away", kind=type(error).__name__)

    def receive(message: bytes, peer: str) -> list[bytes]:
        answered = receive_message(store, message, peer=peer, settings=settings, profiles=profiles)
        return answered.answers

    def keep(rest: bytes, peer: str, reason: str) -> None:
        keep_fragment(store, rest, peer=peer, reason=reason)

    listener = MllpListener(
        receive,
        keep,
        limit=settings.max_message_bytes,
        connections=settings.hl7_connections,
        tls=tls,
    )
    listener.start(settings.host, settings.hl7_port)
    return listener


def main() -> None:
    """Serve until SIGTERM."""
    # Before any thread, so that all of them leave the signal to the one that waits for it.
    awaited = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    configure()
    settings = Settings()
    store = Store(settings)
    listener = serve(settings, store)
    # What is loaded now stays; looking through it for garbage again and again costs every message.
    gc.collect()
    gc.freeze()
    signal.sigwait(awaited)
    listener.stop()
    store.close()


if __name__ == "__main__":
    main()
