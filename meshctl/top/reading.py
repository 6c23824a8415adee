"""What ``meshctl top`` has read of a node, and the rows that it shows of it.

Nothing here knows of the screen: rows are texts that are safe to print, with a style each.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from meshctl.api.errors import ControlError, ProtocolMismatch
from meshctl.api.listing import Query, first_page
from meshctl.api.status import ENDED, STATES, UNFINISHED, remote_part, state_name, work_type
from meshctl.render.clients import canceled_briefly, who_briefly
from meshctl.render.columns import Cell
from meshctl.render.graph import cheapest_ways
from meshctl.render.loads import labels_of, load_of, shown_labels
from meshctl.render.output import size
from meshctl.render.status import natural
from meshctl.render.times import age_and_duration, round_trip, uptime

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient

Units = Mapping[str, Mapping[str, Any]]

WORK_HEADING = ("Unit", "Node", "Type", "State", "Age", "Duration", "Output", "By", "Detail")
NODE_HEADING = ("Node", "Via", "Cost", "Running", "Queued", "Load", "Labels", "Work types")
LINK_HEADING = ("Link", "State", "Up", "RTT", "Sent", "Received", "Cost", "Dropped or wrong")

MOST_SHOWN = 1_000
"""Units in the table at most, unfinished ones first: nobody reads on, and each redraw lays out all
of them. The line above counts all."""

STYLES = {"Running": "good", "Pending": "changing", "Failed": "bad", "Canceled": "changing"}
"""The style of each state of a unit; a success has none, since nobody need look at it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a node has told at one moment.

    Attributes:
        states: How many units there are in each state; without them, those that were told count.
        error: Why it told nothing; what it told last stays beside it.
        took: Seconds that it took.
    """

    status: Mapping[str, Any] = field(default_factory=dict)
    units: Units = field(default_factory=dict)
    states: Mapping[str, int] = field(default_factory=dict)
    error: str = ""
    took: float = 0.0


def read(client: "ControlClient", last: Reading, *, everything: bool = False) -> Reading:
    """Ask a node anew; what cannot be had is as in the ``last`` reading. Raises nothing of it.

    Of many units those are read that can be shown, or with ``everything`` all: one is looked for.
    """
    began = time.monotonic()
    try:
        status = client.status()
        units, states = _all(client) if everything else _first(client)
    except ControlError as error:
        return replace(last, error=str(error), took=time.monotonic() - began)
    return Reading(status, units, states, "", time.monotonic() - began)


def _all(client: "ControlClient") -> tuple[Units, Mapping[str, int]]:
    units = client.work_list()
    return units, Counter(map(state_name, units.values()))


def _first(client: "ControlClient") -> tuple[Units, Mapping[str, int]]:
    """Return the newest units that have not ended, and that have; and how many there are."""
    going = first_page(client, Query(states=STATES[: len(UNFINISHED)], limit=MOST_SHOWN))
    if going.is_all:
        return going.units, going.states
    ended = first_page(client, Query(states=ENDED, limit=MOST_SHOWN))
    # One that has just ended may be in both, and was told of last as it is now.
    return {**going.units, **ended.units}, Counter(going.states) + Counter(ended.states)


def headline(reading: Reading) -> str:
    """The line above everything: the node, and what it has to do."""
    counts = reading.states or Counter(map(state_name, reading.units.values()))
    told = ", ".join(f"{counts[state]} {state.lower()}" for state in sorted(counts, key=_weight))
    nodes = len(reading.status.get("RoutingTable") or {}) + 1
    of_nodes = "alone" if nodes == 1 else f"{nodes} nodes"
    node = reading.status.get("NodeID", "")
    return f"{node}  {reading.status.get('Version', '')}  ·  {of_nodes}  ·  {told or 'no units'}"


def _weight(state: str) -> tuple[int, str]:
    order = ("Running", "Pending", "Failed", "Canceled", "Succeeded")
    return (order.index(state) if state in order else len(order), state)


# --- Work ----------------------------------------------------------------------------------------


def work_rows(reading: Reading, now: datetime, wanted: str = "") -> dict[str, list[Cell]]:
    """Return a row for each unit by its ID: unfinished ones first, and of each the newest.

    ``wanted`` stands in what is shown, in any case of letters.

    Raises:
        ProtocolMismatch: the node's units are none.
    """
    rows: dict[str, list[Cell]] = {}
    try:
        for unit_id in sorted(reading.units, key=lambda one: _urgency(reading.units[one]))[::-1]:
            row = _work_row(unit_id, reading.units[unit_id], now)
            if wanted and wanted.lower() not in " ".join(cell.text for cell in row).lower():
                continue
            rows[unit_id] = row
            if len(rows) == MOST_SHOWN:
                break
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ProtocolMismatch(
            f"the node's units are not ones that can be shown: {error}"
        ) from error
    return rows


def _urgency(status: Mapping[str, Any]) -> tuple[bool, str]:
    return status.get("State") in UNFINISHED, str(status.get("Created", ""))


def _work_row(unit_id: str, status: Mapping[str, Any], now: datetime) -> list[Cell]:
    state = state_name(status)
    produced = status.get("StdoutSize")
    return [
        Cell.of(unit_id),
        Cell.of(remote_part(status).get("RemoteNode") or "-"),
        Cell.of(work_type(status)),
        Cell.of(state, STYLES.get(state, "")),
        *map(Cell.of, age_and_duration(status, now)),
        Cell(size(produced) if isinstance(produced, int) else "-"),
        Cell.of(who_briefly(status.get("SubmittedBy"))),
        Cell.of(canceled_briefly(status)),
    ]


def has_ended(status: Mapping[str, Any]) -> bool:
    """Whether a unit cannot be canceled any more."""
    return status.get("State") not in UNFINISHED


# --- The mesh ------------------------------------------------------------------------------------


def node_rows(reading: Reading) -> dict[str, list[Cell]]:
    """Return a row for each node that is known, by its ID, the asked one first.

    Raises:
        ProtocolMismatch: the node's status is none.
    """
    try:
        return dict(_nodes(reading.status))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ProtocolMismatch(
            f"the node's status is not one that can be shown: {error}"
        ) from error


def _nodes(status: Mapping[str, Any]) -> list[tuple[str, list[Cell]]]:
    here = str(status.get("NodeID", ""))
    routes = status.get("RoutingTable") or {}
    costs = status.get("KnownConnectionCosts") or {}
    ways = cheapest_ways(costs, here)
    adverts = _adverts(status)
    known = sorted({*costs, *routes, *adverts} - {here}, key=natural)
    rows = []
    for node in [here, *known]:
        told = adverts.get(node, Advertised())
        reached = node == here or node in routes
        via = "(asked)" if node == here else routes.get(node, "not reached")
        rows.append(
            (
                node,
                [
                    Cell.of(node, "" if reached else "bad"),
                    Cell.of(via, "" if reached else "bad"),
                    Cell.of(f"{ways[node].cost:g}" if node in ways else "-"),
                    Cell.of(told.running),
                    Cell.of(told.queued),
                    Cell.of(told.load),
                    Cell.of(told.labels),
                    Cell.of(", ".join(told.types) or "-"),
                ],
            )
        )
    return rows


@dataclass(frozen=True, slots=True)
class Advertised:
    """What a node says of itself to all, as texts; receptor's nodes say no more than types."""

    types: tuple[str, ...] = ()
    labels: str = "-"
    running: str = "-"
    queued: str = "-"
    load: str = "-"


def _adverts(status: Mapping[str, Any]) -> dict[str, Advertised]:
    found: dict[str, Advertised] = {}
    for advert in status.get("Advertisements") or []:
        node, tags = str(advert.get("NodeID", "")), advert.get("Tags") or {}
        before = found.get(node, Advertised())
        types = [str(c.get("WorkType", "")) for c in advert.get("WorkCommands") or []]
        load = load_of(tags)
        found[node] = Advertised(
            tuple(sorted({*before.types, *types})),
            shown_labels(labels_of(tags)) or before.labels,
            before.running if load is None else str(load.running),
            before.queued if load is None else str(load.queued),
            before.load if load is None else load.of_processors,
        )
    return found


def link_rows(reading: Reading) -> dict[str, list[Cell]]:
    """Return a row for each link of the asked node, and for each configured peer that is down.

    Raises:
        ProtocolMismatch: the node's status is none.
    """
    try:
        links = [_link_row(link) for link in reading.status.get("Connections") or []]
        down = [_down_row(p) for p in reading.status.get("Peers") or [] if not _is_up(p)]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ProtocolMismatch(
            f"the node's links are not ones that can be shown: {error}"
        ) from error
    ordered = sorted([*down, *links], key=lambda row: (row[1].style != "bad", natural(row[0].text)))
    return {f"{i} {row[0].text}": row for i, row in enumerate(ordered)}


def _is_up(peer: Mapping[str, Any]) -> bool:
    return peer.get("State") in ("up", "linked")


def _link_row(link: Mapping[str, Any]) -> list[Cell]:
    way = f"{link.get('Kind', '')} {link.get('Address', '')}".strip()
    return [
        Cell.of(f"{link.get('NodeID', '')} {way}".strip()),
        Cell("up", "good"),
        _number(link.get("Uptime"), uptime),
        _number(link.get("RoundTrip"), round_trip),
        _number(link.get("SentBytes"), size),
        _number(link.get("ReceivedBytes"), size),
        Cell.of(link.get("Cost", "-")),
        _number(link.get("Dropped"), str),
    ]


def _down_row(peer: Mapping[str, Any]) -> list[Cell]:
    return [
        Cell.of(f"{peer.get('Directive', '')} {peer.get('Address', '')}"),
        Cell.of(peer.get("State", "-"), "bad"),
        *[Cell("-")] * 5,
        Cell.of(peer.get("LastError") or "no reason is known yet", "bad"),
    ]


def _number(value: object, show: Any) -> Cell:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(str(show(value)) if known else "-")
