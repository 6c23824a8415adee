"""Whatever a peer sends costs its own link and nothing else: thousands of ways, over each kind.

The victim is a mesh with a listener. A neighbour is linked to it all the time, by a link that
nobody opens again: the victim must neither end nor drop that link, nor pass on anything that makes
the neighbour drop it.
"""

import itertools
import logging
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from link_kinds import MEMORY, TCP, UDP, UDP_MOST, WS, Kind, every_plain_kind, reliable_plain_kinds
from malformed import (
    ADVERT,
    NAME,
    UPDATE,
    WRONG_VALUES,
    handmade,
    hello,
    message,
    mutated,
    with_value,
)

from meshnode.mesh.links.base import Link, LinkDialer, LinkListener
from meshnode.mesh.mesh import Mesh, open_mesh
from meshnode.mesh.peers import places
from meshnode.mesh.peers.sending import SEND_TIMEOUT
from meshnode.protocol.messages import REJECT_MESSAGE, MessageType
from meshnode.protocol.namehash import name_hash

MUTATIONS = 300
"""Mutated messages over each kind of link, beside the handmade ones; ``make fuzz`` has more."""

ATTACKERS = 20
"""Peers that send at the same time."""

PATIENCE = 60.0
"""Seconds after which a wait has failed; none takes as long."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A node that is attacked, its neighbour, and the way to it."""

    victim: Mesh
    neighbour: Mesh
    listener: LinkListener
    dialer: LinkDialer

    async def assert_unharmed(self) -> None:
        """Check that the victim serves its neighbour as before, over the first link."""
        with trio.fail_after(PATIENCE):
            assert (await self.neighbour.ping("victim")).from_node == "victim"
            assert (await self.victim.ping("neighbour")).from_node == "neighbour"

    async def wait_alone(self) -> None:
        """Wait until the victim has got rid of all links but the neighbour's."""
        with trio.fail_after(PATIENCE):
            while len(list(self.victim.sessions)) > 1:
                await trio.testing.wait_all_tasks_blocked(cushion=0.005)


@asynccontextmanager
async def scene(kind: Kind) -> AsyncIterator[Scene]:
    listener, dialer = await kind.listen()
    async with open_mesh("victim") as victim, open_mesh("neighbour") as neighbour:
        victim.add_listener(listener)
        neighbour.add_dialer(dialer, redial=False)
        await victim.wait_reachable("neighbour")
        await neighbour.wait_reachable("victim")
        yield Scene(victim, neighbour, listener, dialer)


async def read_to_end(link: Link) -> None:
    """Read until the victim has closed the link, or has vanished."""
    with suppress(trio.BrokenResourceError):
        while await link.receive():
            pass


async def attack(found: Scene, messages: Sequence[bytes]) -> None:
    """Open a link, send messages as far as the victim takes them, and see it closed."""
    link = await found.dialer.dial()
    with suppress(trio.BrokenResourceError):  # thrown out for the message before
        await link.send(messages)
        # What did not end the link was ignored; this ends it.
        await link.send([REJECT_MESSAGE])
    with trio.fail_after(PATIENCE):
        await read_to_end(link)
    await link.aclose()


async def in_parallel(
    attacks: Iterable[bytes], attacker: Callable[[int, Iterable[bytes]], Awaitable[None]]
) -> None:
    """Let a number of attackers share the attacks among them."""
    pending = iter(attacks)
    async with trio.open_nursery() as nursery:
        for number in range(ATTACKERS):
            nursery.start_soon(attacker, number, pending)


def signed(data: bytes, number: int) -> bytes:
    """Put an attacker's own node ID and its hash where a message has the general one."""
    name = f"ev{number:02d}"
    return data.replace(NAME.encode(), name.encode()).replace(name_hash(NAME), name_hash(name))


def corpus() -> list[bytes]:
    """Return all malformed messages of one run."""
    return [*handmade(), *mutated(seed=1, count=MUTATIONS)]


@reliable_plain_kinds
@pytest.mark.parametrize("opened", [False, True], ids=["opening", "established"])
async def test_malformed_messages_cost_only_their_link(kind, opened, caplog):
    caplog.set_level(logging.DEBUG, "meshnode")  # what was told already is not told louder
    attacks = corpus()
    async with scene(kind) as found:

        async def attacker(number: int, pending: Iterable[bytes]) -> None:
            for data in pending:
                first = [hello(f"ev{number:02d}")] if opened else []
                await attack(found, [*first, signed(data, number)])

        await in_parallel(attacks, attacker)
        await found.wait_alone()
        await found.assert_unharmed()
        notices = found.victim.status().drops.notices
    assert len(attacks) > 1500
    # They arrived, and most were seen for what they are; the others are of no known type.
    assert sum("broke the protocol" in text for text in caplog.messages) > len(attacks) / 4
    if opened:
        assert sum("refused a message" in text for text in caplog.messages) > len(attacks) / 4
        assert notices > len(attacks) / 8


async def test_malformed_messages_over_udp_cost_only_their_link(caplog):
    caplog.set_level(logging.DEBUG, "meshnode")
    attacks = corpus()
    async with scene(UDP) as found:

        async def attacker(number: int, pending: Iterable[bytes]) -> None:
            up = await found.dialer.dial()
            await up.send([hello(f"ev{number:02d}")])
            for turn, data in enumerate(pending):
                # One in two meets a link that is up, which nothing of it ends.
                link = up if turn % 2 else await found.dialer.dial()
                await link.send([signed(data, number)[:UDP_MOST]])
                # Nothing says that a datagram was taken, and the kernel drops what comes too fast.
                await trio.testing.wait_all_tasks_blocked(cushion=0.0001)
                if link is not up:
                    await link.send([REJECT_MESSAGE])
                    await link.aclose()
            await up.aclose()

        await in_parallel(attacks, attacker)
        await found.assert_unharmed()
    assert sum("broke the protocol" in text for text in caplog.messages) > len(attacks) / 10
    assert sum("refused a message" in text for text in caplog.messages) > len(attacks) / 5


@reliable_plain_kinds
@pytest.mark.parametrize("cost", ["1e15", "1e20", "1e300"])
async def test_an_update_that_is_longer_when_it_is_passed_on_harms_nobody(kind, cost):
    peers = ",".join(f'"n{number}":{cost}' for number in range(4600))
    update = with_value(UPDATE | {"NodeID": "vast"}, "Connections", f"{{{peers}}}")
    assert len(update) < 65_535
    async with scene(kind) as found:
        link = await found.dialer.dial()
        await link.send([hello(NAME), message(MessageType.ROUTE, update)])
        with trio.fail_after(PATIENCE):
            while "vast" not in found.victim.status().known_costs:
                await trio.testing.wait_all_tasks_blocked(cushion=0.005)
        await found.assert_unharmed()
        await link.aclose()


MESSAGES = st.one_of(
    st.binary(min_size=1, max_size=200),
    st.builds(message, st.sampled_from(MessageType), st.binary(max_size=200)),
    st.builds(
        lambda kind, whole, key, text: message(kind, with_value(whole, key, text)),
        st.sampled_from([MessageType.ROUTE, MessageType.ADVERTISEMENT]),
        st.sampled_from([UPDATE, ADVERT]),
        st.sampled_from([*UPDATE, *ADVERT]),
        st.one_of(
            st.sampled_from(WRONG_VALUES),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
                lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner),
                max_leaves=8,
            ).map(lambda value: str(value).replace("'", '"')),
        ),
    ),
)


@hypothesis.settings(max_examples=60)
@hypothesis.given(st.lists(st.lists(MESSAGES, min_size=1, max_size=8), min_size=10, max_size=30))
def test_no_conversation_that_hypothesis_finds_ends_a_node(conversations):
    async def main() -> None:
        async with scene(MEMORY) as found:
            async with trio.open_nursery() as nursery:
                for number, conversation in enumerate(conversations):
                    first = [hello(f"ev{number:02d}")] if number % 2 else []
                    messages = [signed(data, number) for data in conversation]
                    nursery.start_soon(attack, found, [*first, *messages])
            await found.assert_unharmed()

    trio.run(main)


# --- below the messages --------------------------------------------------------------------------


def tcp_bytes(chance: random.Random) -> bytes:
    """Return a byte stream that begins like frames, at best."""
    frames = bytearray()
    for _ in range(chance.randint(1, 5)):
        body = chance.choice([hello(NAME), b"\0" * 36, b"", b"\1{", chance.randbytes(50)])
        size = chance.choice([len(body), len(body), 0, 1, 65_535, chance.randrange(65_536)])
        frames += size.to_bytes(2, "little") + body
    return bytes(frames[: chance.choice([len(frames), chance.randrange(1, len(frames) + 1)])])


UPGRADE = (
    b"GET /mesh HTTP/1.1\r\nHost: victim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Return the bytes with some of them replaced, and perhaps cut off."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(len(changed))
        changed[start : start + chance.randint(0, 6)] = chance.randbytes(chance.randint(0, 6))
    return bytes(changed[: chance.choice([None, chance.randrange(1, len(changed) + 1)])])


def ws_frames(chance: random.Random) -> bytes:
    """Return frames as a client sends them, many of them not as it may."""
    frames = bytearray()
    for _ in range(chance.randint(1, 5)):
        body = chance.choice([hello(NAME), b"", chance.randbytes(chance.choice([2, 125, 300]))])
        length = chance.choice([len(body), len(body), 0, 126, 65_536, 1 << 40, (1 << 64) - 1])
        short = length if length < 126 else 126 if length < 65_536 else 127
        frames += bytes([chance.choice([0x82, 0x82, 0x81, 0x02, 0x80, 0x88, 0x89, 0xFF, 0x83])])
        frames += bytes([short | chance.choice([0x80, 0x80, 0x80, 0])])
        if short >= 126:
            frames += struct.pack("!H" if short == 126 else "!Q", length)
        frames += bytes(4) + body
    return bytes(frames)


def ws_bytes(chance: random.Random) -> bytes:
    """Return what a client may send that takes the victim for something else, or is ill."""
    match chance.randrange(4):
        case 0:
            return chance.randbytes(chance.randint(1, 3000))
        case 1:
            return damaged(UPGRADE, chance)
        case 2:
            return UPGRADE + damaged(ws_frames(chance), chance)
        case _:
            return UPGRADE + ws_frames(chance)


@pytest.mark.parametrize(("kind", "make"), [(TCP, tcp_bytes), (WS, ws_bytes)], ids=["tcp", "ws"])
async def test_byte_streams_that_are_no_links_cost_only_themselves(kind, make):
    chance = random.Random(7)
    async with scene(kind) as found:
        port = found.listener.port

        async def attacker(number: int, pending: Iterable[bytes]) -> None:
            for data in pending:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                async with stream:
                    with suppress(trio.BrokenResourceError):
                        # The answer first: what follows the request must meet a websocket.
                        if data.startswith(UPGRADE):
                            await stream.send_all(UPGRADE)
                            await stream.receive_some()
                        await stream.send_all(signed(data.removeprefix(UPGRADE), number))
                        await stream.send_eof()
                        while await stream.receive_some():
                            pass

        await in_parallel((make(chance) for _ in range(1000)), attacker)
        await found.wait_alone()
        await found.assert_unharmed()


# --- below the messages of a link that is up ------------------------------------------------------


def tcp_frame(body: bytes, size: int | None = None) -> bytes:
    """Return a frame, which may lie about its length."""
    return (len(body) if size is None else size).to_bytes(2, "little") + body


def ws_frame(
    body: bytes, first: int = 0x82, *, size: int | None = None, form: int = 0, masked: bool = True
) -> bytes:
    """Return a frame as a client sends it.

    Its length may be a lie, and be written in a longer form than it needs.
    """
    size = len(body) if size is None else size
    short = size if size < 126 and not form else 126 if size < 65_536 and form < 2 else 127
    frame = bytes([first, short | (0x80 if masked else 0)])
    if short >= 126:
        frame += struct.pack("!H" if short == 126 else "!Q", size)
    return frame + (bytes(4) if masked else b"") + body


BODIES_OF_FRAMES = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(
        [hello(NAME), REJECT_MESSAGE, b"\0" * 36, b"", b"\x03\xe8bye", b"\x03", b"\xff\xfe\xfd"]
    ),
    st.integers(0, 300_000).map(bytes),
    MESSAGES,
)

TCP_PIECES = st.one_of(
    st.builds(tcp_frame, BODIES_OF_FRAMES.filter(lambda body: len(body) < 65_536)),
    st.builds(tcp_frame, st.binary(max_size=50), st.integers(0, 65_535)),
    st.binary(max_size=300),
)

WS_PIECES = st.one_of(
    st.builds(
        ws_frame,
        BODIES_OF_FRAMES,
        st.integers(0, 255),
        size=st.none() | st.integers(0, 130) | st.integers(0, (1 << 64) - 1),
        form=st.integers(0, 2),
        masked=st.sampled_from([True, True, True, False]),
    ),
    # A message in fragments, with control frames between them, and perhaps no end.
    st.lists(BODIES_OF_FRAMES, min_size=2, max_size=6).flatmap(
        lambda parts: st.lists(
            st.sampled_from([b"", ws_frame(b"ping", 0x89), ws_frame(b"", 0x8A)]),
            min_size=len(parts),
            max_size=len(parts),
        ).map(
            lambda between: b"".join(
                control + ws_frame(part, 0x02 if number == 0 else 0x00)
                for number, (control, part) in enumerate(zip(between, parts, strict=True))
            )
        )
    ),
    st.builds(
        lambda body, code: ws_frame(code.to_bytes(2) + body, 0x88),
        st.binary(max_size=123),
        st.integers(0, 65_535),
    ),
    st.binary(max_size=300),
)


async def open_as_bytes(kind: Kind, port: int, name: str) -> trio.SocketStream:
    """Open a link as an honest node does, and return what it runs over."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    if kind is WS:
        await stream.send_all(UPGRADE)
        await stream.receive_some()
        await stream.send_all(ws_frame(hello(name)))
    else:
        await stream.send_all(tcp_frame(hello(name)))
    return stream


@pytest.mark.parametrize(
    ("kind", "pieces"), [(TCP, TCP_PIECES), (WS, WS_PIECES)], ids=["tcp", "ws"]
)
@hypothesis.settings(max_examples=15)
@hypothesis.given(data=st.data())
def test_no_bytes_on_a_link_that_is_up_end_more_than_it(kind, pieces, data):
    attacks = data.draw(st.lists(st.lists(pieces, min_size=1, max_size=6), min_size=8, max_size=16))

    async def main() -> None:
        async with scene(kind) as found:

            async def attack_with(number: int, hostile: list[bytes]) -> None:
                name = f"ev{number:02d}"
                async with await open_as_bytes(kind, found.listener.port, name) as stream:
                    with trio.fail_after(PATIENCE):
                        await found.victim.wait_reachable(name)
                    with suppress(trio.BrokenResourceError):
                        for piece in hostile:
                            await stream.send_all(signed(piece, number))
                        await stream.send_eof()
                        with trio.fail_after(PATIENCE):
                            while await stream.receive_some():
                                pass

            async with trio.open_nursery() as nursery:
                for number, hostile in enumerate(attacks):
                    nursery.start_soon(attack_with, number, hostile)
            await found.wait_alone()
            await found.assert_unharmed()

    trio.run(main)


# --- floods --------------------------------------------------------------------------------------


@every_plain_kind
async def test_a_flood_of_half_opened_links_leaves_the_node_at_work(kind, monkeypatch):
    monkeypatch.setattr(places, "MAX_OPENING", 30)
    async with scene(kind) as found, trio.open_nursery() as nursery:
        links: list[Link] = []

        async def say_no_more() -> None:
            with suppress(OSError, trio.BrokenResourceError):
                links.append(await found.dialer.dial())
                await links[-1].send([b"\1"[: kind is UDP] or b"\x2a"])

        for _ in range(100):
            nursery.start_soon(say_no_more)
        await trio.testing.wait_all_tasks_blocked(cushion=0.1)
        opening = [s for s in found.victim.sessions if not s.was_established]
        assert len(opening) <= 30
        await found.assert_unharmed()
        for link in links:
            await link.aclose()
        nursery.cancel_scope.cancel()


async def test_silent_connections_to_a_websocket_leave_it_at_work():
    async with scene(WS) as found:
        streams = [await trio.open_tcp_stream("127.0.0.1", found.listener.port) for _ in range(50)]
        async with open_mesh("late") as late:
            late.add_dialer(found.dialer)
            with trio.fail_after(PATIENCE):
                await late.wait_reachable("neighbour")
                assert (await late.ping("neighbour")).from_node == "neighbour"
        for stream in streams:
            await stream.aclose()


@every_plain_kind
async def test_a_peer_that_never_reads_holds_up_nobody(kind):
    async with scene(kind) as found:
        deaf = await found.dialer.dial()
        await deaf.send([hello("deaf")])
        with trio.fail_after(PATIENCE):
            await found.neighbour.wait_reachable("deaf")
        with found.neighbour.open_datagrams() as socket:
            for _ in range(2000):  # 32 MB, more than queue and buffers take
                await socket.send_to("deaf", "nobody", bytes(16_000))
        await found.assert_unharmed()
        await deaf.aclose()


async def test_a_peer_that_never_reads_is_given_up(autojump_clock):
    async with scene(MEMORY) as found:
        deaf = await found.dialer.dial()
        async with trio.open_nursery() as nursery:

            async def talk() -> None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    for sequence in itertools.count(1):
                        await deaf.send([hello("deaf").replace(b": 7,", b": %d," % sequence)])
                        await trio.sleep(1)

            nursery.start_soon(talk)
            await found.neighbour.wait_reachable("deaf")
            with found.neighbour.open_datagrams() as socket:
                for _ in range(1000):
                    await socket.send_to("deaf", "nobody", bytes(16_000))
                    await trio.sleep(0.001)
            await trio.sleep(SEND_TIMEOUT + 2)
            assert "deaf" not in found.victim.status().routes
            nursery.cancel_scope.cancel()
        await found.assert_unharmed()
        await deaf.aclose()
