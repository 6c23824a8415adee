"""When strangers' sessions and streams are over, however they ended, nothing of them is kept."""

import gc
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
import trio.testing
from test_over_the_mesh import serve

from meshnode.errors import MeshError
from meshnode.mesh.links.memory import memory_link_pair
from meshnode.mesh.mesh import Mesh, open_mesh

AT_ONCE = 8
"""Sessions of one round: what they leave behind would be seen so many times."""

LONG = 700.0
"""Seconds after which whatever waited is given up. Trio keeps cancel scopes that were left until
their deadlines, a thousand at most; those of writes have ten minutes."""

OURS = ("meshnode.", "aioquic.", "trio.", "trio")


def remaining() -> Counter[str]:
    """Return how many objects there are of each class that sessions and streams are made of."""
    gc.collect()
    kinds = (type(found) for found in gc.get_objects())
    return Counter(
        f"{kind.__module__}.{kind.__qualname__}"
        for kind in kinds
        if str(kind.__module__).startswith(OURS)
    )


async def politely(mesh: Mesh) -> None:
    async with await mesh.dial("bar", "control") as stream:
        await stream.send_all(b"status\nnonsense\n")
        await stream.send_eof()
        while await stream.receive_some():
            pass


async def in_the_middle_of_a_line(mesh: Mesh) -> None:
    stream = await mesh.dial("bar", "control")
    await stream.send_all(b'{"command":"' + b"x" * 5000)
    await trio.aclose_forcefully(stream)


async def with_a_reply_unread(mesh: Mesh) -> None:
    stream = await mesh.dial("bar", "control")
    await stream.send_all(b"status\n" * 20)
    await trio.sleep(0.1)
    await trio.aclose_forcefully(stream)


async def without_a_word(mesh: Mesh) -> None:
    stream = await mesh.dial("bar", "control")
    await stream.send_all(b"status\n")
    stream._host._quic.reset_stream = lambda *_: None  # the other end never hears of its end
    await trio.aclose_forcefully(stream)


async def joined_to_another(mesh: Mesh) -> None:
    async with await mesh.dial("bar", "control") as stream:
        await stream.send_all(b'{"command":"connect","node":"localhost","service":"control"}\n')
        await stream.send_all(b"ping bar\n")
        await trio.sleep(0.1)


async def at_some_moment_of_the_handshake(mesh: Mesh) -> None:
    async def dial() -> None:
        await trio.aclose_forcefully(await mesh.dial("bar", "control"))

    for moment in range(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            for _ in range(moment):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


async def at_no_service(mesh: Mesh) -> None:
    with suppress(MeshError):
        await mesh.dial("bar", "nosuch")


WAYS = [
    politely,
    in_the_middle_of_a_line,
    with_a_reply_unread,
    without_a_word,
    joined_to_another,
    at_some_moment_of_the_handshake,
    at_no_service,
]


async def a_round(mesh: Mesh, way: Callable[[Mesh], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(way, mesh)
    await trio.sleep(LONG)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("tag", ["many streams", "one stream"])
async def test_nothing_is_kept_of_sessions_of_strangers_that_ended(way, tag, autojump_clock):
    async with open_mesh("foo") as foo, open_mesh("bar") as bar, trio.open_nursery() as nursery:
        for mesh, link in zip((foo, bar), memory_link_pair(), strict=True):
            nursery.start_soon(mesh.run_link, link)
        await serve(bar, nursery, forwarding=True)
        await foo.wait_reachable("bar")
        if tag == "one stream":
            foo.dial = lambda node, service: foo._streams.dial(node, service, share=False)
        else:
            while foo.find_service("bar", "control") is None:
                await foo.wait_changed()
        await a_round(foo, way)
        before = remaining()
        await a_round(foo, way)
        more = remaining() - before
        assert {kind: count for kind, count in more.items() if count >= AT_ONCE // 2} == {}
        nursery.cancel_scope.cancel()
