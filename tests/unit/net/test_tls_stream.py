"""TLS over a TCP stream: bytes both ways, ends, and what waits for an end that does not read."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from tls_makers import Ends, authority, ends, nameless_ends, other_authority

from meshnode.errors import TlsProblem, TlsRefused
from meshnode.net import tls
from meshnode.net.pump import reset
from meshnode.net.sockets import holder_of, identify, peer_name
from meshnode.net.tls import TlsStream, dial_tls
from meshnode.security.identity import TcpClient

MUCH = 3_000_000
"""Bytes more than two sockets and several records hold."""


@asynccontextmanager
async def pair(found: Ends | None = None) -> AsyncIterator[tuple[TlsStream, TlsStream]]:
    """Yield a server's and a client's stream that have shaken hands."""
    found = found or nameless_ends()
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    dialed: list[TlsStream] = []

    async def dial() -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        dialed.append(await dial_tls(stream, found.client, "127.0.0.1"))

    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        server = TlsStream(await listener.accept(), found.server)
        await server.shake_hands()
    try:
        yield server, dialed[0]
    finally:
        await trio.aclose_forcefully(server.transport)
        await trio.aclose_forcefully(dialed[0].transport)


async def all_of(stream: TlsStream) -> bytes:
    data = b""
    while more := await stream.receive_some(100_000):
        data += more
    return data


@pytest.mark.parametrize("end", ["server", "client"])
async def test_an_end_of_bytes_ends_one_direction_only(end: str) -> None:
    async with pair() as streams:
        near, far = streams if end == "server" else reversed(streams)
        await near.send_all(b"question")
        await near.send_eof()
        assert await all_of(far) == b"question"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.send_all, bytes(MUCH))
            got = 0
            while got < MUCH:
                got += len(await near.receive_some())
        await far.send_eof()
        assert await all_of(near) == b""


@pytest.mark.parametrize(
    ("problem", "asks"),
    [
        (None, {"pinnedclientcert": ()}),
        (None, {"requireclientcert": False}),
        (TlsProblem.NOT_PINNED, {"pinnedclientcert": ("ab" * 32,)}),
        (TlsProblem.WRONG_CA, {}),
        (TlsProblem.WRONG_CA, {"requireclientcert": False}),
    ],
)
async def test_a_client_is_judged_again_by_settings_that_come_later(
    tmp_path: Path, problem: TlsProblem | None, asks: dict[str, object]
) -> None:
    cas = other_authority().write(tmp_path) if problem is TlsProblem.WRONG_CA else None
    later = ends(of_server=asks | ({} if cas is None else {"clientcas": cas})).server
    async with pair() as (server, _):
        if problem is None:
            server.judge_again(later)
            return
        with pytest.raises(TlsRefused) as refused:
            server.judge_again(later)
        assert refused.value.problem is problem


async def test_a_client_without_a_certificate_is_refused_when_one_is_asked_for_later() -> None:
    found = ends(of_server={"requireclientcert": False}, shows_none=True)
    async with pair(found) as (server, _):
        server.judge_again(found.server)
        with pytest.raises(TlsRefused) as refused:
            server.judge_again(nameless_ends().server)
        assert refused.value.problem is TlsProblem.MISSING


@pytest.mark.parametrize("kind", ["killed", "reset"])
async def test_a_connection_that_ends_without_a_goodbye_is_broken(kind: str) -> None:
    async with pair() as (near, far):
        await far.send_all(b"half of it")
        assert await near.receive_some() == b"half of it"
        if kind == "killed":
            await trio.aclose_forcefully(far.transport)
        else:
            await reset(far)
        with pytest.raises(trio.BrokenResourceError):
            await near.receive_some()


async def test_what_is_read_while_much_waits_to_be_sent_leaves_it_whole() -> None:
    sent = bytes(range(256)) * (MUCH // 256)
    async with pair() as (near, far):
        near.write(sent)
        assert not near.flush_now()
        for _ in range(3):
            await far.send_all(b"word")
            assert await near.receive_some() == b"word"

        async def flush() -> None:
            while not near.flush_now():
                await trio.lowlevel.wait_writable(near.transport.socket)

        got = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush)
            while len(got) < len(sent):
                got += await far.receive_some(100_000)
        assert got == sent


async def test_what_tls_owes_to_an_end_that_reads_nothing_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """OpenSSL answers a change of keys, which Python has no way to ask for: it is played here."""
    async with pair() as (near, far):
        near.write(bytes(MUCH))
        assert not near.flush_now()
        answers = [bytes(tls.MOST_OWED)]
        monkeypatch.setattr(near._engine, "outgoing", lambda: answers.pop() if answers else b"")
        await far.send_all(b"word")
        assert await near.receive_some() == b"word"
        await far.send_all(b"word")
        answers.append(b"one byte more")
        with pytest.raises(trio.BrokenResourceError):
            await near.receive_some()


async def test_a_stream_over_tls_is_known_by_its_socket() -> None:
    async with pair() as (near, far):
        address = "{}:{}".format(*far.transport.socket.getsockname()[:2])
        assert peer_name(near) == address
        assert holder_of(near).name == "127.0.0.1"
        assert identify(near) == TcpClient(address)


async def test_a_closed_stream_cannot_be_used() -> None:
    async with pair() as (near, far):
        await near.aclose()
        await near.aclose()
        assert await all_of(far) == b""
        for use in (near.receive_some, near.send_eof, lambda: near.send_all(b"x")):
            with pytest.raises(trio.ClosedResourceError):
                await use()


async def test_the_dialer_says_why_it_is_refused_in_one_error() -> None:
    found = ends(authority().issue("s", addresses=[]))
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def serve() -> None:
        server = TlsStream(await listener.accept(), found.server)
        with pytest.raises(TlsRefused, match="lacks the name"):
            await server.shake_hands()
        await server.aclose()

    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        stream = await trio.open_tcp_stream(*listener.socket.getsockname()[:2])
        with pytest.raises(OSError, match="does not name the host that was dialed, 127"):
            await dial_tls(stream, found.client, "127.0.0.1")


async def test_a_client_that_leaves_during_the_handshake_is_a_refusal() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        client = await trio.open_tcp_stream(*listener.socket.getsockname()[:2])
        server = TlsStream(await listener.accept(), nameless_ends().server)
        await client.send_all(b"\x16\x03\x01")
        await client.aclose()
        with pytest.raises(TlsRefused) as caught:
            await server.shake_hands()
        assert caught.value.problem is TlsProblem.BROKEN
        assert "the client left during the TLS handshake" in str(caught.value)
        await server.aclose()
