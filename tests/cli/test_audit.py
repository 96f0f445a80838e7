"""``spinecho audit identifiers``: each fault planted in a feed of invented people, and none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.database.store import Store
from services.hl7.er7 import parse
from services.hl7.profile import read_profile
from services.hl7.standardising import Standardiser
from services.identity.normalise import check_digit
from services.settings import Settings
from services.simulators.population import Person
from services.workflow.messages import receive_message
from tests.cli.conftest import Terminal
from tests.identity.feeds import (
    OID,
    image,
    number,
    order,
    people,
    write_feed,
    write_images,
    write_tar,
)

CORPORA = Path(__file__).parents[3] / "shared" / "corpora"
PEOPLE = people(40)


def audited(terminal: Terminal, *arguments: str | Path) -> dict[str, Any]:
    result = terminal.run("audit", "identifiers", *arguments, "--json")
    said: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == (0 if said["clean"] else 1), result.output
    return said


def kinds(said: dict[str, Any], *, fault: bool = True) -> dict[str, int]:
    return {f["kind"]: f["count"] for f in said["findings"] if f["fault"] is fault}


def one(said: dict[str, Any], kind: str) -> dict[str, Any]:
    (found,) = [f for f in said["findings"] if f["kind"] == kind]
    return dict(found)


def clean_feed(people: list[Person] = PEOPLE) -> list[bytes]:
    return [order(person, at) for at, person in enumerate(people)]


def test_a_clean_feed_and_its_images_need_no_attention(terminal: Terminal, tmp_path: Path) -> None:
    feed = write_feed(tmp_path / "feed.hl7", clean_feed())
    images = write_images(tmp_path / "images", [image(p, at) for at, p in enumerate(PEOPLE)])
    said = audited(terminal, feed, images)
    assert (said["clean"], said["findings"], said["messages"], said["objects"]) == (
        True,
        [],
        40,
        40,
    )
    sent, shown = said["authorities"]
    assert (sent["side"], sent["authority"], sent["universal_id"]) == ("feed", "HOSP", OID)
    assert (sent["identifiers"], sent["patients"], sent["leading_zeros"]) == (40, 40, 1)
    assert [(f["pattern"], f["share"]) for f in shown["formats"]] == [("9{8}", 1)]
    assert terminal.run("audit", "identifiers", feed, images).exit_code == 0


@pytest.mark.parametrize("framed", [False, True])
def test_every_way_of_keeping_a_feed_is_read(
    terminal: Terminal, tmp_path: Path, framed: bool
) -> None:
    umlaut = replace(PEOPLE[0], family="Größwein")
    chinese = replace(PEOPLE[1], family="王", given="小明")
    odd = [order(umlaut, 0, charset="8859/1"), order(chinese, 1, charset="GB 18030-2000")]
    write_feed(tmp_path / "in" / "feed", [*odd, *clean_feed()[2:]], framed=framed)
    for at, message in enumerate(clean_feed(PEOPLE[:2])):
        # The same people in Unicode: a wrong character set would make others of them.
        person = (umlaut, chinese)[at]
        assert message != order(person, at)
        write_feed(tmp_path / "in" / "more" / f"{at}.txt", [order(person, at)], framed=framed)
    assert audited(terminal, tmp_path / "in")["messages"] == 42
    assert audited(terminal, tmp_path / "in")["clean"]


def test_a_batch_with_line_feeds_is_split(terminal: Terminal, tmp_path: Path) -> None:
    messages = b"".join(clean_feed()).replace(b"\r", b"\r\n")
    batch = b"FHS|^~\\&|EMR\r\nBHS|^~\\&|EMR\r\n" + messages + b"BTS|40\r\nFTS|1\r\n"
    (tmp_path / "batch.hl7").write_bytes(batch)
    said = audited(terminal, tmp_path / "batch.hl7")
    assert (said["messages"], said["clean"]) == (40, True)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_an_archive_is_read_as_it_lies(terminal: Terminal, tmp_path: Path, mode: str) -> None:
    images = write_tar(tmp_path / "images.tar", [image(p, a) for a, p in enumerate(PEOPLE)], mode)
    said = audited(terminal, images)
    assert (said["objects"], said["clean"]) == (40, True)


def test_what_is_broken_is_named_and_the_others_are_read(
    terminal: Terminal, tmp_path: Path
) -> None:
    write_images(tmp_path / "disk", [image(PEOPLE[0], 0), image(PEOPLE[1], 1)])
    (tmp_path / "disk" / "0001.dcm").write_bytes(image(PEOPLE[1], 1)[:400])
    bad = order(PEOPLE[2], 2).replace(b"MSH|^~\\&", b"MSH|||||")
    write_feed(tmp_path / "disk" / "feed.hl7", [*clean_feed(PEOPLE[:2]), bad])
    write_tar(tmp_path / "disk" / "whole.tar", [image(PEOPLE[0], 0)] * 9, "w:gz")
    cut = (tmp_path / "disk" / "whole.tar").read_bytes()
    (tmp_path / "disk" / "cut.tar").write_bytes(cut[: len(cut) // 2])
    (tmp_path / "disk" / "README").write_text("nothing of the kind")
    said = audited(terminal, tmp_path / "disk")
    assert (said["clean"], said["messages"], said["broken"]["count"]) == (False, 2, 3), said
    told = " ".join(b["where"] for b in said["broken"]["first"])
    assert all(name in told for name in ("0001.dcm", "feed.hl7#3", "cut.tar"))
    assert [s["where"].rsplit("/")[-1] for s in said["skipped"]["first"]] == ["README"]


def test_nothing_to_read_is_not_clean(terminal: Terminal, tmp_path: Path) -> None:
    assert not audited(terminal, tmp_path)["clean"]
    assert terminal.run("audit", "identifiers").exit_code == 2
    assert terminal.run("audit", "identifiers", "--recorded").exit_code == 2
    assert terminal.run("audit", "identifiers", tmp_path, "--since", "2026-01-01").exit_code == 2


PLANTED: dict[str, Callable[[], list[bytes]]] = {
    "overlay": lambda: [order(replace(PEOPLE[7], identifiers=PEOPLE[3].identifiers), 90)],
    "duplicate": lambda: [order(PEOPLE[3], 90, pid3="77777777^^^HOSP^MR")],
    "authority": lambda: [order(PEOPLE[3], 90, pid3=f"{number(PEOPLE[3])}^^^HOSPITAL^MR")],
    "study-patients": lambda: [order(PEOPLE[3], 90, uid="2.25.1007")],
    "accession-patients": lambda: [order(PEOPLE[3], 90, accession="A2026000007")],
    "accession-studies": lambda: [order(PEOPLE[7], 90, accession="A2026000007")],
    "long-accession": lambda: [order(PEOPLE[3], 90, accession="0" * 6 + "A2026000090")],
    "long-number": lambda: [order(PEOPLE[3], 90, pid3=f"{'7' * 65}^^^OTHER^MR")],
    "check-digit": lambda: [order(PEOPLE[3], 90, pid3="7777777^3^M10^OTHER^MR")],
}
BESIDE = {"accession-patients": {"accession-studies"}}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_collision_is_found_alone(terminal: Terminal, tmp_path: Path, kind: str) -> None:
    feed = write_feed(tmp_path / "feed.hl7", [*clean_feed(), *PLANTED[kind]()])
    said = audited(terminal, feed)
    assert kinds(said) == dict.fromkeys({kind, *BESIDE.get(kind, set())}, 1)
    where = one(said, kind)["examples"][0]["where"]
    assert f"{feed}#41" in where or kind == "accession-studies"


def test_numbers_that_a_merge_joins_are_one_persons(terminal: Terminal, tmp_path: Path) -> None:
    twice = order(PEOPLE[3], 90, pid3="77777777^^^HOSP^MR")
    merge = order(PEOPLE[3], 91, type_="ADT^A40", mrg="77777777^^^HOSP^MR")
    said = audited(terminal, write_feed(tmp_path / "feed", [*clean_feed(), twice, merge]))
    assert said["clean"]
    assert (said["authorities"][0]["identifiers"], said["authorities"][0]["patients"]) == (41, 40)


def test_a_maiden_name_is_no_other_person(terminal: Terminal, tmp_path: Path) -> None:
    married = replace(PEOPLE[3], family="Quilfeather", sex="F")
    maiden = replace(PEOPLE[3], sex="F")
    feed = [*clean_feed(PEOPLE[:3]), order(maiden, 3), order(married, 90)]
    assert audited(terminal, write_feed(tmp_path / "feed", feed))["clean"]


def test_one_number_of_two_authorities_is_told_and_harmless(
    terminal: Terminal, tmp_path: Path
) -> None:
    other = order(PEOPLE[3], 90, pid3=f"{number(PEOPLE[7])}^^^CLINIC^MR")
    said = audited(terminal, write_feed(tmp_path / "feed", [*clean_feed(PEOPLE[5:]), other]))
    assert (said["clean"], kinds(said, fault=False)) == (True, {"shared-number": 1})


REWRITTEN: dict[str, tuple[Callable[[str], str], str]] = {
    "leading zeros": (lambda n: n.lstrip("0"), "strip_zeros = true"),
    "leading zeros ": (lambda n: f"00{n}", "pad_to = 10"),
    "prefix": (lambda n: f"H1-{n}", 'prefix = "H1-"'),
    "check digit": (lambda n: n + check_digit(n, "M10"), 'append_check_digit = "M10"'),
}


@pytest.mark.parametrize("difference", REWRITTEN)
def test_a_rule_that_makes_the_numbers_agree_is_found_and_tried(
    terminal: Terminal, tmp_path: Path, difference: str
) -> None:
    write, line = REWRITTEN[difference]
    feed = write_feed(tmp_path / "feed", clean_feed())
    shown = [image(p, at, patient_id=write(number(p))) for at, p in enumerate(PEOPLE)]
    said = audited(terminal, feed, write_images(tmp_path / "images", shown))
    assert kinds(said) == {"number": 40}
    assert one(said, "number")["what"].endswith(difference.strip())
    rule = one(said, "number")["rule"]
    assert (rule["gone"], rule["of"], rule["broken"]) == (40, 40, 0)
    assert line in rule["toml"]
    # Pasted into a profile, it makes the same audit clean.
    assert audited(terminal, feed, tmp_path / "images", "--profile", pasted(tmp_path, rule))[
        "clean"
    ]


def pasted(directory: Path, *rules: dict[str, Any]) -> Path:
    path = directory / "north.toml"
    head = 'name = "north"\ntitle = "north"\n[sender]\napplication = ["EMR"]\n'
    path.write_text(head + "".join(rule["toml"] for rule in rules))
    read_profile(path.read_bytes(), file="north.toml", origin="file")
    return path


@pytest.mark.parametrize(
    ("sent", "shown", "line"),
    [
        ("{0}-{1}", "{0}{1}", 'remove = "-"'),
        ("H1-{0}{1}", "{0}{1}", 'remove_prefix = "H1-"'),
        ("ab{0}{1}", "AB{0}{1}", "upper = true"),
    ],
)
def test_what_the_feed_has_more_is_taken_away(
    terminal: Terminal, tmp_path: Path, sent: str, shown: str, line: str
) -> None:
    def said_as(how: str, person: Person) -> str:
        return how.format(number(person)[:4], number(person)[4:])

    feed = [order(p, at, pid3=f"{said_as(sent, p)}^^^HOSP^MR") for at, p in enumerate(PEOPLE)]
    images = [image(p, at, patient_id=said_as(shown, p)) for at, p in enumerate(PEOPLE)]
    write_feed(tmp_path / "in" / "feed", feed)
    write_images(tmp_path / "in" / "images", images)
    said = audited(terminal, tmp_path / "in")
    rule = one(said, "number")["rule"]
    assert (rule["gone"], rule["of"], line in rule["toml"]) == (40, 40, True)
    assert audited(terminal, tmp_path / "in", "--profile", pasted(tmp_path, rule))["clean"]


@pytest.mark.parametrize(
    ("pid3", "issuer", "differs", "line"),
    [
        (
            f"{{}}^^^HOSP&{OID}&ISO^MR",
            "HOSPITAL",
            "called otherwise",
            'replace_authority = "HOSPITAL"',
        ),
        (f"{{}}^^^&{OID}&ISO^MR", "HOSP", "universal id", 'replace_authority = "HOSP"'),
        (f"{{}}^^^HOSP&{OID}&ISO^MR", OID, "universal id", f'replace_authority = "{OID}"'),
        ("{}^^^^MR", "NORTH", "no authority in the feed", 'authority = "NORTH"'),
    ],
)
def test_an_authority_under_two_names_is_found_and_renamed(
    terminal: Terminal, tmp_path: Path, pid3: str, issuer: str, differs: str, line: str
) -> None:
    feed = [order(p, at, pid3=pid3.format(number(p))) for at, p in enumerate(PEOPLE)]
    universal = OID if issuer == "HOSP" else ""
    images = [image(p, at, issuer=issuer, universal=universal) for at, p in enumerate(PEOPLE)]
    write_feed(tmp_path / "in" / "feed", feed)
    write_images(tmp_path / "in" / "images", images)
    said = audited(terminal, tmp_path / "in")
    rule = one(said, "number")["rule"]
    assert differs in one(said, "number")["what"]
    assert (rule["gone"], rule["of"], line in rule["toml"]) == (40, 40, True)
    assert audited(terminal, tmp_path / "in", "--profile", pasted(tmp_path, rule))["clean"]


def test_images_without_issuer_are_told_and_harmless(terminal: Terminal, tmp_path: Path) -> None:
    feed = write_feed(tmp_path / "feed", clean_feed())
    images = write_images(
        tmp_path / "images", [image(p, at, issuer="") for at, p in enumerate(PEOPLE)]
    )
    said = audited(terminal, feed, images)
    assert said["clean"]
    assert "no issuer in the images" in one(said, "number")["what"]


def test_a_rule_that_settles_some_says_how_many(terminal: Terminal, tmp_path: Path) -> None:
    feed = write_feed(tmp_path / "feed", clean_feed())
    shown = [
        image(p, at, patient_id=number(p) if at < 5 else number(p).lstrip("0"))
        for at, p in enumerate(PEOPLE)
    ]
    said = audited(terminal, feed, write_images(tmp_path / "images", shown))
    rule = one(said, "number")["rule"]
    assert (rule["gone"], rule["of"], rule["broken"]) == (35, 35, 5)


def test_images_of_another_person_under_an_order_are_found(
    terminal: Terminal, tmp_path: Path
) -> None:
    feed = write_feed(tmp_path / "feed", clean_feed())
    wrong = image(PEOPLE[9], 8, patient_id="55555")
    said = audited(terminal, feed, write_images(tmp_path / "images", [wrong]))
    assert kinds(said) == {"other-patient": 1}


def test_accession_numbers_are_compared_by_study(terminal: Terminal, tmp_path: Path) -> None:
    feed = [order(p, at, accession=f"00{at:06d}") for at, p in enumerate(PEOPLE)]
    images = [image(p, at, accession=f"RAD{at:06d}") for at, p in enumerate(PEOPLE)]
    write_feed(tmp_path / "in" / "feed", feed)
    write_images(tmp_path / "in" / "images", images)
    said = audited(terminal, tmp_path / "in")
    rule = one(said, "accession")["rule"]
    assert (kinds(said)["accession"], rule["gone"]) == (40, 40)
    assert rule["toml"].startswith("[format.accession]")
    assert audited(terminal, tmp_path / "in", "--profile", pasted(tmp_path, rule))["clean"]


def test_the_check_digit_that_holds_for_all_is_named(terminal: Terminal, tmp_path: Path) -> None:
    for scheme in ("M10", "M11"):
        numbers = [number(p) + check_digit(number(p), scheme) for p in PEOPLE]
        feed = [
            order(p, at, pid3=f"{n}^^^HOSP^MR")
            for at, (p, n) in enumerate(zip(PEOPLE, numbers, strict=True))
        ]
        said = audited(terminal, write_feed(tmp_path / scheme, feed))
        assert said["authorities"][0]["check_digit"] == scheme
    assert (
        audited(terminal, write_feed(tmp_path / "none", clean_feed()))["authorities"][0][
            "check_digit"
        ]
        is None
    )


def test_a_number_that_fails_what_all_others_hold_is_told_and_refused(
    terminal: Terminal, tmp_path: Path
) -> None:
    right = [number(p) + check_digit(number(p), "M10") for p in PEOPLE]
    wrong = right[3][:-1] + str((int(right[3][-1]) + 1) % 10)
    sent = [*right[:3], wrong, *right[4:]]
    feed = [order(p, at, pid3=f"{sent[at]}^^^HOSP^MR") for at, p in enumerate(PEOPLE)]
    said = audited(terminal, write_feed(tmp_path / "feed", feed))
    assert kinds(said) == {"mistyped": 1}
    found = one(said, "mistyped")
    assert found["examples"][0]["where"] == [f"{tmp_path / 'feed'}#4"]
    declared = read_profile(
        pasted(tmp_path, found["rule"]).read_bytes(), file="north.toml", origin="file"
    )
    refused = [bool(Standardiser(declared).standardised(parse(raw), raw).doubts) for raw in feed]
    assert [at for at, one in enumerate(refused) if one] == [3]


def test_nobody_is_named_unless_asked_for(terminal: Terminal, tmp_path: Path) -> None:
    planted = [message for make in PLANTED.values() for message in make()]
    feed = write_feed(tmp_path / "feed", [*clean_feed(), *planted])
    shown = [image(p, at, patient_id=number(p).lstrip("0")) for at, p in enumerate(PEOPLE)]
    images = write_images(tmp_path / "images", shown)
    told = "".join(
        terminal.run("audit", "identifiers", feed, images, *more).output
        for more in ((), ("--json",))
    )
    for person in PEOPLE:
        whole = number(person)
        assert whole not in told
        assert whole.lstrip("0") not in told
        assert f"{person.birth_date:%Y%m%d}" not in told
    assert number(PEOPLE[3]) in terminal.run("audit", "identifiers", feed, "--show").output


def test_what_the_installation_received_is_audited(
    installed: Terminal, store: Store, settings: Settings, tmp_path: Path
) -> None:
    for message in clean_feed(PEOPLE[:5]):
        assert receive_message(store, message, peer="test", settings=settings).code == "AA"
    images = write_images(
        tmp_path / "images",
        [image(p, at, patient_id=number(p).lstrip("0")) for at, p in enumerate(PEOPLE[:5])],
    )
    recorded = ("--recorded", "--since", "2026-01-01")
    assert audited(installed, *recorded)["clean"]
    assert audited(installed, *recorded)["messages"] == 5
    said = audited(installed, images, *recorded)
    assert kinds(said) == {"number": 5}
    assert one(said, "number")["examples"][0]["where"][0].startswith("message ")
    later = ("--recorded", "--since", "2999-01-01")
    assert audited(installed, *later)["messages"] == 0


def test_images_that_were_filed_are_compared_with_a_feed(
    installed: Terminal, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINECHO_DISK_FLOOR_MB", "0")
    shown = [image(p, at, patient_id=number(p).lstrip("0")) for at, p in enumerate(PEOPLE[:5])]
    filed = installed.run("ingest", write_images(tmp_path / "images", shown))
    assert filed.exit_code == 0, filed.output
    feed = write_feed(tmp_path / "feed", clean_feed(PEOPLE[:5]))
    said = audited(installed, feed, "--recorded", "--since", "2026-01-01")
    assert (said["objects"], kinds(said)) == (5, {"number": 5})


@pytest.mark.skipif(not CORPORA.is_dir(), reason="the public corpora are not beside this checkout")
@pytest.mark.parametrize(
    "corpus", ["hl7", "dicom/malformed", "dicom/mwl", "dicom/wg04_mr_syntaxes"]
)
def test_the_public_corpora_are_read_to_the_end(terminal: Terminal, corpus: str) -> None:
    said = audited(terminal, CORPORA / corpus)
    files = [p for p in (CORPORA / corpus).rglob("*") if p.is_file()]
    read = said["messages"] + said["objects"]
    assert read > 0
    assert said["broken"]["count"] + said["skipped"]["count"] < len(files)
