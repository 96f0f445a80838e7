from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from models.events import Topic
from models.lifecycle import StudyEvent, StudyState
from models.priority import Priority
from services.database.store import Store
from services.database.tables import metadata


def test_migrations_build_exactly_the_tables_that_the_code_declares(store: Store) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(
            # The monthly parts of the log are made as time goes by.
            connection,
            opts={"include_name": lambda name, *_: not str(name).startswith("message_log_")},
        )
        assert compare_metadata(context, metadata) == []


def test_an_exception_rolls_back_change_and_announcement_together(store: Store) -> None:
    with pytest.raises(RuntimeError), store() as uow:  # noqa: PT012 (the block is the subject)
        study = uow.studies.ensure("1.2.3", state=StudyState.SCHEDULED)
        uow.outbox.announce(Topic.ORDER_PLACED, study.id, "v1", Priority.ROUTINE)
        raise RuntimeError
    with store() as uow:
        assert uow.studies.find("1.2.3") is None
        assert uow.outbox.pending() == []


def test_a_stage_is_announced_once_per_version(store: Store) -> None:
    with store() as uow:
        study = uow.studies.ensure("1.2.3", state=StudyState.ACQUIRING)
        for _ in range(2):
            uow.outbox.announce(Topic.STUDY_ACQUIRED, study.id, "1", Priority.ROUTINE)
        uow.outbox.announce(Topic.STUDY_ACQUIRED, study.id, "2", Priority.ROUTINE)
    with store() as uow:
        assert [s.version for s in uow.outbox.pending()] == ["1", "2"]


def test_pending_stages_come_critical_first(store: Store) -> None:
    with store() as uow:
        routine = uow.studies.ensure("1.2.3", state=StudyState.ACQUIRED)
        stat = uow.studies.ensure("1.2.4", state=StudyState.ACQUIRED)
        uow.outbox.announce(Topic.REPORT_SIGNED, routine.id, "1", Priority.ROUTINE)
        uow.outbox.announce(Topic.REPORT_SIGNED, stat.id, "1", Priority.STAT)
    with store() as uow:
        assert [s.subject for s in uow.outbox.pending()] == [stat.id, routine.id]


def test_a_reissued_stage_has_a_new_key(store: Store) -> None:
    with store() as uow:
        study = uow.studies.ensure("1.2.3", state=StudyState.ACQUIRED)
        uow.outbox.announce(Topic.STUDY_ACQUIRED, study.id, "1", Priority.STAT)
        (stage,) = uow.outbox.pending()
        uow.outbox.dispatched(stage, "run-1")
        assert uow.outbox.pending() == []
        uow.outbox.reissue(stage.id)
        (again,) = uow.outbox.pending()
    assert (stage.key, again.key) == (f"{study.id}:triage:1:1", f"{study.id}:triage:1:2")


def test_a_move_follows_the_lifecycle_table(store: Store) -> None:
    with store() as uow:
        study = uow.studies.ensure("1.2.3", state=StudyState.SCHEDULED)
        uow.studies.move(study, StudyEvent.EXAM_STARTED, started_at=uow.now)
    with store() as uow:
        assert uow.studies.get(study.id).state is StudyState.ACQUIRING
