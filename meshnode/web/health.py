"""Whether the node lives, and whether it is ready: for those who watch it, without secrets."""

import os
from http import HTTPStatus
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from meshnode.mesh.peers.conditions import LinksReport, PeerState
from meshnode.resources import NoThread, in_thread
from meshnode.web.routing import WebNode, json_response

LINKED: Final = frozenset({PeerState.UP, PeerState.LINKED})
"""States of a configured peer that there is a link to."""


def routes(node: WebNode) -> list[BaseRoute]:
    """Return the routes of this module."""

    async def health(request: Request) -> Response:
        return json_response({"status": "live"})

    async def ready(request: Request) -> Response:
        shortage = await node.shortage()
        if shortage:
            answer = {"status": "not ready", "reason": shortage}
            return json_response(answer, HTTPStatus.SERVICE_UNAVAILABLE)
        return json_response({"status": "ready"})

    return [Route("/health", health), Route("/ready", ready)]


def missing_link(report: LinksReport) -> str:
    """Return that no configured peer is linked; empty if one is, or none is configured."""
    if report.peers and not any(peer.condition.state in LINKED for peer in report.peers):
        return "no configured peer is linked"
    return ""


async def unwritable(root: Path) -> str:
    """Return that units cannot be written; empty if they can."""
    try:
        can_write = await in_thread(os.access, root, os.W_OK | os.X_OK)
    except NoThread:
        return "the system starts no thread"
    return "" if can_write else "the directory of units cannot be written"
