"""SOP classes and well-known instances that the listener serves besides storage (PS3.6 Annex A)."""

from __future__ import annotations

from typing import Final

from pydicom.uid import UID

VERIFICATION: Final = UID("1.2.840.10008.1.1")
WORKLIST_FIND: Final = UID("1.2.840.10008.5.1.4.31")
MPPS: Final = UID("1.2.840.10008.3.1.2.3.3")
COMMITMENT: Final = UID("1.2.840.10008.1.20.1")
COMMITMENT_INSTANCE: Final = UID("1.2.840.10008.1.20.1.1")
