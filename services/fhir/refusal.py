"""What is wrong with a request that came in: an HTTP status and issues, each with its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from models.errors import InvalidValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """One issue of an OperationOutcome.

    Parameters
    ----------
    code : str
        IssueType.
    text : str
        The shape of what is wrong and what to do, without values of the patient.
    expression : str
        FHIRPath of the place; empty where there is none.
    """

    code: str
    text: str
    expression: str = ""


class Refusal(InvalidValue):
    """A request that is answered with an OperationOutcome, and whose effects are taken back."""

    def __init__(self, status: int, issues: Sequence[Issue]) -> None:
        super().__init__(
            "; ".join(f"{issue.code}: {issue.text}" for issue in issues),
            location=issues[0].expression or None,
        )
        self.status = status
        self.issues = tuple(issues)


def refusal(code: str, text: str, expression: str = "", *, status: int = 422) -> Refusal:
    """Return the refusal for one issue; 422 unless HTTP or FHIR prescribes another status."""
    return Refusal(status, [Issue(code=code, text=text, expression=expression)])


def outcome(issues: Sequence[Issue]) -> dict[str, Any]:
    """Return the OperationOutcome of these issues; it is the same in R4 and R5."""
    return {
        "resourceType": "OperationOutcome",
        "issue": [
            {
                "severity": "error",
                "code": issue.code,
                "diagnostics": issue.text,
                **({"expression": [issue.expression]} if issue.expression else {}),
            }
            for issue in issues
        ],
    }
