"""What stands in the query of a request, and in the path, as values. Raises Problem."""

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from starlette.requests import Request

from meshnode.errors import CommandError
from meshnode.protocol.times import parse_duration
from meshnode.web.problems import MALFORMED, Problem

MOST: Final = 2**53
"""Numbers beyond that are none of bytes: JSON's readers lose their last digits."""

MOST_SECONDS: Final = 86400.0
"""Seconds that a request may wait: a client that waits for days asks again, as proxies make it."""

TRUE, FALSE = frozenset({"true", "1", "yes", ""}), frozenset({"false", "0", "no"})

_NUMBER = re.compile(r"[0-9]{1,18}")


def check_names(request: Request, *names: str, several: Collection[str] = ()) -> None:
    """Refuse what stands in a query and would be taken for nothing: names that are not known, and
    a second value of one that is not among ``several``.
    """
    known = [*names, *several]
    for name in request.query_params:
        if name not in known:
            takes = ", ".join(known) or "nothing"
            raise Problem(MALFORMED, f"the query has {name[:40]!r}; this address takes {takes}")
        if name not in several and len(request.query_params.getlist(name)) > 1:
            raise Problem(MALFORMED, f"the query has {name} more than once")


def whole_number(request: Request, name: str, default: int, most: int = MOST) -> int:
    """Return a number from 0 to ``most``."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if _NUMBER.fullmatch(text) and int(text) <= most:
        return int(text)
    raise Problem(MALFORMED, f"{name} must be a whole number from 0 to {most}, not {text[:40]!r}")


def flag(request: Request, name: str, *, default: bool) -> bool:
    """Return whether something is wanted."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if text.lower() in TRUE | FALSE:
        return text.lower() in TRUE
    raise Problem(MALFORMED, f"{name} must be true or false, not {text[:40]!r}")


def seconds(request: Request, name: str, default: float) -> float:
    """Return a span: a number of seconds, or as 30s, 5m, 1h30m."""
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        span = float(text) if re.fullmatch(r"[0-9.]{1,18}", text) else parse_duration(text)
    except (ValueError, CommandError):
        span = -1.0
    if 0 <= span <= MOST_SECONDS:
        return span
    most = f"{MOST_SECONDS:.0f}"
    raise Problem(MALFORMED, f"{name} must be 0 to {most} seconds, or as 30s, not {text[:40]!r}")


def moment(request: Request, name: str) -> datetime | None:
    """Return a time, given as RFC 3339 has it, in UTC."""
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text.replace(" ", "+"))
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # a time that has no year in UTC
        example = "2026-11-26T08:00:00Z"
        raise Problem(MALFORMED, f"{name} must be a time as {example}, not {text[:40]!r}") from None


def choice(request: Request, name: str, words: Mapping[str, Any]) -> str:
    """Return one of some words; the first where none is given."""
    text = request.query_params.get(name, next(iter(words)))
    if text in words:
        return text
    raise Problem(MALFORMED, f"{name} must be {', '.join(words)}, not {text[:40]!r}")
