"""What changes at the node, as server-sent events: ``new EventSource("/api/v1/events")``.

Each line of the command ``events`` is one event: its topic is the event's type, its number the ID.
A client whose connection broke sends the last ID by itself and goes on from there, or is told that
it has ``lost`` something, and asks for everything anew.
"""

import json
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from meshnode.control.registry import JsonObject
from meshnode.web.api.queries import check_names
from meshnode.web.commands import Streaming
from meshnode.web.problems import MALFORMED, Problem
from meshnode.web.routing import WebNode

MEDIA_TYPE: Final = "text/event-stream"

LAST_ID: Final = "last-event-id"
"""The header by which a client says which event it has read last."""

MAX_DIGITS: Final = 18
"""Digits of the number of an event at most."""


class EventFrames:
    """Makes lines of JSON with ``topic`` and ``seq`` server-sent events."""

    def __init__(self) -> None:
        self._rest = b""

    def __call__(self, data: bytes) -> bytes:
        """Return the events of the lines that are whole by now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return b"".join(map(_frame, lines))


def _frame(line: bytes) -> bytes:
    told = json.loads(line)
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (told["seq"], told["topic"].encode(), line)


AS_EVENTS: Final = Streaming(
    MEDIA_TYPE,
    headers=(("cache-control", "no-store"), ("x-accel-buffering", "no")),
    frames=EventFrames,
    keep_alive=b": the connection is alive\n\n",
)
"""How a command's lines become events. The second header has nginx pass them on at once."""


def routes(node: WebNode) -> list[BaseRoute]:
    """Return the routes of this module."""

    async def events(request: Request) -> Response:
        check_names(request, "topics", "since")
        command: JsonObject = {"command": "events"}
        if topics := request.query_params.get("topics"):
            command["topics"] = topics.split(",")
        if last := request.headers.get(LAST_ID) or request.query_params.get("since"):
            command["since"] = _number(last)
        return node.commands.stream(command, AS_EVENTS)

    return [Route("/api/v1/events", events)]


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        raise Problem(MALFORMED, f"{LAST_ID} and since must be the number (id) of an event")
    return int(text)
