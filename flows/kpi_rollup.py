"""The hour's key figures are written, and the message store is kept in bounds."""

from __future__ import annotations

from prefect import flow

from tasks.housekeeping import tend_message_store, write_kpis


@flow(name="kpi_rollup")
async def kpi_rollup() -> None:
    """Write the day's key figures; make and drop the message store's months."""
    await tend_message_store()
    await write_kpis()
