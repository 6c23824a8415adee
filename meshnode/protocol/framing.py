"""Messages on a byte stream: 2-byte little-endian length, then the bytes (protocol section 1)."""

import re
from collections.abc import Callable, Iterable

from meshnode.errors import ProtocolError
from meshnode.protocol.messages import MessageType

MAX_MESSAGE = 65_535
"""Bytes of the largest message: what the 2-byte length can say."""

LENGTH_BYTES = 2


FIRST_SPACE = 128 * 1024
"""Bytes of the buffer at first: twice the largest message."""

LARGEST_SPACE = 512 * 1024
"""Bytes of the buffer after reads have filled it; a larger one would not stay in the processor's
cache until its messages are forwarded."""

LEND_FROM = 128 * 1024
"""Reads smaller than this are copied out of the shared buffer; larger ones are lent as views. A
retained view keeps the whole buffer alive."""

SHORTEST = 36
"""Bytes of the shortest message that is sent often: data without a payload."""

SHORTER_AT_ONCE = 4096
"""Messages that one read may have beyond as many of SHORTEST as fit. Future nodes may send shorter
ones, but a read full of them has a hundred thousand, and the whole node waits meanwhile."""

LOOKED_AT = 300
"""Bytes of a first message that show another protocol: what names itself does so in one line."""

Buffer = bytes | bytearray | memoryview


def frame_parts(messages: Iterable[Buffer]) -> list[Buffer]:
    """Return messages, each behind its length, as what one gathering send takes.

    Raises:
        ProtocolError: a message is empty or longer than MAX_MESSAGE.
    """
    parts: list[Buffer] = []
    for message in messages:
        size = len(message)
        if not 1 <= size <= MAX_MESSAGE:
            raise ProtocolError(f"a message of {size} bytes cannot be sent")
        parts.append(size.to_bytes(LENGTH_BYTES, "little"))
        parts.append(message)
    return parts


def encode_frames(messages: Iterable[Buffer]) -> bytes:
    """Join messages, each behind its length, into one buffer for one send.

    Raises:
        ProtocolError: a message is empty or longer than MAX_MESSAGE.
    """
    return b"".join(frame_parts(messages))


def _cut(view: memoryview) -> tuple[list[memoryview], int]:
    """Return the whole messages in a buffer, and where the unfinished one begins.

    Raises:
        ProtocolError: a frame of length zero, or too many tiny ones.
    """
    messages: list[memoryview] = []
    start, end = 0, len(view)
    for _ in range(SHORTER_AT_ONCE + end // (LENGTH_BYTES + SHORTEST)):
        if end - start < LENGTH_BYTES:
            break
        size = view[start] | view[start + 1] << 8
        if size == 0:
            raise ProtocolError("a frame of length zero")
        stop = start + LENGTH_BYTES + size
        if stop > end:
            break
        messages.append(view[start + LENGTH_BYTES : stop])
        start = stop
    else:
        raise ProtocolError(f"more than {len(messages)} messages in {end} bytes")
    return messages, start


class ReadSpace:
    """A read buffer that many links share: each has handled its messages before the next reads.

    It is used again and again, but never while a view of a message in it is left.
    """

    def __init__(self) -> None:
        self._buffer = bytearray(FIRST_SPACE)
        self._spare = bytearray()

    def view(self) -> memoryview:
        """Return the buffer; no other view of it is left."""
        if not _is_free(self._buffer):
            # A link that is a little behind keeps views for a moment: two buffers take turns.
            size = len(self._buffer)
            self._buffer, self._spare = self._spare, self._buffer
            if len(self._buffer) != size or not _is_free(self._buffer):
                self._buffer = bytearray(size)
        return memoryview(self._buffer)

    def grow(self) -> None:
        """Double the buffer for the next read: this one was filled."""
        if len(self._buffer) < LARGEST_SPACE:
            self._buffer = bytearray(2 * len(self._buffer))


def _is_free(buffer: bytearray) -> bool:
    """Whether no view of a buffer is left: a bytearray with views cannot change its size."""
    try:
        buffer.append(buffer.pop())
    except BufferError:
        return False
    return True


def first_frame(message: memoryview) -> bytes:
    """Return the beginning of a message, behind its length, as :func:`name_stranger` takes it."""
    return len(message).to_bytes(LENGTH_BYTES, "little") + bytes(message[:LOOKED_AT])


class FrameReader:
    """Reads a byte stream and cuts it into messages where they lie."""

    def __init__(self, space: ReadSpace) -> None:
        self._space = space
        self._rest = b""

    def read(self, read_into: Callable[[memoryview], int]) -> list[memoryview] | None:
        """Have ``read_into`` write some bytes and say how many; return the messages then complete.

        None says that it wrote none, at the end of the stream. The views are writable: a forwarder
        counts hops down in place.

        Raises:
            ProtocolError: a frame of length zero, or a flood of tiny ones.
            Exception: whatever ``read_into`` raises; nothing has changed then.
        """
        view, start = self._space.view(), len(self._rest)
        view[:start] = self._rest
        count = read_into(view[start:])
        if not count:
            return None
        filled = view[: start + count]
        if len(filled) == len(view):
            self._space.grow()
        if len(filled) < LEND_FROM:
            filled = memoryview(bytearray(filled))
        messages, end = _cut(filled)
        self._rest = bytes(filled[end:])
        return messages

    @property
    def begun(self) -> bytes:
        """What has come of a message that is not complete, with its length."""
        return self._rest

    @property
    def at_boundary(self) -> bool:
        """Whether the stream may end here: no message is half received."""
        return not self._rest


# --- what is no node at all

_CONTROL_SERVICE = re.compile(rb"Receptor Control, node ([ -~]{0,255})")

SPEAKS_TLS = "the other end speaks TLS"
"""What is said of a handshake or an alert of TLS where there should be none."""

_STRANGERS = (
    (
        re.compile(rb"HTTP/1"),
        "an HTTP server answers there; if it is a ws-listener, dial it with ws-peer",
    ),
    (
        re.compile(rb"(?:GET|POST|HEAD|PUT|OPTIONS|CONNECT) "),
        "it sends an HTTP request; a tcp-listener is dialed with tcp-peer, a ws-listener with "
        "ws-peer",
    ),
    (re.compile(rb"SSH-"), "an SSH server or client is at the other end"),
    # A handshake or an alert of TLS. The fourth byte of a message of ours is that of a JSON value.
    (re.compile(rb"[\x15\x16]\x03[\x00-\x04][^{\[]"), SPEAKS_TLS),
)
"""What protocols begin with, and what to say of them."""

_TYPE_AT = LENGTH_BYTES
"""Where the type of a message stands, behind its length."""


def name_stranger(begun: bytes) -> str | None:
    """Return what is at the other end, given the beginning of a message with its length.

    None if it may well be a message. A port that is mistyped, or is of another kind, leads to a web
    server, a control service, or a listener of websockets. What that says looks like the length of
    a long message, of which nothing more comes.
    """
    if begun[_TYPE_AT : _TYPE_AT + 1] == bytes([MessageType.DATA]):
        return None
    control = _CONTROL_SERVICE.match(begun)
    if control is not None:
        node = control[1].decode("ascii")
        return f"the control service of node {node} answers there, and no listener for links"
    return next((text for pattern, text in _STRANGERS if pattern.match(begun)), None)


def begins_as_frame(data: Buffer) -> bool:
    """Whether a client sends a hello of a TCP link: no line of HTTP has such bytes."""
    return bytes(data[_TYPE_AT : _TYPE_AT + 2]) == bytes([MessageType.ROUTE]) + b"{"
