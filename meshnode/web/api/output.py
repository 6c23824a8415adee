"""What a unit has printed: its bytes, from any byte on, as they come or as far as there are any."""

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from meshnode.control.registry import JsonObject
from meshnode.errors import MeshnodeError
from meshnode.web.api.loglines import LogResponse, LogWanted
from meshnode.web.api.queries import check_names, choice, flag, whole_number
from meshnode.web.api.units import FINAL, on_unit, refuse_unless
from meshnode.web.commands import Streaming
from meshnode.web.identity import known_caller
from meshnode.web.problems import MALFORMED, UNKNOWN, Kind, Problem, problem_of
from meshnode.web.routing import WebNode
from meshnode.web.session import FILES, Body, Receive, Send
from meshnode.work.local.launcher.records import SIZE_KEYS

NOT_THERE: Final = Kind(
    "range", HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "There are no such bytes"
)

_RANGE = re.compile(r"bytes=([0-9]{0,30})-([0-9]{0,30})", re.IGNORECASE)

OCTETS: Final = "application/octet-stream"


def routes(node: WebNode) -> list[BaseRoute]:
    """Return the routes of this module."""

    async def results(request: Request) -> Response:
        check_names(request, "stream", "from", "follow", "download")
        stream = choice(request, "stream", SIZE_KEYS)
        start, follow = whole_number(request, "from", 0), flag(request, "follow", default=True)
        given = request.headers.get("range", "")
        command = on_unit(request, "results") | {"startpos": start, "stream": stream}
        try:
            status = await node.commands.ask(request, on_unit(request, "status"))
        except MeshnodeError:
            # One may be allowed the results alone: they come without what the status says of them.
            await refuse_unless(node, request, "results")
            if given or not follow:
                raise
            return node.commands.stream(command, Streaming(OCTETS))
        size = _size(request, status, stream)
        is_over = status.get("State") in FINAL
        headers = _headers(request, status, stream)
        given = request.headers.get("range", "")
        if not given.lower().startswith("bytes"):
            given = ""  # of another unit: RFC 9110 has it ignored
        if given and start:
            raise Problem(MALFORMED, "from and Range say the same; give one of them")
        if given:
            span = _span(given, size)
            headers.append(("content-range", f"bytes {span.start}-{span.stop - 1}/{size}"))
            command["startpos"] = span.start
            return Part(node, command, HTTPStatus.PARTIAL_CONTENT, headers, len(span))
        if is_over or not follow:
            return Part(node, command, HTTPStatus.OK, headers, max(size - start, 0))
        return node.commands.stream(command, Streaming(OCTETS, headers=tuple(headers)))

    async def log(request: Request) -> Response:
        wanted = LogWanted.of(request)
        await refuse_unless(node, request, "results")
        status = await node.commands.ask(request, on_unit(request, "status"))
        return LogResponse(node, request.path_params["id"], status, wanted)

    return [
        Route("/api/v1/units/{id}/results", results),
        Route("/api/v1/units/{id}/log", log),
    ]


def _size(request: Request, status: JsonObject, stream: str) -> int:
    """Return how many bytes there are of a file of output. Raises Problem."""
    size = status.get(SIZE_KEYS[stream])
    if isinstance(size, int):
        return size
    raise Problem(UNKNOWN, f"unit {request.path_params['id']} has no {stream} of its own")


def _headers(request: Request, status: JsonObject, stream: str) -> list[tuple[str, str]]:
    headers = [("accept-ranges", "bytes"), ("x-unit-state", str(status.get("StateName", "")))]
    if flag(request, "download", default=False):
        name = f"{request.path_params['id']}.{stream}"
        headers.append(("content-disposition", f'attachment; filename="{_plain(name)}"'))
    return headers


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _span(text: str, size: int) -> range:
    """Return which bytes a header ``Range`` asks for. Raises Problem."""
    found = _RANGE.fullmatch(text.replace(" ", ""))
    if found is None or not (found[1] or found[2]):
        raise Problem(MALFORMED, "Range must be one span of bytes, as bytes=100- or bytes=0-99")
    if found[1]:
        start = int(found[1])
        stop = min(int(found[2]) + 1, size) if found[2] else size
    else:
        start, stop = max(size - int(found[2]), 0), size
    if start < stop:
        return range(start, stop)
    raise Problem(NOT_THERE, f"there are {size} bytes", {"content-range": f"bytes */{size}"})


@dataclass(slots=True)
class _Left:
    """How many bytes of a part are still to be sent."""

    count: int


class Part(Response):
    """So many bytes of what a unit has printed."""

    def __init__(
        self,
        node: WebNode,
        command: JsonObject,
        status: HTTPStatus,
        headers: list[tuple[str, str]],
        size: int,
    ) -> None:
        named = {**dict(headers), "content-length": str(size)}
        super().__init__(b"", status, named, OCTETS)
        self._node = node
        self._command = command
        self._size = size

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Send the response; what is refused before its first byte becomes another one."""
        left = _Left(self._size)
        has_begun = False
        head: bytearray | None = bytearray()

        async def begin() -> None:
            nonlocal has_begun
            has_begun = True
            start = {"type": "http.response.start", "status": self.status_code}
            await send({**start, "headers": self.raw_headers})

        async def take(data: bytes) -> None:
            nonlocal head
            if head is not None:
                # The line before the bytes is for a session.
                head += data
                _, newline, rest = head.partition(b"\n")
                if not newline:
                    return
                head, data = None, bytes(rest)
                await begin()
            data = data[: left.count]
            left.count -= len(data)
            if data:
                await send({"type": "http.response.body", "body": data, "more_body": True})
            if not left.count:
                enough.cancel()

        async def take_part(descriptor: int, position: int, size: int) -> None:
            size = min(size, left.count)
            left.count -= size
            part = {"file": descriptor, "offset": position, "count": size, "more_body": True}
            await send({"type": FILES, **part})
            if not left.count:
                enough.cancel()

        caller = known_caller(scope)
        part = take_part if FILES in scope["extensions"] else None
        try:
            with trio.CancelScope() as enough:
                await self._node.commands.run(
                    caller, self._command, Body(receive), take, send_part=part
                )
        except MeshnodeError as error:
            if has_begun:
                raise trio.BrokenResourceError(f"the output broke off: {error}") from error
            raise problem_of(error) from error
        if left.count:
            raise trio.BrokenResourceError(f"{left.count} bytes of the output are gone")
        await send({"type": "http.response.body", "body": b"", "more_body": False})
