"""How fast a client gets a gigabyte that a unit of this node prints: while it does, and later."""

import os
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench import contest, processes
from bench.nodes import Daemon, Node, World
from bench.processes import MIB
from bench.report import Report
from bench.rows import Measure, Options, Target
from meshctl.api.transport import RECEIVE_BYTES

MEGA = 1e6
LIVE = "results while produced"
FINISHED = "results when finished"
MEMORY = "memory more while served"
ALONE = "the same, of the command alone"


def run(options: Options) -> Report:
    """Take all results from the public client; floor: `cat` of the file into a unix socket.

    Both are read in the same pieces. What is produced is also held against the command by itself,
    into a file that is synced, as a unit's end promises: nobody gets results before they are there.
    """
    size = (64 if options.quick else 1024) * MIB
    zeros = ["head", "-c", str(size), "/dev/zero"]

    @contextmanager
    def contender(daemon: Daemon) -> Iterator[tuple[World, Mapping[str, Measure]]]:
        with World(daemon) as world:
            node = world.node("solo", work={"zeros": " ".join(zeros)})
            finished = _submit(node)
            with node.client() as client:
                client.wait(finished)
            memory = _Memory(node)
            yield (
                world,
                {
                    LIVE: lambda: _live(node, size),
                    FINISHED: lambda: _finished(node, finished, size),
                    MEMORY: memory.growth,
                },
            )

    with World() as scratch:
        file = scratch.place / "zeros"
        floors = {
            ALONE: lambda: _fill(file, zeros, size),
            "cat": lambda: _cat(file, size),
        }
        held = contest.hold(options, floors, contender)
    half = Target(0.5, at_least=True)
    return Report(
        rows=[
            held.row(LIVE, "MB/s", half, floor="cat"),
            replace(held.row(LIVE, "MB/s", half, floor=ALONE), name=ALONE),
            held.row(FINISHED, "MB/s", Target(0.7, at_least=True), floor="cat"),
            held.row(MEMORY, "MiB", Target(48)),
        ]
    )


class _Memory:
    """What the processes of a node hold at most, beyond what they held when this was made."""

    def __init__(self, node: Node) -> None:
        daemon = node.process.pid
        self._pids = [daemon, *processes.children(daemon)]
        self._node = node
        self._idle = sum(map(processes.resident, self._pids))
        node.forget_peak()

    def growth(self) -> float:
        """Return MiB at the peak since the last call, beyond the idle node's."""
        grown = sum(map(processes.peak, self._pids)) - self._idle
        self._node.forget_peak()
        return grown / MIB


def _submit(node: Node) -> str:
    with node.client() as client:
        return client.submit("zeros").unit_id


def _live(node: Node, size: int) -> float:
    begun = time.perf_counter()
    with node.client() as client:
        unit = client.submit("zeros").unit_id
        with client.results(unit) as results:
            rate = _rate(results, size, begun)
        client.release(unit)
    return rate


def _finished(node: Node, unit: str, size: int) -> float:
    begun = time.perf_counter()
    with node.client() as client, client.results(unit) as results:
        return _rate(results, size, begun)


def _rate(pieces: Iterable[bytes], size: int, begun: float) -> float:
    received = sum(map(len, pieces))
    seconds = time.perf_counter() - begun
    assert received == size, f"{received} bytes of {size}"
    return size / seconds / MEGA


def _fill(file: Path, command: list[str], size: int) -> float:
    file.unlink(missing_ok=True)
    with file.open("wb") as output:
        begun = time.perf_counter()
        subprocess.run(command, stdout=output, check=True)
        os.fsync(output.fileno())
        return size / (time.perf_counter() - begun) / MEGA


def _cat(file: Path, size: int) -> float:
    ours, theirs = socket.socketpair()
    begun = time.perf_counter()
    with ours:
        with theirs:
            cat = subprocess.Popen(["cat", os.fspath(file)], stdout=theirs.fileno())
        rate = _rate(iter(lambda: ours.recv(RECEIVE_BYTES), b""), size, begun)
    cat.wait()
    return rate
