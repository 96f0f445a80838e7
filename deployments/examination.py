"""What ``spinecho doctor`` looks at."""

from __future__ import annotations

import shutil
import socket
from typing import Any

import httpx

from deployments.installation import PORTS
from models.errors import SpinechoError
from services.database.store import Store
from services.settings import Settings


def examine(settings: Settings) -> list[dict[str, Any]]:
    """Return, for every part, its name, whether it is well, its state and what to do."""
    checks = [_database(settings), _disk(settings)]
    for name, purpose in PORTS.items():
        port = getattr(settings, name)
        try:
            socket.create_connection((settings.host, port), 2).close()
            checks.append(_check(purpose, ok=True, state=f"answers on {port}"))
        except OSError:
            advice = f"run 'spinecho up'; its log is below {settings.home / 'log'}"
            checks.append(_check(purpose, ok=False, state=f"silent on {port}", advice=advice))
    try:
        ready = httpx.get(f"{settings.http_url}/readyz", timeout=5)
        checks.append(_check("readiness", ok=ready.is_success, state=f"HTTP {ready.status_code}"))
    except httpx.HTTPError as error:
        checks.append(_check("readiness", ok=False, state=type(error).__name__))
    if not settings.is_loopback and settings.allow_cleartext:
        advice = "acceptable only on a trusted network"
        checks.append(_check("cleartext", ok=False, state=f"on {settings.host}", advice=advice))
    return checks


def _database(settings: Settings) -> dict[str, Any]:
    store = Store(settings.store_url, pool_size=1)
    try:
        store.check()
    except SpinechoError as error:
        return _check("database", ok=False, state=str(error), advice="run 'spinecho up'")
    else:
        return _check("database", ok=True, state="answers")
    finally:
        store.close()


def _disk(settings: Settings) -> dict[str, Any]:
    existing = next(p for p in (settings.home, *settings.home.parents) if p.exists())
    free = shutil.disk_usage(existing).free >> 20
    return _check(
        "disk",
        ok=free >= settings.disk_floor_mb,
        state=f"{free} MB free",
        advice="" if free >= settings.disk_floor_mb else "free space or lower the floor",
    )


def _check(part: str, *, ok: bool, state: str, advice: str = "") -> dict[str, Any]:
    return {"part": part, "ok": ok, "state": state, "advice": advice}
