"""Who is answered what: HL7 v2.5.1 §2.9, its table of modes, and §2.10.1, sequence numbers."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from models.errors import MissingField
from services.database.store import Store
from services.hl7.acknowledgement import Outcome, answer
from services.hl7.er7 import Message, parse
from services.hl7.mllp import frame
from services.settings import Settings
from services.workflow.messages import receive_message
from tests.hl7.conftest import Serve
from tests.hl7.orders import adt, omi, orm
from tests.hl7.test_connections import received

# Enough for the database to be named, and nobody listens there.
AWAY = "postgresql://postgres@127.0.0.1:9/none"

GOOD = adt(control_id="G")
WRONG = adt(control_id="W", pid="")
UNSERVED = adt(control_id="U", event="A99")


def enhanced(raw: bytes, accept: str, application: str, **fields: str) -> bytes:
    """Return a message with MSH-15 and MSH-16, and other fields of MSH by number."""
    header, rest = raw.split(b"\r", 1)
    values = header.decode().split("|")
    values += [""] * (18 - len(values))
    values[14:16] = [accept, application]
    for name, value in fields.items():
        values[int(name.removeprefix("msh")) - 1] = value
    return "|".join(values).rstrip("|").encode() + b"\r" + rest


def given(store: Store, settings: Settings, raw: bytes) -> list[Message]:
    answered = receive_message(store, raw, peer="test", settings=settings)
    return [parse(answer) for answer in answered.answers]


def codes(answers: Sequence[Message]) -> list[str]:
    return [msa.get(1) for answer in answers if (msa := answer.first("MSA"))]


# What an answer is, byte for byte.
AT = datetime(2026, 3, 1, 9, 30, 5, tzinfo=UTC)
MISSING = MissingField("PID-3 has no identifier", location="PID^1^3")
IN_2_5_1 = (
    b"MSH|^~\\&|ENGINE|RAD|EMR|HOSP"  # MSH-3 to -6: theirs, turned round
    b"|20260301093005+0000||ACK^A04^ACK|A7"  # MSH-7, -9, -10: 7 is its number in the log
    b"|P|2.5.1\r"  # MSH-11 and -12: theirs
    b"MSA|AE|W\r"  # MSA-1, and MSA-2: their MSH-10
    b"ERR||PID^1^3|101^Required field missing^HL70357|E"  # ERR-2 where, -3 what, -4 severity
    b"||||PID-3 has no identifier\r"  # ERR-8, for people
)
IN_2_3_1 = (
    b"MSH|^~\\&|ENGINE|RAD|EMR|HOSP|20260301093005+0000||ACK^A04^ACK|A7|P|2.3.1\r"
    b"MSA|AE|W|PID-3 has no identifier\r"  # MSA-3, for ERR-8 is not there yet
    b"ERR|PID^1^3^101&Required field missing&HL70357\r"  # ERR-1: segment, number, field, code
)


@pytest.mark.parametrize(("version", "expected"), [("2.5.1", IN_2_5_1), ("2.3.1", IN_2_3_1)])
def test_an_answer_byte_for_byte(version: str, expected: bytes) -> None:
    message = parse(enhanced(WRONG, "", "", msh12=version))
    assert answer(message, Outcome(number=7, at=AT, error=MISSING)) == ([expected], "AE")


TABLE = [
    # MSH-15, MSH-16; all well; content wrong; type, version or processing id not served
    ("", "", ["AA"], ["AE"], ["AR"]),
    ("NE", "NE", [], [], []),
    ("AL", "NE", ["CA"], ["CA"], ["CR"]),
    ("NE", "AL", ["AA"], ["AE"], ["AR"]),
    ("AL", "AL", ["CA", "AA"], ["CA", "AE"], ["CR"]),
    ("ER", "ER", [], ["AE"], ["CR"]),
    ("SU", "SU", ["CA", "AA"], ["CA"], []),
    ("ER", "NE", [], [], ["CR"]),
    ("SU", "NE", ["CA"], ["CA"], []),
    ("NE", "ER", [], ["AE"], ["AR"]),
    ("NE", "SU", ["AA"], [], []),
    ("AL", "ER", ["CA"], ["CA", "AE"], ["CR"]),
    ("AL", "SU", ["CA", "AA"], ["CA"], ["CR"]),
    ("ER", "AL", ["AA"], ["AE"], ["CR"]),
    ("SU", "AL", ["CA", "AA"], ["CA", "AE"], ["AR"]),
    ("ER", "SU", ["AA"], [], ["CR"]),
    ("SU", "ER", ["CA"], ["CA", "AE"], ["AR"]),
    # one of the two is empty, which then means never
    ("AL", "", ["CA"], ["CA"], ["CR"]),
    ("", "AL", ["AA"], ["AE"], ["AR"]),
    # no value of HL70155: better one answer too many
    ("XX", "NE", ["CA"], ["CA"], ["CR"]),
]


@pytest.mark.parametrize(("accept", "application", "good", "wrong", "unserved"), TABLE)
def test_each_mode_answers_as_the_table_has_it(
    store: Store,
    settings: Settings,
    accept: str,
    application: str,
    good: list[str],
    wrong: list[str],
    unserved: list[str],
) -> None:
    for raw, expected in ((GOOD, good), (WRONG, wrong), (UNSERVED, unserved)):
        message = enhanced(raw, accept, application)
        assert codes(given(store, settings, message)) == expected
        # whatever is told, it is kept, and told again in the same words
        assert codes(given(store, settings, message)) == expected
    with store() as uow:
        rows = uow.connection.exec_driver_sql(
            "SELECT state, ack FROM message_log ORDER BY id"
        ).all()
    assert [row.state for row in rows] == ["processed", "refused", "refused"]


def test_two_answers_are_two_messages_and_a_repetition_gets_both_byte_for_byte(
    serving: Serve,
) -> None:
    message = enhanced(orm(), "AL", "AL")
    with socket.create_connection(("127.0.0.1", serving())) as peer:
        peer.sendall(frame(message) * 2)
        first, second, *again = received(peer, 4)
    assert again == [first, second]
    commit, application = parse(first), parse(second)
    assert codes([commit, application]) == ["CA", "AA"]
    assert commit.control_id != application.control_id
    assert [m.first("MSA").get(2) for m in (commit, application)] == ["M1", "M1"]  # type: ignore[union-attr]
    # nobody is to answer the answer
    assert (application.msh.get(15), application.msh.get(16)) == ("NE", "NE")


@pytest.mark.parametrize(
    "raw",
    [
        b"MSH|^~\\&|A|B|C|D|2026||ACK^O01|1|P|2.5.1|||AL|AL\rMSA|AA|7\r",
        b"MSH|^~\\&|A|B|C|D|2026||ORR^O02|1|P|2.5.1\rMSA|AA|7\r",
        b"MSH|^~\\&|A|B|C|D|2026||RSP^K22|1|P|2.5.1\rMSA|AA|7\rQAK|1\r",
        b"MSH|^~\\&|A|B|C|D|2026||ZZZ^Z01|1|P|2.5.1\rMSA|AE|7\r",
        b"MSH|^~\\&|A|B|C|D|2026||MCF|1|P|2.3\r",
    ],
)
def test_an_answer_is_never_answered(store: Store, settings: Settings, raw: bytes) -> None:
    assert given(store, settings, raw) == []
    with store() as uow:
        assert uow.messages.get(1).state == "noted"


@pytest.mark.parametrize("processing", ["T", "D", "X", "T^A", "P^R"])
def test_what_is_not_production_is_refused_and_recorded(
    store: Store, settings: Settings, processing: str
) -> None:
    raw = enhanced(omi(), "", "", msh11=processing)
    (answer,) = given(store, settings, raw)
    if processing[0] == "P":
        assert codes([answer]) == ["AA"]  # MSH-11.2, a mode of processing, is another matter
        return
    assert codes([answer]) == ["AR"]
    err = answer.first("ERR")
    assert err is not None
    assert (err.raw(2), err.get(3)) == ("MSH^1^11", "202")
    with store() as uow:
        assert (uow.messages.get(1).raw, uow.messages.get(1).state) == (raw, "refused")
        assert uow.orders.find_by_placer("P100", "EMR") is None


def test_a_test_installation_takes_tests_and_nothing_else(store: Store, settings: Settings) -> None:
    test = settings.model_copy(update={"hl7_processing_id": "T"})
    assert codes(given(store, test, enhanced(orm(), "", "", msh11="T"))) == ["AA"]
    assert codes(given(store, test, orm(control_id="M2"))) == ["AR"]


@pytest.mark.parametrize(
    ("version", "has_location", "has_text"),
    [("2.3.1", False, True), ("2.4", False, True), ("2.5", True, False), ("2.8", True, False)],
)
def test_the_error_segment_is_the_one_of_the_version(
    store: Store, settings: Settings, version: str, has_location: bool, has_text: bool
) -> None:
    (answer,) = given(store, settings, enhanced(WRONG, "", "", msh12=version))
    err, msa = answer.first("ERR"), answer.first("MSA")
    assert err is not None
    assert msa is not None
    assert answer.version == version
    assert bool(err.raw(2)) is has_location
    assert bool(msa.get(3)) is has_text
    assert err.raw(2 if has_location else 1).startswith("PID^1^3")


def test_an_answer_to_an_unknown_version_is_in_one_that_we_know(
    store: Store, settings: Settings
) -> None:
    (answer,) = given(store, settings, enhanced(GOOD, "", "", msh12="9.9"))
    assert (answer.version, answer.first("ERR").get(3)) == ("2.5.1", "203")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("declared", "sender", "bytes_of_it", "charset"),
    [
        ("8859/1", "MÜNCHEN", "MÜNCHEN".encode("latin-1"), "8859/1"),
        ("UNICODE UTF-8", "MÜNCHEN", "MÜNCHEN".encode(), "UNICODE UTF-8"),
        ("8859/5", "МОСКВА", "МОСКВА".encode("iso8859_5"), "8859/5"),
        # declared what does not hold it: the answer says what it is
        ("8859/1", "МОСКВА", "МОСКВА".encode(), "UNICODE UTF-8"),
        ("", "MÜNCHEN", "MÜNCHEN".encode(), "UNICODE UTF-8"),
    ],
)
def test_answers_are_in_the_senders_set_where_that_holds_them(
    store: Store, settings: Settings, declared: str, sender: str, bytes_of_it: bytes, charset: str
) -> None:
    raw = enhanced(GOOD, "", "", msh18=declared).replace(b"|EMR|", b"|" + bytes_of_it + b"|")
    answered = receive_message(store, raw, peer="test", settings=settings)
    assert bytes_of_it in (answered.acknowledgement or b"")
    (answer,) = [parse(a) for a in answered.answers]
    assert (answer.msh.get(5), answer.msh.get(18)) == (sender, charset)
    assert codes([answer]) == ["AA"]


def test_what_is_echoed_is_whole_and_in_our_delimiters(store: Store, settings: Settings) -> None:
    raw = (
        b"MSH$*~!@$EMR*1.2@3*ISO$A|B$RIS$D$2026$$ADT*A04$T^1$P$2.5.1\r"
        b"PID$$$7***HOSP*MR$$DOE*JANE$$19800214$F\r"
    )
    (answer,) = given(store, settings, raw)
    assert answer.msh.raw(5) == "EMR^1.2&3^ISO"
    assert answer.msh.get(6) == "A|B"
    msa = answer.first("MSA")
    assert msa is not None
    assert msa.get(2) == "T^1"
    assert msa.get(1) == "AA"


def test_a_value_that_the_store_cannot_hold_is_refused_and_not_retried_for_ever(
    store: Store, settings: Settings
) -> None:
    # in a value that is written, and in numbers that are looked up before
    for said in (b"0012345", b"P100", b"A2026000123"):
        (answer,) = given(store, settings, omi().replace(said, said[:2] + b"\0" + said[2:]))
        assert codes([answer]) == ["AE"], said
    (answer,) = given(store, settings, omi().replace(b"DOE^JANE", b"D\0E^JANE"))
    assert codes([answer]) == ["AE"]
    (answer,) = given(store, settings, omi(control_id="X" * 9000))
    assert answer.first("MSA").get(2) == "X" * 9000  # type: ignore[union-attr]
    (answer,) = given(store, settings, adt(control_id="\0"))
    assert codes([answer])


def test_with_the_database_away_the_connection_is_closed_without_an_answer(
    settings: Settings,
) -> None:
    from services.hl7.server import serve

    away = settings.model_copy(update={"database_url": AWAY, "hl7_port": 0})
    store = Store(away)
    listener = serve(away, store)
    with socket.create_connection(("127.0.0.1", listener.port)) as peer:
        peer.sendall(frame(orm()))
        assert received(peer, 1) == []
    listener.stop()
    store.close()


class Numbered:
    """A sender that numbers its messages."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings.model_copy(update={"hl7_sequence_numbers": True})
        self._count = 0

    def send(self, number: str, raw: bytes = GOOD) -> tuple[str, str]:
        self._count += 1
        message = enhanced(raw, "", "", msh10=f"N{self._count}", msh13=number)
        (answer,) = given(self._store, self._settings, message)
        msa = answer.first("MSA")
        assert msa is not None
        return msa.get(1), msa.get(4)


def test_numbers_are_counted_and_a_gap_is_not_taken(store: Store, settings: Settings) -> None:
    sender = Numbered(store, settings)
    assert sender.send("0") == ("AA", "1")
    assert sender.send("1") == ("AA", "2")
    assert sender.send("2", WRONG) == ("AE", "3")  # it came, whatever is wrong in it
    assert sender.send("5", orm(placer="555")) == ("AE", "3")
    assert sender.send("2") == ("AE", "3")
    with store() as uow:
        assert uow.orders.find_by_placer("P555", "EMR") is None
    assert sender.send("3") == ("AA", "4")
    assert sender.send("-1") == ("AA", "")
    assert sender.send("5") == ("AA", "6")
    assert sender.send("") == ("AA", "")
    assert sender.send("six") == ("AE", "")
    assert sender.send("6") == ("AA", "7")


def test_a_gap_is_a_commit_error_in_enhanced_mode(store: Store, settings: Settings) -> None:
    numbered = settings.model_copy(update={"hl7_sequence_numbers": True})
    answers = given(store, numbered, enhanced(GOOD, "AL", "AL", msh13="4"))
    assert codes(answers) == ["CE"]
    assert answers[0].first("MSA").get(4) == "1"  # type: ignore[union-attr]


def test_numbers_are_not_looked_at_unless_it_is_said(store: Store, settings: Settings) -> None:
    (answer,) = given(store, settings, enhanced(GOOD, "", "", msh13="77"))
    assert codes([answer]) == ["AA"]
