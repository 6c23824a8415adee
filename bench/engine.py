"""The floor of what streams carry: our QUIC engine alone, both ends in this process, in memory.

No link, no task, no disk and no waiting: a clock that jumps to the engine's next timer when both
ends are silent stands in for the time that passes.
"""

import time

from aioquic.quic.events import StreamDataReceived

from meshnode.mesh.streams.admission import first_packet
from meshnode.mesh.streams.congestion import LARGE_SIZE
from meshnode.mesh.streams.flowcontrol import UNSENT_MOST, Credit, CreditPool
from meshnode.mesh.streams.identity import make_insecure_identity
from meshnode.mesh.streams.quic import MeshQuicConnection
from meshnode.mesh.streams.quicsettings import Address
from meshnode.mesh.streams.stream import SEND_CHUNK
from meshnode.shares import Holder

CLIENT: Address = (b"client--", "c")
SERVER: Address = (b"server--", "s")
STREAM = 0

MEGA = 1_000_000


class Engine:
    """Two ends that are connected and have found their datagram size."""

    def __init__(self, datagram_size: int = LARGE_SIZE) -> None:
        self._jumped = 0.0
        self._received = 0
        self._client = MeshQuicConnection.client(
            "client", SERVER, self._now(), Credit(CreditPool(), Holder("server"))
        )
        ((first, _),) = self._client.datagrams_to_send(self._now())
        initial = first_packet(first).initial
        assert initial is not None
        self._server = MeshQuicConnection.server(
            make_insecure_identity(),
            Credit(CreditPool(), Holder("client")),
            initial.destination_cid,
        )
        self._server.receive_datagram(first, CLIENT, self._now())
        self._pass_all()
        if datagram_size == LARGE_SIZE:
            self._client.find_size(self._now())
            self._server.find_size(self._now())
        while True:
            if self._pass_all():
                continue
            if self._client.datagram_size == self._server.datagram_size == datagram_size:
                return
            self._wait()

    def _now(self) -> float:
        return time.perf_counter() + self._jumped

    def rate(self, size: int) -> float:
        """Send so many bytes over one stream, written and read as our streams do; MB/s."""
        chunk = bytes(SEND_CHUNK)
        client = self._client
        left = size
        self._received = 0
        begun = time.perf_counter()
        while self._received < size:
            while left and client.unsent(STREAM) < UNSENT_MOST:
                client.write(STREAM, chunk[:left], False)
                left -= min(left, SEND_CHUNK)
            if not self._pass_all():
                self._wait()
        return size / MEGA / (time.perf_counter() - begun)

    def _pass_all(self) -> bool:
        """Pass what each end has to send to the other; return whether there was anything."""
        now = self._now()
        there = self._client.datagrams_to_send(now)
        for data, _ in there:
            self._server.receive_datagram(data, CLIENT, now)
        while (event := self._server.next_event()) is not None:
            if isinstance(event, StreamDataReceived):
                self._received += len(event.data)
                self._server.consume(event.stream_id, len(event.data))
        back = self._server.datagrams_to_send(now)
        for data, _ in back:
            self._client.receive_datagram(data, SERVER, now)
        while self._client.next_event() is not None:
            pass
        return bool(there or back)

    def _wait(self) -> None:
        """Let the time pass until an end's timer is due, without waiting for it."""
        ends = (self._client, self._server)
        now = self._now()
        due = min(timer for end in ends if (timer := end.get_timer()) is not None)
        self._jumped += max(0.0, due - now)
        for end in ends:
            timer = end.get_timer()
            if timer is not None and timer <= self._now():
                end.handle_timer(self._now())
