"""Links as an enemy holds them: blocking sockets that begin as a peer should."""

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterator
from typing import Self

from hostile import forge
from meshnode.protocol.framing import encode_frames

ATTACKER = "127.0.0.66"
"""The address that attackers send from: a host of its own, as far as loopback can have one."""

SEND_TIMEOUT = 10.0
"""Seconds that one send may take: a victim that reads nothing for so long is lost or has won."""

SPEAK_INTERVAL = 5.0
"""Seconds between the signs of life of a peer that has nothing to say."""

READ_SIZE = 256 * 1024
"""Bytes taken in one read of what the victim says."""

WS_HEAD = 14
"""Bytes of the longest head of a websocket frame that we send: with a mask."""


class LinkLost(Exception):
    """The victim closed the link, or let us in no more."""


class Wire:
    """A socket that carries messages to the victim, in the framing of one kind of link."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.sent = 0
        """Bytes handed to the system."""
        sock.settimeout(SEND_TIMEOUT)

    def frame(self, messages: tuple[bytes, ...]) -> bytes:
        """Return messages as they go over the socket."""
        raise NotImplementedError

    def send_messages(self, messages: tuple[bytes, ...]) -> None:
        """Send messages in one write."""
        self.send_bytes(self.frame(messages))

    def send_bytes(self, data: bytes) -> None:
        """Send bytes that need not be messages.

        Raises:
            LinkLost: the victim takes no more.
        """
        try:
            self.socket.sendall(data)
        except OSError as exc:
            raise LinkLost(str(exc)) from exc
        self.sent += len(data)

    def take(self) -> list[bytes]:
        """Return the messages that have arrived; wait for some.

        Raises:
            LinkLost: none will come.
        """
        raise NotImplementedError

    def _read(self) -> bytes:
        try:
            data = self.socket.recv(READ_SIZE)
        except OSError as exc:
            raise LinkLost(str(exc)) from exc
        if not data:
            raise LinkLost("closed by the victim")
        return data

    def has_word(self, patience: float = 0.0) -> bool:
        """Whether the victim has said something, or has gone, within that many seconds."""
        # Not select.select, which knows no descriptors above 1,023.
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(patience * 1000))


class TcpWire(Wire):
    """Each message behind its length."""

    def __init__(self, port: int, source: str = ATTACKER) -> None:
        super().__init__(connect(port, source))
        self._rest = bytearray()

    def frame(self, messages: tuple[bytes, ...]) -> bytes:
        """Return messages, each behind its length."""
        return encode_frames(messages)

    def take(self) -> list[bytes]:
        """Return the next messages."""
        found: list[bytes] = []
        while not found:
            self._rest += self._read()
            while len(self._rest) >= 2:
                size = int.from_bytes(self._rest[:2], "little")
                if len(self._rest) < 2 + size:
                    break
                found.append(bytes(self._rest[2 : 2 + size]))
                del self._rest[: 2 + size]
        return found


class WsWire(Wire):
    """Each message a binary frame of a websocket, with a mask of zeros."""

    def __init__(self, port: int, source: str = ATTACKER, path: str = "/") -> None:
        super().__init__(connect(port, source))
        self._rest = bytearray()
        host = f"127.0.0.1:{port}"
        self.send_bytes(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self._rest:
            self._rest += self._read()
        head, _, rest = bytes(self._rest).partition(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise LinkLost(f"no websocket: {head[:60]!r}")
        self._rest = bytearray(rest)

    def frame(self, messages: tuple[bytes, ...]) -> bytes:
        """Return messages as frames."""
        return b"".join(ws_head(len(m)) + m for m in messages)

    def take(self) -> list[bytes]:
        """Return the next messages."""
        found: list[bytes] = []
        while not found:
            self._rest += self._read()
            found += self._cut()
        return found

    def _cut(self) -> Iterator[bytes]:
        while len(self._rest) >= 2:
            size, start = self._rest[1] & 0x7F, 2
            if size >= 126:
                width = 2 if size == 126 else 8
                if len(self._rest) < 2 + width:
                    return
                size, start = int.from_bytes(self._rest[2 : 2 + width], "big"), 2 + width
            if len(self._rest) < start + size:
                return
            if self._rest[0] & 0x0F == 8:
                raise LinkLost("the victim closed the websocket")
            yield bytes(self._rest[start : start + size])
            del self._rest[: start + size]


def ws_head(size: int, opcode: int = 2) -> bytes:
    """Return the head of a client's whole frame whose mask changes nothing."""
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 1 << 16:
        length = bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([0x80 | 127]) + size.to_bytes(8, "big")
    return bytes([0x80 | opcode]) + length + bytes(4)


class UdpWire(Wire):
    """Each message a datagram."""

    def __init__(self, port: int, source: str = ATTACKER, source_port: int = 0) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.bind((source, source_port))
            sock.connect(("127.0.0.1", port))
        except OSError:
            sock.close()
            raise
        super().__init__(sock)

    def frame(self, messages: tuple[bytes, ...]) -> bytes:
        """Return the one message."""
        (datagram,) = messages
        return datagram

    def send_messages(self, messages: tuple[bytes, ...]) -> None:
        """Send each message as a datagram."""
        for datagram in messages:
            self.send_bytes(datagram)

    def take(self) -> list[bytes]:
        """Return the next message."""
        return [self._read()]


WIRES = {"tcp": TcpWire, "ws": WsWire, "udp": UdpWire}
"""Kinds of links, by the names that directives have."""


def connect(port: int, source: str = ATTACKER) -> socket.socket:
    """Return a TCP connection to a port of the loopback interface.

    Raises:
        LinkLost: there is none to be had.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.settimeout(SEND_TIMEOUT)
        sock.bind((source, 0))
        sock.connect(("127.0.0.1", port))
    except OSError as exc:
        sock.close()
        raise LinkLost(str(exc)) from exc
    return sock


class Peer:
    """A link to the victim that is up: from here on anything may be sent."""

    def __init__(self, wire: Wire, name: str) -> None:
        self.wire = wire
        self.name = name
        self._spoken = time.monotonic()

    @classmethod
    def open(
        cls, kind: str, port: int, name: str, source: str = ATTACKER, **fields: object
    ) -> Self:
        """Dial as a node of that name and say hello; ``fields`` are other ones of the update.

        Raises:
            LinkLost: the victim does not let us in.
        """
        wire = WIRES[kind](port, source)
        try:
            peer = cls(wire, name)
            wire.send_messages((forge.update(name, UpdateID=unique(), **fields),))
            # Its hello proves that it reads us; what it thinks of ours follows from what it does.
            wire.take()
        except BaseException:
            wire.socket.close()
            raise
        return peer

    def send(self, *messages: bytes) -> list[bytes]:
        """Send messages; return what the victim has said meanwhile: it must be able to go on.

        Raises:
            LinkLost: the victim has had enough.
        """
        self.wire.send_messages(messages)
        return self.drain()

    def send_bytes(self, data: bytes) -> list[bytes]:
        """Send bytes below the framing; return what the victim has said meanwhile."""
        self.wire.send_bytes(data)
        return self.drain()

    def drain(self) -> list[bytes]:
        """Return what the victim has said meanwhile, without waiting."""
        heard: list[bytes] = []
        while self.wire.has_word():
            heard += self.wire.take()
        return heard

    def say_alive(self) -> None:
        """Say anything, if nothing was said for long: a silent link is closed after 21 s."""
        if time.monotonic() - self._spoken > SPEAK_INTERVAL:
            self._spoken = time.monotonic()
            self.send(forge.data(self.name, forge.VICTIM, "alive", "ping"))

    def close(self) -> None:
        """Close the socket."""
        self.wire.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def unique() -> str:
    """Return an update ID that nobody has used."""
    return os.urandom(4).hex()


@contextlib.contextmanager
def many(sockets: list[socket.socket]) -> Iterator[None]:
    """Close all of these at the end."""
    try:
        yield
    finally:
        for sock in sockets:
            sock.close()
