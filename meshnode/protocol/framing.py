"""Messages on a byte stream: 2-byte little-endian length, then the bytes (reference section 1)."""

from collections.abc import Iterable

from meshnode.errors import ProtocolError

MAX_MESSAGE = 65_535
"""Bytes of the largest message: what the 2-byte length can say."""

LENGTH_BYTES = 2


def encode_frames(messages: Iterable[bytes | bytearray | memoryview]) -> bytes:
    """Join messages, each behind its length, into one buffer for one send.

    Raises:
        ProtocolError: a message is empty or longer than MAX_MESSAGE.
    """
    parts: list[bytes | bytearray | memoryview] = []
    for message in messages:
        size = len(message)
        if not 1 <= size <= MAX_MESSAGE:
            raise ProtocolError(f"a message of {size} bytes cannot be sent")
        parts.append(size.to_bytes(LENGTH_BYTES, "little"))
        parts.append(message)
    return b"".join(parts)


class FrameDecoder:
    """Cuts a byte stream into messages, however the stream is split into reads."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes | bytearray) -> list[memoryview]:
        """Return the messages that ``data`` completes.

        The views are writable (a forwarder counts hops down in place) and share one fresh buffer,
        so keeping one keeps all of its read.

        Raises:
            ProtocolError: a frame of length zero.
        """
        buffer = bytearray(self._rest)
        buffer += data
        view = memoryview(buffer)
        messages: list[memoryview] = []
        start, end = 0, len(buffer)
        while end - start >= LENGTH_BYTES:
            size = buffer[start] | buffer[start + 1] << 8
            if size == 0:
                raise ProtocolError("a frame of length zero")
            stop = start + LENGTH_BYTES + size
            if stop > end:
                break
            messages.append(view[start + LENGTH_BYTES : stop])
            start = stop
        self._rest = bytes(view[start:])
        return messages

    @property
    def at_boundary(self) -> bool:
        """Whether the stream may end here: no message is half received."""
        return not self._rest
