"""Other people's senders and tools against a whole ``spinecho up``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from hl7.client import MLLPClient
from pydicom import Dataset, dcmread
from v2fhir.mllp import MLLPClient as BridgeClient
from v2fhir.tools.ris_sim import demo_script

from models.patient import Identifier
from models.study import new_uid
from services.database.messages import StoredMessage, Wanted
from services.database.store import Store
from tests.dicom.department import run, series
from tests.hl7.orders import orm
from tests.journey.engine import Engine

PEERS = Path(__file__).parents[1] / "peers"


@pytest.fixture
def store(engine: Engine) -> Iterator[Store]:
    store = Store(engine.settings, pool_size=1)
    yield store
    store.close()


def test_pypi_hl7_and_dcmtk(engine: Engine, tmp_path: Path) -> None:
    settings = engine.settings
    uid = new_uid()
    with MLLPClient("127.0.0.1", settings.hl7_port) as emr:
        answer = emr.send_message(orm(control_id="C1", uid=uid))
    assert b"MSA|AA|C1" in answer

    dicom = ("127.0.0.1", str(settings.dicom_port))
    echoed = run("echoscu", "-aec", "SPINECHO", *dicom)
    assert echoed.returncode == 0, echoed.stderr

    (item,) = _worklist(engine, tmp_path / "items", "A2026000123")
    assert item.StudyInstanceUID == uid
    assert item.ScheduledProcedureStepSequence[0].ScheduledStationAETitle == "MR1AE"

    series(tmp_path / "images", uid, 3)
    sent = run("storescu", "-aec", "SPINECHO", "+sd", *dicom, tmp_path / "images")
    assert sent.returncode == 0, sent.stderr
    told = httpx.get(f"{settings.http_url}/dicom-web/studies", params={"StudyInstanceUID": uid})
    (study,) = told.json()
    assert study["00201208"]["Value"] == [3]  # Number of Study Related Instances


def test_node_hl7_client(engine: Engine, store: Store, tmp_path: Path) -> None:
    if not (PEERS / "node_modules" / "node-hl7-client").is_dir():
        pytest.skip("node-hl7-client is not installed: make test asks npm for it")
    uid = new_uid()
    node = Path(sys.executable).with_name("node")
    ran = subprocess.run(
        [node, PEERS / "send.mjs", str(engine.settings.hl7_port), uid],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert [(one["control"], one["code"]) for one in told] == [
        *(("N1", "AA"), ("N2", "AA"), ("N3", "AA"), ("N4", "AE"))
    ]
    assert "101^Required field missing^HL70357" in told[-1]["answer"]

    (orm_item,) = _worklist(engine, tmp_path / "orm", "A2026000701")
    (omi_item,) = _worklist(engine, tmp_path / "omi", "A2026000702")
    assert [orm_item.StudyInstanceUID, omi_item.StudyInstanceUID] == [uid, f"{uid}.2"]
    assert [i.RequestedProcedurePriority for i in (orm_item, omi_item)] == ["ROUTINE", "STAT"]
    # The name that the ADT brought later.
    assert {str(i.PatientName) for i in (orm_item, omi_item)} == {"ROE-POE^NORA"}
    (step,) = omi_item.ScheduledProcedureStepSequence
    assert (step.ScheduledStationAETitle, step.Modality) == ("MR1AE", "MR")
    assert (step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime) == (
        *("20260302", "090000"),
    )

    kept = _log(store, "NODE")
    assert [message.raw.decode() for message in kept] == [one["sent"] for one in told]
    assert [message.state for message in kept] == ["processed"] * 3 + ["refused"]


def test_demo_traffic_of_hl7v2_fhir_bridge(engine: Engine, store: Store, tmp_path: Path) -> None:
    """Its nine messages, and the repetition and the garbage that its demo ends with."""
    script = [message.encode() for _, message in demo_script()]
    *order, completed, preliminary, final, corrected, renamed, second, cancelled = script
    with BridgeClient("127.0.0.1", engine.settings.hl7_port) as ris:
        answers = [ris.send(message) for message in order]
        (item,) = _worklist(engine, tmp_path / "ordered", "ACC2001")
        assert str(item.PatientName) == "NÚÑEZ^JOSÉ^ANTONIO"
        (step,) = item.ScheduledProcedureStepSequence
        # 10:00 at UTC-5; the worklist has the department's own time.
        start = datetime(2026, 9, 15, 15, tzinfo=UTC).astimezone()
        assert step.ScheduledProcedureStepStartTime == f"{start:%H%M%S}"
        assert step.Modality == "CT"
        answers += [ris.send(completed)]
        assert _worklist(engine, tmp_path / "completed", "ACC2001") == []
        answers += [ris.send(m) for m in (preliminary, final, corrected, renamed)]
        with store() as uow:
            patient = uow.patients.known_by(Identifier(value="SYN100234", authority="SYNTH_HOSP"))
        assert patient is not None
        assert patient.name.family == "NÚÑEZ-GARCÍA"
        answers += [ris.send(second)]
        (second_item,) = _worklist(engine, tmp_path / "second", "ACC2002")
        answers += [ris.send(cancelled)]
        assert _worklist(engine, tmp_path / "cancelled", "ACC2002") == []
        again, garbage = ris.send(script[1]), ris.send(b"this is not HL7\r")

    codes = [answer.partition(b"MSA|")[2][:2].decode() for answer in answers]
    # The last one names its order by both numbers, and no patient.
    assert codes == ["AA"] * 9
    assert again == answers[1]
    assert b"MSA|AR" in garbage

    # The order came after the change and still has the earlier name.
    assert str(second_item.PatientName) == "NÚÑEZ^JOSÉ^ANTONIO"
    # OBR-24 is HL70074's NMR, where IHE has DICOM's word.
    assert second_item.ScheduledProcedureStepSequence[0].Modality == "MR"

    kept = _log(store, "RIS_SIM")
    assert [message.raw for message in kept] == script
    assert [message.state for message in kept] == ["processed"] * 9
    with store() as uow:
        study = uow.studies.find(item.StudyInstanceUID)
        assert study is not None
        results = uow.external.of_study(study.id)
    assert [result.status for result in results] == ["P", "F", "C"]


def _worklist(engine: Engine, folder: Path, accession: str) -> list[Dataset]:
    """Return what DCMTK's findscu finds under an accession number."""
    folder.mkdir()
    keys = (
        "ScheduledProcedureStepSequence[0].ScheduledStationAETitle",
        "ScheduledProcedureStepSequence[0].Modality",
        "ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartDate",
        "ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartTime",
        f"AccessionNumber={accession}",
        *("StudyInstanceUID", "PatientID", "PatientName", "RequestedProcedurePriority"),
    )
    asked = run(
        *("findscu", "-W", "-X", "-od", folder, "-aec", "SPINECHO"),
        *(part for key in keys for part in ("-k", key)),
        *("127.0.0.1", str(engine.settings.dicom_port)),
    )
    assert asked.returncode == 0, asked.stderr
    return [dcmread(path) for path in sorted(folder.iterdir())]


def _log(store: Store, sender: str) -> list[StoredMessage]:
    """Return what is kept of a sender's messages, oldest first."""
    with store() as uow:
        return uow.messages.opened(Wanted(sender=sender, direction="in"))[::-1]
