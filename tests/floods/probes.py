"""What honest nodes and users try while a flood lasts, each in a thread of its own."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness import ControlConnection, Node

INTERVAL = 1.0
"""Seconds between two tries of the same thing."""

PATIENCE = 15.0
"""Seconds after which a try has failed: longer than the time-out of a ping, so that the
node says so first."""

LOOK_AGAIN = 0.1
"""Seconds until the newcomer is looked for again."""

PAYLOAD = b"as it was sent"


@dataclass(slots=True)
class Tally:
    """How often something was tried, how often it worked, and what it took."""

    tried: int = 0
    worked: int = 0
    longest: float = 0.0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.worked}/{self.tried}"


def repeat(attempt: Callable[[], float], tally: Tally, stop: threading.Event) -> None:
    """Try again and again until told to stop; ``attempt`` returns what it took in seconds."""
    while not stop.is_set():
        began = time.monotonic()
        tally.tried += 1
        try:
            tally.longest = max(tally.longest, attempt())
            tally.worked += 1
        except (OSError, AssertionError, ValueError, KeyError) as exc:
            tally.failures.append(f"{type(exc).__name__}: {exc}")
        stop.wait(max(0.0, INTERVAL - (time.monotonic() - began)))


def ping(node: Node, target: str, patience: float = PATIENCE) -> float:
    """Ping from one node to another; return the round trip in seconds."""
    with ControlConnection(node.socket, seconds=patience) as control:
        reply = json.loads(control.ask(f"ping {target}"))
    assert reply["Success"], f"ping {target}: {reply}"
    return float(reply["Time"]) / 1e9


def echo(node: Node, target: str, patience: float = PATIENCE) -> float:
    """Have another node run ``echo``, and compare what comes back; return the seconds it took."""
    began = time.monotonic()
    with ControlConnection(node.socket, seconds=patience) as control:
        created = control.ask(f"work submit {target} echo")
        assert created.startswith("Work unit created"), created
        control.socket.sendall(PAYLOAD)
        control.socket.shutdown(socket.SHUT_WR)
        unit = json.loads(control.read_line())["unitid"]
    with ControlConnection(node.socket, seconds=patience) as control:
        line = control.ask(f"work results {unit}")
        assert line.startswith("Streaming results"), line
        output = control.reader.read()
        assert output == PAYLOAD, f"echo returned {output!r}"
    took = time.monotonic() - began
    with ControlConnection(node.socket, seconds=patience) as control:
        control.ask(f"work release {unit}")
    return took


def operator(way: Path | int, patience: float = PATIENCE) -> float:
    """Come as the operator of a node, by its socket or its port, and have it answer a command."""
    began = time.monotonic()
    if isinstance(way, Path):
        with ControlConnection(way, seconds=patience) as control:
            reply = control.ask('{"command":"status","requested_fields":["NodeID"]}')
    else:
        with (
            socket.create_connection(("127.0.0.1", way), patience) as sock,
            sock.makefile("rwb", buffering=0) as lines,
        ):
            lines.readline()
            lines.write(b'{"command":"status","requested_fields":["NodeID"]}\n')
            reply = lines.readline().decode()
    assert "NodeID" in json.loads(reply), reply
    return time.monotonic() - began


class Joining:
    """A node that joins while the flood lasts; it must be reached from the far end of the mesh."""

    def __init__(self, joiner: Node, far: Node) -> None:
        self._joiner = joiner
        self._far = far
        self.seconds: float | None = None
        """From its start until it was reached; None if it never was."""
        self.failure = ""
        """Why it was not when that was last tried."""

    def run(self, stop: threading.Event) -> None:
        """Start the node and wait until it is reached."""
        began = time.monotonic()
        try:
            self._joiner.start()
        except AssertionError as exc:
            self.failure = str(exc)
            return
        while not stop.is_set():
            try:
                ping(self._far, self._joiner.name)
            except (OSError, AssertionError, ValueError, KeyError) as exc:
                self.failure = f"{type(exc).__name__}: {exc}"
            else:
                self.seconds = time.monotonic() - began
                return
            stop.wait(LOOK_AGAIN)


@contextlib.contextmanager
def in_threads(*jobs: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run jobs until the context ends; each is told to stop then, and awaited."""
    stop = threading.Event()
    threads = [threading.Thread(target=job, args=(stop,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
