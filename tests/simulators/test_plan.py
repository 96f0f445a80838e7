from __future__ import annotations

from datetime import date

import pytest

from services.simulators.plan import STATIONS, plan

DAY = date(2026, 3, 1)


@pytest.mark.parametrize("seed", range(25))
def test_every_morning_has_what_must_be_checked(seed):
    patients = plan(seed, DAY)
    ordered = [p for p in patients if not p.unordered]
    assert (len(patients), len(ordered)) == (13, 12)
    critical = [p for p in ordered if p.critical]
    assert len(critical) == 3
    assert all(p.priority == "R" and not p.cancelled for p in critical)
    assert {p.priority for p in ordered} == {"S", "A", "R"}
    assert sum(p.enhanced and p.scanned for p in ordered) >= 3
    assert any(p.enhanced for p in critical)
    assert [p.cancelled for p in ordered].count(True) == 1
    assert [p.duplicated for p in ordered].count(True) == 1
    assert not any(p.cancelled and p.duplicated for p in ordered)
    assert sum(not p.name.isascii() for p in ordered) >= 5
    shares = [sum(p.station == s and p.reported for p in ordered) for s in STATIONS]
    assert sorted(shares) == [5, 6]


def test_identifiers_fit_and_differ():
    patients = plan(1, DAY) + plan(2, DAY) + plan(1, date(2026, 3, 2))
    for p in patients:
        assert len(p.accession) <= 16
        assert len(p.step_id) <= 16
        assert len(p.procedure_id) <= 16
    assert len({p.study_uid for p in patients}) == 39
    assert len({p.patient_id for p in patients}) == 39
    assert len({p.accession for p in patients if p.accession}) == 36


def test_same_seed_same_day_same_plan():
    assert plan(5, DAY) == plan(5, DAY)
    assert plan(5)[0].scheduled.tzinfo is None


def test_nobody_orders_for_the_unknown_patient():
    with pytest.raises(ValueError, match="no order"):
        plan(1, DAY)[-1].order()
