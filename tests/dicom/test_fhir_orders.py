"""An order over FHIR, as a scanner reads it from the worklist: the bytes of the one over HL7."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from services.fhir.versions import R4, VERSIONS, Version
from services.workflow.fhir_requests import FhirRequest, receive_request
from services.workflow.messages import receive_message
from tests.dicom.conftest import Listener
from tests.dicom.test_orders_on_worklist import forget, worklist
from tests.fhir.orders import SYSTEMS, full, in_r5
from tests.hl7.orders import orm


def send(listener: Listener, bundle: dict[str, Any], version: Version) -> None:
    request = FhirRequest(
        method="POST",
        path="",
        query="",
        headers={},
        body=json.dumps(bundle).encode(),
        release=version.name,
        base=f"http://127.0.0.1{version.path}",
    )
    settings = listener.settings.model_copy(update={"fhir_systems": SYSTEMS})
    answer = receive_request(listener.store, request, settings=settings)
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.name)
def test_hl7_and_fhir_make_the_same_item_byte_for_byte(
    listener: Listener, tmp_path: Path, version: Version
) -> None:
    raw = orm().replace(b"|||WALK|", b"||||")  # FHIR has no element for it
    receive_message(listener.store, raw, peer="test", settings=listener.settings)
    (by_hl7,) = worklist(listener, tmp_path / "hl7")
    forget(listener.store)
    send(listener, full() if version is R4 else in_r5(full()), version)
    (by_fhir,) = worklist(listener, tmp_path / "fhir")
    assert by_fhir == by_hl7


def test_only_numbers_of_ours_differ_where_nobody_gave_any(
    listener: Listener, tmp_path: Path
) -> None:
    raw = orm().replace(b"|||WALK|", b"||||").replace(b"A2026000123|RP1|SPS1", b"||")
    raw = raw[: raw.index(b"ZDS")]
    receive_message(listener.store, raw, peer="test", settings=listener.settings)
    worklist(listener, tmp_path / "hl7")
    forget(listener.store)
    bundle = full()
    bundle["entry"][1]["resource"]["identifier"] = bundle["entry"][1]["resource"]["identifier"][:2]
    del bundle["entry"][0]
    send(listener, bundle, R4)
    worklist(listener, tmp_path / "fhir")
    items = [dcmread(tmp_path / name / "rsp0001.dcm") for name in ("hl7", "fhir")]
    for item in items:
        for keyword in ("AccessionNumber", "StudyInstanceUID", "RequestedProcedureID"):
            delattr(item, keyword)
        del item.ScheduledProcedureStepSequence[0].ScheduledProcedureStepID
    assert items[0] == items[1]
