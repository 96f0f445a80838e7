from __future__ import annotations

import inspect
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from prefect.server.utilities import encryption
from prefect.settings import Settings
from prefect.settings.legacy import _get_valid_setting_names

from deployments.installation import host_of
from deployments.prefect_server import (
    LOOPBACK,
    OUTSIDE_THE_MODEL,
    api_url,
    client_environment,
    database_url,
    process_environment,
    server_command,
    server_environment,
    server_secrets,
)
from services.settings import Settings as SpinechoSettings


@pytest.fixture
def server(tmp_path: Path) -> dict[str, str]:
    return server_environment(home=tmp_path, port=4200, database_url=database_url("/run/sockets"))


@pytest.fixture
def client(tmp_path: Path) -> dict[str, str]:
    return client_environment(home=tmp_path, port=4200)


def test_prefect_knows_every_setting_we_set(server: dict[str, str], client: dict[str, str]) -> None:
    known = {name.upper() for name in _get_valid_setting_names(Settings)}
    assert sorted((set(server) | set(client)) - known - OUTSIDE_THE_MODEL) == []


def test_prefect_reads_what_it_has_outside_its_model() -> None:
    assert "PREFECT_SERVER_ENCRYPTION_KEY" in inspect.getsource(encryption)


def test_prefect_understands_the_values(
    server: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    understood = Settings().server
    assert understood.events.retention_period == timedelta(days=3)
    assert understood.services.db_vacuum.enabled_vacuum_types == {"events", "flow_runs", "orphans"}
    assert understood.services.db_vacuum.retention_period == timedelta(days=90)
    assert understood.services.task_run_recorder.read_batch_size == 50
    assert understood.events.proactive_granularity == timedelta(seconds=15)
    assert understood.api.csrf_protection_enabled
    assert understood.api.csrf_token_expiration == timedelta(days=1)
    assert not understood.analytics_enabled
    assert not understood.ui.show_promotional_content
    assert not understood.ephemeral.enabled


def test_client_settings_are_understood(
    client: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in client.items():
        monkeypatch.setenv(name, value)
    understood = Settings()
    assert understood.flows.heartbeat_frequency == 30
    assert understood.worker.query_seconds == 0.25
    assert not understood.cloud.enable_orchestration_telemetry


def test_secrets_are_made_once_and_only_for_the_owner(tmp_path: Path) -> None:
    first = server_secrets(tmp_path)
    assert server_secrets(tmp_path) == first
    files = [path for path in (tmp_path / "secrets").iterdir() if path.is_file()]
    assert len(files) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    Fernet(first.encryption_key)


def test_client_and_server_share_the_secret(server: dict[str, str], client: dict[str, str]) -> None:
    assert server["PREFECT_SERVER_API_AUTH_STRING"] == client["PREFECT_API_AUTH_STRING"]


def test_settings_of_another_installation_do_not_leak_in() -> None:
    base = {"PATH": "/bin", "PREFECT_API_URL": "https://elsewhere.example/api"}
    assert process_environment({"PREFECT_HOME": "/h"}, base=base) == {
        "PATH": "/bin",
        "PREFECT_HOME": "/h",
    }


def test_the_server_listens_on_loopback_only(server: dict[str, str]) -> None:
    assert server["PREFECT_SERVER_API_HOST"] == "127.0.0.1"
    command = server_command(port=4200)
    assert command[command.index("--host") + 1] == "127.0.0.1"


def test_prefect_is_asked_where_it_listens_whatever_the_host() -> None:
    settings = SpinechoSettings(host="192.0.2.1", allow_cleartext=True)
    assert f"{settings.prefect_url}/api" == api_url(settings.prefect_port)
    assert host_of(settings, "prefect_port") == LOOPBACK
    assert host_of(settings, "http_port") == "192.0.2.1"
