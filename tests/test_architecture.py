"""The shape of the code, where a linter alone cannot hold it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("deployments", "flows", "tasks", "services", "models")


def modules(*packages: str) -> list[Path]:
    # models/triage holds one folder per model; what builds it never runs in an installation.
    return [
        path
        for package in packages
        for path in sorted((ROOT / package).rglob("*.py"))
        if not path.is_relative_to(ROOT / "models" / "triage")
    ]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import stays in its own package.
            yield "." if node.level else str(node.module).partition(".")[0]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", modules("models"), ids=named)
def test_models_import_the_standard_library_only(path: Path) -> None:
    assert set(imported(path)) <= sys.stdlib_module_names | {"models", "."}


def test_only_the_relay_among_the_services_knows_prefect() -> None:
    asking = [named(path) for path in modules("services") if "prefect" in set(imported(path))]
    assert asking == ["services/relay.py"]


@pytest.mark.parametrize("package", OURS)
def test_nothing_is_validated_by_assert(package: str) -> None:
    found = [
        f"{named(path)}:{node.lineno}"
        for path in modules(package)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Assert)
    ]
    assert found == [], "python -O drops asserts: raise TypeError or ValueError"


@pytest.mark.parametrize("package", OURS)
def test_every_module_and_package_says_what_it_is(package: str) -> None:
    silent = [named(p) for p in modules(package) if not ast.get_docstring(tree(p))]
    assert [p for p in silent if "/versions/" not in p] == []


def test_the_arrow_of_imports_holds() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run(
        [tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
