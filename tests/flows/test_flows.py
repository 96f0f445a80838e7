"""Every stage in Prefect: does its work, once, and stays open while it cannot."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update

from models.errors import Unavailable
from models.events import Topic
from models.lifecycle import StudyState
from models.priority import Priority
from models.tier import Tier
from services.database.tables import outbox
from tasks.parts import model, parts
from tests.flows.conftest import UID, Department

IN_60_DAYS = timedelta(days=60)


def acquired(department: Department) -> None:
    """An ordered study, judged complete; triage is announced."""
    department.order()
    department.scan()
    department.run_stage("acquisition_receipt")


def test_acquisition_receipt_judges_once(department: Department) -> None:
    acquired(department)
    assert department.study().state is StudyState.ACQUIRED
    department.run_stage("acquisition_receipt")
    assert department.study().version == 1
    assert department.told("acquisition.complete") == 1
    assert department.open_stages() == ["order_intake", "worklist_publication", "triage"]


def test_triage_writes_one_finding_and_says_what_it_was(department: Department) -> None:
    acquired(department)
    for _ in range(2):
        state = department.run("triage", f"{department.study().id}:1", return_state=True)
        assert (state.type.value, state.name) == ("COMPLETED", "Abstained")
    with department.store() as uow:
        (finding,) = uow.studies.findings(department.study().id)
    assert finding.reason
    assert department.told("triage.abstained") == 1
    assert "triage" not in department.open_stages()


def test_triage_of_images_that_cannot_be_read_is_an_outcome_too(department: Department) -> None:
    acquired(department)
    (hot,) = department.settings.hot_root.glob("1.*")
    hot.rename(hot.with_name("away"))
    department.run_stage("triage")
    assert department.study().triage == "abstained"
    assert "triage" not in department.open_stages()


def test_triage_without_a_model_is_an_outcome_too(
    department: Department, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquired(department)
    monkeypatch.setenv("SPINECHO_TRIAGE_MODEL", "asymmetry@9.9.9")
    parts().store.close()
    parts.cache_clear()
    model.cache_clear()
    department.run_stage("triage")
    assert department.study().triage == "abstained"
    assert department.told("triage.abstained") == 1
    assert "triage" not in department.open_stages()


def test_a_critical_finding_is_announced_once_and_escalates(department: Department) -> None:
    acquired(department)
    study = department.study()
    with department.store() as uow:
        assert uow.reports.found_critical(study.id)
        uow.outbox.announce(Topic.FINDING_CRITICAL, study.id, "1", Priority.CRITICAL)
    for _ in range(2):
        department.run_stage("critical_escalation")
    assert department.told("critical.announced") == 1
    assert "critical_escalation" not in department.open_stages()
    department.run("reconcile")
    assert department.told("critical.escalated") == 1


def test_report_delivery_sends_once(department: Department) -> None:
    acquired(department)
    department.sign()
    for _ in range(2):
        department.run_stage("report_delivery")
    assert [report.answered for report in department.inbox.messages] == ["AA"]
    assert department.study().state is StudyState.DELIVERED
    assert "report_delivery" not in department.open_stages()


def test_report_delivery_stays_open_until_its_destination_takes_it(department: Department) -> None:
    acquired(department)
    department.sign()
    department.inbox.fail_next(1, "AE")
    with pytest.raises(Unavailable):
        department.run_stage("report_delivery")
    assert "report_delivery" in department.open_stages()
    assert department.study().state is StudyState.FINAL
    department.run_stage("report_delivery")
    assert department.study().state is StudyState.DELIVERED
    assert len({report.raw for report in department.inbox.messages}) == 1


def test_a_held_report_goes_out_once_its_order_has_come(department: Department) -> None:
    department.scan()
    department.run_stage("acquisition_receipt")
    department.sign()
    department.run_stage("report_delivery")
    assert department.inbox.messages == []
    assert "report_delivery" not in department.open_stages()
    department.order()
    assert "report_delivery" in department.open_stages()
    department.run_stage("report_delivery")
    assert [report.answered for report in department.inbox.messages] == ["AA"]
    assert department.told("order.joined") == 1
    assert department.told("worklist.published") == 0


def test_tier_migration_moves_once_and_leaves_what_it_cannot_copy(department: Department) -> None:
    acquired(department)
    department.sign()
    as_of = (department.store.clock() + IN_60_DAYS).isoformat()
    warm = department.settings.warm_root
    warm.parent.mkdir(parents=True, exist_ok=True)
    warm.write_text("a file where the tier should be")
    with pytest.raises(OSError, match="warm"):
        department.run("tier_migration", as_of)
    assert department.study().tier is Tier.HOT
    assert list(department.settings.hot_root.rglob(f"{UID}/**/*.dcm"))
    warm.unlink()
    assert department.run("tier_migration", as_of) == 1
    assert department.run("tier_migration", as_of) == 0
    assert department.study().tier is Tier.WARM
    assert department.told("study.migrated") == 1
    assert len(list(warm.rglob("*.dcm"))) == 2
    assert not list(department.settings.hot_root.rglob(f"{UID}/**/*.dcm"))


def test_reconcile_judges_what_fell_silent_and_restarts_what_vanished(
    department: Department,
) -> None:
    department.order()
    department.scan()
    with department.store() as uow:
        (intake, *_) = uow.outbox.pending()
        uow.outbox.dispatched(intake, "00000000-0000-4000-8000-000000000000")
        uow.connection.execute(
            update(outbox)
            .where(outbox.c.id == intake.id)
            .values(dispatched_at=uow.now - timedelta(hours=1))
        )
    department.run("reconcile")
    assert department.study().state is StudyState.ACQUIRED
    assert department.told("stage.restarted") == 1
    (row,) = (row for row in department.stages() if row.id == intake.id)
    assert (row.attempt, row.dispatched_at) == (2, None)
    department.run("reconcile")
    assert department.told("stage.restarted") == 1
    assert department.told("acquisition.complete") == 1


@pytest.mark.parametrize(
    ("flow", "kind"),
    [("order_intake", "order.checked"), ("worklist_publication", "worklist.published")],
)
def test_an_order_is_looked_at_once(department: Department, flow: str, kind: str) -> None:
    department.order()
    for _ in range(2):
        department.run_stage(flow)
    assert department.told(kind) == 1
    assert flow not in department.open_stages()
