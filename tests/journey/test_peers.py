"""DCMTK's programs and the PyPI hl7 client against a whole ``spinecho up``."""

from __future__ import annotations

from pathlib import Path

import httpx
from hl7.client import MLLPClient
from pydicom import dcmread

from models.study import new_uid
from tests.dicom.department import run, series
from tests.hl7.orders import orm
from tests.journey.engine import Engine


def test_an_order_becomes_a_worklist_item_and_its_images_a_study(
    engine: Engine, tmp_path: Path
) -> None:
    settings = engine.settings
    dicom = ("127.0.0.1", str(settings.dicom_port))
    uid = new_uid()
    with MLLPClient("127.0.0.1", settings.hl7_port) as emr:
        answer = emr.send_message(orm(control_id="C1", uid=uid))
    assert b"MSA|AA|C1" in answer

    echoed = run("echoscu", "-aec", "SPINECHO", *dicom)
    assert echoed.returncode == 0, echoed.stderr

    (tmp_path / "items").mkdir()
    keys = ("ScheduledProcedureStepSequence[0].ScheduledStationAETitle=MR1AE", "AccessionNumber")
    asked = run(
        *("findscu", "-W", "-X", "-od", tmp_path / "items", "-aec", "SPINECHO"),
        *(part for key in (*keys, "StudyInstanceUID", "PatientID") for part in ("-k", key)),
        *dicom,
    )
    assert asked.returncode == 0, asked.stderr
    (item,) = map(dcmread, (tmp_path / "items").iterdir())
    assert (item.AccessionNumber, item.StudyInstanceUID) == ("A2026000123", uid)

    series(tmp_path / "images", uid, 3)
    sent = run("storescu", "-aec", "SPINECHO", "+sd", *dicom, tmp_path / "images")
    assert sent.returncode == 0, sent.stderr
    told = httpx.get(f"{settings.http_url}/dicom-web/studies", params={"StudyInstanceUID": uid})
    (study,) = told.json()
    assert study["00201208"]["Value"] == [3]  # Number of Study Related Instances
