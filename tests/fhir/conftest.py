"""The interface in both versions, over a socket, with a morning's studies behind it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from models.merge import ChangeKind
from models.study import Study
from services.database.store import Store
from services.fhir.api import fhir_app
from services.fhir.versions import VERSIONS, Version
from services.settings import Settings
from services.web.app import DICOMWEB, create_app
from tests.web.department import morning
from tests.web.serving import serving


@pytest.fixture
def studies(store: Store) -> dict[str, Study]:
    return morning(store)


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def version(request: pytest.FixtureRequest) -> Version:
    chosen: Version = request.param
    return chosen


@pytest.fixture
def both(settings: Settings, store: Store, version: Version) -> Iterator[httpx.Client]:
    """A client of one version after the other."""
    mounts = {version.path: fhir_app(store, settings=settings, dicomweb=DICOMWEB, version=version)}
    with (
        serving(create_app(settings, store, mounts=mounts)) as url,
        httpx.Client(base_url=f"{url}{version.path}", timeout=60) as client,
    ):
        yield client


def merge_patients(store: Store, retired_id: str, survivor_id: str) -> int:
    with store() as uow:
        change = uow.merges.add(
            ChangeKind.MERGE, survivor_id, retired_id, by="EMR|HOSP", why="ADT^A40"
        )
        uow.merges.retire(change, retired_id, survivor_id)
    return change
