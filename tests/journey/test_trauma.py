"""A nameless patient is scanned, read and reported before anybody knows who it is.

The whole of it over real sockets: temporary patient, emergency images, triage, report, merge into
the known record, corrected report, and the way back.
"""

from __future__ import annotations

import io
import json
from datetime import datetime
from typing import Any

import httpx
import pytest
from pydicom import Dataset, dcmread

from models.study import new_uid
from services.simulators.anatomy import head
from services.simulators.emr import AUTHORITY, Emr, Order
from services.simulators.header import Exam
from services.simulators.imaging import classic_mr
from services.simulators.inbox import EmrInbox, ReceivedReport
from services.simulators.reader import Reader
from services.simulators.scanner import Scanner
from tests.dicomweb.serving import AS_STORED, parts
from tests.journey.engine import Engine
from tests.journey.test_ingest import spinecho, until

TEMPORARY, KNOWN = "TEMP77", "H4711"


def emergency(study_uid: str) -> Order:
    return Order(
        patient_id=TEMPORARY,
        patient_name="DOE^UNKNOWN",
        birth_date="",
        sex="",
        placer="P9901",
        filler="F9901",
        accession="ACC99901",
        procedure_id="RP9901",
        step_id="SPS9901",
        study_uid=study_uid,
        priority="S",
        procedure=("MRBRAIN", "MR brain"),
        reason="Trauma",
        station="MRTRAUMA",
        placed=datetime(2026, 3, 1, 9),
        scheduled=datetime(2026, 3, 1, 10),
    )


def merging(control_id: str) -> bytes:
    """ADT^A40: the temporary record retires into the known one (HL7 v2.5.1 §3.3.40)."""
    return "\r".join(
        [
            f"MSH|^~\\&|EMR|SIMHOSP|ENGINE|RAD|20260301120000||ADT^A40^ADT_A39|{control_id}|P|2.5.1",
            "EVN||20260301120000",
            f"PID|1||{KNOWN}^^^{AUTHORITY}^MR||ROE^RUTH||19700102|F",
            f"MRG|{TEMPORARY}^^^{AUTHORITY}^MR",
            "",
        ]
    ).encode()


@pytest.mark.timeout(180)
def test_the_trauma_patient_gets_a_name(engine: Engine, inbox: EmrInbox) -> None:
    settings, uid = engine.settings, new_uid()
    order = emergency(uid)

    def reports() -> list[ReceivedReport]:
        return [message for message in inbox.messages if message.study_uid == uid]

    with httpx.Client(base_url=settings.http_url, timeout=60) as http:

        def story() -> dict[str, Any]:
            told: dict[str, Any] = http.get(f"/api/studies/{uid}").raise_for_status().json()
            return told

        def images() -> list[bytes]:
            answer = http.get(f"/dicom-web/studies/{uid}", headers=AS_STORED)
            return [body for _, body in parts(answer)]

        def found(number: str) -> list[Any]:
            asked = {"StudyInstanceUID": uid, "PatientID": number}
            rows: list[Any] = http.get("/dicom-web/studies", params=asked).json()
            return rows

        with (
            Emr("127.0.0.1", settings.hl7_port) as emr,
            Scanner("MRTRAUMA", "127.0.0.1", settings.dicom_port, settings.ae_title) as scanner,
            Reader(settings.http_url) as reader,
        ):
            assert emr.register(order).accepted
            assert emr.place(order).accepted
            (item,) = [i for i in scanner.worklist() if i.study_uid == uid]
            assert (item.patient_id, item.patient_name) == (TEMPORARY, "DOE^UNKNOWN")

            def scanned(exam: Exam) -> list[Dataset]:
                return classic_mr(head(9, matrix=64, slices=24, slice_mm=150 / 24), exam)

            scanner.scan(item, scanned)
            until("a triage outcome", lambda: story()["study"]["triage"])
            (listed,) = [s for s in reader.reading_list() if s.study_uid == uid]
            assert "DOE" in listed.patient_name
            reader.sign(listed, "final")
            until("the report is delivered", lambda: story()["study"]["state"] == "delivered")
            assert [(m.patient_id, m.status, m.answered) for m in reports()] == [
                (TEMPORARY, "F", "AA")
            ]
            originals = images()

            # Now somebody knows who it is.
            assert emr.send_raw(merging("TRAUMA-A40")).accepted
            until("the corrected report", lambda: len(reports()) == 2)
            assert (reports()[1].patient_id, reports()[1].status) == (KNOWN, "C")
            assert emr.send_raw(merging("TRAUMA-A40-AGAIN")).accepted

        told = story()
        assert (told["patient"]["mrn"], told["patient"]["name"]) == (KNOWN, "ROE^RUTH")
        (merged,) = [e for e in told["timeline"] if e["kind"] == "patient.merged"]
        assert (merged["actor"], merged["evidence"]["why"]) == ("EMR|SIMHOSP", "ADT^A40")
        (row,) = found(KNOWN)
        assert row["00100010"]["Value"] == [{"Alphabetic": "ROE^RUTH"}]
        for body in images():
            ds = dcmread(io.BytesIO(body))
            assert (ds.PatientID, ds.PatientName, ds.PatientSex) == (KNOWN, "ROE^RUTH", "F")
            (former,) = ds.OriginalAttributesSequence[-1].ModifiedAttributesSequence
            assert (former.PatientID, former.PatientName) == (TEMPORARY, "DOE^UNKNOWN")

        # It was somebody else, after all.
        listed_changes = spinecho(settings, "patients", "changes", TEMPORARY, "--json")
        (change,) = json.loads(listed_changes.stdout)
        assert (change["kind"], change["by"], change["moved"]["study"]) == (
            *("merge", "EMR|SIMHOSP"),
            1,
        )
        undone = spinecho(
            *(settings, "patients", "undo", str(change["change"])),
            *("--by", "chief", "--why", "another person", "--json"),
        )
        assert undone.returncode == 0, undone.stderr
        assert json.loads(undone.stdout)["undone_why"] == "another person"
        assert sorted(images()) == sorted(originals)
        until("the report goes back", lambda: len(reports()) == 3)
        until("its answer is kept", lambda: story()["study"]["state"] == "delivered")
        assert [(m.patient_id, m.status, m.answered) for m in reports()] == [
            (TEMPORARY, "F", "AA"),
            (KNOWN, "C", "AA"),
            (TEMPORARY, "C", "AA"),
        ]
        assert len({m.control_id for m in reports()}) == 3
        assert story()["patient"]["mrn"] == TEMPORARY
