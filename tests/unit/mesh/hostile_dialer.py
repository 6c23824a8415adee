"""A dialer that keeps to QUIC as far as its handshake, and then sends what it likes."""

from collections.abc import Sequence

import trio
from aioquic.buffer import encode_uint_var
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.tls import Epoch

from meshnode.errors import Unreachable
from meshnode.mesh.mesh import Mesh
from meshnode.mesh.streams.congestion import LARGE_SIZE
from meshnode.mesh.streams.flowcontrol import Credit, CreditPool
from meshnode.mesh.streams.quic import MeshQuicConnection
from meshnode.mesh.streams.quicsettings import Address
from meshnode.protocol.messages import encode_service
from meshnode.shares import Holder

ROOM = LARGE_SIZE - 64
"""Bytes of frames that fit one packet."""

QUIET = 0.2
"""Seconds (of the tests' clock) without a datagram after which the other end has said all."""


class HostileDialer:
    """One connection to a service of a node, with frames of the caller's making."""

    def __init__(self, mesh: Mesh, node: str, service: str) -> None:
        self._socket = mesh.open_datagrams()
        self._node, self._service = node, service
        self._peer: Address = (b"victim--", encode_service(service))
        self.quic = MeshQuicConnection.client(
            mesh.node_id, self._peer, trio.current_time(), Credit(CreditPool(), Holder(""))
        )
        # It takes all streams for ones that it had and forgot, so no answer is a fault to it.
        self.quic._local_next_stream_id_bidi = self.quic._local_next_stream_id_uni = 1 << 62

    async def connect(self) -> None:
        """Do the handshake as it should be done."""
        with trio.fail_after(60):
            while not self.quic._handshake_confirmed:
                await self._flush()
                self._take((await self._socket.receive()).payload)
        await self._flush()

    async def send(self, packets: Sequence[bytes], *, settle: bool = True) -> None:
        """Send packets, each of which holds just these frames, and take what comes back."""
        for frames in packets:
            if self.quic.ended is not None:
                break
            await self._socket.send_to(self._node, self._service, packet_of(self.quic, frames))
        if settle:
            await self.settle()

    async def settle(self) -> None:
        """Take (and acknowledge) what comes until nothing does; a notice of the end is its end."""
        while True:
            with trio.move_on_after(QUIET) as quiet:
                try:
                    self._take((await self._socket.receive()).payload)
                except Unreachable:
                    continue
                await self._flush()
            if quiet.cancelled_caught:
                return

    def _take(self, payload: bytes) -> None:
        self.quic.receive_datagram(payload, self._peer, trio.current_time())
        while self.quic.next_event() is not None:
            pass

    async def _flush(self) -> None:
        for datagram, _ in self.quic.datagrams_to_send(trio.current_time()):
            await self._socket.send_to(self._node, self._service, datagram)

    def vanish(self) -> None:
        """Say no more, and give the service name back."""
        self._socket.close()


# --- packets and frames --------------------------------------------------------------------------


def packet_of(quic: MeshQuicConnection, frames: bytes) -> bytes:
    """Return one packet of these frames, as a connection's engine would number and encrypt it."""
    assert quic._version is not None
    builder = QuicPacketBuilder(
        host_cid=quic.host_cid,
        is_client=quic._is_client,
        max_datagram_size=LARGE_SIZE,
        packet_number=quic._packet_number,
        peer_cid=quic._peer_cid.cid,
        version=quic._version,
    )
    builder.start_packet(QuicPacketType.ONE_RTT, quic._cryptos[Epoch.ONE_RTT])
    builder.start_frame(QuicFrameType.PADDING).push_bytes(frames[:ROOM])
    (datagram,), _ = builder.flush()
    quic._packet_number = builder.packet_number
    return datagram


def frame(kind: int, *numbers: int) -> bytes:
    """Return a frame that is numbers from its type to its end."""
    return b"".join(map(encode_uint_var, (kind, *numbers)))


def stream_frame(stream_id: int, data: bytes, offset: int = 0, *, end: bool = False) -> bytes:
    """Return a STREAM frame."""
    kind = QuicFrameType.STREAM_BASE | 4 | 2 | end
    return frame(kind, stream_id, offset, len(data)) + data


def reset_stream(stream_id: int, final_size: int = 0) -> bytes:
    """Return a frame that breaks off the sender's direction of a stream."""
    return frame(QuicFrameType.RESET_STREAM, stream_id, 7, final_size)


def stop_sending(stream_id: int) -> bytes:
    """Return a frame that asks for no more of a stream."""
    return frame(QuicFrameType.STOP_SENDING, stream_id, 7)
