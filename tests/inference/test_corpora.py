"""Real scans of five vendors, which lie beside the project; see `conftest.CORPORA`."""

from __future__ import annotations

import tarfile
import time
from pathlib import Path

import pytest
from pydicom import dcmread

from services.inference.assess import assess
from services.inference.registry import TriageModel
from tests.inference.conftest import CORPORA


def files(folder: str) -> list[Path]:
    return sorted(path for path in (CORPORA / folder).rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def studyforrest(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("studyforrest")
    with tarfile.open(CORPORA / "studyforrest_T1w" / "dicoms_384.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return sorted(folder.rglob("*.dcm"))


def test_a_real_normal_head_of_384_slices_is_normal_and_quick(
    model: TriageModel, studyforrest: list[Path]
) -> None:
    assert len(studyforrest) == 384
    times = []
    for _ in range(2):  # the better of two: the machine is shared
        start = time.perf_counter()
        found = assess(model, studyforrest)
        times.append(time.perf_counter() - start)
    assert (found.outcome, found.findings) == ("normal", ())
    assert len(found.evidence) == 384
    assert min(times) < 3.0


def test_a_real_sagittal_enhanced_head_is_normal(model: TriageModel) -> None:
    assert assess(model, files("siemens_xa30_enhanced/T1_enh")).outcome == "normal"


def test_of_a_real_study_the_anatomy_is_chosen(model: TriageModel) -> None:
    # T1, diffusion, ADC and a report of one visit
    found = assess(model, files("siemens_xa30_enhanced"))
    assert found.outcome == "normal"
    (evidence,) = found.evidence
    chosen = dcmread(files("siemens_xa30_enhanced/T1_enh")[0], stop_before_pixels=True)
    assert evidence.series_uid == chosen.SeriesInstanceUID


@pytest.mark.parametrize("folder", ["ADC", "DWI_TRACEW", "PhoenixSR"])
def test_maps_and_reports_are_not_judged(model: TriageModel, folder: str) -> None:
    assert assess(model, files(f"siemens_xa30_enhanced/{folder}")).outcome == "abstained"


def test_a_real_time_series_is_one_volume_and_too_short_to_judge(model: TriageModel) -> None:
    found = assess(model, files("ge_mr750_epi"))
    assert found.outcome == "abstained"
    assert "covers" in found.reason
    assert len(found.evidence) == 15  # of 150: the first of ten volumes


def test_a_subsampled_head_is_not_judged(model: TriageModel) -> None:
    found = assess(model, files("studyforrest_T1w/every16th"))
    assert found.outcome == "abstained"
    assert "mm apart" in found.reason


def test_a_wrist_is_refused_by_its_words(model: TriageModel) -> None:
    found = assess(model, files("ge_genesis_wrist_ihe"))
    assert found.outcome == "abstained"
    assert "wrist" in found.reason


def test_a_wrist_without_words_is_refused_by_its_size(model: TriageModel, tmp_path: Path) -> None:
    for path in files("ge_genesis_wrist_ihe"):
        ds = dcmread(path)
        ds.StudyDescription = "MR"
        ds.save_as(tmp_path / path.name)
    found = assess(model, sorted(tmp_path.iterdir()))
    assert found.outcome == "abstained"
    assert "field of view of 60 mm" in found.reason


@pytest.mark.parametrize(
    "path",
    [
        path
        for folder in (
            "malformed",
            "pydicom_mr_variants",
            "wg04_mr_syntaxes",
            "sr_seg",
            "unsupported_syntax",
            "mwl",
        )
        for path in files(folder)
    ],
    ids=lambda path: path.name,
)
def test_every_odd_file_makes_it_abstain(model: TriageModel, path: Path) -> None:
    found = assess(model, [path])
    assert found.outcome == "abstained"
    assert not found.failed, found.reason
