"""What can go wrong, and how each neighbour is told.

The tree; the first word in brackets is the stable code::

    SpinechoError
    ├── PeerError                      the peer erred: it must change what it sends
    │   ├── Malformed        [malformed]        cannot be read at all
    │   ├── Unsupported      [unsupported]      read, but of a kind we do not serve
    │   │   └── NotAcceptable [not-acceptable]  nothing that it accepts can be made
    │   ├── MissingField     [missing-field]    a required field is absent
    │   │   └── MissingValue [missing-value]    a required field is there and empty
    │   ├── InvalidValue     [invalid-value]    a field is present and wrong
    │   ├── UnknownKey       [unknown-key]      names something we have never seen
    │   ├── DuplicateKey     [duplicate-key]    names something that exists already
    │   ├── IllegalMove      [illegal-move]     the lifecycle forbids it in this state
    │   ├── Conflict         [conflict]         same identity, other content
    │   └── UnassessableError [images.unassessable] a model must not judge these images
    └── OurError                       we erred: the peer may send the same again later
        ├── OutOfResources   [out-of-resources] disk, database or time exhausted
        ├── Unavailable      [unavailable]      a part we need is down
        │   └── KeyMissing   [key.missing]      the key of something sealed is not here
        ├── DamagedCopy      [damaged-copy]     a copy does not read back as its original
        ├── ProfileError     [profile]          an interface profile is wrong: correct the file
        └── ModelError       [model]            a triage model cannot be run: fix the installation
            ├── ModelNotFoundError [model.not_found] no such folder, or a file of it is missing
            ├── CardError          [model.card]      the card is not what a card must be
            ├── ChecksumError      [model.checksum]  a file is not the one of the card
            ├── GoldenCaseError    [model.golden]    the golden case comes out otherwise here
            └── ModelRunError      [model.run]       onnxruntime refuses the model or an input

A `ModelError` reaches the operator; an `UnassessableError` never leaves `services.inference`, where
it becomes the outcome "abstained".

Every class maps once to an HL7 acknowledgement (MSA-1 of HL70008, ERR-3 of HL70357), a DIMSE
status (PS3.7 Annex C) and an HTTP status, in `ANSWERS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


class SpinechoError(Exception):
    """Anything Spinecho reports on purpose.

    Parameters
    ----------
    message : str
        Names the field, the shape of the value (never the value of a patient's field) and what
        the operator should do.
    location : str, optional
        Where in the message: an ERL such as ``"PID^1^3"``, a DICOM keyword or a JSON path.
    """

    code = "internal"

    def __init__(self, message: str, *, location: str | None = None) -> None:
        super().__init__(message)
        self.location = location


class PeerError(SpinechoError):
    """The peer erred and has to change what it sends."""


class OurError(SpinechoError):
    """We erred; the same request may succeed later."""


class Malformed(PeerError):
    """The bytes cannot be read at all."""

    code = "malformed"


class Unsupported(PeerError):
    """Readable, but of a type, version or class that is not served."""

    code = "unsupported"


class NotAcceptable(Unsupported):
    """Nothing that the client accepts can be made of what is stored."""

    code = "not-acceptable"


class MissingField(PeerError):
    """A required field is absent or empty."""

    code = "missing-field"


class MissingValue(MissingField):
    """A required field is present and empty, where the neighbour tells the two apart."""

    code = "missing-value"


class InvalidValue(PeerError):
    """A field is present and its value cannot be right."""

    code = "invalid-value"


class UnknownKey(PeerError):
    """The message names something that was never seen."""

    code = "unknown-key"


class DuplicateKey(PeerError):
    """The message creates something that exists already."""

    code = "duplicate-key"


class IllegalMove(PeerError):
    """The lifecycle table has no row for this state and event."""

    code = "illegal-move"


class Conflict(PeerError):
    """The same identity arrived with other content."""

    code = "conflict"


class UnassessableError(PeerError):
    """Images that a model must not or cannot judge; triage then abstains, and says this."""

    code = "images.unassessable"


class OutOfResources(OurError):
    """Disk, database or time is exhausted."""

    code = "out-of-resources"


class Unavailable(OurError):
    """A part that is needed does not answer."""

    code = "unavailable"


class KeyMissing(Unavailable):
    """The key that something was sealed with is not here, or its file cannot be used."""

    code = "key.missing"


class DamagedCopy(OurError):
    """A copy does not read back as its original; the original is untouched."""

    code = "damaged-copy"


class ProfileError(OurError):
    """An interface profile cannot be used as it is written."""

    code = "profile"


class ModelError(OurError):
    """A triage model cannot be trusted or run."""

    code = "model"


class ModelNotFoundError(ModelError):
    """A model's folder or one of its files is missing."""

    code = "model.not_found"


class CardError(ModelError):
    """A model card is unreadable or incomplete."""

    code = "model.card"


class ChecksumError(ModelError):
    """A file's SHA-256 is not the one on the card."""

    code = "model.checksum"


class GoldenCaseError(ModelError):
    """The golden case does not come out as expected on this machine."""

    code = "model.golden"


class ModelRunError(ModelError):
    """The runtime cannot load the model or failed while running it."""

    code = "model.run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How one kind of error is told to each kind of neighbour."""

    ack: str
    hl7_code: str
    dimse: int
    http: int


ANSWERS: Final[dict[type[SpinechoError], Answer]] = {
    Malformed: Answer(ack="AR", hl7_code="100", dimse=0xC000, http=400),
    Unsupported: Answer(ack="AR", hl7_code="200", dimse=0x0122, http=415),
    NotAcceptable: Answer(ack="AR", hl7_code="200", dimse=0x0122, http=406),
    MissingField: Answer(ack="AE", hl7_code="101", dimse=0x0120, http=422),
    MissingValue: Answer(ack="AE", hl7_code="101", dimse=0x0121, http=422),
    InvalidValue: Answer(ack="AE", hl7_code="102", dimse=0x0106, http=422),
    UnknownKey: Answer(ack="AE", hl7_code="204", dimse=0x0112, http=404),
    DuplicateKey: Answer(ack="AE", hl7_code="205", dimse=0x0111, http=409),
    IllegalMove: Answer(ack="AE", hl7_code="206", dimse=0x0110, http=409),
    Conflict: Answer(ack="AE", hl7_code="205", dimse=0x0111, http=409),
    UnassessableError: Answer(ack="AE", hl7_code="102", dimse=0xA900, http=422),
    OutOfResources: Answer(ack="AE", hl7_code="207", dimse=0xA700, http=507),
    Unavailable: Answer(ack="AE", hl7_code="207", dimse=0xA700, http=503),
    DamagedCopy: Answer(ack="AE", hl7_code="207", dimse=0x0110, http=500),
    ProfileError: Answer(ack="AE", hl7_code="207", dimse=0x0110, http=500),
    ModelError: Answer(ack="AE", hl7_code="207", dimse=0x0110, http=500),
}
_INTERNAL: Final = Answer(ack="AE", hl7_code="207", dimse=0x0110, http=500)


def answer_to(error: BaseException) -> Answer:
    """Return how `error` is told; an error of no known class is an internal one."""
    for kind in type(error).__mro__:
        if kind in ANSWERS:
            return ANSWERS[kind]
    return _INTERNAL
