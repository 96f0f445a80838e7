"""Two clients that others wrote, against the interface over a socket."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from models.study import Study
from services.database.store import Store
from services.fhir.versions import R4, R5, Version
from services.workflow.reporting import sign_report
from tests.web.department import CASES

CASE = CASES[0]


@pytest.fixture
def base(both: httpx.Client, store: Store, studies: dict[str, Study]) -> str:
    sign_report(
        store,
        CASE.study_uid,
        status="final",
        findings="",
        impression="Hydrocephalus.",
        author="TESTREADER^RUTH",
    )
    return str(both.base_url).rstrip("/")


@pytest.mark.parametrize("version", [R4], indirect=True, ids=["R4"])
def test_fhirclient(base: str, studies: dict[str, Study]) -> None:
    """Its models are those of R4 and refuse what does not fit them."""
    client = pytest.importorskip("fhirclient.client")
    from fhirclient.models import diagnosticreport, imagingstudy, patient

    study = studies[CASE.accession]
    smart = client.FHIRClient(settings={"app_id": "test", "api_base": base})
    assert smart.prepare()
    assert smart.server.capabilityStatement.fhirVersion == "4.0.1"
    person = patient.Patient.read(study.patient_id, smart.server)
    assert person.name[0].family == "ZZTEST-ALDERBOURNE"
    search = imagingstudy.ImagingStudy.where({"patient.identifier": f"HOSP|{CASE.mrn}"})
    (found,) = search.perform_resources_iter(smart.server)
    assert (found.id, found.numberOfInstances) == (study.id, 321)
    assert found.subject.resolved(patient.Patient).id == study.patient_id
    pages = imagingstudy.ImagingStudy.where({"_count": "3"}).perform_resources_iter(smart.server)
    assert {each.id for each in pages} == {each.id for each in studies.values()}
    search = diagnosticreport.DiagnosticReport.where({"status": "final"})
    (report,) = search.perform_resources_iter(smart.server)
    assert report.conclusion == "Hydrocephalus."
    with pytest.raises(Exception, match="404"):
        patient.Patient.read("absent", smart.server)


def test_fhirpy(base: str, studies: dict[str, Study], version: Version) -> None:
    fhirpy = pytest.importorskip("fhirpy")
    from fhirpy.base.exceptions import OperationOutcome, ResourceNotFound

    study = studies[CASE.accession]
    client: Any = fhirpy.SyncFHIRClient(base)
    person = client.reference("Patient", study.patient_id).to_resource()
    assert person.get_by_path(["name", 0, "family"]) == "ZZTEST-ALDERBOURNE"
    found = client.resources("ImagingStudy").search(patient=study.patient_id).first()
    modality = ["modality", 0, *(["coding", 0] if version is R5 else []), "code"]
    assert (found.id, found.get_by_path(modality)) == (study.id, "MR")
    everything = client.resources("ImagingStudy").limit(3).sort("-started").fetch_all()
    assert [each.id for each in everything] == [
        each.id for each in client.resources("ImagingStudy").sort("-started").fetch()
    ]
    assert len(everything) == client.resources("ImagingStudy").count() == len(studies)
    included = (
        client.resources("ImagingStudy")
        .search(status="available")
        .include("ImagingStudy", "subject")
        .fetch_raw()
    )
    assert {entry.resource.resource_type for entry in included.entry} >= {"ImagingStudy", "Patient"}
    answered = client.execute("Patient/$match", method="POST", data=person.serialize())
    assert answered["resourceType"] == "Bundle"
    with pytest.raises(ResourceNotFound):
        client.reference("Patient", "absent").to_resource()
    with pytest.raises(OperationOutcome, match="colour"):
        client.resources("ImagingStudy").search(colour="red").fetch()
