from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from services.database.store import Store
from services.settings import Settings
from services.web.app import create_app
from tests.web.serving import serving


@pytest.fixture
def site(settings: Settings, store: Store) -> Iterator[str]:
    with serving(create_app(settings, store)) as url:
        yield url


@pytest.fixture
def http(site: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site, timeout=10) as client:
        yield client
