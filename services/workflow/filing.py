"""One file on its way into the archive: what is decided about it inside one transaction."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from hashlib import file_digest
from pathlib import Path
from typing import Any

import structlog

from models.errors import PeerError
from models.lifecycle import StudyEvent, move
from models.study import Study, new_id
from models.tier import Tier
from services.archive.part10 import Header
from services.archive.tiers import Tiers
from services.database.store import Store, UnitOfWork
from services.workflow.identification import Belonging, Claim, belonging, open_study
from services.workflow.kept_files import follow

log = structlog.get_logger(__name__)


class Disposition(Enum):
    """What became of a received instance; all four are durable."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    """The same object was here before, perhaps in another transfer syntax; nothing was made."""
    CONFLICT = "uid-conflict"
    """Its SOP Instance UID belongs to another object; kept in the quarantine."""
    KEPT_APART = "wrong-patient"
    """Its Study Instance UID belongs to another patient; kept in the quarantine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One received instance and where it went."""

    disposition: Disposition
    study_id: str | None
    study_uid: str
    sop_class: str
    sop_uid: str
    digest: str
    size: int


@dataclass(slots=True, kw_only=True)
class Reception:
    """One association, STOW request or ingest run: what it has brought, study by study."""

    source_ae: str
    id: str = field(default_factory=lambda: new_id()[:12])
    counts: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    apart: dict[str, int] = field(default_factory=dict)
    verified: set[tuple[str, str | None, str | None, Claim]] = field(default_factory=set)
    """Claims that nothing contradicted, with the study, order and patient they were held against:
    a series of a thousand images asks the same question a thousand times."""
    ended: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def tally(self, received: Received) -> None:
        """Count one instance for the summary at the end."""
        if received.study_id is None:
            return
        counter = self.counts
        if received.disposition in (Disposition.CONFLICT, Disposition.KEPT_APART):
            counter = self.apart
        counter[received.study_id] = counter.get(received.study_id, 0) + 1
        self.bytes[received.study_id] = self.bytes.get(received.study_id, 0) + received.size


class Raced(Exception):
    """Another association filed the same UID between our look and our insert."""


class Recoded(Exception):
    """Its UID is here in another transfer syntax: both have to be compared, outside of this."""

    def __init__(self, known: Any) -> None:
        super().__init__("the same SOP Instance UID in another transfer syntax")
        self.known = known


@dataclass(frozen=True, slots=True, kw_only=True)
class Filing:
    """One file on its way into the archive; `within` is the transaction."""

    tiers: Tiers
    file: Path
    header: Header
    digest: str
    size: int
    source_ae: str
    reception: Reception | None
    trusted: Study | None = None
    """The study of an object that we made ourselves: its identity is not in question."""
    compared: Mapping[str, bool] = field(default_factory=dict)
    """Digest of a filed file in another transfer syntax → whether it is the same object."""

    def within(self, uow: UnitOfWork) -> Received:
        """Decide and file; raises `Raced` or `Recoded` when it has to be called again."""
        header = self.header
        claim = Claim(
            name=header.patient_name,
            patient_id=header.patient_id,
            issuer=header.issuer,
            birth_date=header.birth_date,
        )
        found = self._belonging(uow, claim)
        known = uow.holdings.stored([header.sop_uid]).get(header.sop_uid)
        if known is not None and (known.digest == self.digest or self.compared.get(known.digest)):
            return self._again(uow, known)
        if known is not None:
            is_recoded = known.transfer_syntax != header.transfer_syntax
            if is_recoded and known.digest not in self.compared:
                raise Recoded(known)
            return self._keep(
                uow,
                Disposition.CONFLICT,
                f"{header.sop_uid}#{self.digest[:8]}",
                "this SOP Instance UID belongs to another object; the first one stays",
                study_id=known.study_id,
                evidence={"kept": known.digest, "came": self.digest},
            )
        if found.contradictions:
            return self._keep(
                uow,
                Disposition.KEPT_APART,
                f"{header.study_uid}#{claim.key}",
                "the Study Instance UID belongs to another patient: "
                + ", ".join(found.contradictions),
                study_id=found.study.id if found.study else None,
                evidence={"claimed": claim.evidence(), "expected": found.expected},
            )
        study = open_study(
            uow,
            header.study_uid,
            found,
            claim,
            accession=header.accession,
            description=header.study_description,
            actor=self.source_ae,
        )
        owner = uow.holdings.series_owner(header.series_uid)
        if owner not in (None, study.id):
            return self._keep(
                uow,
                Disposition.CONFLICT,
                f"{header.series_uid}#{header.study_uid}",
                "this Series Instance UID belongs to another study",
                study_id=study.id,
                evidence={"owner": owner},
            )
        self._file(uow, study, known_series=owner is not None)
        return self._received(Disposition.STORED, study.id)

    def _belonging(self, uow: UnitOfWork, claim: Claim) -> Belonging:
        if self.trusted is not None:
            return Belonging(study=uow.studies.get(self.trusted.id, lock=True), order=None)
        if self.reception is None:
            return belonging(uow, self.header.study_uid, claim)
        if self.reception.verified:
            study = uow.studies.find(self.header.study_uid, lock=True)
            if study is not None:
                # The study is locked: its order and patient are what they are until the commit.
                key = (study.id, study.order_id, study.patient_id, claim)
                if key in self.reception.verified:
                    return Belonging(study=study, order=None)
        found = belonging(uow, self.header.study_uid, claim)
        if found.study is not None and not found.contradictions:
            study = found.study
            self.reception.verified.add((study.id, study.order_id, study.patient_id, claim))
        return found

    def _file(self, uow: UnitOfWork, study: Study, *, known_series: bool) -> None:
        header = self.header
        path = self.tiers.place(header, self.digest)
        added = uow.studies.add_instance(
            study.id,
            header.filed(path, size=self.size, digest=self.digest),
            source_ae=self.source_ae,
            known_series=known_series,
            **header.told,
        )
        if not added:
            raise Raced
        if self.source_ae != self.tiers.settings.ae_title:
            self._move(uow, study)
        if self.reception is not None and study.id not in self.reception.counts:
            uow.timeline.add(
                study.id,
                "images.arriving",
                f"first image of an association from {self.source_ae}",
                actor=self.source_ae,
                association=self.reception.id,
                sop_class=header.sop_class,
            )
        # Last, so that the row's locks are held no longer than the rename takes. If the commit
        # fails, the file stays as an orphan: to delete it would lose an instance whenever the
        # commit had in truth succeeded and only its answer was lost.
        self.tiers.land(self.file, path, self.digest)

    def _move(self, uow: UnitOfWork, study: Study) -> None:
        changes: dict[str, Any] = {}
        if study.started_at is None:
            changes["started_at"] = uow.now
        first = self.reception is None or study.id not in self.reception.counts
        if first and not uow.studies.row(study.id).attributes:
            changes["attributes"] = self.header.study_attributes
        if not study.description and self.header.study_description:
            changes["description"] = self.header.study_description
        # Most instances change nothing: the row is not written a thousand times per study.
        if changes or move(study.state, StudyEvent.INSTANCE_RECEIVED) is not study.state:
            uow.studies.move(study, StudyEvent.INSTANCE_RECEIVED, **changes)

    def _again(self, uow: UnitOfWork, known: Any) -> Received:
        is_same_file = known.digest == self.digest
        if is_same_file and not self.tiers.exists(Tier(known.tier), known.path):
            # The row outlived its file; the sender's copy makes the archive whole again.
            path = self.tiers.place(self.header, self.digest)
            self.tiers.land(self.file, path, self.digest)
            uow.holdings.repoint(known.sop_uid, Tier.HOT, path)
            uow.timeline.add(
                known.study_id,
                "images.restored",
                "an instance whose file was lost was received again",
                actor=self.source_ae,
                sop_uid=known.sop_uid,
            )
        self.file.unlink(missing_ok=True)
        return self._received(Disposition.DUPLICATE, known.study_id)

    def _keep(
        self,
        uow: UnitOfWork,
        disposition: Disposition,
        subject: str,
        reason: str,
        *,
        study_id: str | None,
        evidence: dict[str, Any],
    ) -> Received:
        header, kind = self.header, disposition.value
        folder = f"{kind}/{subject.replace('#', '-')}"
        path = f"{folder}/{header.sop_uid}.{self.digest[:12]}.dcm"
        # None decides about it until this file is among what is decided.
        row = uow.studies.desk_row(kind, subject)
        uow.holdings.keep(
            header.sop_uid,
            self.digest,
            sop_class=header.sop_class,
            study_uid=header.study_uid,
            kind=kind,
            subject=subject,
            path=path,
            size=self.size,
            source_ae=self.source_ae,
        )
        new = uow.studies.to_desk(
            kind,
            subject,
            reason,
            study_id=study_id,
            evidence={**evidence, "source_ae": self.source_ae, "study_uid": header.study_uid},
            path=folder,
        )
        if new and study_id is not None:
            uow.timeline.add(
                study_id, f"desk.{kind}", f"{reason}; kept on the desk", actor=self.source_ae
            )
        if new:
            log.warning("instance kept apart", kind=kind, study=study_id, source_ae=self.source_ae)
        self.tiers.quarantine(self.file, path)
        if row is not None and row.resolved_at is not None:
            follow(uow, self.tiers, row)
        return self._received(disposition, study_id)

    def _received(self, disposition: Disposition, study_id: str | None) -> Received:
        return Received(
            disposition=disposition,
            study_id=study_id,
            study_uid=self.header.study_uid,
            sop_class=self.header.sop_class,
            sop_uid=self.header.sop_uid,
            digest=self.digest,
            size=self.size,
        )


def keep_unreadable(
    store: Store, tiers: Tiers, file: Path, error: PeerError, source_ae: str
) -> None:
    """Keep a file without a usable identity, once, and put it on the desk."""
    with file.open("rb") as stream:
        digest = file_digest(stream, "sha256").hexdigest()
    size, path = file.stat().st_size, f"unreadable/{digest}"
    with store() as uow:
        uow.holdings.keep(
            "", digest, kind="unreadable", subject=digest, path=path, size=size, source_ae=source_ae
        )
        uow.studies.to_desk(
            "unreadable",
            digest,
            str(error),
            evidence={"source_ae": source_ae, "code": error.code, "location": error.location},
            path=path,
        )
        tiers.quarantine(file, path)
    log.warning("unreadable object kept", code=error.code, source_ae=source_ae, bytes=size)
