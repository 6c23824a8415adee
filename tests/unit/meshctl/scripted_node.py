"""A control service that follows a script: what a real node was recorded to answer, in a thread.

Every unit it takes is a ``cat``: its stdout is its payload.
"""

import contextlib
import json
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

VECTORS = json.loads(
    (Path(__file__).parents[2] / "data" / "control-vectors.json").read_text("utf-8")
)["vectors"]

RECORDED = {v["send"].rstrip("\n"): v["reply"].encode() for v in VECTORS}

STATUS = {
    "Version": "1.4.9+git52be4019",
    "SystemCPUCount": 2,
    "SystemMemoryMiB": 7941,
    "NodeID": "foo",
    "Connections": [{"NodeID": "bar", "Cost": 1}, {"NodeID": "a-very-long-name", "Cost": 2.5}],
    "RoutingTable": {"bar": "bar", "a-very-long-name": "a-very-long-name"},
    "Advertisements": [
        {
            "NodeID": "bar",
            "Service": "control",
            "Time": "2026-11-22T03:00:00.123456789Z",
            "ConnType": 1,
            "Tags": {"type": "Control Service"},
            "WorkCommands": [
                {"WorkType": "echo", "Secure": False},
                {"WorkType": "signed", "Secure": True},
                {"WorkType": "cat", "Secure": False},
            ],
        },
        {
            "NodeID": "foo",
            "Service": "bare",
            "Time": "2026-11-22T04:05:06.5+01:00",
            "ConnType": 0,
            "Tags": None,
            "WorkCommands": None,
        },
    ],
    "KnownConnectionCosts": {"foo": {"bar": 1, "a-very-long-name": 2.5}, "bar": {"foo": 1}},
}

SUCCEEDED = {"State": 2, "StateName": "Succeeded", "Detail": "exit status 0"}
FAILED = {"State": 3, "StateName": "Failed", "Detail": "exit status 7"}
CANCELED = {"State": 4, "StateName": "Canceled", "Detail": "Canceled"}
RUNNING = {"State": 1, "StateName": "Running", "Detail": "Running: PID 42"}


def exact_vectors() -> list[Any]:
    """Every recorded refusal of one line, whose text clients rely on."""
    return [v for v in VECTORS if v["reply"].startswith("ERROR: ") and v["reply"].count("\n") == 1]


@dataclass
class Unit:
    """A unit of the scripted node."""

    stdout: bytes = b""
    status: dict[str, Any] = field(default_factory=lambda: dict(SUCCEEDED))
    # Its other files of output, by the keys of their sizes.
    more: dict[str, bytes] = field(default_factory=dict)
    # Results after what is there wait for this; set from the start for a unit that has ended.
    may_end: threading.Event = field(default_factory=threading.Event)

    def to_json(self) -> dict[str, Any]:
        extra = {"StdoutSize": len(self.stdout), "WorkType": "cat", "ExtraData": None}
        return extra | {key: len(data) for key, data in self.more.items()} | self.status

    def file(self, stream: str) -> bytes:
        return self.stdout if stream == "stdout" else self.more[f"{stream.capitalize()}Size"]


class Session:
    """One client's session, as a handler sees it."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def read_line(self) -> str | None:
        line = b""
        while not line.endswith(b"\n"):
            byte = self.socket.recv(1)
            if not byte:
                return None
            line += byte
        return line.decode(errors="replace").rstrip("\n")

    def send(self, data: bytes | dict[str, Any]) -> None:
        if isinstance(data, dict):
            data = json.dumps(data).encode() + b"\n"
        self.socket.sendall(data)

    def read_to_end(self) -> bytes:
        """Raises ConnectionResetError where the client vanished instead of ending its half."""
        pieces = []
        while data := self.socket.recv(65536):
            pieces.append(data)
        return b"".join(pieces)


Handler = Callable[[Session, str], bool]


class ScriptedNode:
    """The service; ``handlers`` by the beginning of a line come before the script."""

    def __init__(self, listener: socket.socket, address: str, tls: ssl.SSLContext | None = None):
        self.address = address
        self.greeting = b"Receptor Control, node foo\n"
        self.handlers: dict[str, Handler] = {}
        self.units: dict[str, Unit] = {}
        self.unit_status: dict[str, Any] = dict(SUCCEEDED)
        self.lines: list[str] = []
        self.submissions: list[dict[str, Any]] = []
        self.payload_ends: list[str] = []
        self.payload_ended = threading.Event()
        self.results_began = threading.Event()
        self.chooses = False
        """Whether it knows pages of units, as a meshnode does."""
        self.sessions = 0
        self.session_closed = threading.Event()
        self.watch_began = threading.Event()
        self._changed = threading.Condition()
        self._closing = False
        self._listener = listener
        self._tls = tls
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept)

    def close(self) -> None:
        for unit in self.units.values():
            unit.may_end.set()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for sock in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not an SSLSocket's
        for thread in self._threads:
            thread.join()
        for sock in [self._listener, *self._sockets]:
            sock.close()

    def add_unit(self, unit_id: str, stdout: bytes = b"", *, ended: bool = True, **status: Any):
        unit = Unit(stdout, dict(SUCCEEDED if ended else RUNNING) | status)
        if ended:
            unit.may_end.set()
        self.units[unit_id] = unit
        return unit

    def change(self, unit_id: str, status: dict[str, Any], stdout: bytes | None = None) -> None:
        """Give a unit another status, and more output; whoever watches it is told."""
        with self._changed:
            unit = self.units[unit_id]
            unit.status = dict(status)
            if stdout is not None:
                unit.stdout = stdout
            if status["State"] not in {0, 1}:
                unit.may_end.set()
            self._changed.notify_all()

    def receptors(self) -> None:
        """From now on know no more commands than a receptor node."""
        self.handlers["work watch"] = lambda s, line: s.send(b"ERROR: bad command\n") or True

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(sock)
            self._spawn(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(
                    sock, server_side=True, suppress_ragged_eofs=False, do_handshake_on_connect=True
                )
                self._sockets.append(sock)
            self.sessions += 1
            session = Session(sock)
            session.send(self.greeting)
            while (line := session.read_line()) is not None:
                self.lines.append(line)
                if not self._answer(session, line):
                    break
            if self._tls is not None:
                sock.setblocking(False)  # says goodbye without waiting for the client's
                sock.unwrap()
        except OSError:
            pass
        finally:
            sock.close()
            self.session_closed.set()

    def _answer(self, session: Session, line: str) -> bool:
        text = as_text(line)
        for beginning, handler in self.handlers.items():
            if line.startswith(beginning) or text.startswith(beginning):
                return handler(session, line)
        words = line.split() or [""]
        if line.startswith("{") and json.loads(line).get("subcommand") == "submit":
            return self._submit(session, json.loads(line))
        if line.startswith("{") and (request := json.loads(line)).get("subcommand") == "results":
            unit_id, start = request["unitid"], request["startpos"]
            return self._results(session, unit_id, start, request["stream"])
        if words[:2] == ["work", "results"] and words[2] in self.units:
            return self._results(session, words[2], int(words[3]) if words[3:] else 0)
        if words[:2] == ["work", "watch"] and words[2] in self.units:
            return self._watch(session, words[2])
        if words[:2] in (["work", "results"], ["work", "watch"]):
            session.send(f"ERROR: unknown work unit {words[2]}\n".encode())
        elif text == "work list" and line != text and self.chooses:
            session.send(self.page(json.loads(line)))
        elif text == "work list":
            session.send(self._unit_command(text, text.split()))
        elif words[0] == "work" and words[1] in {"status", "list", "cancel", "release"}:
            session.send(self._unit_command(line, words))
        elif text == "status":
            session.send(STATUS)
        elif line.startswith("{") and "requested_fields" in line:
            session.send({name: STATUS[name] for name in json.loads(line)["requested_fields"]})
        else:
            session.send(RECORDED.get(text, b"ERROR: Unknown command\n"))
        return True

    def _unit_command(self, line: str, words: list[str]) -> bytes | dict[str, Any]:
        if line == "work list":
            return {unit_id: unit.to_json() for unit_id, unit in self.units.items()}
        unit = self.units.get(words[2]) if words[2:] else None
        if unit is None:
            return RECORDED.get(line, f"ERROR: unknown work unit {words[-1]}\n".encode())
        match words[1]:
            case "status":
                return unit.to_json()
            case "list":
                return {words[2]: unit.to_json()}
            case "cancel":
                return {"cancelled": words[2]}
            case _:
                del self.units[words[2]]
                return {"released": words[2]}

    def page(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the newest units that are asked for by state, type, label or time."""
        told = [{"ID": unit_id, **unit.to_json()} for unit_id, unit in self.units.items()]
        told.sort(key=_place, reverse=True)
        fit = [unit for unit in told if _fits(unit, request)]
        after, limit = request.get("cursor"), request.get("limit")
        rest = [unit for unit in fit if after is None or _place(unit) < after]
        more = limit is not None and len(rest) > limit
        return {
            "items": rest[:limit],
            "next": _place(rest[limit - 1]) if more else None,
            "total": len(fit),
            "states": Counter(unit["StateName"] for unit in fit),
        }

    def _submit(self, session: Session, request: dict[str, Any]) -> bool:
        self.submissions.append(request)
        unit_id = f"Unit{len(self.submissions):04d}"
        session.send(f"Work unit created with ID {unit_id}. Send stdin data and EOF.\n".encode())
        try:
            payload = session.read_to_end()
        except OSError:
            self.payload_ends.append("reset")
            return False
        else:
            self.payload_ends.append("eof")
        finally:
            self.payload_ended.set()
        running = self.unit_status == RUNNING
        self.add_unit(unit_id, payload, ended=not running, **self.unit_status)
        session.send({"result": "Job Started", "unitid": unit_id})
        return False

    def _watch(self, session: Session, unit_id: str) -> bool:
        sent = None
        while not self._closing:
            with self._changed:
                status = self.units[unit_id].to_json()
                if status == sent:
                    self._changed.wait()
                    continue
            session.send(status)
            sent = status
            self.watch_began.set()
            if status["State"] not in {0, 1}:
                break
        return False

    def send_results(self, session: Session, line: str) -> bool:
        """Answer ``work results ID BYTE``, for handlers that do so later."""
        unit_id, startpos = line.split()[2:4]
        return self._results(session, unit_id, int(startpos))

    def _results(
        self, session: Session, unit_id: str, startpos: int, stream: str = "stdout"
    ) -> bool:
        unit = self.units[unit_id]
        session.send(f"Streaming results for work unit {unit_id}\n".encode())
        session.send(unit.file(stream)[startpos:])
        self.results_began.set()
        unit.may_end.wait()
        return False


def _place(unit: dict[str, Any]) -> str:
    return f"{unit.get('Created', '')} {unit['ID']}"


def _fits(unit: dict[str, Any], request: dict[str, Any]) -> bool:
    states, types = map(str.lower, request.get("state", [])), request.get("type", [])
    labels = [label.partition("=") for label in request.get("label", [])]
    known, made = unit.get("Labels", {}), unit.get("Created")
    work_type = (unit["ExtraData"] or {}).get("RemoteWorkType", unit["WorkType"])
    return (
        (not request.get("state") or unit["StateName"].lower() in states)
        and (not types or work_type in types)
        and all(name in known and (not eq or known[name] == value) for name, eq, value in labels)
        and ("since" not in request or (made is not None and _is_since(made, request["since"])))
    )


def _is_since(made: str, since: str) -> bool:
    return datetime.fromisoformat(made) >= datetime.fromisoformat(since)


def as_text(line: str) -> str:
    """A list, ``connect`` or whole ``status`` in JSON as text, shorter to name in a script."""
    if line.startswith("{") and json.loads(line) == {"command": "status"}:
        return "status"
    if line.startswith("{") and json.loads(line).get("subcommand") == "list":
        return "work list"
    if line.startswith("{") and (request := json.loads(line)).get("command") == "connect":
        keys = ("command", "node", "service", "tls")
        return " ".join(str(request[key]) for key in keys if key in request)
    return line


def unix_listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener
