"""Messages that tests send, written out field by field; every patient is invented."""

from __future__ import annotations


def orm(
    *,
    control_id: str = "M1",
    control: str = "NW",
    placer: str = "P100",
    accession: str = "A2026000123",
    uid: str = "1.2.3.4.5.6.7",
    pid: str = "0012345",
    family: str = "DOE",
    start: str = "20260301090000",
    priority: str = "S",
) -> bytes:
    """ORM^O01 v2.3.1, the IHE option: accession OBR-18, RP OBR-19, SPS OBR-20, UID ZDS-1."""
    order = f"P{placer}^EMR" if placer.isdigit() else f"{placer}^EMR"
    return "\r".join(
        [
            f"MSH|^~\\&|EMR|HOSP|ENGINE|RAD|20260301080000||ORM^O01^ORM_O01|{control_id}|P|2.3.1"
            "||||||UNICODE UTF-8",
            f"PID|1||{pid}^^^HOSP&1.2.3.4&ISO^MR||{family}^JANE^Q||19800214|F",
            "PV1|1|E|ED^B12^1|||||9876^REF^ANNA|||||||B6||||V123^^^HOSP",
            "AL1|1|DA|GADO^Gadolinium contrast^L|SV|Rash",
            f"ORC|{control}|{order}|F200^RIS||SC||1^once^^{start}^^{priority}|||||9876^REF^ANNA"
            "||||||MR1AE",
            f"OBR|1|{order}|F200^RIS|MRBRWO^MRI brain w/o contrast^L|||||||||Pacemaker|||"
            f"9876^REF^ANNA||{accession}|RP1|SPS1||||MR|||1^once^^{start}^^{priority}|||WALK|"
            "^Acute severe headache",
            "OBX|1|NM|BW^Body Weight^L||72|kg|||||F",
            f"ZDS|{uid}^100^Application^DICOM",
            "",
        ]
    ).encode()


def omi(*, control_id: str = "M2", placer: str = "P100") -> bytes:
    """OMI^O23 v2.5.1, the other IHE option: IPC carries every number, TQ1 the time."""
    return "\r".join(
        [
            f"MSH|^~\\&|EMR|HOSP|ENGINE|RAD|20260301080000||OMI^O23^OMI_O23|{control_id}|P|2.5.1"
            "||||||UNICODE UTF-8",
            "PID|1||0012345^^^HOSP&1.2.3.4&ISO^MR||DOE^JANE^Q||19800214|F",
            "PV1|1|E|ED^B12^1|||||9876^REF^ANNA|||||||B6||||V123^^^HOSP",
            "AL1|1|DA|GADO^Gadolinium contrast^L|SV|Rash",
            f"ORC|NW|{placer}^EMR|F200^RIS||SC|||||||9876^REF^ANNA",
            "TQ1|1||||||20260301090000||S^Stat^HL70485",
            f"OBR|1|{placer}^EMR|F200^RIS|MRBRWO^MRI brain w/o contrast^L|||||||||Pacemaker|||"
            "9876^REF^ANNA||||||||||||||WALK|^Acute severe headache",
            "OBX|1|NM|BW^Body Weight^L||72|kg|||||F",
            "IPC|A2026000123^RIS|RP1^RIS|1.2.3.4.5.6.7|SPS1^RIS|MR|MRBRWO^MRI brain w/o contrast^L"
            "|||MR1AE",
            "",
        ]
    ).encode()


def adt(
    *, event: str = "A04", control_id: str = "T1", pid: str = "0012345", mrg: str = ""
) -> bytes:
    """ADT in v2.5.1; with `mrg`, the retired identifier of an A40."""
    lines = [
        f"MSH|^~\\&|EMR|HOSP|ENGINE|RAD|20260301080000||ADT^{event}|{control_id}|P|2.5.1",
        "EVN||20260301080000",
        f"PID|1||{pid}^^^HOSP^MR||DOE^JANE^Q||19800214|F",
    ]
    return "\r".join([*lines, *([f"MRG|{mrg}^^^HOSP^MR"] if mrg else []), ""]).encode()
