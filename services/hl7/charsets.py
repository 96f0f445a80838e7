r"""Character sets of HL7 v2 (MSH-18, HL70211): bytes in, text and warnings out, nothing lost.

What is declared is often not what is sent. The order of trial below is chosen so that a wrong
declaration is found out by the bytes themselves, and Latin-1, which reads any byte, comes last.
Every text that would not give the same bytes again comes with a warning; the bytes as received
stay in the message log.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

CHARSETS = {
    "": "ascii",
    "ASCII": "ascii",
    **{f"8859/{n}": f"iso8859_{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
    "UNICODE UTF-8": "utf-8",
    "UNICODE": "utf-8",
    "ISO IR14": "shift_jis",
    "ISO IR87": "iso2022_jp",
    "ISO IR159": "iso2022_jp_1",
    "KS X 1001": "euc_kr",
    "GB 18030-2000": "gb18030",
    "BIG-5": "big5",
}
"""MSH-18 (HL70211) → Python codec."""

_ALIASES = {
    "ISO IR6": "ascii",
    "UTF-8": "utf-8",
    "UTF8": "utf-8",
    "UNICODE UTF8": "utf-8",
    "ISO IR192": "utf-8",
    "ISO IR13": "shift_jis",
    "SHIFT JIS": "shift_jis",
    "ISO IR149": "euc_kr",
    "GB18030": "gb18030",
    "GB 18030": "gb18030",
    **{f"ISO 8859-{n}": f"iso8859_{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
    **{f"8859-{n}": f"iso8859_{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
    **{
        f"ISO IR{ir}": f"iso8859_{n}"
        for ir, n in ((100, 1), (101, 2), (109, 3), (110, 4), (144, 5), (127, 6), (126, 7))
    },
    "ISO IR138": "iso8859_8",
    "ISO IR148": "iso8859_9",
}
"""What is written for them all the same: names of DICOM and of the Internet."""

_MULTIBYTE = frozenset({"shift_jis", "iso2022_jp", "iso2022_jp_1", "euc_kr", "gb18030", "big5"})
_JAPANESE = frozenset({"shift_jis", "iso2022_jp", "iso2022_jp_1"})

# ISO 2022 (ECMA-35): what a designation puts where. The sets of G0 stand on 0x21 to 0x7E, those
# of G1 on 0xA1 to 0xFE.
_G0 = {
    b"(B": "ascii",
    b"(J": "ascii",  # JIS X 0201 Roman: HL7 has its escape character where that has a yen sign
    b"(I": "kana",
    b"$@": "iso2022_jp",
    b"$B": "iso2022_jp",
    b"$(B": "iso2022_jp",
    b"$(D": "iso2022_jp_1",
}
_DESIGNATED = {"iso2022_jp": b"\x1b$B", "iso2022_jp_1": b"\x1b$(D"}
"""The sets of two bytes a character, and what switches to each."""
_G1 = {
    b"-A": "iso8859_1",
    b"-B": "iso8859_2",
    b"-C": "iso8859_3",
    b"-D": "iso8859_4",
    b"-L": "iso8859_5",
    b"-G": "iso8859_6",
    b"-F": "iso8859_7",
    b"-H": "iso8859_8",
    b"-M": "iso8859_9",
    b"-b": "iso8859_15",
    b")I": "kana",
    b"$)C": "euc_kr",
    b"$)A": "gb2312",
}
_DESIGNATION = re.compile(
    b"\x1b(" + b"|".join(re.escape(d) for d in sorted((*_G0, *_G1), key=len, reverse=True)) + b")"
)
_LINE_END = re.compile(rb"([\r\n]+)")
_ASCII = "ascii"


def find_declared(header: bytes, field: str, repetition: str) -> str:
    """Return the first repetition of MSH-18, where the default set of the message stands."""
    declared = _eighteenth(header.decode("latin-1").split(field), repetition)
    if codec_of(declared) is not None or header.isascii():
        return declared
    # The second byte of a multi-byte character may look like a separator and shift every field.
    for codec in ("gb18030", "big5", "shift_jis"):
        try:
            again = _eighteenth(header.decode(codec).split(field), repetition)
        except UnicodeDecodeError:
            continue
        if codec_of(again) == codec:
            return again
    return declared


def _eighteenth(fields: list[str], repetition: str) -> str:
    return fields[17].split(repetition)[0].strip() if len(fields) > 17 else ""


def codec_of(declared: str) -> str | None:
    """Return the Python codec of an MSH-18 value; None where it is none that can be read."""
    name = declared.upper()
    return CHARSETS.get(name) or _ALIASES.get(name.replace("_", " "))


def read(raw: bytes, declared: str, escape: str) -> tuple[str, str, list[str]]:
    r"""Decode a message.

    Parameters
    ----------
    raw : bytes
    declared : str
        MSH-18, its first repetition.
    escape : str
        The escape character, with which ``\C..\`` and ``\M..\`` switch sets (§2.7.4).

    Returns
    -------
    text : str
    codec : str
        What it was read with.
    warnings : list of str
        What is wrong with the declaration or the bytes; empty where both agree.
    """
    warnings = []
    codec = codec_of(declared)
    if codec is None:
        warnings.append(f"MSH-18 names a character set that is not known: {declared[:20]!r}")
    elif declared.upper() not in CHARSETS:
        warnings.append(f"MSH-18 is {declared[:20]!r}, which HL70211 does not have")
    codec = codec or "utf-8"
    switched = _switches(raw, escape)
    if _DESIGNATION.search(switched):
        codec = _ASCII if codec in _DESIGNATED else codec
        for default in (codec, "iso8859_1"):
            try:
                text = "".join(_runs(switched, default))
            except UnicodeDecodeError:
                warnings.append("an escape sequence switches to a set that the bytes are not of")
            else:
                if not _is_reversible(text, switched):
                    warnings.append("other bytes would give the same text; the log has these")
                return text, codec, warnings
    if raw.isascii():
        return raw.decode(_ASCII), codec, warnings
    text, used = _eight_bit(raw, codec)
    if used != codec:
        warnings.append(f"bytes are {used}, MSH-18 declares {declared[:20] or 'nothing'!r}")
    if not _gives_back(text, used, raw):
        warnings.append("other bytes would give the same text; the log has these")
    return text, used, warnings


def _gives_back(text: str, codec: str, raw: bytes) -> bool:
    try:
        return text.encode(codec) == raw
    except UnicodeEncodeError:
        # Some codecs read what they do not write.
        return False


def _eight_bit(raw: bytes, codec: str) -> tuple[str, str]:
    """Try the declared set and UTF-8, in the order in which each finds out the other."""
    for candidate in _order(raw, codec):
        try:
            return raw.decode(candidate), candidate
        except UnicodeDecodeError:
            continue
    return raw.decode("iso8859_1"), "iso8859_1"


def _order(raw: bytes, codec: str) -> Iterator[str]:
    unicode_first = True
    if codec in _MULTIBYTE:
        # Pairs of such a set do pass for two-byte UTF-8 now and then; three-byte characters, which
        # all of East Asia has in UTF-8, they practically never make.
        try:
            unicode_first = not re.search("[\x80-\u07ff]", raw.decode("utf-8"))
        except UnicodeDecodeError:
            unicode_first = False
    # Text in an 8-bit set is almost never valid UTF-8 by chance: when it is, the bytes are right
    # and the declaration is wrong.
    if unicode_first:
        yield "utf-8"
    if codec == "iso8859_1" and re.search(rb"[\x80-\x9f]", raw):
        # No letters there in Latin-1; Windows has its quotation marks and the euro.
        yield "cp1252"
    yield codec
    if codec in _JAPANESE:
        yield "shift_jis"
        yield "cp932"
    if not unicode_first:
        yield "utf-8"
    if re.search(rb"[\x80-\x9f]", raw):
        yield "cp1252"


def _switches(raw: bytes, escape: str) -> bytes:
    r"""Turn ``\Cxxyy\`` and ``\Mxxyyzz\`` into the ISO 2022 designations that they stand for."""
    mark = escape.encode("latin-1")
    if mark + b"C2" not in raw and mark + b"M2" not in raw:
        return raw
    pattern = re.escape(mark) + rb"[CM]((?:2[0-9A-Fa-f]){1,2}[4-7][0-9A-Fa-f])" + re.escape(mark)
    return re.sub(pattern, lambda m: b"\x1b" + bytes.fromhex(m[1].decode()), raw)


def _runs(raw: bytes, default: str) -> Iterator[str]:
    for line in _LINE_END.split(raw):
        # Every segment begins in the default set again, whatever the sender forgot to switch back.
        g0, g1 = _ASCII, default
        end = 0
        for found in _DESIGNATION.finditer(line):
            yield _run(line[end : found.start()], g0, g1)
            g0, g1 = _G0.get(found[1], g0), _G1.get(found[1], g1)
            end = found.end()
        yield _run(line[end:], g0, g1)


def _run(run: bytes, g0: str, g1: str) -> str:
    if g0 in _DESIGNATED:
        return (_DESIGNATED[g0] + run + b"\x1b(B").decode(g0) if run else ""
    if g0 == "kana":
        run = bytes(b | 0x80 if 0x21 <= b <= 0x5F else b for b in run)
        g1 = "kana"
    if run.isascii():
        return run.decode(_ASCII)
    if g1 == "kana":
        if any(0x80 <= b < 0xA1 or b > 0xDF for b in run):
            raise UnicodeDecodeError("kana", run, 0, 1, "not in JIS X 0201")
        return run.decode("shift_jis")
    return run.decode(g1)


def _is_reversible(text: str, raw: bytes) -> bool:
    for codec in ("iso2022_jp", "iso2022_jp_1", "iso2022_jp_ext"):
        try:
            if text.encode(codec) == raw:
                return True
        except UnicodeEncodeError:
            continue
    return False


def read_hex(data: bytes, codec: str) -> str:
    r"""Read the bytes of ``\X..\``, which are in the message's own set, or in Unicode."""
    order = (codec, "utf-8") if codec in _MULTIBYTE else ("utf-8", codec)
    for candidate in order:
        try:
            return data.decode(candidate)
        except UnicodeDecodeError:
            continue
    return data.decode("iso8859_1")
