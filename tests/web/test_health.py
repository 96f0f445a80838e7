from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

from services.database.store import Store
from services.settings import Settings
from services.web.app import create_app
from tests.web.department import morning
from tests.web.serving import serving


def figures(text: str) -> dict[tuple[str, str], float]:
    return {
        (sample.name, "".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_healthy_installation_says_so(http: httpx.Client) -> None:
    assert http.get("/healthz").json() == {"status": "alive"}
    answer = http.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["parts"]["database"] == {"state": "ok"}


def test_a_full_disk_is_not_ready(settings: Settings, store: Store) -> None:
    full = settings.model_copy(update={"disk_floor_mb": 10**9})
    with serving(create_app(full, store)) as url:
        answer = httpx.get(f"{url}/readyz")
    assert answer.status_code == 503
    assert answer.json()["parts"]["disk"]["state"] == "full"


def test_without_a_database_the_process_lives_and_says_what_is_down(settings: Settings) -> None:
    broken = Store(settings.model_copy(update={"database_url": "postgresql:///x?host=/nowhere"}))
    with serving(create_app(settings, broken)) as url, httpx.Client(base_url=url) as http:
        assert http.get("/healthz").status_code == 200
        ready = http.get("/readyz")
        listed = http.get("/api/reading-list")
        metrics = figures(http.get("/metrics").text)
    broken.close()
    assert ready.status_code == 503
    assert ready.json()["parts"]["database"]["state"] == "down"
    assert (listed.status_code, listed.json()["code"]) == (503, "unavailable")
    assert listed.headers["retry-after"] == "5"
    assert metrics["spinecho_database_up", ""] == 0


def test_the_figures_are_those_of_the_database(http: httpx.Client, store: Store) -> None:
    studies = morning(store)
    with store() as uow:
        uow.studies.to_desk("test", "x", "a reason")
    uid = studies["S2600000103"].study_uid
    report = {"status": "final", "impression": "Normal.", "author": "X^Y"}
    assert http.post(f"/api/studies/{uid}/reports", json=report).status_code == 201
    answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    told = figures(answer.text)
    assert told["spinecho_studies", "acquired"] == 6
    assert told["spinecho_studies", "delivered"] == 0
    assert told["spinecho_unread_studies", "critical"] == 2
    assert told["spinecho_critical_unacknowledged", ""] == 2
    assert told["spinecho_outbox_open", ""] == 1
    assert told["spinecho_desk_open", ""] == 1
    assert told["spinecho_deliveries_unaccepted", ""] == 0
    assert told["spinecho_reports_signed_total", "final"] == 1
    assert told["spinecho_database_up", ""] == 1
    assert told["spinecho_disk_free_bytes", ""] > 0
