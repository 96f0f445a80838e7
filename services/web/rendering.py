"""Templates, and how values are written for people."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

HERE: Final = Path(__file__).parent
STATIC: Final = HERE / "static"

_SEX: Final = {"F": "female", "M": "male", "O": "other"}
_PREGNANCY: Final = {1: "not pregnant", 2: "possibly pregnant", 3: "pregnant", 4: "unknown"}


def render(template: str, **values: Any) -> str:
    """Return the page; every value is escaped."""
    return _environment.get_template(template).render(**values)


def person(pn: str) -> str:
    """Return a DICOM PN as people write it: ``FAMILY, Given Middle``."""
    family, _, rest = pn.split("=", 1)[0].partition("^")
    given, middle, prefix, suffix, *_ = [*rest.split("^"), "", "", "", ""]
    called = " ".join(part for part in (prefix, given, middle, suffix) if part)
    return f"{family}, {called}" if family and called else family or called or "no name"


def age(born: str | date | None, now: datetime | None = None) -> str:
    """Return an age in years, below two in months; empty when nobody said."""
    if not born:
        return ""
    birth = date.fromisoformat(born) if isinstance(born, str) else born
    today = (now or datetime.now(UTC)).date()
    months = (today.year - birth.year) * 12 + today.month - birth.month
    months -= today.day < birth.day
    return f"{months} mo" if months < 24 else f"{months // 12} y"


def sex(code: str) -> str:
    """Return what (0010,0040) means."""
    return _SEX.get(code, "sex unknown")


def moment(value: str | None, *, seconds: bool = False) -> Markup:
    """Return a ``time`` element in UTC; the page's script shows it in the reader's own time."""
    if not value:
        return Markup('<span class="none">–</span>')
    at = datetime.fromisoformat(value).astimezone(UTC)
    return Markup('<time datetime="{iso}" title="{iso}" data-at="{kind}">{text} UTC</time>').format(
        iso=at.isoformat(timespec="seconds"),
        kind="s" if seconds else "m",
        text=at.strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M"),
    )


def clock(value: str | None, *, fine: bool = False) -> Markup:
    """Return the time since `value`, which the page's script keeps running."""
    if not value:
        return Markup('<span class="none">–</span>')
    at = datetime.fromisoformat(value).astimezone(UTC)
    return Markup('<time class="clock" datetime="{iso}" data-clock="{kind}">{text}</time>').format(
        iso=at.isoformat(timespec="seconds"),
        kind="s" if fine else "m",
        text=span((datetime.now(UTC) - at).total_seconds(), fine=fine),
    )


def span(seconds: float, *, fine: bool = False) -> str:
    """Return a time span, with seconds if `fine`; reading.js writes the same."""
    whole = max(0, int(seconds))
    days, hours, minutes = whole // 86400, whole % 86400 // 3600, whole % 3600 // 60
    if fine and not days:
        return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


def megabytes(size: int) -> str:
    """Return a size in MB."""
    return f"{size / 1e6:.1f} MB"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _versions() -> dict[str, str]:
    # The name of a file changes with its content, so that a browser may keep it for ever.
    return {
        file.name: sha256(file.read_bytes()).hexdigest()[:12]
        for file in sorted(STATIC.iterdir())
        if file.is_file()
    }


def _build() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        person=person,
        age=age,
        sex=sex,
        moment=moment,
        clock=clock,
        megabytes=megabytes,
        plain=_plain,
    )
    environment.globals.update(assets=_versions(), pregnancy=_PREGNANCY)
    return environment


_environment = _build()
