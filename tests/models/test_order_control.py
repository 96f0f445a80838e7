"""The order control table, pair by pair: what has no row is nobody's business to guess."""

from __future__ import annotations

from itertools import product

import pytest

from models.order_control import CONTROLS, RULES, OrderAction

HL70119 = (
    *("AF", "CA", "CH", "CN", "CR", "DC", "DE", "DF", "DR", "FU", "HD", "HR", "LI", "MC", "NA"),
    *("NW", "OC", "OD", "OE", "OF", "OH", "OK", "OP", "OR", "PA", "PR", "RE", "RF", "RL", "RO"),
    *("RP", "RQ", "RR", "RU", "SC", "SN", "SR", "SS", "UA", "UC", "UD", "UF", "UH", "UM", "UN"),
    *("UR", "UX", "XO", "XR", "XX"),
)
HL70038 = ("", "A", "CA", "CM", "DC", "ER", "HD", "IP", "RP", "SC")
DCM4CHEE = {
    # the pairs that a widely used archive ships as its defaults
    ("NW", "SC"): OrderAction.PLACE,
    ("NW", "IP"): OrderAction.PLACE,
    ("XO", "SC"): OrderAction.CHANGE,
    ("CA", "CA"): OrderAction.CANCEL,
    ("DC", "CA"): OrderAction.DISCONTINUE,
    ("XO", "CM"): OrderAction.COMPLETED,
    ("SC", "CM"): OrderAction.COMPLETED,
    ("SC", "A"): OrderAction.COMPLETED,
}
REFUSED = [
    *(("NW", s) for s in ("A", "CA", "CM", "DC", "ER", "HD", "RP")),
    *(("XO", s) for s in ("A", "CA", "DC", "ER", "HD", "IP", "RP")),
    *(("CA", s) for s in ("A", "CM", "DC", "ER", "RP")),
    *(("HD", s) for s in ("A", "CA", "CM", "DC", "IP")),
    *(("RL", s) for s in ("A", "CA", "CM", "DC", "IP")),
    *(("RO", s) for s in ("CA", "CM", "RP")),
    ("SC", ""),  # a status that says no status
    *((c, "SC") for c in ("AF", "RF", "FU", "MC", "ZZ")),
]


@pytest.mark.parametrize("pair", DCM4CHEE, ids="_".join)
def test_the_usual_pairs_do_the_usual_things(pair: tuple[str, str]) -> None:
    assert RULES[pair].action is DCM4CHEE[pair]


@pytest.mark.parametrize("pair", REFUSED, ids="_".join)
def test_a_pair_that_contradicts_itself_has_no_rule(pair: tuple[str, str]) -> None:
    assert pair not in RULES


def test_the_table_stays_within_its_standard_tables_and_cites_them() -> None:
    assert {control for control, _ in RULES} <= set(HL70119)
    assert {status for _, status in RULES} <= set(HL70038)
    assert all(rule.source for rule in RULES.values())
    assert {rule.action for rule in RULES.values()} == set(OrderAction)


def test_every_pair_is_either_listed_or_refused() -> None:
    pairs = set(product(HL70119, HL70038))
    assert set(RULES) <= pairs
    served = {"NW", "SN", "NA", "OK", "UA", "XO", "XX", "CA", "CR", "UC", "OC", "DC", "DR", "OD"}
    served |= {"RP", "RU", "RO", "HD", "RL", "SC", "SS", "SR", "PA", "CH", "RE"}
    assert served <= CONTROLS
