"""A client of a node's HTTP service, over one connection a request."""

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 60.0
"""Seconds for a response to begin, or to go on."""


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        assert self.headers["content-type"] == "application/problem+json", self
        assert self.json["status"] == self.status
        return str(self.json["detail"])


@dataclass(frozen=True)
class Event:
    """A server-sent event."""

    name: str
    data: Any
    event_id: str = ""


@dataclass
class WebClient:
    """Asks the node that listens on a port of this machine."""

    port: int
    headers: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def send(
        self, path: str, method: str = "GET", body: bytes = b"", **headers: str
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request and yield the response whose body is still to come."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        path = f"/api/v1{path}" if path.startswith(("/units", "/batches")) else path
        connection.request(method, path, body or None, {**self.headers, **named})
        with closing(connection), connection.getresponse() as response:
            yield response

    def ask(self, path: str, method: str = "GET", body: bytes = b"", **headers: str) -> Reply:
        with self.send(path, method, body, **headers) as response:
            found = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, found, response.read())

    def post(self, path: str, body: Any = None, **headers: str) -> Reply:
        data = b"" if body is None else json.dumps(body).encode()
        return self.ask(path, "POST", data, content_type="application/json", **headers)

    def submit(self, job: Mapping[str, Any], **headers: str) -> str:
        reply = self.post("/units", job, **headers)
        assert reply.status in (200, 201), reply
        return str(reply.json["ID"])

    def in_parts(self, *parts: tuple[str, str, bytes], **headers: str) -> Reply:
        """Send parts: each has a name, the name of a file or none, and bytes."""
        kind = "multipart/form-data; boundary=next-part"
        return self.ask("/units", "POST", parted(*parts), content_type=kind, **headers)

    def events(self, path: str, **headers: str) -> Iterator[Event]:
        with self.send(path, accept="text/event-stream", **headers) as response:
            assert response.status == 200, response.read()
            fields: dict[str, str] = {}
            for line in response:
                text = line.decode().rstrip("\n")
                if text:
                    name, _, value = text.partition(": ")
                    fields[name] = value
                elif fields.keys() & {"event", "data"}:
                    yield Event(fields["event"], json.loads(fields["data"]), fields.get("id", ""))
                    fields = {}


def parted(*parts: tuple[str, str, bytes]) -> bytes:
    """Return a body of parts."""
    body = b""
    for name, filename, data in parts:
        more = f'; filename="{filename}"' if filename else ""
        head = f'--next-part\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
        body += head.encode() + data + b"\r\n"
    return body + b"--next-part--\r\n"
