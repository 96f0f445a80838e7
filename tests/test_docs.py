"""The documentation names every setting, error code and command, as the code has them."""

from __future__ import annotations

import ast
import inspect
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic.fields import FieldInfo

from deployments.cli import app
from models import errors
from models.errors import ANSWERS, OurError, PeerError, SpinechoError, answer_to
from services.settings import Settings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SETTINGS = (DOCS / "settings.md").read_text(encoding="utf-8")
ERRORS = (DOCS / "errors.md").read_text(encoding="utf-8")
SECTIONS = dict(
    section.split("\n", 1)
    for section in re.split(
        r"^## ", (DOCS / "commands.md").read_text(encoding="utf-8"), flags=re.M
    )[1:]
)
HOME = "`/var/lib/spinecho` for root, `~/.local/share/spinecho` for others"

CODED = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, SpinechoError) and kind not in {PeerError, OurError}
]


def commands(command: Any, name: str) -> dict[str, Any]:
    """Every command below a group, by what one types."""
    if not hasattr(command, "commands"):
        return {name: command}
    found: dict[str, Any] = {}
    for word, part in command.commands.items():
        found |= commands(part, f"{name} {word}")
    return found


COMMANDS = commands(typer.main.get_command(app), "spinecho")


def default_of(name: str, field: FieldInfo) -> str:
    if name == "home":
        return HOME  # it depends on who asks
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, tuple):
        return f"`{json.dumps(value)}`"  # as it is written into the environment
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def setting_row(name: str, field: FieldInfo) -> str:
    return f"| `SPINECHO_{name.upper()}` | {default_of(name, field)} | {field.description} |"


def error_row(kind: type[SpinechoError]) -> str:
    answer = answer_to(kind("as the documentation says it"))
    told = f"{answer.ack} | {answer.hl7_code} | 0x{answer.dimse:04X} | {answer.http}"
    return f"| `{kind.code}` | {told} | {(kind.__doc__ or '').splitlines()[0]} |"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_setting_is_documented_as_it_is(name: str) -> None:
    row = setting_row(name, Settings.model_fields[name])
    assert row in SETTINGS.splitlines(), f"docs/settings.md lacks this line:\n{row}"


def test_no_setting_is_documented_that_is_not_there() -> None:
    documented = re.findall(r"^\| `SPINECHO_(\w+)` \|", SETTINGS, re.M)
    assert sorted(documented) == sorted(name.upper() for name in Settings.model_fields)


@pytest.mark.parametrize("kind", CODED, ids=lambda kind: kind.code)
def test_an_error_code_is_documented_as_it_is_answered(kind: type[SpinechoError]) -> None:
    row = error_row(kind)
    assert row in ERRORS.splitlines(), f"docs/errors.md lacks this line:\n{row}"


def test_no_error_code_is_documented_that_is_not_there() -> None:
    documented = re.findall(r"^\| `([\w.-]+)` \|", ERRORS, re.M)
    assert sorted(documented) == sorted(kind.code for kind in CODED)


def test_no_error_has_a_code_outside_the_tree() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for package in ("deployments", "flows", "tasks", "services")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and any(
            isinstance(line, ast.Assign)
            and isinstance(line.targets[0], ast.Name)
            and line.targets[0].id == "code"
            for line in node.body
        )
    ]
    assert found == [], "an error's code belongs into models/errors.py"


def test_an_error_survives_the_way_between_two_processes() -> None:
    for kind in CODED:
        error = pickle.loads(pickle.dumps(kind("why", location="PID^1^3")))
        assert (type(error), str(error), error.location) == (kind, "why", "PID^1^3")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_documented_with_its_options_and_its_output(name: str) -> None:
    assert name in SECTIONS, f"docs/commands.md lacks the section '## {name}'"
    section = SECTIONS[name]
    # What every command has is said once, at the top.
    options = {o for p in COMMANDS[name].params for o in p.opts if o.startswith("--")} - {"--json"}
    assert sorted(o for o in options if f"`{o}" not in section) == []
    assert "```" in section, "a command is documented with what it prints"
    assert COMMANDS[name].help


def test_no_command_is_documented_that_is_not_there() -> None:
    assert sorted(SECTIONS) == sorted(COMMANDS)


def test_error_codes_are_stable_names_of_one_error_each() -> None:
    codes = [kind.code for kind in ANSWERS]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    "path", sorted((DOCS / "decisions").glob("*.md")), ids=lambda path: path.stem
)
def test_a_decision_is_dated_and_says_context_decision_consequences(path: Path) -> None:
    assert re.match(r"\d{4}-\d\d-\d\d-[a-z0-9-]+\.md$", path.name)
    headings = re.findall(r"^## (.+)$", path.read_text(encoding="utf-8"), re.M)
    assert headings == ["Context", "Decision", "Consequences"]
