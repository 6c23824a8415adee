"""Durations as receptor's users write them and its replies show them: Go's grammar, both ways."""

import re

import durationpy

from meshnode.errors import CommandError

_UNITS = frozenset({"ns", "us", "µs", "μs", "ms", "s", "m", "h"})
# durationpy knows days, weeks and years too, and skips what stands between two terms; Go knows
# neither, and a ttl that one node takes must not be refused by the next. So the grammar is checked
# here, term by term, and durationpy does the sum.
_TERM = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([^0-9.]*)")

_MAX_SECONDS = (2**63 - 1) / 1e9
"""Go keeps a duration in 64 bits of nanoseconds (292 years); more is an invalid one there."""

_NANOSECONDS = {"ns": 1, "µs": 1_000, "ms": 1_000_000}
_SECOND = 1_000_000_000


class InvalidDuration(CommandError, ValueError):
    """A text is no duration. The wording is Go's, which clients match (reference section 8)."""


def parse_duration(text: str) -> float:
    """Return the seconds in a text such as ``1h30m``, ``-1.5s``, ``250ms`` or ``0``.

    Raises:
        InvalidDuration: the text is none, e.g. ``time: invalid duration "bogus"``.
    """
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    invalid = InvalidDuration(f"time: invalid duration {quoted}")
    terms = text[1:] if text[:1] in {"+", "-"} else text
    if terms == "0":
        return 0.0
    position = 0
    while position < len(terms):
        term = _TERM.match(terms, position)
        if term is None:
            raise invalid
        if not term[2]:
            raise InvalidDuration(f"time: missing unit in duration {quoted}")
        if term[2] not in _UNITS:
            raise InvalidDuration(f'time: unknown unit "{term[2]}" in duration {quoted}')
        position = term.end()
    try:
        seconds: float = durationpy.from_str(text).total_seconds()
    except durationpy.DurationError:
        raise invalid from None
    if abs(seconds) > _MAX_SECONDS:
        raise invalid
    return seconds


def format_duration(nanoseconds: int) -> str:
    """Return a duration as Go prints it: ``312.513µs``, ``1.5s``, ``1m0s``, ``-2h0m0.5s``."""
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if 0 < rest < _SECOND:
        unit = max(
            (u for u in _NANOSECONDS if _NANOSECONDS[u] <= rest), key=_NANOSECONDS.__getitem__
        )
        return sign + _decimal(rest, _NANOSECONDS[unit]) + unit
    minutes, rest = divmod(rest, 60 * _SECOND)
    hours, minutes = divmod(minutes, 60)
    text = _decimal(rest, _SECOND) + "s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    if hours:
        text = f"{hours}h{text}"
    return sign + text


def _decimal(value: int, unit: int) -> str:
    """``value / unit`` in decimals, exact, without trailing zeros."""
    whole, fraction = divmod(value, unit)
    digits = str(fraction).rjust(len(str(unit)) - 1, "0").rstrip("0") if fraction else ""
    return f"{whole}.{digits}" if digits else str(whole)
