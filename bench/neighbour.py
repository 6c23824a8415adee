"""A neighbour of a node that is no node: a socket that speaks just enough to have a link."""

import time
from itertools import count

from bench.nodes import PATIENCE
from bench.pump import connect
from meshnode.protocol.framing import FrameReader, ReadSpace, encode_frames
from meshnode.protocol.messages import DataHeader, MessageType, encode_service
from meshnode.protocol.namehash import NameTable
from meshnode.protocol.routing import RoutingUpdate

PROBE_INTERVAL = 0.05
SERVICE = encode_service("bench")


class Neighbour:
    """A link to ``node``, over which messages go in and out as bytes of ``socket``."""

    def __init__(self, name: str, node: str, port: int) -> None:
        self.name = name
        self._node = node
        self._epoch = time.time_ns()
        self._numbers = count(1)
        self._frames = FrameReader(ReadSpace())
        self.socket = connect(port)
        self.say_hello()

    def say_hello(self) -> None:
        """List the node as our peer: it opens the link, and keeps it for another 21 s."""
        number = next(self._numbers)
        update = RoutingUpdate(
            self.name, f"{self.name}{number}", self._epoch, number, {self._node: 1.0}, self.name
        )
        self._send(update.encode())

    def message_to(self, other: "Neighbour", payload: bytes) -> bytes:
        """Return a data message as a frame."""
        names = NameTable()
        header = DataHeader(29, names.learn(self.name), names.learn(other.name), SERVICE, SERVICE)
        return encode_frames([header.encode() + payload])

    def wait_for_way_to(self, other: "Neighbour") -> None:
        """Return when what we send comes out at another neighbour, and nothing is under way."""
        probe = self.message_to(other, b"probe")
        deadline = time.monotonic() + PATIENCE
        other.socket.settimeout(PROBE_INTERVAL)
        while time.monotonic() < deadline:
            self.socket.setblocking(True)
            self.socket.sendall(probe)
            try:
                while True:
                    if MessageType.DATA in (message[0] for message in other._receive()):
                        return
            except TimeoutError:
                continue  # no route yet: the probe was dropped
        raise TimeoutError(f"nothing gets from {self.name} to {other.name}")

    def _send(self, message: bytes) -> None:
        self.socket.sendall(encode_frames([message]))

    def _receive(self) -> list[memoryview]:
        messages = self._frames.read(self.socket.recv_into)
        if messages is None:
            raise ConnectionError(f"{self._node} closed the link of {self.name}")
        return messages

    def close(self) -> None:
        """End the link."""
        self.socket.close()
