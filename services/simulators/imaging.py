"""A head as DICOM: one object a slice, or one object with all slices.

Both say the same about the same voxels, so a receiver can be asked to find the same in either.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage

from services.simulators.anatomy import Volume
from services.simulators.header import (
    FIELD_STRENGTH_T,
    SYNTHETIC,
    Exam,
    code,
    common,
    dataset,
    uid,
)

# a 3D inversion-recovery gradient echo at 3 T: times in ms, angle in degrees, frequency in MHz
_TR: Final = 1900.0
_TE: Final = 2.6
_TI: Final = 900.0
_FLIP: Final = 9.0
_FREQUENCY: Final = 123.2
_BANDWIDTH: Final = 170.0  # Hz per pixel
_COIL: Final = "HEAD32"


def classic_mr(volume: Volume, exam: Exam) -> list[Dataset]:
    """Make one MR Image Storage object for each slice (PS3.3 §A.4).

    Returns
    -------
    list of Dataset
        In the order of the slices, from the feet towards the head; Explicit VR Little Endian.
    """
    centre, width = _window(volume)
    orientation = _orientation(volume)
    normal = _unit(volume.affine[:3, 2])
    images = []
    for index, pixels in enumerate(volume.voxels):
        ds = common(exam)
        position = _position(volume, index)
        ds.update(
            dataset(
                {
                    "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
                    "SOPClassUID": MRImageStorage,
                    "SOPInstanceUID": uid(exam.key, exam.series_number, "image", index),
                    "ScanningSequence": ["GR", "IR"],
                    "SequenceVariant": ["SP", "MP"],
                    "ScanOptions": "",
                    "MRAcquisitionType": "3D",
                    "SequenceName": "tfl3d1",
                    "SliceThickness": volume.spacing[2],
                    "RepetitionTime": _TR,
                    "EchoTime": _TE,
                    "InversionTime": _TI,
                    "NumberOfAverages": 1,
                    "ImagingFrequency": _FREQUENCY,
                    "ImagedNucleus": "1H",
                    "EchoNumbers": 1,
                    "MagneticFieldStrength": FIELD_STRENGTH_T,
                    "SpacingBetweenSlices": volume.spacing[2],
                    "EchoTrainLength": 1,
                    "PercentSampling": 100,
                    "PercentPhaseFieldOfView": 100,
                    "PixelBandwidth": _BANDWIDTH,
                    "ReceiveCoilName": _COIL,
                    "InPlanePhaseEncodingDirection": "ROW",
                    "FlipAngle": _FLIP,
                    "AcquisitionNumber": 1,
                    "InstanceNumber": index + 1,
                    "ImagePositionPatient": _decimals(position),
                    "ImageOrientationPatient": orientation,
                    "SliceLocation": round(float(position @ normal), 4),
                    "ImageComments": SYNTHETIC,
                    "WindowCenter": centre,
                    "WindowWidth": width,
                    "RescaleIntercept": 0,
                    "RescaleSlope": 1,
                    "RescaleType": "US",
                }
            )
        )
        _pixels(ds, volume, pixels)
        images.append(ds)
    return images


def enhanced_mr(volume: Volume, exam: Exam) -> Dataset:
    """Make one Enhanced MR Image Storage object with one frame for each slice (PS3.3 §A.36.2).

    Returns
    -------
    Dataset
        Frames from the feet towards the head; Explicit VR Little Endian.
    """
    ds = common(exam)
    # Acquisition DateTime replaces them here
    del ds.AcquisitionDate, ds.AcquisitionTime
    frames = len(volume.voxels)
    dimensions = uid(exam.key, "dimensions")
    ds.update(
        dataset(
            {
                "ImageType": ["ORIGINAL", "PRIMARY", "T1", "NONE"],
                "SOPClassUID": EnhancedMRImageStorage,
                "SOPInstanceUID": uid(exam.key, exam.series_number, "multiframe"),
                "AcquisitionDateTime": exam.started.strftime("%Y%m%d%H%M%S"),
                "AcquisitionDuration": 240.0,
                "AcquisitionNumber": 1,
                "InstanceNumber": 1,
                "NumberOfFrames": frames,
                "ImageComments": SYNTHETIC,
                "ContentQualification": "RESEARCH",
                "PixelPresentation": "MONOCHROME",
                "VolumetricProperties": "VOLUME",
                "VolumeBasedCalculationTechnique": "NONE",
                "ComplexImageComponent": "MAGNITUDE",
                "AcquisitionContrast": "T1",
                "ResonantNucleus": "1H",
                "KSpaceFiltering": "NONE",
                "MagneticFieldStrength": FIELD_STRENGTH_T,
                "ApplicableSafetyStandardAgency": "IEC",
                "BurnedInAnnotation": "NO",
                "LossyImageCompression": "00",
                "PresentationLUTShape": "IDENTITY",
                "PulseSequenceName": "tfl3d1",
                "MRAcquisitionType": "3D",
                "EchoPulseSequence": "GRADIENT",
                "PhaseContrast": "NO",
                "TimeOfFlightContrast": "NO",
                "MultiPlanarExcitation": "NO",
                "SteadyStatePulseSequence": "NONE",
                "EchoPlanarPulseSequence": "NO",
                "OversamplingPhase": "NONE",
                "SaturationRecovery": "NO",
                "SpectrallySelectedSuppression": "NONE",
                "GeometryOfKSpaceTraversal": "RECTILINEAR",
                "RectilinearPhaseEncodeReordering": "LINEAR",
                "SegmentedKSpaceTraversal": "SINGLE",
                "CoverageOfKSpace": "FULL",
                "NumberOfKSpaceTrajectories": 1,
                "AcquisitionContextSequence": Sequence(),
                "DimensionOrganizationType": "3D",
                "DimensionOrganizationSequence": [
                    dataset({"DimensionOrganizationUID": dimensions})
                ],
                "DimensionIndexSequence": [
                    _dimension(dimensions, 0x00209056, 0x00209111, "Stack ID"),
                    _dimension(dimensions, 0x00209057, 0x00209111, "In-Stack Position Number"),
                ],
                "SharedFunctionalGroupsSequence": [_shared(volume)],
                "PerFrameFunctionalGroupsSequence": [
                    _frame(volume, exam, index) for index in range(frames)
                ],
            }
        )
    )
    _pixels(ds, volume, volume.voxels)
    return ds


def _dimension(organization: UID, pointer: int, group: int, label: str) -> Dataset:
    return dataset(
        {
            "DimensionOrganizationUID": organization,
            "DimensionIndexPointer": pointer,
            "FunctionalGroupPointer": group,
            "DimensionDescriptionLabel": label,
        }
    )


def _shared(volume: Volume) -> Dataset:
    """Collect the functional groups that are the same for all frames (PS3.3 Table A.36-2)."""
    rows, columns = volume.voxels.shape[1:]
    centre, width = _window(volume)
    groups: dict[str, dict[str, object]] = {
        "PixelMeasuresSequence": {
            "PixelSpacing": list(volume.spacing[:2]),
            "SliceThickness": volume.spacing[2],
            "SpacingBetweenSlices": volume.spacing[2],
        },
        "PlaneOrientationSequence": {"ImageOrientationPatient": _orientation(volume)},
        "FrameAnatomySequence": {
            "FrameLaterality": "U",
            "AnatomicRegionSequence": [code("12738006", "SCT", "Brain")],
        },
        "PixelValueTransformationSequence": {
            "RescaleIntercept": 0,
            "RescaleSlope": 1,
            "RescaleType": "US",
        },
        "FrameVOILUTSequence": {"WindowCenter": centre, "WindowWidth": width},
        "MRImageFrameTypeSequence": {
            "FrameType": ["ORIGINAL", "PRIMARY", "T1", "NONE"],
            "PixelPresentation": "MONOCHROME",
            "VolumetricProperties": "VOLUME",
            "VolumeBasedCalculationTechnique": "NONE",
            "ComplexImageComponent": "MAGNITUDE",
            "AcquisitionContrast": "T1",
        },
        "MRTimingAndRelatedParametersSequence": {
            "RepetitionTime": _TR,
            "FlipAngle": _FLIP,
            "EchoTrainLength": 1,
            "RFEchoTrainLength": 0,
            "GradientEchoTrainLength": 1,
            "SpecificAbsorptionRateSequence": [
                dataset(
                    {
                        "SpecificAbsorptionRateDefinition": "IEC_HEAD",
                        "SpecificAbsorptionRateValue": 0.1,
                    }
                )
            ],
            "GradientOutputType": "DB_DT",
            "GradientOutput": 40.0,
            "OperatingModeSequence": [
                dataset({"OperatingModeType": kind, "OperatingMode": "IEC_NORMAL"})
                for kind in ("STATIC FIELD", "RF", "GRADIENT")
            ],
        },
        "MRFOVGeometrySequence": {
            "InPlanePhaseEncodingDirection": "ROW",
            "MRAcquisitionFrequencyEncodingSteps": columns,
            "MRAcquisitionPhaseEncodingStepsInPlane": rows,
            "MRAcquisitionPhaseEncodingStepsOutOfPlane": len(volume.voxels),
            "PercentSampling": 100.0,
            "PercentPhaseFieldOfView": 100.0,
        },
        "MREchoSequence": {"EffectiveEchoTime": _TE},
        "MRModifierSequence": {
            "InversionRecovery": "YES",
            "InversionTimes": [_TI],
            "FlowCompensation": "NONE",
            "Spoiling": "RF",
            "T2Preparation": "NO",
            "SpectrallySelectedExcitation": "NONE",
            "SpatialPresaturation": "NONE",
            "PartialFourier": "NO",
            "ParallelAcquisition": "NO",
        },
        "MRImagingModifierSequence": {
            "MagnetizationTransfer": "NONE",
            "BloodSignalNulling": "NO",
            "Tagging": "NONE",
            "TransmitterFrequency": _FREQUENCY,
            "PixelBandwidth": _BANDWIDTH,
        },
        "MRReceiveCoilSequence": {
            "ReceiveCoilName": _COIL,
            "ReceiveCoilManufacturerName": "",
            "ReceiveCoilType": "VOLUME",
            "QuadratureReceiveCoil": "YES",
        },
        "MRTransmitCoilSequence": {
            "TransmitCoilName": "BODY",
            "TransmitCoilManufacturerName": "",
            "TransmitCoilType": "BODY",
        },
        "MRAveragesSequence": {"NumberOfAverages": 1},
    }
    return dataset({name: [dataset(values)] for name, values in groups.items()})


def _frame(volume: Volume, exam: Exam, index: int) -> Dataset:
    when = exam.started.strftime("%Y%m%d%H%M%S")
    content = dataset(
        {
            "FrameAcquisitionNumber": 1,
            "FrameReferenceDateTime": when,
            "FrameAcquisitionDateTime": when,
            "FrameAcquisitionDuration": 240.0,
            "StackID": "1",
            "InStackPositionNumber": index + 1,
            "DimensionIndexValues": [1, index + 1],
        }
    )
    plane = dataset({"ImagePositionPatient": _decimals(_position(volume, index))})
    return dataset({"FrameContentSequence": [content], "PlanePositionSequence": [plane]})


def _pixels(ds: Dataset, volume: Volume, pixels: NDArray[np.int16]) -> None:
    """Fill the image pixel module and the file meta information."""
    ds.update(
        dataset(
            {
                "SamplesPerPixel": 1,
                "PhotometricInterpretation": "MONOCHROME2",
                "Rows": pixels.shape[-2],
                "Columns": pixels.shape[-1],
                "BitsAllocated": 16,
                "BitsStored": 12,
                "HighBit": 11,
                "PixelRepresentation": 0,
            }
        )
    )
    if ds.SOPClassUID == MRImageStorage:
        ds.PixelSpacing = list(volume.spacing[:2])
    ds.add_new("PixelData", "OW", pixels.astype("<u2").tobytes())
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta = meta


def _window(volume: Volume) -> tuple[int, int]:
    """Choose a window that shows the brain: from nothing to a little above white matter."""
    top = float(np.percentile(volume.voxels[volume.brain], 99)) * 1.1
    return round(top / 2), round(top)


def _position(volume: Volume, index: int) -> NDArray[np.float64]:
    """Locate the centre of a slice's first pixel, LPS mm."""
    position: NDArray[np.float64] = volume.affine[:3, 3] + index * volume.affine[:3, 2]
    return position


def _orientation(volume: Volume) -> list[float]:
    along_row, along_column = volume.affine[:3, 0], volume.affine[:3, 1]
    return _decimals(np.concatenate([_unit(along_row), _unit(along_column)]), digits=8)


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vector / np.linalg.norm(vector)
    return unit


def _decimals(values: NDArray[np.float64], digits: int = 4) -> list[float]:
    # a DS holds 16 characters; 0.0 instead of -0.0 keeps two equal headers equal
    return [round(float(value), digits) + 0.0 for value in values]
