"""What people see in Prefect: one timeline for each study, without a word about the patient."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import ArtifactCollectionFilter, ArtifactCollectionFilterKey

_NOT_IN_A_KEY = re.compile(r"[^a-z0-9]+")
_KEY_LENGTH = 80


def timeline_key(study_id: str) -> str:
    """Derive the artifact's key from the opaque study id: lower-case letters, digits, dashes.

    Two ids that differ only in what a key cannot hold get different keys.
    """
    plain = _NOT_IN_A_KEY.sub("-", study_id.lower()).strip("-")
    if plain == study_id and len(plain) <= _KEY_LENGTH:
        return f"study-{plain}"
    digest = hashlib.sha256(study_id.encode()).hexdigest()[:8]
    return f"study-{plain[:_KEY_LENGTH]}-{digest}".replace("--", "-")


def timeline_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Draw rows of equal keys as a Markdown table; the first row's keys are the columns."""
    if not rows:
        return "_Nothing has happened yet._"
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns)]
    lines += [[_cell(row.get(column, "")) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    # A bar or a line break would end the cell.
    return " ".join(str(value).split()).replace("|", "\\|")


async def show_timeline(
    client: PrefectClient,
    *,
    study_id: str,
    rows: Sequence[Mapping[str, object]],
    flow_run_id: UUID | None = None,
) -> str:
    """Show a study's timeline in Prefect, in place of the one shown before.

    A flow run updates what it has shown; another run adds a version under the same key, so that
    the timeline stands on the page of every run and once in the list of artifacts.

    Parameters
    ----------
    client : PrefectClient
        An open client.
    study_id : str
        The study's opaque id.
    rows : sequence of mapping
        When and what, free of anything about the patient: Prefect keeps it as plain text.
    flow_run_id : UUID, optional
        The run that shows it.

    Returns
    -------
    str
        The artifact's key.
    """
    key = timeline_key(study_id)
    text = timeline_table(rows)
    shown = await client.read_latest_artifacts(
        artifact_filter=ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(any_=[key]))
    )
    if shown and shown[0].flow_run_id == flow_run_id:
        await client.update_artifact(shown[0].latest_id, ArtifactUpdate(data=text))
    else:
        await client.create_artifact(
            ArtifactCreate(
                key=key,
                type="markdown",
                description="Timeline",
                data=text,
                flow_run_id=flow_run_id,
            )
        )
    return key
