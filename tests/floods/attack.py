"""What all attacks share: a target, a limit, and ways to pour and to crowd."""

import selectors
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hostile.peer import ATTACKER, LinkLost, Peer

BATCH_BYTES = 64 * 1024
"""Bytes of messages that leave in one write: system calls would cost the attacker more."""

REOPEN_PAUSE = 0.02
"""Seconds before another try to get in: refusals should cost the victim, not the attacker."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the victim can be reached."""

    tcp: int
    ws: int
    udp: int
    control_port: int
    control_socket: str
    tls: int
    """Of a listener that asks for certificates, and ``tls_control`` of a control service."""
    tls_control: int


@dataclass(slots=True)
class Sent:
    """What an attack came to. ``extra`` holds what only this one counts."""

    messages: int = 0
    bytes: int = 0
    links: int = 0
    """Links and connections opened, the first ones included."""
    extra: dict[str, float] = field(default_factory=dict)


class Limit:
    """How long an attack lasts, and how much it sends at most."""

    def __init__(self, seconds: float, most: int | None = None) -> None:
        self._end = time.monotonic() + seconds
        self._most = most

    @property
    def seconds(self) -> float:
        """Seconds left."""
        return max(0.0, self._end - time.monotonic())

    def allows(self, messages: int) -> bool:
        """Whether the attack goes on after so many messages."""
        return self.seconds > 0 and (self._most is None or messages < self._most)


Attack = Callable[[Target, Limit], Sent]
Messages = Callable[[str], Iterator[bytes]]
"""Makes the messages that a peer of that name sends."""


def pour(
    target: Target, limit: Limit, messages: Messages, *, kind: str = "tcp", prefix: str = "evil"
) -> Sent:
    """Send messages over one link; when the victim ends it, go on over another as another node."""
    sent = Sent()
    while limit.allows(sent.messages):
        try:
            with Peer.open(kind, getattr(target, kind), f"{prefix}{sent.links}") as peer:
                sent.links += 1
                try:
                    for batch in _batches(messages(peer.name)):
                        peer.send(*batch)
                        peer.say_alive()
                        sent.messages += len(batch)
                        if not limit.allows(sent.messages):
                            break
                    linger(peer, limit)
                finally:
                    sent.bytes += peer.wire.sent
        except LinkLost:
            time.sleep(REOPEN_PAUSE)
    return sent


def _batches(messages: Iterator[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for message in messages:
        batch.append(message)
        size += len(message)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def linger(peer: Peer, limit: Limit) -> None:
    """Stay linked, as a node would, until the time is over: what was sent stays in effect."""
    while limit.seconds:
        peer.drain()
        peer.say_alive()
        time.sleep(min(0.1, limit.seconds))


class Crowd:
    """Many connections that send a little and then stay; each that is closed is opened again."""

    def __init__(self, open_one: Callable[[], socket.socket], size: int, text: bytes) -> None:
        self._open_one = open_one
        self._size = size
        self._text = text
        self._selector = selectors.DefaultSelector()
        self._unsent: dict[socket.socket, memoryview] = {}
        self.sent = Sent()

    def stay(self, limit: Limit) -> Sent:
        """Keep the crowd together until the time is over."""
        try:
            while limit.seconds:
                self._fill(limit)
                for key, mask in self._selector.select(min(0.1, limit.seconds)):
                    assert isinstance(key.fileobj, socket.socket)
                    self._serve(key.fileobj, mask)
        finally:
            for sock in self._unsent:
                sock.close()
            self._selector.close()
        return self.sent

    def _fill(self, limit: Limit) -> None:
        while len(self._unsent) < self._size and limit.seconds:
            try:
                sock = self._open_one()
            except (OSError, LinkLost):
                return
            sock.setblocking(False)
            self._unsent[sock] = memoryview(self._text)
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._text else 0)
            self._selector.register(sock, wanted)
            self.sent.links += 1

    def _serve(self, sock: socket.socket, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                count = sock.send(self._unsent[sock])
                self.sent.bytes += count
                self._unsent[sock] = rest = self._unsent[sock][count:]
                if not rest:
                    self._selector.modify(sock, selectors.EVENT_READ)
            if mask & selectors.EVENT_READ and not sock.recv(65536):
                raise ConnectionResetError("closed by the victim")
        except BlockingIOError:
            return
        except OSError:
            self._selector.unregister(sock)
            del self._unsent[sock]
            sock.close()


def tcp_opener(port: int, source: str = ATTACKER) -> Callable[[], socket.socket]:
    """Return what connects to a TCP port without waiting for the other end's answer."""

    def open_one() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.bind((source, 0))
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", port))
        return sock

    return open_one


def unix_opener(path: str) -> Callable[[], socket.socket]:
    """Return what connects to a unix socket."""

    def open_one() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(1.0)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            raise
        return sock

    return open_one
