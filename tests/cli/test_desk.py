"""The reconciliation desk at the command line: who it may be, who decided, and the way back."""

from __future__ import annotations

from datetime import date
from time import perf_counter

import pytest

from services.database.store import Store
from services.settings import Settings
from services.workflow.desk import Action, decide
from services.workflow.identification import Claim, belonging
from tests.cli.conftest import Terminal

CLAIM = Claim(name="Quilfeather^Ottoline", patient_id="12345", birth_date=date(1980, 2, 14))
SAID = ("--by", "rita", "--why", "same person")


@pytest.fixture
def study_id(study_on_desk: str, store: Store) -> str:
    """A study that nobody ordered, and behind it a file that nobody can read."""
    with store() as uow:
        uow.studies.to_desk("unreadable", "abc", "not a DICOM file")
    return study_on_desk


def patient_of(store: Store, study_id: str) -> str | None:
    with store() as uow:
        return uow.studies.get(study_id).patient_id


def test_a_row_shows_candidates_with_score_and_evidence(installed: Terminal, study_id: str) -> None:
    rows = installed.json("desk", "list")
    assert [r["kind"] for r in rows] == ["no-order", "unreadable"]
    shown = installed.json("desk", "show", str(rows[0]["number"]))
    (candidate,) = shown["candidates"]
    assert (shown["proposed"], candidate["patient"]) == ("file", "jane")
    levels = {e["field"]: e["level"] for e in candidate["evidence"]}
    assert (levels["family"], levels["identifier"]) == ("close", "agree")
    text = installed.run("desk", "show", str(rows[0]["number"])).stdout
    assert "Quillfeather" in text
    assert "the same but for zeros" in text
    assert "proposed  file --patient jane" in text
    assert installed.run("desk", "list").stdout.count("unreadable") == 1


def test_a_decision_files_the_study_and_its_undoing_puts_it_back(
    installed: Terminal, study_id: str, store: Store
) -> None:
    decision = installed.json("desk", "decide", "1", "file", "--patient", "jane", *SAID)
    assert (decision["done"], decision["by"], patient_of(store, study_id)) == (True, "rita", "jane")
    assert [r["number"] for r in installed.json("desk", "list")] == [2]
    with store() as uow:
        # Late images say the same as the first ones, which the desk has placed.
        assert belonging(uow, "1.2.3", CLAIM).contradictions == ()
    with store() as uow:
        entry = uow.timeline.of_study(study_id)[-1]
    assert (entry.kind, entry.actor) == ("desk.file", "rita")
    assert entry.evidence == {
        **{"decision": decision["decision"], "why": "same person"},
        **{"patient_before": None, "patient": "jane"},
    }
    assert None not in (decision["at"], decision["done_at"])
    number = str(decision["decision"])
    undone = installed.json("desk", "undo", number, "--by", "chief", "--why", "wrong")
    assert (undone["undone_by"], patient_of(store, study_id)) == ("chief", None)
    assert [r["number"] for r in installed.json("desk", "list")] == [1, 2]
    with store() as uow:
        kinds = [e.kind for e in uow.timeline.of_study(study_id)]
    assert kinds == ["desk.file", "desk.undone"]
    told = installed.run("desk", "show", "1").stdout
    assert "by chief: wrong" in told
    again = installed.run("desk", "undo", number, "--by", "chief", "--why", "again")
    assert again.exit_code == 1
    assert "illegal-move" in again.stderr


def test_what_is_left_is_off_the_desk_and_unchanged(
    installed: Terminal, study_id: str, store: Store
) -> None:
    installed.json("desk", "decide", "2", "leave", *SAID)
    assert [r["number"] for r in installed.json("desk", "list")] == [1]
    assert patient_of(store, study_id) is None


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("9", "leave", *SAID), "unknown-key"),
        (("1", "burn", *SAID), "invalid-value"),
        (("1", "file", *SAID), "invalid-value"),
        (("1", "file", "--patient", "nobody", *SAID), "unknown-key"),
        (("1", "leave", "--by", "rita", "--why", " "), "invalid-value"),
        (("2", "file", "--patient", "jane", *SAID), "illegal-move"),
    ],
)
def test_a_wrong_decision_is_refused_and_changes_nothing(
    installed: Terminal, study_id: str, store: Store, arguments: tuple[str, ...], code: str
) -> None:
    result = installed.run("desk", "decide", *arguments)
    assert result.exit_code == 1
    assert code in result.stderr
    assert len(installed.json("desk", "list")) == 2
    assert patient_of(store, study_id) is None


def test_where_two_have_to_agree_one_is_not_enough(
    installed: Terminal, study_id: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINECHO_DESK_APPROVALS", "2")
    filed = ("desk", "decide", "1", "file", "--patient", "jane")
    first = installed.json(*filed, *SAID)
    assert (first["done"], patient_of(store, study_id)) == (False, None)
    assert "second person" in installed.run(*filed, *SAID).stderr
    other = installed.run("desk", "decide", "1", "leave", "--by", "max", "--why", "no")
    assert "decided otherwise" in other.stderr
    second = installed.json(*filed, "--by", "max", "--why", "so I see it")
    assert (second["decision"], second["approved_by"]) == (first["decision"], "max")
    assert patient_of(store, study_id) == "jane"


def test_a_long_desk_is_listed_in_200_ms(
    installed: Terminal, store: Store, settings: Settings
) -> None:
    with store() as uow:
        for number in range(10_000):
            uow.studies.to_desk("unreadable", f"{number}", "not a DICOM file")
    with store() as uow:
        begun = perf_counter()
        rows, waiting = uow.studies.desk(limit=100), uow.studies.on_desk()
        assert perf_counter() - begun < 0.2
        assert (len(rows), rows[0].id, waiting) == (100, 1, 10_000)
        decide(uow, 1, Action.LEAVE, by="rita", why="noise", settings=settings)
        assert uow.studies.on_desk() == 9_999
    assert "9899 more wait" in installed.run("desk", "list").stdout
