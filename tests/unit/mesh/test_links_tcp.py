"""What only TCP links have: frames."""

from contextlib import suppress

import pytest
import trio
import trio.testing
from link_kinds import TCP, linked, listening, receive
from mesh_helpers import meshes
from stranger import Stranger

from meshnode.errors import OtherProtocol, ProtocolError
from meshnode.mesh.links.memory import memory_link_pair


async def receive_all(link):
    while await link.receive():
        pass


def send_without_end(link):
    while True:
        link.send_now([b"x" * 1000])


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


async def test_what_does_not_go_at_once_goes_next_and_in_order():
    async with linked(TCP) as [(near, far)]:
        messages = [bytes([number % 256]) * 50_000 for number in range(400)]
        sent = 0
        while near.send_now(messages[sent : sent + 5]):
            sent += 5
        sent += 5
        assert sent < len(messages), "a socket's buffers took everything"

        async def send_the_others():
            await near.send([])
            await near.send(messages[sent:])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_the_others)
            assert await receive(far, len(messages)) == messages


async def test_many_small_messages_go_at_once_as_well():
    async with linked(TCP) as [(near, far)]:
        messages = [b"%d" % number for number in range(3000)]
        assert near.send_now(messages)
        assert await receive(far, len(messages)) == messages


async def test_sending_at_once_on_a_link_that_is_gone_says_so():
    async with linked(TCP) as [(near, far)]:
        await far.aclose()
        with pytest.raises(trio.BrokenResourceError):
            send_without_end(near)
        await near.aclose()
        with pytest.raises(trio.ClosedResourceError):
            near.send_now([b"x"])


@pytest.fixture
def jumping_clock():
    """A clock that jumps when nothing happens, and gives bytes time to arrive."""
    return trio.testing.MockClock(autojump_threshold=0.02)


async def test_who_says_not_a_byte_in_time_is_no_link(jumping_clock):
    async with listening(TCP) as (listener, dialer):
        near = await dialer.dial()
        far = await listener.accept()
        with pytest.raises(ProtocolError, match="not a byte within 5 s"):
            await far.opened()
        await far.aclose()
        await near.aclose()


async def test_who_has_said_a_byte_may_be_as_slow_as_it_is(jumping_clock):
    async with listening(TCP) as (listener, _):
        stream = await trio.open_tcp_stream("127.0.0.1", listener.port)
        far = await listener.accept()

        async def speak() -> None:
            for byte in b"\x03\x00abc":
                await stream.send_all(bytes([byte]))
                await trio.sleep(4)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(speak)
            await far.opened()
            assert await receive(far, 1) == [b"abc"]
        await far.aclose()
        await stream.aclose()


@pytest.mark.parametrize("request_line", ["POST / HTTP/1.1", "PUT /x HTTP/1.1", "EHLO there", "?a"])
async def test_another_protocol_with_good_frames_further_on_opens_no_link(
    request_line, autojump_clock
):
    """A page in a browser may send such a request to any port of its reader's machine."""
    head = f"{request_line}\r\nHost: localhost\r\n\r\n".encode()
    rest = 2 + int.from_bytes(head[:2], "little") - len(head)
    async with meshes("victim") as (victim,):
        near, far = memory_link_pair("page")
        page = Stranger("page", "victim", far)
        hello = page.update("page", {"victim": 1.0}).encode()
        victim._nursery.start_soon(victim.run_link, near)
        await page.say((head + bytes(rest))[2:], hello)
        await trio.sleep(1)
        assert victim.status().connections == ()
        with pytest.raises(trio.BrokenResourceError):
            await page.hello()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"Receptor Control, node bar\n", "the control service of node bar answers there"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "an HTTP server answers there"),
    ],
)
async def test_a_port_of_another_kind_is_named_before_the_link_would_be_given_up(said, told):
    async with listening(TCP) as (listener, dialer), trio.open_nursery() as nursery:
        nursery.start_soon(answer_once, listener, said)
        link = await dialer.dial()
        with pytest.raises(OtherProtocol, match=told):
            await receive_all(link)
        await link.aclose()


async def answer_once(listener, said):
    """Accept one client, as a server of another protocol does, and answer it."""
    stream = await listener._listener.accept()
    await stream.send_all(said)
    with suppress(trio.BrokenResourceError):
        while await stream.receive_some(1000):
            pass
    await stream.aclose()
