"""Rule 4: of a patient, Prefect is told nothing; its whole database is searched."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

from services.settings import Settings
from services.simulators.anatomy import head
from services.simulators.header import Exam
from services.simulators.imaging import classic_mr
from tests.flows.conftest import UID, Department
from tests.prefect.search import rows_with

NAME, MRN, ACCESSION, WORDS = "QUILLFEATHER", "MRN7755501", "ACC7755502", "zebrafishlike"


def test_prefect_learns_nothing_of_the_patient(
    department: Department, cluster_settings: Settings
) -> None:
    department.order(family=NAME, pid=MRN, accession=ACCESSION)
    department.run_stage("order_intake")
    department.run_stage("worklist_publication")
    exam = Exam(
        key="privacy",
        patient_name=f"{NAME}^JANE^Q",
        patient_id=MRN,
        study_uid=UID,
        accession=ACCESSION,
        started=datetime(2026, 3, 1, 9),
    )
    volume = head(1, "unilateral_ventricle", matrix=96, slices=30, slice_mm=5.0)
    folder = department.folder / "head"
    folder.mkdir()
    for number, image in enumerate(classic_mr(volume, exam)):
        image.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    assert not department.ingest(folder).refused
    department.run_stage("acquisition_receipt")
    department.run_stage("triage")
    assert department.study().triage == "critical"
    department.run_stage("critical_escalation")
    department.sign(f"{NAME} has {WORDS} ventricles.")
    department.inbox.fail_next(1, "AE")  # and it names the patient
    failed = department.run("report_delivery", f"{department.study().id}:1", return_state=True)
    assert failed.is_failed()
    department.run_stage("report_delivery")
    department.run("reconcile")
    later = department.store.clock() + timedelta(days=60)
    assert department.run("tier_migration", later.isoformat()) == 1
    department.run("kpi_rollup")

    # Logs and events come a moment later; where the study's opaque id is, PHI could be too.
    told: dict[str, Any] = {}
    deadline = time.monotonic() + 30
    while not {"flow_run", "artifact", "log", "events"} <= told.keys():
        assert time.monotonic() < deadline, f"Prefect was told too little to judge: {told}"
        time.sleep(0.5)
        told = rows_with(cluster_settings, department.study().id) | rows_with(
            cluster_settings, "Beginning flow run"
        )
    for words in (NAME, MRN, ACCESSION, UID, WORDS):
        assert rows_with(cluster_settings, words) == {}, words
