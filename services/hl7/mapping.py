"""Where each worklist attribute stands in an order message (IHE RAD TF-2 App. B).

One table for both options that IHE allows: v2.3.1 (ORM^O01 with ZDS) and v2.5.1 (OMI^O23 with IPC
and TQ1). The readers follow it, and docs/hl7-mapping.md is made of it. A mixture of the options is
read too: the v2.5.1 place first, then the one of v2.3.1, then the alternates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Final


class Kind(Enum):
    """How a value is read out of its place."""

    TEXT = "text"
    CODED_TEXT = "text of a coded element, its code where it has no text"
    LOCATION = "every component, parted by ^"
    CODE = "code, text and coding system"
    XPN = "person's name"
    XCN = "person's name behind a number"
    CNN = "person's name behind a number, parted by &"
    EI_ISSUER = "namespace, universal id and its type"
    CX_ISSUER = "namespace, universal id and its type, parted by &"
    DATE = "date"
    TIME = "date and time"
    SHORT = "text of at most 16 characters; a longer one is not used, with a warning"
    STRICT = "text of at most 16 characters; a longer one is refused"
    TITLES = "AE titles, one a repetition"
    PRIORITY = "HL70485"
    MODALITY = "DICOM's term, or the word of HL70074 that stands for one"
    COMPUTED = "see the note"


@dataclass(frozen=True, slots=True)
class Place:
    """A field of a segment, with the component where reading begins."""

    segment: str
    number: int
    component: int = 1

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read ``OBR-4.2``."""
        match = _PLACE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no place")
        return cls(match[1], int(match[2]), int(match[3] or 1))


_PLACE = re.compile(r"([A-Z]\w\w)-(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One attribute: what it is called here and in DICOM, and where it stands."""

    name: str
    """Field of the request record that carries it."""
    keyword: str
    v231: str
    v251: str
    kind: Kind
    also: str = ""
    """Further places, read where neither option's says anything."""
    note: str = ""
    places: tuple[Place, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        if self.kind is Kind.COMPUTED:
            return
        listed = [*self.v251.split(), *self.v231.split(), *self.also.split()]
        places = tuple(Place.parse(text) for text in dict.fromkeys(listed))
        object.__setattr__(self, "places", places)


def _row(
    name: str,
    keyword: str,
    v231: str,
    v251: str = "",
    kind: Kind = Kind.TEXT,
    *,
    also: str = "",
    note: str = "",
) -> Row:
    return Row(
        name=name,
        keyword=keyword,
        v231=v231,
        v251=v251 or v231,
        kind=kind,
        also=also,
        note=note,
    )


K = Kind
PATIENT: Final = (
    _row("name", "PatientName", "PID-5", kind=K.XPN),
    _row("identifiers", "PatientID", "PID-3.1", kind=K.COMPUTED, note="the first of type MR"),
    _row(
        "identifiers",
        "IssuerOfPatientID",
        "PID-3.4.1",
        kind=K.COMPUTED,
        note="where it is empty, `SPINECHO_DEFAULT_AUTHORITY`",
    ),
    _row(
        "identifiers",
        "IssuerOfPatientIDQualifiersSequence",
        "PID-3.4.2, PID-3.4.3",
        kind=K.COMPUTED,
        note="Universal Entity ID and its type",
    ),
    _row(
        "identifiers",
        "OtherPatientIDsSequence",
        "PID-3",
        kind=K.COMPUTED,
        note="every further repetition",
    ),
    _row("mother_name", "PatientMotherBirthName", "PID-6", kind=K.XPN),
    _row("birth_date", "PatientBirthDate", "PID-7", kind=K.DATE),
    _row("sex", "PatientSex", "PID-8", kind=K.COMPUTED, note="M, F, O; any other code is O"),
    _row("address", "PatientAddress", "PID-11", kind=K.LOCATION),
    _row("language", "PatientPrimaryLanguageCodeSequence", "PID-15", kind=K.CODE),
    _row("comments", "PatientComments", "NTE-3", kind=K.COMPUTED, note="of each NTE after PID"),
)

VISIT: Final = (
    _row("patient_class", "RouteOfAdmissions", "PV1-2"),
    _row("location", "CurrentPatientLocation", "PV1-3", kind=K.LOCATION),
    _row("referring", "ReferringPhysicianName", "PV1-8", kind=K.XCN),
    _row("admission_id", "AdmissionID", "PV1-19", also="PID-18"),
    _row(
        "admission_issuer",
        "IssuerOfAdmissionIDSequence",
        "PV1-19.4",
        kind=K.CX_ISSUER,
        also="PID-18.4",
    ),
    _row("visit_reason", "ReasonForVisit", "PV2-3", kind=K.CODED_TEXT),
)

ORDER: Final = (
    *VISIT,
    _row("filler_number", "FillerOrderNumberImagingServiceRequest", "ORC-3", also="OBR-3"),
    _row(
        "placer_issuer",
        "OrderPlacerIdentifierSequence",
        "ORC-2.2",
        kind=K.EI_ISSUER,
        also="OBR-2.2",
    ),
    _row(
        "filler_issuer",
        "OrderFillerIdentifierSequence",
        "ORC-3.2",
        kind=K.EI_ISSUER,
        also="OBR-3.2",
    ),
    _row(
        "accession",
        "AccessionNumber",
        "OBR-18",
        "IPC-1",
        K.STRICT,
        note="given here once where nobody says it",
    ),
    _row(
        "accession_issuer",
        "IssuerOfAccessionNumberSequence",
        "OBR-18.2",
        "IPC-1.2",
        K.EI_ISSUER,
        also="ORC-3.2 OBR-3.2",
        note="the filler numbers what it fills",
    ),
    _row(
        "requested_procedure_id",
        "RequestedProcedureID",
        "OBR-19",
        "IPC-2",
        K.SHORT,
        note="the accession number where nobody says it",
    ),
    _row("procedure", "RequestedProcedureCodeSequence", "OBR-44", kind=K.CODE, also="OBR-4"),
    _row(
        "priority",
        "RequestedProcedurePriority",
        "ORC-7.6",
        "TQ1-9",
        K.PRIORITY,
        also="OBR-27.6 OBR-5",
    ),
    _row("reason", "ReasonForTheRequestedProcedure", "OBR-31.2", also="OBR-31.1"),
    _row("reason_code", "ReasonForRequestedProcedureCodeSequence", "OBR-31", kind=K.CODE),
    _row("requesting", "RequestingPhysician", "OBR-16", kind=K.XCN, also="ORC-12"),
    _row("entered_by", "OrderEnteredBy", "ORC-10", kind=K.XCN),
    _row("issued_on", "IssueDateOfImagingServiceRequest", "OBR-6", kind=K.DATE),
    _row("institution", "InstitutionName", "ORC-17", kind=K.CODED_TEXT),
    _row("department", "InstitutionalDepartmentName", "ORC-13.9"),
    _row("patient_state", "PatientState", "OBR-12", kind=K.CODED_TEXT),
    _row("medical_alerts", "MedicalAlerts", "OBR-13"),
    _row("transport", "PatientTransportArrangements", "OBR-30"),
    _row(
        "confidentiality",
        "ConfidentialityConstraintOnPatientDataDescription",
        "ORC-28",
        kind=K.CODED_TEXT,
    ),
    _row(
        "placer_number",
        "PlacerOrderNumberImagingServiceRequest",
        "ORC-2",
        kind=K.COMPUTED,
        note="else OBR-2; required",
    ),
    _row(
        "study_uid",
        "StudyInstanceUID",
        "ZDS-1.1",
        "IPC-3",
        K.COMPUTED,
        note="made here once where nobody says it",
    ),
    _row(
        "allergies", "Allergies", "AL1-3", kind=K.COMPUTED, note="of each AL1; ADT^A60: of each IAM"
    ),
    _row("weight_kg", "PatientWeight", "OBX-5", kind=K.COMPUTED, note="OBX-3 BW; OBX-6 kg, g, lb"),
    _row("height_m", "PatientSize", "OBX-5", kind=K.COMPUTED, note="OBX-3 BH; OBX-6 m, cm"),
    _row("pregnancy_status", "PregnancyStatus", "PV1-15", kind=K.COMPUTED, note="B6 is 3"),
    _row("special_needs", "SpecialNeeds", "PV1-15", kind=K.COMPUTED, note="every other code"),
)

STEP: Final = (
    _row("sps_id", "ScheduledProcedureStepID", "OBR-20", "IPC-4", K.SHORT),
    _row("modality", "Modality", "OBR-24", "IPC-5", K.MODALITY),
    _row("station_aet", "ScheduledStationAETitle", "ORC-18", "IPC-9", K.TITLES),
    _row("station_name", "ScheduledStationName", "", "IPC-7"),
    _row("location", "ScheduledProcedureStepLocation", "", "IPC-8"),
    _row(
        "start_at",
        "ScheduledProcedureStepStartDate",
        "ORC-7.4",
        "TQ1-7",
        K.TIME,
        also="OBR-27.4 OBR-36",
        note="and Start Time; when the order came where nobody says it",
    ),
    _row(
        "performing",
        "ScheduledPerformingPhysicianName",
        "OBR-34.1",
        kind=K.CNN,
        note="first repetition",
    ),
    _row(
        "description",
        "ScheduledProcedureStepDescription",
        "OBR-4.5",
        "IPC-6.2",
        also="OBR-4.2",
    ),
    _row("protocol", "ScheduledProtocolCodeSequence", "OBR-4.4", "IPC-6", K.CODE),
)

SECTIONS: Final = {
    "NMR": "MR",
    "NMS": "NM",
    "CUS": "US",
    "OUS": "US",
    "RUS": "US",
    "VUS": "US",
}
"""HL70074 (OBR-24) → the one modality (PS3.3 C.7.3.1.1.1) that it can only mean.

``CT`` is the same word in both. RAD, RX and XRC could be CR, DX, RF or XA; PT is physical therapy
there and positron emission here: they are taken as they stand.
"""
