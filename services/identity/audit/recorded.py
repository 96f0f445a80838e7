"""What the installation has already: messages of the sealed store, and studies that were filed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from pydicom import Dataset
from sqlalchemy import Connection, select

from services.database.messages import Wanted
from services.database.store import Store
from services.database.tables import study
from services.hl7.standardising import Rewriting
from services.identity.audit.files import Unread, read_message
from services.identity.audit.sightings import Sighting, of_dataset

_PAGE: Final = 500


def read_recorded(
    store: Store,
    *,
    since: datetime,
    until: datetime | None,
    limit: int,
    profiles: Rewriting | None = None,
) -> Iterator[Sighting | Unread]:
    """Yield what messages that came in say, and what the studies say that were filed.

    Parameters
    ----------
    store : Store
        Only read, a page at a time.
    since, until : datetime
        From the one and before the other.
    limit : int
        Largest message in bytes.
    profiles : Rewriting, optional
        By which messages are read.

    Raises
    ------
    KeyMissing
        If the key that sealed a message is not there.
    """
    wanted = Wanted(direction="in", since=since, until=until, protocol="hl7")
    with store() as uow:
        for message in uow.messages.each(wanted):
            if message.state != "fragment":
                where = f"message {message.id}"
                yield from read_message(message.raw, where, limit=limit, profiles=profiles)
        yield from _studies(uow.connection, since, until)


def _studies(connection: Connection, since: datetime, until: datetime | None) -> Iterator[Sighting]:
    query = select(
        study.c.study_uid,
        study.c.dicom_patient_id,
        study.c.dicom_patient_name,
        study.c.attributes,
    ).where(study.c.created_at >= since)
    if until is not None:
        query = query.where(study.c.created_at < until)
    # A study that was ordered and has no images says nothing of its own.
    query = query.where((study.c.dicom_patient_id != "") | (study.c.dicom_patient_name != ""))
    for row in connection.execute(query, execution_options={"yield_per": _PAGE}):
        ds = Dataset.from_json(row.attributes or {})
        ds.StudyInstanceUID, ds.AccessionNumber = row.study_uid, ds.get("AccessionNumber", "")
        ds.PatientID, ds.PatientName = row.dicom_patient_id, row.dicom_patient_name
        yield of_dataset(ds, f"study {row.study_uid}")
