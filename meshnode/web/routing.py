"""What modules with routes start from: the node that they are for, and how they answer.

A module with routes has ``routes(node)``; ``app.py`` lists them. A handler asks the node by one of
its control commands::

    def routes(node: WebNode) -> list[BaseRoute]:
        async def status(request: Request) -> Response:
            return json_response(await node.commands.ask(request, {"command": "status"}))

        return [Route("/api/v1/status", status)]

A refusal of the command (any ``MeshnodeError``) becomes problem+json by itself.
"""

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from starlette.responses import Response
from starlette.routing import BaseRoute

from meshnode.web.commands import Commands
from meshnode.web.spool import Spool
from meshnode.web.websocket import ServeSession


@dataclass(frozen=True, slots=True)
class WebNode:
    """One node, as routes see it; what they ask of it, they ask by its commands."""

    node_id: str
    version: str
    commands: Commands
    shortage: Callable[[], Awaitable[str]]
    """Returns why the node is not ready to take work; empty if it is."""
    spool: Spool
    """For what is on its way to units, on their disk."""
    serve_session: ServeSession | None = None
    """Serves a control session as the control service does, where there is one to do it."""
    responses: Counter[int] = field(default_factory=Counter)
    """Counts what was answered, by its status."""


Routes = Callable[[WebNode], list[BaseRoute]]
"""What a module brings."""


def json_response(data: Any, status: HTTPStatus = HTTPStatus.OK, **headers: str) -> Response:
    """Return a response of one JSON value; underscores in names of headers are hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    content = json.dumps(data).encode() + b"\n"
    return Response(content, status, headers=named, media_type="application/json")


def page_of(items: list[Any], following: str | None = None) -> dict[str, Any]:
    """Return the object of a list, or of a part of one that ``following`` continues."""
    return {"items": items, "next": following}
