"""Dialing and accepting streams: which connection a datagram belongs to, and who made it.

The QUIC engine and its cryptography take as long to import as everything else that a node needs to
start, and a node without links never needs them. So what imports them is imported when the first
connection is made, or before by :func:`load_engine`.
"""

# Annotations name what is not imported yet.
from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import trio

from meshnode.errors import MeshError
from meshnode.logs import subject_logger
from meshnode.mesh.links.base import Message
from meshnode.mesh.router import Router
from meshnode.mesh.streams.flowcontrol import Credit, CreditPool, SendBudget
from meshnode.mesh.streams.stream import MeshStream
from meshnode.protocol.messages import (
    PROBLEM_SERVICE_UNKNOWN,
    ServiceKey,
    Unreachable,
    encode_service,
    show_service,
)
from meshnode.protocol.namehash import NameTable
from meshnode.resources import GiveBack
from meshnode.shares import Shares

if TYPE_CHECKING:
    from meshnode.mesh.streams.admission import Admission, Admitted
    from meshnode.mesh.streams.connection import Connection
    from meshnode.mesh.streams.identity import Identity
    from meshnode.mesh.streams.quic import Address

ACCEPT_BACKLOG = 1024
"""Streams that wait to be accepted before more are refused. They wait until their service has its
turn, so this is what may come in one go; of one node half as many, and what is reached over one
link leaves a sixteenth to others."""

MANY_STREAMS = ("meshnode", "many-streams")
"""Tag of an advertised stream service whose connections carry many streams. Receptor's carry one,
and receptor ignores tags that it does not know."""

CONNECTION_BYTES = 50 * 1024
"""What a connection takes of memory, about."""

MAX_SINGLES = 1024
"""Services that are remembered as taking one stream a connection although they are advertised
otherwise; forgotten ones are found out again, which costs a handshake."""

Spawn = Callable[[Callable[[], Awaitable[None]]], None]
"""Starts a connection's driver in the nursery of the mesh."""


def load_engine() -> None:
    """Import what streams need, so that the first one does not wait for it; for any thread."""
    from meshnode.mesh.streams import admission, connection  # noqa: F401, PLC0415


class StreamLayer:
    """All QUIC connections of one node."""

    def __init__(self, router: Router, names: NameTable, spawn: Spawn) -> None:
        self.router = router
        self.names = names
        self.spawn = spawn
        self.connections: set[Connection] = set()
        self._pool: dict[Address, list[Connection]] = {}
        self._singles: dict[Address, None] = {}
        self._credit = CreditPool()
        self._give_back = GiveBack(spawn)
        self._budgets: WeakValueDictionary[bytes, SendBudget] = WeakValueDictionary()
        """Kept by the connections that they are about."""
        self._branch_budgets: WeakValueDictionary[str, SendBudget] = WeakValueDictionary()
        """Kept by those of their nodes."""
        self._log = subject_logger("streams")

    @functools.cached_property
    def identity(self) -> Identity:
        """What the listeners of this node present."""
        from meshnode.mesh.streams.identity import make_insecure_identity  # noqa: PLC0415

        return make_insecure_identity()

    @functools.cached_property
    def admission(self) -> Admission:
        """Who may begin a connection with the services of this node."""
        from meshnode.mesh.streams.admission import Admission  # noqa: PLC0415

        return Admission()

    def new_credit(self, node: bytes) -> Credit:
        """Return what another connection with a node may promise."""
        return Credit(self._credit, self.router.holder_of(node))

    def send_budget(self, node: bytes) -> SendBudget:
        """Return what all connections with a node have in common."""
        found = self._budgets.get(node)
        if found is None:
            branch = self._branch_budget(self.router.holder_of(node).branch)
            found = self._budgets[node] = SendBudget.of_node(branch)
        return found

    def _branch_budget(self, branch: str) -> SendBudget | None:
        """Return what all connections with nodes have in common that one link leads to."""
        if not branch:
            return None
        found = self._branch_budgets.get(branch)
        if found is None:
            found = self._branch_budgets[branch] = SendBudget.of_branch()
        return found

    async def dial(self, node: str, service: str, *, share: bool = False) -> MeshStream:
        """Open a stream to a service.

        With ``share`` the listener is said to take many streams on a connection
        (:data:`MANY_STREAMS`), so that one which exists is used: the stream then costs no
        handshake. Whoever can advertise can say so; what counts is what the listener itself says
        in its handshake, and one that takes a single stream gets a connection for each.

        Raises:
            NoRoute: no path to the node is known.
            Unreachable: the node does not have that service, or is behind a firewall.
            MeshTimeout: no handshake in time.
            StreamError: the handshake failed.
            ProtocolError: the service name does not fit 8 bytes.
        """
        peer: Address = (self.router.resolve(node), encode_service(service))
        while share and peer not in self._singles:
            connection = self._shared(peer)
            if connection is None:
                connection = self._connect(node, peer, share=True)
                self._pool.setdefault(peer, []).append(connection)
            # Given up, it is not closed as long as others wait for the same handshake.
            stream = await self._open(connection, keep=True)
            if not connection.takes_many_streams:
                self._note_single(peer)
            if stream is not None:
                return stream
            # Somebody else has the one stream. We sent nothing yet: another connection loses us
            # nothing.
        stream = await self._open(self._connect(node, peer, share=False), keep=False)
        assert stream is not None
        return stream

    async def _open(self, connection: Connection, *, keep: bool) -> MeshStream | None:
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
            self.names.name(peer[0]),
        )

    def _shared(self, peer: Address) -> Connection | None:
        return next((c for c in self._pool.get(peer, ()) if c.has_place), None)

    def _connect(self, node: str, peer: Address, *, share: bool) -> Connection:
        from meshnode.mesh.streams.connection import Connection  # noqa: PLC0415
        from meshnode.mesh.streams.quic import MAX_STREAMS, MeshQuicConnection  # noqa: PLC0415
        from meshnode.mesh.streams.timers import POOL_IDLE  # noqa: PLC0415

        own_service = self.router.free_service()
        credit = self.new_credit(peer[0])
        connection = Connection(
            self.router,
            _Dialer(self, own_service, credit),
            MeshQuicConnection.client(
                self.router.own_id,
                peer,
                trio.current_time(),
                credit,
                streams=MAX_STREAMS if share else 1,
            ),
            own_service,
            peer,
            self.names.name(peer[0]) or node,
            is_client=True,
            idle=POOL_IDLE if share else 0,
            send_budget=self.send_budget(peer[0]),
        )
        self.router.bind(own_service, connection)
        self.connections.add(connection)
        self.spawn(connection.run)
        return connection

    def dialed_ended(self, connection: Connection) -> None:
        """Forget a connection that we dialed."""
        self.ended(connection)
        pooled = self._pool.get(connection.peer, [])
        if connection in pooled:
            pooled.remove(connection)
            if not pooled:
                del self._pool[connection.peer]

    def ended(self, connection: Connection) -> None:
        """Forget a connection."""
        self.connections.discard(connection)
        self._give_back.freed(CONNECTION_BYTES)

    def listen(self, service: str) -> StreamListener:
        """Accept streams of a service.

        Raises:
            ServiceInUse: the name is taken on this node.
            ProtocolError: the name does not fit 8 bytes.
        """
        return StreamListener(self, service)

    def node_restarted(self, node: str) -> None:
        """End the connections with a node that has begun a new life."""
        node_hash = self.names.learn(node)
        self._singles = {peer: None for peer in self._singles if peer[0] != node_hash}
        for connection in [c for c in self.connections if c.peer[0] == node_hash]:
            connection.node_restarted()


class _Dialer:
    """Owner of a dialed connection."""

    def __init__(self, layer: StreamLayer, own_service: ServiceKey, credit: Credit) -> None:
        self._layer = layer
        self._own_service = own_service
        self._credit = credit

    def stream_opened(self, stream: MeshStream) -> bool:
        """Refuse: listeners do not open streams."""
        return False

    def connection_ready(self) -> None:
        """Do nothing: who dialed waits for that itself."""

    def connection_ended(self, connection: Connection) -> None:
        """Give the service name back; late packets are answered ``service unknown``."""
        self._layer.router.unbind(self._own_service)
        self._credit.close()
        self._layer.dialed_ended(connection)


class _Accepted:
    """Owner of a connection that another node began."""

    def __init__(self, listener: StreamListener, place: Admitted, credit: Credit) -> None:
        self._listener = listener
        self._place = place
        self._credit = credit

    def stream_opened(self, stream: MeshStream) -> bool:
        """Have the stream accepted."""
        return self._listener.stream_opened(stream)

    def connection_ready(self) -> None:
        """Note that the handshake is done."""
        self._place.ready()

    def connection_ended(self, connection: Connection) -> None:
        """Give back what it had."""
        self._place.leave()
        self._credit.close()
        self._listener.connection_ended(connection)


class StreamListener(trio.abc.Listener[MeshStream]):
    """Accepts the streams of one service of this node. Made by ``Mesh.listen``."""

    def __init__(self, layer: StreamLayer, service: str) -> None:
        self.service = service
        self._key = encode_service(service)
        self._layer = layer
        self._connections: dict[Address, Connection] = {}
        self._arrived, self._accepted = trio.open_memory_channel[MeshStream](ACCEPT_BACKLOG)
        self._waiting = Shares(ACCEPT_BACKLOG, ACCEPT_BACKLOG // 16)
        self._closed = False
        self._on_close: Callable[[], None] | None = None
        self._log = subject_logger("service", service)
        layer.router.bind(self._key, self)

    def when_closed(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once when the listener is closed."""
        self._on_close = callback

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
        names = self._layer.names
        if notice.to_node in names:  # a name that only a notice knows is not worth its hash
            address = (names.learn(notice.to_node), notice.to_service)
            if (connection := self._connections.get(address)) is not None:
                connection.on_unreachable(notice, reporter)

    def _begin(self, address: Address, datagram: bytes) -> None:
        """Begin a connection, if a datagram of no known one asks for that and there is a place."""
        from meshnode.mesh.streams.admission import (  # noqa: PLC0415
            Admitted,
            Retry,
            first_packet,
        )

        peer_node = self._layer.names.name(address[0])
        if peer_node is None:
            return  # an unknown hash: there is nobody to answer (protocol section 3)
        packet = first_packet(datagram)
        if packet.answer is not None:
            self._layer.router.send_reply(address[0], self._key, address[1], packet.answer)
        elif packet.initial is None or self._closed:
            self._say_unknown(address, peer_node)
        else:
            now = trio.current_time()
            holder = self._layer.router.holder_of(address[0])
            match self._layer.admission.judge(address, self._key, packet.initial, now, holder):
                case Admitted() as place:
                    self._accept(address, peer_node, place, datagram)
                case Retry() as retry:
                    # Smaller than what it answers, and all that is remembered of it is in it.
                    self._layer.router.send_reply(address[0], self._key, address[1], retry.answer)
                case refused:
                    # Not told: the dialer asks again, and there may be a place by then.
                    self._log.info("refused a connection of %s: %s", peer_node, refused.why)

    def _accept(self, address: Address, peer_node: str, place: Admitted, datagram: bytes) -> None:
        from meshnode.mesh.streams.connection import Connection  # noqa: PLC0415
        from meshnode.mesh.streams.quic import MeshQuicConnection  # noqa: PLC0415
        from meshnode.mesh.streams.timers import LINGER  # noqa: PLC0415

        credit = self._layer.new_credit(address[0])
        connection = Connection(
            self._layer.router,
            _Accepted(self, place, credit),
            MeshQuicConnection.server(
                self._layer.identity, credit, place.original_cid, place.retry_cid
            ),
            self._key,
            address,
            peer_node,
            is_client=False,
            idle=LINGER,
            send_budget=self._layer.send_budget(address[0]),
        )
        connection.on_datagram(*address, datagram)
        if not connection.has_begun:  # it only looked like a first packet
            place.leave()
            credit.close()
            return
        self._connections[address] = connection
        self._layer.connections.add(connection)
        self._layer.spawn(connection.run)

    def _say_unknown(self, address: Address, peer_node: str) -> None:
        """Tell a dialer whose connection we lost (we were restarted) that it is over.

        Without this it would wait for its idle time-out.
        """
        self._layer.router.send_notice(
            Unreachable(
                from_node=peer_node,
                to_node=self._layer.router.own_id,
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
        self._layer.ended(connection)
        if self._closed and not self._connections:
            self._layer.router.unbind(self._key)

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
                self._layer.router.unbind(self._key)
        await trio.lowlevel.checkpoint()
