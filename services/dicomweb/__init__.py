"""DICOMweb (PS3.18): QIDO-RS and WADO-RS over the store and the archive's tiers."""

from services.dicomweb.app import dicomweb_app

__all__ = ["dicomweb_app"]
