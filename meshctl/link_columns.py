"""The links of a node as a table for people: what meshnode adds to a connection's two values."""

from collections.abc import Mapping, Sequence
from typing import Any

_HEADER = ("Link", "Up", "RTT", "Sent", "Received", "Dropped")

_SPANS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
"""Seconds of the units in which an uptime is shown."""


def link_table(connections: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """Lay out connections with the first column ``width`` wide; what is not known is ``-``.

    A receptor node says only what a link costs; so do old meshnodes.
    """
    rows = [
        (f"{'Connection':<{width}}", "Cost", *_HEADER),
        *(
            (f"{c.get('NodeID', '')!s:<{width}}", str(c.get("Cost", "")), *_cells(c))
            for c in connections
        ),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(2 + len(_HEADER))]
    # The first two columns stand as receptorctl has them.
    return [
        (
            f"{row[0]} " + "  ".join(c.ljust(w) for c, w in zip(row[1:], widths[1:], strict=True))
        ).rstrip()
        for row in rows
    ]


def _cells(connection: Mapping[str, Any]) -> tuple[str, ...]:
    link = f"{connection.get('Kind', '')} {connection.get('Address', '')}".strip()
    return (
        link or "-",
        _or_dash(connection.get("Uptime"), uptime),
        _or_dash(connection.get("RoundTrip"), round_trip),
        _or_dash(connection.get("SentBytes"), size),
        _or_dash(connection.get("ReceivedBytes"), size),
        _or_dash(connection.get("Dropped"), str),
    )


def _or_dash(value: object, show: Any) -> str:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return str(show(value)) if known else "-"


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


def size(count: float) -> str:
    """A number of bytes in the largest unit that leaves a digit before the point."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
