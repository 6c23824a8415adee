"""How fast bulk data moves between nodes, beside the QUIC engine alone: results, payloads, memory.

A rate counts from the submission until the client has all of it and the unit is final on its own
node, which means that its local copy is complete and on disk.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench import contest, processes
from bench.engine import MEGA, Engine
from bench.nodes import MESHNODE, Daemon, Node, World
from bench.report import Report
from bench.rows import Measure, Options, Row, Target, alternate
from meshnode.mesh.streams.congestion import BASE_SIZE, LARGE_SIZE

MIB = 1 << 20
STREAMS = 20

SMALL = Daemon("meshnode", (sys.executable, "-m", "bench.small_datagrams"))
"""Our node, taking no larger datagrams than receptor's does."""

ENGINE = "engine alone"


def run(options: Options) -> Report:
    """Move a large file each way, over one hop and two, and twenty smaller ones at once."""
    size = (32 if options.quick else 256) * MIB
    return Report(
        rows=[*_large(options, size), _secure(options, size), _small(options, size)],
        notes=[
            f"{size // MIB} MiB; floor: the QUIC engine alone, both ends in one process, in memory",
            f"datagrams of {BASE_SIZE} bytes: both nodes announce what receptor's buffers take",
        ],
    )


# --- between meshnodes --------------------------------------------------------------------------


def _large(options: Options, size: int) -> list[Row]:
    memory, processor = _Memory(), _Processor(size)
    at_once = _AtOnce(size)
    work = {
        "blob": f"head -c {size} /dev/zero",
        "part": f"head -c {size // STREAMS} /dev/zero",
        "count": "wc -c",
    }

    @contextmanager
    def contender(daemon: Daemon) -> Iterator[tuple[World, Mapping[str, Measure]]]:
        with World(daemon) as world, _payload(size) as payload:
            foo, *_ = world.line("foo", "bar", "baz", work=work)
            measures: dict[str, Measure] = {
                "results, one hop": lambda: _results(foo, "bar", "blob", size),
                "results, two hops": lambda: _results(foo, "baz", "blob", size),
                "payload, one hop": lambda: _upload(foo, "bar", payload, size),
                f"{STREAMS} streams": lambda: at_once.measure(foo, "bar"),
            }
            if daemon is MESHNODE:
                memory.of_idle(world)
                measures = {name: memory.beside(world, m) for name, m in measures.items()}
                one = "results, one hop"
                measures[one] = processor.of_nodes(world, measures[one])
            yield world, measures

    engine = Engine(LARGE_SIZE)
    floor = processor.of_engine(lambda: engine.rate(size))
    held = contest.hold(options, {ENGINE: floor}, contender)
    total = f"{STREAMS} streams"
    return [
        held.row("results, one hop", "MB/s", Target(0.4, at_least=True), floor=ENGINE),
        processor.row("results, one hop, busier node", Target(0.4, at_least=True)),
        held.row("results, two hops", "MB/s", Target(0.25, at_least=True), floor=ENGINE),
        held.row("payload, one hop", "MB/s", Target(0.35, at_least=True), floor=ENGINE),
        Row(
            f"{total}, of one",
            "MB/s",
            held.ours[total],
            Target(0.8, at_least=True),
            held.ours["results, one hop"],
            held.peers.get(total, ()),
        ),
        Row(f"{total}, slowest of mean", "", at_once.slowest, Target(0.5, at_least=True)),
        Row("memory over idle, most", "MB", [max(memory.over_idle)], Target(48)),
    ]


def _results(node: Node, target: str, worktype: str, size: int) -> float:
    """Submit, take the results as they come, see the unit final; MB/s."""
    unit, rate = _take_results(node, target, worktype, size)
    _release(node, [unit])
    return rate


def _release(node: Node, units: Iterable[str]) -> None:
    with node.client() as client:
        for unit in units:
            client.release(unit)


def _take_results(node: Node, target: str, worktype: str, size: int) -> tuple[str, float]:
    """Return the unit, which is left to be released, and MB/s."""
    with node.client() as client:
        begun = time.perf_counter()
        unit = client.submit(worktype, node=target).unit_id
        with client.results(unit) as results:
            got = sum(map(len, results))
        status = client.wait(unit)
        seconds = time.perf_counter() - begun
        assert got == size == status["StdoutSize"], (got, status)
    return unit, size / MEGA / seconds


def _upload(node: Node, target: str, path: str, size: int) -> float:
    """Have a payload counted on another node; MB/s."""
    with node.client() as client, open(path, "rb") as payload:
        begun = time.perf_counter()
        unit = client.submit("count", payload, node=target).unit_id
        with client.results(unit) as results:
            printed = b"".join(results)
        seconds = time.perf_counter() - begun
        assert int(printed) == size, printed
        client.release(unit)
    return size / MEGA / seconds


@contextmanager
def _payload(size: int) -> Iterator[str]:
    with tempfile.NamedTemporaryFile(prefix="mn-bench-", dir="/tmp") as file:
        file.write(bytes(size))
        file.flush()
        yield file.name


@dataclass
class _AtOnce:
    """Many results at once; beside their total, keeps how the slowest fared in each run."""

    size: int
    slowest: list[float] = field(default_factory=list)

    def measure(self, node: Node, target: str) -> float:
        part = self.size // STREAMS
        with ThreadPoolExecutor(STREAMS) as clients:
            begun = time.perf_counter()
            streams = [
                clients.submit(_take_results, node, target, "part", part) for _ in range(STREAMS)
            ]
            units, rates = zip(*(stream.result() for stream in streams), strict=True)
            seconds = time.perf_counter() - begun
        _release(node, units)
        self.slowest.append(min(rates) / statistics.mean(rates))
        return part * STREAMS / MEGA / seconds


@dataclass
class _Memory:
    """How much more memory than idle any node has had during each measure."""

    over_idle: list[float] = field(default_factory=list)
    _idle: dict[str, int] = field(default_factory=dict)

    def of_idle(self, world: World) -> None:
        for node in world.nodes:
            self._idle[node.name] = processes.resident(node.process.pid)

    def beside(self, world: World, measure: Callable[[], float]) -> Measure:
        def measured() -> float:
            for node in world.nodes:
                node.forget_peak()
            figure = measure()
            self.over_idle.append(
                max(
                    processes.peak(node.process.pid) - self._idle[node.name] for node in world.nodes
                )
                / MEGA
            )
            return figure

        return measured


@dataclass
class _Processor:
    """Megabytes for a second of processor time: of the busier node, and of the engine alone.

    Other load slows the one process of the floor more than the four that move results, and the
    ratio of the rates looks better than it is. This one does not.
    """

    size: int
    _nodes: list[float] = field(default_factory=list)
    _engine: list[float] = field(default_factory=list)

    def of_engine(self, measure: Measure) -> Measure:
        def measured() -> float:
            begun = time.process_time()
            figure = measure()
            self._engine.append(self.size / MEGA / (time.process_time() - begun))
            return figure

        return measured

    def of_nodes(self, world: World, measure: Measure) -> Measure:
        def used() -> list[float]:
            pids = [node.process.pid for node in world.nodes]
            return [processes.cpu_seconds(pid, with_children=False) for pid in pids]

        def measured() -> float:
            before = used()
            figure = measure()
            busiest = max(now - then for now, then in zip(used(), before, strict=True))
            self._nodes.append(self.size / MEGA / busiest)
            return figure

        return measured

    def row(self, name: str, target: Target) -> Row:
        """Return the row, without the turn that does not count."""
        return Row(name, "MB/CPU s", self._nodes[1:], target, self._engine[1:])


# --- over a link with TLS -----------------------------------------------------------------------


def _secure(options: Options, size: int) -> Row:
    """Take results over a link with mutual TLS; floor: the same over a link without."""
    work = {"blob": f"head -c {size} /dev/zero"}
    with World() as plain, World() as secure:
        near, _ = plain.line("foo", "bar", work=work)
        safe, _ = secure.line("foo", "bar", work=work, with_tls=True)
        figures = alternate(
            {
                "plain": lambda: _results(near, "bar", "blob", size),
                "TLS": lambda: _results(safe, "bar", "blob", size),
            },
            options.repeats,
        )
    bound = Target(0.5, at_least=True)
    return Row("results, one hop, link with TLS", "MB/s", figures["TLS"], bound, figures["plain"])


# --- in datagrams that a receptor node takes ----------------------------------------------------


def _small(options: Options, size: int) -> Row:
    @contextmanager
    def contender(daemon: Daemon) -> Iterator[tuple[World, Mapping[str, Measure]]]:
        with World(SMALL if daemon is MESHNODE else daemon) as world:
            foo, _ = world.line("foo", "bar", work={"blob": f"head -c {size} /dev/zero"})
            yield world, {name: lambda: _results(foo, "bar", "blob", size)}

    name = f"results, datagrams of {BASE_SIZE}"
    engine = Engine(BASE_SIZE)
    # A rate needs no more than a quarter, and the engine takes its time over such datagrams.
    held = contest.hold(options, {ENGINE: lambda: engine.rate(size // 4)}, contender)
    return held.row(name, "MB/s", Target(0.6, at_least=True), floor=ENGINE)
