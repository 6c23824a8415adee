"""The control service over two real nodes of a mesh, linked in memory."""

import json
from collections.abc import AsyncIterator

import pytest
import trio

from meshnode.control.mesh_commands import register_mesh_commands
from meshnode.control.registry import CommandRegistry
from meshnode.control.service import ControlService, open_listeners
from meshnode.errors import ConfigError
from meshnode.mesh.links.memory import memory_link_pair
from meshnode.mesh.mesh import Mesh, open_mesh
from meshnode.protocol.routing import WorkType


async def nothing_changed() -> None:
    await trio.lowlevel.checkpoint()


async def serve(mesh: Mesh, nursery: trio.Nursery, *, forwarding: bool = False) -> None:
    registry = CommandRegistry()
    register_mesh_commands(registry, mesh, nothing_changed, forwarding=forwarding)
    listeners = await open_listeners(
        service="control",
        filename="",
        permissions=0o600,
        tcplisten=None,
        mesh=mesh,
        work_types=[WorkType("echo", False)],
    )
    await nursery.start(ControlService(mesh.node_id, registry).run, listeners)


@pytest.fixture
async def foo() -> AsyncIterator[Mesh]:
    """Node foo, linked to bar; both serve control on the mesh."""
    async with open_mesh("foo") as foo, open_mesh("bar") as bar, trio.open_nursery() as nursery:
        for mesh, link in zip((foo, bar), memory_link_pair(), strict=True):
            nursery.start_soon(mesh.run_link, link)
            await serve(mesh, nursery)
        await foo.wait_reachable("bar")
        yield foo
        nursery.cancel_scope.cancel()


async def ask(mesh: Mesh, node: str, lines: bytes) -> list[bytes]:
    async with await mesh.dial(node, "control") as stream:
        await stream.send_all(lines)
        await stream.send_eof()
        answer = b""
        while data := await stream.receive_some():
            answer += data
    return answer.splitlines()


async def test_a_node_answers_over_the_mesh(foo: Mesh) -> None:
    greeting, ping, route, error = await ask(foo, "bar", b"ping foo\ntraceroute foo\nbogus\n")
    assert greeting == b"Receptor Control, node bar"
    assert json.loads(ping)["From"] == "foo"
    assert [hop["From"] for hop in json.loads(route).values()] == ["bar", "foo"]
    assert error == b"ERROR: Unknown command"


async def test_connect_goes_through_a_session_into_another(foo: Mesh) -> None:
    answer = await ask(foo, "localhost", b"connect bar control\nping foo\n")
    assert answer[:3] == [
        b"Receptor Control, node foo",
        b"Connecting",
        b"Receptor Control, node bar",
    ]
    assert json.loads(answer[3])["From"] == "foo"


async def test_a_client_from_another_node_connects_no_further(foo: Mesh) -> None:
    lines = b"connect foo control\nconnect localhost control\nconnect nobody control\nping foo\n"
    answer = await ask(foo, "bar", lines)
    for line, node in zip(answer[1:4], (b"foo", b"localhost", b"nobody"), strict=True):
        assert line.startswith(b"ERROR: this node connects no clients from the mesh to " + node)
        assert b"allowforwarding on bar" in line
    assert json.loads(answer[4])["From"] == "foo"


async def test_where_forwarding_is_allowed_it_does() -> None:
    async with open_mesh("foo") as foo, open_mesh("bar") as bar, trio.open_nursery() as nursery:
        for mesh, link in zip((foo, bar), memory_link_pair(), strict=True):
            nursery.start_soon(mesh.run_link, link)
            await serve(mesh, nursery, forwarding=True)
        await foo.wait_reachable("bar")
        answer = await ask(foo, "bar", b"connect foo control\nping bar\n")
        assert answer[1:3] == [b"Connecting", b"Receptor Control, node foo"]
        assert json.loads(answer[3])["From"] == "bar"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("node", ["localhost", "LocalHost", "foo"])
async def test_localhost_is_the_node_itself(foo: Mesh, node: str) -> None:
    lines = f"ping {node}\ntraceroute {node}\n".encode()
    _, ping, route = await ask(foo, "foo", lines)
    assert json.loads(ping)["From"] == "foo"
    assert [hop["From"] for hop in json.loads(route).values()] == ["foo"]


async def test_an_unknown_service_of_a_known_node_is_an_error_line(foo: Mesh) -> None:
    answer = await ask(foo, "foo", b"connect bar nosuch\nconnect bar muchtoolong\nping\n")
    assert answer[1] == b"ERROR: service unknown: service nosuch of node bar"
    assert answer[2].startswith(b"ERROR: service name 'muchtoolong'")
    assert answer[3] == b"ERROR: no ping target"


async def test_status_shows_the_service_and_its_work_types(foo: Mesh) -> None:
    status = json.loads((await ask(foo, "foo", b"status\n"))[1])
    assert status["NodeID"] == "foo"
    (link,) = status["Connections"]
    assert (link["NodeID"], link["Cost"]) == ("bar", 1)
    assert (link["Kind"], link["Dropped"]) == ("memory", 0)
    assert link["SentMessages"] > 0
    assert link["ReceivedBytes"] > link["ReceivedMessages"] > 0
    own = [ad for ad in status["Advertisements"] if ad["NodeID"] == "foo"]
    assert [ad["Service"] for ad in own] == ["control"]
    assert own[0]["Tags"]["type"] == "Control Service"
    assert own[0]["WorkCommands"] == [{"WorkType": "echo", "Secure": False}]


async def test_a_second_control_service_of_one_name_is_a_mistake_in_the_configuration(
    foo: Mesh,
) -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(ConfigError, match="service control"):
            await serve(foo, nursery)
