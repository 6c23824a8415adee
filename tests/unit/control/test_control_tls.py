"""TLS at the control service's TCP port: who gets in, and what is said of who does not."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing
from tls_makers import CLIENT, DAY, SERVER, Ends, authority, ends, other_authority

from meshnode.config import Address
from meshnode.control.registry import Command, ControlSession, Handler
from meshnode.control.service import ControlService, open_listeners
from meshnode.errors import TlsProblem
from meshnode.net import tls
from meshnode.net.tls import TlsStream, dial_tls
from meshnode.security.certificates import decode_certificate
from meshnode.security.identity import CertificateNames, Identity, TcpClient

GREETING = b"Receptor Control, node foo\n"


@asynccontextmanager
async def serving(
    registry, found: Ends, service: ControlService | None = None
) -> AsyncIterator[int]:
    """Run a control service with TLS; yields its port."""
    listeners = await open_listeners(
        service="",
        filename="",
        permissions=0o600,
        tcplisten=Address("127.0.0.1", 0),
        mesh=None,
        work_types=(),
        tcptls=lambda: found.server,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start((service or ControlService("foo", registry)).run, listeners)
        yield listeners[0].listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def dial(port: int, found: Ends, host: str = "127.0.0.1") -> TlsStream:
    return await dial_tls(await trio.open_tcp_stream("127.0.0.1", port), found.client, host)


async def all_of(stream: trio.abc.ReceiveStream) -> bytes:
    data = b""
    while more := await stream.receive_some(10_000):
        data += more
    return data


async def first_warning(caplog: pytest.LogCaptureFixture) -> str:
    """Wait for a warning in the log and return it."""
    with trio.fail_after(60):
        while True:
            for record in caplog.records:
                if record.levelno == logging.WARNING:
                    return record.getMessage()
            await trio.testing.wait_all_tasks_blocked(cushion=0.01)


async def test_a_client_with_a_certificate_is_served_and_both_say_goodbye(registry) -> None:
    good = ends()
    async with serving(registry, good) as port, await dial(port, good) as client:
        await client.send_all(b"ping\n")
        await client.send_eof()
        answer = await all_of(client)
        assert answer.startswith(GREETING)
        assert answer.count(b"\n") > 1


def bad_client(name: str) -> Ends:
    match name:
        case "expired":
            return ends(client=authority().issue("bad", begins=-400 * DAY, ends=-DAY))
        case "not yet valid":
            return ends(client=authority().issue("bad", begins=DAY, ends=2 * DAY))
        case "wrong CA":
            return ends(client=other_authority().issue("bad"))
        case "wrong usage":
            return ends(client=authority().issue("bad", usages=[SERVER]))
        case "not pinned":
            pin = decode_certificate(authority().issue("other").der).sha256.hex()
            return ends(of_server={"pinnedclientcert": (pin,)})
        case _:
            return ends(shows_none=True)


@pytest.mark.parametrize(
    ("name", "said", "heard"),
    [
        ("expired", "expired at", "has expired"),
        ("not yet valid", "is not yet valid", "not yet valid"),
        ("wrong CA", "is not signed by", "does not trust the CA"),
        ("wrong usage", "may not be used as a client's", "may not be used for this"),
        ("not pinned", "is not pinned here", "or the fingerprint"),
        ("missing", "showed no certificate", "requires a certificate"),
    ],
)
async def test_each_fault_of_a_clients_certificate_is_told_at_both_ends(
    registry, caplog: pytest.LogCaptureFixture, name: str, said: str, heard: str
) -> None:
    found = bad_client(name)
    async with serving(registry, found) as port:
        client = await dial(port, found)
        with trio.fail_after(60), pytest.raises(trio.BrokenResourceError, match=heard):
            await all_of(client)
        await client.aclose()
        warning = await first_warning(caplog)
    assert said in warning
    assert "refused 127.0.0.1:" in warning


@pytest.mark.parametrize(
    ("found", "host", "said", "heard"),
    [
        (lambda: ends(other_authority().issue("bad")), "127.0.0.1", "does not trust", "not signed"),
        (
            lambda: ends(authority().issue("bad", usages=[CLIENT])),
            "127.0.0.1",
            "may not be used for this",
            "may not be used as a server's",
        ),
        (ends, "foo.example", "lacks the name", "does not name the host"),
        (
            lambda: ends(authority().issue("bad", begins=-9 * DAY, ends=-DAY)),
            "127.0.0.1",
            "has expired",
            "expired at",
        ),
    ],
    ids=["wrong CA", "wrong usage", "wrong name", "expired"],
)
async def test_each_fault_of_the_servers_certificate_is_told_at_both_ends(
    registry,
    caplog: pytest.LogCaptureFixture,
    found: Callable[[], Ends],
    host: str,
    said: str,
    heard: str,
) -> None:
    bad = found()
    async with serving(registry, bad) as port:
        with pytest.raises(OSError, match=heard):
            await dial(port, bad, host)
        assert said in await first_warning(caplog)


async def test_a_plain_client_is_closed_at_its_first_byte_and_named(
    registry, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(registry, ends()) as port:
        async with await trio.open_tcp_stream("127.0.0.1", port) as client:
            await client.send_all(b"status\n")
            with trio.fail_after(60):
                answer = await all_of(client)
        assert answer[:1] == b"\x15"
        assert GREETING not in answer
        said = await first_warning(caplog)
    assert "the client does not speak TLS, and this port asks for it" in said


async def test_a_silent_client_is_closed_within_ten_seconds(
    registry, caplog: pytest.LogCaptureFixture, autojump_clock: trio.abc.Clock
) -> None:
    assert tls.HANDSHAKE_TIMEOUT < 10
    async with (
        serving(registry, ends()) as port,
        await trio.open_tcp_stream("127.0.0.1", port) as client,
    ):
        with trio.fail_after(10):
            assert (await all_of(client))[:2] == b"\x15\x03"  # for one that waits for a greeting
        await trio.sleep(2 * tls.FAREWELL_TIMEOUT)  # by a clock that jumps
    assert "no TLS handshake within 8 s" in caplog.text


async def test_each_client_that_is_refused_for_its_tls_is_counted_by_the_reason(registry) -> None:
    good, unasked = ends(), ends(shows_none=True)
    service = ControlService("foo", registry)
    async with serving(registry, good, service) as port:
        for found in (unasked, unasked):
            with suppress(OSError, trio.BrokenResourceError):
                async with await dial(port, found) as client:
                    await all_of(client)
        async with await trio.open_tcp_stream("127.0.0.1", port) as plain:
            await plain.send_all(b"status\n")
            await all_of(plain)
        async with await dial(port, good) as client:
            assert await client.receive_some() == GREETING
    assert service.tls_refusals == {TlsProblem.MISSING: 2, TlsProblem.NOT_TLS: 1}


async def test_handshakes_that_nobody_ends_leave_other_clients_their_places(registry) -> None:
    good = ends()
    async with serving(registry, good) as port:
        silent = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(20)]
        async with await dial(port, good) as client:
            with trio.fail_after(60):
                assert await client.receive_some() == GREETING
        for stream in silent:
            await stream.aclose()


async def test_a_session_knows_whom_its_clients_certificate_names(registry) -> None:
    asked: list[Identity] = []

    def parse(_: object) -> Handler:
        async def tell(session: ControlSession) -> dict[str, str]:
            asked.append(session.client)
            return {}

        return tell

    registry.register(Command("whoami", parse, parse))
    good = ends()
    async with serving(registry, good) as port, await dial(port, good) as client:
        await client.send_all(b"whoami\n")
        await client.send_eof()
        await all_of(client)
    (identity,) = asked
    assert isinstance(identity, TcpClient)
    assert identity.certificate == CertificateNames("CN=client", ("bar",))
