"""What only TCP links have: frames."""

import pytest
import trio
from link_kinds import TCP, listening

from meshnode.errors import ProtocolError


async def receive_all(link):
    while await link.receive():
        pass


@pytest.mark.parametrize(
    "data",
    [b"\0\0", b"\x01\0a\0\0", b"\x05\0ab", b"\x05", b"\x01\0a\xff\xff" + b"x" * 1000],
    ids=["empty frame", "empty second", "cut message", "cut length", "cut second"],
)
async def test_a_stream_that_is_no_frames_breaks_the_protocol(data):
    async with listening(TCP) as (listener, _):
        stream = await trio.open_tcp_stream("127.0.0.1", listener.port)
        link = await listener.accept()
        await stream.send_all(data)
        await stream.send_eof()
        with pytest.raises(ProtocolError):
            await receive_all(link)
        for end in (stream, link):
            await end.aclose()


async def test_a_connection_that_is_reset_is_a_broken_link():
    async with listening(TCP) as (listener, _):
        stream = await trio.open_tcp_stream("127.0.0.1", listener.port)
        link = await listener.accept()
        await link.send([b"never read, so closing resets the connection"])
        await trio.testing.wait_all_tasks_blocked(cushion=0.001)
        await stream.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await receive_all(link)
        await link.aclose()
