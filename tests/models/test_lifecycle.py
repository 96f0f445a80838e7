"""The lifecycle table, pair by pair: what it allows happens, and nothing else does."""

from __future__ import annotations

from enum import Enum
from itertools import product

import pytest

from models.errors import IllegalMove
from models.lifecycle import (
    TABLE,
    MigrationEvent,
    MigrationState,
    ReportStatus,
    StepEvent,
    StepState,
    StudyEvent,
    StudyState,
    move,
)

EVENTS_OF: dict[type[Enum], type[Enum]] = {
    StudyState: StudyEvent,
    ReportStatus: StudyEvent,
    StepState: StepEvent,
    MigrationState: MigrationEvent,
}
STATES = [state for kind in EVENTS_OF for state in kind]
EVENTS = [event for kind in dict.fromkeys(EVENTS_OF.values()) for event in kind]
ILLEGAL = [pair for pair in product(STATES, EVENTS) if pair not in TABLE]

Pair = tuple[Enum, Enum]


def name(value: object) -> str:
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    return "-".join(name(part) for part in value) if isinstance(value, tuple) else repr(value)


@pytest.mark.parametrize("pair", TABLE, ids=name)
def test_a_listed_pair_moves_to_the_listed_state(pair: Pair) -> None:
    state, event = pair
    after, source = TABLE[state, event]
    assert move(state, event) is after
    assert source, "a row cites the place that asks for it"


@pytest.mark.parametrize("pair", ILLEGAL, ids=name)
def test_any_other_pair_is_illegal(pair: Pair) -> None:
    state, event = pair
    with pytest.raises(IllegalMove) as refusal:
        move(state, event)
    assert repr(state.value) in str(refusal.value)
    assert repr(event.value) in str(refusal.value)


def test_every_pair_is_either_listed_or_illegal() -> None:
    assert len(TABLE) + len(ILLEGAL) == len(STATES) * len(EVENTS)


@pytest.mark.parametrize("pair", TABLE, ids=name)
def test_kinds_of_state_never_mix(pair: Pair) -> None:
    state, event = pair
    after, _ = TABLE[state, event]
    assert type(after) is type(state)
    assert type(event) is EVENTS_OF[type(state)]


def test_equal_words_of_two_kinds_are_two_keys() -> None:
    assert StudyState.FINAL.value == ReportStatus.FINAL.value
    assert StudyState.FINAL != ReportStatus.FINAL
    assert move(StudyState.FINAL, StudyEvent.REPORTED_CORRECTED) is StudyState.FINAL
    assert move(ReportStatus.FINAL, StudyEvent.REPORTED_CORRECTED) is ReportStatus.CORRECTED


@pytest.mark.parametrize("kind", EVENTS_OF, ids=lambda kind: kind.__name__)
def test_every_state_is_reached_from_the_first(kind: type[Enum]) -> None:
    initial = next(iter(kind))
    reached, grew = {initial}, True
    while grew:
        after = {TABLE[s, e][0] for s, e in TABLE if s in reached}
        grew, reached = not after <= reached, reached | after
    assert reached == set(kind)


@pytest.mark.parametrize("event", EVENTS, ids=name)
def test_every_event_moves_something(event: Enum) -> None:
    assert any(e is event for _, e in TABLE)


@pytest.mark.parametrize(
    "state", [StudyState.PRELIMINARY, StudyState.FINAL, StudyState.DELIVERED], ids=name
)
@pytest.mark.parametrize(
    "event", [StudyEvent.INSTANCE_RECEIVED, StudyEvent.EXAM_STARTED, StudyEvent.COMPLETE], ids=name
)
def test_late_images_never_take_a_report_away(state: StudyState, event: StudyEvent) -> None:
    assert move(state, event) is state


@pytest.mark.parametrize("state", StudyState, ids=name)
def test_an_image_is_accepted_in_every_state(state: StudyState) -> None:
    assert move(state, StudyEvent.INSTANCE_RECEIVED) in StudyState
