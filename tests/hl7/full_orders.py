"""One order with everything said, in both options of IHE RAD; the patient is invented."""

from __future__ import annotations

PID = (
    "PID|1||0012345^^^HOSP&1.2.3.4&ISO^MR~9988^^^REGION&1.2.3.5&ISO^PI||DOE^JANE^Q^^DR"
    "|SMITH^ANNE|19800214|F|||1 MAIN ST^^TOWN^ST^12345||||de^German^ISO639"
)
SHARED = [
    PID,
    "NTE|1||Brings a relative",
    "PV1|1|E|ED^B12^1|||||9876^REF^ANNA|||||||B6~A2||||V123^^^HOSP&1.2.3.4&ISO",
    "PV2|||R51^Headache^I10",
    "AL1|1|DA|GADO^Gadolinium contrast^L|SV|Rash",
    "AL1|2|DA|LTX^Latex^L",
]
ORC_TAIL = "|||55^CLERK^CARL||9876^REF^ANNA|^^^^^^^^NEURO||||HOSP1^General Hospital^L"
PROCEDURE = "MRBRWO^MRI brain w/o contrast^L^BRAIN^Brain routine^99SITE"
REASON = "R51^Acute severe headache^I10"
OBX = [
    "OBX|1|NM|BW^Body Weight^L||72|kg|||||F",
    "OBX|2|NM|BH^Body Height^L||168|cm|||||F",
]


def _message(kind: str, version: str, *segments: str) -> bytes:
    msh = f"MSH|^~\\&|EMR|HOSP|ENGINE|RAD|20260301080000||{kind}|M1|P|{version}||||||UNICODE UTF-8"
    return "\r".join([msh, *SHARED, *segments, ""]).encode()


def orm_full() -> bytes:
    """ORM^O01 v2.3.1 with ZDS."""
    obr = [""] * 45
    obr[0:5] = ["OBR", "1", "P100^EMR^1.2.9^ISO", "F200^RIS^1.2.8^ISO", PROCEDURE]
    obr[6], obr[12], obr[13] = "20260228", "AGGR^Aggressive^L", "Pacemaker"
    obr[16] = "9876^REF^ANNA"
    obr[18:21], obr[24] = ["A2026000123", "RP1", "SPS1"], "MR"
    obr[27], obr[30], obr[31] = "1^once^^20260301090000^^S", "WALK", REASON
    obr[34] = "77&TECH&TINA"
    return _message(
        "ORM^O01^ORM_O01",
        "2.3.1",
        "ORC|NW|P100^EMR^1.2.9^ISO|F200^RIS^1.2.8^ISO||SC||1^once^^20260301090000^^S"
        + ORC_TAIL
        + "|MR1AE||||||||||CONF^VIP^L",
        "|".join(obr).rstrip("|"),
        *OBX,
        "ZDS|1.2.3.4.5.6.7^100^Application^DICOM",
    )


def omi_full() -> bytes:
    """OMI^O23 v2.5.1 with TQ1 and IPC."""
    obr = [""] * 45
    obr[0:5] = ["OBR", "1", "P100^EMR^1.2.9^ISO", "F200^RIS^1.2.8^ISO", PROCEDURE]
    obr[6], obr[12], obr[13] = "20260228", "AGGR^Aggressive^L", "Pacemaker"
    obr[16] = "9876^REF^ANNA"
    obr[30], obr[31], obr[34] = "WALK", REASON, "77&TECH&TINA"
    return _message(
        "OMI^O23^OMI_O23",
        "2.5.1",
        "ORC|NW|P100^EMR^1.2.9^ISO|F200^RIS^1.2.8^ISO||SC||" + ORC_TAIL + "|||||||||||CONF^VIP^L",
        "TQ1|1||||||20260301090000||S^Stat^HL70485",
        "|".join(obr).rstrip("|"),
        *OBX,
        "IPC|A2026000123^RIS^1.2.8^ISO|RP1^RIS|1.2.3.4.5.6.7|SPS1^RIS|MR"
        "|BRAIN^Brain routine^99SITE|||MR1AE",
    )
