"""ER7, the pipe-and-caret encoding of HL7 v2 (v2.5.1 §2.5 to §2.7): bytes in, fields out.

No socket and no rule about orders lives here. It reads a 1 kB order in a tenth of a millisecond,
so that it may stand on the acknowledging path; hl7apy checks conformance later, off that path.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from models.errors import Malformed
from services.hl7.charsets import find_declared, read, read_hex

NULL = '""'
"""The HL7 null: delete what is stored; an empty field leaves it as it is."""

_ESCAPED = re.compile(r"[\\|^&~\r\n]")
_MARKS = re.compile(r"[!-/:-@\[-`{-~]+$")


@dataclass(frozen=True, slots=True)
class Delimiters:
    """MSH-1 and MSH-2; a message declares its own, they are never assumed."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"
    codec: str = dataclasses.field(default="utf-8", compare=False)
    """What the bytes of a hexadecimal escape are read with."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment; fields count from 1, as in the standard."""

    name: str
    fields: tuple[str, ...]
    delimiters: Delimiters

    def raw(self, number: int) -> str:
        """Return field `number` as it stands on the wire; empty if absent."""
        return self.fields[number] if number < len(self.fields) else ""

    def repetitions(self, number: int) -> list[str]:
        """Return the non-empty repetitions of a field, still escaped."""
        return [r for r in self.raw(number).split(self.delimiters.repetition) if r]

    def get(self, number: int, component: int = 1, subcomponent: int = 1) -> str:
        """Return one component of a field's first repetition, unescaped; empty if absent."""
        raw = self.fields[number] if number < len(self.fields) else ""
        if not raw:  # most fields of most messages
            return ""
        return self.part(raw.split(self.delimiters.repetition, 1)[0], component, subcomponent)

    def part(self, repetition: str, component: int, subcomponent: int = 1) -> str:
        """Return one component of one repetition, unescaped and trimmed; empty if absent."""
        marks = self.delimiters
        if marks.component in repetition:
            components = repetition.split(marks.component)
            if component > len(components):
                return ""
            repetition = components[component - 1]
        elif component > 1:
            return ""
        if marks.subcomponent in repetition:
            parts = repetition.split(marks.subcomponent)
            if subcomponent > len(parts):
                return ""
            repetition = parts[subcomponent - 1]
        elif subcomponent > 1:
            return ""
        if marks.escape in repetition:
            repetition = unescape(repetition, marks)
        return repetition.strip()

    def optional(self, number: int, component: int = 1) -> str | None:
        """Return a component; None when nothing was said, empty when it is to be deleted."""
        value = self.get(number, component)
        if value == NULL or self.raw(number) == NULL:
            return ""
        return value or None


@dataclass(frozen=True, slots=True)
class Message:
    """A parsed message and the warnings that reading it gave."""

    segments: tuple[Segment, ...]
    delimiters: Delimiters
    charset: str
    warnings: tuple[str, ...] = field(default=())

    def all(self, name: str) -> Iterator[Segment]:
        """Iterate over the segments called `name`."""
        return (s for s in self.segments if s.name == name)

    def first(self, name: str) -> Segment | None:
        """Return the first segment called `name`, or None."""
        return next(self.all(name), None)

    @property
    def msh(self) -> Segment:
        """The message header."""
        return self.segments[0]

    @property
    def sender(self) -> str:
        """MSH-3 and MSH-4, the one who numbers the messages."""
        return f"{self.msh.get(3)}|{self.msh.get(4)}"

    @property
    def control_id(self) -> str:
        """MSH-10."""
        return self.msh.get(10)

    @property
    def type(self) -> str:
        """MSH-9.1 and MSH-9.2, such as ``ORM^O01``."""
        # Escaped: an escaped caret inside a component does not make two of it.
        return f"{escape(self.msh.get(9))}^{escape(self.msh.get(9, 2))}".rstrip("^")

    @property
    def version(self) -> str:
        """MSH-12.1."""
        return self.msh.get(12)


def parse(raw: bytes) -> Message:
    """Read a message.

    Parameters
    ----------
    raw : bytes
        One message without its MLLP frame. Segments end in CR; LF and CRLF are tolerated.

    Returns
    -------
    Message

    Raises
    ------
    Malformed
        If there is no MSH segment with its delimiters.
    """
    if b"\0" in raw[:6] and raw[:6].replace(b"\0", b"") in {b"MSH", b"\xff\xfeMS", b"\xfe\xffMS"}:
        raise Malformed("UTF-16 cannot be sent by MLLP: send UTF-8", location="MSH^1^18")
    start = raw.lstrip(b"\r\n \t\xef\xbb\xbf")
    if not start.startswith(b"MSH") or len(start) < 9:
        raise Malformed("the message does not begin with an MSH segment", location="MSH^1")
    # MSH-2 may be shorter than four (a sender that never nests) or have a fifth (v2.7 truncation).
    separator = start[3:4].decode("latin-1")
    declared = start[4:10].decode("latin-1").split(separator, 1)[0]
    marks = separator + declared
    if not 1 <= len(declared) <= 5 or len(set(marks)) < len(marks) or not _MARKS.match(marks):
        raise Malformed("MSH-1 and MSH-2 do not declare the delimiters", location="MSH^1^2")
    delimiters = Delimiters(separator, *declared[:4])
    header = re.split(rb"[\r\n]", start, maxsplit=1)[0]
    charset = find_declared(header, delimiters.field, delimiters.repetition)
    text, codec, warnings = read(start, charset, delimiters.escape)
    delimiters = replace(delimiters, codec=codec)
    segments = []
    for line in re.split(r"[\r\n]+", text):
        if not line.strip():
            continue
        fields = line.split(delimiters.field)
        if fields[0] == "MSH":
            # MSH-1 is the separator itself, so every later field counts one higher.
            fields.insert(1, delimiters.field)
        segments.append(Segment(fields[0], tuple(fields), delimiters))
    return Message(tuple(segments), delimiters, charset, tuple(warnings))


_NAMED = {"F": "field", "S": "component", "T": "subcomponent", "R": "repetition", "E": "escape"}


def unescape(text: str, delimiters: Delimiters) -> str:
    r"""Resolve the escape sequences of v2.5.1 §2.7; an unknown one is left as it stands.

    ``\.br\`` becomes a line feed and highlighting is dropped.
    """
    escape = delimiters.escape
    if escape not in text:
        return text
    mark = re.escape(escape)
    # The bytes of one character may stand in escapes of their own, one after the other.
    bytes_ = f"(?:{mark}X(?:[0-9A-Fa-f]{{2}})+{mark})+"
    pattern = f"({bytes_})|{mark}(\\.?[A-Za-z0-9+\\-]*){mark}"

    def resolve(match: re.Match[str]) -> str:
        if match[1]:
            digits = match[1].replace(escape + "X", "").replace(escape, "")
            return read_hex(bytes.fromhex(digits), delimiters.codec)
        code = match[2]
        if code in _NAMED:
            return str(getattr(delimiters, _NAMED[code]))
        if code in {".br", ".sp"}:
            return "\n"
        if code in {"H", "N"}:
            return ""
        return match[0]

    return re.sub(pattern, resolve, text)


def escape(text: str) -> str:
    r"""Escape `text` for the default delimiters; line breaks become ``\.br\``."""
    if _ESCAPED.search(text) is None:
        return text
    out = text.replace("\\", "\\E\\")
    for char, code in (("|", "F"), ("^", "S"), ("&", "T"), ("~", "R")):
        out = out.replace(char, f"\\{code}\\")
    return re.sub(r"\r\n|\r|\n", r"\\.br\\", out)
