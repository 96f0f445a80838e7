"""What a triage model says about a study, as plain data that travels between processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

Outcome = Literal["critical", "normal", "abstained"]
Side = Literal["left", "right"]

# names that the SR writer and the operators' JSON rely on
ASYMMETRY_INDEX: Final = "asymmetry index"
ASYMMETRIC_VOLUME: Final = "asymmetric volume"
LEFT_VENTRICLE: Final = "left lateral ventricle volume"
RIGHT_VENTRICLE: Final = "right lateral ventricle volume"
MIDLINE_SHIFT: Final = "midline shift"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One number with its UCUM unit."""

    name: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One instance that the assessment rests on."""

    study_uid: str
    series_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """The outcome of one model on one study.

    Attributes
    ----------
    outcome
        ``critical``, ``normal``, or ``abstained`` when the model could not or must not judge.
        Abstained never means normal.
    reason
        Why, in words for people; free of patient data.
    model
        ``name@version``.
    score
        The model's score in [0, 1]; None when it abstained.
    failed
        Whether it abstained because we failed (crash, time-out), not because of what the images
        are: the one is for the engineer, the other for the reader.
    side
        The patient's side that the finding is on, if it has one.
    findings
        What was found, in words; empty when nothing was.
    measurements
        Numbers behind the outcome.
    evidence
        The instances that were looked at.
    """

    outcome: Outcome
    reason: str
    model: str
    score: float | None = None
    failed: bool = False
    side: Side | None = None
    findings: tuple[str, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    evidence: tuple[Evidence, ...] = ()

    def __post_init__(self) -> None:
        if self.outcome not in get_args(Outcome):
            raise ValueError(f"outcome must be one of {get_args(Outcome)}")
        if (self.score is None) != (self.outcome == "abstained"):
            raise ValueError("a score belongs to every outcome except 'abstained'")
        if self.failed and self.outcome != "abstained":
            raise ValueError("only an abstained assessment can have failed")
        if self.outcome == "normal" and self.findings:
            raise ValueError("a normal outcome has no findings")

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready values; the keys are a contract with operators and tests.

        Measurements are rounded to what they are worth.
        """
        return {
            "outcome": self.outcome,
            "score": None if self.score is None else round(self.score, 3),
            "failed": self.failed,
            "side": self.side,
            "findings": list(self.findings),
            "measurements": [
                {"name": m.name, "value": round(m.value, 2), "unit": m.unit}
                for m in self.measurements
            ],
            "reason": self.reason,
            "model": self.model,
            "evidence": [
                {
                    "study_uid": e.study_uid,
                    "series_uid": e.series_uid,
                    "sop_class_uid": e.sop_class_uid,
                    "sop_instance_uid": e.sop_instance_uid,
                }
                for e in self.evidence
            ],
        }
