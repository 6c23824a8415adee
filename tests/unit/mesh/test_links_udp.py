"""What only UDP links have: one socket for many of them, addresses anybody may invent, no end."""

import errno
import logging
import os
import socket
from contextlib import ExitStack, asynccontextmanager

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from link_kinds import GREETING, UDP, connect, linked, listening, receive

from meshnode.mesh.links import udp, udp_listener
from meshnode.mesh.links.udp_listener import AcceptedUdpLink, SharedReader, UdpListener
from meshnode.mesh.links.unproven import REQUEST, answer, read_challenge
from meshnode.protocol.framing import MAX_MESSAGE
from meshnode.protocol.routing import RoutingUpdate


@asynccontextmanager
async def sockets_at(count: int):
    """Yield a listener and sockets that may send to it, as a peer's would."""
    (listener,) = await UdpListener.open(0, "127.0.0.1")
    with ExitStack() as stack:
        sockets = []
        for _ in range(count):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.connect(("127.0.0.1", listener.port))
            sock.setblocking(False)
            sockets.append(sock)
        try:
            yield listener, sockets
        finally:
            await listener.aclose()


def warnings(caplog) -> list[str]:
    """Return the warnings that were logged, without their subjects."""
    found = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    return [text.split(": ", 1)[1] for text in found]


async def cookie_for(sock: socket.socket) -> bytes:
    """Ask a listener that is being read for the cookie of a socket."""
    sock.send(REQUEST)
    await trio.lowlevel.wait_readable(sock)
    cookie = read_challenge(sock.recv(100))
    assert cookie is not None
    return cookie


async def begin(listener: UdpListener, sock: socket.socket, first: bytes) -> AcceptedUdpLink:
    """Begin a link as a meshnode does, and return its other end."""

    async def ask() -> None:
        sock.send(answer(await cookie_for(sock), first))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        link = await listener.accept()
    if first:
        assert await receive(link, 1) == [first]
    return link


@asynccontextmanager
async def read_meanwhile(listener: UdpListener):
    """Have a listener's socket read, and what arrives at it taken, while the context lasts."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept_all, listener)
        yield
        await trio.testing.wait_all_tasks_blocked(cushion=0.01)
        nursery.cancel_scope.cancel()


async def accept_all(listener: UdpListener) -> None:
    while True:
        await listener.accept()


async def test_only_who_brings_its_cookie_begins_a_link():
    async with sockets_at(3) as (listener, (plain, thief, honest)):
        async with read_meanwhile(listener):
            stolen, cookie = [await cookie_for(sock) for sock in (thief, honest)]
            assert stolen != cookie
            for data in (b"\1{}", b"\0" * 36, b"", b"\2{}", answer(cookie, b"\1")):
                plain.send(data)
            thief.send(answer(cookie, b"\1"))
            thief.send(answer(bytes(8), b"\1"))
        assert listener._links == {}
        honest.send(answer(cookie, b"\1hello"))
        link = await listener.accept()
        assert await receive(link, 1) == [b"\1hello"]
        assert link.address == honest.getsockname()
        # The dialer sends it until it has heard from us.
        honest.send(answer(cookie, b"\1again"))
        honest.send(answer(cookie, b""))
        assert await receive(link, 1) == [b"\1again"]
        await link.aclose()


async def test_a_cookie_alone_begins_a_link_without_messages():
    async with sockets_at(1) as (listener, (sock,)):
        link = await begin(listener, sock, b"")
        sock.send(b"\0")
        assert await receive(link, 1) == [b"\0"]
        await link.aclose()


async def test_a_dialer_is_ready_when_the_other_end_has_answered():
    async with listening(UDP) as (listener, dialer):
        near, far = await connect(listener, dialer)
        # What was sent before the listener's first word bore the cookie; what follows does not.
        await near.send([b"first", b"second"])
        assert await receive(far, 2) == [b"first", b"second"]
        await far.send([b"word"])
        assert await receive(near, 1) == [b"word"]
        await near.send([b"third"])
        assert await receive(far, 1) == [b"third"]
        for end in (near, far):
            await end.aclose()


async def test_a_node_that_knows_no_cookies_says_hello_instead():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receptor:
        receptor.bind(("127.0.0.1", 0))
        receptor.setblocking(False)

        async def greet() -> None:
            await trio.lowlevel.wait_readable(receptor)
            data, address = receptor.recvfrom(100)
            assert data == REQUEST
            receptor.sendto(b"\1hello", address)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(greet)
            link = await udp.UdpDialer("127.0.0.1", receptor.getsockname()[1]).dial()
        assert await receive(link, 1) == [b"\1hello"]
        await link.send([b"\1ours"])
        await trio.lowlevel.wait_readable(receptor)
        assert receptor.recv(100) == b"\1ours"
        await link.aclose()


async def test_a_node_that_answers_nothing_is_linked_to_all_the_same(monkeypatch):
    monkeypatch.setattr(udp, "COOKIE_INTERVAL", 0.001)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        link = await udp.UdpDialer("127.0.0.1", silent.getsockname()[1]).dial()
        await link.send([b"\1ours"])
        assert [silent.recv(100) for _ in range(4)] == [*[REQUEST] * udp.COOKIE_TRIES, b"\1ours"]
        await link.aclose()


async def test_an_empty_datagram_is_nothing():
    async with linked(UDP) as [(near, far)]:
        for sender, receiver in ((near, far), (far, near)):
            await sender.send([b"", b"x"])
            assert await receive(receiver, 1) == [b"x"]


async def test_closing_a_link_forgets_its_address():
    async with sockets_at(1) as (listener, (sock,)):
        first = await begin(listener, sock, b"\1first")
        async with read_meanwhile(listener):
            sock.send(b"\0more of the first")
        await first.aclose()
        async with read_meanwhile(listener):
            sock.send(b"\0no link")
        second = await begin(listener, sock, b"\1second")
        await second.aclose()


async def test_links_that_nobody_accepted_go_with_their_listener():
    async with sockets_at(2) as (listener, (one, other)):
        accepted = await begin(listener, one, b"\1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, accepted, 1)
            other.send(answer(await cookie_for(other), b"\1"))
            one.send(b"\0")
        await listener.aclose()
        one.send(b"\0still")
        assert await receive(accepted, 1) == [b"\0still"]
        await accepted.aclose()
        # Nothing of it listens any more: the port is free.
        (again,) = await UdpListener.open(listener.port, "127.0.0.1")
        await again.aclose()


async def test_no_more_links_wait_to_be_accepted_than_may(monkeypatch):
    monkeypatch.setattr(udp_listener, "MAX_NEW", 3)
    async with sockets_at(6) as (listener, (first, *others)):
        link = await begin(listener, first, b"\1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, link, 1)
            for sock in others:
                sock.send(answer(await cookie_for(sock), b"\1"))
            first.send(b"\0after them")
        late = [await listener.accept() for _ in range(3)]
        with trio.move_on_after(0.01) as scope:
            await listener.accept()
        assert scope.cancelled_caught
        for accepted in (link, *late):
            await accepted.aclose()


async def flood(sock: socket.socket, listener: UdpListener, count: int, size: int) -> None:
    """Send datagrams, each lot of them few enough for the kernel's buffer."""
    for number in range(count):
        sock.send(b"%06d" % number + bytes(size - 6))
        if number % 50 == 0:
            await trio.testing.wait_all_tasks_blocked(cushion=0.001)


async def test_a_link_that_nobody_reads_keeps_what_fits_and_drops_the_rest(monkeypatch):
    monkeypatch.setattr(udp_listener, "QUEUE_BYTES", 10 * (100 + udp_listener.DATAGRAM_OVERHEAD))
    async with sockets_at(2) as (listener, (sock, other)):
        link = await begin(listener, sock, b"\1")
        async with read_meanwhile(listener):
            await flood(sock, listener, 500, 100)
        assert len(await receive(link, 10)) == 10
        late = await begin(listener, other, b"\1other")
        await link.aclose()
        await late.aclose()


async def test_what_waits_on_all_links_is_bounded_and_each_has_a_share(monkeypatch):
    size = 1 + udp_listener.DATAGRAM_OVERHEAD
    monkeypatch.setattr(udp_listener, "LISTENER_QUEUE_BYTES", 10 * size)
    monkeypatch.setattr(udp_listener, "QUEUE_SHARE", 2 * size)
    async with sockets_at(6) as (listener, sockets):
        links = [await begin(listener, sock, b"\1") for sock in sockets]
        for sock in sockets:
            for _ in range(5):
                sock.send(b"\1")
            async with read_meanwhile(listener):
                pass
        assert [len(link._arrived) for link in links] == [5, 5, 2, 2, 2, 2]
        for link in links:
            await link.aclose()
        assert listener._room == udp_listener.LISTENER_QUEUE_BYTES


async def test_a_message_that_no_datagram_holds_is_lost_and_told_once(caplog):
    async with linked(UDP) as [(near, far)]:
        for sender, receiver in ((near, far), (far, near)):
            for _ in range(2):
                await sender.send([bytes(MAX_MESSAGE), b"but this passes"])
                assert await receive(receiver, 1) == [b"but this passes"]
    texts = warnings(caplog)
    assert texts == ["a message of 65535 bytes could not be sent as a datagram"] * 2


async def test_a_listener_is_not_hurt_by_an_address_that_refuses():
    async with sockets_at(2) as (listener, (gone, here)):
        first, second = [await begin(listener, sock, b"\1") for sock in (gone, here)]
        gone.close()
        for _ in range(3):
            await first.send([b"\1hello?"])
        here.send(b"\0")
        assert await receive(second, 1) == [b"\0"]
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


class Refusing:
    """A socket that some calls get an error of, as after ICMP messages."""

    def __init__(self, real: socket.socket, errors: list[int]) -> None:
        self._real = real
        self.errors = errors
        """Of the next calls, the last one first; 0 is none."""

    def __getattr__(self, name: str):
        return getattr(self._real, name)

    def _may_refuse(self) -> None:
        if self.errors and (number := self.errors.pop()):
            raise OSError(number, os.strerror(number))

    def send(self, data):
        self._may_refuse()
        return self._real.send(data)

    def recvfrom_into(self, buffer):
        self._may_refuse()
        return self._real.recvfrom_into(buffer)


REFUSALS = [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPROTO, errno.EACCES]


@hypothesis.settings(max_examples=20)
@hypothesis.given(st.lists(st.sampled_from([0, *REFUSALS]), max_size=12))
def test_errors_of_the_network_cost_a_proven_link_datagrams_at_most(errors):
    async def main() -> None:
        async with listening(UDP) as (listener, dialer):
            near, far = await connect(listener, dialer)
            doubts: list[str] = []
            near.check_errors_by(lambda text: doubts.append(text) is None)
            await far.send([b"word"])
            assert await receive(near, 1) == [b"word"]
            near._socket._sock = Refusing(near._socket._sock, errors.copy())
            for number in range(len(errors)):
                await near.send([b"to %d" % number])
                await far.send([b"from %d" % number])
                assert (await receive(near, 1)) == [b"from %d" % number]
            await near.send([b"last"])
            got: list[bytes] = []
            while b"last" not in got:
                got += [bytes(message) for message in await far.receive()]
            assert len(got) >= 1 + len(errors) // 2
            expected = [os.strerror(number).lower() for number in reversed(errors) if number]
            assert doubts == expected
            assert near.errors == len(expected)
            for end in (near, far):
                await end.aclose()

    trio.run(main)


async def test_a_dialer_that_hears_nothing_more_may_be_told_so_and_goes_on():
    async with listening(UDP) as (listener, dialer):
        near, far = await connect(listener, dialer)
        await far.send([b"word"])
        assert await receive(near, 1) == [b"word"]
        doubts: list[str] = []
        near.check_errors_by(lambda text: doubts.append(text) is None)
        await far.aclose()
        await listener.aclose()
        await near.send([GREETING])
        await trio.testing.wait_all_tasks_blocked(cushion=0.001)
        await near.send([GREETING])
        assert doubts[:1] == ["connection refused"]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(("127.0.0.1", listener.port))
            await near.send([b"still"])
            again.settimeout(60)
            assert again.recv(100) == b"still"
            again.sendto(b"here", near._socket._sock.getsockname())
            assert await receive(near, 1) == [b"here"]
        await near.aclose()


async def test_a_fault_that_a_datagram_brings_about_costs_no_link(monkeypatch, caplog):
    async with sockets_at(2) as (listener, (honest, other)):
        link = await begin(listener, honest, b"\1")
        listener.probe_by(FaultyProbe())
        other.send(RoutingUpdate("bar", "abcdefgh", 1, 1, {}, "bar").encode())
        honest.send(b"\0still")
        assert await receive(link, 1) == [b"\0still"]
        assert sum("a fault of this node" in text for text in caplog.messages) == 1
        await link.aclose()


class FaultyProbe:
    """Fails whatever it is asked."""

    def __getattr__(self, name: str):
        raise RuntimeError(name)


# --- turns ---------------------------------------------------------------------------------------


class Mailboxes:
    """Work that brings one parcel at a time to whom it is for."""

    def __init__(self) -> None:
        self.send, self.receive = trio.open_memory_channel[str](100)
        self.boxes: dict[str, int] = {}
        self.working = 0
        self.reader = SharedReader(self.work)

    async def work(self) -> None:
        self.working += 1
        assert self.working == 1, "two do the work at once"
        try:
            who = await self.receive.receive()
        finally:
            self.working -= 1
        self.boxes[who] = self.boxes.get(who, 0) + 1
        self.reader.wake(who)

    async def wait(self, who: str, count: int) -> None:
        await self.reader.wait(who, lambda: self.boxes.get(who, 0) >= count)


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
            mail.reader.wake(name)
    assert mail.working == 0


async def test_a_dialer_whose_peers_name_is_not_found_in_time_says_so(autojump_clock, monkeypatch):
    async def look_up(*args, **options):
        await trio.sleep_forever()

    monkeypatch.setattr(trio.socket, "getaddrinfo", look_up)
    with pytest.raises(OSError, match="no answer to the name within"):
        await udp.UdpDialer("foo", 1).dial()
