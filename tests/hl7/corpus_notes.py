"""What is peculiar in each message of the public corpora, and why it is answered as it is."""

from __future__ import annotations

from typing import Final

INTRODUCTION: Final = """# What every public sample message is answered

Each file of the public HL7 corpora is sent over MLLP to the listener of an empty installation, \
and its bytes are found again in the message log as they were sent. The table is written by the \
test that sends them (`SPINECHO_WRITE_DOCS=1 python -m pytest tests/hl7/test_answers.py`); any \
other run of that test compares.

- **AA** accepted. **AE** an error in the content, which the sender can mend. **AR** the type, \
event, version or processing id is not served, or it is no HL7 at all. **CA**, **CE**, **CR** are \
the commit acknowledgements that enhanced mode asks for (MSH-15); *none* is what MSH-15 and \
MSH-16 `NE` ask for, and what an acknowledgement gets.
- ERR names the HL70357 code and the place: segment, its number, field, repetition, component. \
Versions before 2.5 have both in ERR-1. Where no answer is due the reason is in the message log \
all the same.
- A fault of ours or of the database is none of these: the connection is closed without an \
answer, or AE 207 given, and the sender sends the message again. The same message again gets the \
same answer, byte for byte, and has no second effect.
"""

UNSERVED: Final = (
    "Nobody here would act on it: AR tells its sender so at once, where AA would be a promise and "
    "AE would say that the content could be mended."
)
"""The reason for every AR with code 200 or 201."""

_PERSON = "Updates the patient; nothing in it is about imaging."
_VISIT = (
    "The visit is followed, so that the worklist and the reading room show where the patient is."
)
_BOOKING = "The appointment is followed; the order itself stays what the placer made it."

NOTES: Final[dict[str, tuple[str, str]]] = {
    "bad__accession_too_long.hl7": (
        "34 characters of accession number; DICOM SH holds 16",
        "Cutting it could make two orders one. Refused with the place, so that the sender sees "
        "which number does not fit.",
    ),
    "bad__bad_uid.hl7": (
        "IPC-3 is no UID",
        "The order is clear without it: it gets a UID of ours and a warning on its timeline.",
    ),
    "bad__cancel_unknown_order.hl7": (
        "a cancellation of an order that was never placed here",
        "AE and kept, not AA: the sender may have two systems out of step, and would otherwise "
        "believe that something was cancelled.",
    ),
    "bad__crlf_separators.hl7": (
        "CR LF between segments",
        "Read leniently; only what we send is strict.",
    ),
    "bad__deep_repetitions.hl7": (
        "300 repetitions of PID-3",
        "The identifiers are told apart by their authority; none is dropped.",
    ),
    "bad__dst_gap_time.hl7": (
        "a local time that the change to summer time skipped",
        "The zone's rule before the change gives it a meaning; refusing an order over an hour "
        "would help nobody.",
    ),
    "bad__empty.hl7": (
        "a frame with nothing in it",
        "AR without MSA-2, for there is no MSH-10 to name. The connection goes on.",
    ),
    "bad__field_sep_missing.hl7": (
        "the separator behind MSH is gone",
        "Without MSH-1 and MSH-2 nothing can be read: AR, kept, and the connection goes on.",
    ),
    "bad__huge_obx_2mb.hl7": (
        "one field of 2 MB",
        "Below `SPINECHO_MAX_MESSAGE_BYTES`. Above it AE 104 is answered and the connection goes "
        "on; memory never holds more than the limit.",
    ),
    "bad__latin1_bytes.hl7": (
        "ISO 8859-1, as MSH-18 says",
        "Read as declared.",
    ),
    "bad__many_segments_20k.hl7": (
        "20 000 segments",
        "Read in one pass.",
    ),
    "bad__no_pid3.hl7": (
        "PID-3 is empty",
        "An order without a patient's number belongs to nobody.",
    ),
    "bad__only_msh.hl7": (
        "nothing but MSH",
        "The header is right and the rest is missing: an error in the content, not an unserved "
        "type.",
    ),
    "bad__replace_order.hl7": (
        "a change (XO) of an order that an empty store has not got",
        "With its order there it is AA and moves the same step; here the sender has to learn that "
        "there was nothing to change.",
    ),
    "bad__stat_priority.hl7": (
        "STAT in ORC-7.6 only",
        "The priority is found in TQ1-9, OBR-27.6 or ORC-7.6.",
    ),
    "bad__two_pid.hl7": (
        "two patients in one order",
        "Never filed under either by guess.",
    ),
    "bad__unknown_version.hl7": (
        "MSH-12 is 9.9",
        "AR in version 2.5.1: an answer in a version that nobody knows could not be read.",
    ),
    "bad__utf8_undeclared.hl7": (
        "UTF-8 with an empty MSH-18",
        "The bytes are valid UTF-8, which text in another set almost never is: read as that, with "
        "a warning in the log.",
    ),
    "dcm4che__ADT_A31-UpdatePersonInfo-Veterinary.hl7": (
        "an animal: species and breed behind PID-35",
        "What is not ours to check does not stand in the way.",
    ),
    "dcm4che__ADT_A31-UpdatePersonInfo.hl7": ("no PV1", _PERSON),
    "dcm4che__ADT_A40-PatientMerge.hl7": (
        "a merge before either number was ever seen",
        "The survivor is made from PID and the retired number leads to it: order of arrival must "
        "not matter.",
    ),
    "dcm4che__ADT_A47-ChangePatientID.hl7": (
        "a changed number, in the structure ADT_A30",
        "The number is another one, the patient the same.",
    ),
    "dcm4che__OMG_O19-GeneralClinicalOrder-Eyecare.hl7": (
        "OMG with ZDS and OBR-18 to -20, as an ORM has them",
        "The same order by another name.",
    ),
    "dcm4che__OMI_O23-ImagingOrder.hl7": (
        "IPC-9 repeats; MSH-18 says 8859/1 and the bytes are UTF-8",
        "Read as UTF-8, with a warning in the log.",
    ),
    "dcm4che__ORM_O01-GeneralOrder.hl7": (
        "called ORM, MSH-9 says OMI; numbers in OBR-18 to -20 and the UID in ZDS; wrong MSH-18",
        "MSH-9 decides, and the numbers are taken from where they are.",
    ),
    "dcm4che__ORU_R01-CDA.hl7": (
        "a CDA document in OBX-5, with hexadecimal escapes",
        "Kept; its payload is not logged.",
    ),
    "dcm4che__ORU_R01-PDF.hl7": (
        "a PDF in OBX-5, in base64",
        "Kept; its payload is not logged.",
    ),
    "dcm4che__ORU_R01-SR.hl7": (
        "a result with abnormal flags and UIDs of study and report",
        "Kept, with its flags.",
    ),
    "dcm4che__SIU_S12-NewAppointmentBooking.hl7": (
        "no SCH and no RGS, segments in another order, a broken hexadecimal escape",
        "Without SCH there is no appointment to follow: AE names the segment that is missing. The "
        "broken escape harms nothing; it stays as it was sent.",
    ),
    "msfc__ADT-A01-01.hl7": ("v2.8, an odd UTC offset in MSH-7, LF between segments", _VISIT),
    "msfc__ADT-A02-01.hl7": ("a transfer", _VISIT),
    "msfc__ADT-A03-01.hl7": ("a discharge", _VISIT),
    "msfc__ADT-A04-01.hl7": ("a registration", _VISIT),
    "msfc__ADT-A05-01.hl7": ("a pre-admission", _VISIT),
    "msfc__ADT-A08-01.hl7": ("an update", _PERSON),
    "msfc__ADT-A08-02.hl7": (
        "its MSH-10 is that of many other messages",
        "A message is told from another by sender, MSH-10 and content, never by MSH-10 alone.",
    ),
    "msfc__ADT-A11-01.hl7": ("an admission is cancelled", "The visit goes, never the patient."),
    "msfc__ADT-A13-01.hl7": ("a discharge is cancelled", _VISIT),
    "msfc__ADT-A28-01.hl7": ("a person, without a visit", _PERSON),
    "msfc__ADT-A31-01.hl7": ("a person's update, v2.8", _PERSON),
    "msfc__ADT-A40-01.hl7": (
        "MSH-15 and MSH-16 are NE: no answer is wanted",
        "Done in silence, as asked for.",
    ),
    "msfc__ADT-A40-02.hl7": (
        "the MSH-10 of the other A40, other content; NE and NE again",
        "It is another message, not a repetition. Nothing is answered, as asked for; what became "
        "of it is in the message log.",
    ),
    "msfc__ADT-A41-01.hl7": (
        "a merge of accounts",
        "Its visits get the new number.",
    ),
    "msfc__ADT-A45-01.hl7": ("a visit moves to another patient", "What hangs on the visit moves."),
    "msfc__ADT-A47-01.hl7": (
        "a changed number, with the structure named ADT_A47, which there is not",
        "MSH-9.2 decides; MSH-9.3 is not relied on.",
    ),
    "msfc__ADT-A60-01.hl7": ("allergies", "Contrast allergies matter before the exam."),
    "msfc__ADT04-23.hl7": (
        "v2.3, MSH-11 is empty",
        "Without MSH-11 a message is meant in earnest: old senders leave it out.",
    ),
    "msfc__ADT04-251.hl7": (
        "MSH-11 is T, a test",
        "A test must not reach production, and its sender must hear of it; recorded all the same. "
        "A test installation takes it (`SPINECHO_HL7_PROCESSING_ID`).",
    ),
    "msfc__LAB-ORM-1.hl7": (
        "an order of the laboratory",
        "AA, for it is right and nobody has to send it again; recorded, and nothing is scheduled.",
    ),
    "msfc__ORM-O01-01.hl7": ("an ORM in v2.6", "An order like any other."),
    "msfc__ORM-O01-02.hl7": ("an ORM with more segments than most", "An order like any other."),
    "msfc__OUL-R22-01.hl7": (
        "pathology; MSH-15 NE and MSH-16 AL, so the application answers alone",
        UNSERVED,
    ),
    "msfc__SIU-S12-01.hl7": ("a booking", _BOOKING),
    "msfc__SIU-S12-02.hl7": ("a booking", _BOOKING),
    "msfc__SIU-S13-01.hl7": ("a new time", _BOOKING),
    "msfc__SIU-S14-01.hl7": ("a changed booking", _BOOKING),
    "msfc__SIU-S15-01.hl7": ("a cancelled booking", _BOOKING),
    "msfc__SIU-S16-01.hl7": ("a discontinued booking", _BOOKING),
    "msfc__SIU-S17-01.hl7": ("a deleted booking", _BOOKING),
    "msfc__SIU-S26-01.hl7": ("the patient did not come", _BOOKING),
    "msfc__SIU_12.hl7": (
        "called SIU, MSH-9 says ADT^A60; it names no allergy",
        "MSH-9 decides, not the name of a file. An allergy that does not say to what (IAM-3) could "
        "not be shown to anybody; its sender has to hear of it.",
    ),
    "pacsbridge__ack_sample.hl7": (
        "an acknowledgement, which asks for a commit acknowledgement (MSH-15 AL)",
        "Never answered: two systems would answer each other for ever. Recorded.",
    ),
    "pacsbridge__adt_a01_sample.hl7": (
        "MSH-15 AL, MSH-16 NE: a commit acknowledgement alone",
        "CA and nothing behind it, as asked for.",
    ),
    "pacsbridge__adt_a08_sample.hl7": (
        "MSH-15 AL, MSH-16 NE",
        "CA and nothing behind it, as asked for.",
    ),
    "pacsbridge__orm_o01_sample.hl7": (
        "the accession number is the filler's number (ORC-3); MSH-15 AL, MSH-16 NE",
        "CA and nothing behind it, as asked for; AA would be an answer that this sender does not "
        "expect.",
    ),
    "pacsbridge__oru_r01_sample.hl7": (
        "a report whose status stands in OBR-26; MSH-15 AL, MSH-16 NE",
        "Its status is never guessed from another field.",
    ),
}
"""File → (what is peculiar in it, why the answer is right)."""
