"""The hour's key figures are written."""

from __future__ import annotations

from prefect import flow

from tasks.housekeeping import write_kpis


@flow(name="kpi_rollup")
async def kpi_rollup() -> None:
    """Write the day's key figures."""
    await write_kpis()
