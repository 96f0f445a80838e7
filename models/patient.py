"""Patients and the identifiers by which others know them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, slots=True, kw_only=True)
class Identifier:
    """A number and who gave it; the same number from two authorities is two patients.

    Parameters
    ----------
    value : str
        As received, trimmed; never cast to a number (leading zeros are significant).
    authority : str
        Assigning authority: CX.4.1 in HL7, Issuer of Patient ID (0010,0021) in DICOM.
    type : str
        HL70203 code such as ``MR``.
    """

    value: str
    authority: str
    type: str = "MR"

    def __post_init__(self) -> None:
        if not self.value.strip():
            raise ValueError("an identifier needs a value")


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonName:
    """A person's name in the five components that HL7 XPN and DICOM PN share."""

    family: str = ""
    given: str = ""
    middle: str = ""
    prefix: str = ""
    suffix: str = ""

    @classmethod
    def parse(cls, pn: str) -> PersonName:
        """Read a DICOM PN (PS3.5 §6.2.1.1): ``family^given^middle^prefix^suffix``."""
        alphabetic = pn.split("=", 1)[0]
        parts = [part.strip() for part in alphabetic.split("^")] + [""] * 5
        return cls(
            family=parts[0], given=parts[1], middle=parts[2], prefix=parts[3], suffix=parts[4]
        )

    def __str__(self) -> str:
        """Return the DICOM PN, trailing empty components dropped."""
        return "^".join((self.family, self.given, self.middle, self.prefix, self.suffix)).rstrip(
            "^"
        )

    def key(self) -> str:
        """Return the name folded for comparison: case and separators do not tell people apart."""
        return " ".join(f"{self.family} {self.given}".casefold().split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """A person with one internal id and every identifier that points to it."""

    id: str
    identifiers: tuple[Identifier, ...]
    name: PersonName
    birth_date: date | None = None
    sex: str = ""

    @property
    def mrn(self) -> Identifier:
        """The identifier written into DICOM Patient ID: the first medical record number."""
        return next((i for i in self.identifiers if i.type == "MR"), self.identifiers[0])
