"""A stand-in for a node's HTTP face, for tests of the page alone: any mesh, any units, any refusal.

It serves the page's files with the policy that a node serves them with, and answers the API from a
:class:`World` that a test changes while a browser looks. Real nodes are in test_page_nodes.py.
"""

import json
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from meshnode.web.guard import CONTENT_POLICY

PAGE = Path(__file__).parents[2] / "meshnode" / "web" / "page"

TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript"}
TYPES |= {".svg": "image/svg+xml"}

Json = dict[str, Any]


@dataclass
class World:
    """What the stand-in knows. A test may change it at any time, and tells it with ``tell``."""

    mesh: Json
    units: dict[str, Json] = field(default_factory=dict)
    types: dict[str, Json] = field(default_factory=dict)
    batches: dict[str, Json] = field(default_factory=dict)
    journals: dict[str, list[Json]] = field(default_factory=dict)
    """Lines of members by the IDs of batches, in the order in which they ended."""
    logs: dict[str, list[Json]] = field(default_factory=dict)
    history: Json = field(default_factory=lambda: {"step": 10, "from": None, "series": {}})
    may: Json = field(default_factory=lambda: {"cancel": True, "release": True, "results": True})
    may_batch: Json = field(
        default_factory=lambda: dict.fromkeys(("status", "cancel", "release", "retry"), True)
    )
    refused: dict[str, int] = field(default_factory=dict)
    """First words of paths below /api/v1 that are answered with a status of refusal."""
    held: dict[str, threading.Event] = field(default_factory=dict)
    """Paths below /api/v1 whose answers are made, and sent once the event is set."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Methods and paths, in the order in which they were asked for."""
    bodies: list[bytes] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    """The Idempotency-Key of each body, empty where there is none."""
    listeners: list["queue.Queue[Json | None]"] = field(default_factory=list)
    streams: list[socket.socket] = field(default_factory=list)
    """The connections of all streams that there ever were."""
    seq: int = 0
    version: str = "1"
    now: datetime | None = None
    """What its clock says at each moment, if it is not that of this machine."""

    def tell(self, topic: str, **fields: Any) -> None:
        """Send an event to whoever listens."""
        self.seq += 1
        event = {"seq": self.seq, "time": "2026-11-26T11:00:00Z", "topic": topic, **fields}
        for listener in list(self.listeners):
            listener.put(event)

    def change(self, unit_id: str, change: str, **fields: Any) -> None:
        """Change a unit, and tell it."""
        unit = self.units.setdefault(unit_id, {"ID": unit_id})
        unit |= fields
        if change == "ended":
            unit["Finished"] = datetime.now(UTC).isoformat()
        if change == "released":
            del self.units[unit_id]
        brief = {"State", "StateName", "Detail", "WorkType", "Node", "StdoutSize", "ID", "Labels"}
        told = {key: value for key, value in unit.items() if key in brief}
        self.tell("unit", id=unit_id, change=change, unit=told)

    def end_member(self, batch_id: str, index: int, unit_id: str, **fields: Any) -> None:
        """Have a member of a batch end, and tell it of its unit."""
        self.journals[batch_id].append({"Index": index, "UnitID": unit_id, **fields})
        batch = self.batches[batch_id]
        batch[fields["StateName"]] += 1
        batch["InFlight"] -= 1
        state = 2 if fields["StateName"] == "Succeeded" else 3
        self.change(unit_id, "ended", State=state, Labels={"batch": batch_id}, **fields)

    def open_streams(self) -> int:
        """Return how many streams have somebody at the other end."""
        return sum(not _is_closed(one) for one in self.streams)

    def hang_up(self) -> None:
        """End all streams."""
        for listener in list(self.listeners):
            listener.put(None)


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


class Server(ThreadingHTTPServer):
    """Serves a world."""

    daemon_threads = True
    block_on_close = False
    world: World


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server
    protocol_version = "HTTP/1.1"

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Return what its clock says, as HTTP has it."""
        now = self.server.world.now
        return super().date_time_string(now.timestamp() if now else timestamp)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        path = urlsplit(self.path)
        self.server.world.asked.append(("GET", self.path))
        if not path.path.startswith("/api/v1"):
            return self._file(path.path)
        parts = [unquote(one) for one in path.path.split("/")[3:]]
        return self._api(parts, {key: values[-1] for key, values in parse_qs(path.query).items()})

    def do_POST(self) -> None:
        world = self.server.world
        world.asked.append(("POST", self.path))
        world.keys.append(self.headers.get("Idempotency-Key", ""))
        world.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        parts = [unquote(one) for one in urlsplit(self.path).path.split("/")[3:]]
        if self._refused(parts):
            return None
        match parts:
            case ["units"]:
                return self._json({"id": "newunit1", "state": "Pending"}, 201)
            case ["units", unit_id, "cancel"]:
                world.change(unit_id, "ended", State=4, StateName="Canceled", Detail="Canceled")
                return self._json({"result": "cancelled"})
            case ["units", unit_id, "release"]:
                world.change(unit_id, "released")
                return self._json({"result": "released"})
            case ["batches", batch_id, "cancel"] if batch_id in world.batches:
                world.batches[batch_id] |= {"StateName": "Canceled", "Waiting": 0, "InFlight": 0}
                return self._json({"result": "cancelled", "batch": batch_id})
            case ["batches", batch_id, "retry"] if batch_id in world.batches:
                batch = world.batches[batch_id]
                failed, batch["Failed"] = batch["Failed"], 0
                batch |= {"StateName": "Running", "Waiting": failed}
                world.journals[batch_id].append({"Event": "retry"})
                return self._json({"batch": batch_id, "retried": failed})
            case ["batches", batch_id, "release"] if batch_id in world.batches:
                del world.batches[batch_id]
                return self._json({"result": "released", "batch": batch_id})
            case ["batches"]:
                return self._json({"Batch": "b-newbatch"}, 201)
        return self._problem(404, "There is no such thing")

    def _api(self, parts: list[str], query: dict[str, str]) -> None:
        world = self.server.world
        if self._refused(parts):
            return None
        match parts:
            case []:
                client = {"kind": "tcp", "name": "somebody"}
                told = {"node": world.mesh["node"], "version": world.version, "client": client}
                return self._json(told)
            case ["mesh"]:
                return self._json(world.mesh)
            case ["units"]:
                return self._units(query)
            case ["units", unit_id] if unit_id in world.units:
                return self._json(world.units[unit_id])
            case ["units", unit_id, "may"] if unit_id in world.units:
                return self._json(world.may)
            case ["units", unit_id, "log"] if unit_id in world.units:
                return self._log(unit_id)
            case ["batches"]:
                return self._json({"items": list(world.batches.values()), "next": None})
            case ["batches", batch_id, "may"] if batch_id in world.batches:
                return self._json(world.may_batch)
            case ["batches", batch_id, "members"] if batch_id in world.batches:
                return self._members(batch_id, int(query.get("from", 0)))
            case ["types"]:
                items = [{"WorkType": name, **one} for name, one in world.types.items()]
                return self._json({"items": items, "next": None})
            case ["types", name] if name in world.types:
                return self._json({"WorkType": name, **world.types[name]})
            case ["history"]:
                return self._json(world.history)
            case ["ping", node]:
                return self._json({"Success": True, "From": node, "TimeStr": "0.5ms"})
            case ["events"]:
                return self._events()
        return self._problem(404, "There is no such thing")

    def _units(self, query: dict[str, str]) -> None:
        world = self.server.world
        newest = sorted(world.units.values(), key=lambda one: one.get("Created", ""), reverse=True)
        newest = [one for one in newest if _is_wanted(one, query)]
        start, size = int(query.get("cursor", 0)), int(query.get("limit", 100))
        end = start + size
        following = str(end) if end < len(newest) else None
        return self._json({"items": newest[start:end], "next": following})

    def _members(self, batch_id: str, start: int) -> None:
        world = self.server.world
        journal = "".join(json.dumps(line) + "\n" for line in world.journals.get(batch_id, []))
        told = json.dumps(world.batches[batch_id]) + "\n"
        self._bytes(journal.encode()[start:] + told.encode(), "application/x-ndjson")

    def _refused(self, parts: list[str]) -> bool:
        status = self.server.world.refused.get(parts[0]) if parts else None
        if status is not None:
            self._problem(status, "refused for the test")
        return status is not None

    def _file(self, path: str) -> None:
        file = PAGE / (path.lstrip("/") or "index.html")
        if file.suffix not in TYPES or not file.is_file():
            return self._problem(404, "There is no such thing")
        return self._bytes(file.read_bytes(), TYPES[file.suffix])

    def _json(self, value: Json, status: int = 200) -> None:
        content = json.dumps(value).encode()
        path = urlsplit(self.path).path.removeprefix("/api/v1/")
        if held := self.server.world.held.get(path):
            held.wait()
        self._bytes(content, "application/json", status)

    def _problem(self, status: int, title: str) -> None:
        told = {"type": "/problems/x", "title": title, "status": status, "detail": title}
        self._bytes(json.dumps(told).encode(), "application/problem+json", status)

    def _bytes(self, content: bytes, media_type: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", CONTENT_POLICY)
        # As a node does; and a browser keeps pages of which it may keep the files.
        is_file = media_type in TYPES.values()
        self.send_header("Cache-Control", "no-cache" if is_file else "no-store")
        self.end_headers()
        self.wfile.write(content)

    def _events(self) -> None:
        listener: queue.Queue[Json | None] = queue.Queue()
        self.server.world.listeners.append(listener)
        try:
            self._stream(
                f"id: {one['seq']}\nevent: {one['topic']}\ndata: {json.dumps(one)}\n\n"
                for one in iter(listener.get, None)
            )
        finally:
            self.server.world.listeners.remove(listener)

    def _log(self, unit_id: str) -> None:
        world = self.server.world
        listener: queue.Queue[Json | None] = queue.Queue()
        world.listeners.append(listener)
        seen = int(self.headers.get("Last-Event-ID", 0))
        try:
            self._stream(self._lines(unit_id, seen, listener))
        finally:
            world.listeners.remove(listener)

    def _lines(self, unit_id: str, at: int, listener: "queue.Queue[Json | None]") -> Iterator[str]:
        world = self.server.world
        while True:
            goes_on = world.units.get(unit_id, {}).get("StateName") in {"Pending", "Running"}
            for line in world.logs.get(unit_id, [])[at:]:
                at += 1
                yield f"id: {at}\nevent: line\ndata: {json.dumps(line)}\n\n"
            if not goes_on:
                break
            if listener.get() is None:
                return
            yield ": whoever is gone is noticed\n\n"
        yield f"event: end\ndata: {json.dumps(world.units.get(unit_id, {}))}\n\n"

    def _stream(self, texts: Iterator[str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        self.server.world.streams.append(self.connection)
        try:
            self.wfile.write(b": begins\n\n")
            for text in texts:
                self.wfile.write(text.encode())
        except OSError:
            return  # whoever listened has gone


def _is_wanted(unit: Json, query: dict[str, str]) -> bool:
    kind = (unit.get("ExtraData") or {}).get("RemoteWorkType") or unit.get("WorkType", "")
    node = (unit.get("ExtraData") or {}).get("RemoteNode", "hub")
    batch = (unit.get("Labels") or {}).get("batch", "")
    return (
        unit.get("StateName", "").lower()
        in query.get("state", unit["StateName"].lower()).split(",")
        and query.get("type", kind) == kind
        and query.get("batch", batch) == batch
        and query.get("node", node) == node
    )


@contextmanager
def serving(world: World, port: int = 0) -> Iterator[str]:
    """Serve a world on a port of this machine; yield its address."""
    server = Server(("127.0.0.1", port), Handler)
    server.world = world
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        world.hang_up()
        server.shutdown()
        server.server_close()
        thread.join()
