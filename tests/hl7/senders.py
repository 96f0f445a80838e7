"""One order as four kinds of sender write it; every patient is invented.

All of them say what `tests.hl7.orders.orm` says, each where its kind of system has it. The shipped
profiles are tested with these, so they are written by hand from the sources that the profiles
name, never made from the profiles.
"""

from __future__ import annotations

ACCESSION = "A2026000123"


def epic(*, control_id: str = "E1", placer: str = "987654", accession: str = ACCESSION) -> bytes:
    """Order number with EPC, accession in OBR-3, identifiers of types of its own."""
    return _message(
        f"MSH|^~\\&|EPIC|HOSP|||20260301080000|1148|ORM^O01|{control_id}|P|2.3",
        "PID|1||0012345^^^HOSP^MRN~E777^^^EPI^EPI~123-45-6789^^^SSA^SSN||DOE^JANE^Q||19800214|F",
        "PV1|1|EMERGENCY|ED^B12^1|||||9876^REF^ANNA^^^^^^PROVID|||||||||||V123^^^HOSP",
        f"ORC|NW|{placer}^EPC|{accession}||SC||^^^20260301090000^^STAT|||||"
        "9876^REF^ANNA^^^^^^PROVID||||||MR1AE",
        f"OBR|1|{placer}^EPC|{accession}|MRBRWO^MRI brain w/o contrast^EAP|||||||||"
        f"Acute severe headache|||9876^REF^ANNA^^^^^^PROVID||D{placer}|own|own||||MRI|||"
        "^^^20260301090000^^STAT",
    )


def cerner(*, control_id: str = "C1", accession: str = "000002026060000123") -> bytes:
    """Accession in OBR-20 with 18 digits, words for sex, class and section, time in OBR-36."""
    return _message(
        f"MSH|^~\\&|HNAM|HOSP|||20260301080000||ORM^O01|{control_id}|P|2.3||||||8859/1",
        "PID|1|0012345^^^HOSP^MRN|0012345^^^HOSP^MRN~99999^^^HOSP FIN^FIN||DOE^JANE^Q||19800214"
        "|Female",
        "PV1|1|Emergency|ED^B12^1|||||9876^REF^ANNA^^^^^^External Id^Personnel|||||||||||"
        "V123^^^HOSP",
        "ORC|NW|309901965^HNAM_ORDERID|||SC||||20260301080000|||"
        "9876^REF^ANNA^^^^^^External Id^Personnel||||||MR1AE",
        "OBR|1|309901965^HNAM_ORDERID||MRBRWO^MRI brain w/o contrast||||||||||||"
        "9876^REF^ANNA^^^^^^External Id^Personnel||||"
        f"{accession}^HNA_ACCN~4531502^HNA_ACCNID||||MRI|||"
        "1^^0^20260301090000^^ST~^^^^^ST - Stat||||^Acute severe headache|||||20260301090000",
    )


def meditech(*, control_id: str = "T1") -> bytes:
    """A bare medical record number with a letter, words in OBR-5, account number in PID-18."""
    return _message(
        f"MSH|^~\\&|MEDITECH|HOSP|||202603010800||ORM^O01|{control_id}|P|2.3",
        "PID|1||M0012345||DOE^JANE^Q||19800214|F||||||||||V123",
        "PV1|1|ER|ED^B12^1|||||9876^REF^ANNA",
        f"ORC|NW|4711|{ACCESSION}||SC|||||||9876^REF^ANNA||||||MR1AE",
        f"OBR|1|4711|{ACCESSION}|MRBRWO^MRI brain w/o contrast|STAT||202603010900||||||"
        "Acute severe headache|||9876^REF^ANNA||||||||MRI",
    )


def _message(*segments: str) -> bytes:
    return "\r".join([*segments, ""]).encode()
