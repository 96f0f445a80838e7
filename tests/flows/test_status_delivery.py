"""The placer hears of every status through Prefect, which hears nothing of the patient."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from models.errors import Unavailable
from services.settings import Settings
from services.workflow.messages import receive_message
from services.workflow.status import announce_due
from tasks.parts import parts
from tests.flows.conftest import UID, Department
from tests.hl7.orders import orm
from tests.prefect.search import rows_with
from tests.workflow.placer import Placer, placer_on

NAME = "PEWTERSTONE"


@pytest.fixture
def placer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Placer]:
    with placer_on() as placer:
        monkeypatch.setenv("SPINECHO_STATUS_DESTINATION", placer.url)
        yield placer


def test_a_burst_is_told_in_one_run_and_a_silent_placer_leaves_it_open(
    placer: Placer, department: Department, cluster_settings: Settings
) -> None:
    store, settings = parts().store, parts().settings
    for message in (orm(family=NAME), orm(family=NAME, control_id="M2", control="CA")):
        assert receive_message(store, message, peer="test", settings=settings).code == "AA"
    for _ in range(2):
        with store() as uow:
            announce_due(uow)
    placer.answers.append("close")
    with pytest.raises(Unavailable):
        department.run_stage("status_delivery")
    assert "status_delivery" in department.open_stages()
    placer.answers.append("AE")  # and it names the patient
    placer.words = f"{NAME} JANE is locked"
    department.run_stage("status_delivery")
    assert "status_delivery" not in department.open_stages()
    assert placer.statuses("P100") == [("SC", "S"), ("CA", "X")]
    assert (department.told("status.refused"), department.told("status.told")) == (1, 1)
    for words in (NAME, "is locked", UID):
        assert rows_with(cluster_settings, words) == {}, words
