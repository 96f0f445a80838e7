"""Public studies from a disk to the cold tier, in a whole installation with every process real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.installation import environment
from services.settings import Settings
from services.simulators.emr import Emr, Order
from services.simulators.inbox import EmrInbox
from services.simulators.reader import Reader
from tests.journey.engine import Engine
from tests.prefect.search import rows_with

ROOT = Path(__file__).parents[2]
CORPORA = ROOT.parent / "shared" / "corpora" / "dicom"
pytestmark = pytest.mark.skipif(not CORPORA.is_dir(), reason="the corpora are not here")

BRAIN = "1.2.826.0.1.3680043.2.1143.2592092611698916978113112155415165916"
EPI = "1.2.840.113619.6.408.28831229784644470934771902094312156645"


def order(number: str, study_uid: str, **patient: str) -> Order:
    """Return an order for a study that was made already; its Study UID says which."""
    return Order(
        placer=f"P{number}",
        filler=f"F{number}",
        accession=f"ACC880{number}",
        procedure_id=f"RP{number}",
        step_id=f"SPS{number}",
        study_uid=study_uid,
        priority="R",
        procedure=("MRBRAIN", "MR brain"),
        reason="Headache",
        station="MR1AE",
        placed=datetime(2026, 3, 1, 9),
        scheduled=datetime(2026, 3, 1, 10),
        **patient,
    )


ORDERS = {
    BRAIN: order(
        "1", BRAIN, patient_id="02", patient_name="Jane_Doe", birth_date="19660101", sex="F"
    ),
    EPI: order("2", EPI, patient_id="DEV", patient_name="Test^Regression", birth_date="", sex=""),
}


def run(settings: Settings, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=os.environ | environment(settings),
        capture_output=True,
        text=True,
        timeout=120,
    )


def spinecho(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(settings, Path(sys.executable).with_name("spinecho"), *arguments)


def until(what: str, condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        time.sleep(0.25)


def digests(parts: list[bytes]) -> set[str]:
    return {sha256(part).hexdigest() for part in parts}


def retrieve(http: httpx.Client, study_uid: str) -> set[str]:
    """Return the digest of every part of the study, as WADO-RS gives it (PS3.18 §10.4)."""
    answer = http.get(
        f"/dicom-web/studies/{study_uid}",
        headers={"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'},
    )
    assert answer.status_code == 200
    boundary = answer.headers["content-type"].split("boundary=")[1].strip('"').split(";")[0]
    parts = answer.content.split(f"--{boundary}".encode())[1:-1]
    return digests([part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n") for part in parts])


@pytest.mark.timeout(280)
def test_from_receipt_to_report_and_cold_tier(
    engine: Engine, inbox: EmrInbox, tmp_path: Path
) -> None:
    settings = engine.settings
    (tmp_path / "brain").mkdir()
    (archive,) = (CORPORA / "studyforrest_T1w").glob("*.tar.xz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "brain", filter="data")
    originals = {
        BRAIN: [p for p in sorted((tmp_path / "brain").rglob("*")) if p.is_file()],
        EPI: sorted((CORPORA / "ge_mr750_epi").glob("*.dcm")),
    }
    assert [len(files) for files in originals.values()] == [384, 150]

    # Filed from the disk; what is no image is named and left where it is.
    for folder, uid in ((tmp_path / "brain", BRAIN), (CORPORA / "ge_mr750_epi", EPI)):
        ingested = spinecho(settings, "ingest", str(folder), "--json")
        assert ingested.returncode == 0, ingested.stderr
        told: dict[str, Any] = json.loads(ingested.stdout)
        (filed,) = told["studies"]
        assert filed["study_uid"] == uid
        assert filed["stored"] == len(originals[uid])
        assert filed["desk"] == ["no-order"]
        assert told["refused"] == []
    assert [Path(each["file"]).name for each in told["skipped"]] == ["README-Series.txt"]

    with httpx.Client(base_url=settings.http_url, timeout=60) as http:

        def story(uid: str) -> dict[str, Any]:
            answer = http.get(f"/api/studies/{uid}")
            assert answer.status_code == 200, answer.text
            told: dict[str, Any] = answer.json()
            return told

        def study(uid: str, key: str) -> Any:
            return story(uid)["study"][key]

        def kinds(uid: str) -> list[str]:
            return [entry["kind"] for entry in story(uid)["timeline"]]

        # Judged complete by silence, then looked at by the model, whose outcome is shown.
        until("a triage outcome", lambda: all(study(u, "triage") for u in ORDERS))
        assert all(study(uid, "triage") in ("normal", "abstained") for uid in ORDERS)

        # Read and signed; without an order the report reaches no chart.
        with Reader(settings.http_url) as reader:
            signed = {reader.read_next().study.study_uid for _ in ORDERS}
            assert reader.read_next() is None
        assert signed == set(ORDERS)
        until("the reports are held", lambda: all("report.held" in kinds(u) for u in ORDERS))
        assert inbox.messages == []

        # The orders come late, join their studies and let the reports go.
        with Emr("127.0.0.1", settings.hl7_port) as emr:
            for late in ORDERS.values():
                ack = emr.place(late)
                assert ack.accepted, ack.text
        until(
            "the reports are delivered",
            lambda: all(study(u, "state") == "delivered" for u in ORDERS),
        )
        reports = {report.study_uid: report for report in inbox.accepted}
        assert reports.keys() == ORDERS.keys()
        assert not inbox.duplicates
        for uid, late in ORDERS.items():
            assert reports[uid].answered == "AA"
            assert (reports[uid].accession, reports[uid].placer) == (late.accession, late.placer)
            assert reports[uid].patient_id == late.patient_id
        assert http.get("/api/desk").json()["desk"] == []

        # Years pass: both lie on the cold tier and read back to the byte.
        for days in (60, 1000):
            # In a process of its own: Prefect reads its settings when it is imported.
            passing = (
                "from deployments.demonstration import let_time_pass\n"
                "from services.settings import Settings\n"
                f"let_time_pass(Settings(), {days})"
            )
            moved = run(settings, sys.executable, "-c", passing)
            assert moved.returncode == 0, moved.stderr
        for uid, files in originals.items():
            assert study(uid, "tier") == "cold"
            assert digests([file.read_bytes() for file in files]) <= retrieve(http, uid)
        assert not [*settings.hot_root.rglob("1.2*/**/*.dcm")]

        # Every run of both studies is in Prefect, and neither patient is (rule 4).
        for uid, late in ORDERS.items():
            assert rows_with(settings, study(uid, "id"))["flow_run"] >= 5
            family = late.patient_name.split("^")[-1]
            for words in (family, late.accession, uid):
                assert rows_with(settings, words) == {}, words
