from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import Malformed
from services.hl7.er7 import Delimiters, escape, parse, unescape
from services.hl7.mllp import Deframer, frame
from tests.hl7.orders import orm


def test_fields_components_and_z_segments_are_read() -> None:
    message = parse(orm())
    assert (message.type, message.control_id, message.version) == ("ORM^O01", "M1", "2.3.1")
    pid, zds = message.first("PID"), message.first("ZDS")
    assert pid is not None
    assert zds is not None
    assert (pid.get(3), pid.get(3, 4), pid.get(3, 4, 2)) == ("0012345", "HOSP", "1.2.3.4")
    assert zds.get(1) == "1.2.3.4.5.6.7"


@pytest.mark.parametrize(
    ("declared", "encoded", "family"),
    [
        ("8859/1", "Müller".encode("latin-1"), "Müller"),
        ("UNICODE UTF-8", "Müller".encode(), "Müller"),
        ("", "Müller".encode(), "Müller"),  # undeclared
        ("8859/1", "Müller".encode(), "Müller"),  # declared wrong
        ("8859/2", "Łódź".encode("iso8859_2"), "Łódź"),
        ("8859/5", "Иванов".encode("iso8859_5"), "Иванов"),
        ("NONSENSE", "Müller".encode("latin-1"), "Müller"),
    ],
)
def test_text_is_read_without_loss(declared: str, encoded: bytes, family: str) -> None:
    header = f"MSH|^~\\&|A|B|C|D|2026||ADT^A04|1|P|2.5.1||||||{declared}\rPID|1||1||".encode()
    message = parse(header + encoded + b"^X\r")
    pid = message.first("PID")
    assert pid is not None
    assert pid.get(5) == family


def test_japanese_escape_sequences_are_read() -> None:
    header = b"MSH|^~\\&|A|B|C|D|2026||ADT^A04|1|P|2.5.1||||||ISO IR87\rPID|1||1||"
    message = parse(header + "山田^太郎".encode("iso2022_jp") + b"\r")
    pid = message.first("PID")
    assert pid is not None
    assert (pid.get(5), pid.get(5, 2)) == ("山田", "太郎")


def test_declared_delimiters_are_used() -> None:
    message = parse(b"MSH$*%!@$A$B$C$D$2026$$ADT*A04$1$P$2.5.1\rPID$1$$7***H@1.2@ISO*MR\r")
    pid = message.first("PID")
    assert pid is not None
    assert (message.type, pid.get(3), pid.get(3, 4, 2)) == ("ADT^A04", "7", "1.2")


@pytest.mark.parametrize("raw", [b"", b"MSH", b"PID|1", b"MSHX^~\\&|", b"\x00\xff", b"MSH||||||||"])
def test_what_is_no_message_is_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        parse(raw)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x0b\x1c")))
def test_escaping_has_an_inverse(text: str) -> None:
    assert unescape(escape(text), Delimiters()) == text


@given(st.lists(st.binary(min_size=1).filter(lambda b: b"\x1c" not in b)), st.integers(1, 50))
def test_framing_has_an_inverse_whatever_the_chunks(messages: list[bytes], size: int) -> None:
    stream = b"".join(frame(m) for m in messages)
    deframer = Deframer()
    chunks = [stream[i : i + size] for i in range(0, len(stream), size)]
    assert [m for chunk in chunks for m in deframer.feed(chunk)] == messages
    assert deframer.rest == b""


def test_of_a_message_too_long_one_byte_more_than_the_limit_is_handed_over() -> None:
    deframer = Deframer(limit=1000)
    given = [m for _ in range(39) for m in deframer.feed(b"\x0b" * (_ == 0) + b"x" * 100)]
    assert given == []
    assert len(deframer.rest) < 1100
    assert list(deframer.feed(b"\x1c")) == []
    assert list(deframer.feed(b"\r\x0bnext\x1c\r")) == [b"x" * 1001, b"next"]


def test_what_never_ends_or_never_begins_is_no_mllp() -> None:
    deframer = Deframer(limit=1000)
    with pytest.raises(Malformed):
        list(deframer.feed(b"\x0b" + b"x" * 6000))
    with pytest.raises(Malformed):
        list(Deframer().feed(b"x" * 70_000))


def test_messages_before_the_fault_are_still_handed_over() -> None:
    given = Deframer().feed(frame(b"good") + b"x" * 70_000)
    assert next(given) == b"good"
    with pytest.raises(Malformed):
        next(given)


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_frame_that_begins_inside_another_ends_it(cut: int) -> None:
    stream = b"\x0bMSH|half" + frame(b"MSH|whole") + b"\r\n"
    deframer = Deframer()
    assert [*deframer.feed(stream[:cut]), *deframer.feed(stream[cut:])] == [b"MSH|whole"]
    assert deframer.abandoned == [b"MSH|half"]
    assert deframer.pending == 0


def test_an_escaped_caret_in_the_type_is_no_event() -> None:
    message = parse(b"MSH|^~\\&|A|B|C|D|20260301||ADT\\S\\A04|1|P|2.5.1\rPID|1\r")
    assert message.msh.get(9) == "ADT^A04"
    assert message.type != "ADT^A04"
