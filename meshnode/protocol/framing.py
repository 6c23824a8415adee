"""Messages on a byte stream: 2-byte little-endian length, then the bytes (protocol section 1)."""

from collections.abc import Callable, Iterable

from meshnode.errors import ProtocolError

MAX_MESSAGE = 65_535
"""Bytes of the largest message: what the 2-byte length can say."""

LENGTH_BYTES = 2


FIRST_SPACE = 128 * 1024
"""Bytes of a space to read into that was never full: twice the largest message."""

LARGEST_SPACE = 512 * 1024
"""Bytes of one that reads have filled: more no longer stays in the processor's cache while its
messages are passed on."""

LEND_FROM = 128 * 1024
"""Bytes of messages from which they are left in the space that they were read into. A message may
be kept, and keeps its whole space: of less than this they are copied out."""

SHORTEST = 36
"""Bytes of the shortest messages that come in numbers, data without a payload. Only a reject, which
is a link's last, is shorter."""

SHORTER_AT_ONCE = 4096
"""Messages by which a read may have more than those of SHORTEST: they may mean something to nodes
yet to come. A read of nothing else would be a hundred thousand, while the rest of a node waits."""

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
    """Return the whole messages in a buffer, and where the first byte that is of none stands.

    Raises:
        ProtocolError: a frame of length zero, or more frames than honest nodes make of as much.
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


def decode_frames(data: Buffer) -> list[memoryview]:
    """Return the messages of a whole byte stream; the views are writable.

    Raises:
        ProtocolError: a frame of length zero, a flood of tiny ones, or the stream ends within a
            message.
    """
    messages, end = _cut(memoryview(bytearray(data)))
    if end < len(data):
        raise ProtocolError("the stream ends in the middle of a message")
    return messages


class ReadSpace:
    """Where byte streams are read into; many may share one, as each is done before the next reads.

    It is used again and again, but never while somebody still looks at a message in it.
    """

    def __init__(self) -> None:
        self._buffer = bytearray(FIRST_SPACE)
        self._spare = bytearray()

    def view(self) -> memoryview:
        """Return the space; nobody else looks at it."""
        if not _is_free(self._buffer):
            # A link that is a little behind keeps one for a moment: two take turns then.
            size = len(self._buffer)
            self._buffer, self._spare = self._spare, self._buffer
            if len(self._buffer) != size or not _is_free(self._buffer):
                self._buffer = bytearray(size)
        return memoryview(self._buffer)

    def grow(self) -> None:
        """Be larger from the next time on, since a read has filled it."""
        if len(self._buffer) < LARGEST_SPACE:
            self._buffer = bytearray(2 * len(self._buffer))


def _is_free(buffer: bytearray) -> bool:
    """Whether no view of a buffer is left: what is viewed cannot change its size."""
    try:
        buffer.append(buffer.pop())
    except BufferError:
        return False
    return True


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
    def at_boundary(self) -> bool:
        """Whether the stream may end here: no message is half received."""
        return not self._rest
