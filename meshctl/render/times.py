"""Spans of time as people read them, and how long a unit has run."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from meshctl.api.status import UNFINISHED, moment

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_SPANS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
"""Seconds of the units in which a span is shown."""

EXACT_BELOW = 60 * 10**9
"""Nanoseconds of a span below which its part of a second counts."""


def uptime(nanoseconds: float) -> str:
    """A span in its two largest units: ``3d4h``, ``5m0s``, ``12s``."""
    seconds = int(nanoseconds // 1_000_000_000)
    for i, (unit, letter) in enumerate(_SPANS[:-1]):
        if seconds >= unit:
            smaller, small_letter = _SPANS[i + 1]
            return f"{seconds // unit}{letter}{seconds % unit // smaller}{small_letter}"
    return f"{seconds}s"


def round_trip(nanoseconds: float) -> str:
    """A round-trip time to three digits: ``312µs``, ``1.25ms``, ``2.1s``."""
    for unit, name in ((1e9, "s"), (1e6, "ms")):
        if nanoseconds >= unit:
            return f"{nanoseconds / unit:.3g}{name}"
    return f"{nanoseconds / 1e3:.3g}µs"


def exact(nanoseconds: float) -> str:
    """A span to three digits where it is short, else in its two largest units."""
    return round_trip(nanoseconds) if nanoseconds < EXACT_BELOW else uptime(nanoseconds)


def span_of(start: datetime | None, end: datetime | None) -> float | None:
    """Return the nanoseconds from one moment to another, None where one of them is not told."""
    if start is None or end is None:
        return None
    # Clocks differ: what seems to lie ahead has only just happened.
    return max((end - start).total_seconds(), 0) * 1e9


def duration(status: Mapping[str, Any], now: datetime) -> float | None:
    """Return for how many nanoseconds a unit has run; None where nobody tells, or not yet."""
    end = now if status.get("State") in UNFINISHED else moment(status, "Finished")
    return span_of(moment(status, "Started"), end)


def age_and_duration(status: Mapping[str, Any], now: datetime) -> tuple[str, str]:
    """How long ago a unit was made, and how long it has run; ``-`` for what is not told."""
    age, span = span_of(moment(status, "Created"), now), duration(status, now)
    return "-" if age is None else uptime(age), "-" if span is None else uptime(span)


def stamp(microseconds: int) -> str:
    """A moment since 1970 as nodes write it: ``2026-11-26T08:00:00.123456Z``."""
    try:
        told = _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:  # no calendar has it
        told = datetime.max
    return f"{told.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
