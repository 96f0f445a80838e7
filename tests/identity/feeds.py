"""Feeds and images of invented people, for an audit to judge."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from services.simulators.population import Person, Population

MR = "1.2.840.10008.5.1.4.1.1.4"
OID = "1.2.3.4"


def people(count: int, seed: int = 5) -> list[Person]:
    """Named people of whom no two share a name or a birth date: nobody takes them for one."""
    chosen: dict[str, Person] = {}
    for person in Population(count * 3, seed).registry:
        born = person.birth_date
        ordinary = born is not None and (born.month, born.day) != (1, 1)
        if ordinary and not person.given.lower().startswith(("baby", "newborn")):
            chosen.setdefault(f"{person.family} {born}", person)
    unlike = {(p.birth_date): p for p in chosen.values()}
    return list(unlike.values())[:count]


def number(person: Person) -> str:
    return person.identifiers[0][0]


def order(
    person: Person,
    at: int,
    *,
    pid3: str | None = None,
    accession: str | None = None,
    uid: str | None = None,
    type_: str = "ORM^O01",
    charset: str = "UNICODE UTF-8",
    mrg: str = "",
) -> bytes:
    """One v2.3.1 order for the person, the `at`-th of the feed."""
    born = f"{person.birth_date:%Y%m%d}" if person.birth_date else ""
    pid3 = f"{number(person)}^^^HOSP&{OID}&ISO^MR" if pid3 is None else pid3
    name = f"{person.family}^{person.given}^{person.middle}"
    codec = {"UNICODE UTF-8": "utf-8", "8859/1": "latin-1", "GB 18030-2000": "gb18030"}[charset]
    lines = [
        f"MSH|^~\\&|EMR|HOSP|ENGINE|RAD|20260301||{type_}|M{at}|P|2.3.1||||||{charset}",
        f"PID|1||{pid3}||{name}||{born}|{person.sex}",
    ]
    if mrg:
        lines.append(f"MRG|{mrg}")
    if type_ == "ORM^O01":
        accession = f"A2026{at:06d}" if accession is None else accession
        lines += [
            f"ORC|NW|P{at}^EMR",
            f"OBR|1|P{at}^EMR||MR1^MR^L||||||||||||||{accession}|R{at}|S{at}",
            f"ZDS|{uid or f'2.25.{1000 + at}'}^100^Application^DICOM",
        ]
    return "\r".join([*lines, ""]).encode(codec)


def image(
    person: Person,
    at: int,
    *,
    patient_id: str | None = None,
    issuer: str = "HOSP",
    universal: str = "",
    accession: str | None = None,
    uid: str | None = None,
) -> bytes:
    """A DICOM file of the study that the `at`-th order asked for."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = MR, f"2.25.{900000 + at}"
    ds.StudyInstanceUID = uid or f"2.25.{1000 + at}"
    ds.SeriesInstanceUID, ds.Modality = f"2.25.{800000 + at}", "MR"
    ds.AccessionNumber = f"A2026{at:06d}" if accession is None else accession
    ds.PatientID = number(person) if patient_id is None else patient_id
    if issuer:
        ds.IssuerOfPatientID = issuer
    if universal:
        qualifiers = Dataset()
        qualifiers.UniversalEntityID, qualifiers.UniversalEntityIDType = universal, "ISO"
        ds.IssuerOfPatientIDQualifiersSequence = [qualifiers]
    ds.PatientName = f"{person.family}^{person.given}^{person.middle}"
    ds.PatientBirthDate = f"{person.birth_date:%Y%m%d}" if person.birth_date else ""
    ds.PatientSex = person.sex
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = MR
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def write_feed(path: Path, messages: Iterable[bytes], *, framed: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    framing: Callable[[bytes], bytes] = lambda m: b"\x0b" + m + b"\x1c\r"  # noqa: E731
    path.write_bytes(b"".join(framing(m) if framed else m + b"\r" for m in messages))
    return path


def write_images(directory: Path, images: Iterable[bytes]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for at, data in enumerate(images):
        (directory / f"{at:04d}.dcm").write_bytes(data)
    return directory


def write_tar(path: Path, images: Iterable[bytes], mode: str = "w:xz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for at, data in enumerate(images):
            member = tarfile.TarInfo(f"study/{at:04d}.dcm")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path
