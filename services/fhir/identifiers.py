"""Identifiers of FHIR as numbers and their issuers, as HL7 v2 and DICOM have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from models.patient import Identifier, Issuer
from services.fhir.codes import DICOM_UID, V2_0203

PLACER, FILLER, ACCESSION = "PLAC", "FILL", "ACSN"
_UNIVERSAL: Final = {"urn:oid:": "ISO", "urn:uuid:": "UUID"}


class Systems:
    """What the systems of identifiers are called at this site.

    Parameters
    ----------
    authorities : mapping of str to str
        System URI → assigning authority, as the site's HL7 messages and scanners name it.
    default : str
        Assigning authority of a patient's number that names none.
    """

    def __init__(self, authorities: Mapping[str, str], default: str) -> None:
        self._authorities = authorities
        self.default = default

    def issuer(self, identifier: Mapping[str, Any]) -> Issuer:
        """Return who gave a number: the site's name for its system, else its assigner."""
        system = str(identifier.get("system", ""))
        named = self._authorities.get(system) or identifier.get("assigner", {}).get("display", "")
        for prefix, kind in _UNIVERSAL.items():
            if system.startswith(prefix):
                return Issuer(named, system.removeprefix(prefix), kind)
        return Issuer(named) if named or not system else Issuer("", system, "URI")

    def of_system(self, system: str) -> str:
        """Return what tells the numbers of a system from those of others."""
        return self.issuer({"system": system}).name

    def scheme(self, system: str) -> str | None:
        """Return the site's designator of a coding system."""
        return self._authorities.get(system)

    def patient_identifier(self, identifier: Mapping[str, Any]) -> Identifier:
        """Return a patient's number; of no type it is a medical record number, as in HL7."""
        issuer = self.issuer(identifier)
        return Identifier(
            value=str(identifier["value"]).strip(),
            authority=issuer.name or self.default,
            type=next(iter(type_codes(identifier)), "MR"),
            universal_id=issuer.universal_id,
            universal_type=issuer.universal_type,
        )


def type_codes(identifier: Mapping[str, Any]) -> list[str]:
    """Return the codes of HL70203 that an identifier's type has."""
    codings = identifier.get("type", {}).get("coding", [])
    return [c["code"] for c in codings if "code" in c and c.get("system", V2_0203) == V2_0203]


def of_type(identifiers: list[dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    """Iterate over the identifiers of a type of HL70203, or of a type with this text.

    A placer number needs no type: it is the number of the one who asks.
    """
    for identifier in identifiers:
        if not identifier.get("value"):
            continue
        told, words = type_codes(identifier), identifier.get("type", {}).get("text", "")
        if kind in told or words == kind:
            yield identifier
    if kind == PLACER:
        for identifier in identifiers:
            untyped = "type" not in identifier and identifier.get("system") != DICOM_UID
            if untyped and identifier.get("value"):
                yield identifier


def study_uid(identifiers: list[dict[str, Any]]) -> str | None:
    """Return the Study Instance UID that is said, without ``urn:oid:``."""
    for identifier in identifiers:
        if identifier.get("system") == DICOM_UID and identifier.get("value"):
            return str(identifier["value"]).removeprefix("urn:oid:")
    return None
