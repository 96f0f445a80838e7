"""The command line as a person meets it, on a store of the test's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from deployments.cli import app
from services import journal
from services.settings import Settings


@dataclass(frozen=True)
class Terminal:
    """Runs ``spinecho`` in this process; standard output and error are apart."""

    runner: CliRunner

    def run(self, *arguments: str | Path, stdin: bytes | None = None) -> Result:
        return self.runner.invoke(app, [str(a) for a in arguments], input=stdin)

    def json(self, *arguments: str | Path, stdin: bytes | None = None) -> Any:
        """Run with ``--json`` and read everything that came to standard output."""
        result = self.run(*arguments, "--json", stdin=stdin)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """A terminal on a machine where no installation is."""
    home = tmp_path / "home"
    monkeypatch.chdir(tmp_path)  # no spinecho.toml
    monkeypatch.setenv("SPINECHO_HOME", str(home))
    for number, name in enumerate(("HL7", "DICOM", "HTTP", "PREFECT")):
        monkeypatch.setenv(f"SPINECHO_{name}_PORT", str(1 + number))  # nobody listens there
    yield Terminal(CliRunner())
    journal.configure()  # the command had sent the log to a stream of its own


@pytest.fixture
def installed(terminal: Terminal, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal whose installation has the test's store."""
    monkeypatch.setenv("SPINECHO_DATABASE_URL", str(settings.database_url))
    monkeypatch.setenv("SPINECHO_KEY_DIR", str(settings.key_root))
    return terminal
