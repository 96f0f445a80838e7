"""A morning in a simulated department, over the real protocols, that checks its own end state."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from sqlalchemy import select

from deployments.installation import PORTS, free_ports
from models.priority import Priority
from services.database.store import Store
from services.database.tables import desk, imaging_order, outbox
from services.database.tables import study as table
from services.settings import Settings
from services.simulators.department import DayLog, Department, OnEvent
from services.simulators.inbox import EmrInbox
from services.simulators.plan import PlannedPatient
from services.simulators.status_inbox import StatusInbox

SEED = 7
_FULL_WIDTH = 110


_LIFE = [("SC", "S"), ("IP", "I"), ("CM", "R"), ("CM", "F")]
"""ORC-5 and OBR-25 of an order that is done and reported."""


def demonstration_settings(inbox: EmrInbox, statuses: StatusInbox) -> Settings:
    """Return settings of a throw-away installation on ports that are free."""
    home = Path(tempfile.mkdtemp(prefix="spinecho-demo-", dir="/var/tmp"))
    home.chmod(0o755)
    return Settings(
        home=home,
        **free_ports(*PORTS),  # type: ignore[arg-type]
        destinations={"emr": f"mllp://127.0.0.1:{inbox.port}"},
        status_destination=f"mllp://127.0.0.1:{statuses.port}",
        quiet_s=5,
        reconcile_s=20,
    )


def department(
    settings: Settings, inbox: EmrInbox, *, seed: int, day: date | None, on_event: OnEvent
) -> Department:
    """Return a simulated department around an installation."""
    return Department(
        seed=seed,
        day=day,
        host=settings.host,
        called_aet=settings.ae_title,
        hl7_port=settings.hl7_port,
        dicom_port=settings.dicom_port,
        http_url=settings.http_url,
        inbox=inbox,
        on_event=on_event,
    )


def wait_until_done(store: Store, timeout_s: float = 60) -> int:
    """Wait until every stage is done and every status told; return how many are not."""
    deadline = time.monotonic() + timeout_s
    while True:
        with store() as uow:
            left = uow.outbox.unfinished() + uow.notices.count_due()
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.5)


def let_time_pass(settings: Settings, days: int) -> None:
    """Run the tier migration flow in Prefect as of `days` from now, and wait for it."""
    from deployments.prefect_server import client_environment

    os.environ.update(client_environment(home=settings.home, port=settings.prefect_port))
    from prefect.deployments import arun_deployment

    async def migrate(as_of: str) -> None:
        run = await arun_deployment(
            "tier_migration/tier_migration",
            parameters={"as_of": as_of},
            timeout=120,
            poll_interval=1,
        )
        if run.state is None or not run.state.is_completed():
            raise RuntimeError(f"tier migration ended as {run.state and run.state.name}")

    store = Store(settings, pool_size=1)
    as_of = store.clock() + timedelta(days=days)
    store.close()
    asyncio.run(migrate(as_of.isoformat()))


def end_state(
    store: Store, log: DayLog, inbox: EmrInbox, statuses: StatusInbox
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row per study, and everything that is not as it should be."""
    wrong = [*log.problems, *_untold(log.plan, statuses)]
    if not log.finished:
        wrong.append("the day did not finish in time")
    with store() as uow:
        rows = []
        for found in uow.studies.select(select(table).order_by(table.c.created_at)):
            deliveries = uow.deliveries.of_study(found.id)
            entries = {e.kind: e.at for e in uow.timeline.of_study(found.id)}
            rows.append(
                {
                    "id": found.id,
                    "accession": found.accession,
                    "state": found.state,
                    "priority": found.priority,
                    "triage": found.triage,
                    "tier": found.tier,
                    "created": found.created_at,
                    "started": found.started_at,
                    "acquired": found.acquired_at,
                    "judged": next(
                        (at for kind, at in entries.items() if kind.startswith("triage.")), None
                    ),
                    "delivered": entries.get("report.delivered"),
                    "acks": [f"{d.destination} {d.ack_code}" for d in deliveries],
                }
            )
        orders = uow.studies.select(select(imaging_order.c.id))
        strays = uow.studies.select(select(desk.c.kind).where(desk.c.kind == "no-order"))
        unfinished = uow.studies.select(select(outbox.c.flow).where(outbox.c.done_at.is_(None)))
    by_accession = {row["accession"]: row for row in rows}

    def expect(condition: object, otherwise: str) -> None:
        if not condition:
            wrong.append(otherwise)

    planned_orders = [p for p in log.plan if not p.unordered]
    expect(len(orders) == len(planned_orders), f"{len(orders)} orders, not {len(planned_orders)}")
    expect(strays, "the image set without an order is not on the desk")
    expect(not unfinished, f"{len(unfinished)} stages are not done")
    expect(not inbox.duplicates, f"sent twice: {inbox.duplicates}")
    for patient in planned_orders:
        row = by_accession.get(patient.accession)
        if row is None:
            wrong.append(f"{patient.accession} is lost")
        elif patient.cancelled:
            expect(row["state"] == "cancelled", f"{patient.accession} is {row['state']}")
        else:
            expect(row["state"] == "delivered", f"{patient.accession} is {row['state']}")
            expect(row["acks"] == ["emr AA"], f"{patient.accession}: {row['acks']}")
            wanted = "critical" if patient.critical else "normal"
            expect(row["triage"] == wanted, f"{patient.accession} judged {row['triage']}")
            heard = not patient.critical or patient.study_uid in log.acknowledged
            expect(heard, f"{patient.accession}: nobody acknowledged the critical result")
            expect(row["tier"] == "cold", f"{patient.accession} lies on {row['tier']}")
    return rows, wrong


def _untold(plan: Sequence[PlannedPatient], statuses: StatusInbox) -> list[str]:
    """Return for which orders the placer did not see what became of them, in order."""
    wrong = [f"a status was sent twice: {statuses.duplicates}"] if statuses.duplicates else []
    for patient in plan:
        if patient.unordered:
            continue
        seen = statuses.seen(patient.accession)
        if patient.cancelled:
            expected = [_LIFE[0], ("CA", "X")]
        else:
            # A report may be signed while the last images come: then no exam is left to complete.
            expected = [step for step in _LIFE if step != ("CM", "R") or step in seen]
        if seen != expected:
            wrong.append(f"{patient.accession}: the placer saw {seen}, not {expected}")
    return wrong


def summary(rows: list[dict[str, Any]], width: int = 120) -> Table:
    """Return the table of the day: one line a study, without edges where there is little room."""
    roomy = width >= _FULL_WIDTH
    out = Table(
        title="The morning, study by study (synthetic patients)",
        title_justify="left",
        box=box.HEAVY_HEAD if roomy else box.SIMPLE_HEAD,
        padding=(0, 1) if roomy else (0, 1, 0, 0),
    )
    out.add_column("accession", no_wrap=True)
    for name in ("state", "priority", "AI triage"):
        out.add_column(name, no_wrap=True)
    # Seconds: order to scan, scan to complete, from there to the finding and to the last ACK.
    for name in ("scan", "images", "finding", "report"):
        out.add_column(f"{name} s", justify="right", no_wrap=True)
    for name in ("ACK", "tier"):
        out.add_column(name, no_wrap=True)
    for row in rows:
        out.add_row(
            row["accession"] or "no order",
            row["state"],
            Priority(row["priority"]).name,
            row["triage"] or "–",
            _gap(row["created"], row["started"]),
            _gap(row["started"], row["acquired"]),
            _gap(row["acquired"], row["judged"]),
            _gap(row["acquired"], row["delivered"]),
            ", ".join(row["acks"]) or "–",
            row["tier"],
            style="bold red" if row["triage"] == "critical" else "",
        )
    return out


def _gap(start: Any, end: Any) -> str:
    return "–" if start is None or end is None else f"{(end - start).total_seconds():.1f}"
