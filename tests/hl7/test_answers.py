"""What every message of the public corpora is answered, over a real socket, by an empty store.

``SPINECHO_WRITE_DOCS=1 python -m pytest tests/hl7/test_answers.py`` writes docs/hl7-answers.md
again; otherwise the page is compared with what is answered now.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from models.errors import SpinechoError
from services.database.messages import Wanted
from services.database.store import Store
from services.database.tables import metadata
from services.hl7.er7 import parse
from services.hl7.mllp import frame
from tests.conftest import CORPORA
from tests.hl7.conftest import Serve
from tests.hl7.corpus_notes import INTRODUCTION, NOTES, UNSERVED
from tests.hl7.orders import adt
from tests.hl7.test_connections import received

CORPUS = CORPORA / "hl7"
PAGE = Path(__file__).parents[2] / "docs" / "hl7-answers.md"

# Sent behind each file on the same connection: its answer shows that the first one is complete,
# also where nothing is due, and that the connection survived.
PROBE = adt(control_id="PROBE-BEHIND", pid="PROBE")

pytestmark = pytest.mark.skipif(
    not CORPUS.is_dir(), reason="the public corpora are not beside this checkout"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What one file was answered."""

    file: str
    type: str
    codes: tuple[str, ...]
    error: str
    location: str
    state: str


def empty(store: Store) -> None:
    tables = ", ".join(f'"{name}"' for name in metadata.tables)
    with store.engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))


def ask(store: Store, port: int, file: Path) -> Given:
    raw = file.read_bytes()
    empty(store)
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(frame(raw) + frame(PROBE))
        replies: list[bytes] = []
        while not replies or b"|PROBE-BEHIND" not in replies[-1]:
            more = received(peer, 1)
            assert more, f"{file.name}: the connection did not survive"
            replies += more
    with store() as uow:
        kept = uow.messages.opened(Wanted())[-1]
    assert kept.raw == raw, f"{file.name}: what is kept is not what was sent"
    codes, error, location = [], "", ""
    for reply in map(parse, replies[:-1]):
        msa, err = reply.first("MSA"), reply.first("ERR")
        assert msa is not None
        codes.append(msa.get(1))
        if err is not None and err.raw(2):
            error, location = f"{err.get(3)} {err.get(3, 2)}", err.raw(2)
        elif err is not None:
            components = err.raw(1).split("^")
            location = "^".join(components[:3]).rstrip("^")
            error = " ".join(components[3].split("&")[:2])
    if not replies[:-1] and kept.error:
        location = kept.error.partition(" at ")[2].partition(":")[0]
        error = kept.error.partition(" at ")[0]
    try:
        kind = parse(raw).msh.raw(9)
    except SpinechoError:
        kind = ""
    return Given(
        file=file.name,
        type=kind,
        codes=tuple(codes),
        error=error,
        location=location,
        state=kept.state,
    )


def rows(given: list[Given]) -> Iterator[str]:
    yield "| file | MSH-9 | in it | answer | ERR | kept as | why |"
    yield "|---|---|---|---|---|---|---|"
    for one in given:
        quirk, why = NOTES[one.file]
        why = UNSERVED if one.error[:3] in {"200", "201"} else why
        code = ", ".join(f"**{c}**" for c in one.codes) or "none"
        error = f"{one.error}, `{one.location}`" if one.error else ""
        kind = f"`{one.type}`" if one.type else "–"
        yield f"| {one.file} | {kind} | {quirk} | {code} | {error} | {one.state} | {why} |"


def page(given: list[Given]) -> str:
    return f"{INTRODUCTION}\n" + "\n".join(rows(given)) + "\n"


def test_every_file_gets_the_answer_that_the_page_says(store: Store, serving: Serve) -> None:
    port = serving()
    given = [ask(store, port, file) for file in sorted(CORPUS.glob("*.hl7"))]
    assert {one.file for one in given} == set(NOTES), "each file needs its note"
    if os.environ.get("SPINECHO_WRITE_DOCS"):
        PAGE.write_text(page(given), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8").splitlines() == page(given).splitlines()
