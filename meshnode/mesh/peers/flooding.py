"""What each peer is told of other nodes: in portions, as its link takes them.

A peer that joins is told all that this node knows. A peer whose link is behind is told the newest
message about each node instead of every message. So what waits for a link is bounded, and no link
is closed for what other nodes say.
"""

from collections import deque
from collections.abc import Collection

from meshnode.mesh.peers.sending import LinkSender
from meshnode.protocol.adverts import AdvertisementTable
from meshnode.protocol.topology import Topology

PORTION_BYTES = 256 * 1024
"""Bytes of routing that wait on a link while a peer is told more: enough to keep any link busy."""

BEHIND_BYTES = 1024 * 1024
"""Bytes of routing that wait on a link from which on news wait until it has room."""


class PeerFeed:
    """Tells one peer about other nodes."""

    __slots__ = (
        "_adverts",
        "_late",
        "_peer",
        "_ready",
        "_sender",
        "_services",
        "_topology",
        "_updates",
    )

    def __init__(
        self, peer: str, sender: LinkSender, topology: Topology, adverts: AdvertisementTable
    ) -> None:
        self._peer = peer
        self._sender = sender
        self._topology = topology
        self._adverts = adverts
        self._ready: deque[bytes] = deque()
        self._updates: deque[str] = deque()
        self._services: deque[str] = deque()
        """Nodes whose update, or whose advertisements, are to be sent, in this order."""
        self._late: set[tuple[str, bool]] = set()
        """Nodes among those that had news while the link was behind; whether adverts."""

    def tell_all(self, nodes: Collection[str]) -> None:
        """Tell all that is known of these nodes, the first ones first.

        Of the peer itself only the services: it withdraws those of a former life.
        """
        self._updates.extend(n for n in nodes if n != self._peer)
        self._services.extend(nodes)
        self.resume()

    def forward(self, node: str, message: bytes, *, is_advert: bool) -> None:
        """Send the news of a node now, or its newest message when the link has room."""
        if self._late and (node, is_advert) in self._late:
            return
        if self._sender.has_routing_room(BEHIND_BYTES):
            self._sender.send_routing(message)
        else:
            self._late.add((node, is_advert))
            (self._services if is_advert else self._updates).append(node)
            self._sender.call_when_drained()

    def resume(self) -> None:
        """Send more, as far as there is room."""
        while self._sender.has_routing_room(PORTION_BYTES):
            if self._ready:
                self._sender.send_routing(self._ready.popleft())
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
        self._sender.call_when_drained()
