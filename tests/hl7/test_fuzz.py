from __future__ import annotations

from pathlib import Path

from services.database.store import Store
from services.settings import Settings
from tests.hl7.fuzz import fuzz


def test_damaged_frames_are_answered_and_kept_and_harm_nobody(
    store: Store, settings: Settings, tmp_path: Path
) -> None:
    figures = fuzz(settings, 2000, tmp_path)
    assert figures.frames == 2000
    assert figures.answers > 1000
    assert {"processed", "refused", "fragment"} <= set(figures.states)
