"""An HTTP service whose node has the mesh's commands, and clients of it."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import trio

from meshnode.config import HttpService
from meshnode.control.budgets import SessionBudgets
from meshnode.control.events import EventHub
from meshnode.control.events_command import events_command, mesh_audiences
from meshnode.control.mesh_asking import NodeAsker
from meshnode.control.mesh_command import MeshCommand
from meshnode.control.mesh_commands import register_mesh_commands
from meshnode.control.registry import CommandRegistry, JsonObject
from meshnode.control.service import ControlService
from meshnode.errors import NoRoute
from meshnode.mesh.peers.conditions import LinksReport
from meshnode.permissions import AccessRule
from meshnode.security.access import AccessRules
from meshnode.security.bearer import TokenStore, read_tokens
from meshnode.web.app import make_app
from meshnode.web.commands import Commands
from meshnode.web.history import History
from meshnode.web.identity import Caller
from meshnode.web.routing import WebNode
from meshnode.web.spool import Spool
from meshnode.work.placement.load import describe_tags
from tests.unit.control.conftest import FakeMesh
from tests.unit.web.asgi import Client

MakeClient = Callable[..., Client]


async def nothing_short() -> str:
    return ""


async def refuse_reload() -> None:
    return None


async def no_answer(node: str, command: Mapping[str, object]) -> JsonObject:
    raise NoRoute(node)


@pytest.fixture
def make_client() -> MakeClient:
    """Return what makes a client of a service with such a directive and access rules."""

    def make(
        directive: HttpService | None = None,
        rules: tuple[AccessRule, ...] = (),
        shortage: str = "",
        hub: EventHub | None = None,
        history: History | None = None,
        **client: object,
    ) -> Client:
        async def short() -> str:
            return shortage

        directive = directive or HttpService(port=8043)
        access = AccessRules(rules)
        tokens = TokenStore(access)
        if directive.tokens is not None:
            tokens.apply({directive.tokens: read_tokens(directive)})
        registry = CommandRegistry(access)
        register_mesh_commands(registry, FakeMesh(), refuse_reload)  # type: ignore[arg-type]
        asker = NodeAsker(no_answer)
        mesh = MeshCommand(FakeMesh(), registry, LinksReport, describe_tags, asker)  # type: ignore[arg-type]
        registry.register(mesh.command())
        registry.register(events_command(hub or EventHub(), mesh_audiences(registry)))
        history = history or History(registry, tuple, tuple)
        registry.register(history.command())
        commands = Commands("foo", registry, SessionBudgets())
        service = ControlService("foo", registry)

        async def serve(stream: trio.abc.HalfCloseableStream, caller: Caller) -> None:
            peer = str(caller.client)
            await service.serve(stream, caller.kind, peer, caller.client, known=caller.holder)

        node = WebNode("foo", "1.2", commands, short, Spool(Path("/nonexistent")), serve)
        app = make_app(directive, node, tokens)
        return Client(app, **client)  # type: ignore[arg-type]

    return make
