"""One QUIC connection over the mesh, driven by one task (protocol section 7)."""

import math
from types import TracebackType
from typing import Protocol

import trio
from aioquic.quic import events

from meshnode.errors import MeshError, MeshTimeout, NoRoute, StreamError
from meshnode.errors import Unreachable as UnreachableError
from meshnode.logs import subject_logger
from meshnode.mesh.links.base import Message
from meshnode.mesh.router import Router
from meshnode.mesh.streams.flowcontrol import SendBudget
from meshnode.mesh.streams.quic import (
    CANCELLED_READ,
    HANDSHAKE_TIMEOUT,
    IDLE_TIMEOUT,
    MAX_STREAMS,
    NORMAL_CLOSE,
    Address,
    MeshQuicConnection,
    describe_end,
)
from meshnode.mesh.streams.stream import MeshStream
from meshnode.mesh.streams.timers import ConnectionTimers, LivenessCheck
from meshnode.protocol.messages import (
    WIRE_HOPS,
    DataHeader,
    ServiceKey,
    Unreachable,
    decode_service,
    show_service,
)

NO_HANDSHAKE = f"no handshake within {HANDSHAKE_TIMEOUT:g} s"

REFUSED = "the other end reads no more"

STREAM_PREFIX = b"\0"
"""The dialer's first byte on a stream; the listener drops it (protocol section 7)."""


class ConnectionOwner(Protocol):
    """What a connection tells who made it."""

    def stream_opened(self, stream: MeshStream) -> bool:
        """Take a stream that the peer opened; False refuses it."""
        ...

    def connection_ready(self) -> None:
        """Note that the handshake is done."""
        ...

    def connection_ended(self, connection: "Connection") -> None:
        """Note that the connection is over and takes no more datagrams."""
        ...


class _Boundary:
    """Where an exception of the QUIC engine ends: at its connection.

    A peer chooses what the engine is fed, and its authors did not think of everything. Whoever
    calls it is no part of the fault: the link that brought the datagram, the nursery of all
    connections, the service that closes a stream. So this is the one place where a connection
    catches whatever comes; it is logged once, and costs the one connection that it is about.
    """

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if isinstance(error, Exception):
            self._connection.engine_failed(error)
            return True
        return False


class Connection:
    """A QUIC connection with one service of another node; either end of it.

    ``idle`` is for how many seconds it is kept after its last stream, ``send_budget`` what all
    connections with that node have in common.
    """

    def __init__(
        self,
        router: Router,
        owner: ConnectionOwner,
        quic: MeshQuicConnection,
        own_service: ServiceKey,
        peer: Address,
        peer_node: str,
        is_client: bool,
        idle: float,
        send_budget: SendBudget,
    ) -> None:
        self.peer = peer
        self._router = router
        self._owner = owner
        self._quic = quic
        self._peer_node = peer_node
        self._is_client = is_client
        node_hash, service = peer
        self._header = DataHeader(
            WIRE_HOPS, router.own_hash, node_hash, own_service, service
        ).encode()
        self._send_budget = send_budget
        self._in_flight = 0
        """What the budget counts of this connection."""
        self._streams: dict[int, MeshStream] = {}
        """Those that somebody uses, or whose last bytes are not delivered yet."""
        self._ending: set[int] = set()
        """Those whose user is done, or that never had one, until the engine forgets them."""
        self._dials = 0
        """Those that wait for the handshake, each with a stream to open."""
        self._ready = trio.Event()
        self._failure: MeshError | None = None
        self._over = False
        self._wake = trio.Event()
        self._nap = trio.CancelScope()
        self._timers = ConnectionTimers(is_client=is_client, idle=idle, now=trio.current_time())
        self._liveness = LivenessCheck()
        self._log = subject_logger("connection", f"{peer_node}:{show_service(service)}")

    # --- datagrams ---------------------------------------------------------------------------

    def on_datagram(self, source: bytes, source_service: ServiceKey, payload: Message) -> None:
        """Take a datagram of this connection."""
        if not self._over and (source, source_service) == self.peer:
            with _Boundary(self):
                self._take(bytes(payload))

    def _take(self, datagram: bytes) -> None:
        quic = self._quic
        now = trio.current_time()
        in_flight = quic.bytes_in_flight
        quic.receive_datagram(datagram, self.peer, now)
        if self._liveness:
            self._liveness.heard(quic.heard_at)
        only_data = self._take_events()
        if not only_data or quic.bytes_in_flight != in_flight:
            self._wake.set()
        elif (due := quic.ack_due) < self._nap.deadline:
            # Data alone asks for no more than an acknowledgement, and one is enough for many.
            self._nap.deadline = due

    def on_unreachable(self, notice: Unreachable, reporter: str) -> None:
        """Take a notice about a datagram of ours: the other end is no more."""
        if (notice.to_node, notice.to_service) == (self._peer_node, self.peer[1]):
            self._question(UnreachableError(notice.problem, reporter))

    def node_restarted(self) -> None:
        """Take the news that the other end's node has begun a new life, without our streams."""
        self._question(StreamError(f"node {self._peer_node} was restarted"))

    def _question(self, why: MeshError) -> None:
        """Take word of somebody, whoever it is, that the other end is no more.

        Before the handshake there is nobody to ask. After it the other end alone can answer, and
        an end that is no more does not.
        """
        if not self._ready.is_set():
            self._fail(why)
        else:
            self._liveness.begin(why, trio.current_time())
            self._wake.set()

    @property
    def has_place(self) -> bool:
        """Whether another stream may be opened, as far as is known now."""
        if self._over or self._failure is not None or self._liveness:
            return False
        if self._ready.is_set() and not (self._quic.takes_many_streams and self._quic.may_open):
            return False
        return len(self._streams) + self._dials < MAX_STREAMS

    @property
    def has_begun(self) -> bool:
        """Whether the other end has sent a packet that could be read."""
        return self._quic.has_begun

    @property
    def is_wanted(self) -> bool:
        """Whether a dial waits for the handshake, or a stream was opened."""
        return self._dials > 0 or self._timers.was_used

    @property
    def takes_many_streams(self) -> bool:
        """Whether the listener said in the handshake that it does."""
        return self._quic.takes_many_streams

    # --- what streams ask for ----------------------------------------------------------------

    def open_stream(self) -> MeshStream | None:
        """Open a stream to the listener; None if it takes one, and that is opened already.

        Raises:
            MeshError: the connection is over.
        """
        if not self._quic.takes_many_streams:
            if self._timers.was_used:
                return None
            self._timers.idle = 0
        stream_id = self._quic.get_next_available_stream_id()
        self.write(stream_id, STREAM_PREFIX, False)
        if self._failure is not None:
            raise self._failure
        return self._add_stream(stream_id)

    def _add_stream(self, stream_id: int) -> MeshStream:
        holder = self._router.holder_of(self.peer[0])
        service = decode_service(self.peer[1])
        stream = MeshStream(self, stream_id, self._peer_node, service, holder)
        self._streams[stream_id] = stream
        self._send_budget.add_streams(1)
        self._timers.used()
        return stream

    def _drop_stream(self, stream_id: int) -> None:
        del self._streams[stream_id]
        self._send_budget.add_streams(-1)

    def write(self, stream_id: int, data: bytes | memoryview, end: bool) -> None:
        """Hand bytes (and the FIN) to the engine."""
        if not self._over:
            with _Boundary(self):
                self._quic.write(stream_id, data, end)
            self._wake.set()

    def room(self, stream_id: int) -> int:
        """Return how many bytes may be written on a stream now."""
        return self._send_budget.room(self._quic.unsent(stream_id), self._in_flight)

    def is_drained(self, stream_id: int) -> bool:
        """Whether a stream has room for half of what may wait."""
        return self.room(stream_id) >= self._send_budget.unsent_most // 2

    def consumed(self, stream_id: int, count: int) -> None:
        """Grant the peer new credit for what was read."""
        if count and not self._over:
            with _Boundary(self):
                if self._quic.consume(stream_id, count):
                    self._wake.set()

    def release(self, stream_id: int, *, graceful: bool, stop_reading: bool) -> None:
        """Finish or reset a stream whose user is done with it."""
        if self._over:
            return
        with _Boundary(self):
            if stop_reading and self._quic.is_known(stream_id):
                self._quic.stop_stream(stream_id, CANCELLED_READ)
            if not graceful:
                self._quic.reset_stream(stream_id, CANCELLED_READ)
        self._ending.add(stream_id)
        self._wake.set()

    # --- the driver --------------------------------------------------------------------------

    async def wait_ready(self) -> None:
        """Wait for the handshake.

        Raises:
            MeshError: it failed; which error says why.
            MeshTimeout: it took longer than HANDSHAKE_TIMEOUT.
        """
        self._dials += 1
        try:
            with trio.fail_after(HANDSHAKE_TIMEOUT):
                await self._ready.wait()
        except trio.TooSlowError:
            raise MeshTimeout(NO_HANDSHAKE) from None
        finally:
            self._dials -= 1
        if self._failure is not None:
            raise self._failure

    async def run(self) -> None:
        """Drive the connection until it is over; raises nothing but cancellation."""
        try:
            with _Boundary(self):
                while not self._over:
                    await self._transmit()
                    self._let_go()
                    if not self._over:
                        await self._wait()
        finally:
            self.close()
            self._owner.connection_ended(self)
            self._quic.dispose()

    async def _wait(self) -> None:
        """Wait for work or for the next timer, and let due timers fire."""
        timer = self._quic.get_timer()
        deadline = min(math.inf if timer is None else timer, self._own_deadline())
        with trio.CancelScope(deadline=deadline) as self._nap:
            await self._wake.wait()
        self._wake = trio.Event()
        now = trio.current_time()
        if timer is not None and now >= timer:
            self._quic.handle_timer(now)
            self._take_events()
        timers = self._timers
        if timers.is_to_ping(now) or self._liveness.is_to_ask(now):
            self._quic.send_ping(0)
        if (end := self._liveness.verdict(now)) is not None:
            self._fail(end)
        if timers.is_quiet(self._quic.heard_at, now):
            # The engine's own idle time-out begins anew with what *we* send.
            self._fail(StreamError(f"nothing heard for {IDLE_TIMEOUT:g} s"))
        if timers.is_late(now):
            self._fail(MeshTimeout(NO_HANDSHAKE))
        if timers.is_idle(now):
            self._close_normally()

    def _own_deadline(self) -> float:
        return min(self._timers.next_deadline(self._quic.heard_at), self._liveness.next_deadline())

    async def _transmit(self) -> None:
        """Send what the engine has to send, waiting while our own link is behind."""
        node_hash = self.peer[0]
        if not self._router.has_room(node_hash):
            await self._router.wait_room(node_hash)
        send, header = self._router.send, self._header
        try:
            for datagram, _ in self._quic.datagrams_to_send(trio.current_time()):
                send(node_hash, header + datagram)
        except NoRoute:
            # A route may come back before the connection's timers ends: to the engine this is
            # loss, and it sends again.
            self._log.debug("no route at the moment")
        if self._over:
            return  # our own firewall has refused what was sent
        self._count_in_flight(self._quic.bytes_in_flight)
        if self._liveness:
            self._liveness.asked(trio.current_time(), self._quic.probe_timeout)
        for stream in self._streams.values():
            stream.wake_writers()

    def _count_in_flight(self, count: int) -> None:
        self._send_budget.add_in_flight(count - self._in_flight)
        self._in_flight = count

    # --- what the engine says ----------------------------------------------------------------

    def _take_events(self) -> bool:
        """Pass on what the engine has to say; True if that was data of streams, and only that."""
        others = data = 0
        while (event := self._quic.next_event()) is not None:
            # Before the others: as good as all events of a busy connection are these.
            if isinstance(event, events.StreamDataReceived):
                data += 1
                self._take_data(event)
                continue
            others += 1
            match event:
                case events.StreamReset():
                    self._take_reset(event.stream_id)
                case events.StopSendingReceived():
                    if stream := self._streams.get(event.stream_id):
                        stream.refuse_writes(REFUSED)
                case events.HandshakeCompleted():
                    self._handshake_done()
                case _:
                    pass
        end = self._quic.ended
        if end is not None:
            self._fail(StreamError(describe_end(end)), closing=self._quic.has_last_words)
            return False
        return data > 0 and others == 0

    def _handshake_done(self) -> None:
        now = trio.current_time()
        if self._is_client and not self._quic.has_insecure_certificate():
            self._quic.close(reason_phrase="insecure connection to secure service")
            self._failure = StreamError("insecure connection to secure service")
        self._quic.find_size(now)
        self._quic.drop_handshake()
        self._timers.ready(now)
        self._owner.connection_ready()
        self._ready.set()

    def _take_data(self, event: events.StreamDataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            stream.feed(event.data, event.end_stream)
        elif event.stream_id in self._ending:
            self._quic.consume(event.stream_id, len(event.data))
        else:
            self._take_first(event)

    def _take_first(self, event: events.StreamDataReceived) -> None:
        """Take the first bytes of a stream that the peer opened.

        Without a first byte there is no stream: it was ended before it began.
        """
        stream_id, data = event.stream_id, event.data
        if data[:1] != STREAM_PREFIX:
            self._decline(stream_id)
            return
        self._quic.consume(stream_id, 1)
        stream = self._add_stream(stream_id)
        stream.feed(data[1:], event.end_stream)
        if not self._quic.may_write(stream_id):
            # It asked for no bytes before it sent the first of its own.
            stream.refuse_writes(REFUSED)
        if not self._owner.stream_opened(stream):
            self._drop_stream(stream_id)
            self._decline(stream_id)
            self._note_idle()

    def _take_reset(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.lose("the other end reset the stream")
        elif stream_id not in self._ending:
            self._decline(stream_id)

    def _decline(self, stream_id: int) -> None:
        """Have nothing to do with a stream that the peer opened: the engine is to forget it."""
        if self._quic.is_receiving(stream_id):
            self._quic.stop_stream(stream_id, CANCELLED_READ)
        self._quic.reset_stream(stream_id, CANCELLED_READ)
        self._ending.add(stream_id)

    # --- its end -----------------------------------------------------------------------------

    def _let_go(self) -> None:
        """Let go of streams that are delivered, and of the connection after the last one."""
        if not self._ending:
            return
        quic = self._quic
        for stream_id in [i for i in self._ending if i in self._streams and quic.is_flushed(i)]:
            self._drop_stream(stream_id)
            self._note_idle()
        self._see_delivery()
        # The other end may still have words for a stream that we are done with; only when the
        # engine has heard its last one can a frame of that number not come again.
        for stream_id in [i for i in self._ending if not quic.is_known(i)]:
            self._ending.discard(stream_id)
            quic.forget_stream(stream_id)

    def _see_delivery(self) -> None:
        """Reset streams that are closed here when the other end takes nothing of them for long."""
        left = [i for i in self._ending if i in self._streams]
        undelivered = sum(map(self._quic.undelivered, left))
        if self._timers.waits_in_vain(undelivered, len(left), trio.current_time()):
            self._log.info("gave up %d streams: what they end with is not taken", len(left))
            for stream_id in left:
                self._quic.reset_stream(stream_id, CANCELLED_READ)
            self._wake.set()

    def _note_idle(self) -> None:
        """Begin to wait for the next stream if this was the last one; or do not wait."""
        if not self._streams:
            self._timers.unused(trio.current_time())
            if self._timers.idle == 0:
                self._close_normally()

    def _close_normally(self) -> None:
        with _Boundary(self):
            self._quic.close(error_code=0, frame_type=None, reason_phrase=NORMAL_CLOSE)
        self._fail(StreamError(NORMAL_CLOSE), closing=True)

    def engine_failed(self, error: Exception) -> None:
        """Give up: the engine's state can be trusted no more, not even to say farewell."""
        if not self._over:
            self._log.error("the QUIC engine failed, the connection ends", exc_info=error)
            self._fail(StreamError(f"the QUIC engine failed: {type(error).__name__}"))

    def retire(self) -> None:
        """Close the connection as soon as it has no stream."""
        self._timers.idle = 0
        if not self._streams:
            self.close()

    def close(self) -> None:
        """Close the connection at once, streams and all; the peer is told, nothing is awaited."""
        if not self._over:
            self._close_normally()

    def _fail(self, error: MeshError, closing: bool = False) -> None:
        """End the connection for whoever uses it; ``closing`` leaves one transmission to do."""
        if self._over:
            return
        if self._failure is None:
            self._failure = error
        self._over = True
        for stream in self._streams.values():
            stream.lose(str(error))
        self._send_budget.add_streams(-len(self._streams))
        self._streams.clear()
        self._count_in_flight(0)
        self._ready.set()
        self._wake.set()
        if closing:
            self._send_last()

    def _send_last(self) -> None:
        datagrams: list[tuple[bytes, Address]] = []
        with _Boundary(self):
            datagrams = self._quic.datagrams_to_send(trio.current_time())
        try:
            for datagram, _ in datagrams:
                self._router.send(self.peer[0], self._header + datagram)
        except NoRoute:
            self._log.debug("no route for the closing packet")
