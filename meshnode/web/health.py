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

LEAST_ROOM: Final = 1024 * 1024
"""Bytes that the disk of the units must have left: a unit needs some for its files and first
output, and with none a submission is refused."""


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
        return await in_thread(_unwritable, root)
    except NoThread:
        return "the system starts no thread"


def _unwritable(root: Path) -> str:
    try:
        disk = os.statvfs(root)
    except OSError:
        disk = None
    if disk is None or not os.access(root, os.W_OK | os.X_OK):
        return "the directory of units cannot be written"
    # File systems that make inodes as they need them say that there are none at all.
    is_full = disk.f_bavail * disk.f_frsize < LEAST_ROOM or (disk.f_files and not disk.f_favail)
    return "the disk of the units is full" if is_full else ""
