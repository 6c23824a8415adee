"""The log of a unit whose output cannot be read, or not to its end."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from meshnode.config import HttpService
from meshnode.control.budgets import SessionBudgets
from meshnode.control.registry import Command, CommandRegistry, ControlSession, Handler, JsonObject
from meshnode.errors import MeshnodeError, NotAllowed, UnknownUnit
from meshnode.web.app import make_app
from meshnode.web.commands import Commands
from meshnode.web.routing import WebNode
from meshnode.web.spool import Spool
from tests.unit.web.asgi import Client

EVENTS = "text/event-stream"


async def nothing_short() -> str:
    return ""


def client_of(sent: bytes, error: MeshnodeError, files: Mapping[str, int]) -> Client:
    """Return a client of a node with a unit that prints something until an error comes."""

    def parse(fields: JsonObject) -> Handler:
        async def status(session: ControlSession) -> JsonObject:
            return {"State": 1, "StateName": "Running", **files}

        async def results(session: ControlSession) -> JsonObject | None:
            if sent:
                await session.send(b"Streaming results for work unit u\n")
                await session.send(sent)
                await trio.testing.wait_all_tasks_blocked()  # so that it is told
            raise error

        return results if fields["subcommand"] == "results" else status

    return client_with(parse)


def client_with(parse: Callable[[JsonObject], Handler]) -> Client:
    """Return a client of a node whose command ``work`` is read so."""

    def parse_text(text: str) -> Handler:
        raise AssertionError("the API writes JSON")

    def parse_auth(fields: JsonObject) -> Handler:
        async def can(session: ControlSession) -> JsonObject:
            return {"Allowed": True, "Here": True}  # what changes meanwhile is seen by results

        return can

    registry = CommandRegistry()
    registry.register(Command("work", parse_text, parse))
    registry.register(Command("auth", parse_text, parse_auth))
    commands = Commands("foo", registry, SessionBudgets())
    node = WebNode("foo", "1", commands, nothing_short, Spool(Path("/nonexistent")))
    return Client(make_app(HttpService(port=1), node))


ONE = {"StdoutSize": 3}
ALL = {"StdoutSize": 3, "StderrSize": 3, "IndexSize": 24}


@pytest.mark.parametrize("files", [ONE, ALL])
@pytest.mark.parametrize("accept", [EVENTS, "*/*"])
@pytest.mark.parametrize(
    ("error", "status"), [(NotAllowed("results u"), 403), (UnknownUnit("u"), 404)]
)
async def test_a_log_that_one_may_not_read_is_refused_as_its_output_is(
    accept: str, error: MeshnodeError, status: int, files: dict[str, int]
) -> None:
    client = client_of(b"", error, files)
    reply = await client.ask("/api/v1/units/u/log", accept=accept)
    assert (reply.status, reply.is_problem) == (status, True)
    assert reply.json["detail"] == str(error)


async def test_a_log_that_ends_early_says_so_in_an_event() -> None:
    reply = await client_of(b"a\n", UnknownUnit("u"), ONE).ask("/api/v1/units/u/log", accept=EVENTS)
    assert reply.status == 200
    assert b"event: error\n" in reply.body
    assert b"event: end\n" not in reply.body


async def test_a_log_of_lines_that_ends_early_is_broken_off() -> None:
    parts: list[bytes] = []
    client = client_of(b"a\n", UnknownUnit("u"), ONE)
    reply = await client.ask("/api/v1/units/u/log", on_part=parts.append)
    assert json.loads(reply.body)["text"] == "a"
    assert b"" not in parts, "the last part says that the response is whole"


async def test_lines_that_the_index_does_not_tell_of_are_told_as_they_are_read() -> None:
    """However many there are: another node may have written both files as it liked."""
    sent = 0
    sent_at_first: list[int] = []

    def parse(fields: JsonObject) -> Handler:
        async def status(session: ControlSession) -> JsonObject:
            return {"State": 2, "StateName": "Succeeded", "StdoutSize": 100 * 1024, "IndexSize": 0}

        async def results(session: ControlSession) -> JsonObject | None:
            nonlocal sent
            await session.send(b"Streaming results for work unit u\n")
            for _ in range(100):
                await session.send(b"x" * 1023 + b"\n")
                sent += 1
            return None

        return results if fields["subcommand"] == "results" else status

    def note(part: bytes) -> None:
        if b'"text"' in part and not sent_at_first:
            sent_at_first.append(sent)

    reply = await client_with(parse).ask("/api/v1/units/u/log", on_part=note)
    assert reply.body.count(b"\n") == 100
    assert sent_at_first[0] < 10


@pytest.mark.parametrize("files", [ONE, ALL])
@pytest.mark.parametrize("accept", [EVENTS, "*/*"])
async def test_a_client_that_leaves_in_the_middle_of_a_log_is_no_fault_of_the_node(
    accept: str, files: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    def leave(part: bytes) -> None:
        raise trio.BrokenResourceError("the client is gone")

    client = client_of(b"a\n", UnknownUnit("u"), files)
    await client.ask("/api/v1/units/u/log", on_part=leave, accept=accept)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("follow", ["true", "false"])
@pytest.mark.parametrize("state", [1, 2])
@given(st.lists(st.sampled_from(["a", "bc", ""]), max_size=5), st.booleans(), st.integers(0, 6))
def test_a_tail_has_the_last_lines_also_where_nothing_ends_the_last_of_them(
    state: int, follow: str, lines: list[str], ends: bool, tail: int
) -> None:
    printed = "\n".join(lines).encode() + b"\n" * (ends and lines != [])

    def parse(fields: JsonObject) -> Handler:
        async def status(session: ControlSession) -> JsonObject:
            return {"State": state, "StateName": "", "StdoutSize": len(printed)}

        async def results(session: ControlSession) -> JsonObject | None:
            await session.send(b"Streaming results for work unit u\n")
            await session.send(printed)
            return None

        return results if fields["subcommand"] == "results" else status

    async def ask() -> list[str]:
        path = f"/api/v1/units/u/log?tail={tail}&follow={follow}"
        reply = await client_with(parse).ask(path)
        return [json.loads(line)["text"] for line in reply.body.splitlines()]

    told = printed.decode().removesuffix("\n").split("\n") if printed else []
    wanted = told[-tail:] if tail else []
    found = trio.run(ask)
    if state == 1 and follow == "true" and not printed.endswith(b"\n"):
        # Nobody knows yet what becomes of the last line: it comes when it is whole.
        assert found in (wanted, [*told[:-1][-tail:], *told[-1:]] if tail else told[-1:])
    else:
        assert found == wanted
