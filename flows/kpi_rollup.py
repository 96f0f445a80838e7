"""The hour's key figures are written; message store and patient index are tended."""

from __future__ import annotations

from prefect import flow

from tasks.housekeeping import fill_patient_index, tend_message_store, write_kpis


@flow(name="kpi_rollup")
async def kpi_rollup() -> None:
    """Write the day's key figures; make and drop the message store's months; fill the index."""
    await tend_message_store()
    await fill_patient_index()
    await write_kpis()
