"""Endpoint: where the images of every study are found over DICOMweb."""

from __future__ import annotations

from sqlalchemy import false, literal, select, true

from models.errors import UnknownKey
from services.fhir import codes
from services.fhir.codes import validated
from services.fhir.parameters import Parameter, constant
from services.fhir.served import Call, Order, Resource, Searched, Served

_ONE = select(literal(codes.DICOMWEB).label("id")).subquery("endpoint")


def served(*, exists: bool) -> Served:
    """Return the row of Endpoint; without a DICOMweb service there is none to be found."""
    return Served(
        kind="Endpoint",
        read=_read,
        search=Searched(
            source=select(_ONE.c.id).where(true() if exists else false()),
            key=_ONE.c.id,
            parameters={
                "_id": Parameter(type="token", condition=lambda v: _ONE.c.id == v),
                "status": Parameter(
                    type="token", condition=constant(codes.ENDPOINT_STATUS, "active")
                ),
                "connection-type": Parameter(
                    type="token", condition=constant(codes.ENDPOINT, "dicom-wado-rs")
                ),
            },
            orders={"_id": Order(by=_ONE.c.id, read=str)},
            default="_id",
            load=lambda call, ids: [_read(call, i) for i in ids],
        ),
    )


def _read(call: Call, identity: str) -> Resource:
    if identity != codes.DICOMWEB or call.wado_root is None:
        raise UnknownKey("no resource has this id")
    return validated(
        {
            "resourceType": "Endpoint",
            "id": codes.DICOMWEB,
            "status": "active",
            "connectionType": {"system": codes.ENDPOINT, "code": "dicom-wado-rs"},
            "name": "DICOMweb",
            "payloadType": [{"text": "DICOM"}],
            "payloadMimeType": ["application/dicom"],
            "address": call.wado_root,
        },
        call.version,
    )
