"""What a link makes of a whole byte stream, for tests that have one."""

from meshnode.errors import ProtocolError
from meshnode.protocol.framing import LARGEST_SPACE, FrameReader, ReadSpace


def decode_frames(data: bytes) -> list[memoryview]:
    """Return the messages of a byte stream, as a link reads them whose reads are large.

    Raises:
        ProtocolError: a frame of length zero, a flood of tiny ones, or the stream ends within a
            message.
    """
    space = ReadSpace()
    while len(space.view()) < LARGEST_SPACE:
        space.grow()
    reader, left = FrameReader(space), memoryview(data)

    def read_into(view: memoryview) -> int:
        nonlocal left
        count = min(len(view), len(left))
        view[:count], left = left[:count], left[count:]
        return count

    messages: list[memoryview] = []
    while (arrived := reader.read(read_into)) is not None:
        messages += arrived
    if not reader.at_boundary:
        raise ProtocolError("the stream ends in the middle of a message")
    return messages
