"""What a benchmark reports: two numbers measured in one run, and what each of them covers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table.

    Parameters
    ----------
    part : str
        Benchmark that it belongs to.
    what : str
        What was measured.
    unit : str
        Of `ours` and `theirs`.
    ours : float
    peer : str
        Who `theirs` is; empty where there is none.
    theirs : float or None
    lower_is_better : bool
        A time rather than a rate.
    samples : int
        Measurements behind `ours`.
    our_samples, their_samples : tuple of float
        Every measurement of both, where they are few.
    """

    part: str
    what: str
    unit: str
    ours: float
    peer: str = ""
    theirs: float | None = None
    lower_is_better: bool = False
    samples: int = 1
    our_samples: tuple[float, ...] = ()
    their_samples: tuple[float, ...] = ()

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the peer: above 1, ours is the faster one."""
        if not self.theirs or not self.ours:
            return None
        return self.theirs / self.ours if self.lower_is_better else self.ours / self.theirs


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What one benchmark brings back."""

    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a reader must know to compare fairly; printed below the table."""
    peers: dict[str, str] = field(default_factory=dict)
    """Peer → version."""


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest measured value that at least `share` of all do not exceed."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]


def rates(
    part: str,
    what: str,
    unit: str,
    ours: Sequence[float],
    peer: str,
    theirs: Sequence[float],
) -> list[Figure]:
    """Return best and median of two series of rates."""
    return [
        Figure(
            part=part,
            what=f"{what}, {name}",
            unit=unit,
            ours=choose(ours),
            peer=peer,
            theirs=choose(theirs),
            samples=len(ours),
            our_samples=tuple(ours),
            their_samples=tuple(theirs),
        )
        for name, choose in (("best", max), ("median", median))
    ]


def latencies(
    part: str, what: str, ours: Sequence[float], peer: str = "", theirs: Sequence[float] = ()
) -> list[Figure]:
    """Return p50, p95 and p99 of two series of seconds, in milliseconds."""
    return [
        Figure(
            part=part,
            what=f"{what}, {name}",
            unit="ms",
            ours=quantile(ours, share) * 1000,
            peer=peer if theirs else "",
            theirs=quantile(theirs, share) * 1000 if theirs else None,
            lower_is_better=True,
            samples=len(ours),
        )
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    ]
