"""Single encoded values as text and as DICOM JSON, tolerant of everything that scanners write."""

from __future__ import annotations

import struct
from typing import Any, Final

from pydicom import charset

_NUMBERS: Final = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "FL": "f", "FD": "d"}
_DELIMITERS: Final = {0x3D, 0x5C, 0x5E}  # =, backslash, ^
_PN_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")


def text_of(value: bytes, encodings: list[str]) -> str:
    """Decode a string value; what cannot be decoded is replaced.

    NUL pads UIDs (PS3.5 §9.1) and is refused by PostgreSQL anywhere else, so it is dropped.
    """
    if len(encodings) == 1:
        try:
            decoded = value.decode(encodings[0], "replace")
        except LookupError:
            decoded = value.decode("latin-1")
    else:
        try:
            decoded = charset.decode_bytes(value, encodings, _DELIMITERS)
        except (LookupError, UnicodeError, UserWarning):
            decoded = value.decode("latin-1")
    return decoded.replace("\0", "").strip()


def json_value(vr: str, value: bytes, encodings: list[str], *, little: bool) -> dict[str, Any]:
    """Return one element in the DICOM JSON Model (PS3.18 F.2.2); an empty one has no ``Value``."""
    if vr in _NUMBERS:
        code = _NUMBERS[vr]
        size = struct.calcsize(f"<{code}")
        count = len(value) // size
        order = "<" if little else ">"
        values: list[Any] = list(struct.unpack(f"{order}{count}{code}", value[: count * size]))
    else:
        parts = text_of(value, encodings).split("\\")
        values = [_json_text(vr, part.strip()) for part in parts] if any(parts) else []
    return {"vr": vr, "Value": values} if values else {"vr": vr}


def _json_text(vr: str, part: str) -> Any:
    if vr == "PN":
        groups = zip(_PN_GROUPS, part.split("="), strict=False)
        return {name: group for name, group in groups if group} or None
    if vr in ("IS", "DS") and part:
        try:
            number = float(part)
        except ValueError:
            return part
        return int(number) if vr == "IS" and number.is_integer() else number
    return part or None
