"""Filing what lies on a disk, as if a scanner had sent it; what is no image is named, not kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from models.errors import OurError, OutOfResources, PeerError
from services.archive.part10 import meta_of
from services.archive.tiers import Tiers
from services.database.store import Store
from services.workflow.acquisition import (
    Disposition,
    Reception,
    association_ended,
    receive_instance,
)

SOURCE_AE: Final = "INGEST"
_DICOMDIR: Final = "1.2.840.10008.1.3.10"
"""Media Storage Directory Storage (PS3.10 §8): an index of a disc, with no study of its own."""
_ARCHIVES: Final = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".txz", ".zip", ".7z", ".rar")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A file that was not filed, and why; `code` is the error's, empty where it is no DICOM."""

    file: Path
    reason: str
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestedStudy:
    """What one study has got, and where it stands now."""

    study_uid: str
    accession: str
    state: str
    stored: int
    duplicates: int
    apart: int
    """Kept in the quarantine; the desk says why."""
    bytes: int
    has_order: bool
    desk: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Ingestion:
    """What became of every file."""

    studies: list[IngestedStudy] = field(default_factory=list)
    refused: list[LeftOut] = field(default_factory=list)
    """DICOM files that cannot be filed under any UID; their bytes are in the quarantine."""
    skipped: list[LeftOut] = field(default_factory=list)
    """Files that are no DICOM objects; they stay where they are."""
    failure: OurError | None = None
    """Why it ended early; the same command again goes on where it stopped."""


def files_below(place: Path) -> list[Path]:
    """Return every file below a directory, or the one file that `place` is, in order."""
    return [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())


def ingest(
    store: Store, tiers: Tiers, files: Iterable[Path], *, on_file: Callable[[Path], None]
) -> Ingestion:
    """File each file, announce the studies, and say what became of them; may be repeated.

    Parameters
    ----------
    files : iterable of Path
        They are copied, never moved or changed.
    on_file : callable
        Told of each file once it is done.
    """
    done = Ingestion()
    reception = Reception(source_ae=SOURCE_AE)
    counts: dict[str, dict[Disposition, int]] = {}
    near = tiers.incoming("ingest") / f"{reception.id}.dcm"
    try:
        for file in files:
            reason = _no_object(file)
            if reason:
                done.skipped.append(LeftOut(file=file, reason=reason))
            else:
                try:
                    _copy(tiers, file, near)
                    received = receive_instance(
                        store, tiers, near, source_ae=SOURCE_AE, reception=reception
                    )
                except PeerError as error:
                    done.refused.append(LeftOut(file=file, reason=str(error), code=error.code))
                else:
                    if received.study_id is not None:
                        of_study = counts.setdefault(received.study_id, {})
                        of_study[received.disposition] = of_study.get(received.disposition, 0) + 1
            on_file(file)
    except OurError as error:
        done.failure = error
    finally:
        near.unlink(missing_ok=True)
    # Also after a failure: what was filed until then must be announced.
    association_ended(store, reception)
    with store() as uow:
        for study_id, of_study in counts.items():
            study = uow.studies.get(study_id)
            done.studies.append(
                IngestedStudy(
                    study_uid=study.study_uid,
                    accession=study.accession,
                    state=study.state.value,
                    stored=of_study.get(Disposition.STORED, 0),
                    duplicates=of_study.get(Disposition.DUPLICATE, 0),
                    apart=of_study.get(Disposition.CONFLICT, 0)
                    + of_study.get(Disposition.KEPT_APART, 0),
                    bytes=reception.bytes[study_id],
                    has_order=study.order_id is not None,
                    desk=tuple(row.kind for row in uow.studies.desk(study_id)),
                )
            )
    return done


def _no_object(file: Path) -> str:
    """Return why a file is no DICOM object; empty if it is one."""
    if file.name.lower().endswith(_ARCHIVES):
        return "an archive; unpack it and ingest the directory"
    try:
        with file.open("rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                return "not a DICOM file (no DICM prefix)"
            if meta_of(stream).get(0x0002) == _DICOMDIR:
                return "a DICOMDIR; the files that it lists are what counts"
    except PeerError:
        return ""  # it begins as one: to be kept, and to be told why it cannot be filed
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return ""


def _copy(tiers: Tiers, file: Path, near: Path) -> None:
    tiers.require_space()
    try:
        shutil.copyfile(file, near)
    except OSError as error:
        raise OutOfResources(f"cannot copy to {near.parent}: {error.strerror}") from error
