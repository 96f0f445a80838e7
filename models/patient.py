"""Patients and the identifiers by which others know them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who gave a number (HL7 HD): a local name, and a universal id with its kind."""

    namespace: str = ""
    universal_id: str = ""
    universal_type: str = ""

    @property
    def name(self) -> str:
        """What tells this issuer from another: its local name, else its universal id."""
        return self.namespace or self.universal_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A coded concept: value, meaning, coding scheme (CE/CWE, DICOM code item)."""

    value: str
    meaning: str = ""
    scheme: str = "L"


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
    universal_id, universal_type : str
        CX.4.2 and CX.4.3, the Issuer of Patient ID Qualifiers (0010,0024); they say more of the
        authority and do not tell two numbers apart.
    """

    value: str
    authority: str
    type: str = "MR"
    universal_id: str = ""
    universal_type: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What makes two identifiers the same number."""
        return self.value, self.authority

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
    mother_name: PersonName = field(default_factory=PersonName)
    """Patient's Mother's Birth Name (0010,1060)."""
    address: str = ""
    language: Code | None = None
    """Patient's Primary Language (0010,0101)."""
    comments: str = ""

    @property
    def mrn(self) -> Identifier:
        """The identifier written into DICOM Patient ID: the first medical record number."""
        return next((i for i in self.identifiers if i.type == "MR"), self.identifiers[0])
