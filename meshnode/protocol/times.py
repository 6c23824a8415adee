"""Times: RFC 3339 texts and nanoseconds since 1970, and durations in Go's notation."""

import re
from datetime import date

import durationpy

from meshnode.errors import CommandError

SECOND = 1_000_000_000
"""Nanoseconds."""

_DAY = 86_400
_EPOCH = date(1970, 1, 1).toordinal()

FIRST_TIME = (date.min.toordinal() - _EPOCH) * _DAY * SECOND
LAST_TIME = (date.max.toordinal() + 1 - _EPOCH) * _DAY * SECOND - 1
"""The first and the last nanosecond that RFC 3339 text can say: its years have four digits."""

CLOCK_AHEAD = 20 * 365 * _DAY * SECOND
"""Nanoseconds that another node's clock may be ahead of ours. There must be a bound, because of two
messages the later one wins: one with the last time of all could never be outranked. It is wide,
because a node with a wrong clock must work: wider than what people mistype (a day, a time zone, a
year), and than the 19.6 years that a GPS receiver can be off."""

CLOCKS_SHOW = (date(2026, 1, 1).toordinal() - _EPOCH) * _DAY * SECOND
"""The earliest time that a right clock shows. On a machine without a battery the clock begins in
1970; all other nodes would be too far ahead of it."""

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,30}))?(?:[Zz]|([+-])(\d\d):(\d\d))",
    re.ASCII,
)


def parse_time(text: str) -> int:
    """Return RFC 3339 text, of any offset, as nanoseconds since 1970; finer fractions are cut off.

    Raises:
        ValueError: it is no such text, or no such time.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError("not a time as RFC 3339 has it")
    fraction, sign = match[7] or "", match[8]
    year, month, day, hour, minute, second = (int(match[i]) for i in range(1, 7))
    ahead = (int(match[9]), int(match[10])) if sign else (0, 0)
    # A minute may have a 61st second, which Unix time does not know.
    if hour > 23 or minute > 59 or second > 60 or ahead[0] > 23 or ahead[1] > 59:
        raise ValueError("no such time of day")
    offset = (ahead[0] * 60 + ahead[1]) * (-60 if sign == "-" else 60)
    days = date(year, month, day).toordinal() - _EPOCH
    seconds = days * _DAY + hour * 3600 + minute * 60 + second - offset
    return seconds * SECOND + int(f"{fraction[:9]:0<9}")


def format_time(nanoseconds: int) -> str:
    """Return nanoseconds since 1970 as RFC 3339 text in UTC, with nine digits of the fraction.

    What lies before the year 1 or after 9999 becomes the nearest time that has a text.
    """
    seconds, fraction = divmod(min(max(nanoseconds, FIRST_TIME), LAST_TIME), SECOND)
    days, rest = divmod(seconds, _DAY)
    minutes, second = divmod(rest, 60)
    hour, minute = divmod(minutes, 60)
    day = date.fromordinal(_EPOCH + days).isoformat()
    return f"{day}T{hour:02}:{minute:02}:{second:02}.{fraction:09}Z"


def latest_believed(now: int) -> int:
    """Return the latest time that is accepted from another node while our clock shows ``now``."""
    return max(now, CLOCKS_SHOW) + CLOCK_AHEAD


# --- Durations as receptor's users write them and its replies show them: Go's grammar, both ways

_UNITS = frozenset({"ns", "us", "µs", "μs", "ms", "s", "m", "h"})
# durationpy also takes days, weeks and years, and skips what stands between two terms. Go does not,
# and a ttl that one node takes must not be refused by the next. So the grammar is checked here, and
# durationpy does the sum.
_TERM = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([^0-9.]*)")

_MAX_SECONDS = (2**63 - 1) / 1e9
"""Go keeps a duration in 64 bits of nanoseconds (292 years) and refuses more."""

_NANOSECONDS = {"ns": 1, "µs": 1_000, "ms": 1_000_000}
_SECOND = 1_000_000_000


class InvalidDuration(CommandError, ValueError):
    """A text is no duration. The wording is Go's, which clients match (protocol section 8)."""


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
