"""Interface profiles: declared in a file, found by sender, applied to a message."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hl7.client import MLLPClient
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from models.errors import MissingField, ProfileError
from models.priority import Priority
from services.database.store import Store
from services.hl7.acknowledgement import read_reply
from services.hl7.er7 import Message, parse
from services.hl7.mapping import ORDER, PATIENT, STEP
from services.hl7.profile import (
    STANDARD,
    Format,
    IdentifierRule,
    Place,
    Profile,
    Sender,
    places,
    read_profile,
)
from services.hl7.profiles import SHIPPED, Profiles, load, read_file
from services.hl7.requests import read_orders, read_patient
from services.hl7.standardising import Standard, Standardiser
from services.settings import Settings
from services.workflow.messages import receive_message
from tests.hl7.orders import adt, omi, orm
from tests.hl7.senders import cerner, epic, meditech

HEAD = 'name = "try"\ntitle = "a test"\n'
SENDER = '\n[sender]\napplication = ["EMR"]\n'


def by(text: str, raw: bytes, *, head: str = "") -> Standard:
    """Apply a profile of these tables to a message."""
    declared = read_profile(f"{HEAD}{head}{SENDER}{text}".encode(), file="try.toml", origin="file")
    return Standardiser(declared).standardised(parse(raw), raw)


def shipped(name: str) -> Standardiser:
    return Standardiser(read_file(SHIPPED / f"{name}.toml", "shipped"))


def order(message: Message) -> dict[str, Any]:
    (request,) = read_orders(message)
    return asdict(request) | asdict(request.steps[0])


def refused(text: str) -> str:
    with pytest.raises(ProfileError) as error:
        read_profile(f"{HEAD}{text}".encode(), file="try.toml", origin="file")
    return str(error.value)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# What a profile may do


@pytest.mark.parametrize("raw", [orm(), omi(), adt()], ids=["orm", "omi", "adt"])
def test_a_profile_that_says_nothing_changes_nothing(raw: bytes) -> None:
    said = by("", raw)
    assert said.message == parse(raw)
    assert (said.notes, said.missing) == ((), None)


@pytest.mark.parametrize("raw", [orm(), omi()], ids=["orm", "omi"])
@pytest.mark.parametrize(
    ("place", "sent"),
    [
        ("ZXX-3.1", "ZXX|||NEW1"),
        ("ZXX-3", "ZXX|||NEW1^RIS"),
        ("OBX-5[3.1=ACC]", "OBX|2|ST|ACC^Accession||NEW1"),
        ("ZXX-1.2.3", "ZXX|a^b&c&NEW1"),
    ],
)
def test_an_accession_number_is_read_from_the_place_that_is_configured(
    raw: bytes, place: str, sent: str
) -> None:
    message = by(f'[fields]\naccession = "{place}"', raw + f"{sent}\r".encode()).message
    assert order(message)["accession"] == "NEW1"


def test_every_name_that_can_be_mapped_reaches_what_is_read() -> None:
    values = {
        "patient_name": "ROE^RICHARD", "birth_date": "19010203", "sex": "M",
        "patient_class": "N", "location": "ELSEWHERE", "referring": "1^OTHER^DOC",
        "ambulatory_status": "B6", "admission_id": "NEWV", "control": "XO",
        "placer_number": "NEWP^EMR", "filler_number": "NEWF", "status": "IP",
        "confidentiality": "V", "accession": "NEWA", "requested_procedure_id": "NEWRP",
        "sps_id": "NEWSPS", "study_uid": "1.2.999", "modality": "CT", "station_aet": "NEWAE",
        "start": "20300101", "priority": "A", "procedure": "NEWC^New", "medical_alerts": "New",
        "requesting": "2^NEW^DOC", "transport": "CART", "reason": "New reason",
        "performing": "3&NEW&DOC", "mother_name": "OLD^MOTHER", "address": "1 New Street",
        "language": "de", "visit_reason": "New^Why", "entered_by": "4^NEW^CLERK",
        "department": "New ward", "institution": "New", "station_name": "MR9",
        "step_location": "Cellar", "issued_on": "20300101", "patient_state": "New",
    }  # fmt: skip
    assert values.keys() == STANDARD.keys()

    def read(message: Message) -> tuple[Any, ...]:
        return read_patient(message, "HOSP"), read_orders(message)

    for raw in (orm().replace(b"||||||B6||||", b"||||||||||"), omi().replace(b"|B6|", b"||")):
        for name, value in values.items():
            sent = raw + f"ZXX|{value}\r".encode()
            said = by(f'[fields]\n{name} = "ZXX-1"', sent)
            assert read(said.message) != read(parse(sent)), name
            assert said.notes, name


def test_what_the_sender_keeps_at_a_standard_place_is_not_taken_for_the_value() -> None:
    said = by('[fields]\naccession = "ZXX-1"\nsps_id = []', orm())
    assert order(said.message)["accession"] is None
    assert order(said.message)["sps_id"] is None


def test_an_accession_number_does_not_keep_an_issuer_that_was_anothers() -> None:
    raw = orm().replace(b"|A2026000123|", b"|DEPT^WARD|")
    obr = by('[fields]\naccession = "OBR-3.1"', raw).message.first("OBR")
    assert obr is not None
    assert obr.raw(18) == "F200"
    whole = by('[fields]\naccession = "OBR-3"', raw).message.first("OBR")
    assert whole is not None
    assert whole.raw(18) == "F200^RIS"


def test_of_several_places_the_first_that_has_something_is_read() -> None:
    text = '[fields]\naccession = ["ZXX-1", "OBR-3.1", "OBR-18.1"]'
    assert order(by(text, orm()).message)["accession"] == "F200"


def test_two_places_can_change_with_each_other() -> None:
    text = '[fields]\nrequested_procedure_id = "OBR-20.1"\nsps_id = "OBR-19.1"'
    read = order(by(text, orm()).message)
    assert (read["requested_procedure_id"], read["sps_id"]) == ("SPS1", "RP1")


def test_each_order_of_a_message_has_its_own_value() -> None:
    raw = orm()
    again = raw[raw.index(b"ORC|") :].replace(b"P100", b"P101").replace(b"F200", b"F201")
    requests = read_orders(by('[fields]\naccession = "OBR-3.1"', raw + again).message)
    assert [r.accession for r in requests] == ["F200", "F201"]


def test_values_are_translated_whatever_their_case_and_the_rest_stays() -> None:
    text = '[values.priority]\nstat = "S"\n"*" = "R"\n[values.sex]\nW = "F"'
    assert order(by(text, orm(priority="Stat")).message)["priority"] is Priority.STAT
    assert order(by(text, orm(priority="whenever")).message)["priority"] is Priority.ROUTINE
    assert read_patient(by(text, orm()).message, "").sex == "F"
    assert by(text, orm(priority='""')).message.first("ORC").get(7, 6) == '""'  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("how", "written"),
    [
        ("strip_zeros = true", "12345"),
        ("pad_to = 10", "0000012345"),
        ('remove_prefix = "00"\npad_to = 6', "012345"),
        ("drop_check_digit = true", "001234"),
        ('remove = "14"', "00235"),
        ('prefix = "ab-"', "ab-0012345"),
        ('prefix = "ab-"\nupper = true', "ab-0012345"),
        ('prefix = "00"', "0012345"),
        ('append_check_digit = "M10"', "00123455"),
        ('append_check_digit = "M11"', "00123455"),
        ('prefix = "X"\nappend_check_digit = "M10"', "X00123455"),
    ],
)
def test_a_medical_record_number_is_written_as_it_is_wanted(how: str, written: str) -> None:
    said = by(f"[[identifiers]]\n{how}", orm())
    assert read_patient(said.message, "").identifiers[0].value == written
    merge = by(f"[[identifiers]]\n{how}", adt(event="A40", mrg="0012345"))
    assert merge.message.first("MRG").get(1) == written  # type: ignore[union-attr]


def test_an_identifier_is_chosen_by_type_authority_and_length() -> None:
    raw = orm().replace(
        b"0012345^^^HOSP&1.2.3.4&ISO^MR", b"0012345^^^^MRN~777^^^EPI^EPI~123-45-6789^^^SSA^SS~55"
    )
    text = """
[[identifiers]]
authorities = ["SSA"]
discard = true
[[identifiers]]
types = ["MRN"]
authority = "NORTH"
type = "MR"
[[identifiers]]
types = [""]
length = 2
authority = "OLD"
"""
    read = read_patient(by(text, raw).message, "HOSP").identifiers
    assert [(i.value, i.authority, i.type) for i in read] == [
        ("0012345", "NORTH", "MR"), ("777", "EPI", "EPI"), ("55", "OLD", "MR"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pid3", "authority"),
    [
        ("7^^^OLD&1.2.3&ISO^MR", "NEW&1.2.3&ISO"),
        ("7^^^&1.2.3&ISO^MR", "NEW&1.2.3&ISO"),
        ("7^^^OLD", "NEW"),
        ("7^^^OTHER&1.2.3&ISO^MR", "OTHER&1.2.3&ISO"),
        ("7", ""),
    ],
)
def test_an_authority_is_replaced_by_its_name_or_its_universal_id(
    pid3: str, authority: str
) -> None:
    text = '[[identifiers]]\nauthorities = ["OLD", "1.2.3"]\nreplace_authority = "NEW"'
    said = by(text, orm().replace(b"0012345^^^HOSP&1.2.3.4&ISO^MR", pid3.encode()))
    assert f"{said.message.first('PID').raw(3)}^^^^".split("^")[3] == authority  # type: ignore[union-attr]


def test_a_check_digit_is_put_to_digits_only() -> None:
    said = by('[[identifiers]]\nappend_check_digit = "M10"', orm(pid="AB12"))
    assert read_patient(said.message, "").identifiers[0].value == "AB12"


@given(st.text("0123456789", min_size=1, max_size=12))
def test_zeros_that_were_taken_off_can_be_put_back(number: str) -> None:
    raw = orm(pid=number)
    text = f"[[identifiers]]\nstrip_zeros = true\npad_to = {len(number)}"
    assert read_patient(by(text, raw).message, "").identifiers[0].value == number


def test_a_constant_is_put_into_a_new_order_that_says_nothing() -> None:
    text = '[constants]\nmodality = "MR"\npriority = "R"'
    silent = orm(priority="").replace(b"||||MR|||", b"|||||||")
    read = order(by(text, silent).message)
    assert (read["modality"], read["priority"]) == ("MR", Priority.ROUTINE)
    assert order(by(text, orm()).message)["priority"] is Priority.STAT
    # A change that is silent about the priority must not lower it.
    assert order(by(text, silent.replace(b"ORC|NW", b"ORC|XO")).message)["priority"] is None


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ('required = ["accession"]', "OBR^1^18"),
        ('required = ["accession"]\n[fields]\naccession = "ZXX-3.2"', "ZXX^1^3^1^2"),
        ('required = ["start"]', "ORC^1^7^1^4"),
        ('required = ["PV1-50.1"]', "PV1^1^50"),
    ],
)
def test_a_required_place_that_is_empty_is_named(text: str, location: str) -> None:
    head, _, tables = text.partition("\n")
    said = by(tables, orm(accession="", start=""), head=head + "\n")
    with pytest.raises(MissingField) as error:
        said.require()
    assert error.value.location == location
    by(tables, orm(accession="", start="", control="CA"), head=head + "\n").require()


def test_what_no_modality_serves_is_not_refused_for_what_imaging_needs() -> None:
    raw = orm(accession="").replace(b"||||MR|||", b"||||LAB|||")
    by("", raw, head='required = ["accession"]\n').require()


def test_bytes_are_read_in_the_character_set_that_they_are_in() -> None:
    raw = orm(family="MÜLLER").decode().encode("iso8859_2").replace(b"UNICODE UTF-8", b"8859/7")
    name = read_patient(by("", raw, head='charset = "8859/2"\n').message, "").name
    assert name is not None
    assert name.family == "MÜLLER"
    wrong = read_patient(parse(raw), "").name
    assert wrong is not None
    assert wrong.family != "MÜLLER"


@pytest.mark.parametrize(
    ("local", "sent"),
    [
        ("20260115090000", "20260115090000-0600"),
        ("20260715090000", "20260715090000-0500"),
        ("202607150900", "202607150900-0500"),
        ("20260308023000", "20260308023000-0600"),  # skipped in spring: as if not yet changed
        ("20261101013000", "20261101013000-0500"),  # shown twice in autumn: the first
        ("20260715090000+0200", "20260715090000+0200"),
        ("20261315", "20261315"),
    ],
)
def test_a_local_time_is_given_its_zone(local: str, sent: str) -> None:
    said = by("", orm(start=local), head='time_zone = "America/Chicago"\n')
    assert said.message.first("ORC").get(7, 4) == sent  # type: ignore[union-attr]


def test_a_segment_can_be_ignored() -> None:
    said = by("", orm(), head='ignore = ["AL1", "ZDS"]\n')
    read = order(said.message)
    assert (read["allergies"], read["study_uid"]) == (None, None)


def test_the_message_that_was_given_stays_as_it_is() -> None:
    message = parse(orm())
    Standardiser(
        read_profile(
            f'{HEAD}{SENDER}[fields]\naccession = "OBR-3.1"'.encode(), file="", origin="file"
        )
    ).standardised(message, orm())
    assert message == parse(orm())


@given(st.binary(max_size=300))
def test_no_message_makes_a_shipped_profile_fail(tail: bytes) -> None:
    raw = b"MSH|^~\\&|EPIC|H|||20260301||ORM^O01|1|P|2.3\r" + tail
    for name in ("ihe", "epic", "cerner", "meditech"):
        shipped(name).standardised(parse(raw), raw)


# What a file may say


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[sender]\naplication = ['X']", ["line 4: sender.aplication: no such key", "facility"]),
        (f"{SENDER}[fields]\naccesion = 'OBR-3'", ["line 7", "fields.accesion", "study_uid"]),
        (f"{SENDER}[fields]\naccession = 'OBR3'", ["line 7", "'OBR3' is no place"]),
        (f"{SENDER}[fields]\n'MSH-2' = 'OBR-3'", ["line 7", "delimiters"]),
        (f"{SENDER}[values.sex]\nW = 'F|X'", ["line 7", "values.sex.W", "delimiter"]),
        (f"time_zone = 'Berlin'{SENDER}", ["line 3: time_zone", "Europe/Berlin"]),
        (f"charset = 'latin1'{SENDER}", ["line 3: charset", "8859/1"]),
        (f"ignore = ['PID']{SENDER}", ["line 3: ignore", "cannot be ignored"]),
        (f"{SENDER}[[identifiers]]\npad = 3", ["line 7: identifiers.pad", "pad_to"]),
        (f"{SENDER}[fields]\naccession = 'OBR-3'\n'OBR-18.1' = 'OBR-4'", ["OBR-18.1 twice"]),
        ("[sender]\napplication = ['A*B']", ["line 4: sender.application", "must match"]),
        ("[sender\n", ["try.toml: ", "line 3"]),
        ("", ["sender: Field required"]),
    ],
)
def test_a_wrong_file_is_told_where_and_what_is_allowed(text: str, words: list[str]) -> None:
    said = refused(text)
    assert said.startswith("try.toml")
    for word in words:
        assert word in said, said


def test_a_file_that_is_no_text_is_told() -> None:
    with pytest.raises(ProfileError, match="byte 0 is not UTF-8"):
        read_profile(b"\xff", file="x.toml", origin="file")


@pytest.mark.parametrize("text", ["OBR-3", "PID-3.1", "OBR-34.1.2", "OBX-5.1[3.1=ACC]"])
def test_a_place_is_written_as_it_is_read(text: str) -> None:
    assert str(Place.read(text)) == text


# Which profile is in force


def put(directory: Path, name: str, text: str = "", sender: str = SENDER) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / f"{name}.toml"
    path.write_text(f'name = "{name}"\ntitle = "t"\n{sender}{text}')
    return path


def test_without_a_profile_a_message_goes_through_unchanged(tmp_path: Path) -> None:
    message = parse(orm())
    said = Profiles(tmp_path / "nowhere").standardised(message, orm())
    assert said.message is message
    assert said.evidence == {}


def test_a_profile_is_for_its_sender_only(tmp_path: Path) -> None:
    put(tmp_path, "one", '[fields]\naccession = "OBR-3.1"')
    profiles = Profiles(tmp_path)
    assert profiles.standardised(parse(orm()), orm()).profile == "one"
    other = orm().replace(b"|EMR|HOSP|", b"|RIS|HOSP|")
    assert profiles.standardised(parse(other), other).profile == ""


def test_an_own_profile_takes_the_place_of_a_shipped_one(tmp_path: Path) -> None:
    assert not load(tmp_path)["epic"].profile.active
    put(tmp_path, "epic")
    known = load(tmp_path)
    assert (known["epic"].origin, known["epic"].profile.active) == ("installed", True)


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ('application = ["EMR"]', 'application = ["EM*"]', True),
        ('application = ["A*"]', 'application = ["AB*"]', True),
        ('application = ["A"]\nversions = ["2.3"]', 'application = ["A"]', True),
        (
            'application = ["A"]\nversions = ["2.3"]',
            'application = ["A"]\nversions = ["2.4"]',
            False,
        ),
        ('application = ["A"]\nfacility = ["N"]', 'application = ["A"]\nfacility = ["S"]', False),
        ('application = ["A"]', 'application = ["B", "C*"]', False),
    ],
)
def test_two_profiles_for_one_sender_are_refused(
    tmp_path: Path, one: str, other: str, meet: bool
) -> None:
    put(tmp_path, "one", sender=f"[sender]\n{one}\n")
    put(tmp_path, "other", sender=f"[sender]\n{other}\n")
    if not meet:
        assert {"one", "other"} <= load(tmp_path).keys()
        return
    with pytest.raises(ProfileError, match=r"other\.toml: sender: .*one\.toml"):
        Profiles(tmp_path)


def test_a_file_is_called_as_its_profile(tmp_path: Path) -> None:
    put(tmp_path, "one").rename(tmp_path / "two.toml")
    with pytest.raises(ProfileError, match=r"'one'.*'two'"):
        load(tmp_path)


def test_a_changed_file_is_in_force_a_second_later(tmp_path: Path) -> None:
    clock = Clock()
    profiles = Profiles(tmp_path, clock=clock)

    def accession() -> Any:
        return order(profiles.standardised(parse(orm()), orm()).message)["accession"]

    assert accession() == "A2026000123"
    put(tmp_path, "one", '[fields]\naccession = "OBR-3.1"')
    assert accession() == "A2026000123"  # not looked at yet
    clock.now += 1.0
    assert accession() == "F200"
    put(tmp_path, "one", '[fields]\naccession = "OBR-20.1"')
    clock.now += 1.0
    assert accession() == "SPS1"
    (tmp_path / "one.toml").unlink()
    clock.now += 1.0
    assert accession() == "A2026000123"


def test_a_wrong_edit_keeps_the_last_good_profile_and_says_so(tmp_path: Path) -> None:
    clock = Clock()
    path = put(tmp_path, "one", '[fields]\naccession = "OBR-3.1"')
    profiles = Profiles(tmp_path, clock=clock)
    path.write_text(path.read_text() + "\nacession = 1\n")
    clock.now += 1.0
    with capture_logs() as logs:
        said = profiles.standardised(parse(orm()), orm())
        clock.now += 1.0
        profiles.standardised(parse(orm()), orm())
    assert order(said.message)["accession"] == "F200"
    (entry,) = logs  # once an edit, not once a second
    assert entry["event"] == "hl7.profiles_refused"
    assert "one.toml, line 8: fields.acession" in entry["reason"]
    with pytest.raises(ProfileError):
        Profiles(tmp_path)


def test_a_wrong_edit_does_not_keep_the_listener_from_starting_anew(tmp_path: Path) -> None:
    directory, good = tmp_path / "profiles", tmp_path / "home" / "good.json"
    path = put(directory, "one", '[fields]\naccession = "OBR-3.1"')
    right = path.read_text()
    path.write_text("name = 1")
    with pytest.raises(ProfileError, match=r"one\.toml, line 1: name"):
        Profiles(directory, good=good)  # it was never right
    path.write_text(right)
    digest = Profiles(directory, good=good).standardised(parse(orm()), orm()).digest
    path.write_text(right + "\nacession = 1")
    clock = Clock()
    with capture_logs() as logs:
        profiles = Profiles(directory, good=good, clock=clock)
    assert [entry["event"] for entry in logs] == ["hl7.profiles_refused"]
    said = profiles.standardised(parse(orm()), orm())
    assert (order(said.message)["accession"], said.digest) == ("F200", digest)
    # Corrected, it is in force at once and is what is kept.
    path.write_text(right.replace("OBR-3.1", "OBR-20.1"))
    clock.now += 1.0
    assert order(profiles.standardised(parse(orm()), orm()).message)["accession"] == "SPS1"
    path.write_text("name = 1")
    again = Profiles(directory, good=good).standardised(parse(orm()), orm())
    assert order(again.message)["accession"] == "SPS1"


# The whole way


@pytest.fixture
def profiles(tmp_path: Path) -> Profiles:
    for name in ("epic", "cerner", "meditech"):
        text = (SHIPPED / f"{name}.toml").read_text().replace("active = false", "active = true")
        (tmp_path / f"{name}.toml").write_text(text)
    return Profiles(tmp_path)


WORKLIST = (
    *("patient_family", "patient_given", "patient_birth_date", "patient_sex"),
    *("imaging_order_procedure_code", "imaging_order_procedure_meaning", "imaging_order_priority"),
    *("imaging_order_reason", "imaging_order_patient_class", "imaging_order_admission_id"),
    *("scheduled_step_start_at", "scheduled_step_modality", "scheduled_step_station_aet"),
)


@pytest.mark.parametrize(
    ("raw", "name", "accession"),
    [
        (epic(), "epic", "A2026000123"),
        (cerner(), "cerner", "2026060000123"),
        (meditech(), "meditech", "A2026000123"),
    ],
    ids=["epic", "cerner", "meditech"],
)
def test_a_feed_in_a_vendors_style_gives_the_worklist_item_of_the_ihe_message(
    store: Store, settings: Settings, profiles: Profiles, raw: bytes, name: str, accession: str
) -> None:
    def item(message: bytes, rewriting: Profiles | None) -> tuple[dict[str, Any], dict[str, Any]]:
        answered = receive_message(
            store, message, peer="test", settings=settings, profiles=rewriting
        )
        assert answered.code == "AA"
        with store() as uow:
            (row,) = uow.orders.worklist()
            study = uow.studies.find(row.imaging_order_study_uid)
            assert study is not None
            identifiers = uow.patients.identifiers([row.patient_id])[row.patient_id]
            evidence = next(iter(uow.timeline.of_study(study.id))).evidence
        values = {key: row._mapping[key] for key in WORKLIST}
        values["identifier"] = [(i.value, i.type) for i in identifiers if i.type == "MR"]
        return values, {"accession": row.imaging_order_accession} | evidence

    asked, _ = item(orm(), None)
    clear(store)
    without, plain = item(raw.replace(b"000002026060000123", b"2026060000123"), None)
    assert without != asked, "the sample is read without its profile already"
    assert plain["accession"] != accession
    clear(store)
    read, evidence = item(raw, profiles)
    assert read == asked
    assert (evidence["accession"], evidence["profile"]) == (accession, name)
    assert len(evidence["profile_digest"]) == 16


def clear(store: Store) -> None:
    from sqlalchemy import text

    from services.database.tables import metadata

    with store.engine.begin() as connection:
        tables = ", ".join(f'"{name}"' for name in metadata.tables)
        connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))


def test_an_order_without_what_its_profile_requires_is_refused_at_the_place(
    store: Store, settings: Settings, profiles: Profiles
) -> None:
    answered = receive_message(
        store, epic(accession=""), peer="test", settings=settings, profiles=profiles
    )
    assert answered.code == "AE"
    assert b"OBR^1^3^101&Required field missing&HL70357" in (answered.acknowledgement or b"")
    with store() as uow:
        assert uow.orders.worklist() == []


def test_a_wrong_value_is_told_at_the_place_where_its_sender_has_it(
    store: Store, settings: Settings, profiles: Profiles
) -> None:
    for raw, place in (
        (epic(accession="A" * 17), b"OBR^1^3^104&"),
        (meditech().replace(b"202603010900", b"tomorrow"), b"OBR^1^7^102&"),
    ):
        answered = receive_message(store, raw, peer="test", settings=settings, profiles=profiles)
        assert place in (answered.acknowledgement or b"")


def test_the_shipped_profiles_say_that_they_are_starting_points() -> None:
    known = load(Path("/nowhere"))
    assert known.keys() == {"ihe", "epic", "cerner", "meditech"}
    for declared in known.values():
        assert not declared.profile.active
        assert "starting point: every installation differs" in declared.profile.vendor
        assert declared.profile.sources


def test_the_ihe_messages_pass_their_profile_unchanged() -> None:
    for raw in (orm(), omi()):
        said = shipped("ihe").standardised(parse(raw), raw)
        assert (said.message, said.notes, said.missing) == (parse(raw), (), None)


def test_everything_that_a_profile_may_say_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "connect-your-emr.md").read_text(encoding="utf-8")
    keys = {
        *Profile.model_fields, *Sender.model_fields, *Format.model_fields,
        *IdentifierRule.model_fields, *STANDARD,
    }  # fmt: skip
    tables = {
        "sender": "[sender]",
        "values": "[values.NAME]",
        "format": "[format.NAME]",
        "identifiers": "[[identifiers]]",
        "fields": "[fields]",
        "constants": "[constants]",
    }
    assert sorted(k for k in keys if f"`{tables.get(k, k)}`" not in page) == []


def test_a_profile_is_put_in_force_while_messages_come(
    port: int, store: Store, settings: Settings
) -> None:
    with MLLPClient("127.0.0.1", port) as client:

        def accession(number: int) -> str:
            uid = f"1.2.3.{number}"
            message = orm(control_id=f"N{number}", placer=f"Q{number}", accession="", uid=uid)
            answer = client.send_message(message.replace(b"F200", b"FILLER" + str(number).encode()))
            assert read_reply(answer.strip(b"\x0b\x1c\r")).code == "AA"
            with store() as uow:
                study = uow.studies.find(uid)
                assert study is not None
                return study.accession

        assert not accession(1).startswith("FILLER")
        put(settings.profile_root, "one", '[fields]\naccession = "OBR-3.1"')
        deadline = time.monotonic() + 10
        number = 2
        while accession(number) != f"FILLER{number}":
            assert time.monotonic() < deadline
            number += 1
            time.sleep(0.1)


def test_whatever_is_read_can_be_mapped() -> None:
    by_name = {(p.segment, p.field) for name in STANDARD for p in places(name)}
    read = {(p.segment, p.number) for row in (*PATIENT, *ORDER, *STEP) for p in row.places}
    # The code of the protocol stands beside its procedure's, as a place: "IPC-6", "OBR-4.4".
    assert read - by_name == {("IPC", 6)}
