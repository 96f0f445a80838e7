"""Character sets: whatever bytes arrive, no byte is lost in silence."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.errors import Malformed
from services.hl7.charsets import CHARSETS, codec_of
from services.hl7.er7 import Delimiters, Message, escape, parse, unescape


def message(declared: str, family: bytes) -> Message:
    header = f"MSH|^~\\&|A|B|C|D|2026||ADT^A04|1|P|2.5.1||||||{declared}\rPID|1||1||".encode()
    return parse(header + family + b"^X\rPV1|1|I\r")


def family(read: Message) -> str:
    pid = read.first("PID")
    assert pid is not None
    assert pid.get(5, 2) == "X"
    pv1 = read.first("PV1")
    assert pv1 is not None
    assert pv1.get(2) == "I"
    return pid.get(5)


@pytest.mark.parametrize(
    ("declared", "encoded", "name", "warned"),
    [
        # right
        ("8859/1", "Müller".encode("latin-1"), "Müller", False),
        ("8859/2", "Łódź".encode("iso8859_2"), "Łódź", False),
        ("8859/5", "Иванов".encode("iso8859_5"), "Иванов", False),
        ("8859/6", "محمد".encode("iso8859_6"), "محمد", False),
        ("8859/7", "Ελένη".encode("iso8859_7"), "Ελένη", False),
        ("8859/8", "כהן".encode("iso8859_8"), "כהן", False),
        ("8859/9", "Şahin".encode("iso8859_9"), "Şahin", False),
        ("8859/15", "Œuvre".encode("iso8859_15"), "Œuvre", False),
        ("UNICODE UTF-8", "Müller 山".encode(), "Müller 山", False),
        ("GB 18030-2000", "张㐀".encode("gb18030"), "张㐀", False),
        ("KS X 1001", "김희중".encode("euc_kr"), "김희중", False),
        ("BIG-5", "許功蓋".encode("big5"), "許功蓋", False),
        ("ISO IR14", "ﾔﾏﾀﾞ".encode("shift_jis"), "ﾔﾏﾀﾞ", False),
        # a second byte that looks like | or ^ or \ is not one
        ("GB 18030-2000", bytes.fromhex("8e7c8e5e8e5c"), "巪巀嶾", False),
        # two-byte sets now and then pass for UTF-8
        ("GB 18030-2000", bytes.fromhex("d0a1"), "小", False),
        # wrong, and found out
        ("8859/1", "Müller".encode(), "Müller", True),
        ("8859/1", "“Müller” €".encode("cp1252"), "“Müller” €", True),
        ("", "Müller".encode(), "Müller", True),
        ("", "Müller".encode("latin-1"), "Müller", True),
        ("ASCII", "Müller".encode(), "Müller", True),
        ("UNICODE UTF-8", "Müller".encode("latin-1"), "Müller", True),
        ("GB 18030-2000", "张伟".encode(), "张伟", True),
        ("KS X 1001", "김희중".encode(), "김희중", True),
        ("ISO IR87", "山田".encode("shift_jis"), "山田", True),
        ("NONSENSE", "Müller".encode("latin-1"), "Müller", True),
        ("NONSENSE", "Müller".encode(), "Müller", True),
        # what HL70211 does not have, and is clear all the same
        ("UTF-8", "Müller".encode(), "Müller", True),
        ("ISO_IR 100", "Müller".encode("latin-1"), "Müller", True),
        ("ISO-8859-1", "Müller".encode("latin-1"), "Müller", True),
        ("UNICODE UTF-16", "Müller".encode(), "Müller", True),
    ],
)
def test_text_is_read_and_a_wrong_declaration_is_warned_of(
    declared: str, encoded: bytes, name: str, warned: bool
) -> None:
    read = message(declared, encoded)
    assert (family(read), bool(read.warnings)) == (name, warned)


@pytest.mark.parametrize(
    ("declared", "encoded", "name"),
    [
        ("ISO IR87", "山田".encode("iso2022_jp"), "山田"),
        ("~ISO IR87", b"\x1b$B;3ED\x1b(B", "山田"),
        ("ASCII~ISO IR87", b"Yamada=\x1b$B;3ED\x1b(B=x", "Yamada=山田=x"),
        ("ISO IR14~ISO IR87", "ﾔﾏﾀﾞ".encode("shift_jis") + b"=\x1b$B;3ED\x1b(J", "ﾔﾏﾀﾞ=山田"),
        ("~ISO IR159", b"\x1b$(D0!\x1b(B", "丂"),
        ("~ISO IR14", b"\x1b)I\xd4\xcf", "ﾔﾏ"),
        ("~KS X 1001", b"Kim=\x1b$)C" + "김희중".encode("euc_kr"), "Kim=김희중"),
        (
            "8859/1~8859/5",
            "Ä=".encode("latin-1") + b"\x1b-L" + "Иван".encode("iso8859_5"),
            "Ä=Иван",
        ),
        # HL7's own spelling of the same switches (§2.7.4)
        ("~ISO IR87", b"\\M2442\\;3ED\\C2842\\", "山田"),
        ("~8859/2", b"\\C2D42\\" + "Łódź".encode("iso8859_2") + b"\\C2D41\\", "Łódź"),
        ("~KS X 1001", b"\\M242943\\" + "김".encode("euc_kr"), "김"),
    ],
)
def test_escape_sequences_switch_sets(declared: str, encoded: bytes, name: str) -> None:
    assert family(message(declared, encoded)) == name


def test_a_segment_begins_in_the_default_set_again() -> None:
    read = message("~ISO IR87", b"\x1b$B;3ED\x1b(B")
    header, pid, pv1 = read.segments
    assert (header.get(9), pid.get(5), pv1.get(2)) == ("ADT", "山田", "I")
    forgotten = parse(
        b"MSH|^~\\&|A|B|C|D|2026||ADT^A04|1|P|2.5.1||||||~ISO IR87\r"
        b"PID|1||1||X^\x1b$B;3ED\rPV1|1|I\r"
    )
    assert [s.name for s in forgotten.segments] == ["MSH", "PID", "PV1"]


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_refused_with_the_reason(codec: str) -> None:
    with pytest.raises(Malformed, match="UTF-16"):
        parse("MSH|^~\\&|A|B|C|D|2026||ADT^A04|1|P|2.5.1\r".encode(codec))


@pytest.mark.parametrize(
    ("declared", "escaped", "text"),
    [
        ("UNICODE UTF-8", rb"M\XC3BC\ller", "Müller"),
        ("UNICODE UTF-8", rb"M\XC3\\XBC\ller", "Müller"),
        ("8859/1", rb"M\XFC\ller", "Müller"),
        ("8859/5", rb"\XB8\\XD2\x", "Ивx"),
        ("", rb"\XC7\\XC3\O", "ÇÃO"),
        ("GB 18030-2000", rb"\XD5C5\x", "张x"),
        ("", rb"a\X0D\b", "a\rb"),
        ("", rb"a\.br\b", "a\nb"),
        ("", rb"a\H\b\N\c", "abc"),
        ("", rb"\F\\S\\T\\R\\E\x", "|^&~\\x"),
        ("", rb"a\X0\b\XZZ\c\Zq\d", r"a\X0\b\XZZ\c\Zq\d"),
    ],
)
def test_escapes_are_resolved_in_the_set_of_the_message(
    declared: str, escaped: bytes, text: str
) -> None:
    assert family(message(declared, escaped)) == text


_sent = st.sampled_from([*CHARSETS, "NONSENSE", "UTF-8", "~ISO IR87", "ISO IR14~ISO IR87"])


@given(_sent, st.binary(max_size=40).filter(lambda b: not set(b) & set(b"\r\n\x0b\x1c")))
@example("~ISO IR87", b"\x1b$B")
@example("ISO IR87", b"\x1b$B;3E\x1b(B")
@example("ISO IR87", b"\xff\x1b$B;3ED")
@example("8859/8", b"\xff")
@example("ISO IR87", b"\x1b\x80")
def test_no_byte_is_lost_without_a_warning(declared: str, anything: bytes) -> None:
    header = f"MSH|^~\\&|A|B|C|D|2026||ADT^A04|1|P|2.5.1||||||{declared}".encode()
    raw = header + b"\rNTE|" + anything
    read = parse(raw)
    text = "\r".join(
        "|".join([s.fields[0], *s.fields[2:]] if s.name == "MSH" else s.fields)
        for s in read.segments
    )
    again = {
        text.encode(codec, "replace")
        for codec in (codec_of(declared.split("~")[0]) or "utf-8", "iso2022_jp_ext")
    }
    assert raw in again or read.warnings


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x0b\x1c")),
    st.sampled_from(["utf-8", "iso8859_1", "gb18030"]),
)
def test_escaping_has_an_inverse_in_every_set(text: str, codec: str) -> None:
    assert unescape(escape(text), Delimiters(codec=codec)) == text
