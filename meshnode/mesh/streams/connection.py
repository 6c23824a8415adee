"""One QUIC connection over the mesh, driven by one task (protocol section 7).

Theory of operation
-------------------

The engine (quic.py) does no I/O. It takes datagrams, bytes of streams and the time; it says what
to send, what has happened, and when it wants to be called again. This module drives it.

**In.** The router calls `on_datagram` in the task of the link that brought the datagram. The
engine takes it at once, and the streams take the engine's events at once: a reader that waits in
`MeshStream.receive_some` is woken. Nothing here may wait, since the link serves all connections.

**Out.** Writing sends nothing. `write` hands bytes to the engine, and wakes the driver, `run`, the
only task that asks the engine for datagrams. So all that was written, read and acknowledged before
the driver's turn leaves together. Only the driver waits for the link: until there is room, the
engine keeps what was written, and `room` makes the writers wait.

**Each round** of the driver has three steps:

1. `_transmit`. First, so that what is new leaves at once. When the datagrams are gone, what they
   took of the send budget is counted, the clock of a liveness check begins (our own link may have
   held the question up), and writers that now find room are woken.
2. `_settle`. Streams whose end is delivered are let go, which may end the connection. This comes
   after sending, because nothing is delivered before it is sent, and before waiting, because a
   connection that is over waits for nothing.
3. `_wait`, until somebody wakes the driver or a timer is due. The engine's timer comes first: what
   it finds out (losses, its own end) may make ours superfluous.

**Data alone does not wake the driver.** It asks for nothing but an acknowledgement, and one is
enough for many datagrams. `_take` only brings the driver's deadline forward to when the engine has
to acknowledge (`ACK_DELAY`). A request and its answer then cost 0.61 ms of processor time, and
0.72 ms if each datagram wakes the driver.

**The end.** `_fail` is the only way out: it remembers the first reason, breaks all streams and
wakes whoever waits. The engine's last packet is sent there, since nobody drives it afterwards.

**Faults.** A peer chooses what the engine is fed. An exception of the engine ends this connection,
wherever it was called from, and nothing else: see `Boundary`.
"""

from typing import TYPE_CHECKING, Protocol

import trio
from aioquic.quic import events

from meshnode.errors import HandshakeRefused, MeshError, MeshTimeout, NoRoute, StreamError
from meshnode.errors import Unreachable as UnreachableError
from meshnode.logs import SubjectLogger, subject_logger
from meshnode.mesh.links.base import Message
from meshnode.mesh.router import Router
from meshnode.mesh.streams.ends import Boundary, end_error
from meshnode.mesh.streams.flowcontrol import SendBudget
from meshnode.mesh.streams.quic import MeshQuicConnection
from meshnode.mesh.streams.quicsettings import CANCELLED_READ, NORMAL_CLOSE, Address
from meshnode.mesh.streams.stream import MeshStream
from meshnode.mesh.streams.streamtable import NO_STREAM_BEGAN, StreamTable
from meshnode.mesh.streams.timers import IDLE_TIMEOUT, NO_HANDSHAKE, ConnectionTimers, LivenessCheck
from meshnode.protocol.messages import (
    WIRE_HOPS,
    DataHeader,
    ServiceKey,
    Unreachable,
    decode_service,
    show_service,
)

if TYPE_CHECKING:
    from meshnode.security.certificates import Certificate


class ConnectionOwner(Protocol):
    """What a connection tells who made it."""

    def stream_opened(self, stream: MeshStream) -> bool:
        """Take a stream that the peer opened; False refuses it."""

    def connection_ready(self) -> None:
        """Note that the handshake is done."""

    def handshake_refused(self, error: HandshakeRefused, log: SubjectLogger) -> None:
        """Note that there is no connection, since one end does not take the other for whom it
        should be."""

    def connection_ended(self, connection: "Connection") -> None:
        """Note that the connection is over and takes no more datagrams."""


class Connection:
    """A QUIC connection with one service of another node.

    This is the listener's end; the dialer's is :class:`meshnode.mesh.streams.dialed.Dialed`.
    ``idle`` is for how many seconds it is kept after its last stream, ``send_budget`` what all
    connections with that node have in common.
    """

    _is_client = False
    _awaits_verdict = False
    """Whether all that is missing is what the other end thinks of our certificate."""

    def __init__(
        self,
        router: Router,
        owner: ConnectionOwner,
        quic: MeshQuicConnection,
        own_service: ServiceKey,
        peer: Address,
        peer_node: str,
        idle: float,
        send_budget: SendBudget,
    ) -> None:
        self.peer = peer
        self._router = router
        self._owner = owner
        self._quic = quic
        self._peer_node = peer_node
        header = DataHeader(WIRE_HOPS, router.own_hash, peer[0], own_service, peer[1])
        self._header = header.encode()
        self._send_budget = send_budget
        self._in_flight = 0
        """What the send budget counts of this connection."""
        self._streams = StreamTable(quic, send_budget)
        self._ready = trio.Event()
        self._failure: MeshError | None = None
        self._over = False
        self._wake = trio.Event()
        self._nap = trio.CancelScope()
        now = trio.current_time()
        self._timers = ConnectionTimers(is_client=self._is_client, idle=idle, now=now)
        self._liveness = LivenessCheck()
        self._log = subject_logger("connection", f"{peer_node}:{show_service(peer[1])}")

    # --- datagrams ---------------------------------------------------------------------------

    def on_datagram(self, source: bytes, source_service: ServiceKey, payload: Message) -> None:
        """Take a datagram of this connection."""
        if not self._over and (source, source_service) == self.peer:
            with Boundary(self):
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
            self._nap.deadline = due

    def on_unreachable(self, notice: Unreachable, reporter: str) -> None:
        """Take a notice about a datagram of ours: the other end is no more."""
        if (notice.to_node, notice.to_service) == (self._peer_node, self.peer[1]):
            target = f"service {show_service(self.peer[1])} of node {self._peer_node}"
            self._question(UnreachableError(notice.problem, reporter, target))

    def node_restarted(self) -> None:
        """Take the news that the other end's node has begun a new life, without our streams."""
        self._question(StreamError(f"node {self._peer_node} was restarted"))

    def _question(self, why: MeshError) -> None:
        """Take a report, whoever it is from, that the other end is no more.

        Before the handshake there is nobody to ask. After it only the other end can answer, and an
        end that is no more does not.
        """
        if not self._ready.is_set():
            self._fail(why)
        else:
            self._liveness.begin(why, trio.current_time())
            self._wake.set()

    # --- what streams ask for ----------------------------------------------------------------

    @property
    def heard_at(self) -> float:
        """When the other end last showed that it lives."""
        return self._quic.heard_at

    @property
    def certificate(self) -> "Certificate | None":
        """The other end's certificate, if it had to show one, or chose to, and it is good."""
        return None if self._quic.judge is None else self._quic.judge.certificate

    def _make_stream(self, stream_id: int) -> MeshStream:
        self._timers.used()
        holder = self._router.holder_of(self.peer[0])
        return MeshStream(self, stream_id, self._peer_node, decode_service(self.peer[1]), holder)

    def write(self, stream_id: int, data: bytes | memoryview, end: bool) -> None:
        """Hand bytes (and the FIN) to the engine."""
        if not self._over:
            with Boundary(self):
                self._quic.write(stream_id, data, end)
            self._wake.set()

    def room(self, stream_id: int) -> int:
        """Return how many bytes may be written on a stream now."""
        return self._send_budget.room(self._quic.unsent(stream_id), self._in_flight)

    def consumed(self, stream_id: int, count: int) -> None:
        """Grant the peer new credit for what was read."""
        if count and not self._over:
            with Boundary(self):
                if self._quic.consume(stream_id, count):
                    self._wake.set()

    def release(self, stream_id: int, *, graceful: bool, stop_reading: bool) -> None:
        """Finish or reset a stream whose user is done with it."""
        if self._over:
            return
        with Boundary(self):
            if stop_reading and self._quic.is_known(stream_id):
                self._quic.stop_stream(stream_id, CANCELLED_READ)
            if not graceful:
                self._quic.reset_stream(stream_id, CANCELLED_READ)
            self._streams.close(stream_id)
        self._wake.set()

    # --- the driver --------------------------------------------------------------------------

    async def run(self) -> None:
        """Drive the connection until it is over; raises nothing but cancellation."""
        try:
            with Boundary(self):
                while not self._over:
                    await self._transmit()
                    self._settle()
                    if not self._over:
                        await self._wait()
        finally:
            self.close()
            self._owner.connection_ended(self)
            self._quic.dispose()

    async def _transmit(self) -> None:
        """Send what the engine has to send, waiting while our own link is behind."""
        if not self._router.has_room(self.peer[0]):
            await self._router.wait_room(self.peer[0])
        self._send()
        if self._over:  # our own firewall has refused what was sent
            return
        self._count_in_flight(self._quic.bytes_in_flight)
        if self._liveness:
            self._liveness.asked(trio.current_time(), self._quic.probe_timeout)
        self._streams.wake_writers()

    def _send(self) -> None:
        node_hash, send, header = self.peer[0], self._router.send, self._header
        try:
            for datagram, _ in self._quic.datagrams_to_send(trio.current_time()):
                send(node_hash, header + datagram)
        except NoRoute:
            # A route may come back before the connection's time is over: to the engine this is
            # loss, and it sends again.
            self._log.debug("no route at the moment")

    def _count_in_flight(self, count: int) -> None:
        self._send_budget.add_in_flight(count - self._in_flight)
        self._in_flight = count

    def _settle(self) -> None:
        """Let go of streams that are delivered, and of the connection after the last one."""
        if not self._streams.has_closed:
            return  # as good as always
        before = self._streams.in_use
        self._streams.settle()
        if self._streams.in_use < before:
            self._note_idle()
        count, undelivered = self._streams.undelivered()
        if self._timers.waits_in_vain(undelivered, count, trio.current_time()):
            self._log.info("gave up %d streams: what they end with is not taken", count)
            self._streams.give_up_delivery()
            self._wake.set()

    async def _wait(self) -> None:
        """Wait for work or for the next timer, and let due timers fire."""
        timers, liveness, quic = self._timers, self._liveness, self._quic
        timer = quic.get_timer()
        own = min(timers.next_deadline(quic.heard_at), liveness.next_deadline())
        with trio.CancelScope(deadline=own if timer is None else min(timer, own)) as self._nap:
            await self._wake.wait()
        self._wake = trio.Event()
        now = trio.current_time()
        if timer is not None and now >= timer:
            quic.handle_timer(now)
            self._take_events()
        if timers.is_to_ping(now) or liveness.is_to_ask(now):
            quic.send_ping(0)
        if (end := liveness.verdict(now)) is not None:
            self._fail(end)
        if timers.is_quiet(quic.heard_at, now):
            # The engine's own idle time-out begins anew with what *we* send.
            self._fail(StreamError(f"nothing heard for {IDLE_TIMEOUT:g} s"))
        if timers.is_late(now):
            self._fail(MeshTimeout(NO_HANDSHAKE))
        if timers.is_idle(now):
            self.close()

    # --- what the engine says ----------------------------------------------------------------

    def _take_events(self) -> bool:
        """Pass on what the engine has to say; True if that was data of streams, and only that."""
        others = data = 0
        while (event := self._quic.next_event()) is not None:
            # Before the others: as good as all events of a busy connection are these.
            if isinstance(event, events.StreamDataReceived):
                data += 1
                new = self._streams.take_data(event, self._make_stream)
                if new is not None and not self._owner.stream_opened(new):
                    self._streams.decline(event.stream_id)
                    self._note_idle()
                continue
            others += 1
            match event:
                case events.StreamReset():
                    self._streams.take_reset(event.stream_id)
                case events.StopSendingReceived():
                    self._streams.take_refusal(event.stream_id)
                case events.HandshakeCompleted():
                    # Before the bytes of streams that came with it.
                    if self._quic.is_judged:
                        self._handshake_done()
                    else:
                        self._awaits_verdict = True
        if self._awaits_verdict and self._quic.is_judged:
            self._awaits_verdict = False
            self._handshake_done()
        if self._streams.is_useless:
            self._quic.close(error_code=0, frame_type=None, reason_phrase=NO_STREAM_BEGAN)
        end = self._quic.ended
        if end is not None:
            error = end_error(self._quic, end)
            if self._quic.judge is not None and isinstance(error, HandshakeRefused):
                self._owner.handshake_refused(error, self._log)
            self._fail(error, closing=self._quic.has_last_words)
            return False
        return data > 0 and others == 0

    def _handshake_done(self) -> None:
        now = trio.current_time()
        self._check_certificate()
        self._quic.find_size(now)
        self._quic.drop_handshake()
        self._timers.ready(now)
        self._owner.connection_ready()
        self._ready.set()

    def _check_certificate(self) -> None:
        """Judge what the other end has shown in the handshake; dialers show nothing."""

    # --- its end -----------------------------------------------------------------------------

    def _note_idle(self) -> None:
        """Begin to wait for the next stream if this was the last one; or do not wait."""
        if not self._streams.in_use:
            self._timers.unused(trio.current_time())
            if self._timers.idle == 0:
                self.close()

    def retire(self) -> None:
        """Close the connection as soon as it has no stream."""
        self._timers.idle = 0
        if not self._streams.in_use:
            self.close()

    def close(self) -> None:
        """Close the connection at once, streams and all; the peer is told, nothing is awaited."""
        if self._over:
            return
        with Boundary(self):
            self._quic.close(error_code=0, frame_type=None, reason_phrase=NORMAL_CLOSE)
        self._fail(StreamError(NORMAL_CLOSE), closing=True)

    def engine_failed(self, error: Exception) -> None:
        """End the connection without a last packet: the engine's state cannot be trusted."""
        if self._over:
            self._log.debug("the last packet of a connection was not sent", exc_info=error)
            return
        self._log.error("the QUIC engine failed, the connection ends", exc_info=error)
        self._fail(StreamError(f"the QUIC engine failed: {type(error).__name__}"))

    def _fail(self, error: MeshError, closing: bool = False) -> None:
        """End the connection for whoever uses it; ``closing`` leaves one transmission to do."""
        if self._over:
            return
        if self._failure is None:
            self._failure = error
        self._over = True
        self._streams.lose(error)
        self._count_in_flight(0)
        self._ready.set()
        self._wake.set()
        if closing:
            with Boundary(self):
                self._send()
