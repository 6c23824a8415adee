"""What one peer is still to be told of other nodes: in portions, as its link takes them.

A peer that joins is told all that we know, and a peer whose link is behind gets the newest word of
each node instead of all words. So what waits for a link is bounded, and no link is cut for what
others say.
"""

from collections import deque
from collections.abc import Collection

from meshnode.mesh.peers.session import PeerSession
from meshnode.protocol.adverts import AdvertisementTable
from meshnode.protocol.topology import Topology

PORTION_BYTES = 256 * 1024
"""Bytes of routing that wait on a link when a peer is told more: enough to keep any link busy."""

BEHIND_BYTES = 1024 * 1024
"""Bytes of routing that wait on a link from which on the peer is told of nodes when it has room."""


class Telling:
    """Tells one peer of other nodes."""

    def __init__(
        self, session: PeerSession, topology: Topology, adverts: AdvertisementTable
    ) -> None:
        self._session = session
        self._topology = topology
        self._adverts = adverts
        self._ready: deque[bytes] = deque()
        self._updates: deque[str] = deque()
        self._services: deque[str] = deque()
        """Nodes whose update, or whose advertisements, are to be told, in this order."""
        self._late: set[tuple[str, bool]] = set()
        """Nodes that are there because they had news while the link was behind; whether adverts."""

    def tell_all(self, nodes: Collection[str]) -> None:
        """Tell all that is known of these nodes, the first ones first.

        Of the peer itself only the services: it withdraws those of a former life.
        """
        self._updates.extend(n for n in nodes if n != self._session.peer)
        self._services.extend(nodes)
        self.go_on()

    def pass_on(self, node: str, message: bytes, *, is_advert: bool) -> None:
        """Tell the news of a node: now, or its newest word when there is room."""
        if self._late and (node, is_advert) in self._late:
            return
        if self._session.has_routing_room(BEHIND_BYTES):
            self._session.send_routing(message)
        else:
            self._late.add((node, is_advert))
            (self._services if is_advert else self._updates).append(node)
            self._session.call_when_drained()

    def go_on(self) -> None:
        """Tell more, as far as there is room."""
        while self._session.has_routing_room(PORTION_BYTES):
            if self._ready:
                self._session.send_routing(self._ready.popleft())
            elif self._updates:
                node = self._updates.popleft()
                self._late.discard((node, False))
                message = self._topology.message_about(node)
                self._ready.extend([message] if message is not None else ())
            elif self._services:
                node = self._services.popleft()
                self._late.discard((node, True))
                self._ready.extend(self._adverts.messages(node))
            else:
                return
        self._session.call_when_drained()
