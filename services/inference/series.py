"""Which series of a study a head model may judge, and why every other one is left out."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.uid import (
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
)

from models.errors import UnassessableError
from services.inference.card import Eligibility
from services.inference.stack import Stack, stack

# all that `choose_series` and `stack` look at; nothing else of a file is kept, names least of all
HEADER_KEYWORDS: Final = (
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "StudyDescription",
    "SeriesDescription",
    "AnatomicRegionSequence",
    "AcquisitionContrast",
    "BodyPartExamined",
    "ScanningSequence",
    "EchoNumbers",
    "ProtocolName",
    "DiffusionBValue",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "AcquisitionNumber",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "TemporalPositionIdentifier",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "RescaleIntercept",
    "RescaleSlope",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
HEADER_TAGS: Final = tuple(Tag(keyword) for keyword in HEADER_KEYWORDS)

_IMAGES: Final = (
    MRImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
)


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_HEAD: Final = _set(
    "head headneck brain skull cranium cerebrum cerebral neuro kopf schaedel schädel hirn"
)
_ELSEWHERE: Final = _set(
    "wrist hand finger elbow forearm shoulder knee ankle foot thigh femur tibia calf hip pelvis "
    "sacrum spine cspine tspine lspine cervical thoracic lumbar neck chest thorax lung heart "
    "cardiac breast abdomen liver pancreas mrcp kidney renal prostate uterus rectum bladder aorta "
    "handgelenk ellenbogen schulter knie sprunggelenk fuss fuß huefte hüfte becken wirbelsaeule "
    "wirbelsäule hws bws lws hals herz leber niere"
)
_PURPOSES: Final = {
    "a localiser": _set(
        "localizer localiser scout aascout aahead survey smartbrain planning loc locs 3plane"
    ),
    "diffusion-weighted": _set("diffusion dwi dti adc eadc trace tracew tensor isodwi"),
    "an angiogram": _set("angio tof mra mrv cemra"),
    "a projection": _set("mip minip projection"),
    "a perfusion study": _set("perfusion perf asl dsc dce cbf cbv mtt ttp rcbf rcbv tmax"),
    "a calibration scan": _set("calibration asset b1map fieldmap fmap shim"),
    "a susceptibility image": _set("swi swan"),
}
# pydicom decodes an element when it is asked for, and its errors have no common base
_MALFORMED: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
    struct.error,
)
_DEFAULT: Final = Eligibility()
_WORD: Final = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A series that is left out; `reason` holds no free text of the study."""

    series_uid: str
    series_number: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesChoice:
    """The series to judge.

    Attributes
    ----------
    series_uid
        None when no series is eligible.
    headers
        Indices of its headers among those given, in the order that `stack` refers to.
    stack
        Its geometry.
    echo_planar
        Whether it was read out by echo-planar imaging, whose distortion forbids measuring.
    rejected
        Every other series, in the order of the study.
    """

    series_uid: str | None
    headers: tuple[int, ...] = ()
    stack: Stack | None = None
    echo_planar: bool = False
    rejected: tuple[Rejection, ...] = ()

    @property
    def refusal(self) -> str:
        """Why nothing is eligible, in one line."""
        if not self.rejected:
            return "no image of the study can be read"
        named = [f"series {r.series_number} {r.reason}" for r in self.rejected[:6]]
        more = len(self.rejected) - len(named)
        return "no eligible series: " + "; ".join(named) + (f"; and {more} more" if more else "")


def choose_series(headers: Sequence[Dataset], rules: Eligibility = _DEFAULT) -> SeriesChoice:
    """Choose the series that a head model should judge.

    Among eligible series a conventional readout goes before an echo-planar one, then the one that
    covers more, then the finer one, then the earlier one.

    Parameters
    ----------
    headers
        Data sets of one study without pixel data, holding at least `HEADER_KEYWORDS`.
    rules
        From the model's card.
    """
    groups: dict[str, list[int]] = {}
    for index, header in enumerate(headers):
        groups.setdefault(str(header.get("SeriesInstanceUID", "")), []).append(index)
    rejected: list[Rejection] = []
    eligible: list[tuple[tuple[float, ...], SeriesChoice]] = []
    for uid, members in groups.items():
        series = [headers[index] for index in members]
        number = str(series[0].get("SeriesNumber") or "without number")
        try:
            found = _examine(series, rules)
        except UnassessableError as error:
            rejected.append(Rejection(series_uid=uid, series_number=number, reason=str(error)))
            continue
        except _MALFORMED:
            reason = "has malformed headers"
            rejected.append(Rejection(series_uid=uid, series_number=number, reason=reason))
            continue
        planar = any(_is_echo_planar(header) for header in series)
        covered = round(found.spacing_mm[0] * len(found.planes))
        rank = (-planar, min(covered, 150), -max(found.spacing_mm), -len(eligible))
        choice = SeriesChoice(
            series_uid=uid, headers=tuple(members), stack=found, echo_planar=planar
        )
        eligible.append((rank, choice))
    if not eligible:
        return SeriesChoice(series_uid=None, rejected=tuple(rejected))
    best = max(eligible, key=lambda pair: pair[0])[1]
    for _, other in eligible:
        if other is not best:
            number = str(headers[other.headers[0]].get("SeriesNumber") or "without number")
            reason = "suits less than the chosen one"
            rejected.append(
                Rejection(series_uid=str(other.series_uid), series_number=number, reason=reason)
            )
    return SeriesChoice(
        series_uid=best.series_uid,
        headers=best.headers,
        stack=best.stack,
        echo_planar=best.echo_planar,
        rejected=tuple(rejected),
    )


def _examine(series: Sequence[Dataset], rules: Eligibility) -> Stack:
    """Return the geometry of an eligible series.

    Raises
    ------
    UnassessableError
        With the first rule that the series breaks.
    """
    for header in series:
        if header.get("SOPClassUID") not in _IMAGES:
            raise UnassessableError("is not an MR image")
        if header.get("Modality") != rules.modality:
            raise UnassessableError(f"is not of the modality {rules.modality}")
        if header.get("PhotometricInterpretation") != "MONOCHROME2":
            raise UnassessableError("is not a greyscale image")
    _check_body_part(series[0])
    _check_purpose(series)
    found = stack(series)
    if len(found.planes) < rules.min_slices:
        raise UnassessableError(f"has {len(found.planes)} slices, fewer than {rules.min_slices}")
    if found.spacing_mm[0] > rules.max_spacing_mm:
        raise UnassessableError(
            f"has slices {found.spacing_mm[0]:.1f} mm apart, more than {rules.max_spacing_mm:g} mm"
        )
    field = min(n * mm for n, mm in zip(found.shape, found.spacing_mm[1:], strict=True))
    if field < rules.min_field_mm:
        raise UnassessableError(f"has a field of view of {field:.0f} mm, too small for a head")
    return found


def _words(text: object) -> set[str]:
    return set(_WORD.findall(str(text or "").lower()))


def _check_body_part(header: Dataset) -> None:
    coded = _words(header.get("BodyPartExamined"))
    for item in header.get("AnatomicRegionSequence") or ():
        coded |= _words(item.get("CodeMeaning"))
    if coded and not coded & _HEAD and not coded <= {"unknown", "other"}:
        raise UnassessableError("shows another body part than the head")
    # a protocol copied from another region keeps its coded body part, so the words count as well
    for keyword in ("StudyDescription", "SeriesDescription", "ProtocolName"):
        words = _words(header.get(keyword))
        elsewhere = sorted(words & _ELSEWHERE)
        if elsewhere and not words & _HEAD:
            raise UnassessableError(f"shows another body part than the head ({elsewhere[0]})")


def _check_purpose(series: Iterable[Dataset]) -> None:
    for header in series:
        kinds = {str(value).upper() for value in _values(header.get("ImageType"))}
        contrast = str(header.get("AcquisitionContrast") or "").upper()
        words = {w for kind in kinds for w in _words(kind)} | _words(contrast)
        words |= _words(header.get("SeriesDescription")) | _words(header.get("ProtocolName"))
        for purpose, signs in _PURPOSES.items():
            if words & signs:
                raise UnassessableError(f"is {purpose}")
        if float(header.get("DiffusionBValue") or 0) > 0:
            raise UnassessableError("is diffusion-weighted")
        if kinds & {"P", "PHASE", "PHASE MAP", "I", "IMAGINARY"}:
            raise UnassessableError("is not a magnitude image")


def _is_echo_planar(header: Dataset) -> bool:
    kinds = {str(v).upper() for v in _values(header.get("ScanningSequence"))}
    kinds |= {str(v).upper() for v in _values(header.get("ImageType"))}
    return bool(kinds & {"EP", "EPI", "FMRI"})


def _values(value: object) -> Iterable[object]:
    if value is None or isinstance(value, str):
        return (value,) if value else ()
    return value if isinstance(value, Iterable) else (value,)
