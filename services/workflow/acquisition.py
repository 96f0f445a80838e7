"""Receiving instances: land durably, file or keep apart, answer only after the commit.

Called by the storage SCP, by STOW and by ``spinecho ingest``. Every function is idempotent by SOP
Instance UID and digest. The performed step, the verdict and the commitment have modules of their
own and are named here too, so that acquisition has one door.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final

from pydicom import Dataset, dcmwrite

from models.errors import InvalidValue, PeerError, Unavailable
from models.events import Topic
from models.tier import Tier
from services.archive.part10 import Header, digest_of, read_header
from services.archive.recoding import same_object
from services.archive.tiers import Tiers
from services.database.store import Store
from services.workflow.commitment import (
    Reference,
    accept_commitment,
    commit_storage,
    verify_commitment,
)
from services.workflow.completeness import Verdict, judge_completeness, studies_to_judge
from services.workflow.exam import begin_exam, change_exam
from services.workflow.filing import (
    Disposition,
    Filing,
    Raced,
    Received,
    Reception,
    Recoded,
    keep_unreadable,
)

__all__ = [
    "Disposition",
    "Received",
    "Reception",
    "Reference",
    "Verdict",
    "accept_commitment",
    "association_ended",
    "begin_exam",
    "change_exam",
    "commit_storage",
    "judge_completeness",
    "receive_instance",
    "store_derived",
    "studies_to_judge",
    "verify_commitment",
]


_LOOKS: Final = 5
"""One is enough unless another association files the same UID at the same moment."""


def receive_instance(
    store: Store,
    tiers: Tiers,
    file: Path,
    *,
    source_ae: str,
    reception: Reception | None = None,
    expected: Reference | None = None,
) -> Received:
    """File one received DICOM file; when this returns, file and row survive a power cut.

    Parameters
    ----------
    file : Path
        A complete PS3.10 file; best in `Tiers.incoming`, from where it is renamed. It is gone
        afterwards, except when `OurError` is raised: then it is where it was, or already lies
        under its final name without a row, which the next attempt takes over.
    source_ae : str
        Who sent it. Objects from our own AE title never reopen a verdict.
    reception : Reception, optional
        The association, for one timeline entry at its first image and one at its end.
    expected : Reference, optional
        What the C-STORE request called the object; the data set must agree (PS3.4 B.2.3).

    Raises
    ------
    Malformed, MissingField, InvalidValue
        If it cannot be filed under any UID; the bytes are in the quarantine and on the desk.
    OutOfResources
        If the disk is too full.
    """
    tiers.require_space()
    size = file.stat().st_size
    try:
        header = read_header(file)
        _check_expected(header, expected)
    except PeerError as error:
        keep_unreadable(store, tiers, file, error, source_ae)
        raise
    with file.open("rb") as stream:
        digest = digest_of(stream)
    filing = Filing(
        tiers=tiers,
        file=file,
        header=header,
        digest=digest,
        size=size,
        source_ae=source_ae,
        reception=reception,
    )
    for _ in range(_LOOKS):
        try:
            with store() as uow:
                received = filing.within(uow)
        except Raced:
            continue
        except Recoded as met:
            filing = _compared(tiers, filing, met.known)
            continue
        if reception is not None:
            reception.tally(received)
        return received
    raise Unavailable("the same instance is being filed by others all the time")


def _compared(tiers: Tiers, filing: Filing, known: Any) -> Filing:
    tier, same = Tier(known.tier), False
    if tiers.exists(tier, known.path):
        with tiers.local(tier, known.path) as here:
            same = same_object(here, filing.file)
    return replace(filing, compared={**filing.compared, known.digest: same})


def _check_expected(header: Header, expected: Reference | None) -> None:
    if expected is None:
        return
    for keyword, said, asked in (
        ("SOPClassUID", header.sop_class, expected.sop_class),
        ("SOPInstanceUID", header.sop_uid, expected.sop_uid),
    ):
        if said != asked:
            raise InvalidValue(f"{keyword} differs between request and data set", location=keyword)


def association_ended(store: Store, reception: Reception) -> None:
    """Announce every study that an association has touched, with a summary on its timeline.

    If the process dies before this, nothing is lost: `studies_to_judge` finds the studies.
    """
    with reception.lock:
        if reception.ended:
            return
        reception.ended = True
    if not reception.counts and not reception.apart:
        return
    with store() as uow:
        for study_id in sorted({*reception.counts, *reception.apart}):
            study = uow.studies.get(study_id)
            count, apart = reception.counts.get(study_id, 0), reception.apart.get(study_id, 0)
            size = reception.bytes[study_id]
            summary = f"{count} instances, {size / 1e6:.1f} MB, from {reception.source_ae}"
            if apart:
                summary += f"; {apart} kept on the desk"
            uow.timeline.add(
                study_id,
                "images.received",
                summary,
                actor=reception.source_ae,
                association=reception.id,
                instances=count,
                apart=apart,
                bytes=size,
            )
            uow.outbox.announce(
                Topic.STUDY_RECEIVED, study_id, f"assoc-{reception.id}", study.priority
            )


def store_derived(store: Store, tiers: Tiers, dataset: Dataset, study_id: str) -> bool:
    """File an object that we made into its study; return False if its UID was there already.

    Raises
    ------
    InvalidValue
        If the data set names another study.
    """
    with store() as uow:
        study = uow.studies.get(study_id)
        if uow.studies.find_instance(str(dataset.SOPInstanceUID)) is not None:
            return False
    if str(dataset.StudyInstanceUID) != study.study_uid:
        raise InvalidValue("the object names another study", location="StudyInstanceUID")
    tiers.require_space()
    with NamedTemporaryFile(dir=tiers.incoming("derived"), suffix=".dcm", delete=False) as stream:
        file = Path(stream.name)
        meta = getattr(dataset, "file_meta", None)
        syntax = getattr(meta, "TransferSyntaxUID", None)
        if syntax is None or not syntax.is_encapsulated:
            dcmwrite(
                stream, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True
            )
        else:
            dcmwrite(stream, dataset, enforce_file_format=True)
    try:
        header = read_header(file)
        with file.open("rb") as stream_again:
            digest = digest_of(stream_again)
        filing = Filing(
            tiers=tiers,
            file=file,
            header=header,
            digest=digest,
            size=file.stat().st_size,
            source_ae=tiers.settings.ae_title,
            reception=None,
            trusted=study,
        )
        try:
            with store() as uow:
                return filing.within(uow).disposition is Disposition.STORED
        except (Raced, Recoded):
            return False
    finally:
        file.unlink(missing_ok=True)
