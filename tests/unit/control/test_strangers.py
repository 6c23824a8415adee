"""What a client may take of a node, and for how long; what speaks another protocol is not heard."""

import json
import os
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from math import inf

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from meshnode.control import session as session_module
from meshnode.control.budgets import (
    FREE,
    LINES_IN_ALL,
    LINES_OF_ONE,
    READS_OF_ONE,
    REPLIES_OF_ONE,
    STALLED_AFTER,
)
from meshnode.control.input import CHUNK, IDLE_TIMEOUT, LINE_TIMEOUT, PAYLOAD_TIMEOUT
from meshnode.control.places import Bounds
from meshnode.control.registry import Command, CommandRegistry, ControlSession
from meshnode.control.service import IDLE_CHECK, ControlService
from meshnode.control.session import LINGER_TIMEOUT, MAX_MISTAKES, SMALL_READ
from meshnode.net.sendfile import READ_BLOCK
from meshnode.protocol.control import MAX_LINE

KINDS = ["unix", "tcp", "mesh"]
GREETING = b"Receptor Control, node foo\n"


class Service:
    """A control service, and clients of several origins."""

    def __init__(self, registry: CommandRegistry, nursery: trio.Nursery, **bounds) -> None:
        self.service = ControlService("foo", registry, **bounds)
        self.nursery = nursery

    def dial(self, peer: str = "tester", kind: str = "mesh") -> trio.StapledStream:
        ours, theirs = memory_stream_pair()
        self.nursery.start_soon(self.service.serve, theirs, kind, peer)
        return ours


@pytest.fixture
def service(registry: CommandRegistry, nursery: trio.Nursery) -> Service:
    return Service(registry, nursery)


@pytest.fixture
def ran(registry: CommandRegistry) -> list[str]:
    """What the command ``work`` was asked."""
    asked: list[str] = []

    def parse(request: object) -> Callable[[ControlSession], object]:
        async def run(session: ControlSession) -> dict[str, object]:
            await trio.lowlevel.checkpoint()
            asked.append(str(request))
            return {}

        return run

    registry.register(Command("work", parse, parse))
    return asked


async def rest_of(stream: trio.StapledStream) -> bytes:
    data = b""
    while piece := await stream.receive_some():
        data += bytes(piece)
    return data


# --- time -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_session_that_brings_no_command_is_ended_and_told(
    open_client, kind, autojump_clock
) -> None:
    async with open_client(kind) as client:
        began = trio.current_time()
        assert (
            await client.line() == f"ERROR: no command came for {IDLE_TIMEOUT[kind]:g} s\n".encode()
        )
        assert 0 <= trio.current_time() - began - IDLE_TIMEOUT[kind] <= IDLE_CHECK
        assert await client.rest() == b""


@pytest.mark.parametrize("kind", KINDS)
async def test_a_session_is_idle_only_from_its_last_command_on(
    open_client, kind, autojump_clock
) -> None:
    async with open_client(kind) as client:
        for _ in range(3):
            await trio.sleep(IDLE_TIMEOUT[kind] - 1)
            await client.send(b"ping\n")
            assert await client.line() == b"ERROR: no ping target\n"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_command_may_be_silent_for_as_long_as_it_likes(
    open_client, registry, kind, autojump_clock
) -> None:
    async def silent(session: ControlSession) -> dict[str, object]:
        await trio.sleep(3 * IDLE_TIMEOUT[kind])
        return {}

    async def listening(session: ControlSession) -> dict[str, object]:
        session.finish()
        return {"heard": (await session.receive_some(100)).decode()}

    registry.register(Command("silent", lambda _: silent, lambda _: silent))
    registry.register(Command("listening", lambda _: listening, lambda _: listening))
    async with open_client(kind) as client:
        await client.send(b"silent\nlistening\n")
        assert await client.line() == b"{}\n"
        await trio.sleep(3 * IDLE_TIMEOUT[kind])
        await client.send(b"at last")
        assert await client.line() == b'{"heard":"at last"}\n'


@pytest.mark.parametrize("kind", KINDS)
async def test_a_line_that_trickles_in_is_given_up(open_client, kind, autojump_clock) -> None:
    async with open_client(kind) as client, trio.open_nursery() as nursery:

        async def trickle() -> None:
            while True:
                await client.send(b"x")
                await trio.sleep(LINE_TIMEOUT / 10)

        nursery.start_soon(trickle)
        answer = await client.line()
        nursery.cancel_scope.cancel()
    assert answer == b"ERROR: the command line was not complete within 120 s\n"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_payload_must_go_on_coming(open_client, registry, kind, autojump_clock) -> None:
    seen: list[str] = []

    async def take(session: ControlSession) -> dict[str, object]:
        try:
            while await session.receive_some(100):
                pass
        except trio.BrokenResourceError as error:
            seen.append(str(error))
            raise
        return {}

    registry.register(Command("take", lambda _: take, lambda _: take))
    allowed = min(PAYLOAD_TIMEOUT[kind], 2 * IDLE_TIMEOUT["tcp"])
    async with open_client(kind) as client:
        await client.send(b"take\n")
        for _ in range(3):
            await trio.sleep(allowed - 1)
            await client.send(b"x")
        assert seen == []
        if PAYLOAD_TIMEOUT[kind] < inf:
            await trio.sleep(allowed + LINGER_TIMEOUT)
            assert seen == [f"nothing came for {PAYLOAD_TIMEOUT[kind]:g} s"]


# --- other protocols --------------------------------------------------------------------------

COMMANDS = st.sampled_from([b"work submit foo echo", b'{"command":"work"}', b"status"])
HEADERS = st.lists(
    st.one_of(
        st.sampled_from([b"Host: 127.0.0.1:7323", b"Content-Length: 30", b"Origin: null"]), COMMANDS
    ),
    max_size=4,
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(
    method=st.sampled_from([b"POST", b"GET", b"OPTIONS", b"PUT", b"CONNECT", b"work", b"x-y"]),
    target=st.sampled_from([b"/", b"/work?x=1", b"foo:1", b"*"]),
    headers=HEADERS,
    body=st.lists(COMMANDS, min_size=1, max_size=4),
    newline=st.sampled_from([b"\n", b"\r\n"]),
    step=st.integers(1, 200),
)
def test_no_request_of_a_browser_runs_a_command(
    registry, method, target, headers, body, newline, step
) -> None:
    ran: list[str] = []
    watched = CommandRegistry()

    async def run(session: ControlSession) -> None:
        ran.append("!")

    for name in ("work", "status", "connect"):
        watched.register(Command(name, lambda _: run, lambda _: run))
    request = method + b" " + target + b" HTTP/1.1" + newline
    request += newline.join([*headers, b"", *body, b""])

    async def main() -> None:
        ours, theirs = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ControlService("foo", watched).serve, theirs, "tcp", "browser")
            for start in range(0, len(request), step):
                await ours.send_all(request[start : start + step])
            await ours.send_eof()
            answer = await rest_of(ours)
        assert answer == GREETING + b"ERROR: this is a control service; it does not speak HTTP\n"

    trio.run(main)
    assert ran == []


async def test_headers_without_a_request_end_the_session_as_well(open_client, ran) -> None:
    async with open_client("tcp") as client:
        answer = await client.ask(b"Host: localhost\nwork submit foo echo\n")
    assert answer == b"ERROR: this is a control service; it takes no headers\n"
    assert ran == []


@pytest.mark.parametrize("hello", [b"\x16", b"\x16\x03\x01\x02\x00\x01", b"\x16\x03\x03\nwork x\n"])
async def test_a_client_of_tls_is_told_at_once(open_client, ran, hello) -> None:
    async with open_client("tcp") as client:
        await client.send(hello)
        assert await client.rest() == b"ERROR: this is a control service without TLS\n"
    assert ran == []


async def test_what_follows_a_first_line_that_is_no_text_is_not_heard(open_client, ran) -> None:
    """A browser can be made to send STUN with a name in it that its page chooses."""
    async with open_client("tcp") as client:
        answer = await client.ask(b"\x00\x03\x00\x48\x21\x12\xa4\x42\nwork submit foo echo\n")
    assert answer == (b"ERROR: byte 7 of the line is not UTF-8\nERROR: Unknown command\n")
    assert ran == []


@pytest.mark.parametrize("kind", KINDS)
async def test_who_only_guesses_is_not_listened_to_for_ever(open_client, ran, kind) -> None:
    async with open_client(kind) as client:
        answer = await client.ask(b"guess\n" * (MAX_MISTAKES - 1) + b"work\n" + b"guess\n" * 100)
    errors = answer.count(b"ERROR: Unknown command\n")
    if kind == "unix":
        assert errors == MAX_MISTAKES - 1 + 100
    else:
        # A command in between shows that the client knows some.
        assert errors == 2 * (MAX_MISTAKES - 1)
        assert answer.endswith(b"ERROR: 32 lines in a row were no command\n")
    assert ran == [""]


# --- memory -----------------------------------------------------------------------------------


async def half_line(stream: trio.StapledStream, size: int) -> bytes:
    """Send so much without a newline, and return what is answered then."""
    for _ in range(size // 65536):
        await stream.send_all(b"x" * 65536)
        await wait_all_tasks_blocked()
    await wait_all_tasks_blocked()
    return bytes(await stream.receive_some()).removeprefix(GREETING)


async def test_half_lines_of_one_client_have_a_budget_and_others_have_theirs(service) -> None:
    answers = [
        await half_line(service.dial("mallory"), MAX_LINE)
        for _ in range(LINES_OF_ONE // MAX_LINE + 4)
    ]
    refused = [answer for answer in answers if b"ERROR" in answer]
    assert len(refused) == 4
    assert set(refused) == {b"ERROR: not now: your incomplete command lines take too much memory\n"}
    assert b"ERROR" not in await half_line(service.dial("alice"), MAX_LINE)


async def test_half_lines_of_all_have_a_budget_and_a_small_one_finds_room(service) -> None:
    held = 0
    for number in range(LINES_IN_ALL // MAX_LINE + 20):
        answer = await half_line(service.dial(f"invented {number}"), MAX_LINE)
        held += b"ERROR" not in answer
    assert held * MAX_LINE <= LINES_IN_ALL + MAX_LINE
    alice = service.dial("alice")
    await alice.send_all(b"ping " + b"x" * FREE)
    await wait_all_tasks_blocked()
    await alice.send_all(b"\n")
    assert await alice.receive_some() == GREETING
    assert b"no route to node" in await alice.receive_some()


async def test_what_a_half_line_took_is_given_back_with_its_session(service) -> None:
    for _ in range(2 * LINES_OF_ONE // MAX_LINE):
        client = service.dial("bar")
        assert b"ERROR" not in await half_line(client, MAX_LINE)
        await client.aclose()
        await wait_all_tasks_blocked()


async def test_half_lines_that_were_refused_are_not_kept_while_their_clients_stay(service) -> None:
    clients = [service.dial("mallory") for _ in range(50)]
    tracemalloc.start()
    for _ in range(MAX_LINE // CHUNK - 1):
        for client in clients:
            with suppress(trio.BrokenResourceError):
                await client.send_all(bytes(CHUNK))
        await wait_all_tasks_blocked()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    refused = [client for client in clients if b"ERROR" in await client.receive_some(10_000)]
    assert len(refused) == len(clients)
    assert kept < LINES_OF_ONE // 4


async def test_what_was_asked_is_not_kept_while_a_command_runs(service, registry) -> None:
    """A megabyte of brackets would be twenty of lists, for as long as the command runs."""
    running, go_on = trio.Event(), trio.Event()

    async def wait(session: ControlSession) -> None:
        running.set()
        await go_on.wait()

    registry.register(Command("wait", lambda _: wait, lambda _: wait))
    client = service.dial()
    line = b'{"command":"wait","x":[' + b"[]," * (MAX_LINE // 20) + b"[]]}\n"
    tracemalloc.start()
    await client.send_all(line)
    await running.wait()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak > 10 * len(line)
    assert kept < len(line)
    go_on.set()


async def test_clients_that_read_nothing_hold_up_their_own_and_are_given_up(
    registry, nursery, autojump_clock
) -> None:
    size = REPLIES_OF_ONE // 4
    asked = 0

    async def much(session: ControlSession) -> dict[str, object]:
        nonlocal asked
        asked += 1
        return {"x": "x" * size}

    registry.register(Command("much", lambda _: much, lambda _: much))
    service = ControlService("foo", registry)

    def deaf(peer: str) -> trio.StapledStream:
        """A client that asks, and reads its greeting only."""
        ours, theirs = lockstep_stream_pair()
        nursery.start_soon(service.serve, theirs, "mesh", peer)
        return ours

    async def ask(stream: trio.StapledStream) -> None:
        assert await stream.receive_some() == GREETING
        await stream.send_all(b"much\n")

    clients = [deaf("mallory") for _ in range(20)]
    for client in clients:
        await ask(client)
    await wait_all_tasks_blocked()
    assert asked == 4  # these are the budget, the others wait for it
    alice = deaf("alice")
    await ask(alice)
    assert (await alice.receive_some(1)) == b"{"
    began = trio.current_time()
    while asked < 21:
        await trio.sleep(STALLED_AFTER)
    assert trio.current_time() - began < 21 * STALLED_AFTER


async def test_a_client_that_reads_is_not_given_up_however_many_ask_at_once(
    registry, nursery, autojump_clock
) -> None:
    size = REPLIES_OF_ONE // 4

    async def much(session: ControlSession) -> dict[str, object]:
        return {"x": "x" * size}

    registry.register(Command("much", lambda _: much, lambda _: much))
    service = ControlService("foo", registry)
    complete = 0

    async def client() -> None:
        nonlocal complete
        ours, theirs = lockstep_stream_pair()
        nursery.start_soon(service.serve, theirs, "mesh", "bar")
        assert await ours.receive_some() == GREETING
        await ours.send_all(b"much\n")
        got = 0
        while got < size:
            got += len(await ours.receive_some(65536))
            await trio.lowlevel.checkpoint()
        complete += 1

    async with trio.open_nursery() as clients:
        for _ in range(12):
            clients.start_soon(client)
    assert complete == 12


async def test_readers_of_files_that_take_nothing_keep_little_and_are_not_given_up(
    registry, nursery, tmp_path, monkeypatch, autojump_clock
) -> None:
    """They may be many, and slow: no reader of results is ended for that."""
    path = tmp_path / "stdout"
    path.write_bytes(b"x" * READ_BLOCK)
    sizes: list[int] = []

    async def read_part(descriptor: int, position: int, size: int) -> bytes:
        sizes.append(size)
        return os.pread(descriptor, size, position)

    async def results(session: ControlSession) -> None:
        session.finish()
        with path.open("rb") as file:
            await session.send_file(file.fileno(), 0, READ_BLOCK)

    monkeypatch.setattr(session_module, "read_part", read_part)
    registry.register(Command("results", lambda _: results, lambda _: results))
    service = ControlService("foo", registry)
    clients = []
    for _ in range(2 * READS_OF_ONE // READ_BLOCK):
        ours, theirs = lockstep_stream_pair()
        nursery.start_soon(service.serve, theirs, "mesh", "bar")
        assert await ours.receive_some() == GREETING
        await ours.send_all(b"results\n")
        await wait_all_tasks_blocked()
        clients.append(ours)
    most = READS_OF_ONE // READ_BLOCK + 1
    assert sizes == [READ_BLOCK] * most + [SMALL_READ] * (len(clients) - most)
    await trio.sleep(STALLED_AFTER * 3)
    for client in clients:
        assert await client.receive_some(1) == b"x"


# --- places -----------------------------------------------------------------------------------


async def test_an_idle_session_gives_way_to_another_node_and_is_told(registry, nursery) -> None:
    service = Service(registry, nursery, bounds=lambda kind: Bounds(most=3, of_one=2))
    first, second = service.dial("mallory"), service.dial("eve")
    assert await first.receive_some() == GREETING
    assert await second.receive_some() == GREETING
    await wait_all_tasks_blocked()
    third = service.dial("mallory")
    assert await third.receive_some() == GREETING
    await wait_all_tasks_blocked()
    alice = service.dial("alice")
    assert await alice.receive_some() == GREETING
    await wait_all_tasks_blocked()
    assert await first.receive_some() == (
        b"ERROR: not now: too many sessions; this one has waited longest\n"
    )
    assert await first.receive_some() == b""
    await third.send_all(b"ping\n")
    assert await third.receive_some() == b"ERROR: no ping target\n"


async def test_lines_sent_at_once_let_other_sessions_have_their_turn(
    registry, nursery, monkeypatch
) -> None:
    """Also over a socket that takes all answers at once, so that nothing ever waits."""
    order: list[str] = []

    def command(name: str) -> Command:
        async def run(session: ControlSession) -> None:
            order.append(name)

        return Command(name, lambda _: run, lambda _: run)

    registry.register(command("many"))
    registry.register(command("one"))
    service = Service(registry, nursery)
    many, one = service.dial(), service.dial()
    await many.receive_some()
    await one.receive_some()
    await wait_all_tasks_blocked()
    await many.send_all(b"many\n" * 1000)
    await one.send_all(b"one\n")
    await wait_all_tasks_blocked()
    assert order.count("many") == 1000
    assert order.index("one") < 100


# --- any JSON ---------------------------------------------------------------------------------

TEXT = st.text(alphabet=st.characters(exclude_categories=()), max_size=20)
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**400), 10**400),
        st.floats(),
        TEXT,
        st.sampled_from(["foo", "bar", "localhost", "control", "NodeID", "\x00", "\ud800", "%s"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=12,
)
FIELDS = ["requested_fields", "target", "node", "service", "tls", "framed", "nosuch"]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(
    command=st.sampled_from(["status", "ping", "traceroute", "connect", "reload"]),
    fields=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4),
    ascii_only=st.booleans(),
)
def test_any_json_in_any_field_gets_one_answer_and_the_session_goes_on(
    registry, mesh, command, fields, ascii_only
) -> None:
    line = json.dumps({"command": command, **fields}, ensure_ascii=ascii_only)

    async def main() -> None:
        ours, theirs = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            mesh.nursery = nursery
            nursery.start_soon(ControlService("foo", registry).serve, theirs, "unix", "tester")
            await ours.send_all(line.encode(errors="surrogatepass") + b"\nping\n")
            await ours.send_eof()
            answer = await rest_of(ours)
        greeting, *answers, last, end = answer.split(b"\n")
        assert (greeting + b"\n", last, end) == (GREETING, b"ERROR: no ping target", b"")
        if len(answers) == 2:  # receptor answers a line that is no request twice
            assert answers.pop() == b"ERROR: Unknown command"
        (answer,) = answers
        assert b"internal error" not in answer
        assert answer.startswith(b"ERROR: ") or isinstance(json.loads(answer), dict)

    trio.run(main)


async def test_a_field_that_is_asked_for_many_times_is_told_once(open_client, mesh) -> None:
    calls = 0
    status = mesh.status()

    class Counting:
        def __getattr__(self, name: str) -> object:
            nonlocal calls
            calls += name == "known_costs"
            return getattr(status, name)

    mesh.status = Counting
    fields = ["KnownConnectionCosts"] * 10_000
    async with open_client() as client:
        line = json.dumps({"command": "status", "requested_fields": fields})
        assert list(json.loads(await client.ask(line.encode() + b"\n"))) == ["KnownConnectionCosts"]
    assert calls == 1
