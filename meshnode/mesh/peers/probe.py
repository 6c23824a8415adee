"""How long a message takes to each peer and back: one ping a link, now and then.

A ping is 36 bytes each way and every node answers it, receptor's too (protocol section 3). It is
put on the link itself, whatever the routes say; the answer comes back by the peer's route to us.
"""

from collections.abc import Collection

import trio

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
from meshnode.protocol.namehash import NameTable

PROBE_INTERVAL = 20.0
"""Seconds between two pings over one link: 4 bytes a second are no load on any."""

FIRST_PROBE = 0.5
"""Seconds after a link came up before it is first measured: its peer has routes to us by then, and
many links that come up at once are measured in one go."""


class LinkProbe:
    """Measures the links of one node. A ``Receiver`` for the answers."""

    def __init__(self, router: Router, names: NameTable) -> None:
        self._router = router
        self._names = names
        self._sent: dict[bytes, tuple[float, PeerSession]] = {}
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
            self.ask(session)

    def ask(self, session: PeerSession) -> None:
        """Ping the peer of a session now."""
        if self._service is None:
            self._service = self._router.free_service()
            self._router.bind(self._service, self)
        peer = self._names.learn(session.peer)
        session.probed = trio.current_time()
        self._sent[peer] = (session.probed, session)
        header = DataHeader(WIRE_HOPS, self._router.own_hash, peer, self._service, PING_SERVICE)
        session.send_data(header.encode())

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
        """A peer whose firewall refuses pings has no round-trip time."""
