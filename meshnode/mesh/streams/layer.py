"""Dialing streams: which connection carries a new one."""

# Annotations name what is not imported yet: see connections.py.
from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from meshnode.errors import HandshakeRefused, MeshError
from meshnode.logs import SubjectLogger, subject_logger
from meshnode.mesh.router import Router
from meshnode.mesh.streams.connections import Connections, Spawn, judge_of, load_engine
from meshnode.mesh.streams.flowcontrol import Credit
from meshnode.mesh.streams.listener import StreamListener
from meshnode.mesh.streams.stream import MeshStream
from meshnode.protocol.messages import ServiceKey, encode_service, show_service
from meshnode.protocol.namehash import NameTable

if TYPE_CHECKING:
    from meshnode.mesh.streams.connection import Connection
    from meshnode.mesh.streams.dialed import Dialed
    from meshnode.mesh.streams.quicsettings import Address
    from meshnode.security.tls import TlsSettings, TlsSource

MANY_STREAMS = ("meshnode", "many-streams")
"""Tag of an advertised stream service whose connections carry many streams. Receptor's carry one,
and receptor ignores tags that it does not know."""

MAX_SINGLES = 1024
"""Services that are remembered as taking one stream a connection although they are advertised
otherwise; forgotten ones are found out again, which costs a handshake."""


class StreamLayer:
    """The streams of one node: dials them, and makes the listeners of its services."""

    def __init__(self, router: Router, names: NameTable, spawn: Spawn) -> None:
        self.connections = Connections(router, names, spawn)
        self._router = router
        self._names = names
        self._pool: dict[Address, list[Dialed]] = {}
        """Connections that more streams may be opened on."""
        self._singles: dict[Address, None] = {}
        """Services that take one stream a connection, whatever is said of them."""
        self._log = subject_logger("streams")

    async def dial(
        self, node: str, service: str, *, share: bool = False, tls: TlsSettings | None = None
    ) -> MeshStream:
        """Open a stream to a service; without ``tls`` to one that has no TLS settings either.

        With ``share`` the listener is said to take many streams on a connection
        (:data:`MANY_STREAMS`), so that one which exists is used: the stream then costs no
        handshake. Whoever can advertise can say so; what counts is what the listener itself says
        in its handshake, and one that takes a single stream gets a connection for each.

        Raises:
            NoRoute: no path to the node is known.
            Unreachable: the node does not have that service, or is behind a firewall.
            MeshTimeout: no handshake in time.
            HandshakeRefused: one end does not take the other's certificate.
            StreamError: the handshake failed.
            NoEngine: this machine lacks something; it may be tried again.
            ProtocolError: the service name does not fit 8 bytes.
        """
        peer: Address = (self._router.resolve(node), encode_service(service))
        while share and peer not in self._singles:
            connection = self._shared(peer, tls)
            if connection is None:
                connection = self._connect(node, peer, tls, share=True)
                self._pool.setdefault(peer, []).append(connection)
            # Given up, it is not closed as long as others wait for the same handshake.
            stream = await self._open(connection, keep=True)
            if not connection.takes_many_streams:
                self._note_single(peer)
            if stream is not None:
                return stream
            # Somebody else has the one stream. We sent nothing yet: another connection loses us
            # nothing.
        stream = await self._open(self._connect(node, peer, tls, share=False), keep=False)
        assert stream is not None
        return stream

    async def _open(self, connection: Dialed, *, keep: bool) -> MeshStream | None:
        """Open a stream once the handshake is done; None if others have taken the only one."""
        try:
            await connection.wait_ready()
            return connection.open_stream()
        except MeshError:
            connection.close()
            raise
        except BaseException:
            if not (keep and connection.is_wanted):
                connection.close()
            raise

    def _note_single(self, peer: Address) -> None:
        """Remember a service that takes one stream a connection, whatever is said of it."""
        if peer in self._singles:
            return
        if len(self._singles) >= MAX_SINGLES:
            del self._singles[next(iter(self._singles))]
        self._singles[peer] = None
        self._log.warning(
            "service %s of %s is advertised as one that takes many streams on a connection, and "
            "is not: each stream gets its own",
            show_service(peer[1]),
            self._names.name(peer[0]),
        )

    def _shared(self, peer: Address, tls: TlsSettings | None) -> Dialed | None:
        # Not one that showed another certificate, or none, or that began before ours was renewed.
        pooled = self._pool.get(peer, ())
        return next((c for c in pooled if c.tls is tls and c.has_place), None)

    def _connect(self, node: str, peer: Address, tls: TlsSettings | None, *, share: bool) -> Dialed:
        load_engine()
        from meshnode.mesh.streams.dialed import Dialed  # noqa: PLC0415
        from meshnode.mesh.streams.quic import MeshQuicConnection  # noqa: PLC0415
        from meshnode.mesh.streams.quicsettings import MAX_STREAMS  # noqa: PLC0415
        from meshnode.mesh.streams.timers import POOL_IDLE  # noqa: PLC0415

        own_service = self._router.free_service()
        credit = self.connections.new_credit(peer[0])
        target = self._names.name(peer[0]) or node
        connection = Dialed(
            self._router,
            _DialedOwner(self, own_service, credit, target, is_secured=tls is not None),
            MeshQuicConnection.client(
                self._router.own_id,
                peer,
                trio.current_time(),
                credit,
                streams=MAX_STREAMS if share else 1,
                qlog=self.connections.qlog,
                judge=judge_of(tls, target),
            ),
            own_service,
            peer,
            target,
            idle=POOL_IDLE if share else 0,
            send_budget=self.connections.send_budget(peer[0]),
        )
        connection.tls = tls
        self._router.bind(own_service, connection)
        self.connections.start(connection)
        return connection

    def forget(self, connection: Connection, own_service: ServiceKey) -> None:
        """Forget a connection, and give the name back by which its listener answers."""
        self._router.unbind(own_service)
        self.connections.ended(connection)
        pooled = self._pool.get(connection.peer, [])
        if connection in pooled:
            pooled.remove(connection)
            if not pooled:
                del self._pool[connection.peer]

    def listen(self, service: str, tls: TlsSource | None = None) -> StreamListener:
        """Accept streams of a service; ``tls`` has its settings.

        Raises:
            ServiceInUse: the name is taken on this node.
            ProtocolError: the name does not fit 8 bytes.
        """
        return StreamListener(self.connections, service, tls)

    def node_restarted(self, node: str) -> None:
        """End the connections with a node that has begun a new life."""
        node_hash = self._names.learn(node)
        self._singles = {peer: None for peer in self._singles if peer[0] != node_hash}
        for connection in self.connections:
            if connection.peer[0] == node_hash:
                connection.node_restarted()


class _DialedOwner:
    """Owner of a dialed connection."""

    def __init__(
        self,
        layer: StreamLayer,
        own_service: ServiceKey,
        credit: Credit,
        node: str,
        *,
        is_secured: bool,
    ) -> None:
        self._layer = layer
        self._node = node
        self._is_secured = is_secured
        self._own_service = own_service
        self._credit = credit

    def stream_opened(self, stream: MeshStream) -> bool:
        """Refuse: listeners do not open streams."""
        return False

    def connection_ready(self) -> None:
        """Note it where the other end had to show who it is; who dialed waits for it itself."""
        if self._is_secured:
            self._layer.connections.note_trust(self._node)

    def handshake_refused(self, error: HandshakeRefused, log: SubjectLogger) -> None:
        """Log it; who dialed gets it as an error, too."""
        self._layer.connections.note_refusal(self._node, error, log)

    def connection_ended(self, connection: Connection) -> None:
        """Give the service name back; late packets are answered ``service unknown``."""
        self._layer.forget(connection, self._own_service)
        self._credit.close()
