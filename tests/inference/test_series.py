from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import EnhancedSRStorage, MRSpectroscopyStorage

from models.errors import UnassessableError
from services.inference.series import choose_series
from services.inference.stack import stack
from tests.inference.phantom import PLANES, Head, classic, enhanced, item


def blank(
    slices: int = 20, mm: float = 5.0, plane: str = "axial", matrix: int = 64, pixel: float = 3.5
) -> Head:
    row, column = (np.array(d, dtype=float) for d in PLANES[plane])
    affine = np.eye(4)
    affine[:3, 0] = np.cross(row, column) * mm
    affine[:3, 1], affine[:3, 2] = column * pixel, row * pixel
    affine[:3, 3] = (-100, -90, -40)
    return Head(voxels=np.zeros((slices, matrix, matrix), dtype=np.int16), affine=affine)


def change(headers: list[Dataset], **values: Any) -> list[Dataset]:
    for header in headers:
        for keyword, value in values.items():
            setattr(header, keyword, value)
    return headers


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"BodyPartExamined": "WRIST"}, "another body part"),
        ({"BodyPartExamined": "LSPINE"}, "another body part"),
        ({"StudyDescription": "LEFT WRIST"}, r"another body part than the head \(wrist\)"),
        ({"ProtocolName": "t2_tse_sag_cspine"}, r"\(cspine\)"),
        ({"SeriesDescription": "AAHead_Scout_MPR_sag"}, "localiser"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localiser"),
        ({"SeriesDescription": "ep2d_diff_DWI"}, "diffusion"),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}, "diffusion"),
        ({"DiffusionBValue": 1000.0}, "diffusion"),
        ({"SeriesDescription": "TOF 3D"}, "angiogram"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, "projection"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "magnitude"),
        ({"SeriesDescription": "gre_field fmap"}, "calibration"),
        ({"SOPClassUID": EnhancedSRStorage}, "not an MR image"),
        ({"SOPClassUID": MRSpectroscopyStorage}, "not an MR image"),
        ({"Modality": "CT"}, "modality"),
        ({"PhotometricInterpretation": "RGB"}, "greyscale"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "rotation"),
        ({"PixelSpacing": [0, 0]}, "PixelSpacing"),
        ({"PixelSpacing": [1, 1]}, "too small for a head"),
    ],
)
def test_a_series_is_left_out_with_its_reason(values: dict[str, Any], reason: str) -> None:
    headers = change(classic(blank()), **values)
    choice = choose_series(headers)
    assert choice.series_uid is None
    assert [r.series_uid for r in choice.rejected] == [headers[0].SeriesInstanceUID]
    with pytest.raises(UnassessableError, match=reason):
        raise UnassessableError(choice.refusal)


@pytest.mark.parametrize(
    "values",
    [
        {"BodyPartExamined": "BRAIN"},
        {"BodyPartExamined": ""},
        {"BodyPartExamined": "HEADNECK"},
        {"BodyPartExamined": "UNKNOWN", "StudyDescription": "MRI brain and cervical spine"},
        {"StudyDescription": "Spinecho demo: head", "SeriesDescription": "t2 tse"},
        {"ImageType": ["DERIVED", "SECONDARY"]},
    ],
)
def test_a_head_is_taken_however_it_is_named(values: dict[str, Any]) -> None:
    choice = choose_series(change(classic(blank()), **values))
    assert choice.series_uid is not None
    assert choice.rejected == ()


def test_a_coded_region_counts_as_the_body_part() -> None:
    wrist = item(CodeValue="74670003", CodingSchemeDesignator="SCT", CodeMeaning="Wrist")
    headers = change(classic(blank()), BodyPartExamined="", AnatomicRegionSequence=[wrist])
    assert "another body part" in choose_series(headers).refusal


def test_too_few_slices_or_too_far_apart_are_left_out() -> None:
    assert "11 slices" in choose_series(classic(blank(slices=11))).refusal
    assert "12.0 mm apart" in choose_series(classic(blank(mm=12.0))).refusal


def test_a_scout_of_three_orientations_is_left_out() -> None:
    headers = classic(blank()) + classic(blank(plane="sagittal"))
    assert "several orientations" in choose_series(headers).refusal


def test_a_missing_slice_is_noticed() -> None:
    headers = classic(blank())
    del headers[7]
    assert "gap of 10.0 mm" in choose_series(headers).refusal


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "Rows"])
def test_headers_without_geometry_are_left_out(keyword: str) -> None:
    headers = classic(blank())
    del headers[3][keyword]
    assert choose_series(headers).series_uid is None


def test_the_reason_holds_no_free_text_of_the_study() -> None:
    headers = change(
        classic(blank()), SeriesDescription="scout for Müller^Käthe", StudyDescription="Secret"
    )
    assert "Käthe" not in choose_series(headers).refusal
    assert "Secret" not in choose_series(headers).refusal


def test_a_conventional_readout_goes_before_echo_planar_and_finer_before_coarser() -> None:
    planar = change(
        classic(blank(slices=30)), SeriesInstanceUID="2.25.1", ScanningSequence=["EP", "GR"]
    )
    coarse = change(classic(blank(slices=20, mm=7.0)), SeriesInstanceUID="2.25.2")
    fine = change(classic(blank(slices=40, mm=4.0)), SeriesInstanceUID="2.25.3")
    choice = choose_series([*planar, *coarse, *fine])
    assert choice.series_uid == "2.25.3"
    assert not choice.echo_planar
    assert len(choice.rejected) == 2
    assert choose_series([*planar, *coarse]).series_uid == "2.25.2"
    assert choose_series(planar).echo_planar


@pytest.mark.parametrize("plane", list(PLANES))
def test_slices_are_ordered_by_geometry_not_by_number(plane: str) -> None:
    headers = classic(blank(plane=plane))
    shuffled = random.Random(3).sample(headers, len(headers))
    for number, header in enumerate(shuffled):
        header.InstanceNumber = number
    found = stack(shuffled)
    order = [shuffled[p.header].SOPInstanceUID for p in found.planes]
    assert order == [h.SOPInstanceUID for h in headers]
    np.testing.assert_allclose(found.affine, blank(plane=plane).affine, atol=1e-6)
    assert found.spacing_mm == (5.0, 3.5, 3.5)


@pytest.mark.parametrize("plane", list(PLANES))
def test_an_enhanced_object_has_the_geometry_of_its_slices(plane: str) -> None:
    found = stack([enhanced(blank(plane=plane))])
    np.testing.assert_allclose(found.affine, blank(plane=plane).affine, atol=1e-6)
    assert [(p.header, p.frame) for p in found.planes] == [(0, n) for n in range(20)]


def test_frames_backwards_come_out_forwards() -> None:
    made = enhanced(blank())
    made.PerFrameFunctionalGroupsSequence = list(reversed(made.PerFrameFunctionalGroupsSequence))
    assert [p.frame for p in stack([made]).planes] == list(range(19, -1, -1))


def by_tag(keyword: str) -> Callable[[list[Dataset], int], None]:
    def mark(headers: list[Dataset], volume: int) -> None:
        change(headers, **{keyword: volume + 1})

    return mark


@pytest.mark.parametrize(
    "mark",
    [
        by_tag("TemporalPositionIdentifier"),
        by_tag("EchoNumbers"),
        by_tag("AcquisitionNumber"),
        lambda headers, volume: None,
    ],
    ids=["temporal position", "echo", "acquisition", "nothing but the order"],
)
def test_of_several_volumes_the_first_is_taken(mark: Callable[[list[Dataset], int], None]) -> None:
    headers = []
    for volume in range(3):
        one = classic(blank(), StudyID=str(volume))  # other instance UIDs
        for number, header in enumerate(one):
            header.InstanceNumber = volume * 100 + number
        mark(one, volume)
        headers += one
    found = stack(headers[::-1])
    assert found.volumes == 3
    assert {headers[::-1][p.header].StudyID for p in found.planes} == {"0"}
    assert len(found.planes) == 20


def test_an_interrupted_first_volume_is_passed_over() -> None:
    first, second = classic(blank(), StudyID="0"), classic(blank(), StudyID="1")
    change(first, TemporalPositionIdentifier=1)
    change(second, TemporalPositionIdentifier=2)
    headers = [*first[:12], *second]
    assert {headers[p.header].StudyID for p in stack(headers).planes} == {"1"}


def test_no_study_is_no_choice() -> None:
    choice = choose_series([])
    assert choice.series_uid is None
    assert choice.refusal == "no image of the study can be read"


def test_absurd_sizes_are_refused_before_memory_is_asked_for() -> None:
    headers = change(classic(blank()), Rows=65535, Columns=65535)
    with pytest.raises(UnassessableError, match="rows or columns"):
        stack(headers)
