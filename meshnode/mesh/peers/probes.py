"""Pings that go over one link, whatever the routes say: they measure links and prove addresses.

A ping has 36 bytes, as has its answer, and every node answers it, receptor's too (protocol section
3). The answer comes back by the peer's route to us.
"""

from collections.abc import Callable, Collection
from dataclasses import replace

import trio

from meshnode.mesh.dataplane import random_id
from meshnode.mesh.links.base import Message
from meshnode.mesh.peers.session import PeerSession
from meshnode.mesh.router import Router
from meshnode.protocol.messages import (
    PING_SERVICE,
    WIRE_HOPS,
    DataHeader,
    ServiceKey,
    Unreachable,
)
from meshnode.protocol.namehash import NameTable, name_hash
from meshnode.protocol.own_links import OwnLinks

PROBE_INTERVAL = 20.0
"""Seconds between two pings over one link: 4 bytes a second."""

FIRST_PROBE = 0.5
"""Seconds after a link came up until it is first measured: its peer has a route to us by then, and
links that came up together are measured together."""


class LinkProbe:
    """Measures the links of one node. A ``Receiver`` for the answers."""

    def __init__(self, router: Router, names: NameTable) -> None:
        self._router = router
        self._names = names
        self._sent: dict[bytes, tuple[float, PeerSession]] = {}
        """Pings that wait for an answer, by the peer's hash: when each was sent, and for whom."""
        self._new_link = trio.Event()
        self._service: ServiceKey | None = None

    def link_up(self) -> None:
        """Note that there is a link that was not measured yet."""
        self._new_link.set()

    async def run(self, sessions: Collection[PeerSession]) -> None:
        """Measure ``sessions``, whichever they are at the time, for ever."""
        while True:
            with trio.move_on_after(PROBE_INTERVAL):
                await self._new_link.wait()
                await trio.sleep(FIRST_PROBE)
            self._new_link = trio.Event()
            self._probe(sessions)

    def _probe(self, sessions: Collection[PeerSession]) -> None:
        now = trio.current_time()
        unanswered = set()
        for sent, session in self._sent.values():
            unanswered.add(session)
            if now - sent >= PROBE_INTERVAL / 2:
                session.round_trip = None
        self._finish()
        due = [s for s in sessions if now - s.probed >= PROBE_INTERVAL / 2 or s in unanswered]
        for session in due:
            self.ping(session)

    def ping(self, session: PeerSession) -> None:
        """Ping the peer of a session now."""
        if self._service is None:
            self._service = self._router.free_service()
            self._router.bind(self._service, self)
        peer = self._names.learn(session.peer)
        session.probed = trio.current_time()
        self._sent[peer] = (session.probed, session)
        header = DataHeader(WIRE_HOPS, self._router.own_hash, peer, self._service, PING_SERVICE)
        session.sender.send_data(header.encode())

    def _finish(self) -> None:
        self._sent.clear()
        if self._service is not None:
            self._router.unbind(self._service)
            self._service = None

    # --- Receiver ----------------------------------------------------------------------------

    def on_datagram(self, source: bytes, source_service: ServiceKey, payload: Message) -> None:
        """Take the answer to a ping."""
        sent = self._sent.pop(source, None)
        if sent is not None and source_service == PING_SERVICE:
            started, session = sent
            session.round_trip = trio.current_time() - started
            session.answered()
            if not self._sent:
                self._finish()

    def on_unreachable(self, notice: Unreachable, reporter: str) -> None:
        """Ignore it: a peer whose firewall rejects pings has no round-trip time."""


class MeshAddressProbe:
    """Probes unproven addresses for the listeners of a node: an ``AddressProbe``."""

    def __init__(self, router: Router, own: OwnLinks) -> None:
        self._router = router
        self._own = own

    def hello(self) -> bytes:
        """Return an update of this node without links: nodes that are no peers need only its ID."""
        return replace(self._own.next_update(random_id()), connections={}).encode()

    def ping(self, peer: str, service: ServiceKey) -> bytes:
        """Return a ping of a node, to be answered to ``service``."""
        # Not by the name table: an unproven address may claim any number of names.
        destination = name_hash(peer)
        own = self._router.own_hash
        return DataHeader(WIRE_HOPS, own, destination, service, PING_SERVICE).encode()

    def free_service(self) -> ServiceKey:
        """Return a random name that no service here has."""
        return self._router.free_service()

    def expect_reply(self, service: ServiceKey, heard: Callable[[], None]) -> None:
        """Call ``heard`` when something arrives for a service, over any link."""
        self._router.bind(service, _Reply(heard))

    def expect_no_reply(self, service: ServiceKey) -> None:
        """Undo :meth:`expect_reply`."""
        self._router.unbind(service)


class _Reply:
    """A ``Receiver`` that only tells that something came."""

    def __init__(self, heard: Callable[[], None]) -> None:
        self._heard = heard

    def on_datagram(self, source: bytes, source_service: ServiceKey, payload: Message) -> None:
        """Tell of an answer."""
        self._heard()

    def on_unreachable(self, notice: Unreachable, reporter: str) -> None:
        """Tell of a rejection by the peer's firewall: it can only send that if it has the ping."""
        self._heard()
