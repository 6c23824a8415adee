"""What this node says to somebody to whom there is no link yet, and hears from them."""

from collections.abc import Callable
from dataclasses import replace

from meshnode.mesh.links.base import Message
from meshnode.mesh.router import Router
from meshnode.mesh.stamps import random_id
from meshnode.protocol.messages import (
    PING_SERVICE,
    WIRE_HOPS,
    DataHeader,
    ServiceKey,
    Unreachable,
)
from meshnode.protocol.namehash import name_hash
from meshnode.protocol.topology import Topology


class MeshGreeter:
    """A ``Greeter`` for the listeners of one node."""

    def __init__(self, router: Router, topology: Topology) -> None:
        self._router = router
        self._topology = topology

    def hello(self) -> bytes:
        """Return a routing update that names no links.

        Whoever has no link to us takes nothing from it but who we are.
        """
        return replace(self._topology.own_update(random_id()), connections={}).encode()

    def ping(self, peer: str, service: ServiceKey) -> bytes:
        """Return a ping of that node, whatever the routes say."""
        # Names that strangers claim are not remembered.
        destination = name_hash(peer)
        own = self._router.own_hash
        return DataHeader(WIRE_HOPS, own, destination, service, PING_SERVICE).encode()

    def free_service(self) -> ServiceKey:
        """Return a random name that no service here has."""
        return self._router.free_service()

    def expect(self, service: ServiceKey, heard: Callable[[], None]) -> None:
        """Call ``heard`` when something arrives for a service, by whatever link."""
        self._router.bind(service, _Ear(heard))

    def expect_no_more(self, service: ServiceKey) -> None:
        """Take that back."""
        self._router.unbind(service)


class _Ear:
    """A ``Receiver`` that only tells that something came."""

    def __init__(self, heard: Callable[[], None]) -> None:
        self._heard = heard

    def on_datagram(self, source: bytes, source_service: ServiceKey, payload: Message) -> None:
        """Tell of an answer."""
        self._heard()

    def on_unreachable(self, notice: Unreachable, reporter: str) -> None:
        """Tell of a refusal by the peer's firewall, which it can only send if it has the ping."""
        self._heard()
