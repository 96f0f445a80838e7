"""What ``spinecho doctor`` looks at."""

from __future__ import annotations

import shutil
import socket
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx

from deployments.installation import PORTS, host_of
from deployments.prefect_server import api_url
from deployments.process import WORKERS
from models.errors import ProfileError, SpinechoError
from services.database.store import Store
from services.hl7.profiles import load
from services.settings import Settings
from services.workflow.lanes import lanes

LATE: Final = timedelta(minutes=5)
SILENT_S: Final = 60
"""Seconds without a poll after which a worker counts as gone; it polls four times a second."""


def examine(settings: Settings) -> list[dict[str, Any]]:
    """Return, for every part, its name, whether it is well, its state and what to do."""
    checks = [*_database(settings), _disk(settings), _profiles(settings)]
    for name, purpose in PORTS.items():
        port = getattr(settings, name)
        try:
            socket.create_connection((host_of(settings, name), port), 2).close()
            checks.append(_check(purpose, ok=True, state=f"answers on {port}"))
        except OSError:
            advice = f"run 'spinecho up'; its log is below {settings.home / 'log'}"
            checks.append(_check(purpose, ok=False, state=f"silent on {port}", advice=advice))
    try:
        ready = httpx.get(f"{settings.http_url}/readyz", timeout=5)
        advice = "" if ready.is_success else f"{settings.http_url}/readyz names the part"
        state = f"HTTP {ready.status_code}"
        checks.append(_check("readiness", ok=ready.is_success, state=state, advice=advice))
    except httpx.HTTPError as error:
        checks.append(_check("readiness", ok=False, state=type(error).__name__))
    checks += examine_workers(settings)
    if not settings.is_loopback and settings.allow_cleartext:
        advice = "acceptable only on a trusted network"
        checks.append(_check("cleartext", ok=False, state=f"on {settings.host}", advice=advice))
    return checks


def _database(settings: Settings) -> list[dict[str, Any]]:
    store = Store(settings, pool_size=1)
    try:
        store.check()
        with store() as uow:
            backlog, now = uow.outbox.backlog(LATE), uow.now
            broken = [row for row in lanes(uow) if row.broken]
            unsealed = uow.messages.unsealed()
    except SpinechoError as error:
        return [_check("database", ok=False, state=str(error), advice="run 'spinecho up'")]
    finally:
        store.close()
    state = f"{backlog.waiting} waiting, {backlog.under_way} under way, {backlog.late} late"
    advice = ""
    if backlog.late:
        minutes = (now - backlog.oldest).total_seconds() / 60
        advice = (
            f"the oldest is stuck for {minutes:.0f} min and is started again once Prefect and the "
            f"workers are well; their logs and relay.log are below {settings.home / 'log'}"
        )
    return [
        _check("database", ok=True, state="answers"),
        _check("stages", ok=not backlog.late, state=state, advice=advice),
        _lanes(broken),
        _seals(unsealed),
    ]


def _seals(unsealed: int) -> dict[str, Any]:
    return _check(
        "message store",
        ok=not unsealed,
        state=f"{unsealed} message(s) from before sealing are readable" if unsealed else "sealed",
        advice="'spinecho keys rotate --reseal' seals them" if unsealed else "",
    )


def _lanes(broken: list[Any]) -> dict[str, Any]:
    named = ", ".join(
        f"{row.name} ({row.direction}) since {row.since:%m-%d %H:%M}" for row in broken
    )
    return _check(
        "lanes",
        ok=not broken,
        state=f"broken: {named}" if broken else "messages get through",
        advice="'spinecho messages dead-letters' says why" if broken else "",
    )


def examine_workers(settings: Settings) -> list[dict[str, Any]]:
    """Ask Prefect when each queue was last polled: a worker that lives polls all the time."""
    try:
        user, _, password = (settings.home / "secrets/prefect_auth").read_text().partition(":")
    except OSError:
        user = password = ""
    checks = []
    with httpx.Client(
        base_url=api_url(settings.prefect_port), auth=(user, password.strip()), timeout=2
    ) as prefect:
        for worker, (pool, queues, _) in WORKERS.items():
            for queue in queues:
                try:
                    state, ok = _last_poll(prefect, f"/work_pools/{pool}/queues/{queue}")
                except httpx.TransportError:
                    return [_check("workers", ok=False, state="unknown: Prefect is silent")]
                advice = "" if ok else f"its log is {settings.home / 'log' / worker}.log"
                checks.append(_check(f"{worker}, {queue}", ok=ok, state=state, advice=advice))
    return checks


def _last_poll(prefect: httpx.Client, path: str) -> tuple[str, bool]:
    answer = prefect.get(path)
    if not answer.is_success:
        return f"Prefect answers HTTP {answer.status_code}", False
    try:
        polled = answer.json()["last_polled"]
    except (ValueError, TypeError, KeyError):
        return "unknown: what answers there is no Prefect", False
    if polled is None:
        return "has never polled", False
    seconds = (datetime.now(UTC) - datetime.fromisoformat(polled)).total_seconds()
    return f"polled {max(0, seconds):.0f} s ago", seconds < SILENT_S


def _profiles(settings: Settings) -> dict[str, Any]:
    try:
        known = load(settings.profile_root)
    except ProfileError as error:
        kept = settings.last_good_profiles.exists()
        goes_on = "goes on with the last good ones" if kept else "does not start"
        advice = f"the listener {goes_on}; correct the file and ask 'spinecho hl7 check FILE'"
        return _check("HL7 profiles", ok=False, state=str(error), advice=advice)
    active = [name for name, declared in known.items() if declared.profile.active]
    state = f"in force: {', '.join(active)}" if active else "none in force"
    return _check("HL7 profiles", ok=True, state=state)


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
