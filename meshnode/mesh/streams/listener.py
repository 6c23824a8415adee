"""The services of this node that accept streams."""

# Annotations name what is not imported yet: see connections.py.
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from meshnode.errors import HandshakeRefused, NoEngine
from meshnode.logs import SubjectLogger, subject_logger
from meshnode.mesh.links.base import Message
from meshnode.mesh.streams.connections import Connections, judge_of, load_engine
from meshnode.mesh.streams.flowcontrol import Credit
from meshnode.mesh.streams.stream import MeshStream
from meshnode.protocol.messages import (
    PROBLEM_SERVICE_UNKNOWN,
    ServiceKey,
    Unreachable,
    encode_service,
)
from meshnode.shares import Shares

if TYPE_CHECKING:
    from meshnode.mesh.streams.admission import Admitted
    from meshnode.mesh.streams.connection import Connection
    from meshnode.mesh.streams.quicsettings import Address
    from meshnode.security.tls import TlsSource

ACCEPT_BACKLOG = 1024
"""Streams that wait to be accepted before more are refused: what may come in one go. One node may
have half of them, and each branch leaves a sixteenth to others."""


class StreamListener(trio.abc.Listener[MeshStream]):
    """Accepts the streams of one service of this node. Made by ``Mesh.listen``."""

    def __init__(self, shared: Connections, service: str, tls: TlsSource | None = None) -> None:
        self.service = service
        self._tls = tls
        self._key = encode_service(service)
        self._shared = shared
        self._connections: dict[Address, Connection] = {}
        self._arrived, self._accepted = trio.open_memory_channel[MeshStream](ACCEPT_BACKLOG)
        self._waiting = Shares(ACCEPT_BACKLOG, ACCEPT_BACKLOG // 16)
        self._closed = False
        self._on_close: Callable[[], None] | None = None
        self._log = subject_logger("service", service)
        shared.router.bind(self._key, self)

    def when_closed(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once when the listener is closed."""
        self._on_close = callback

    @property
    def connections(self) -> Connections:
        """All connections of the node."""
        return self._shared

    @property
    def is_secured(self) -> bool:
        """Whether the service has TLS settings."""
        return self._tls is not None

    # --- datagrams ---------------------------------------------------------------------------

    def on_datagram(self, source: bytes, source_service: ServiceKey, payload: Message) -> None:
        """Give a datagram to its connection, or begin a new one."""
        connection = self._connections.get((source, source_service))
        if connection is not None:
            connection.on_datagram(source, source_service, payload)
        else:
            self._begin((source, source_service), bytes(payload))

    def on_unreachable(self, notice: Unreachable, reporter: str) -> None:
        """End the connection whose dialer is no more."""
        names = self._shared.names
        if notice.to_node in names:  # a notice may invent names: none is learned from it
            address = (names.learn(notice.to_node), notice.to_service)
            if (connection := self._connections.get(address)) is not None:
                connection.on_unreachable(notice, reporter)

    def _begin(self, address: Address, datagram: bytes) -> None:
        """Begin a connection, if a datagram of no known one asks for that and there is a place."""
        try:
            load_engine()
        except NoEngine as exc:
            # The dialer sends it again.
            self._log.warning("%s", exc)
            return
        from meshnode.mesh.streams.admission import (  # noqa: PLC0415
            Admitted,
            Retry,
            first_packet,
        )

        peer_node = self._shared.names.name(address[0])
        if peer_node is None:
            return  # an unknown hash: there is nobody to answer (protocol section 3)
        packet = first_packet(datagram)
        if packet.answer is not None:
            self._shared.router.send_reply(address[0], self._key, address[1], packet.answer)
        elif packet.initial is None or self._closed:
            self._say_unknown(address, peer_node)
        else:
            now = trio.current_time()
            holder = self._shared.router.holder_of(address[0])
            match self._shared.admission.judge(address, self._key, packet.initial, now, holder):
                case Admitted() as place:
                    self._accept(address, peer_node, place, datagram)
                case Retry() as retry:
                    # Smaller than what it answers, and all that is remembered of it is in it.
                    self._shared.router.send_reply(address[0], self._key, address[1], retry.answer)
                case refused:
                    # Not told: the dialer asks again, and there may be a place by then.
                    self._log.info("refused a connection of %s: %s", peer_node, refused.why)

    def _accept(self, address: Address, peer_node: str, place: Admitted, datagram: bytes) -> None:
        from meshnode.mesh.streams.connection import Connection  # noqa: PLC0415
        from meshnode.mesh.streams.quic import MeshQuicConnection  # noqa: PLC0415
        from meshnode.mesh.streams.timers import LINGER  # noqa: PLC0415

        credit = self._shared.new_credit(address[0])
        judge = None if self._tls is None else judge_of(self._tls(), peer_node)
        shown = None if judge is None else judge.shows
        quic = MeshQuicConnection.server(
            shown or self._shared.identity,
            credit,
            place.original_cid,
            place.retry_cid,
            self._shared.qlog,
            judge,
        )
        connection = Connection(
            self._shared.router,
            _Accepted(self, place, credit, peer_node),
            quic,
            self._key,
            address,
            peer_node,
            idle=LINGER,
            send_budget=self._shared.send_budget(address[0]),
        )
        connection.on_datagram(*address, datagram)
        if not quic.has_begun:  # it only looked like a first packet
            place.leave()
            credit.close()
            return
        self._connections[address] = connection
        self._shared.start(connection)

    def _say_unknown(self, address: Address, peer_node: str) -> None:
        """Tell a dialer whose connection we lost (we were restarted) that it is over.

        Without this it would wait for its idle time-out.
        """
        self._shared.router.send_notice(
            Unreachable(
                from_node=peer_node,
                to_node=self._shared.router.own_id,
                from_service=address[1],  # readable: the router delivers nothing of others
                to_service=self._key,
                problem=PROBLEM_SERVICE_UNKNOWN,
            )
        )

    # --- connections -------------------------------------------------------------------------

    def stream_opened(self, stream: MeshStream) -> bool:
        """Queue a stream for :meth:`accept`."""
        if self._closed:
            return False
        if not self._waiting.take(stream.holder):
            self._log.warning("refused a stream of %s: nobody accepts", stream.peer_node)
            return False
        self._arrived.send_nowait(stream)
        return True

    def connection_ended(self, connection: Connection) -> None:
        """Forget a connection; after the last one a closed listener's name is free again."""
        del self._connections[connection.peer]
        self._shared.ended(connection)
        if self._closed and not self._connections:
            self._shared.router.unbind(self._key)

    async def accept(self) -> MeshStream:
        """Wait for the next stream.

        Raises:
            trio.ClosedResourceError: the listener was closed.
        """
        stream = await self._accepted.receive()
        self._waiting.give_back(stream.holder)
        return stream

    async def aclose(self) -> None:
        """Accept nothing more; accepted streams live on."""
        if not self._closed:
            self._closed = True
            self._accepted.close()
            self._arrived.close()
            if self._on_close is not None:
                self._on_close()
            for connection in list(self._connections.values()):
                connection.retire()
            if not self._connections:
                self._shared.router.unbind(self._key)
        await trio.lowlevel.checkpoint()


class _Accepted:
    """Owner of a connection that another node began."""

    def __init__(
        self, listener: StreamListener, place: Admitted, credit: Credit, node: str
    ) -> None:
        self._listener = listener
        self._node = node
        self._place = place
        self._credit = credit

    def stream_opened(self, stream: MeshStream) -> bool:
        """Have the stream accepted."""
        return self._listener.stream_opened(stream)

    def connection_ready(self) -> None:
        """Note that the handshake is done."""
        self._place.ready()
        if self._listener.is_secured:
            self._listener.connections.note_trust(self._node)

    def handshake_refused(self, error: HandshakeRefused, log: SubjectLogger) -> None:
        """Log it."""
        self._listener.connections.note_refusal(self._node, error, log)

    def connection_ended(self, connection: Connection) -> None:
        """Give back the place and the credit of the connection."""
        self._place.leave()
        self._credit.close()
        self._listener.connection_ended(connection)
