"""Does a message keep to its standard's structure? Asked of hl7apy, off the acknowledging path."""

from __future__ import annotations

from hl7apy.exceptions import HL7apyException
from hl7apy.parser import parse_message

from services.hl7.er7 import parse


def check_structure(raw: bytes) -> list[str]:
    """Return what hl7apy finds wrong with a message; empty when nothing.

    Z segments are left out: they are legal anywhere, and hl7apy loses them inside a group. About
    20 ms a message.
    """
    message = parse(raw)
    lines = []
    for segment in message.segments:
        if not segment.name.startswith("Z"):
            # MSH-1 is the separator itself and stands in no field of its own.
            fields = (
                segment.fields[:1] + segment.fields[2:] if segment.name == "MSH" else segment.fields
            )
            lines.append(message.delimiters.field.join(fields))
    try:
        parse_message("\r".join(lines) + "\r", find_groups=True).validate()
    except HL7apyException as error:
        if "_CHOICE" in str(error):
            return []  # hl7apy asks for every branch of a choice; the standard for one
        return [f"{type(error).__name__}: {_without_values(str(error))}"]
    except (KeyError, AttributeError, IndexError, ValueError) as error:
        # hl7apy fails on some messages that it cannot place; that is a finding too.
        return [f"{type(error).__name__} while checking"]
    return []


def _without_values(text: str) -> str:
    # The text may quote a field; only its first words, which name the rule, are kept.
    return text.split(":", 1)[0][:120]
