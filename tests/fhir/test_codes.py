"""What fhir.resources lets pass and we do not."""

from __future__ import annotations

from importlib import import_module
from inspect import isclass
from typing import Any

import pytest
from pydantic import ValidationError

from services.fhir.codes import REQUIRED, InvalidResourceError, validated

OBSERVATION: dict[str, Any] = {
    "resourceType": "Observation",
    "status": "final",
    "code": {"text": "x"},
}


def test_a_sound_resource_passes_unchanged() -> None:
    assert validated(OBSERVATION) == OBSERVATION


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"status": "done"}, "Observation.status"),
        ({"identifier": [{"use": "bogus", "value": "1"}]}, "Observation.identifier.use"),
        (
            {
                "contained": [{"resourceType": "Patient", "id": "p", "gender": "F"}],
                "subject": {"reference": "#p"},
            },
            "Observation.contained.gender",
        ),
        ({"subject": {"reference": "#nobody"}}, "refers to something it does not contain"),
        (
            {"contained": [{"resourceType": "Patient", "id": "p"}]},
            "contains something it does not refer to",
        ),
    ],
)
def test_a_wrong_code_or_reference_is_told_by_its_place(change: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidResourceError, match=where):
        validated(OBSERVATION | change)


@pytest.mark.parametrize("status", ["corrected", "amended", "entered-in-error"])
def test_a_code_that_the_library_cuts_off_is_known(status: str) -> None:
    assert validated(OBSERVATION | {"status": status})["status"] == status


@pytest.mark.parametrize(
    "kind", ["DiagnosticReport", "ImagingStudy", "Patient", "Bundle", "Device"]
)
def test_no_list_of_the_library_that_we_rely_on_is_cut_off(kind: str) -> None:
    module = import_module(f"fhir.resources.R4B.{kind.lower()}")
    for element in vars(module).values():
        if not (isclass(element) and element.__module__ == module.__name__):
            continue
        for name, field in element.model_fields.items():
            listed = (field.json_schema_extra or {}).get("enum_values", [])
            known = f"{element.__name__}.{name}" in REQUIRED
            assert "+" not in listed or known or element.__name__ == "DeviceUdiCarrier"


def test_a_wrong_shape_is_refused_by_the_library() -> None:
    with pytest.raises(ValidationError):
        validated(OBSERVATION | {"value": 1})
