"""Tells the hub of events what changes in the mesh: links, routes, services, configured peers.

The mesh only says that something may be another thing; what it is, is found by comparing what
there is now with what was told last. So nothing is told twice, a change that is undone at once is
no event, and whoever listens ends up with the truth, whatever has happened in between. Nothing is
compared while nobody listens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import trio

from meshnode.control.events import Change, EventHub, Topic
from meshnode.control.meshview import (
    Ends,
    SeenLink,
    SeenPeer,
    SeenService,
    seen_links,
    seen_services,
)
from meshnode.control.registry import JsonObject
from meshnode.mesh.mesh import MeshStatus
from meshnode.mesh.peers.conditions import LinksReport

PAUSE = 0.1
"""Seconds between two comparisons at least: what comes within them is told together."""

SHARE = 20
"""How much longer than a comparison takes the next one waits: of the largest mesh, where one takes
a tenth of a second, they take a twentieth of the node's time."""


class WatchedMesh(Protocol):
    """What is asked of a mesh."""

    def status(self) -> MeshStatus:
        """Return what this node knows of its mesh."""
        ...

    @property
    def changes(self) -> int:
        """A number that is another one whenever something of that may have changed."""
        ...

    async def wait_changes(self, seen: int) -> None:
        """Return when that number is another one than ``seen``."""
        ...


@dataclass(frozen=True, slots=True)
class _Seen:
    """What can be told of the mesh at one moment."""

    links: Mapping[Ends, SeenLink]
    routes: Mapping[str, str]
    services: Mapping[tuple[str, str], SeenService]
    peers: Mapping[tuple[str, str], SeenPeer]


class MeshEvents:
    """Watches a mesh for the hub."""

    def __init__(
        self, hub: EventHub, mesh: WatchedMesh, links: Callable[[], LinksReport] = LinksReport
    ) -> None:
        """``links`` returns how each configured link fares."""
        self._hub = hub
        self._mesh = mesh
        self._links = links

    async def run(self) -> None:
        """Tell of changes until cancelled."""
        while True:
            await self._hub.wait_on()
            seen, changes = self._look(), self._mesh.changes
            while self._hub.goes_on():
                await self._mesh.wait_changes(changes)
                began, changes = trio.current_time(), self._mesh.changes
                now = self._look()
                self._tell(seen, now)
                seen = now
                await trio.sleep(max(PAUSE, SHARE * (trio.current_time() - began)))

    def _look(self) -> _Seen:
        status = self._mesh.status()
        peers = map(SeenPeer, self._links().peers)
        return _Seen(
            seen_links(status),
            status.routes,
            seen_services(status),
            {peer.key: peer for peer in peers},
        )

    def _tell(self, old: _Seen, new: _Seen) -> None:
        self._tell_links(old.links, new.links)
        self._tell_peers(old.peers, new.peers)
        for node, (via, change) in _differences(old.routes, new.routes).items():
            self._tell_route(node, via, change)
        for service, change in _differences(old.services, new.services).values():
            self._tell_service(service, change)

    def _tell_route(self, node: str, via: str, change: Change) -> None:
        self._hub.tell(Topic.ROUTE, (node,), change, lambda: {"route": {"node": node, "via": via}})

    def _tell_service(self, seen: SeenService, change: Change) -> None:
        def describe() -> JsonObject:
            if change is Change.REMOVED:
                return {"service": {"node": seen.node, "service": seen.service}}
            return {"service": seen.to_json()}

        self._hub.tell(Topic.SERVICE, (seen.node, seen.service), change, describe)

    def _tell_links(self, old: Mapping[Ends, SeenLink], new: Mapping[Ends, SeenLink]) -> None:
        for ends in old.keys() - new.keys():
            self._tell_link(old[ends], Change.DOWN)
        for ends, link in new.items():
            before = old.get(ends)
            if before is None or before.life != link.life:
                self._tell_link(link, Change.UP)
            elif before.costs != link.costs:
                self._tell_link(link, Change.CHANGED)

    def _tell_link(self, link: SeenLink, change: Change) -> None:
        self._hub.tell(Topic.LINK, (link.a, link.b), change, lambda: {"link": link.to_json()})

    def _tell_peers(
        self, old: Mapping[tuple[str, str], SeenPeer], new: Mapping[tuple[str, str], SeenPeer]
    ) -> None:
        for key in old.keys() - new.keys():
            self._tell_peer(old[key], Change.REMOVED)
        for key, peer in new.items():
            before = old.get(key)
            if before is None or before.lasting != peer.lasting:
                self._tell_peer(peer, Change.PEER)

    def _tell_peer(self, peer: SeenPeer, change: Change) -> None:
        self._hub.tell(Topic.LINK, peer.key, change, lambda: {"peer": peer.to_json()})


K = TypeVar("K")
V = TypeVar("V")


def _differences(old: Mapping[K, V], new: Mapping[K, V]) -> dict[K, tuple[V, Change]]:
    """Return what has become of each key that has another value; of one that is gone, the old."""
    found = {key: (old[key], Change.REMOVED) for key in old.keys() - new.keys()}
    for key, value in new.items():
        if key not in old:
            found[key] = (value, Change.ADDED)
        elif old[key] != value:
            found[key] = (value, Change.CHANGED)
    return found
