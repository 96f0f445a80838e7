"""FHIR: a patient's studies among 100,000, and orders taken, beside a FHIR server in memory."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter

import httpx
from sqlalchemy import Connection, text

from benchmarks.figures import Figure, Outcome, latencies
from benchmarks.installation import database, environment, listening, ours
from deployments.installation import free_port
from services.database.store import Store
from services.fhir.versions import R4
from services.settings import Settings

STUDIES, EACH = 100_000, 5
"""Studies in all, and of each patient."""
PEER_STUDIES = 2_000
"""What the peer gets of them: its search looks at each of them."""
SEARCHES, PEER_SEARCHES, ORDERS, WARM = 300, 30, 300, 5
PEERS = Path(__file__).parent / "peers"
PEER = "@medplum/fhir-router, in memory"
_JSON = {"Content-Type": "application/fhir+json"}


def run(directory: Path) -> Outcome:
    """Fill both servers alike, then search and order, one request at a time on one connection.

    Raises
    ------
    RuntimeError
        If an answer is not what was asked for.
    """
    outcome = Outcome()
    studies = int(os.environ.get("BENCH_FHIR_STUDIES", STUDIES))
    peer_studies = min(studies, PEER_STUDIES)
    with ExitStack() as stack:
        settings = stack.enter_context(database(directory / "fhir"))
        _fill(settings, studies)
        command = ours("services.web.server")
        env = environment(settings)
        log = directory / "web.log"
        stack.enter_context(listening(command, settings.http_port, env=env, log=log))
        mine = stack.enter_context(_client(f"{settings.http_url}{R4.path}"))
        theirs = None
        if (PEERS / "node_modules" / "@medplum" / "fhir-router").is_dir():
            outcome.peers["@medplum/fhir-router"] = _version()
            theirs = stack.enter_context(_peer(directory, peer_studies))
        else:
            outcome.notes.append("fhir: @medplum/fhir-router is not installed (make bench does it)")
        search, among = _search(studies), f"a patient's studies among {studies:,}"
        outcome.figures += _figures(
            among,
            _timed(mine, SEARCHES, search),
            [] if theirs is None else _timed(theirs, PEER_SEARCHES, _search(peer_studies)),
        )
        outcome.figures += _figures(
            "ServiceRequest taken",
            _timed(mine, ORDERS, _order),
            [] if theirs is None else _timed(theirs, ORDERS, _order),
        )
    outcome.notes += [
        f"fhir: {EACH} studies a patient, each with one series of one instance; GET "
        "/ImagingStudy?patient=…&_count=50 with its total, a random patient each time",
        f"fhir: the peer has {peer_studies:,} of the studies and answers {PEER_SEARCHES} searches: "
        "it looks at every study for each",
        "fhir: our 201 comes after the order, its worklist item and what was sent are durable in "
        "PostgreSQL; the peer keeps what it is sent in memory and loses it when it ends",
        "fhir: one client (httpx), one connection, on the same cores as both servers",
    ]
    return outcome


def fill(connection: Connection, studies: int) -> None:
    """Put synthetic studies into an empty database, `EACH` for every patient, in bulk."""
    for statement in _STATEMENTS:
        connection.execute(text(statement), {"studies": studies, "each": EACH})


def patient_id(number: int) -> str:
    """Return the id of a patient of `fill`."""
    return f"p{number:07d}"


def _fill(settings: Settings, studies: int) -> None:
    store = Store(settings)
    try:
        with store() as uow:
            fill(uow.connection, studies)
        with store.engine.connect() as connection:
            for table in ("patient", "patient_identifier", "study", "series", "instance"):
                connection.execute(text(f"ANALYZE {table}"))
            connection.commit()
    finally:
        store.close()


def _search(studies: int) -> Callable[[httpx.Client, int], None]:
    def search(client: httpx.Client, number: int) -> None:
        chosen = random.Random(number).randrange(studies // EACH)
        asked = {"patient": f"Patient/{patient_id(chosen)}", "_count": 50, "_total": "accurate"}
        answer = client.get("/ImagingStudy", params=asked)
        found = answer.json().get("entry", [])
        if answer.status_code != 200 or len(found) != EACH:
            raise RuntimeError(f"{len(found)} studies were found: {answer.text[:400]}")

    return search


def _order(client: httpx.Client, number: int) -> None:
    answer = client.post("/ServiceRequest", json=_service_request(number), headers=_JSON)
    if answer.status_code != 201:
        raise RuntimeError(f"not created: {answer.text[:400]}")


def _service_request(number: int) -> dict[str, object]:
    return {
        "resourceType": "ServiceRequest",
        "identifier": [
            {
                "type": {
                    "coding": [
                        {
                            "system": "http://terminology.hl7.org/CodeSystem/v2-0203",
                            "code": "PLAC",
                        }
                    ]
                },
                "system": "http://emr.example/orders",
                "value": f"B{number:08d}",
            }
        ],
        "status": "active",
        "intent": "order",
        "priority": "routine",
        "code": {"coding": [{"code": "MRBRWO", "display": "MRI brain w/o contrast"}]},
        "subject": {"reference": f"Patient/{patient_id(number % 10)}"},
        "occurrenceDateTime": "2026-03-02T08:00:00Z",
        "reasonCode": [{"text": "Headache, no alarm sign"}],
    }


def _timed(
    client: httpx.Client, number: int, act: Callable[[httpx.Client, int], None]
) -> list[float]:
    """Return the seconds of requests, after some that do not count."""
    seconds = []
    for turn in range(number + WARM):
        begun = perf_counter()
        act(client, turn)
        seconds.append(perf_counter() - begun)
    return seconds[WARM:]


def _figures(what: str, mine: list[float], theirs: list[float]) -> list[Figure]:
    return latencies("fhir", what, mine, PEER, theirs)


@contextmanager
def _client(base: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base, timeout=60) as client:
        yield client


@contextmanager
def _peer(directory: Path, studies: int) -> Iterator[httpx.Client]:
    port = free_port()
    node = Path(sys.executable).with_name("node")
    command = [node, PEERS / "router.mjs", str(port), str(studies), str(EACH)]
    log = directory / "peer.log"
    with listening(command, port, log=log), _client(f"http://127.0.0.1:{port}") as client:
        yield client


def _version() -> str:
    lock = json.loads((PEERS / "package-lock.json").read_text())
    return str(lock["packages"]["node_modules/@medplum/fhir-router"]["version"])


_STATEMENTS = (
    """
    INSERT INTO patient (id, family, given, birth_date, sex, updated_at)
    SELECT 'p' || lpad(n::text, 7, '0'), 'BENCH' || n, 'SYNTHETIC', DATE '1980-02-14', 'F', now()
    FROM generate_series(0, :studies / :each - 1) n
    """,
    """
    INSERT INTO patient_identifier (authority, value, type, patient_id)
    SELECT 'HOSP', lpad(n::text, 7, '0'), 'MR', 'p' || lpad(n::text, 7, '0')
    FROM generate_series(0, :studies / :each - 1) n
    """,
    """
    INSERT INTO study (id, study_uid, patient_id, accession, state, priority, created_at,
                       started_at, updated_at)
    SELECT 's' || n, '2.25.' || n, 'p' || lpad((n / :each)::text, 7, '0'), 'A' || n, 'acquired',
           5, at, at, at
    FROM generate_series(0, :studies - 1) n,
         LATERAL (SELECT timestamptz '2020-01-01Z' + n * interval '1 second' AS at) moment
    """,
    """
    INSERT INTO series (series_uid, study_id, modality, number)
    SELECT '2.25.' || n || '.1', 's' || n, 'MR', 1 FROM generate_series(0, :studies - 1) n
    """,
    """
    INSERT INTO instance (sop_uid, series_uid, study_id, sop_class, transfer_syntax, tier, path,
                          size, digest, received_at)
    SELECT '2.25.' || n || '.1.1', '2.25.' || n || '.1', 's' || n, '1.2.840.10008.5.1.4.1.1.4',
           '1.2.840.10008.1.2.1', 'hot', n::text, 1, n::text, now()
    FROM generate_series(0, :studies - 1) n
    """,
)
