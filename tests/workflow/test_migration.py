"""Nothing is deleted until its copy was read back, at whatever instant the process died."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from models.errors import DamagedCopy
from models.lifecycle import MigrationState, StudyState
from models.tier import Tier
from services.archive.tiers import Tiers
from services.database.store import Store
from services.settings import Settings
from services.workflow.acquisition import receive_instance
from services.workflow.migration import begin_moves, migrate, plan_moves

STUDY = "1.2.3"


@pytest.fixture
def tiers(settings: Settings) -> Tiers:
    return Tiers(settings.model_copy(update={"disk_floor_mb": 0}))


def arrive(store: Store, tiers: Tiers, number: int) -> None:
    """Let an image of the study arrive as if a scanner had sent it."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, f"{STUDY}.1.{number}"
    image.StudyInstanceUID, image.SeriesInstanceUID = STUDY, f"{STUDY}.1"
    image.PatientName, image.PatientID = "Invented^Ida", "I1"
    image.Modality, image.InstanceNumber = "MR", number
    image.PixelData = bytes([number]) * 256
    image["PixelData"].VR = "OW"
    file = tiers.incoming("test") / f"{number}.dcm"
    image.save_as(file, enforce_file_format=True)
    receive_instance(store, tiers, file, source_ae="MR1")


@pytest.fixture
def study_id(store: Store, tiers: Tiers) -> str:
    """A reported study of three images, two months old."""
    for number in (1, 2, 3):
        arrive(store, tiers, number)
    with store() as uow:
        study = uow.studies.find(STUDY)
        assert study is not None
        uow.studies.change(
            study.id,
            state=StudyState.DELIVERED.value,
            acquired_at=uow.now - timedelta(days=60),
        )
    return study.id


def assert_all_readable(store: Store, tiers: Tiers, study_id: str, count: int) -> None:
    with store() as uow:
        images = uow.studies.instances(study_id)
    assert len(images) == count
    assert [i.sop_uid for i in images if not tiers.verify(Tier(i.tier), i.path, i.digest)] == []


def on(tiers: Tiers, tier: Tier) -> list[Path]:
    root = {
        Tier.HOT: tiers.settings.hot_root,
        Tier.WARM: tiers.settings.warm_root,
        Tier.COLD: tiers.settings.home / "archive" / "cold",
    }[tier]
    return sorted(root.glob("[0-9]*/**/*.dcm"))


def stand_at(store: Store, tiers: Tiers, study_id: str, state: MigrationState) -> None:
    """Bring a migration to where a killed process would have left it."""
    with store() as uow:
        uow.studies.plan_migration(study_id, Tier.HOT, Tier.WARM)
        job = uow.studies.open_migration(study_id)
        files = uow.studies.instances(study_id)
        assert job is not None
        uow.studies.change_migration(job.id, state=state.value)
        if state is not MigrationState.PLANNED:
            tiers.copy_all(Tier.HOT, Tier.WARM, [(f.path, f.digest) for f in files])
        if state is MigrationState.SWITCHED:
            uow.studies.set_tier(study_id, Tier.WARM, [(f.sop_uid, f.path) for f in files])


def test_a_study_goes_down_step_by_step_and_stays_readable(
    store: Store, tiers: Tiers, settings: Settings, study_id: str
) -> None:
    with store() as uow:
        now = uow.now
    for days, tier in ((0, Tier.WARM), (0, Tier.WARM), (1000, Tier.COLD)):
        for moving in begin_moves(store, settings, now + timedelta(days=days)):
            assert migrate(store, tiers, moving) == tier.value
        assert_all_readable(store, tiers, study_id, 3)
        assert [len(on(tiers, t)) for t in Tier] == [3 if t is tier else 0 for t in Tier]


def test_planning_writes_nothing_and_spares_unread_and_held_studies(
    store: Store, settings: Settings, study_id: str
) -> None:
    with store() as uow:
        now = uow.now
    (move,) = plan_moves(store, settings, now)
    assert (move.source, move.target, move.instances) == (Tier.HOT, Tier.WARM, 3)
    for spared in ({"state": "acquired"}, {"state": "delivered", "legal_hold": True}):
        with store() as uow:
            assert uow.studies.open_migration(study_id) is None
            uow.studies.change(study_id, **spared)
        assert plan_moves(store, settings, now) == []


@pytest.mark.parametrize("state", [s for s in MigrationState if s is not MigrationState.DONE])
def test_a_late_image_survives_a_crash_at_any_step(
    store: Store, tiers: Tiers, study_id: str, state: MigrationState
) -> None:
    stand_at(store, tiers, study_id, state)
    arrive(store, tiers, 4)
    for _ in range(3):
        migrate(store, tiers, study_id)
        assert_all_readable(store, tiers, study_id, 4)
    with store() as uow:
        assert uow.studies.open_migration(study_id) is None
    paths = {file.name for file in on(tiers, Tier.HOT)}
    late = f"{STUDY}.1.4."
    assert all(name.startswith(late) for name in paths), "an old image was left on hot"


def test_a_late_image_of_a_migrated_study_goes_down_with_it(
    store: Store, tiers: Tiers, settings: Settings, study_id: str
) -> None:
    with store() as uow:
        now = uow.now
    for moving in begin_moves(store, settings, now):
        migrate(store, tiers, moving)
    arrive(store, tiers, 4)
    for moving in begin_moves(store, settings, now + timedelta(days=1000)):
        migrate(store, tiers, moving)
    assert_all_readable(store, tiers, study_id, 4)
    assert [len(on(tiers, t)) for t in Tier] == [0, 0, 4]


@pytest.mark.parametrize("state", [MigrationState.PLANNED, MigrationState.SWITCHED])
def test_a_legal_hold_wins_over_a_migration_under_way(
    store: Store, tiers: Tiers, study_id: str, state: MigrationState
) -> None:
    stand_at(store, tiers, study_id, state)
    with store() as uow:
        uow.studies.change(study_id, legal_hold=True)
    migrate(store, tiers, study_id)
    assert len(on(tiers, Tier.HOT)) == 3
    assert_all_readable(store, tiers, study_id, 3)
    with store() as uow:
        uow.studies.change(study_id, legal_hold=False)
    assert migrate(store, tiers, study_id) == Tier.WARM.value
    assert len(on(tiers, Tier.HOT)) == 0


def test_a_damaged_original_is_neither_switched_nor_deleted(
    store: Store, tiers: Tiers, study_id: str
) -> None:
    with store() as uow:
        uow.studies.plan_migration(study_id, Tier.HOT, Tier.WARM)
    victim = on(tiers, Tier.HOT)[0]
    victim.write_bytes(victim.read_bytes()[:-1] + b"\xff")
    with pytest.raises(DamagedCopy):
        migrate(store, tiers, study_id)
    assert len(on(tiers, Tier.HOT)) == 3
    with store() as uow:
        assert uow.studies.get(study_id).tier is Tier.HOT
