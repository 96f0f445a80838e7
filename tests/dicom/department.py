"""What DICOM tests need around them: orders, images, and DCMTK as an independent peer."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE
from pynetdicom.association import Association

from models.lifecycle import StudyState
from models.order import Code, Order, ScheduledStep
from models.patient import Identifier, Patient, PersonName
from models.priority import Priority
from models.study import Study, new_id, new_uid
from services.database.store import Store

CORPORA = Path(__file__).parents[2].parent / "shared" / "corpora"

JANE = Patient(
    id="jane",
    identifiers=(Identifier(value="0012345", authority="HOSP"),),
    name=PersonName(family="DOE", given="JANE"),
    birth_date=date(1980, 2, 14),
    sex="F",
)
JOHN = Patient(
    id="john",
    identifiers=(Identifier(value="0099999", authority="HOSP"),),
    name=PersonName(family="ROE", given="JOHN"),
    birth_date=date(1951, 7, 1),
    sex="M",
)


@cache
def dcmtk(tool: str) -> str:
    """DCMTK's tool; pynetdicom puts namesakes of its own into the virtual environment."""
    for directory in ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin", "/opt/local/bin"):
        found = shutil.which(tool, path=directory)
        if found is None:
            continue
        version = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=20)
        if "dcmtk" in version.stdout:
            return found
    pytest.skip(f"DCMTK's {tool} is not installed (Debian: apt-get install dcmtk)")


def run(tool: str, *arguments: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [dcmtk(tool), *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        env={"TCP_NODELAY": "1"},
    )


def place(
    store: Store,
    *,
    patient: Patient = JANE,
    accession: str = "A1",
    study_uid: str | None = None,
    sps: tuple[str, ...] = ("SPS1",),
    start: datetime = datetime(2026, 3, 1, 9, 0, tzinfo=UTC),
    station: str = "MR1AE",
    modality: str = "MR",
    priority: Priority = Priority.ROUTINE,
    performing: str = "",
) -> tuple[Order, Study]:
    """Save an order with its patient and its study, as intake does."""
    order = Order(
        id=new_id(),
        patient_id=patient.id,
        placer_number=f"P{accession}",
        accession=accession,
        study_uid=study_uid or new_uid(),
        requested_procedure_id="RP1",
        procedure=Code(value="MRBRWO", meaning="MRI brain w/o contrast"),
        priority=priority,
        steps=tuple(
            ScheduledStep(
                sps_id=s,
                start_at=start,
                station_aet=station,
                modality=modality,
                description="Brain",
                performing=PersonName.parse(performing),
                protocol=Code(value="BRAIN", meaning="Brain routine"),
            )
            for s in sps
        ),
    )
    with store() as uow:
        uow.patients.save(patient)
        uow.orders.save(order)
        study = uow.studies.ensure(
            order.study_uid,
            state=StudyState.SCHEDULED,
            order_id=order.id,
            patient_id=patient.id,
            accession=accession,
            priority=priority,
            description=order.procedure.meaning,
        )
    return order, study


def image(
    study_uid: str,
    *,
    patient: Patient = JANE,
    series_uid: str | None = None,
    sop_uid: str | None = None,
    number: int = 1,
    size: int = 32,
    seed: int = 0,
) -> FileDataset:
    """A small MR image; every patient is invented."""
    ds = Dataset()
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = sop_uid or new_uid()
    ds.StudyInstanceUID = study_uid
    ds.SeriesInstanceUID = series_uid or f"{study_uid}.1"
    ds.StudyDate, ds.StudyTime, ds.StudyID = "20260301", "091500", "1"
    ds.SeriesNumber, ds.InstanceNumber = 1, number
    ds.Modality, ds.SeriesDescription, ds.StudyDescription = "MR", "T1 ax", "Brain"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "NORM"]
    ds.PatientName = str(patient.name)
    ds.PatientID = patient.mrn.value
    ds.PatientBirthDate = patient.birth_date.strftime("%Y%m%d") if patient.birth_date else ""
    ds.PatientSex = patient.sex
    ds.AccessionNumber = ""
    ds.ReferringPhysicianName = ""
    ds.Rows = ds.Columns = size
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth = "2048", "4096"
    random = np.random.default_rng(seed * 1000 + number)
    ds.PixelData = random.integers(0, 4096, (size, size), dtype=np.uint16).tobytes()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return FileDataset(None, ds, b"\0" * 128, meta, is_implicit_VR=False)


def begun(study_uid: str, *sps_ids: str, patient: Patient = JANE) -> Dataset:
    """What a scanner creates when an exam begins."""
    ds = Dataset()
    items = []
    for sps_id in sps_ids or ("SPS1",):
        item = Dataset()
        item.StudyInstanceUID = study_uid
        item.ScheduledProcedureStepID = sps_id
        item.AccessionNumber = "A1"
        item.RequestedProcedureID = "RP1"
        items.append(item)
    ds.ScheduledStepAttributesSequence = items
    ds.PatientName, ds.PatientID = str(patient.name), patient.mrn.value
    ds.PatientBirthDate = patient.birth_date.strftime("%Y%m%d") if patient.birth_date else ""
    ds.PatientSex = patient.sex
    ds.PerformedProcedureStepID = "PPS1"
    ds.PerformedStationAETitle = "MR1AE"
    ds.PerformedProcedureStepStartDate = "20260301"
    ds.PerformedProcedureStepStartTime = "091000"
    ds.PerformedProcedureStepEndDate = ds.PerformedProcedureStepEndTime = ""
    ds.PerformedProcedureStepStatus = "IN PROGRESS"
    ds.Modality = "MR"
    ds.PerformedSeriesSequence = []
    ds.PerformedProcedureStepDiscontinuationReasonCodeSequence = []
    return ds


def ended(status: str, *sop_uids: str, reason: str | None = None) -> Dataset:
    """What it sets when the exam ends."""
    ds = Dataset()
    ds.PerformedProcedureStepStatus = status
    ds.PerformedProcedureStepEndDate = "20260301"
    ds.PerformedProcedureStepEndTime = "093000"
    series = Dataset()
    series.SeriesInstanceUID = "1.2.3.4"
    series.ProtocolName = "Brain"
    series.ReferencedImageSequence = []
    for sop_uid in sop_uids:
        item = Dataset()
        item.ReferencedSOPClassUID = MRImageStorage
        item.ReferencedSOPInstanceUID = sop_uid
        series.ReferencedImageSequence.append(item)
    ds.PerformedSeriesSequence = [series]
    if reason:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = reason, "DCM", "x"
        ds.PerformedProcedureStepDiscontinuationReasonCodeSequence = [code]
    return ds


def write(ds: FileDataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def series(folder: Path, study_uid: str, count: int, **kwargs: Any) -> list[FileDataset]:
    """Write `count` images of one series below `folder`."""
    made = [image(study_uid, number=n, **kwargs) for n in range(1, count + 1)]
    for n, ds in enumerate(made):
        write(ds, folder / f"{n:04d}.dcm")
    return made


@contextmanager
def associated(port: int, *contexts: str, **kwargs: Any) -> Iterator[Association]:
    """An association of pynetdicom as SCU, calling as MR1."""
    ae = AE(ae_title=kwargs.pop("ae_title", "MR1"))
    for context in contexts:
        ae.add_requested_context(context)
    assoc = ae.associate("127.0.0.1", port, **kwargs)
    assert assoc.is_established
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()
