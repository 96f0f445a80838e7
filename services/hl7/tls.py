"""TLS around MLLP: who we are, and whom we believe (PS3.15 Annex B and ATNA set the floor)."""

from __future__ import annotations

import ssl
from pathlib import Path

from models.errors import Unavailable
from services.settings import Settings


def listener_context(settings: Settings) -> ssl.SSLContext | None:
    """Return what the listener speaks TLS with; None where no certificate is set.

    With `hl7_tls_client_ca`, a client without a certificate of that authority is refused.

    Raises
    ------
    Unavailable
        If a file cannot be used, or settings are missing beside the one that is there.
    """
    certificate = settings.hl7_tls_certificate
    if certificate is None:
        for name in ("hl7_tls_key", "hl7_tls_client_ca"):
            if getattr(settings, name) is not None:
                raise Unavailable(f"{name} is set and hl7_tls_certificate is not: set both")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _identify(context, certificate, settings.hl7_tls_key)
    if settings.hl7_tls_client_ca is not None:
        _trust(context, settings.hl7_tls_client_ca, "hl7_tls_client_ca")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def sender_context(settings: Settings) -> ssl.SSLContext:
    """Return what a sender speaks TLS with to an ``mllps://`` destination.

    The destination's certificate must carry its host name and come from `hl7_tls_ca`, or from an
    authority of the system where that is not set. Our own certificate is shown if it is asked for.

    Raises
    ------
    Unavailable
        If a file cannot be used.
    """
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    if settings.hl7_tls_ca is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _trust(context, settings.hl7_tls_ca, "hl7_tls_ca")
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.hl7_tls_certificate is not None:
        _identify(context, settings.hl7_tls_certificate, settings.hl7_tls_key)
    return context


def _identify(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    try:
        # Never ask for a passphrase: nobody sits at a service's terminal.
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except (OSError, ValueError) as error:
        raise Unavailable(
            f"hl7_tls_certificate {certificate} and its key cannot be used: {error}"
        ) from error


def _trust(context: ssl.SSLContext, authority: Path, name: str) -> None:
    try:
        context.load_verify_locations(authority)
    except (OSError, ValueError) as error:
        raise Unavailable(f"{name} {authority} cannot be used: {error}") from error
