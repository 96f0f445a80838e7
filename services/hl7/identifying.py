"""How a sender's patient numbers are written anew, and which of them cannot be right."""

from __future__ import annotations

from dataclasses import dataclass

from services.hl7.er7 import NULL, Delimiters
from services.hl7.profile import Format, IdentifierRule
from services.identity.normalise import check_digit


@dataclass(frozen=True, slots=True)
class Doubt:
    """A patient number that has not the check digit which its rule asks for.

    Attributes
    ----------
    location
        As an ERL.
    scheme
        HL70061.
    refuse
        Whether the message is refused for it; otherwise somebody has to look.
    """

    location: str
    scheme: str
    refuse: bool


def formatted(text: str, how: Format) -> str:
    """Return a number as `how` wants it written; nothing and the HL7 null stay as they are."""
    if not text or text == NULL:
        return text
    for character in how.remove:
        text = text.replace(character, "")
    text = text.removeprefix(how.remove_prefix)
    if how.drop_check_digit and len(text) > 1:
        text = text[:-1]
    if how.strip_zeros:
        text = text.lstrip("0") or text[-1:]
    if not text:
        return text
    text = text.rjust(how.pad_to, "0")
    if how.append_check_digit and text.isascii() and text.isdigit():
        text += check_digit(text, how.append_check_digit)
    if how.upper:
        text = text.upper()
    return text if text.startswith(how.prefix) else how.prefix + text


def identified(one: str, rules: tuple[IdentifierRule, ...], marks: Delimiters) -> str:
    """Return one repetition of a CX field after the first rule that fits it; empty to leave it."""
    rule = rule_for(one, rules, marks)
    if rule is None:
        return one
    if rule.discard:
        return ""
    parts = _components(one, marks)
    namespace, *universal = parts[3].split(marks.subcomponent)
    authority = namespace or "".join(universal[:1])
    parts[0] = formatted(parts[0], rule)
    if not authority and rule.authority:
        parts[3] = rule.authority
    if authority and rule.replace_authority:
        parts[3] = marks.subcomponent.join([rule.replace_authority, *universal])
    if rule.type:
        parts[4] = rule.type
    return marks.component.join(parts).rstrip(marks.component)


def rule_for(
    one: str, rules: tuple[IdentifierRule, ...], marks: Delimiters
) -> IdentifierRule | None:
    """Return the first rule that fits one repetition of a CX field."""
    parts = _components(one, marks)
    namespace, *universal = parts[3].split(marks.subcomponent)
    number, authority, kind = parts[0], namespace or "".join(universal[:1]), parts[4]
    return next(
        (
            rule
            for rule in rules
            if (not rule.types or kind in rule.types)
            and (not rule.authorities or authority in rule.authorities)
            and (not rule.length or len(number) == rule.length)
        ),
        None,
    )


def has_wrong_digit(one: str, rule: IdentifierRule, marks: Delimiters) -> bool:
    """Tell whether a number lacks its check digit, before anything else is changed in it."""
    number, sent = _components(one, marks)[:2]
    plain = Format(remove=rule.remove, remove_prefix=rule.remove_prefix)
    digits = formatted(number, plain)
    body, last = (digits, sent) if sent else (digits[:-1], digits[-1:])
    if not body.isascii() or not body.isdigit():
        return True
    return check_digit(body, rule.check_digit) != last.upper()


def _components(one: str, marks: Delimiters) -> list[str]:
    parts = one.split(marks.component)
    return [*parts, *[""] * (5 - len(parts))]
