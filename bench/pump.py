"""A load generator and its sink in one: frames go in at one socket and come out of another.

Both ends are plain non-blocking sockets and buffers that are made once, so that what lies between
them is what is measured. No more than a window is under way at a time, as senders on a mesh do:
a node drops what it cannot queue.
"""

import select
import socket
import time

from bench.nodes import PATIENCE

WINDOW = 2 * 1024 * 1024
"""Bytes under way at once: less than any queue between the two ends holds."""

STALL = 10.0
"""Seconds without a byte after which frames must have been lost."""


class Pump:
    """Sends one block of frames again and again into ``inlet``, and counts what ``outlet`` gives.

    The bytes are counted, not looked at: whoever sets the pump up has seen that they arrive.
    """

    def __init__(self, inlet: socket.socket, outlet: socket.socket, block: bytes) -> None:
        inlet.setblocking(False)
        outlet.setblocking(False)
        self._inlet = inlet
        self._outlet = outlet
        self._block = memoryview(block)
        self._space = bytearray(WINDOW)

    def run(self, blocks: int) -> float:
        """Pass that many blocks through; return the bytes per second."""
        total = blocks * len(self._block)
        sent = received = 0
        with select.epoll() as epoll:
            epoll.register(self._outlet, select.EPOLLIN)
            epoll.register(self._inlet, 0)
            begun = time.perf_counter()
            sending = False
            while received < total:
                may_send = sent < total and sent - received < WINDOW
                if may_send != sending:
                    epoll.modify(self._inlet, select.EPOLLOUT if may_send else 0)
                    sending = may_send
                events = epoll.poll(STALL)
                if not events:
                    raise TimeoutError(f"{received} of {total} bytes came through")
                for descriptor, _ in events:
                    if descriptor == self._inlet.fileno():
                        sent += self._send(sent, min(total - sent, WINDOW - (sent - received)))
                    else:
                        received += self._receive()
            return total / (time.perf_counter() - begun)

    def _send(self, position: int, most: int) -> int:
        start = position % len(self._block)
        return self._inlet.send(self._block[start : start + most])

    def _receive(self) -> int:
        count = self._outlet.recv_into(self._space)
        if count == 0:
            raise ConnectionError("what lies between the ends of the pump closed its link")
        return count


def connect(port: int) -> socket.socket:
    """Connect to a port of the loopback as soon as somebody listens there."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), PATIENCE)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)  # nothing tells of a port's birth but trying
