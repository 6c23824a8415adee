"""How costs grow over a range of fifty: units known, units running, clients, sizes of streams.

The same for nodes is the scenario ``scale``. What is measured is processor time and memory of the
nodes: wall-clock time would show what else the machine does.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import processes
from bench.growth import Plot
from bench.nodes import Node, World
from bench.processes import MIB
from bench.report import Report
from bench.rows import Options
from bench.scenarios.finished import fill

KNOWN = (200, 1000, 10_000)
RUNNING = (10, 100, 500)
CLIENTS = (10, 100, 500)
STREAMS = (4, 32, 200)
"""MiB."""

SETTLED = 2.0
"""Seconds after which what happened is done and paid for."""

MILLI = 1000
Costs = dict[str, float]


def run(options: Options) -> Report:
    """Measure each size in a world of its own."""
    plots = [
        *_plots("finished units", "units known", KNOWN, _known, options),
        *_plots("running units", "units running", RUNNING, _running, options),
        *_plots("waiting clients", "clients", CLIENTS, _clients, options),
        *_plots("a stream over one hop", "MiB of results", STREAMS, _stream, options),
    ]
    return Report(
        tables=[plot.table() for plot in plots],
        figures={"growth": [plot.as_json() for plot in plots]},
        notes=["n^1.0 is in proportion to the size, n^0.0 is a cost that does not grow."],
    )


def _plots(
    title: str,
    size: str,
    sizes: Sequence[int],
    measure: Callable[[int], tuple[Costs, Costs]],
    options: Options,
) -> Iterator[Plot]:
    """Measure a thing at each size; yield the plot of processor time and that of memory."""
    sizes = [max(1, n // 10) for n in sizes] if options.quick else sizes
    measured = []
    for number in sizes:
        print(f"   {title}: {number:,} …", flush=True)
        measured.append(measure(number))
    for i, (what, unit) in enumerate((("processor time", "ms"), ("memory", "MiB"))):
        series = {name: [m[i][name] for m in measured] for name in measured[0][i]}
        yield Plot(f"{title}: {what}", size, unit, sizes, series)


def _known(number: int) -> tuple[Costs, Costs]:
    with World() as world:
        empty = world.node("empty")
        fill(world.place / "data" / "full", number)
        full = world.node("full")
        started = _spent(full)
        with full.client() as client, _spending(full) as listing:
            client.command("work list")
        grown = _memory(full) - _memory(empty)
    return {"start": started, "work list": listing[0]}, {"node, above one without": grown}


def _running(number: int) -> tuple[Costs, Costs]:
    with World() as world:
        node = world.node("node", work={"wait": "sleep 3600"})
        with node.client() as client:
            client.submit("wait")
            before = _memory(node), _others(node)
            with _spending(node) as starting:
                names = [client.submit("wait").unit_id for _ in range(number)]
            grown = _memory(node) - before[0]
            supervisors = _others(node) - before[1]
            with _spending(node) as cancelling:
                for name in names:
                    client.cancel(name)
    return (
        {"start all": starting[0], "cancel all": cancelling[0]},
        {"node, above one without": grown, "supervisors and commands": supervisors},
    )


def _clients(number: int) -> tuple[Costs, Costs]:
    with World() as world, ExitStack() as stack:
        node = world.node("node", work={"wait": "sleep 3600"})
        clients = [stack.enter_context(node.client()) for _ in range(number)]
        unit = clients[0].submit("wait").unit_id
        before = _memory(node)
        with _spending(node) as connecting:
            for client in clients:
                stack.enter_context(client.results(unit))
        grown = _memory(node) - before
        with _spending(node) as ending:
            clients[0].release(unit)
    return (
        {"connect and ask for results": connecting[0], "the unit's end, told to all": ending[0]},
        {"node, above one without": grown},
    )


def _stream(number: int) -> tuple[Costs, Costs]:
    with World() as world:
        line = f"head -c {number * MIB} /dev/zero"
        foo, bar = world.line("foo", "bar", work={"warm": "true", "big": line})
        with foo.client() as client:
            client.wait(client.submit("warm", node="bar").unit_id)
            before = _memory(foo), _memory(bar)
            foo.forget_peak()
            bar.forget_peak()
            with _spending(foo) as submitter, _spending(bar) as executor:
                unit = client.submit("big", node="bar").unit_id
                with client.results(unit) as results:
                    assert sum(map(len, results)) == number * MIB
                client.wait(unit)
        peaks = [
            processes.peak(node.process.pid) / MIB - settled
            for node, settled in zip((foo, bar), before, strict=True)
        ]
    return (
        {"submitter": submitter[0], "executor": executor[0]},
        {"submitter, above idle": peaks[0], "executor, above idle": peaks[1]},
    )


def _spent(node: Node) -> float:
    """Return the milliseconds of processor time that a node has used."""
    return sum(processes.thread_seconds(node.process.pid).values()) * MILLI


@contextmanager
def _spending(node: Node) -> Iterator[list[float]]:
    """Append the processor time that a node needs for the body, in ms, to the yielded list."""
    taken: list[float] = []
    before = _spent(node)
    yield taken
    time.sleep(SETTLED)
    taken.append(_spent(node) - before)


def _memory(node: Node) -> float:
    time.sleep(SETTLED)
    return processes.resident(node.process.pid) / MIB


def _others(node: Node) -> float:
    """Return what the processes below a node have to themselves, and their share of the rest."""
    return sum(map(_proportional, processes.descendants(node.process.pid))) / MIB


def _proportional(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)
