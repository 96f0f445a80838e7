"""What an audit found, as people and programs are told it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from services.identity.audit.formats import mask

_EXAMPLES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One case.

    Attributes
    ----------
    numbers
        Whole; they are masked unless somebody asks for them.
    said
        What differs, without a name, a date or a number.
    where
        The messages and files to look at.
    """

    numbers: tuple[str, ...]
    said: str = ""
    where: tuple[str, ...] = ()

    def as_json(self, *, whole: bool) -> dict[str, Any]:
        """Return it for a program."""
        numbers = [n if whole else mask(n) for n in self.numbers]
        return {"numbers": numbers, "said": self.said, "where": list(self.where)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A piece of an interface profile, and what became of the cases when it was applied.

    Attributes
    ----------
    toml
        Ready to be pasted.
    gone, of
        How many cases it settles, and of how many.
    broken
        How many numbers agreed without it and would not with it.
    """

    toml: str
    gone: int
    of: int
    broken: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One kind of trouble.

    Attributes
    ----------
    kind
        A stable word for programs.
    fault
        Whether it needs attention before the feed is connected; otherwise it is only good to know.
    """

    kind: str
    fault: bool
    what: str
    count: int
    examples: tuple[Example, ...] = ()
    rule: Rule | None = None


def finding(
    kind: str, what: str, cases: Iterable[Example], *, fault: bool = True, rule: Rule | None = None
) -> list[Finding]:
    """Return the finding that these cases are; none where there is no case."""
    counted = iter(cases)
    examples = tuple(islice(counted, _EXAMPLES))
    if not examples:
        return []
    count = len(examples) + sum(1 for _ in counted)
    return [Finding(kind=kind, fault=fault, what=what, count=count, examples=examples, rule=rule)]
