"""A client of an ASGI application, in memory: requests go in, responses come out whole."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import trio

from meshnode.control.places import Place
from meshnode.security.identity import Identity, TcpClient
from meshnode.shares import Holder
from meshnode.web.guard import App
from meshnode.web.identity import CONNECTION, STREAM, Connection

NEAR = TcpClient("127.0.0.1:4000")
FAR = TcpClient("10.0.0.7:4000")


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes
    fields: tuple[tuple[str, str], ...] = ()
    """The headers as they came: several may have one name."""

    def all(self, name: str) -> list[str]:
        """Return what all headers of a name say."""
        return [value for found, value in self.fields if found == name]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def is_problem(self) -> bool:
        return self.headers["content-type"] == "application/problem+json"


class Open:
    """A stream whose client stays."""

    is_over = False

    async def reset(self) -> None:
        await trio.lowlevel.checkpoint()


@dataclass
class Client:
    """``app`` is asked by somebody of whom the connection shows ``client``."""

    app: App
    client: Identity = NEAR
    headers: Mapping[str, str] = field(default_factory=dict)

    def connection(self) -> Connection:
        return Connection(self.client, Place(Holder("test")))

    async def ask(
        self,
        path: str,
        method: str = "GET",
        body: bytes = b"",
        *,
        on_part: Callable[[bytes], None] = lambda part: None,
        ends: bool = True,
        **headers: str,
    ) -> Reply:
        """Send a request whose client stays until the response has ended; return that.

        The rest of a body that does not end never comes.
        """
        path, _, query = path.partition("?")
        named = {"host": "localhost:8043", **self.headers}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.1"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in named.items()],
            "client": None,
            "server": None,
            "extensions": {},
            "state": {CONNECTION: self.connection(), STREAM: Open()},
        }
        parts: list[bytes] = []
        started: list[Any] = []
        over = trio.Event()
        pieces = [body]

        async def receive() -> Any:
            if pieces:
                return {"type": "http.request", "body": pieces.pop(), "more_body": not ends}
            await over.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            await trio.lowlevel.checkpoint()
            if message["type"] == "http.response.start":
                started.append(message)
                return
            parts.append(message.get("body", b""))
            on_part(parts[-1])
            if not message.get("more_body"):
                over.set()

        await self.app(scope, receive, send)
        [start] = started
        fields = tuple((name.decode(), value.decode("latin-1")) for name, value in start["headers"])
        return Reply(start["status"], dict(fields), b"".join(parts), fields)
