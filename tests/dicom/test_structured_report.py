from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from highdicom.sr import srread
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
)

from services.dicom.structured_report import (
    DESCRIPTION,
    SCHEME,
    Device,
    read_evidence,
    triage_report,
)
from services.inference.assessment import (
    ASYMMETRIC_VOLUME,
    ASYMMETRY_INDEX,
    LEFT_VENTRICLE,
    MIDLINE_SHIFT,
    RIGHT_VENTRICLE,
    Assessment,
    Evidence,
    Measurement,
)

WHEN = datetime(2026, 1, 2, 8, 31, 5, tzinfo=timezone(timedelta(hours=1)))
DEVICE = Device(
    uid="2.25.299", serial_number="site-1", software_version="0.1.0", institution="Test hospital"
)
VALUES = {
    ASYMMETRY_INDEX: (0.71, "1"),
    ASYMMETRIC_VOLUME: (29.4, "ml"),
    LEFT_VENTRICLE: (38.2, "ml"),
    RIGHT_VENTRICLE: (9.1, "ml"),
    MIDLINE_SHIFT: (5.4, "mm"),
}


def slices(count: int = 5, **values: Any) -> list[Dataset]:
    """Headers as a scanner writes them, a German patient among them."""
    headers = []
    for number in range(count):
        ds = Dataset()
        ds.SpecificCharacterSet = "ISO_IR 100"
        ds.SOPClassUID = MRImageStorage
        ds.SOPInstanceUID = f"2.25.10{number}"
        ds.StudyInstanceUID = "2.25.1"
        ds.SeriesInstanceUID = f"2.25.{2 + number // 3}"
        ds.StudyDate, ds.StudyTime = "20260102", "081500"
        ds.StudyID, ds.AccessionNumber = "S1", "A-77"
        ds.PatientName, ds.PatientID = "Müller^Käthe", "P-1"
        ds.PatientBirthDate, ds.PatientSex = "19500304", "F"
        ds.IssuerOfPatientID = "HOSP"
        ds.ReferringPhysicianName = "Doe^Jane"
        for keyword, value in values.items():
            setattr(ds, keyword, value)
        headers.append(ds)
    return headers


def assessment(outcome: str, headers: list[Dataset], **values: Any) -> Assessment:
    base: dict[str, Any] = {
        "outcome": outcome,
        "reason": "asymmetry index 0.71, at or above the threshold of 0.50",
        "model": "asymmetry@1.0.0",
        "evidence": tuple(
            Evidence(
                study_uid=ds.StudyInstanceUID,
                series_uid=ds.SeriesInstanceUID,
                sop_class_uid=ds.SOPClassUID,
                sop_instance_uid=ds.SOPInstanceUID,
            )
            for ds in headers
        ),
    }
    if outcome != "abstained":
        base["score"] = 0.71
        base["measurements"] = tuple(
            Measurement(name=name, value=value, unit=unit) for name, (value, unit) in VALUES.items()
        )
    if outcome == "critical":
        base |= {"side": "left", "findings": ("marked left–right asymmetry of the deep brain",)}
    return Assessment(**(base | values))


def report(outcome: str, headers: list[Dataset] | None = None, **values: Any) -> Dataset:
    headers = headers if headers is not None else slices()
    return triage_report(assessment(outcome, headers, **values), headers, when=WHEN, device=DEVICE)


def encoded(ds: Dataset) -> bytes:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def items(ds: Dataset) -> Iterator[Dataset]:
    for item in ds.get("ContentSequence", []):
        yield item
        yield from items(item)


def answers(ds: Dataset) -> dict[str, list[str]]:
    """Code values of the answers to each question, the question by its code value."""
    found: dict[str, list[str]] = {}
    for item in items(ds):
        if item.ValueType == "CODE":
            question = item.ConceptNameCodeSequence[0].CodeValue
            found.setdefault(question, []).append(item.ConceptCodeSequence[0].CodeValue)
    return found


OUTCOMES = {
    "critical": lambda: report("critical"),
    "normal": lambda: report("normal"),
    "not attempted": lambda: report("abstained", reason="the crown of the head is not seen"),
    "failed": lambda: report("abstained", failed=True, reason="timed out after 30 s"),
}


@pytest.mark.parametrize("make", OUTCOMES.values(), ids=OUTCOMES.keys())
def test_dciodvfy_finds_no_error(make: Callable[[], Dataset], tmp_path: Path) -> None:
    validator = Path(sys.executable).parent / "dciodvfy"
    if not validator.exists():
        pytest.skip("dicom3tools is not installed")
    path = tmp_path / "report.dcm"
    path.write_bytes(encoded(make()))
    done = subprocess.run([validator, "-new", path], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert "Comprehensive3DSR" in said
    assert "Error" not in said
    assert done.returncode == 0


@pytest.mark.parametrize("make", OUTCOMES.values(), ids=OUTCOMES.keys())
def test_dcmtk_reads_it(make: Callable[[], Dataset], tmp_path: Path) -> None:
    # pynetdicom puts programs of DCMTK's names into the environment's own folder
    own = Path(sys.executable).parent
    outside = [p for p in os.get_exec_path() if Path(p).resolve() != own.resolve()]
    reader = shutil.which("dsrdump", path=os.pathsep.join(outside))
    if reader is None:
        pytest.skip("DCMTK is not installed")
    path = tmp_path / "report.dcm"
    path.write_bytes(encoded(make()))
    done = subprocess.run([reader, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Imaging Measurement Report" in done.stdout
    assert "E:" not in done.stderr


def test_highdicom_reads_its_measurements_back(tmp_path: Path) -> None:
    path = tmp_path / "report.dcm"
    path.write_bytes(encoded(report("critical")))
    (group,) = srread(path).content.get_image_measurement_groups()
    values = sorted(round(float(m.value), 1) for m in group.get_measurements())
    assert values == sorted(round(value, 1) for value, _ in VALUES.values())
    assert {m.unit.scheme_designator for m in group.get_measurements()} == {"UCUM"}


def test_it_belongs_to_the_study_and_has_a_series_of_its_own() -> None:
    ds = report("critical")
    assert ds.SOPClassUID == Comprehensive3DSRStorage
    assert (ds.Modality, ds.StudyInstanceUID, ds.AccessionNumber) == ("SR", "2.25.1", "A-77")
    assert (ds.PatientID, ds.IssuerOfPatientID, ds.PatientSex) == ("P-1", "HOSP", "F")
    assert ds.SeriesInstanceUID not in {"2.25.2", "2.25.3"}
    assert ds.SeriesDescription == DESCRIPTION
    assert (ds.VerificationFlag, ds.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    again = dcmread(BytesIO(encoded(ds)))
    assert str(again.PatientName) == "Müller^Käthe"
    assert again.SeriesDescription == DESCRIPTION


def test_the_accession_number_keeps_its_issuer() -> None:
    issuer = Dataset()
    issuer.LocalNamespaceEntityID = "RIS"
    ds = report("normal", slices(IssuerOfAccessionNumberSequence=[issuer]))
    assert ds.IssuerOfAccessionNumberSequence[0].LocalNamespaceEntityID == "RIS"


@pytest.mark.parametrize("name", ["SMITH", "", "A^B^C^D^E", "Doe^" + "J" * 60])
def test_an_unusual_name_is_kept_and_not_talked_about(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    # warnings are errors here
    assert report("normal", slices(PatientName=name)).PatientName == name
    assert caplog.text == ""


def test_a_name_in_ideographs_survives() -> None:
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    headers = slices(2, SpecificCharacterSet="ISO_IR 192", PatientName=name)
    again = dcmread(BytesIO(encoded(report("normal", headers))))
    assert str(again.PatientName) == name


def test_it_says_who_observed_and_by_which_algorithm() -> None:
    ds = report("critical")
    assert answers(ds)["121005"] == ["121007"]  # observer type: device
    texts = {
        item.ConceptNameCodeSequence[0].CodeValue: item.get("TextValue") or item.get("UID")
        for item in items(ds)
        if item.ValueType in ("TEXT", "UIDREF")
    }
    assert texts["121012"] == DEVICE.uid
    assert (texts["111001"], texts["111003"]) == ("asymmetry", "1.0.0")
    assert answers(ds)["111000"] == ["123110"]  # artificial intelligence
    assert texts["121106"].startswith(DESCRIPTION)
    assert texts["112039"]
    assert texts["112040"].startswith("2.25.")


def test_a_critical_finding_is_present_and_actionable() -> None:
    found = answers(report("critical"))
    assert found["121071"] == ["ASYM-BRAIN"]
    assert found["121052"] == ["52101004"]  # present
    assert found["ACTIONABLE"] == ["RID49480"]
    assert found["111065"] == ["111222"]  # succeeded
    assert found["363698007"][:2] == ["12738006", "66720007"]  # brain, lateral ventricle
    assert found["272741003"][0] == "7771000"  # left


def test_nothing_found_is_not_the_same_as_not_looked() -> None:
    normal, skipped, failed = (
        answers(OUTCOMES[k]()) for k in ("normal", "not attempted", "failed")
    )
    assert normal["121052"] == ["2667000"]  # absent
    assert "ACTIONABLE" not in normal
    assert [a["111065"] for a in (normal, skipped, failed)] == [["111222"], ["111225"], ["111224"]]
    for silent in (skipped, failed):
        assert "121052" not in silent
        assert "121071" not in silent
    flags = [OUTCOMES[k]().CompletionFlag for k in ("normal", "not attempted", "failed")]
    assert flags == ["COMPLETE", "PARTIAL", "PARTIAL"]


def test_private_codes_name_their_scheme() -> None:
    (scheme,) = report("critical").CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == SCHEME


def test_every_instance_that_was_used_is_evidence_and_source() -> None:
    ds = report("critical")
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    listed = {
        sop.ReferencedSOPInstanceUID: series.SeriesInstanceUID
        for series in study.ReferencedSeriesSequence
        for sop in series.ReferencedSOPSequence
    }
    assert listed == {h.SOPInstanceUID: h.SeriesInstanceUID for h in slices()}
    images = [item for item in items(ds) if item.ValueType == "IMAGE"]
    assert {i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in images} == set(listed)


def test_headers_that_were_not_used_are_not_evidence() -> None:
    used = slices()
    other = slices(1, SOPInstanceUID="2.25.999", SeriesInstanceUID="2.25.998")
    ds = triage_report(assessment("normal", used), [*other, *used], when=WHEN, device=DEVICE)
    assert b"2.25.999" not in encoded(ds)


def test_an_early_abstention_refers_to_what_it_was_offered() -> None:
    offered = slices(1) + slices(1, SOPClassUID=EnhancedSRStorage, SOPInstanceUID="2.25.500")
    silent = replace(assessment("abstained", []), reason="no eligible series")
    ds = triage_report(silent, offered, when=WHEN, device=DEVICE)
    assert b"2.25.500" in encoded(ds)
    # a report is evidence, but no image
    images = [item for item in items(ds) if item.ValueType == "IMAGE"]
    assert [i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in images] == ["2.25.100"]
    only_reports = offered[1:]
    assert triage_report(silent, only_reports, when=WHEN, device=DEVICE).Modality == "SR"


def test_the_same_inputs_give_the_same_bytes_in_any_order() -> None:
    headers = slices()
    assert encoded(report("critical", headers)) == encoded(report("critical", headers[::-1]))


def test_the_uid_follows_the_inputs_the_model_and_the_study() -> None:
    reports = [
        report("critical"),
        report("critical", slices(4)),
        report("critical", model="asymmetry@1.0.1"),
        report("critical", slices(StudyInstanceUID="2.25.7")),
        # an abstention may be followed by a result on the same instances
        report("abstained", reason="timed out after 30 s", failed=True),
    ]
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        uids = {str(ds[keyword].value) for ds in reports}
        assert len(uids) == len(reports)
        assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids)
    later = triage_report(
        assessment("critical", slices()),
        slices(),
        when=WHEN + timedelta(days=1),
        device=DEVICE,
    )
    assert later.SOPInstanceUID == reports[0].SOPInstanceUID


def test_the_finding_keeps_its_tracking_uid_across_versions() -> None:
    def tracked(ds: Dataset) -> str:
        return next(
            item.UID
            for item in items(ds)
            if item.ValueType == "UIDREF" and item.ConceptNameCodeSequence[0].CodeValue == "112040"
        )

    assert tracked(report("critical")) == tracked(report("normal", model="asymmetry@2.0.0"))


def test_times_are_on_the_studys_clock() -> None:
    silent, told = (
        dcmread(BytesIO(encoded(report("normal", slices(**values)))))
        for values in ({}, {"TimezoneOffsetFromUTC": "-0500"})
    )
    assert (silent.ContentDate, silent.ContentTime) == ("20260102", "083105")
    assert "TimezoneOffsetFromUTC" not in silent
    assert (told.ContentTime, told.TimezoneOffsetFromUTC) == ("023105", "-0500")
    assert (told.InstanceCreationTime, told.SeriesTime) == ("023105", "023105")


@pytest.mark.parametrize(
    "missing", ["PatientBirthDate", "PatientSex", "StudyID", "StudyTime", "ReferringPhysicianName"]
)
def test_a_poor_header_does_not_prevent_a_report(missing: str) -> None:
    headers = slices()
    for header in headers:
        del header[missing]
    assert report("normal", headers).StudyInstanceUID == "2.25.1"


@pytest.mark.filterwarnings(
    # the point of the test: pydicom says that these values are wrong when the test sets them
    "ignore:Invalid value for VR:UserWarning"
)
def test_a_garbled_header_does_not_prevent_a_report() -> None:
    headers = slices(PatientBirthDate="1950?", PatientSex="X", StudyTime="noon", StudyDate="")
    ds = report("normal", headers)
    assert (ds.PatientBirthDate, ds.PatientSex, ds.StudyTime) == ("", "", "")


def test_the_procedure_is_that_of_the_study() -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "MRHEAD", "L", "MR head plain"
    assert answers(report("normal", slices(ProcedureCodeSequence=[code])))["121058"] == ["MRHEAD"]
    assert answers(report("normal"))["121058"] == ["24590-2"]


def test_evidence_is_read_without_pixels(tmp_path: Path) -> None:
    (header,) = slices(1)
    header.Rows = header.Columns = 2
    header.PixelData = b"\x00" * 8
    header["PixelData"].VR = "OW"
    header.BitsAllocated = 16
    path = tmp_path / "slice.dcm"
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.save_as(path, enforce_file_format=True)
    (read,) = read_evidence([path])
    assert "PixelData" not in read
    assert report("normal", [read]).PatientID == "P-1"


def test_what_cannot_be_reported_is_refused() -> None:
    headers = slices()
    whole = assessment("normal", headers)
    with pytest.raises(ValueError, match="lacks 1 instance"):
        triage_report(whole, headers[1:], when=WHEN, device=DEVICE)
    with pytest.raises(ValueError, match="at least one"):
        triage_report(assessment("abstained", []), [], when=WHEN, device=DEVICE)
    with pytest.raises(ValueError, match="time zone"):
        triage_report(whole, headers, when=WHEN.replace(tzinfo=None), device=DEVICE)
    mixed = [*headers, *slices(1, SOPInstanceUID="2.25.8", StudyInstanceUID="2.25.9")]
    with pytest.raises(ValueError, match="several studies"):
        triage_report(assessment("normal", mixed), mixed, when=WHEN.astimezone(UTC), device=DEVICE)
    with pytest.raises(ValueError, match="no code"):
        report("normal", measurements=(Measurement(name="charm", value=1.0, unit="1"),))
