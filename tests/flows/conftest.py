"""The real flows in this process, on a real Prefect server, a real store and a real inbox."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prefect import Task
from sqlalchemy import select

from deployments.catalogue import load_flows
from models.study import Study
from services.archive.tiers import Tiers
from services.database.store import Store
from services.database.tables import outbox
from services.settings import Settings
from services.simulators.inbox import EmrInbox
from services.workflow.ingestion import files_below, ingest
from services.workflow.messages import receive_message
from services.workflow.reporting import sign_report
from tasks import stages
from tasks.parts import model, parts
from tests.dicom.department import series
from tests.hl7.orders import orm

if TYPE_CHECKING:
    from tests.prefect.server import Prefect

UID = "1.2.3.4.5.6.7"
FLOWS = load_flows()


@dataclass(frozen=True, kw_only=True)
class Department:
    """One installation's parts, and the server that its flows report to."""

    prefect: Prefect
    store: Store
    tiers: Tiers
    settings: Settings
    inbox: EmrInbox
    folder: Path

    def run(self, flow: str, *arguments: str, **options: Any) -> Any:
        """Run a flow to its end; an exception is raised if it failed."""
        return self.prefect.here(lambda: FLOWS[flow](*arguments, **options))

    def run_stage(self, flow: str) -> Any:
        """Run the stage that the outbox holds, as the relay would."""
        (row,) = (row for row in self.stages() if row.flow == flow)
        return self.run(flow, f"{row.subject}:{row.version}")

    def stages(self) -> list[Any]:
        with self.store() as uow:
            return uow.studies.select(select(outbox).order_by(outbox.c.id))

    def open_stages(self) -> list[str]:
        return [row.flow for row in self.stages() if row.done_at is None]

    def study(self) -> Study:
        with self.store() as uow:
            found = uow.studies.find(UID)
        assert found is not None
        return found

    def told(self, kind: str) -> int:
        """How often the study's timeline says this."""
        study = self.study()
        with self.store() as uow:
            return sum(e.kind == kind for e in uow.timeline.of_study(study.id))

    def order(self, **fields: str) -> None:
        answer = receive_message(
            self.store, orm(uid=UID, **fields), peer="test", settings=self.settings
        )
        assert answer.code == "AA"

    def scan(self, count: int = 2) -> None:
        """Take in images of the study; nobody may have ordered it."""
        series(self.folder / "scan", UID, count)
        assert not self.ingest(self.folder / "scan").refused

    def ingest(self, folder: Path) -> Any:
        return ingest(self.store, self.tiers, files_below(folder), on_file=lambda _: None)

    def sign(self, impression: str = "No abnormality.") -> None:
        sign_report(
            self.store, UID, status="final", findings="", impression=impression, author="Reader"
        )


@pytest.fixture
def department(
    prefect: Prefect,
    store: Store,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Department]:
    with EmrInbox() as inbox:
        wanted = {
            "HOME": str(settings.home),
            "DATABASE_URL": settings.store_url,
            "DESTINATIONS__EMR": f"mllp://127.0.0.1:{inbox.port}",
            "QUIET_S": "0",
            "CRITICAL_ACK_S": "0",
            "DISK_FLOOR_MB": "1",
        }
        for name, value in wanted.items():
            monkeypatch.setenv(f"SPINECHO_{name}", value)
        # The waits between retries are Prefect's own and would take half a minute.
        for task in vars(stages).values():
            if isinstance(task, Task):
                monkeypatch.setattr(task, "retries", 0)
        parts.cache_clear()
        try:
            real = parts()
            yield Department(
                prefect=prefect,
                store=store,
                tiers=real.tiers,
                settings=real.settings,
                inbox=inbox,
                folder=tmp_path,
            )
        finally:
            if model.cache_info().currsize:
                model().close()
            model.cache_clear()
            parts().store.close()
            parts.cache_clear()
