"""Pairs of records, and what is said of them (STANDARDS §9)."""

from __future__ import annotations

from datetime import date

import pytest

from models.patient import Identifier, Patient, PersonName
from services.identity.matching import Frequencies, Level, Score, Traits, Verdict, compare
from services.identity.normalise import check_digit, core, fold, number, phonetic, read_name

COMMON = Frequencies(
    records=100_000, family={"smith": 1400, "lee": 700}, given={"john": 1450, "mary": 1500}
)
BORN = date(1980, 2, 14)


def person(
    family: str = "Quillfeather",
    given: str = "Ottoline",
    *,
    middle: str = "",
    born: date | None = BORN,
    sex: str = "F",
    number: str = "",
    authority: str = "HOSP",
) -> Patient:
    numbers = (Identifier(value=number, authority=authority),) if number else ()
    return Patient(
        id=f"{family}{given}{number}",
        identifiers=numbers,
        name=PersonName(family=family, given=given, middle=middle),
        birth_date=born,
        sex=sex,
    )


def score(a: Patient, b: Patient) -> Score:
    found = compare(Traits.of(a), Traits.of(b), COMMON, automatic=16, desk=0)
    other_way = compare(Traits.of(b), Traits.of(a), COMMON, automatic=16, desk=0)
    assert found.verdict is other_way.verdict
    assert found.total == pytest.approx(other_way.total)
    return found


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Müller", "Mueller"),
        ("Müller", "Muller"),
        ("Иванов", "Ivanov"),
        ("Иванов", "Iwanow"),
        ("Щукина", "Schtschukina"),
        ("Παπαδόπουλος", "Papadopoulos"),
        ("Sørensen", "Sorensen"),
        ("Łukaszewicz", "LUKASZEWICZ"),
        ("O'Brien", "OBRIEN"),
        ("García-López", "GARCIA LOPEZ"),
        ("王", "Wang"),
    ],
)
def test_one_name_in_two_ways_of_writing_is_found_and_agrees(a: str, b: str) -> None:
    assert phonetic(fold(a)) == phonetic(fold(b))
    found = score(person(family=a), person(family=b))
    assert found.level("family") in {Level.AGREE, Level.CLOSE}
    assert found.verdict is not Verdict.STRANGER


def test_words_of_a_given_name_may_be_written_together() -> None:
    found = score(person("王", "小明", sex="M"), person("Wang", "Xiao Ming", sex="M"))
    assert found.level("given") is Level.AGREE


def test_a_rare_person_is_automatic_and_a_common_one_is_asked_about() -> None:
    assert score(person(), person()).verdict is Verdict.AUTOMATIC
    common = person("Smith", "John", sex="M")
    found = score(common, common)
    assert (found.verdict, found.level("birth_date")) == (Verdict.DESK, Level.AGREE)


@pytest.mark.parametrize(
    ("known", "asked", "rule"),
    [
        (person(), person(given="Marguerite"), "certain"),  # a twin
        (person(given="Maria"), person(given="Marie"), "certain|name"),
        (person(given="BABY GIRL A"), person(given="BABY GIRL B"), "newborn|little"),
        (person(given="BABY OF ANNA"), person(given="BABY OF ANNA"), "newborn"),
        (person("Doe", "John"), person("Doe", "John"), "placeholder|little"),
        (person("Unknown", "Trauma 7"), person("Unknown", "Trauma 7"), "placeholder|little"),
        (person(born=date(1980, 1, 1)), person(born=date(1980, 1, 1)), "certain|same"),
        (person(born=date(1980, 2, 3)), person(born=date(1980, 3, 2)), "certain|same"),
        (person(), person(family="Ottoline", given="Quillfeather"), "certain|same"),
        (person(), person(sex=""), "certain|same"),
        (person(), person(sex="M"), "certain|sex"),
        (person(), person(born=None), "certain|little"),
    ],
)
def test_demographics_that_may_be_anothers_are_never_automatic(
    known: Patient, asked: Patient, rule: str
) -> None:
    found = score(known, asked)
    assert found.verdict is not Verdict.AUTOMATIC
    assert any(word in found.rule for word in rule.split("|")), found.rule


@pytest.mark.parametrize("value", ["0012345", "12345", " 12345 ", "0-0-1-2345", "00012345"])
def test_a_number_is_the_same_without_zeros_case_and_separators(value: str) -> None:
    found = score(person(number="0012345"), person(number=value))
    assert found.level("identifier") is Level.AGREE
    assert found.verdict is Verdict.AUTOMATIC


@pytest.mark.parametrize(
    ("known", "asked", "rule"),
    [
        (person(), person(born=date(1951, 7, 30)), "birth date"),
        (person(), person(given="Marguerite"), "given name"),
        (person(given="Maria"), person(given="Marie"), "only alike"),
        (person(given="Dani"), person(given="Dany"), "only alike"),
        (person(), person(sex="M"), "another sex"),
        (person(), person("Vandersloot", "Henrik"), "another"),
        (person(), person("Doe", "John"), "placeholder"),
        (person(given="Baby Girl A"), person(), "newborns"),
        (person(born=None, sex=""), person("Vandersloot", "Quillon"), "another"),
    ],
)
def test_the_same_number_and_other_demographics_are_asked_about(
    known: Patient, asked: Patient, rule: str
) -> None:
    numbered = [
        Patient(
            id=p.id,
            identifiers=(Identifier(value="12345", authority="HOSP"),),
            name=p.name,
            birth_date=p.birth_date,
            sex=p.sex,
        )
        for p in (known, asked)
    ]
    found = score(*numbered)
    assert found.verdict is Verdict.DESK
    assert rule in found.rule


def test_the_same_number_holds_through_a_changed_surname_and_a_newborns_naming() -> None:
    maiden, married = person(number="77123"), person(family="Vandersloot", number="77123")
    assert score(maiden, married).verdict is Verdict.AUTOMATIC
    accented = person(given="Jürgen", number="77123")
    assert score(accented, person(given="JURGEN", number="77123")).verdict is Verdict.AUTOMATIC
    unnamed = person(given="Baby Girl", number="77123")
    assert score(unnamed, maiden).verdict is Verdict.AUTOMATIC


def test_the_same_number_of_two_authorities_says_nothing() -> None:
    one = person(number="12345")
    other = person("Vandersloot", "Henrik", born=date(1951, 7, 30), number="12345", authority="X")
    found = score(one, other)
    assert "identifier" not in {e.field for e in found.evidence}
    assert found.verdict is Verdict.STRANGER


def test_the_evidence_tells_level_weight_and_shape_but_not_the_value() -> None:
    found = score(person(number="12345"), person(family="Quillfeathr", number="00-12345"))
    told = {e["field"]: e for e in found.as_json()["evidence"]}
    assert told["family"]["level"] == "close"
    assert told["family"]["shapes"] == ["A" * 12, "A" * 11]
    assert told["identifier"]["shapes"] == ["99999", "99-99999"]
    assert told["birth_date"]["shapes"] == ["9999-99-99", "9999-99-99"]
    total = COMMON.prior + sum(e.weight for e in found.evidence)
    assert found.total == pytest.approx(total)
    for said in (str(found.as_json()), repr(found)):
        assert "uill" not in said
        assert "12345" not in said


def test_identifiers_lose_what_does_not_tell_them_apart() -> None:
    assert [number(v) for v in ("0012", "h1-12", "000", "a b.c/d")] == ["12", "H112", "0", "ABCD"]
    assert [core(v) for v in ("H-0012345-A", "12-3")] == ["12345", ""]


def test_check_digits() -> None:
    assert check_digit("7992739871", "M10") == "3"  # Luhn's own example
    assert check_digit("036532", "M11") == "7"
    for digits, scheme in (("12a", "M10"), ("", "M10"), ("12", "NPI")):
        with pytest.raises(ValueError, match="check digit"):
            check_digit(digits, scheme)


def test_a_surname_doe_is_a_name_unless_it_keeps_bad_company() -> None:
    assert not read_name(PersonName(family="Doe", given="Richard")).unknown
    assert read_name(PersonName(family="Doe", given="Jane")).unknown
    assert read_name(PersonName()).unknown
    assert read_name(PersonName(family="Smith", given="Baby Boy 2")).tag == "2"
    assert read_name(PersonName(family="Smith", given="Baby of Anna")).tag == ""
