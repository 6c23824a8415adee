"""How long one small thing takes for a client: an `echo` here, one on the next node, a ping."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from bench import contest
from bench.nodes import Daemon, Node, World
from bench.report import Report
from bench.rows import Measure, Options, Row, Target

MILLI = 1000


def run(options: Options) -> Report:
    """Echo and ping, each as the average of several in a row."""
    return Report(rows=[*_echoes(options), _ping(options)])


def _average(action: Callable[[], object], times: int) -> float:
    """Return the milliseconds that one of ``times`` actions in a row takes."""
    begun = time.perf_counter()
    for _ in range(times):
        action()
    return (time.perf_counter() - begun) / times * MILLI


# --- echo ---------------------------------------------------------------------------------------


def _echoes(options: Options) -> list[Row]:
    times = 5 if options.quick else 20

    @contextmanager
    def contender(daemon: Daemon) -> Iterator[tuple[World, Mapping[str, Measure]]]:
        with World(daemon) as world:
            foo, _ = world.line("foo", "bar", work={"echo": "echo hi"})
            yield (
                world,
                {
                    "echo, local": lambda: _average(lambda: _echo(foo, ""), times),
                    "echo, one hop": lambda: _average(lambda: _echo(foo, "bar"), times),
                },
            )

    def spawn() -> float:
        return _average(
            lambda: subprocess.run(["echo", "hi"], capture_output=True, check=True), times
        )

    held = contest.hold(options, {"subprocess": spawn}, contender)
    return [
        held.row("echo, local", "ms", Target(6), floor="subprocess"),
        held.row("echo, one hop", "ms", Target(10), floor="subprocess"),
    ]


def _echo(node: Node, target: str) -> None:
    """Connect, submit, take all results; the unit stays, as it does for a user."""
    with node.client() as client:
        unit = client.submit("echo", node=target).unit_id
        with client.results(unit) as results:
            printed = b"".join(results)
    assert printed == b"hi\n", printed


# --- ping ---------------------------------------------------------------------------------------


def _ping(options: Options) -> Row:
    times = 50 if options.quick else 500

    @contextmanager
    def contender(daemon: Daemon) -> Iterator[tuple[World, Mapping[str, Measure]]]:
        with World(daemon) as world:
            foo, _ = world.line("foo", "bar")
            with foo.client() as client:
                client.connect()
                yield world, {"ping, one hop": lambda: _average(lambda: client.ping("bar"), times)}

    with _EchoServer() as server:
        held = contest.hold(
            options, {"unix echo": lambda: _average(server.round_trip, times)}, contender
        )
    return held.row("ping, one hop", "ms", Target(6), floor="unix echo")


class _EchoServer:
    """The floor of a ping: a process of its own that sends back what it gets on a unix socket."""

    def __enter__(self) -> "_EchoServer":
        self._ours, theirs = socket.socketpair()
        code = "import os\nwhile b := os.read(0, 65536): os.write(0, b)"
        with theirs:
            self._process = subprocess.Popen([sys.executable, "-c", code], stdin=theirs.fileno())
        return self

    def __exit__(self, *exc: object) -> None:
        self._ours.close()
        self._process.wait()

    def round_trip(self) -> None:
        self._ours.sendall(b"ping bar\n")
        self._ours.recv(65536)
