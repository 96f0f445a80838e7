"""A lane is told once when it breaks and once when it is well again."""

from __future__ import annotations

import httpx
import pytest
from structlog.testing import capture_logs

from models.errors import Unavailable
from models.lifecycle import StudyState
from services.database.store import Store
from services.settings import Settings
from services.simulators.inbox import EmrInbox
from services.web.app import create_app
from services.workflow.delivery import deliver, plan_deliveries
from services.workflow.lanes import judge_lanes
from services.workflow.messages import keep_fragment, receive_message
from services.workflow.reporting import sign_report
from tests.hl7.orders import adt, orm
from tests.web.serving import serving

UID = "1.2.3.4.5.6.7"


def refuse(store: Store, settings: Settings, *control_ids: str) -> None:
    for control_id in control_ids:
        receive_message(
            store, adt(event="A99", control_id=control_id), peer="test", settings=settings
        )


def judged(store: Store, settings: Settings) -> list[tuple[str, str, bool, int]]:
    return [(a.direction, a.name, a.broken, a.failures) for a in judge_lanes(store, settings)]


def test_a_sender_is_told_once_broken_and_once_well(store: Store, settings: Settings) -> None:
    refuse(store, settings, "1", "2")
    assert judged(store, settings) == []
    refuse(store, settings, "3")
    keep_fragment(store, b"MSH|", peer="test", reason="cut off")
    with capture_logs() as logs:
        assert judged(store, settings) == [("in", "EMR|HOSP", True, 3)]
        refuse(store, settings, "4")
        assert judged(store, settings) == []
    (told,) = (line for line in logs if line["event"].startswith("lane."))
    assert (told["event"], told["log_level"], told["lane"]) == (
        "lane.broken",
        "warning",
        "EMR|HOSP",
    )
    receive_message(store, adt(control_id="5"), peer="test", settings=settings)
    with capture_logs() as logs:
        assert judged(store, settings) == [("in", "EMR|HOSP", False, 0)]
        assert judged(store, settings) == []
    assert [line["event"] for line in logs if line["event"].startswith("lane.")] == ["lane.cleared"]


def test_refusals_with_good_messages_between_break_nothing(
    store: Store, settings: Settings
) -> None:
    refuse(store, settings, "1", "2")
    receive_message(store, adt(control_id="3"), peer="test", settings=settings)
    refuse(store, settings, "4", "5")
    assert judged(store, settings) == []


def test_a_destination_that_does_not_answer_is_broken_until_it_accepts(
    store: Store, settings: Settings
) -> None:
    inbox = EmrInbox()
    sending = settings.model_copy(
        update={"destinations": {"emr": f"mllp://127.0.0.1:{inbox.port}"}}
    )
    receive_message(store, orm(), peer="test", settings=sending)
    with store() as uow:
        study = uow.studies.find(UID)
        assert study is not None
        uow.studies.change(study.id, state=StudyState.ACQUIRED.value, acquired_at=uow.now)
    sign_report(store, UID, status="final", findings="", impression="None.", author="Reader, Rita")
    plan_deliveries(store, sending, study.id, 1)
    assert judged(store, sending) == []
    inbox.fail_next(2, "close")
    for told in ([("out", "emr", True, 1)], []):
        with pytest.raises(Unavailable):
            deliver(store, sending, study.id, 1, "emr")
        assert judged(store, sending) == told
    with serving(create_app(sending, store)) as url:
        metrics = httpx.get(f"{url}/metrics").text
    assert 'spinecho_lane_broken{direction="out",lane="emr"} 1.0' in metrics
    assert deliver(store, sending, study.id, 1, "emr").state == "accepted"
    assert judged(store, sending) == [("out", "emr", False, 0)]
    assert judged(store, sending) == []
    inbox.close()
