"""What a unit costs its node that prints a line a millisecond, with times, to ten followers."""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench import contest, processes
from bench.nodes import MESHNODE, Daemon, Node, World
from bench.report import Report
from bench.rows import Measure, Options, Target

FOLLOWERS = 10
"""Each reads the unit's stdout and its index."""

A_SECOND = 1000
"""Lines."""

SHARE = "node's share, 1,000 lines/s to ten"
ALONE = "supervisor's share of that"

PRINTER = """
import sys, time
begun = time.monotonic()
for number in range(int(sys.argv[1])):
    left = begun + number / {rate} - time.monotonic()
    if left > 0:
        time.sleep(left)
    print(f"line {{number:06d}} of a job that tells what it is doing", flush=True)
"""


def run(options: Options) -> Report:
    """Take the processor time of node and supervisor while the unit prints, as shares of a core."""
    seconds = 2 if options.quick else 10

    @contextmanager
    def contender(daemon: Daemon) -> Iterator[tuple[World, Mapping[str, Measure]]]:
        with World(daemon) as world:
            node = _node(world, seconds * A_SECOND)
            shares = _Shares(node, seconds)
            yield world, {SHARE: shares.of_node, ALONE: shares.of_supervisor}

    # receptor knows no times: there is nothing to compare with.
    ours = Options(options.quick, options.repeats)
    held = contest.hold(ours, {}, contender)
    return Report(
        rows=[held.row(SHARE, "%", Target(15)), held.row(ALONE, "%", Target(15))],
        notes=[f"{FOLLOWERS} followers of stdout and index each, {seconds} s a repeat"],
    )


def _node(world: World, lines: int) -> Node:
    assert world.daemon is MESHNODE
    program = world.place / "printer.py"
    program.write_text(PRINTER.format(rate=A_SECOND))
    kind = {"worktype": "lines", "command": sys.executable, "params": f"{program} {lines}"}
    return world.node("solo", more=[{"work-command": kind | {"timestamps": True}}])


class _Shares:
    """Runs the unit once for each pair of figures."""

    def __init__(self, node: Node, seconds: int) -> None:
        self._node = node
        self._seconds = seconds
        self._supervisor = 0.0

    def of_node(self) -> float:
        """Return the percent of a core that the node took; measure its supervisor besides."""
        with self._node.client() as client:
            unit = client.submit("lines").unit_id
            readers = [
                threading.Thread(target=_follow, args=(self._node, unit, stream))
                for stream in ("stdout", "index")
                for _ in range(FOLLOWERS)
            ]
            for reader in readers:
                reader.start()
            # The first lines come while the followers connect; the last second is left out too.
            time.sleep(self._seconds * 0.2)
            supervisor = _supervisor_of(self._node, unit)
            pids = (self._node.process.pid, supervisor)
            before, begun = [*map(_seconds_of, pids)], time.perf_counter()
            time.sleep(self._seconds * 0.6)
            taken = time.perf_counter() - begun
            shares = [
                (_seconds_of(pid) - spent) / taken * 100
                for pid, spent in zip(pids, before, strict=True)
            ]
            for reader in readers:
                reader.join()
            client.release(unit)
        self._supervisor = shares[1]
        return shares[0]

    def of_supervisor(self) -> float:
        """Return the same of the unit's supervisor, of the last run."""
        return self._supervisor


def _seconds_of(pid: int) -> float:
    return sum(processes.thread_seconds(pid).values())


def _supervisor_of(node: Node, unit: str) -> int:
    status = json.loads((node.units / unit / "status").read_text())
    return int(status["Supervisor"]["Pid"])


def _follow(node: Node, unit: str, stream: str) -> None:
    """Read a file of the unit to its end, as it grows."""
    request = {"command": "work", "subcommand": "results", "unitid": unit, "startpos": 0}
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(node.socket)
        client.sendall(json.dumps({**request, "stream": stream}).encode() + b"\n")
        while os.read(client.fileno(), 1 << 16):
            pass
