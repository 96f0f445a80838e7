from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from services.simulators.anatomy import head

SMALL = {"matrix": 64, "slices": 24, "slice_mm": 6.0}


def asymmetry(volume):
    """Mean |I - mirror(I)| in the brain, in units of the brain's mean signal."""
    signal = volume.voxels.astype(float)
    brain = volume.brain & volume.brain[..., ::-1]
    return np.abs(signal - signal[..., ::-1])[brain].mean() / signal[brain].mean()


def test_same_seed_same_voxels_in_another_process():
    code = (
        "from services.simulators.anatomy import head; import hashlib;"
        "v = head(7, 'unilateral_ventricle', matrix=64, slices=24, slice_mm=6.0);"
        "print(hashlib.sha256(v.voxels.tobytes()).hexdigest())"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    here = head(7, "unilateral_ventricle", **SMALL)
    assert hashlib.sha256(here.voxels.tobytes()).hexdigest() == there
    assert not np.array_equal(head(8, "unilateral_ventricle", **SMALL).voxels, here.voxels)


def test_a_sick_head_is_clearly_less_symmetric_than_any_healthy_one():
    size = {"matrix": 96, "slices": 24, "slice_mm": 6.25}
    healthy = np.array([asymmetry(head(seed, **size)) for seed in range(20)])
    sick = np.array([asymmetry(head(seed, "unilateral_ventricle", **size)) for seed in range(20)])
    line = (
        f"asymmetry healthy {healthy.min():.3f}-{healthy.max():.3f} (mean {healthy.mean():.3f}), "
        f"sick {sick.min():.3f}-{sick.max():.3f} (mean {sick.mean():.3f})\n"
    )
    sys.stdout.write(line)
    assert sick.min() > 1.25 * healthy.max()
    assert sick.mean() > 1.8 * healthy.mean()


@pytest.mark.parametrize("seed", range(3))
def test_the_truth_is_what_the_voxels_show(seed):
    volume = head(seed, "unilateral_ventricle")
    well = head(seed)
    truth = volume.truth
    assert 25 < truth["extra_ml"] < 90
    assert 4 < truth["shift_mm"] < 10
    assert well.truth == {
        "pathology": "none",
        "side": None,
        "left_ml": pytest.approx(7, abs=4),
        "right_ml": pytest.approx(7, abs=4),
        "extra_ml": 0.0,
        "shift_mm": 0.0,
    }
    # what turned dark is on the side that the truth names: columns run to the patient's left
    darker = well.voxels.astype(int) - volume.voxels > 0.4 * well.voxels[well.brain].mean()
    column = np.argwhere(darker & well.brain)[:, 2].mean()
    assert truth["side"] == ("left" if column > 64 else "right")
    pixel_ml = 1.875**2 * 3 / 1000
    assert (darker & well.brain).sum() * pixel_ml == pytest.approx(truth["extra_ml"], rel=0.3)


def test_two_large_ventricles_shift_nothing():
    volume = head(3, "enlarged_ventricles")
    assert volume.truth["side"] == "both"
    assert volume.truth["shift_mm"] == 0
    assert volume.truth["extra_ml"] > 20
    assert asymmetry(volume) < 0.12


def test_a_head_looks_like_one():
    volume = head(1)
    assert volume.voxels.shape == (50, 128, 128)
    assert volume.voxels.min() >= 0
    middle = volume.voxels[25].astype(float)
    brain = volume.brain[25]
    air = np.concatenate([middle[:4].ravel(), middle[-4:].ravel()])
    assert air.mean() < 0.06 * middle[brain].mean()
    # a bright rim of fat around a dark one of bone around the brain, on a ray to the left
    row = middle[64, 64:]
    edge = int(np.argmin(brain[64, 64:]))
    bone, scalp = row[edge : edge + 5], row[edge + 3 : edge + 10]
    assert bone.min() < 0.5 * middle[brain].mean()
    assert scalp.max() > middle[brain].mean()
    assert 1000 < volume.brain.sum() * 1.875**2 * 3 / 1000 < 2200


@pytest.mark.parametrize(
    "wrong", [{"pathology": "headache"}, {"matrix": 1}, {"slices": 0}, {"field_mm": -1.0}]
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        head(1, **wrong)
