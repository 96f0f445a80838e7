"""MLLP over TLS: with Python's client, with OpenSSL's own, and our sender against our listener."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from models.errors import Unavailable
from services.database.store import Store
from services.hl7.acknowledgement import read_reply
from services.hl7.mllp import frame
from services.hl7.sender import send
from services.hl7.server import serve
from services.settings import Settings
from tests.hl7.conftest import Authority, Serve
from tests.hl7.orders import adt, orm
from tests.hl7.test_connections import received


@pytest.fixture
def secured(authority: Authority) -> dict[str, Path]:
    """Settings of a listener that believes only the hospital's clients."""
    certificate, key = authority.issue("spinecho", "localhost", "127.0.0.1")
    return {
        "hl7_tls_certificate": certificate,
        "hl7_tls_key": key,
        "hl7_tls_client_ca": authority.path,
        "hl7_tls_ca": authority.path,
    }


def client(authority: Authority, identity: tuple[Path, Path] | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.path)
    if identity:
        context.load_cert_chain(*identity)
    return context


def test_a_client_with_a_certificate_is_served_off_loopback_too(
    serving: Serve, authority: Authority, secured: dict[str, Path]
) -> None:
    port = serving(host="0.0.0.0", **secured)
    context = client(authority, authority.issue("emr"))
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as peer,
    ):
        peer.sendall(frame(orm()) + frame(adt()))
        answers = received(peer, 2)
        assert peer.version() in {"TLSv1.2", "TLSv1.3"}
    assert [read_reply(a).code for a in answers] == ["AA", "AA"]


@pytest.mark.parametrize("identity", ["none", "another authority's"])
def test_who_shows_no_certificate_of_the_authority_is_refused(
    serving: Serve,
    store: Store,
    authority: Authority,
    secured: dict[str, Path],
    identity: str,
    tmp_path: Path,
) -> None:
    port = serving(**secured)
    stranger = Authority(tmp_path, "elsewhere").issue("stranger")
    context = client(authority, None if identity == "none" else stranger)

    def place() -> list[bytes]:
        # In TLS 1.3 the client hears of its refusal only when it reads.
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as peer,
        ):
            peer.sendall(frame(adt()))
            return received(peer, 1)

    with pytest.raises((ssl.SSLError, ConnectionError)):
        place()
    with store() as uow:
        assert uow.connection.exec_driver_sql("SELECT count(*) FROM message_log").scalar() == 0


def test_cleartext_and_old_tls_are_refused_on_the_same_port(
    serving: Serve, authority: Authority, secured: dict[str, Path]
) -> None:
    port = serving(**secured)
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(frame(adt()))
        peer.settimeout(20)
        answer = b""
        try:
            while data := peer.recv(4096):
                answer += data
        except ConnectionError:
            pass
        assert b"MSH" not in answer
    context = client(authority, authority.issue("emr"))
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    refused = pytest.raises((ssl.SSLError, ConnectionError))
    with socket.create_connection(("127.0.0.1", port)) as plain, refused:
        context.wrap_socket(plain, server_hostname="localhost")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="OpenSSL's own client is not installed")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_itself_places_an_order(
    serving: Serve, authority: Authority, secured: dict[str, Path], version: str
) -> None:
    port = serving(**secured)
    certificate, key = authority.issue("emr")
    command = ["openssl", "s_client", "-quiet", version, "-connect", f"127.0.0.1:{port}"]
    command += ["-CAfile", authority.path, "-verify_return_error", "-verify_ip", "127.0.0.1"]
    command += ["-cert", certificate, "-key", key]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None
        peer.stdin.write(frame(orm()))
        peer.stdin.flush()
        answer = b""
        while not answer.endswith(b"\x1c\r") and (data := peer.stdout.read1(4096)):
            answer += data
        peer.terminate()  # -quiet stays until the other side ends
    assert read_reply(answer.strip(b"\x0b\x1c\r")).code == "AA"


def test_the_sender_speaks_tls_and_believes_only_the_right_name(
    serving: Serve,
    settings: Settings,
    authority: Authority,
    secured: dict[str, Path],
    tmp_path: Path,
) -> None:
    port = serving(**secured)
    ours = settings.model_copy(update=secured)
    _, reply = send(f"mllps://localhost:{port}", adt(), "T1", settings=ours)
    assert reply.code == "AA"
    certificate, key = authority.issue("someone-else", "ris.example")
    elsewhere = serving(**secured | {"hl7_tls_certificate": certificate, "hl7_tls_key": key})
    with pytest.raises(Unavailable, match="certificate"):
        send(f"mllps://localhost:{elsewhere}", adt(), "T1", settings=ours)
    other = Authority(tmp_path, "elsewhere")
    with pytest.raises(Unavailable, match="certificate"):
        send(
            f"mllps://localhost:{port}",
            adt(),
            "T1",
            settings=ours.model_copy(update={"hl7_tls_ca": other.path}),
        )


def test_a_silent_client_holds_up_nobody_and_a_stop_ends_it(
    store: Store, settings: Settings, authority: Authority, secured: dict[str, Path]
) -> None:
    listener = serve(settings.model_copy(update={"hl7_port": 0, **secured}), store)
    with socket.create_connection(("127.0.0.1", listener.port)):
        context = client(authority, authority.issue("emr"))
        with (
            socket.create_connection(("127.0.0.1", listener.port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as peer,
        ):
            peer.sendall(frame(adt()))
            assert len(received(peer, 1)) == 1
            begun = time.monotonic()
            listener.stop()
            with suppress(ssl.SSLError):  # an alert ends it as well as a close does
                assert peer.recv(1) == b""
        assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hl7_tls_certificate": "missing"}, "hl7_tls_certificate"),
        ({"hl7_tls_key": "missing"}, "hl7_tls_key"),
        ({"hl7_tls_client_ca": "missing"}, "hl7_tls_client_ca"),
    ],
)
def test_what_cannot_be_used_is_said_at_the_start(
    store: Store, settings: Settings, tmp_path: Path, changes: dict[str, str], named: str
) -> None:
    wrong = {name: tmp_path / value for name, value in changes.items()}
    with pytest.raises(Unavailable, match=named):
        serve(settings.model_copy(update={"hl7_port": 0, **wrong}), store)
