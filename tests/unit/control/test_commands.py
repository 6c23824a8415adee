"""The mesh's own commands: what they reply, and how they refuse."""

import dataclasses
import json
import os

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.testing

from meshnode.control.mesh_commands import (
    RELOAD_EVERY,
    RELOADS_AT_ONCE,
    SharedReload,
    reload_command,
    status_command,
)
from meshnode.control.registry import CommandRegistry
from meshnode.errors import ReloadFault, ReloadRefused
from meshnode.mesh.dataplane import DropCounts, FirewallCounts
from meshnode.version import VERSION


async def answer_to(open_client, line: str) -> dict:
    async with open_client() as client:
        return json.loads(await client.ask(line.encode() + b"\n"))


async def test_status_tells_all_that_the_node_knows(open_client) -> None:
    status = await answer_to(open_client, "status")
    assert status.pop("SystemCPUCount") == len(os.sched_getaffinity(0))
    assert status.pop("SystemMemoryMiB") > 0
    assert status == {
        "Version": VERSION,
        "NodeID": "foo",
        "Connections": [{"NodeID": "bar", "Cost": 1}, {"NodeID": "baz", "Cost": 1.5}],
        "RoutingTable": {"bar": "bar", "baz": "baz"},
        "KnownConnectionCosts": {"foo": {"bar": 1, "baz": 1.5}, "bar": {"foo": 1}},
        "Advertisements": [
            {
                "NodeID": "bar",
                "Service": "control",
                "Time": "2026-11-22T03:00:00.123456789Z",
                "ConnType": 1,
                "Tags": {"type": "Control Service"},
                "WorkCommands": [{"WorkType": "echo", "Secure": False}],
            }
        ],
    }


async def test_status_tells_what_firewall_rules_have_stopped(open_client, mesh) -> None:
    counted = dataclasses.replace(mesh.status(), firewall=FirewallCounts(rejected=3, dropped=4))
    mesh.status = lambda: counted
    status = await answer_to(open_client, '{"command":"status","requested_fields":["Firewall"]}')
    assert status == {"Firewall": {"Rejected": 3, "Dropped": 4}}


async def test_status_tells_what_came_to_nothing_once_something_did(open_client, mesh) -> None:
    asked = '{"command":"status","requested_fields":["Dropped"]}'
    assert await answer_to(open_client, asked) == {}
    counted = dataclasses.replace(mesh.status(), drops=DropCounts(unreadable=1, notices=2))
    mesh.status = lambda: counted
    status = await answer_to(open_client, asked)
    assert status == {"Dropped": {"Unreadable": 1, "Notices": 2, "Faults": 0, "Unanswered": 0}}


async def test_status_warns_of_what_somebody_must_look_after_while_there_is_something(
    mesh, registry, open_client
) -> None:
    lines: list[str] = []

    async def warnings() -> list[str]:
        return lines

    registry.register(dataclasses.replace(status_command(mesh, warnings), name="watchful"))
    whole = '{"command":"watchful"}'
    assert "Warnings" not in await answer_to(open_client, whole)
    lines.append("the disk is full")
    assert (await answer_to(open_client, whole))["Warnings"] == ["the disk is full"]
    asked = '{"command":"watchful","requested_fields":["%s"]}'
    assert await answer_to(open_client, asked % "Warnings") == {"Warnings": ["the disk is full"]}
    assert "Warnings" not in await answer_to(open_client, asked % "NodeID")


async def test_the_line_status_has_receptors_fields_and_json_those_of_our_own_too(
    mesh, registry, open_client
) -> None:
    counted = dataclasses.replace(mesh.status(), firewall=FirewallCounts(1, 1), drops=DropCounts(1))
    mesh.status = lambda: counted

    async def warnings() -> list[str]:
        return ["the disk is full"]

    registry.register(dataclasses.replace(status_command(mesh, warnings), name="watchful"))
    receptors = {
        *("Version", "SystemCPUCount", "SystemMemoryMiB", "NodeID"),
        *("Connections", "RoutingTable", "Advertisements", "KnownConnectionCosts"),
    }
    own = {"Firewall", "Dropped", "Warnings"}
    assert set(await answer_to(open_client, "watchful")) == receptors
    assert set(await answer_to(open_client, '{"command":"watchful"}')) == receptors | own


async def test_whole_costs_are_written_without_a_fraction(open_client) -> None:
    async with open_client() as client:
        answer = await client.ask(b'{"command":"status","requested_fields":["Connections"]}\n')
    assert answer == b'{"Connections":[{"Cost":1,"NodeID":"bar"},{"Cost":1.5,"NodeID":"baz"}]}\n'


@pytest.mark.parametrize("fields", ['"x"', "null", "1", '{"NodeID":1}'])
async def test_requested_fields_that_are_no_list_are_an_error_line(open_client, fields) -> None:
    async with open_client() as client:
        line = '{"command":"status","requested_fields":' + fields + "}\n"
        answer = await client.ask(line.encode())
    assert answer == b"ERROR: requested_fields must be a list of strings\n"


@pytest.mark.parametrize("line", ["ping bar", '{"command":"ping","target":"bar"}'])
async def test_a_ping_says_who_answered_after_how_long(open_client, line) -> None:
    reply = await answer_to(open_client, line)
    assert reply == {"Success": True, "From": "bar", "Time": 312513, "TimeStr": "312.513µs"}


async def test_a_ping_without_answer_fails_with_the_reason(open_client, mesh) -> None:
    mesh.silent = True
    assert await answer_to(open_client, "ping bar") == {"Success": False, "Error": "timeout"}


async def test_a_traceroute_names_each_hop(open_client) -> None:
    assert await answer_to(open_client, "traceroute bar") == {
        "0": {"From": "foo", "Time": 263610, "TimeStr": "263.61µs"},
        "1": {"From": "bar", "Time": 362438, "TimeStr": "362.438µs"},
    }


async def test_a_traceroute_that_fails_says_where(open_client) -> None:
    reply = await answer_to(open_client, "traceroute nosuch")
    assert reply["1"] == {
        "From": "foo",
        "Time": 5278,
        "TimeStr": "5.278µs",
        "Error": "no route to node",
    }


async def test_connect_passes_bytes_and_the_end_of_each_side(open_client, mesh) -> None:
    async def upper(stream: trio.StapledStream) -> None:
        got = b""
        while data := await stream.receive_some():
            got += bytes(data)
        await stream.send_all(got.upper())  # only after our end was passed on
        await stream.send_eof()
        await stream.aclose()

    mesh.services["upper"] = upper
    async with open_client() as client:
        answer = await client.ask(b"connect bar upper\nstatus\n\x00\xff")
    assert answer == b"Connecting\nSTATUS\n\x00\xff"


async def test_connect_lets_the_client_speak_after_the_service_has_ended(open_client, mesh) -> None:
    heard = trio.Event()

    async def listener(stream: trio.StapledStream) -> None:
        await stream.send_all(b"bye")
        await stream.send_eof()
        assert await stream.receive_some() == b"still here"
        heard.set()
        await stream.aclose()

    mesh.services["listen"] = listener
    async with open_client() as client:
        await client.send(b"connect bar listen\n")
        assert await client.rest() == b"Connecting\nbye"
        await client.send(b"still here")
        await heard.wait()


async def test_connect_ends_when_the_service_is_lost(open_client, mesh, caplog) -> None:
    async def lost(stream: trio.StapledStream) -> None:
        await stream.send_all(b"half a")
        await stream.receive_some()
        await stream.aclose()

    mesh.services["lost"] = lost
    async with open_client() as client:
        await client.send(b"connect bar lost\n")
        assert await client.line() == b"Connecting\n"
        await client.send(b"x")
        assert await client.rest() == b"half a"
    assert "internal error" not in caplog.text


async def test_connect_closes_the_stream_when_its_client_vanishes(open_client, mesh) -> None:
    closed = trio.Event()

    async def talker(stream: trio.StapledStream) -> None:
        try:
            while True:
                await stream.send_all(b"x" * 1000)
                await trio.lowlevel.checkpoint()
        except trio.BrokenResourceError:
            closed.set()

    mesh.services["talk"] = talker
    async with open_client() as client:
        await client.send(b"connect bar talk\n")
        assert await client.line() == b"Connecting\n"
        await client.stream.aclose()
        await closed.wait()


NO_ROUTE = b"ERROR: no route to node bar\n"


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"connect bar nosuch", NO_ROUTE),
        (b"connect bar control ", NO_ROUTE),
        (b'{"command":"connect"}', b"ERROR: no connect target node\n"),
        (b'{"command":"connect","node":1}', b"ERROR: connect target node must be string\n"),
        (
            b'{"command":"connect","node":"bar","service":"control","tls":1}',
            b"ERROR: connect tls name must be string\n",
        ),
        (
            b'{"command":"connect","node":"bar","service":"control","tls":"t"}',
            b"ERROR: unknown TLS config t\n",
        ),
    ],
)
async def test_a_connect_that_fails_leaves_the_session_usable(open_client, line, reply) -> None:
    async with open_client() as client:
        assert await client.ask(line + b"\nping\n") == reply + b"ERROR: no ping target\n"


@dataclasses.dataclass
class Client:
    """What the reload command asks of a session."""

    kind: str


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (ReloadFault.NEEDS_RESTART, "node changed ERRORCODE 3"),
        (ReloadFault.UNREADABLE, "node changed ERRORCODE 4"),
    ],
)
async def test_a_refused_reload_says_why_and_with_which_code(fault, text) -> None:
    async def refuse() -> ReloadRefused:
        return ReloadRefused("node changed", fault)

    reply = await reload_command(refuse).parse_text("")(Client("unix"))
    assert reply == {"Success": False, "Error": text, "ErrorCode": int(text[-1])}


async def test_reloads_of_two_clients_follow_each_other(autojump_clock) -> None:
    running = 0

    async def slow() -> None:
        nonlocal running
        running += 1
        assert running == 1
        await trio.sleep(1)
        running -= 1

    command = reload_command(SharedReload(slow))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(command.parse_text(""), Client("unix"))
        nursery.start_soon(command.parse_json({"command": "reload"}), Client("mesh"))


class Reloads:
    """A configuration that takes a moment to be read, which is refused now and then."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.command = reload_command(SharedReload(self._reload))

    async def _reload(self) -> ReloadRefused | None:
        self.begun.append(trio.current_time())
        number = len(self.begun)
        await trio.sleep(0.1)
        return ReloadRefused(f"no {number}", ReloadFault.FAILED) if number % 2 == 0 else None

    async def ask(self, kind: str) -> dict:
        return await self.command.parse_text("")(Client(kind))


@pytest.mark.parametrize("kind", ["mesh", "tcp"])
async def test_clients_of_the_network_that_reload_all_the_time_hold_up_no_operator(
    kind, autojump_clock
) -> None:
    reloads = Reloads()

    async def again_and_again() -> None:
        while True:
            await reloads.ask(kind)

    async with trio.open_nursery() as nursery:
        for _ in range(300):
            nursery.start_soon(again_and_again)
        await trio.sleep(60)
        assert 4 <= len(reloads.begun) <= RELOADS_AT_ONCE + 60 / RELOAD_EVERY + 1
        for _ in range(10):
            before = trio.current_time()
            await reloads.ask("unix")
            assert trio.current_time() - before < 0.5
        nursery.cancel_scope.cancel()


@hypothesis.settings(max_examples=30)
@hypothesis.given(
    st.lists(
        st.tuples(
            st.sampled_from(["unix", "mesh", "tcp"]), st.floats(0, 20), st.floats(0.001, 0.2)
        ),
        max_size=20,
    )
)
def test_each_reload_that_is_asked_for_begins_after_that_whoever_else_leaves(askers) -> None:
    async def main() -> None:
        reloads = Reloads()

        async def one(kind: str, at: float, patience: float, number: int) -> None:
            await trio.sleep(at)
            asked = trio.current_time()
            with trio.move_on_after(patience if number % 3 == 0 else 1000):
                reply = await reloads.ask(kind)
                assert any(begun >= asked for begun in reloads.begun)
                assert reply["Success"] or reply["Error"].endswith("ERRORCODE 5")

        async with trio.open_nursery() as nursery:
            for number, (kind, at, patience) in enumerate(askers):
                nursery.start_soon(one, kind, at, patience, number)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_the_meshs_commands_are_all_registered(registry: CommandRegistry) -> None:
    for name in ("status", "ping", "traceroute", "connect", "reload"):
        assert registry.find(name) is not None
    assert registry.find("work") is None
