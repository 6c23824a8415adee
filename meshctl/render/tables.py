"""Units as text for people: tables with aligned columns, no more."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from meshctl.api.errors import ProtocolMismatch
from meshctl.api.status import UNFINISHED, remote_part, work_type
from meshctl.render.clients import (
    CLIENT_KEYS,
    canceled_briefly,
    in_words,
    killed,
    shown_params,
    who_briefly,
)
from meshctl.render.columns import columns_of, cut
from meshctl.render.output import printable, size
from meshctl.render.times import age_and_duration, duration, exact


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


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], width: int | None = None
) -> list[str]:
    """Lay rows out under a header, each column as wide as its widest cell, all of it printable.

    A ``width`` cuts lines there, where the last column has room for a few words at least.
    """
    # First: what is escaped takes more columns.
    lines = [[printable(cell) for cell in line] for line in (header, *rows)]
    widths = [max(columns_of(line[i]) for line in lines) for i in range(len(header))]
    if width is not None:
        width = max(width, sum(widths[:-1]) + 2 * len(widths[:-1]) + NARROWEST_LAST)
    laid = [
        "  ".join(
            cell + " " * (wide - columns_of(cell)) for cell, wide in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]
    if width is None:
        return laid
    return [line if columns_of(line) <= width else f"{cut(line, width - 1)}…" for line in laid]


NARROWEST_LAST = 20
"""Columns of a table's last column at least, however narrow the terminal is."""

OPTIONAL = ("Host", "By", "Params", "Labels")
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
                _host(status),
                work_type(status),
                str(status.get("StateName", status.get("State", ""))),
                *age_and_duration(status, now),
                _stdout_size(status),
                who_briefly(status.get("SubmittedBy")),
                shown_params(status),
                _labels(status),
                canceled_briefly(status) + _pending(status, remote),
            ]
        )
    if not rows:
        return ["No units of work."]
    what = ("Work Type", "State", "Age", "Duration", "Stdout")
    header = ["Unit ID", "Node", "Host", *what, "By", "Params", "Labels", "Detail"]
    kept = [
        i
        for i, name in enumerate(header)
        if name not in OPTIONAL or any(row[i] != "-" for row in rows)
    ]
    return table([header[i] for i in kept], [[row[i] for i in kept] for row in rows], width)


def _order(unit: tuple[str, Mapping[str, Any]]) -> tuple[str, str]:
    unit_id, status = unit
    return str(status.get("Created", "")), unit_id


def _host(status: Mapping[str, Any]) -> str:
    """The host without a node that it runs on, for this node or another."""
    host = status.get("Host")
    return str(host.get("Name", "-")) if isinstance(host, dict) else "-"


def _labels(status: Mapping[str, Any]) -> str:
    labels = status.get("Labels")
    if not isinstance(labels, dict) or not labels:
        return "-"
    return " ".join(f"{name}={value}" if value else name for name, value in labels.items())


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


def unit_lines(unit_id: str, status: Mapping[str, Any], now: datetime) -> list[str]:
    """The status of one unit, one line a value; what a remote unit adds is indented.

    Behind the times stands how long it ran, behind its signal whether and by whom it was killed.
    """
    rows = [("Unit ID", unit_id)]
    for key, value in status.items():
        if key in CLIENT_KEYS:
            rows.append((key, in_words(key, value)))
        elif isinstance(value, dict):
            rows.append((key, ""))
            shown = _measured if key in MEASURES else _other
            rows.extend((f"  {inner}", shown(inner, of)) for inner, of in value.items())
        else:
            rows.append((key, _value(value)))
        if key == "Finished":
            span = duration(status, now)
            rows.append(("Duration", "-" if span is None else exact(span)))
        elif key == "Signal":
            rows.append(("Killed", killed(status)))
    width = max(len(key) for key, _ in rows) + 2
    return [f"{key + ':':<{width}} {value}".rstrip() for key, value in rows]


MEASURES = ("Limits", "Usage")
"""Keys of a status below which stand numbers of bytes and of seconds."""

BYTES = frozenset({"memory", "swap", "PeakMemory", "ReadBytes", "WrittenBytes"})
BYTES_A_SECOND = frozenset({"io-read", "io-write"})


def _measured(name: str, value: object) -> str:
    """Return a limit, or what was used, as people write it."""
    match value:
        case int() | float() if name in BYTES:
            return size(value)
        case int() | float() if name in BYTES_A_SECOND:
            return f"{size(value)}/s"
    return f"{_value(value)} s" if name == "CpuSeconds" else _value(value)


def _other(name: str, value: object) -> str:
    return _value(value)


def _value(value: object) -> str:
    return "-" if value is None else str(value)
