from __future__ import annotations

import threading

import pytest

from models.errors import Conflict, IllegalMove, InvalidValue, MissingField, UnknownKey
from models.lifecycle import ReportStatus, StudyState
from models.report import Report
from models.study import Study
from services.database.store import Store
from services.workflow.reporting import acknowledge_critical, sign_report, signable
from tests.web.department import CASES, morning


@pytest.fixture
def study(store: Store) -> Study:
    """A critical one."""
    return morning(store, CASES[:1])[CASES[0].accession]


def sign(store: Store, study: Study, status: str = "final", **changes: object) -> Report:
    fields = {
        "findings": "Ventricles enlarged.",
        "impression": "Hydrocephalus.",
        "author": "TESTREADER^RUTH",
    }
    return sign_report(store, study.study_uid, **(fields | {"status": status} | changes))


def test_signing_moves_the_study_and_announces_the_version_at_its_priority(
    store: Store, study: Study
) -> None:
    report = sign(store, study)
    with store() as uow:
        assert uow.studies.get(study.id).state is StudyState.FINAL
        (stage,) = uow.outbox.pending()
        entry = uow.timeline.of_study(study.id)[-1]
    assert (stage.flow, stage.version, stage.queue) == ("report_delivery", "1", "critical")
    assert (entry.kind, entry.actor) == ("report.signed", "TESTREADER^RUTH")
    assert entry.evidence["report_id"] == report.id
    assert "Hydrocephalus" not in str(entry.summary) + str(entry.evidence)


def test_versions_follow_the_table(store: Store, study: Study) -> None:
    assert sign(store, study, "preliminary").version == 1
    assert sign(store, study, "final").version == 2
    with pytest.raises(IllegalMove) as caught:
        sign(store, study, "final", impression="Something else.")
    assert caught.value.location == "status"
    assert sign(store, study, "corrected", impression="Something else.").version == 3


def test_the_same_request_again_makes_no_second_version(store: Store, study: Study) -> None:
    first = sign(store, study, "preliminary", expected_version=0)
    # as a browser sends it, and with what it had seen before its first attempt
    again = sign(store, study, "preliminary", findings="Ventricles enlarged.\r\n ".rstrip(" "))
    assert again == first == sign(store, study, "preliminary", expected_version=0)
    with store() as uow:
        assert len(uow.reports.of_study(study.id)) == 1


def test_a_key_finds_its_report_even_behind_newer_versions(store: Store, study: Study) -> None:
    first = sign(store, study, "preliminary", idempotency_key="k1")
    sign(store, study, "preliminary", author="OTHER^ONE", idempotency_key="k2")
    assert sign(store, study, "preliminary", idempotency_key="k1") == first
    with pytest.raises(Conflict) as caught:
        sign(store, study, "preliminary", impression="Other.", idempotency_key="k1")
    assert caught.value.location == "idempotency_key"


def test_who_signs_second_is_told_of_the_first(store: Store, study: Study) -> None:
    sign(store, study, "preliminary", expected_version=0)
    with pytest.raises(Conflict) as caught:
        sign(store, study, "final", author="OTHER^ONE", expected_version=0)
    assert caught.value.location == "expected_version"


def test_of_many_who_sign_at_once_one_wins(store: Store, study: Study) -> None:
    outcomes: list[object] = []

    def attempt(number: int) -> None:
        try:
            outcomes.append(
                sign(store, study, "preliminary", author=f"R{number}", expected_version=0).version
            )
        except Conflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, outcomes)) == ["1", *["conflict"] * 5]


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("status", "", MissingField),
        ("status", "done", InvalidValue),
        ("impression", " \n", MissingField),
        ("author", "", MissingField),
        ("findings", "a\x00b", InvalidValue),
        ("findings", "\ud800", InvalidValue),
        ("findings", "x" * 100_001, InvalidValue),
        ("idempotency_key", "", MissingField),
    ],
)
def test_an_error_names_the_field(
    store: Store, study: Study, field: str, value: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught:
        sign(store, study, **{field: value})
    assert caught.value.location == field  # type: ignore[attr-defined]


@pytest.mark.parametrize("uid", ["1.2.3", "1\x00", ""])
def test_an_unknown_study_is_not_reported(store: Store, study: Study, uid: str) -> None:
    with pytest.raises(UnknownKey):
        sign_report(store, uid, status="final", findings="", impression="x", author="y")
    with pytest.raises(UnknownKey):
        acknowledge_critical(store, uid, "TESTREADER^RUTH")


def test_the_first_acknowledgement_stands(store: Store, study: Study) -> None:
    first = acknowledge_critical(store, study.study_uid, "TESTREADER^RUTH")
    assert first.by == "TESTREADER^RUTH"
    assert "lateral ventricle" in first.statement
    assert acknowledge_critical(store, study.study_uid, "LATER^ANOTHER") == first
    with store() as uow:
        kinds = [entry.kind for entry in uow.timeline.of_study(study.id)]
        assert uow.reports.critical(study.id).acknowledged_by == "TESTREADER^RUTH"  # type: ignore[union-attr]
    assert kinds.count("critical.acknowledged") == 1


def test_only_a_critical_result_is_acknowledged_and_by_somebody(store: Store) -> None:
    normal = morning(store, CASES[2:3])[CASES[2].accession]
    with pytest.raises(IllegalMove):
        acknowledge_critical(store, normal.study_uid, "TESTREADER^RUTH")
    with pytest.raises(MissingField) as caught:
        acknowledge_critical(store, normal.study_uid, " ")
    assert caught.value.location == "by"


@pytest.mark.parametrize(
    ("state", "last", "expected"),
    [
        (StudyState.SCHEDULED, None, ()),
        (StudyState.ACQUIRED, None, (ReportStatus.PRELIMINARY, ReportStatus.FINAL)),
        (
            StudyState.PRELIMINARY,
            ReportStatus.PRELIMINARY,
            (ReportStatus.PRELIMINARY, ReportStatus.FINAL),
        ),
        (StudyState.DELIVERED, ReportStatus.FINAL, (ReportStatus.CORRECTED,)),
    ],
)
def test_the_form_offers_what_the_table_allows(
    state: StudyState, last: ReportStatus | None, expected: tuple[ReportStatus, ...]
) -> None:
    assert signable(state, last) == expected
