"""The status of a node: a page for people, and lines for pipes.

Pipes get receptorctl's layout, which scripts read by its headings, and what is ours behind it.
People get the same and more, what needs them first: sorted, within their terminal's width, and in
colour. A receptor node says less, and all of that is shown.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from meshctl.render.columns import Cell, Terminal
from meshctl.render.loads import shown_tag
from meshctl.render.output import json_text, size
from meshctl.render.times import round_trip, uptime

Reply = Mapping[str, Any]

CONN_TYPES = {0: "Datagram", 1: "Stream", 2: "StreamTLS"}
"""ConnType of a service advertisement (protocol section 6)."""

NARROWEST_NODE = 12
"""Columns of the node column at least, as in receptorctl's status."""

_STYLES = {
    "up": "good",
    "linked": "good",
    "listening": "good",
    "dialing": "changing",
    "opening": "changing",
    "waiting": "bad",
    "given up": "bad",
    "closed": "bad",
}
"""The styles of the states of peers and listeners."""

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d).*")

_NUMBERS = re.compile(r"(\d{1,20})")


def status_lines(status: Reply) -> Iterator[str]:
    """A node's status in receptorctl's layout, with what is ours behind it."""
    yield from _head(status)
    yield from (f"Warning: {line}" for line in status.get("Warnings") or [])
    width = _width_of_names(status)
    connections = status.get("Connections") or []
    costs = status.get("KnownConnectionCosts") or {}
    routes = status.get("RoutingTable") or {}
    adverts = status.get("Advertisements") or []
    if connections:
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
        for heading, secure in _WORK_TYPES:
            types = _work_types(adverts, secure=secure)
            if types:
                yield from ("", f"{'Node':<{width}} {heading}")
                yield from (f"{node:<{width}} {', '.join(kinds)}" for node, kinds in types.items())
    yield from _links(status, Terminal())
    yield from _counts(status)
    yield from _rest(status)


def status_page(status: Reply, terminal: Terminal) -> Iterator[str]:
    """A node's status for people; the lines may be printed as they are."""
    yield from (terminal.line(line) for line in _head(status))
    for line in status.get("Warnings") or []:
        yield terminal.line(f"Warning: {line}", "changing")
    yield from _links(status, terminal)
    least = _width_of_names(status) - 1
    for heading, rows in _mesh(status):
        if rows:
            yield from ("", *terminal.table(heading, rows, least))
    yield from (terminal.line(line) for line in (*_counts(status), *_rest(status)))


# --- what both have ------------------------------------------------------------------------------


def _head(status: Reply) -> Iterator[str]:
    yield f"Node ID: {status.get('NodeID', '')}"
    yield f"Version: {status.get('Version', '')}"
    yield f"System CPU Count: {status.get('SystemCPUCount', '')}"
    yield f"System Memory MiB: {status.get('SystemMemoryMiB', '')}"
    if limits := status.get("Limits"):
        yield f"Limits kept by: {limits}"


def _width_of_names(status: Reply) -> int:
    names = [str(c.get("NodeID", "")) for c in status.get("Connections") or []]
    names += list(status.get("KnownConnectionCosts") or {})
    return max([NARROWEST_NODE, *map(len, names)])


def _counts(status: Reply) -> Iterator[str]:
    """Say what became of messages: ``Firewall: 0 dropped, 3 rejected``."""
    for key in _COUNTED:
        counts = status.get(key) or {}
        if counts:
            told = ", ".join(f"{count} {name.lower()}" for name, count in counts.items())
            yield from ("", f"{key}: {told}")


def _rest(status: Reply) -> Iterator[str]:
    rest = {key: value for key, value in status.items() if key not in _SHOWN}
    if rest:
        yield "Additional data returned from Receptor:"
        yield from json_text(rest).splitlines()


_COUNTED = ("Firewall", "Dropped")
"""Keys with numbers of messages."""

_SHOWN = {
    *_COUNTED,
    "NodeID",
    "Version",
    "SystemCPUCount",
    "SystemMemoryMiB",
    "Connections",
    "KnownConnectionCosts",
    "RoutingTable",
    "Advertisements",
    "Warnings",
    "Peers",
    "Listeners",
    "Rejected",
    "Certificates",
    "Limits",
}

# --- configured links: what meshnodes say of them ------------------------------------------------


def _links(status: Reply, terminal: Terminal) -> Iterator[str]:
    tables = (
        (
            ("Peer", "State", "For", "Tries", "Next", "Node, or what is wrong"),
            [_peer(peer) for peer in _by_address(status.get("Peers"))],
        ),
        (
            ("Listener", "State", "For", "Links", "Opening", "Last trouble"),
            [_listener(listener) for listener in _by_address(status.get("Listeners"))],
        ),
        (
            ("Rejected", "Address", "By", "Times", "Last", "Reason"),
            [_rejected(rejected) for rejected in _latest_first(status.get("Rejected"))],
        ),
        (
            ("Certificate", "Nodes", "Hosts", "Until", "Left", "File"),
            [_certificate(shown) for shown in status.get("Certificates") or []],
        ),
    )
    for heading, rows in tables:
        if rows:
            yield from ("", *terminal.table(heading, rows))


def _by_address(entries: Iterable[Reply] | None) -> list[Reply]:
    return sorted(entries or [], key=lambda e: natural(f"{e.get('Directive')} {e.get('Address')}"))


def _latest_first(entries: Iterable[Reply] | None) -> list[Reply]:
    return sorted(entries or [], key=lambda e: str(e.get("Last", "")), reverse=True)


def natural(text: str) -> list[tuple[int, str]]:
    """Return what sorts texts so that numbers in them count: ``node-9`` before ``node-10``."""
    parts = _NUMBERS.split(text)
    return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)]


def _peer(peer: Reply) -> list[Cell]:
    is_up = peer.get("State") in ("up", "linked")
    said = peer.get("NodeID") if is_up else peer.get("LastError")
    return [
        Cell.of(f"{peer.get('Directive', '')} {peer.get('Address', '')}"),
        _state(peer),
        _span(peer.get("Age")),
        Cell.of(peer.get("Attempts", "-")),
        _span(peer.get("NextTryIn")),
        Cell.of(said or "-", "" if is_up else "bad"),
    ]


def _listener(listener: Reply) -> list[Cell]:
    trouble = listener.get("LastError")
    if trouble is None:
        last = Cell("-")
    elif listener.get("State") == "closed":
        last = Cell.of(trouble, "bad")
    else:
        last = Cell.of(f"{_span(listener.get('LastErrorAge')).text} ago: {trouble}")
    return [
        Cell.of(f"{listener.get('Directive', '')} {listener.get('Address', '')}"),
        _state(listener),
        _span(listener.get("Age")),
        Cell.of(listener.get("Links", "-")),
        Cell.of(listener.get("Opening", "-")),
        last,
    ]


def _rejected(rejected: Reply) -> list[Cell]:
    age = _span(rejected.get("LastAge")).text
    return [
        Cell.of(rejected.get("NodeID") or "-"),
        Cell.of(rejected.get("Address") or "-"),
        Cell.of(rejected.get("Via") or "-"),
        Cell.of(rejected.get("Count", "-")),
        Cell("-" if age == "-" else f"{age} ago"),
        Cell.of(rejected.get("Reason") or "-", "bad"),
    ]


SOON = 30 * 86_400 * 10**9
"""Nanoseconds before its end at which a certificate is marked."""


def _certificate(shown: Reply) -> list[Cell]:
    left = shown.get("EndsIn")
    is_over = isinstance(left, int) and left <= 0
    style = "bad" if is_over else "changing" if isinstance(left, int) and left < SOON else ""
    until = _TIME.sub(r"\1", str(shown.get("NotAfter", "-")))
    return [
        Cell.of(f"{shown.get('Directive', '')} {shown.get('Name', '')}"),
        Cell.of(", ".join(map(str, shown.get("NodeIDs") or [])) or "-"),
        Cell.of(", ".join(map(str, shown.get("Hosts") or [])) or "-"),
        Cell.of(until, style),
        Cell.of("over", style) if is_over else Cell.of(_span(left).text, style),
        Cell.of(shown.get("File") or "-"),
    ]


def _state(entry: Reply) -> Cell:
    state = entry.get("State", "-")
    return Cell.of(state, _STYLES.get(state, ""))


def _span(nanoseconds: object) -> Cell:
    return Cell(_or_dash(nanoseconds, uptime))


# --- the mesh, for people ------------------------------------------------------------------------

_LINK_HEADING = ("Connection", "Cost", "Link", "Up", "RTT", "Sent", "Received", "Dropped")


def _mesh(status: Reply) -> Iterator[tuple[Sequence[str], list[list[Cell]]]]:
    """Yield the heading and the rows of each table about the mesh."""
    connections = status.get("Connections") or []
    yield (
        _LINK_HEADING,
        [link_cells(c) for c in sorted(connections, key=lambda c: natural(str(c.get("NodeID"))))],
    )
    costs = status.get("KnownConnectionCosts") or {}
    yield (
        ("Known Node", "Known Connections"),
        [
            [Cell.of(node), Cell.of(" ".join(f"{p}: {c}" for p, c in _sorted(costs[node] or {})))]
            for node, _ in _sorted(costs)
        ],
    )
    routes = status.get("RoutingTable") or {}
    yield ("Route", "Via"), [[Cell.of(node), Cell.of(via)] for node, via in _sorted(routes)]
    adverts = sorted(
        status.get("Advertisements") or [],
        key=lambda ad: (natural(str(ad.get("NodeID"))), natural(str(ad.get("Service")))),
    )
    yield ("Node", "Service", "Type", "Last Seen", "Tags"), [_advert_cells(ad) for ad in adverts]
    for heading, secure in _WORK_TYPES:
        types = _work_types(adverts, secure=secure)
        rows = [[Cell.of(node), Cell.of(", ".join(kinds))] for node, kinds in types.items()]
        yield ("Node", heading), rows


def _sorted(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(values.items(), key=lambda item: natural(item[0]))


def link_cells(connection: Reply) -> list[Cell]:
    """Return what is known of a link; a receptor node says only what it costs."""
    link = f"{connection.get('Kind', '')} {connection.get('Address', '')}".strip()
    return [
        Cell.of(connection.get("NodeID", "")),
        Cell.of(connection.get("Cost", "")),
        Cell.of(link or "-"),
        Cell(_or_dash(connection.get("Uptime"), uptime)),
        Cell(_or_dash(connection.get("RoundTrip"), round_trip)),
        Cell(_or_dash(connection.get("SentBytes"), size)),
        Cell(_or_dash(connection.get("ReceivedBytes"), size)),
        Cell(_or_dash(connection.get("Dropped"), str)),
    ]


def _or_dash(value: object, show: Any) -> str:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return str(show(value)) if known else "-"


def _advert_cells(advert: Reply) -> list[Cell]:
    tags = advert.get("Tags")
    return [
        Cell.of(advert.get("NodeID", "")),
        Cell.of(advert.get("Service", "")),
        Cell(CONN_TYPES.get(advert.get("ConnType", -1), "Unknown")),
        Cell.of(_seen(advert)),
        Cell.of(_shown_tags(tags)),
    ]


def _shown_tags(tags: Reply | None) -> str:
    if tags is None:
        return "-"
    return ", ".join(f"{name}: {shown_tag(name, value, tags)}" for name, value in _sorted(tags))


# --- services, for both --------------------------------------------------------------------------

_WORK_TYPES = (("Work Types", False), ("Secure Work Types", True))


def _advert_line(advert: Reply, width: int) -> str:
    kind = CONN_TYPES.get(advert.get("ConnType", -1), "Unknown")
    tags = "-" if advert.get("Tags") is None else str(advert["Tags"])
    node, service = advert.get("NodeID", ""), advert.get("Service", "")
    return f"{node:<{width}} {service:<9} {kind:<10} {_seen(advert):<21} {tags:<16}"


def _seen(advert: Reply) -> str:
    time = str(advert.get("Time", ""))
    match = _TIME.fullmatch(time)
    return f"{match[1]} {match[2]}" if match else time


def _work_types(adverts: Sequence[Reply], *, secure: bool) -> dict[str, list[str]]:
    """Return the work types of each node, which may advertise them with several services."""
    nodes: dict[str, list[str]] = {}
    for advert in adverts:
        kinds = [
            str(command.get("WorkType", ""))
            for command in advert.get("WorkCommands") or []
            if bool(command.get("Secure")) is secure
        ]
        if kinds:
            nodes.setdefault(advert.get("NodeID", ""), kinds)
    return nodes
