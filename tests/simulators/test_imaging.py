from __future__ import annotations

import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from services.simulators.anatomy import head
from services.simulators.header import Exam, uid
from services.simulators.imaging import classic_mr, enhanced_mr

NINE = datetime.fromisoformat("2026-03-01T09:00:00")
SCHEDULED = Exam(
    key="k",
    patient_name="Müller-Testfall^Jörg",
    patient_id="T1",
    issuer="SIMHOSP",
    birth_date="19700101",
    sex="M",
    accession="A1",
    study_uid=uid("s"),
    study_id="RP1",
    study_description="MRI brain",
    referring_physician="TESTREFERRER^ANNA",
    requested_procedure_id="RP1",
    step_id="SPS1",
    step_description="T1",
    started=NINE,
)
UNSCHEDULED = Exam(
    key="u",
    patient_name="DOE^UNKNOWN",
    patient_id="UNK1",
    study_uid=uid("u"),
    started=NINE,
)


@pytest.fixture(scope="module")
def volume():
    return head(3, "unilateral_ventricle", matrix=64, slices=12, slice_mm=9.0, tilt_deg=12)


@pytest.mark.parametrize("exam", [SCHEDULED, UNSCHEDULED], ids=["scheduled", "unscheduled"])
@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_dciodvfy_finds_no_error(volume, exam, kind, tmp_path):
    ds = classic_mr(volume, exam)[5] if kind == "classic" else enhanced_mr(volume, exam)
    path = tmp_path / "image.dcm"
    ds.save_as(path, enforce_file_format=True)
    # its own folder: the tool belongs to the environment that runs the test
    dciodvfy = Path(sys.executable).parent / "dciodvfy"
    verdict = subprocess.run([dciodvfy, path], capture_output=True, text=True, check=False)
    lines = (verdict.stdout + verdict.stderr).splitlines()
    assert ("MRImage" if kind == "classic" else "EnhancedMRImage") in lines
    assert [line for line in lines if line.startswith("Error")] == []


def planes(ds_or_list):
    """Position, orientation, spacing and pixels of each slice, whichever way they are told."""
    if isinstance(ds_or_list, list):
        for ds in ds_or_list:
            yield (
                ds.ImagePositionPatient,
                ds.ImageOrientationPatient,
                ds.PixelSpacing,
                ds.pixel_array,
            )
        return
    shared = ds_or_list.SharedFunctionalGroupsSequence[0]
    for frame, pixels in zip(
        ds_or_list.PerFrameFunctionalGroupsSequence, ds_or_list.pixel_array, strict=True
    ):
        yield (
            frame.PlanePositionSequence[0].ImagePositionPatient,
            shared.PlaneOrientationSequence[0].ImageOrientationPatient,
            shared.PixelMeasuresSequence[0].PixelSpacing,
            pixels,
        )


@pytest.mark.parametrize("make", [classic_mr, enhanced_mr])
def test_geometry_follows_ps3_3_equation_c7_6_2_1_1(volume, make):
    """Every pixel's place by the standard's equation is its place by the volume's own matrix."""
    for k, (position, orientation, spacing, pixels) in enumerate(planes(make(volume, SCHEDULED))):
        along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
        for column, row in ((0, 0), (63, 0), (0, 63), (40, 20)):
            place = (
                np.array(position, float)
                + along_row * spacing[1] * column
                + along_column * spacing[0] * row
            )
            expected = volume.affine @ (column, row, k, 1)
            np.testing.assert_allclose(place, expected[:3], atol=1e-3)
        assert abs(along_row @ along_column) < 1e-6
        np.testing.assert_array_equal(pixels, volume.voxels[k])
    # slices go towards the head, and the row direction is the patient's left
    assert np.cross(along_row, along_column)[2] > 0.9
    assert along_row[0] == 1


def test_both_kinds_are_marked_and_reproducible(volume):
    first, again = classic_mr(volume, SCHEDULED), classic_mr(volume, SCHEDULED)
    assert [a.to_json() for a in first] == [a.to_json() for a in again]
    whole = enhanced_mr(volume, SCHEDULED)
    uids = {ds.SOPInstanceUID for ds in [*first, whole]}
    assert len(uids) == 13
    assert all(u.startswith("2.25.") and u.is_valid for u in uids)
    for ds in (first[0], whole):
        assert "SYNTHETIC" in ds.SeriesDescription
        assert "SYNTHETIC" in ds.ImageComments
        assert ds.SyntheticData == "YES"
        assert ds.Manufacturer == "Spinecho simulator"


def test_a_name_survives_the_file(volume, tmp_path):
    path = Path(tmp_path) / "image.dcm"
    classic_mr(volume, SCHEDULED)[0].save_as(path, enforce_file_format=True)
    assert dcmread(path).PatientName == "Müller-Testfall^Jörg"
