"""What HTTP costs beside the control protocol: an `echo`, results, the memory of having it."""

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager

from bench import contest, processes
from bench.nodes import PATIENCE, Daemon, Directive, Node, World, free_port
from bench.processes import MIB
from bench.report import Report
from bench.rows import Measure, Options, Row, Target, alternate
from meshctl import ControlClient
from meshctl.api.transport import RECEIVE_BYTES

MILLI, MEGA = 1000, 1e6
SETTLED = 2.0
"""Seconds after which a node that was started is idle, with all that it loads in peace."""

ECHO, LIVE, DONE, DONE_TCP = (
    "echo over HTTP",
    "results over HTTP while produced",
    "results over HTTP when finished",
    "the same, over TCP",
)


def run(options: Options) -> Report:
    """Do each thing over HTTP and by the control protocol in turn, over the same kind of socket."""
    size = (64 if options.quick else 1024) * MIB
    times = 5 if options.quick else 20

    @contextmanager
    def contender(daemon: Daemon) -> Iterator[tuple[World, Mapping[str, Measure]]]:
        with World(daemon) as world:
            web = Web(world, {"echo": "echo hi", "zeros": f"head -c {size} /dev/zero"})
            with web.control() as client:
                done = client.submit("zeros").unit_id
                client.wait(done)
            yield (
                world,
                {
                    ECHO: lambda: _average(web.echo, times),
                    _by_control(ECHO): lambda: _average(lambda: _echo(web), times),
                    LIVE: lambda: web.rate("", size),
                    _by_control(LIVE): lambda: _rate(web.control(), "", size),
                    DONE: lambda: web.rate(done, size),
                    _by_control(DONE): lambda: _rate(web.control(), done, size),
                    DONE_TCP: lambda: web.rate(done, size, by_tcp=True),
                    _by_control(DONE_TCP): lambda: _rate(web.control_by_tcp(), done, size),
                },
            )

    # receptor speaks no HTTP: there is nothing to compare with.
    held = contest.hold(Options(options.quick, options.repeats), {}, contender)
    half = Target(0.5, at_least=True)
    rates = [held.row(name, "MB/s", half, floor=_by_control(name)) for name in (LIVE, DONE)]
    return Report(
        rows=[
            held.row(ECHO, "ms", Target(2), floor=_by_control(ECHO)),
            *rates,
            held.row(DONE_TCP, "MB/s", half, floor=_by_control(DONE_TCP)),
            _memory(options),
        ],
        notes=["floors are the control protocol's; no TLS on either side"],
    )


def _by_control(name: str) -> str:
    return f"{name}: control"


class Web:
    """A node that has HTTP and the control protocol, each over a unix socket and over TCP."""

    def __init__(self, world: World, work: Mapping[str, str]) -> None:
        self._path = str(world.place / "web.http")
        self._port, self._control_port = free_port(), free_port()
        by_tcp = {"service": "by-tcp", "tcplisten": f"127.0.0.1:{self._control_port}"}
        services = [{"port": self._port}, {"filename": self._path}]
        more: list[Directive] = [{"control-service": by_tcp}]
        more += [{"http-service": service} for service in services]
        self.node = world.node("web", work=work, more=more)
        # They come a moment after the control socket, and nothing tells of it but trying.
        deadline = time.monotonic() + PATIENCE
        while not self._is_there():
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing serves HTTP at {self._path}")
            time.sleep(0.002)

    def _is_there(self) -> bool:
        try:
            for by_tcp in (True, False):
                with self.connect(by_tcp=by_tcp) as connection:
                    connection.connect()
        except OSError:
            return False
        return True

    def control(self) -> ControlClient:
        """Return a client of the control socket."""
        return self.node.client()

    def control_by_tcp(self) -> ControlClient:
        """Return a client of the control port."""
        return ControlClient(f"tcp://127.0.0.1:{self._control_port}")

    def connect(self, *, by_tcp: bool = False) -> "closing[http.client.HTTPConnection]":
        """Return a connection; a context manager."""
        if by_tcp:
            return closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE))
        return closing(_UnixConnection(self._path))

    def echo(self) -> None:
        """Connect, submit, take all results."""
        with self.connect() as connection:
            unit = _submit(connection, "echo")
            connection.request("GET", f"/api/v1/units/{unit}/results")
            printed = connection.getresponse().read()
        assert printed == b"hi\n", printed

    def rate(self, unit: str, size: int, *, by_tcp: bool = False) -> float:
        """Return how fast the results of a unit come, or of one that is submitted for it."""
        begun = time.perf_counter()
        with self.connect(by_tcp=by_tcp) as connection:
            name = unit or _submit(connection, "zeros")
            connection.request("GET", f"/api/v1/units/{name}/results")
            response = connection.getresponse()
            received = sum(map(len, iter(lambda: response.read1(RECEIVE_BYTES), b"")))
            rate = _mega_a_second(received, size, begun)
            if not unit:
                connection.request("DELETE", f"/api/v1/units/{name}")
                connection.getresponse().read()
        return rate


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)


def _submit(connection: http.client.HTTPConnection, worktype: str) -> str:
    job = json.dumps({"type": worktype})
    connection.request("POST", "/api/v1/units", job, {"Content-Type": "application/json"})
    return str(json.loads(connection.getresponse().read())["ID"])


def _average(action: Callable[[], object], times: int) -> float:
    """Return the milliseconds that one of ``times`` actions in a row takes."""
    begun = time.perf_counter()
    for _ in range(times):
        action()
    return (time.perf_counter() - begun) / times * MILLI


def _echo(web: Web) -> None:
    with web.control() as client:
        unit = client.submit("echo").unit_id
        with client.results(unit) as results:
            printed = b"".join(results)
    assert printed == b"hi\n", printed


def _rate(client: ControlClient, unit: str, size: int) -> float:
    begun = time.perf_counter()
    with client:
        name = unit or client.submit("zeros").unit_id
        with client.results(name) as results:
            rate = _mega_a_second(sum(map(len, results)), size, begun)
        if not unit:
            client.release(name)
    return rate


def _mega_a_second(received: int, size: int, begun: float) -> float:
    seconds = time.perf_counter() - begun
    assert received == size, f"{received} bytes of {size}"
    return size / seconds / MEGA


def _memory(options: Options) -> Row:
    """Return how much more is resident of an idle node that has an HTTP service."""
    with World() as world:
        service = {"http-service": {"filename": str(world.place / "more.http")}}
        more = world.node("more", work={"echo": "echo hi"}, more=[service])
        bare = world.node("bare", work={"echo": "echo hi"})
        measures = {"more": lambda: _resident(more), "bare": lambda: _resident(bare)}
        found = alternate(measures, options.repeats)
    values = [own - less for own, less in zip(found["more"], found["bare"], strict=True)]
    return Row("memory of an idle HTTP service", "MiB", values, Target(25))


def _resident(node: Node) -> float:
    node.stop()
    node.start()
    time.sleep(SETTLED)
    return processes.resident(node.process.pid) / MIB
