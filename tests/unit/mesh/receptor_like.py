"""A stream service as receptor's: plain QUIC, and one stream on a connection."""

import math

import trio
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicProtocolVersion

from meshnode.mesh.mesh import Mesh
from meshnode.mesh.streams.admission import first_packet
from meshnode.mesh.streams.identity import make_insecure_identity
from meshnode.mesh.streams.quicsettings import ALPN, Address
from meshnode.protocol.messages import ServiceKey, encode_service


class ReceptorService:
    """Echoes the first stream of each connection, and closes that with it."""

    def __init__(self, mesh: Mesh, service: str) -> None:
        self._router = mesh._router
        self._key = encode_service(service)
        self._nursery = mesh._nursery
        self._identity = make_insecure_identity()
        self.connections: dict[Address, QuicConnection] = {}
        self._begun: set[Address] = set()
        self.made = 0
        self._router.bind(self._key, self)

    def on_datagram(self, source: bytes, source_service: ServiceKey, payload: bytes) -> None:
        peer, data = (source, source_service), bytes(payload)
        quic = self.connections.get(peer)
        if quic is None:
            if first_packet(data).initial is None:
                return
            self.made += 1
            quic = self.connections[peer] = self._make(data)
            self._nursery.start_soon(self._let_timers_fire, peer, quic)
        quic.receive_datagram(data, peer, trio.current_time())
        self._go_on(peer, quic)

    def on_unreachable(self, notice, reporter) -> None:
        pass

    def _make(self, data: bytes) -> QuicConnection:
        configuration = QuicConfiguration(
            is_client=False,
            alpn_protocols=[ALPN],
            connection_id_length=4,
            supported_versions=[QuicProtocolVersion.VERSION_1],
            certificate=self._identity.certificate,
            private_key=self._identity.key,
        )
        return QuicConnection(
            configuration=configuration,
            original_destination_connection_id=data[6 : 6 + data[5]],
        )

    def _go_on(self, peer: Address, quic: QuicConnection) -> None:
        while (event := quic.next_event()) is not None:
            # Nobody accepts a second stream: what it says is not heard, and nobody answers it.
            if isinstance(event, events.StreamDataReceived) and event.stream_id == 0:
                data = event.data if peer in self._begun else event.data.removeprefix(b"\0")
                self._begun.add(peer)
                quic.send_stream_data(0, data, event.end_stream)
        stream = quic._streams.get(0)
        used = quic._local_max_streams_bidi.used > 0
        for datagram, _ in quic.datagrams_to_send(trio.current_time()):
            self._router.send_reply(peer[0], self._key, peer[1], datagram)
        if used and stream is not None and stream.sender.is_finished:
            quic.close(error_code=0, reason_phrase="normal close")
            for datagram, _ in quic.datagrams_to_send(trio.current_time()):
                self._router.send_reply(peer[0], self._key, peer[1], datagram)
            del self.connections[peer]

    async def _let_timers_fire(self, peer: Address, quic: QuicConnection) -> None:
        while self.connections.get(peer) is quic:
            timer = quic.get_timer()
            await trio.sleep(0.01 if timer is None else max(0.001, timer - trio.current_time()))
            now = trio.current_time()
            if (quic.get_timer() or math.inf) <= now:
                quic.handle_timer(now)
                self._go_on(peer, quic)
