"""Replies as text for people: tables with aligned columns, no more."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from meshctl.api.errors import ProtocolMismatch
from meshctl.api.status import UNFINISHED, moment, remote_part, work_type
from meshctl.render.clients import CLIENT_KEYS, in_words, shown_params, who_briefly
from meshctl.render.output import json_text, size


def laid_out(lines: Callable[[], Iterable[str]]) -> list[str]:
    """Return lines that are made of a node's reply.

    Raises:
        ProtocolMismatch: the reply has other kinds of values than a node's has.
    """
    try:
        return list(lines())
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ProtocolMismatch(
            f"the node's reply is not one that can be shown ({error}); --json has all of it"
        ) from error


# --- The links of a node as a table for people: what meshnode adds to a connection's two values

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


CONN_TYPES = {0: "Datagram", 1: "Stream", 2: "StreamTLS"}
"""ConnType of a service advertisement (protocol section 6)."""

NARROWEST_NODE = 12
"""Columns of the node column at least, as in receptorctl's status."""

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d).*")


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], width: int | None = None
) -> list[str]:
    """Lay rows out under a header, each column as wide as its widest cell.

    A ``width`` cuts lines there, where the last column has room for a few words at least.
    """
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    if width is not None:
        width = max(width, sum(widths[:-1]) + 2 * len(widths[:-1]) + NARROWEST_LAST)
    laid = [
        "  ".join(cell.ljust(wide) for cell, wide in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    if width is None:
        return laid
    return [line if len(line) <= width else f"{line[: width - 1]}…" for line in laid]


NARROWEST_LAST = 20
"""Columns of a table's last column at least, however narrow the terminal is."""

OPTIONAL = ("By", "Params")
"""Columns that are left out if they would be empty, as for a receptor node."""


def unit_table(
    units: Mapping[str, Mapping[str, Any]], now: datetime, width: int | None = None
) -> list[str]:
    """One line a unit: where it runs, what it is, whose it is, how it is; the newest last.

    A receptor node does not say when a unit was made: its units are in the order of their IDs.
    """
    rows = []
    for unit_id, status in sorted(units.items(), key=_order):
        remote = remote_part(status)
        rows.append(
            [
                unit_id,
                str(remote.get("RemoteNode", "-")),
                work_type(status),
                str(status.get("StateName", status.get("State", ""))),
                *_times(status, now),
                _stdout_size(status),
                who_briefly(status.get("SubmittedBy")),
                shown_params(status),
                str(status.get("Detail", "")) + _pending(status, remote),
            ]
        )
    if not rows:
        return ["No units of work."]
    first = ("Unit ID", "Node", "Work Type", "State", "Age", "Duration", "Stdout")
    header = [*first, *OPTIONAL, "Detail"]
    kept = [
        i
        for i, name in enumerate(header)
        if name not in OPTIONAL or any(row[i] != "-" for row in rows)
    ]
    return table([header[i] for i in kept], [[row[i] for i in kept] for row in rows], width)


def _order(unit: tuple[str, Mapping[str, Any]]) -> tuple[str, str]:
    unit_id, status = unit
    return str(status.get("Created", "")), unit_id


def _times(status: Mapping[str, Any], now: datetime) -> tuple[str, str]:
    """How long ago the unit was made, and how long it has run; ``-`` for what is not told."""
    made, started = moment(status, "Created"), moment(status, "Started")
    end = now if status.get("State") in UNFINISHED else moment(status, "Finished")
    return _span(made, now), _span(started, end)


def _span(start: datetime | None, end: datetime | None) -> str:
    if start is None or end is None:
        return "-"
    # Clocks differ: what seems to lie ahead has only just happened.
    return uptime(max((end - start).total_seconds(), 0) * 1e9)


def _stdout_size(status: Mapping[str, Any]) -> str:
    known = status.get("StdoutSize")
    return size(known) if isinstance(known, int) else "-"


def _pending(status: Mapping[str, Any], remote: Mapping[str, Any]) -> str:
    """What was asked for and waits for the unit's node: it would look forgotten otherwise."""
    if remote.get("LocalReleased"):
        return " (release pending)"
    if remote.get("LocalCancelled") and status.get("State") in UNFINISHED:
        return " (cancel pending)"
    return ""


def unit_lines(unit_id: str, status: Mapping[str, Any]) -> list[str]:
    """The status of one unit, one line a value; what a remote unit adds is indented."""
    rows = [("Unit ID", unit_id)]
    for key, value in status.items():
        if key in CLIENT_KEYS:
            rows.append((key, in_words(key, value)))
        elif isinstance(value, dict):
            rows.append((key, ""))
            rows.extend((f"  {inner}", _value(inner_value)) for inner, inner_value in value.items())
        else:
            rows.append((key, _value(value)))
    width = max(len(key) for key, _ in rows) + 2
    return [f"{key + ':':<{width}} {value}".rstrip() for key, value in rows]


def _value(value: object) -> str:
    return "-" if value is None else str(value)


def status_lines(status: Mapping[str, Any], *, for_people: bool = False) -> Iterator[str]:
    """A node's status in receptorctl's layout, which scripts read by its headings.

    ``for_people`` adds what there is to say about each link.
    """
    yield f"Node ID: {status.get('NodeID', '')}"
    yield f"Version: {status.get('Version', '')}"
    yield f"System CPU Count: {status.get('SystemCPUCount', '')}"
    yield f"System Memory MiB: {status.get('SystemMemoryMiB', '')}"
    yield from (f"Warning: {line}" for line in status.get("Warnings") or [])
    connections = status.get("Connections") or []
    costs = status.get("KnownConnectionCosts") or {}
    routes = status.get("RoutingTable") or {}
    adverts = status.get("Advertisements") or []
    names = [str(connection.get("NodeID", "")) for connection in connections] + list(costs)
    width = max([NARROWEST_NODE, *map(len, names)])
    if connections and for_people:
        yield from ("", *link_table(connections, width))
    elif connections:
        yield from ("", f"{'Connection':<{width}} Cost")
        for connection in connections:
            yield f"{connection.get('NodeID', ''):<{width}} {connection.get('Cost', '')}"
    if costs:
        yield from ("", f"{'Known Node':<{width}} Known Connections")
        for node, peers in costs.items():
            yield f"{node:<{width}} " + "".join(f"{p}: {c} " for p, c in (peers or {}).items())
    if routes:
        yield from ("", f"{'Route':<{width}} Via")
        for node, via in routes.items():
            yield f"{node:<{width}} {via}"
    if adverts:
        yield from ("", f"{'Node':<{width}} Service   Type       Last Seen             Tags")
        yield from (_advert_line(advert, width) for advert in adverts)
        yield from _work_types(adverts, width, "Work Types", secure=False)
        yield from _work_types(adverts, width, "Secure Work Types", secure=True)
    rest = {key: value for key, value in status.items() if key not in _SHOWN}
    if rest:
        yield "Additional data returned from Receptor:"
        yield from json_text(rest).splitlines()


_SHOWN = {
    "NodeID",
    "Version",
    "SystemCPUCount",
    "SystemMemoryMiB",
    "Connections",
    "KnownConnectionCosts",
    "RoutingTable",
    "Advertisements",
    "Warnings",
}


def _advert_line(advert: Mapping[str, Any], width: int) -> str:
    kind = CONN_TYPES.get(advert.get("ConnType", -1), "Unknown")
    tags = "-" if advert.get("Tags") is None else str(advert["Tags"])
    time = str(advert.get("Time", ""))
    match = _TIME.fullmatch(time)
    seen = f"{match[1]} {match[2]}" if match else time
    node, service = advert.get("NodeID", ""), advert.get("Service", "")
    return f"{node:<{width}} {service:<9} {kind:<10} {seen:<21} {tags:<16}"


def _work_types(
    adverts: Sequence[Mapping[str, Any]], width: int, header: str, *, secure: bool
) -> Iterator[str]:
    """The work types of each node, which may advertise them with several services."""
    nodes: dict[str, list[str]] = {}
    for advert in adverts:
        kinds = [
            str(command.get("WorkType", ""))
            for command in advert.get("WorkCommands") or []
            if bool(command.get("Secure")) is secure
        ]
        if kinds:
            nodes.setdefault(advert.get("NodeID", ""), kinds)
    if nodes:
        yield from ("", f"{'Node':<{width}} {header}")
        yield from (f"{node:<{width}} {', '.join(kinds)}" for node, kinds in nodes.items())
