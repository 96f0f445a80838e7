"""Where a study's bytes lie."""

from __future__ import annotations

from enum import StrEnum


class Tier(StrEnum):
    """Storage tiers, from the fastest down."""

    HOT = "hot"
    WARM = "warm"
    COLD = "cold"

    @property
    def availability(self) -> str:
        """Instance Availability (0008,0056), PS3.3 C.4.23.1.1."""
        return "ONLINE" if self is Tier.HOT else "NEARLINE"
