"""What tests share: one embedded PostgreSQL for the session, one empty database for each test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from _pytest.terminal import TerminalReporter
from sqlalchemy import text

from models.lifecycle import StudyState
from models.patient import Identifier, Patient, PersonName
from services import journal
from services.database import cluster
from services.database.store import Store
from services.database.tables import metadata
from services.settings import Settings

if TYPE_CHECKING:
    from tests.prefect.server import Prefect


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """A directory that the database's own account can reach; pytest's is closed to it."""
    directory = Path(tempfile.mkdtemp(prefix="spinecho-test-", dir="/var/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster_settings(home: Path) -> Iterator[Settings]:
    settings = Settings(home=home)
    with cluster.running(settings):
        yield settings


@pytest.fixture
def settings(cluster_settings: Settings, tmp_path: Path) -> Settings:
    """Settings of an installation of the test's own, on the session's database server."""
    return Settings(home=tmp_path, database_url=cluster_settings.store_url)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    store = Store(settings)
    with store.engine.begin() as connection:
        # A TRUNCATE writes new files for every table and index: twenty times as long for a few
        # rows. As a replica, no key and no trigger that keeps the record is asked.
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        for name in metadata.tables:
            connection.execute(text(f'DELETE FROM "{name}"'))
        connection.execute(text("SELECT setval(seqrelid::regclass, 1, false) FROM pg_sequence"))
    yield store
    store.close()


@pytest.fixture
def study_on_desk(store: Store) -> str:
    """A study that nobody ordered, row 1 of the desk, and the patient whose it is."""
    claimed = {"name": "Quilfeather^Ottoline", "patient_id": "12345", "birth_date": "1980-02-14"}
    with store() as uow:
        uow.patients.save(
            Patient(
                id="jane",
                identifiers=(Identifier(value="0012345", authority="HOSP"),),
                name=PersonName(family="Quillfeather", given="Ottoline"),
                birth_date=date(1980, 2, 14),
                sex="F",
            )
        )
        study = uow.studies.ensure("1.2.3", state=StudyState.ACQUIRED)
        uow.studies.change(
            study.id, dicom_patient_name=claimed["name"], dicom_patient_id=claimed["patient_id"]
        )
        uow.studies.to_desk(
            *("no-order", "1.2.3", "no order has this Study Instance UID"),
            study_id=study.id,
            evidence={"claimed": claimed},
        )
    return study.id


@pytest.fixture(scope="session")
def prefect(
    cluster_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prefect]:
    """A real Prefect server on the session's database."""
    # Here, for the import takes seconds that most tests need not wait for.
    from tests.prefect.server import running

    with running(cluster_settings, tmp_path_factory.mktemp("prefect")) as server:
        yield server


# Named, so that loggers are not bound to it for good: a command sends its log elsewhere.
journal.configure()


# A parallel run sets the width of its own terminal; tests expect a file's.
os.environ.pop("COLUMNS", None)

CORPORA = Path(__file__).parents[2] / "shared" / "corpora"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where changes are checked, a skipped test is a failed one: nobody reads a skip."""
    if session.exitstatus == pytest.ExitCode.OK and _forbidden_skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    for reason in _forbidden_skips(config):
        terminalreporter.write_line(f"NOT ALLOWED TO SKIP HERE: {reason}", red=True)


def _forbidden_skips(config: pytest.Config) -> list[str]:
    if os.environ.get("CI") != "true" and os.environ.get("SPINECHO_CI") != "1":
        return []
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    reports = reporter.stats.get("skipped", []) if reporter else []
    return [
        f"{report.nodeid}: {report.longrepr[2]}"
        for report in reports
        # Public images and messages lie beside a checkout, not in it.
        if CORPORA.is_dir() or "corpora" not in report.longrepr[2]
    ]
