"""A session answers or closes, whatever its client sends and whatever a command does."""

import json
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import lockstep_stream_pair, memory_stream_pair

from meshnode.control.registry import Command, CommandRegistry, ControlSession
from meshnode.control.service import ControlService
from meshnode.control.session import LINGER_TIMEOUT, SEND_TIMEOUT
from meshnode.errors import CommandError, WorkError
from meshnode.protocol.control import MAX_LINE

VECTORS = json.loads(
    (Path(__file__).parents[2] / "data" / "control-vectors.json").read_text(encoding="utf-8")
)["vectors"]

NO_ROUTE = "no route to node nosuch"

OWN_TEXTS = {
    # Receptor shows the name of a Go error type here, and no remedy.
    "ERROR: INTERNAL_ERROR (local): no route to node\n": f"ERROR: {NO_ROUTE}\n",
}

RunCommand = Callable[[ControlSession], Awaitable[dict[str, Any] | None]]


def is_for_the_mesh(vector: dict[str, str]) -> bool:
    return not vector["send"].startswith("work") and '"work"' not in vector["send"]


@pytest.fixture
def add(registry: CommandRegistry) -> Callable[[str, RunCommand], None]:
    """Add a command that takes anything."""

    def add(name: str, run: RunCommand) -> None:
        registry.register(Command(name, lambda rest: run, lambda body: run))

    return add


@pytest.mark.parametrize(
    "vector",
    [v for v in VECTORS if v["match"] == "exact" and is_for_the_mesh(v)],
    ids=lambda v: v["send"].strip(),
)
async def test_exact_vectors_are_answered_exactly(open_client, vector) -> None:
    async with open_client() as client:
        expected = OWN_TEXTS.get(vector["reply"], vector["reply"])
        assert await client.ask(vector["send"].encode()) == expected.encode()


@pytest.mark.parametrize(
    "vector",
    [v for v in VECTORS if v["match"] == "shape" and is_for_the_mesh(v)],
    ids=lambda v: v["send"].strip(),
)
async def test_shape_vectors_are_answered_with_their_keys_and_types(open_client, vector) -> None:
    async with open_client() as client:
        answer = json.loads(await client.ask(vector["send"].encode()))
        assert shape(answer) == shape(json.loads(vector["reply"]))


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return type(value)


async def test_commands_follow_each_other_in_one_session(open_client) -> None:
    async with open_client() as client:
        await client.send(b"bogus\n")
        assert await client.line() == b"ERROR: Unknown command\n"
        await client.send(b"\r\nPING foo\r\n")
        assert json.loads(await client.line())["Success"] is True


async def test_lines_sent_at_once_are_answered_in_their_order(open_client) -> None:
    async with open_client() as client:
        answer = await client.ask(b"bogus\nping nosuch\nping\n")
        assert answer.splitlines() == [
            b"ERROR: Unknown command",
            f'{{"Error":"{NO_ROUTE}","Success":false}}'.encode(),
            b"ERROR: no ping target",
        ]


async def test_a_last_line_without_newline_is_executed(open_client) -> None:
    async with open_client() as client:
        assert await client.ask(b"ping") == b"ERROR: no ping target\n"


async def test_a_line_too_long_is_answered_and_ends_the_session(open_client) -> None:
    async with open_client() as client:
        answer = await client.ask(b"x" * (MAX_LINE + 10) + b"\nping\n")
        assert answer == f"ERROR: a command line has at most {MAX_LINE} bytes\n".encode()


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(
    pieces=st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from(
                [b"\n", b"\r\n", b"{", b"}", b'{"command":', b'"status"', b'"requested_fields":']
                + [v["send"].encode() for v in VECTORS if is_for_the_mesh(v)]
            ),
        ),
        max_size=12,
    )
)
def test_no_bytes_in_any_pieces_bring_a_session_down(registry, mesh, pieces) -> None:
    async def main() -> None:
        ours, theirs = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            mesh.nursery = nursery
            nursery.start_soon(ControlService("foo", registry).serve, theirs, "tcp", "tester")
            for piece in filter(None, pieces):
                await ours.send_all(piece)
            await ours.send_eof()
            answer = b""
            while data := await ours.receive_some():
                answer += bytes(data)
            await ours.aclose()
        head, *lines = answer.split(b"\n")
        assert head == b"Receptor Control, node foo"
        assert lines.pop() == b""
        assert b"internal error" not in answer
        for line in lines:
            assert line.startswith(b"ERROR: ") or isinstance(json.loads(line), dict)

    trio.run(main)


async def test_payload_reaches_its_command_and_no_byte_of_it_is_read_as_a_line(
    open_client, add
) -> None:
    async def swallow(session: ControlSession) -> dict[str, Any]:
        await session.send(b"Send stdin data and EOF.\n")
        got = b""
        while data := await session.receive_some(3):
            assert len(data) <= 3
            got += data
        assert await session.receive_some(3) == b""
        return {"got": got.hex()}

    add("swallow", swallow)
    payload = b"\r\nstatus\n\x00\xff"
    async with open_client() as client:
        answer = await client.ask(b"swallow\n" + payload)
    assert answer == b'Send stdin data and EOF.\n{"got":"%s"}\n' % payload.hex().encode()


async def test_payload_that_comes_later_is_read_too(open_client, add) -> None:
    async def swallow(session: ControlSession) -> dict[str, Any]:
        await session.send(b"go\n")
        return {"got": (await session.receive_some(100)).decode()}

    add("swallow", swallow)
    async with open_client() as client:
        await client.send(b"swallow\n")
        assert await client.line() == b"go\n"
        assert await client.ask(b"later") == b'{"got":"later"}\n'


async def test_a_command_may_end_the_session_and_later_lines_are_not_run(open_client, add) -> None:
    async def stream(session: ControlSession) -> None:
        await session.send(b"raw")
        session.finish()

    add("stream", stream)
    async with open_client() as client:
        await client.send(b"stream\nbogus\n")
        assert await client.rest() == b"raw"


async def test_a_command_sees_who_is_there(open_client, add) -> None:
    async def who(session: ControlSession) -> dict[str, Any]:
        return {"kind": session.kind, "peer": session.peer, "node": session.node_id}

    add("who", who)
    async with open_client("mesh") as client:
        assert json.loads(await client.ask(b"who\n")) == {
            "kind": "mesh",
            "peer": "tester",
            "node": "foo",
        }


@pytest.mark.parametrize("error", [CommandError("no such thing\nERROR: x"), WorkError("disk full")])
async def test_an_error_of_ours_is_one_line_and_the_session_goes_on(
    open_client, add, error
) -> None:
    async def fail(session: ControlSession) -> None:
        async with trio.open_nursery():  # errors of nurseries come in groups
            raise error

    add("fail", fail)
    async with open_client() as client:
        answer = await client.ask(b"fail\nping\n")
    shown = str(error).replace("\n", "\\n").encode()
    assert answer == b"ERROR: " + shown + b"\nERROR: no ping target\n"


async def test_a_fault_of_ours_is_logged_once_with_its_session_and_ends_it(
    open_client, add, caplog
) -> None:
    async def fail(session: ControlSession) -> None:
        raise ZeroDivisionError("division by zero")

    add("fail", fail)
    async with open_client() as client:
        assert await client.ask(b"fail\nping\n") == b"ERROR: internal error: ZeroDivisionError\n"
    records = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert [r.getMessage() for r in records] == ["session unix#1: fail failed"]
    assert records[0].exc_info is not None


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (WorkError("stdout is gone"), logging.WARNING),
        (KeyError("x"), logging.ERROR),
        (trio.BrokenResourceError("the service is lost"), None),
    ],
)
async def test_no_error_line_is_mixed_into_raw_bytes(
    open_client, add, caplog, error, level
) -> None:
    async def stream(session: ControlSession) -> None:
        session.finish()
        await session.send(b"half a line")
        raise error

    add("stream", stream)
    async with open_client() as client:
        await client.send(b"stream\n")
        assert await client.rest() == b"half a line"
        with pytest.raises(trio.BrokenResourceError):  # closed without lingering
            await client.send(b"ping\n")
    levels = [r.levelno for r in caplog.records if r.levelno > logging.INFO]
    assert levels == ([] if level is None else [level])


async def test_a_reply_that_has_no_json_form_is_a_fault_of_ours(open_client, add) -> None:
    async def odd(session: ControlSession) -> dict[str, Any]:
        return {"x": object()}

    add("odd", odd)
    async with open_client() as client:
        assert await client.ask(b"odd\n") == b"ERROR: internal error: TypeError\n"


async def test_a_client_that_vanishes_during_a_command_is_no_fault(
    open_client, add, caplog
) -> None:
    async def endless(session: ControlSession) -> None:
        while True:
            await session.send(b"x" * 1000)
            await trio.lowlevel.checkpoint()

    add("endless", endless)
    async with open_client() as client:
        await client.send(b"endless\n")
        await client.stream.receive_some()
        await client.stream.aclose()
    assert [r for r in caplog.records if r.levelno > logging.DEBUG] == []


async def test_a_client_that_never_reads_is_let_go(registry, autojump_clock) -> None:
    ours, theirs = lockstep_stream_pair()  # takes a byte only when the other end asks for it
    began = trio.current_time()
    await ControlService("foo", registry).serve(theirs, "tcp", "tester")
    assert trio.current_time() == began + SEND_TIMEOUT
    with pytest.raises(trio.BrokenResourceError):
        await ours.send_all(b"status\n")


async def test_a_session_that_ends_does_not_wait_for_ever_for_its_client(
    open_client, add, autojump_clock
) -> None:
    async def stream(session: ControlSession) -> None:
        session.finish()

    add("stream", stream)
    async with open_client() as client:
        await client.send(b"stream\n")
        assert await client.rest() == b""  # the end comes at once, the close a little later
        await client.send(b"what a closing session still drops")
        await trio.sleep(LINGER_TIMEOUT + 1)
        with pytest.raises(trio.BrokenResourceError):
            await client.send(b"more")


async def test_a_fault_in_a_stream_costs_its_session_only(registry, caplog) -> None:
    async def fail() -> None:
        raise RuntimeError("the engine is broken")

    ours, theirs = memory_stream_pair()
    theirs.send_stream.send_all_hook = fail
    await ControlService("foo", registry).serve(theirs, "tcp", "tester")
    messages = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert messages == ["session tcp#1: session failed"]
    assert await ours.receive_some() == b"Receptor Control, node foo\n"


async def test_cancelling_a_session_closes_its_stream(registry) -> None:
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ControlService("foo", registry).serve, theirs, "tcp", "tester")
        await ours.receive_some()
        nursery.cancel_scope.cancel()
    assert await ours.receive_some() == b""


async def test_a_client_that_resets_its_session_is_lost_in_plain_words(add, registry) -> None:
    seen: list[str] = []

    async def reading(session: ControlSession) -> None:
        session.finish()
        try:
            await session.receive_some(100)
        except trio.BrokenResourceError as error:
            seen.append(str(error))
            raise

    add("reading", reading)
    client, theirs = socket.socketpair()
    client.sendall(b"reading\n")
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ControlService("foo", registry).serve, stream, "unix", "tester")
        await trio.testing.wait_all_tasks_blocked()
        client.close()  # the greeting is unread: Linux resets the connection
    assert seen == ["connection reset by peer"]
