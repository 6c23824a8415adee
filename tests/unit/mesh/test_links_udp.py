"""What only UDP links have: one socket for many of them, addresses anybody may invent, no end."""

import logging
import socket
from contextlib import ExitStack, asynccontextmanager

import pytest
import trio
import trio.testing
from link_kinds import GREETING, UDP, connect, linked, listening, receive

from meshnode.mesh.links import udp
from meshnode.mesh.links.turns import Turns
from meshnode.mesh.links.udp import UdpListener
from meshnode.protocol.framing import MAX_MESSAGE


@asynccontextmanager
async def strangers(count: int):
    """Yield a listener and sockets that may send to it, as a peer's would."""
    (listener,) = await UdpListener.open(0, "127.0.0.1")
    with ExitStack() as stack:
        sockets = []
        for _ in range(count):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.connect(("127.0.0.1", listener.port))
            sockets.append(sock)
        try:
            yield listener, sockets
        finally:
            await listener.aclose()


def warnings(caplog) -> list[str]:
    """Return the warnings that were logged, without their subjects."""
    found = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    return [text.split(": ", 1)[1] for text in found]


async def test_only_a_routing_update_begins_a_link():
    async with strangers(3) as (listener, (data, empty, update)):
        for sock, message in ((data, b"\0" * 36), (empty, b""), (data, b"\2{}"), (update, b"\1")):
            sock.send(message)
        link = await listener.accept()
        assert await receive(link, 1) == [b"\1"]
        assert link.address == update.getsockname()
        await link.aclose()


async def test_an_empty_datagram_is_nothing():
    async with linked(UDP) as [(near, far)]:
        for sender, receiver in ((near, far), (far, near)):
            await sender.send([b"", b"x"])
            assert await receive(receiver, 1) == [b"x"]


async def test_closing_a_link_forgets_its_address():
    async with strangers(1) as (listener, (sock,)):
        sock.send(b"\1first")
        first = await listener.accept()
        sock.send(b"\0more of the first")
        await trio.testing.wait_all_tasks_blocked()
        await first.aclose()
        sock.send(b"\1second")
        second = await listener.accept()
        while b"\1second" not in [bytes(m) for m in await second.receive()]:
            pass
        await second.aclose()


async def test_links_that_nobody_accepted_go_with_their_listener():
    async with strangers(2) as (listener, (one, other)):
        one.send(b"\1")
        accepted = await listener.accept()
        other.send(b"\1")
        one.send(b"\0")
        assert await receive(accepted, 2) == [b"\1", b"\0"]
        await listener.aclose()
        one.send(b"\0still")
        assert await receive(accepted, 1) == [b"\0still"]
        await accepted.aclose()
        # Nothing of it listens any more: the port is free.
        (again,) = await UdpListener.open(listener.port, "127.0.0.1")
        await again.aclose()


async def test_a_flood_of_addresses_takes_no_more_than_its_bound(monkeypatch, caplog):
    monkeypatch.setattr(udp, "MAX_SESSIONS", 10)
    async with strangers(30) as (listener, sockets):
        for sock in sockets:
            sock.send(b"\1")
        links = [await listener.accept() for _ in range(10)]
        with trio.move_on_after(0.01) as scope:
            await listener.accept()
        assert scope.cancelled_caught
        texts = warnings(caplog)
        assert texts == ["too many addresses begin links; 10 have one, others must wait"]
        # Who is there already is served on, and who goes makes room.
        sockets[3].send(b"\0here")
        assert await receive(links[3], 2) == [b"\1", b"\0here"]
        await links[4].aclose()
        sockets[29].send(b"\1")
        links.append(await listener.accept())
        assert await receive(links[-1], 1) == [b"\1"]
        for link in links:
            await link.aclose()


async def test_a_flood_of_addresses_is_admitted_by_and_by(monkeypatch, caplog):
    now = 0.0
    monkeypatch.setattr(trio, "current_time", lambda: now)
    async with strangers(udp.ADMITTED_AT_ONCE + 90) as (listener, sockets):
        links = []

        async def accept_what_comes() -> int:
            before = len(links)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(accept_into, links, listener)
                    await trio.testing.wait_all_tasks_blocked(cushion=0.02)
                    scope.cancel()
            return len(links) - before

        for sock in sockets:
            sock.send(b"\1")
        assert await accept_what_comes() == udp.ADMITTED_AT_ONCE
        for seconds in (1.0, 0.5):
            now += seconds
            for sock in sockets[udp.ADMITTED_AT_ONCE :]:
                sock.send(b"\1")
            assert await accept_what_comes() == seconds * udp.ADMITTED_PER_SECOND
        assert len(warnings(caplog)) == 1
        for link in links:
            await link.aclose()


async def accept_into(links: list, listener: UdpListener) -> None:
    while True:
        links.append(await listener.accept())


async def flood(sock: socket.socket, listener: UdpListener, count: int, size: int) -> None:
    """Send datagrams, each lot of them few enough for the kernel's buffer."""
    for number in range(count):
        sock.send(b"%06d" % number + bytes(size - 6))
        if number % 50 == 0:
            await trio.testing.wait_all_tasks_blocked(cushion=0.001)


async def accept_all(listener: UdpListener) -> None:
    while True:
        await listener.accept()


async def test_a_link_that_nobody_reads_keeps_what_fits_and_drops_the_rest(monkeypatch):
    monkeypatch.setattr(udp, "QUEUE_BYTES", 10 * (100 + udp.DATAGRAM_OVERHEAD))
    async with strangers(2) as (listener, (sock, other)):
        sock.send(b"\1".ljust(100))
        link = await listener.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_all, listener)
            await flood(sock, listener, 500, 100)
            await trio.testing.wait_all_tasks_blocked(cushion=0.01)
            nursery.cancel_scope.cancel()
        assert len(await receive(link, 10)) == 10
        other.send(b"\1other")
        late = await listener.accept()
        assert await receive(late, 1) == [b"\1other"]
        await link.aclose()
        await late.aclose()


async def test_what_waits_on_all_links_of_a_listener_is_bounded(monkeypatch):
    monkeypatch.setattr(udp, "LISTENER_QUEUE_BYTES", 10 * (1 + udp.DATAGRAM_OVERHEAD))
    async with strangers(20) as (listener, sockets):
        for sock in sockets:
            sock.send(b"\1")
        links = [await listener.accept() for _ in range(20)]
        assert [bool(link._arrived) for link in links] == [True] * 10 + [False] * 10
        for link in links:
            await link.aclose()
        assert listener._room == udp.LISTENER_QUEUE_BYTES


async def test_a_message_that_no_datagram_holds_is_lost_and_told_once(caplog):
    async with linked(UDP) as [(near, far)]:
        for sender, receiver in ((near, far), (far, near)):
            for _ in range(2):
                await sender.send([bytes(MAX_MESSAGE), b"but this passes"])
                assert await receive(receiver, 1) == [b"but this passes"]
    texts = warnings(caplog)
    assert texts == ["a message of 65535 bytes could not be sent as a datagram"] * 2


async def test_a_listener_is_not_hurt_by_an_address_that_refuses():
    async with strangers(2) as (listener, (gone, here)):
        for sock in (gone, here):
            sock.send(b"\1")
        first, second = await listener.accept(), await listener.accept()
        gone.close()
        for _ in range(3):
            await first.send([b"\1hello?"])
        here.send(b"\0")
        assert await receive(second, 2) == [b"\1", b"\0"]
        for link in (first, second):
            await link.aclose()


async def test_a_dialer_of_a_port_that_closes_is_a_broken_link():
    async with listening(UDP) as (listener, dialer):
        near, far = await connect(listener, dialer)
        await far.aclose()
        await listener.aclose()
        await near.send([GREETING])
        await trio.testing.wait_all_tasks_blocked(cushion=0.001)
        with pytest.raises(trio.BrokenResourceError, match="refused"):
            await near.send([GREETING])
        await near.aclose()


# --- turns ---------------------------------------------------------------------------------------


class Mailboxes:
    """Work that brings one parcel at a time to whom it is for."""

    def __init__(self) -> None:
        self.send, self.receive = trio.open_memory_channel[str](100)
        self.boxes: dict[str, int] = {}
        self.working = 0
        self.turns = Turns(self.work)

    async def work(self) -> None:
        self.working += 1
        assert self.working == 1, "two do the work at once"
        try:
            who = await self.receive.receive()
        finally:
            self.working -= 1
        self.boxes[who] = self.boxes.get(who, 0) + 1
        self.turns.wake(who)

    async def wait(self, who: str, count: int) -> None:
        await self.turns.wait(who, lambda: self.boxes.get(who, 0) >= count)


async def test_the_work_goes_on_whoever_leaves(autojump_clock):
    mail = Mailboxes()
    names = [f"n{number}" for number in range(10)]
    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(mail.wait, name, 2)
        for name in (*names, *reversed(names)):
            await mail.send.send(name)
            await trio.testing.wait_all_tasks_blocked()
    assert mail.boxes == dict.fromkeys(names, 2)


async def test_the_work_goes_on_when_who_does_it_is_cancelled(autojump_clock):
    mail = Mailboxes()
    scopes = []

    async def cancellable(who):
        with trio.CancelScope() as scope:
            scopes.append(scope)
            await mail.wait(who, 1)

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(cancellable, name)
            await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()
        scopes[1].cancel()
        await trio.testing.wait_all_tasks_blocked()
        await mail.send.send("c")
    assert mail.boxes == {"c": 1}


async def test_who_does_the_work_can_be_woken(autojump_clock):
    mail = Mailboxes()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mail.wait, "a", 1)
        nursery.start_soon(mail.wait, "b", 1)
        await trio.testing.wait_all_tasks_blocked()
        for name in "ab":
            mail.boxes[name] = 1
            mail.turns.wake(name)
    assert mail.working == 0
