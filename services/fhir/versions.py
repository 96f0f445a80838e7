"""The versions of FHIR that are spoken, and what differs between them as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of FHIR.

    Attributes
    ----------
    path : str
        Where it is served.
    number : str
        As CapabilityStatement.fhirVersion has it.
    models : str
        The library's package. R4B is its name for R4: every resource used here is the same in
        both (STANDARDS §5.4).
    """

    name: str
    path: str
    number: str
    models: str


R4: Final = Version(name="R4", path="/fhir/r4", number="4.0.1", models="fhir.resources.R4B")
R5: Final = Version(name="R5", path="/fhir/r5", number="5.0.0", models="fhir.resources")
VERSIONS: Final = (R4, R5)
