"""What metrics say of the mesh: links, configured peers and listeners, routes, messages.

Nodes choose their names. So there is a bound for the peers that have series of their own: further
links are counted together, those that came up last first.
"""

from collections.abc import Iterator
from typing import Final

import trio

from meshnode.mesh.mesh import LinkStatus, Mesh, MeshFigures
from meshnode.mesh.peers.conditions import LinksReport, ListenerState, PeerState
from meshnode.web import metricfamilies as families
from meshnode.web.readings import Readings

MAX_PEERS: Final = 250
"""Peers with series of their own, ten for each: a node that links more is a hub, of which the sums
are of interest."""

SHOWN_LOST: Final = 3600.0
"""Seconds for which a link that was lost is shown as down; then it is forgotten."""

OTHER: Final = "other"
"""The peer that further links are shown as."""

LINKED: Final = frozenset({PeerState.UP, PeerState.LINKED})
"""States of a configured peer that there is a link to."""

Ends = tuple[str, str]
"""A peer and the kind of its link."""


class LostLinks:
    """Which links were there at an earlier reading and are gone, for a time."""

    def __init__(self) -> None:
        self._seen: dict[Ends, float] = {}
        """When each was seen last, the longest ago first."""

    def note(self, up: set[Ends], now: float) -> Iterator[Ends]:
        """Note which links are up, and yield those that are shown as lost."""
        for ends in up:
            self._seen.pop(ends, None)
            self._seen[ends] = now
        for ends, seen in list(self._seen.items()):
            if seen < now - SHOWN_LOST or len(self._seen) > MAX_PEERS:
                del self._seen[ends]
            elif ends not in up:
                yield ends


class MeshReader:
    """Reads a mesh for metrics."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._lost = LostLinks()

    def read(self, into: Readings, report: LinksReport) -> None:
        """Read it as it is now; ``report`` says how its configured links fare."""
        figures = self._mesh.figures()
        self._read_links(into, figures)
        _read_configured(into, report)
        _read_routes(into, figures)
        _read_drops(into, figures)

    def _read_links(self, into: Readings, figures: MeshFigures) -> None:
        # Who was here first keeps its series, whatever names come later.
        links = sorted(figures.links, key=lambda link: link.figures.since)
        own = links[:MAX_PEERS]
        for link in own:
            _read_link(into, link, link.peer)
            _read_gauges(into, link)
        for link in links[MAX_PEERS:]:
            _read_link(into, link, OTHER)
        up = {(link.peer, link.figures.kind) for link in own}
        for ends in self._lost.note(up, trio.current_time()):
            into.add(families.LINK_UP, 0, *ends)
        into.add(families.LINKS_MADE, figures.links_made)
        into.add(families.LINKS_LOST, figures.links_lost)
        into.add(families.LINKS_WAITING, figures.waiting)


def _read_link(into: Readings, link: LinkStatus, peer: str) -> None:
    figures = link.figures
    ends = (peer, figures.kind)
    into.add(families.LINK_UP, 1, *ends)
    into.add(families.LINK_SENT_BYTES, figures.sent_bytes, *ends)
    into.add(families.LINK_RECEIVED_BYTES, figures.received_bytes, *ends)
    into.add(families.LINK_SENT, figures.sent_messages, *ends)
    into.add(families.LINK_RECEIVED, figures.received_messages, *ends)
    into.add(families.LINK_DROPPED, figures.dropped, *ends)
    into.add(families.LINK_REFUSED, figures.refused, *ends)


def _read_gauges(into: Readings, link: LinkStatus) -> None:
    """Read what has no sum."""
    figures = link.figures
    ends = (link.peer, figures.kind)
    into.add(families.LINK_SINCE, figures.since, *ends)
    into.add(families.LINK_COST, link.cost, *ends)
    if figures.round_trip is not None:
        into.add(families.LINK_ROUND_TRIP, figures.round_trip, *ends)


def _read_configured(into: Readings, report: LinksReport) -> None:
    for peer in report.peers:
        is_up = peer.condition.state in LINKED
        into.add(families.PEER_UP, is_up, peer.directive, peer.address)
    for one in report.listeners:
        name = (one.directive, one.address)
        into.add(families.LISTENER_UP, one.condition.state is ListenerState.LISTENING, *name)
        into.add(families.LISTENER_LINKS, one.condition.links, *name)
    into.add(families.REJECTED, len(report.rejected))


def _read_routes(into: Readings, figures: MeshFigures) -> None:
    into.add(families.ROUTES, figures.routes)
    into.add(families.KNOWN_NODES, figures.known_nodes)
    into.add(families.ROUTE_COMPUTATIONS, figures.route_computations)
    into.add(families.ROUTE_CHANGES, figures.route_changes)
    into.add(families.STREAM_CONNECTIONS, figures.connections)
    into.add(families.FORWARDED, figures.forwarded)


def _read_drops(into: Readings, figures: MeshFigures) -> None:
    drops, firewall = figures.drops, figures.firewall
    for reason, count in (
        ("firewall rejected", firewall.rejected),
        ("firewall dropped", firewall.dropped),
        ("no hops left", figures.expired),
        ("no route", figures.unroutable),
        ("unreadable service", drops.unreadable),
        ("impossible notice", drops.notices),
        ("fault", drops.faults),
    ):
        into.add(families.DROPPED, count, reason)
