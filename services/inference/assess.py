"""One study's files in, one assessment out; whatever happens in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pydicom import Dataset
from pydicom.config import disable_value_validation

from models.errors import ModelError, UnassessableError
from services.inference.assessment import (
    ASYMMETRIC_VOLUME,
    ASYMMETRY_INDEX,
    LEFT_VENTRICLE,
    MIDLINE_SHIFT,
    RIGHT_VENTRICLE,
    Assessment,
    Evidence,
    Measurement,
    Side,
)
from services.inference.canonical import straighten
from services.inference.registry import TriageModel
from services.inference.series import SeriesChoice, choose_series
from services.inference.volume import Headers, read_headers, read_volume

_NAMES: Final = {
    "asymmetry_index": ASYMMETRY_INDEX,
    "asymmetric_volume": ASYMMETRIC_VOLUME,
    "fluid_left": LEFT_VENTRICLE,
    "fluid_right": RIGHT_VENTRICLE,
    "midline_shift": MIDLINE_SHIFT,
}
# an echo-planar readout loses signal next to air, which looks like fluid
_NOT_ECHO_PLANAR: Final = frozenset({"fluid_left", "fluid_right"})
_NOTABLE_SHIFT_MM: Final = 3.0


def assess(model: TriageModel, paths: Sequence[Path]) -> Assessment:
    """Assess one study.

    Parameters
    ----------
    model
        From `registry.load`.
    paths
        All files of one study, in any order; what is not an eligible image is passed over.

    Returns
    -------
    Assessment
        Always: whatever is wrong with the files, the outcome is then ``abstained``.
    """
    # What matters is checked where it is used, and scanners bend many other rules. The switch is
    # pydicom's global one, which is why a process with threads should use `ModelProcess`.
    with disable_value_validation():
        return _assess(model, paths)


def _assess(model: TriageModel, paths: Sequence[Path]) -> Assessment:
    evidence: tuple[Evidence, ...] = ()
    try:
        headers = read_headers(paths)
        choice = _choose(model, headers)
        evidence = _evidence(headers, choice)
        native = read_volume(headers, choice)
        canonical = straighten(native, model.card.grid, model.card.plausibility)
        return _judge(model, model.run(canonical.voxels), choice, evidence)
    except UnassessableError as error:
        reason, failed = str(error), False
    except ModelError as error:
        reason, failed = str(error), True
    except Exception as error:  # noqa: BLE001 - a study that breaks us must still be read
        reason, failed = f"the images could not be processed ({type(error).__name__})", True
    return Assessment(
        outcome="abstained",
        failed=failed,
        reason=reason,
        model=model.card.identity,
        evidence=evidence,
    )


def _choose(model: TriageModel, headers: Headers) -> SeriesChoice:
    if len({str(header.StudyInstanceUID) for header in headers.datasets}) > 1:
        raise UnassessableError("the files belong to several studies")
    choice = choose_series(headers.datasets, model.card.eligibility)
    if choice.series_uid is None:
        broken = f"; {headers.unreadable} file(s) could not be read" if headers.unreadable else ""
        raise UnassessableError(choice.refusal + broken)
    return choice


def _evidence(headers: Headers, choice: SeriesChoice) -> tuple[Evidence, ...]:
    planes = choice.stack.planes if choice.stack else ()
    used = dict.fromkeys(choice.headers[plane.header] for plane in planes)
    return tuple(_reference(headers.datasets[index]) for index in used)


def _reference(header: Dataset) -> Evidence:
    return Evidence(
        study_uid=str(header.StudyInstanceUID),
        series_uid=str(header.SeriesInstanceUID),
        sop_class_uid=str(header.SOPClassUID),
        sop_instance_uid=str(header.SOPInstanceUID),
    )


def _judge(
    model: TriageModel,
    values: Mapping[str, float],
    choice: SeriesChoice,
    evidence: tuple[Evidence, ...],
) -> Assessment:
    card = model.card
    score = min(1.0, max(0.0, values[card.score]))
    critical = score >= card.threshold
    measurements = tuple(
        Measurement(
            name=_NAMES.get(output, output),
            # which way the midline lies is said in words; the number is how far
            value=abs(value) if output == "midline_shift" else value,
            unit=card.outputs[output],
        )
        for output, value in values.items()
        if not (choice.echo_planar and output in _NOT_ECHO_PLANAR)
    )
    side = _side(values) if critical else None
    relation = "at or above" if critical else "below"
    return Assessment(
        outcome="critical" if critical else "normal",
        score=score,
        side=side,
        findings=_findings(values, side) if critical else (),
        measurements=measurements,
        reason=f"asymmetry index {score:.2f}, {relation} the threshold of {card.threshold:.2f}",
        model=card.identity,
        evidence=evidence,
    )


def _side(values: Mapping[str, float]) -> Side | None:
    left, right = values.get("fluid_left", 0.0), values.get("fluid_right", 0.0)
    if abs(left - right) < 0.2 * (left + right):
        return None
    return "left" if left > right else "right"


def _findings(values: Mapping[str, float], side: Side | None) -> tuple[str, ...]:
    found = ["marked left–right asymmetry of the deep brain"]
    if side:
        found.append(f"more fluid in the region of the {side} lateral ventricle")
    shift = values.get("midline_shift", 0.0)
    if abs(shift) >= _NOTABLE_SHIFT_MM:
        found.append(f"midline shifted to the {'left' if shift > 0 else 'right'}")
    return tuple(found)
