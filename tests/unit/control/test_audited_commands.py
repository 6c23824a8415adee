"""What the audit log is told of connections and reloads."""

from typing import Any

import pytest
import trio
from audits import KeptAudit

from meshnode.control.mesh_commands import register_mesh_commands, reload_command
from meshnode.control.registry import CommandRegistry
from meshnode.errors import ReloadFault, ReloadRefused
from meshnode.permissions import AccessRule, Verb
from meshnode.security.access import AccessRules
from meshnode.security.auditlines import Kind
from meshnode.security.identity import MeshClient


@pytest.fixture
def audit() -> KeptAudit:
    return KeptAudit()


@pytest.fixture
def rules() -> AccessRules:
    return AccessRules()


@pytest.fixture
def registry(mesh: Any, audit: KeptAudit, rules: AccessRules) -> CommandRegistry:
    async def nothing_changed() -> None:
        await trio.lowlevel.checkpoint()

    registry = CommandRegistry(rules)
    register_mesh_commands(registry, mesh, nothing_changed, audit=audit)
    return registry


async def test_a_connection_has_a_line_with_its_service(
    open_client: Any, mesh: Any, audit: KeptAudit
) -> None:
    async def echo(stream: trio.StapledStream) -> None:
        await stream.send_eof()

    mesh.services["backup"] = echo
    async with open_client() as client:
        assert (await client.ask(b"connect bar backup\n")).startswith(b"Connecting")
    event = audit.only(Kind.CONNECT)
    assert (event.way, event.target, event.service) == ("socket", "bar", "backup")
    assert event.outcome == "done"


async def test_a_connection_that_fails_has_a_line_with_the_reason(
    open_client: Any, audit: KeptAudit
) -> None:
    async with open_client() as client:
        await client.ask(b"connect nowhere backup\n")
    assert audit.only(Kind.CONNECT).outcome.startswith("failed: no route to node nowhere")


async def test_a_connection_that_is_refused_has_a_line_of_that(
    open_client: Any, audit: KeptAudit
) -> None:
    async with open_client(kind="mesh") as client:
        await client.ask(b"connect bar backup\n")
    event = audit.only(Kind.REFUSAL)
    assert (event.asked, event.way, event.target, event.service) == (
        "connect",
        "mesh",
        "bar",
        "backup",
    )
    assert isinstance(event.by, MeshClient)
    assert "connects no clients from the mesh" in event.outcome


async def test_no_client_is_connected_while_its_line_cannot_be_written(
    open_client: Any, mesh: Any, audit: KeptAudit
) -> None:
    received = []

    async def secret(stream: trio.StapledStream) -> None:
        try:
            received.append(await stream.receive_some(100))
        except trio.BrokenResourceError:
            received.append(b"broken")

    mesh.services["backup"] = secret
    audit.refuses = True
    async with open_client() as client:
        answer = await client.ask(b"connect bar backup\nput this there")
    assert answer.startswith(b"ERROR: the audit log cannot be written")
    assert received in ([b""], [b"broken"])


@pytest.mark.parametrize(
    ("refusal", "outcome"),
    [
        (None, "done"),
        (ReloadRefused("no such file", ReloadFault.UNREADABLE), "failed: no such file ERRORCODE 4"),
    ],
)
async def test_a_reload_has_a_line_with_who_asked_and_what_came_of_it(
    refusal: ReloadRefused | None, outcome: str, audit: KeptAudit
) -> None:
    async def reload() -> ReloadRefused | None:
        await trio.lowlevel.checkpoint()
        return refusal

    class Session:
        kind = "mesh"
        rule = "foo.yml:7"
        client = MeshClient("bar")

    await reload_command(reload, audit).parse_text("")(Session())  # type: ignore[arg-type]
    event = audit.only(Kind.RELOAD)
    assert (event.by, event.way, event.outcome) == (MeshClient("bar"), "mesh", outcome)
    assert event.rule == "foo.yml:7"


async def test_a_connection_names_the_rule_that_allowed_it(
    open_client: Any, mesh: Any, rules: AccessRules, audit: KeptAudit
) -> None:
    async def echo(stream: trio.StapledStream) -> None:
        await stream.send_eof()

    verbs = frozenset({Verb.CONNECT})
    rules.rules = (AccessRule(label="foo.yml:9", allows=True, who=((),), verbs=verbs),)
    mesh.services["backup"] = echo
    async with open_client() as client:
        await client.ask(b"connect bar backup\n")
    assert audit.only(Kind.CONNECT).rule == "foo.yml:9"
