"""Links over TLS: who is let in, what each refusal says at both ends, and what is no TLS."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
import trio
import trio.testing
from tls_makers import CLIENT, DAY, SERVER, Ends, authority, ends, other_authority
from trio.testing import MockClock

from meshnode.config import parse_ws_url
from meshnode.errors import TlsRefused
from meshnode.mesh.links.base import LinkDialer, LinkListener
from meshnode.mesh.links.tcp import TcpDialer, TcpListener
from meshnode.mesh.links.tls import TlsDialer, TlsListener
from meshnode.mesh.links.websocket import WebsocketDialer, WebsocketListener
from meshnode.mesh.mesh import Mesh, open_mesh
from meshnode.mesh.peers import places
from meshnode.net import tls
from meshnode.security.certificates import decode_certificate
from meshnode.security.tls import TlsSettings

PATIENCE = 60.0
"""Seconds after which a wait has failed; none takes as long."""

ON_ITS_WAY = 0.05
"""Seconds for which a clock that jumps waits for what another socket of this machine has sent: the
kernel of a busy one may take a moment."""

KINDS = ["tls", "wss"]

OLD = {"begins": -400 * DAY, "ends": -DAY}
FUTURE = {"begins": DAY, "ends": 300 * DAY}


@dataclass(frozen=True)
class Fault:
    """A certificate that is wrong: at whose end, what the judge says, and what the other hears."""

    settings: Ends
    judge: str
    """Who refuses: ``server`` or ``client``."""
    said: str
    heard: str


def fault(role: str, name: str) -> Fault:
    """Return a fault of a role's certificate. The other end is the judge."""
    judge = "client" if role == "server" else "server"
    wrong_usage = CLIENT if role == "server" else SERVER
    made = {
        "expired": lambda: authority().issue("bad", **OLD),
        "not yet valid": lambda: authority().issue("bad", **FUTURE),
        "wrong CA": lambda: other_authority().issue("bad"),
        "wrong usage": lambda: authority().issue("bad", usages=[wrong_usage]),
        "wrong name": lambda: authority().issue("bad", hosts=["a.example"], addresses=[]),
    }
    words = {
        "expired": ("expired at", "has expired"),
        "not yet valid": ("is not yet valid", "not yet valid"),
        "wrong CA": ("is not signed by", "does not trust the CA"),
        "wrong usage": (f"may not be used as a {role}'s", "may not be used for this"),
        "wrong name": ("does not name the host", "lacks the name"),
        "not pinned": ("is not pinned here", "lacks the name, or the fingerprint"),
        "missing": ("showed no certificate", "requires a certificate"),
    }[name]
    if name == "missing":
        return Fault(ends(shows_none=True), judge, *words)
    if name == "not pinned":
        pin = (decode_certificate(authority().issue("other").der).sha256.hex(),)
        if judge == "client":
            return Fault(ends(of_client={"pinnedservercert": pin}), judge, *words)
        return Fault(ends(of_server={"pinnedclientcert": pin}), judge, *words)
    bad = made[name]()
    return Fault(ends(bad) if role == "server" else ends(client=bad), judge, *words)


FAULTS = [
    *(
        ("server", name)
        for name in ("expired", "not yet valid", "wrong CA", "wrong usage", "wrong name")
    ),
    *(("client", name) for name in ("expired", "not yet valid", "wrong CA", "wrong usage")),
    ("client", "missing"),
    ("server", "not pinned"),
    ("client", "not pinned"),
]


async def listen(kind: str, server: TlsSettings | None) -> LinkListener:
    """Listen with TLS, or without."""
    source = None if server is None else lambda: server
    if kind == "wss":
        (found,) = await WebsocketListener.open(0, "127.0.0.1", "/", source)
        return found
    if source is None:
        (plain,) = await TcpListener.open(0, "127.0.0.1")
        return plain
    (secure,) = await TlsListener.open_tls(0, "127.0.0.1", source)
    return secure


def dialer(kind: str, port: int, client: TlsSettings | None, host: str = "127.0.0.1") -> LinkDialer:
    """Return what dials with TLS, or without."""
    source = None if client is None else lambda: client
    if kind == "wss":
        url = parse_ws_url(f"{'ws' if client is None else 'wss'}://{host}:{port}/")
        return WebsocketDialer(url, tls=source)
    return TcpDialer(host, port) if source is None else TlsDialer(host, port, source)


class Log:
    """What the two nodes have logged, and a wait for more."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        caplog.set_level(logging.INFO, "meshnode")

    @property
    def text(self) -> str:
        return "\n".join(record.getMessage() for record in self._caplog.records)

    async def wait_for(self, *texts: str) -> None:
        with trio.fail_after(PATIENCE):
            while any(text not in self.text for text in texts):
                await trio.testing.wait_all_tasks_blocked(cushion=0.01)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


@asynccontextmanager
async def two_nodes(
    kind: str, server: TlsSettings | None, client: TlsSettings | None
) -> AsyncIterator[tuple[Mesh, Mesh]]:
    """Run foo, which listens, and bar, which dials it once."""
    listener = await listen(kind, server)
    async with open_mesh("foo") as foo, open_mesh("bar") as bar:
        foo.add_listener(listener)
        bar.add_dialer(dialer(kind, listener.port, client), redial=False)
        yield foo, bar


@pytest.mark.parametrize("kind", KINDS)
async def test_two_nodes_link_that_trust_each_other_and_name_themselves(kind: str, log: Log):
    good = ends()
    async with two_nodes(kind, good.server, good.client) as (foo, bar):
        with trio.fail_after(PATIENCE):
            await foo.wait_reachable("bar")
            await bar.wait_reachable("foo")
            assert (await bar.ping("foo")).from_node == "foo"
    assert "closed (peer unknown)" not in log.text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("role", "name"), FAULTS, ids=lambda value: value.replace(" ", "-"))
async def test_each_fault_of_a_certificate_is_told_at_both_ends(
    kind: str, role: str, name: str, log: Log
):
    found = fault(role, name)
    async with two_nodes(kind, found.settings.server, found.settings.client) as (foo, bar):
        await log.wait_for(found.said, found.heard)
        assert list(foo.sessions) == [] == list(bar.sessions)
    assert "fault of this node" not in log.text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("liar", ["server", "client"])
async def test_a_certificate_of_one_node_does_not_link_as_another(kind: str, liar: str, log: Log):
    bad = authority().issue("eve", nodes=["eve", "mallory"])
    found = ends(bad) if liar == "server" else ends(client=bad)
    node = "foo" if liar == "server" else "bar"
    async with two_nodes(kind, found.server, found.client):
        await log.wait_for(
            f"its certificate does not name {node}, but eve, mallory",
            "our certificate names other nodes than ours",
        )


@pytest.mark.parametrize("kind", KINDS)
async def test_a_certificate_without_node_names_links_as_any_node(kind: str):
    found = ends(authority().issue("server"), authority().issue("client"))
    async with two_nodes(kind, found.server, found.client) as (foo, _):
        with trio.fail_after(PATIENCE):
            await foo.wait_reachable("bar")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_plain_node_at_a_port_with_tls_is_told_apart_at_both_ends(kind: str, log: Log):
    async with two_nodes(kind, ends().server, None):
        await log.wait_for("the client does not speak TLS", "the other end speaks TLS")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_node_with_tls_at_a_plain_port_is_told_apart_at_both_ends(kind: str, log: Log):
    there = "answered 400: TLS, and this listener has none" if kind == "wss" else "speaks TLS"
    async with two_nodes(kind, None, ends().client):
        await log.wait_for(there, "the other end does not speak TLS")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_silent_client_is_gone_within_ten_seconds(
    kind: str, log: Log, autojump_clock: MockClock
):
    autojump_clock.autojump_threshold = ON_ITS_WAY
    assert tls.HANDSHAKE_TIMEOUT < 10
    listener = await listen(kind, ends().server)
    async with open_mesh("foo") as foo:
        foo.add_listener(listener)
        stream = await trio.open_tcp_stream("127.0.0.1", listener.port)
        with trio.fail_after(10):
            while await stream.receive_some(100):
                pass
        await trio.sleep(2 * tls.FAREWELL_TIMEOUT)  # by a clock that jumps
        assert "no TLS handshake within 8 s" in log.text
        await stream.aclose()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "opening",
    [b"\x16", b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x01\x40\x00" + bytes(300), b"\0" * 50],
)
async def test_a_client_that_only_begins_as_tls_costs_its_own_link(kind: str, opening: bytes):
    good = ends()
    listener = await listen(kind, good.server)
    async with open_mesh("foo") as foo, open_mesh("bar") as bar:
        foo.add_listener(listener)
        stream = await trio.open_tcp_stream("127.0.0.1", listener.port)
        await stream.send_all(opening)
        await stream.send_eof()
        with trio.fail_after(PATIENCE), suppress(trio.BrokenResourceError):
            while await stream.receive_some(100):
                pass
        await stream.aclose()
        bar.add_dialer(dialer(kind, listener.port, good.client))
        with trio.fail_after(PATIENCE):
            await foo.wait_reachable("bar")


@pytest.mark.parametrize("kind", KINDS)
async def test_settings_that_are_renewed_serve_the_next_link_and_disturb_none(kind: str):
    old = ends()
    changing = {"now": old}
    server: Mapping[str, Ends] = changing
    (listener,) = (
        await WebsocketListener.open(0, "127.0.0.1", "/", lambda: server["now"].server)
        if kind == "wss"
        else await TlsListener.open_tls(0, "127.0.0.1", lambda: server["now"].server)
    )
    async with open_mesh("foo") as foo, open_mesh("bar") as bar, open_mesh("baz") as baz:
        foo.add_listener(listener)
        bar.add_dialer(dialer(kind, listener.port, old.client))
        with trio.fail_after(PATIENCE):
            await foo.wait_reachable("bar")
            changing["now"] = ends(of_server={"requireclientcert": False, "clientcas": None})
            baz.add_dialer(dialer(kind, listener.port, ends(shows_none=True).client))
            await foo.wait_reachable("baz")
            assert (await bar.ping("foo")).from_node == "foo"
            (session,) = (s for s in foo.sessions if s.peer == "bar")
            assert session.end is None


async def test_a_refused_handshake_is_a_typed_error_of_the_link():
    found = ends(shows_none=True)
    listener = await listen("tls", found.server)
    async with trio.open_nursery() as nursery:

        async def dial() -> None:
            with suppress(OSError):
                link = await dialer("tls", listener.port, found.client).dial()
                with pytest.raises(TlsRefused, match="requires a certificate"):
                    await link.receive()
                await link.aclose()

        nursery.start_soon(dial)
        link = await listener.accept()
        with pytest.raises(TlsRefused, match="showed no certificate"):
            await link.opened()
        await link.aclose()
    await listener.aclose()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_that_says_nothing_is_given_up(kind: str, autojump_clock: MockClock):
    autojump_clock.autojump_threshold = ON_ITS_WAY
    (silent,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = silent.socket.getsockname()[1]
    async with silent:
        with pytest.raises(OSError, match="no TLS handshake within 8 s"):
            await dialer(kind, port, ends().client).dial()


@pytest.mark.parametrize("kind", KINDS)
async def test_handshakes_that_nobody_ends_give_way_to_an_honest_node(
    kind: str, log: Log, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(places, "MAX_OPENING", 8)
    good = ends()
    listener = await listen(kind, good.server)
    async with open_mesh("foo") as foo, open_mesh("bar") as bar:
        foo.add_listener(listener)
        half_open = []
        for _ in range(30):
            stream = await trio.open_tcp_stream("127.0.0.1", listener.port)
            await stream.send_all(b"\x16\x03\x01")
            half_open.append(stream)
        await log.wait_for("handshakes already in progress")
        bar.add_dialer(dialer(kind, listener.port, good.client))
        with trio.fail_after(PATIENCE):
            await foo.wait_reachable("bar")
        for stream in half_open:
            await stream.aclose()
