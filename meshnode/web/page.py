"""The page for browsers: the files of ``page/``, as they were when the node started.

Only paths of files that are there have a route, so no request can name any other file.
"""

import hashlib
from pathlib import Path, PurePosixPath
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

DIRECTORY: Final = Path(__file__).parent / "page"

INDEX: Final = "index.html"
"""The file that the address ``/`` means."""

MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
}
"""Files that are served, by how their names end."""


def routes(directory: Path = DIRECTORY) -> list[BaseRoute]:
    """Return a route for each file of a directory, and of those in it."""
    found = sorted(path for path in directory.rglob("*") if path.suffix in MEDIA_TYPES)
    return [_route(path, path.relative_to(directory).as_posix()) for path in found]


def _route(path: Path, name: str) -> Route:
    content = path.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    # Asked for anew each time, and sent anew only after an upgrade of the node.
    headers = {"etag": tag, "cache-control": "no-cache"}
    media_type = MEDIA_TYPES[PurePosixPath(name).suffix]

    async def file(request: Request) -> Response:
        if _has(request.headers.get("if-none-match", ""), tag):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=media_type)

    return Route("/" if name == INDEX else f"/{name}", file, name=name)


def _has(tags: str, tag: str) -> bool:
    """Whether a client has what is tagged so. Proxies that compress it write ``W/`` before it."""
    known = {one.strip().removeprefix("W/") for one in tags.split(",")}
    return tag in known or "*" in known
