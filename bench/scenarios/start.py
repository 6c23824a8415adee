"""What a node costs before anybody uses it: from its start to its socket, and its memory."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench import contest
from bench.nodes import Daemon, Node, World, free_port
from bench.processes import MIB, resident
from bench.report import Report
from bench.rows import Measure, Options, Target

MILLI = 1000
SETTLED = 2.0
"""Seconds after which a node that was started is idle, with all that it loads in peace."""

LIBRARIES = "import trio, cryptography"
RESIDENT = """\
import trio, os
print([line for line in open("/proc/self/status") if line.startswith("VmRSS")][0].split()[1])
"""


def run(options: Options) -> Report:
    """Start one node that is alone and one that has a link, again and again."""
    times = 1 if options.quick else 3

    @contextmanager
    def contender(daemon: Daemon) -> Iterator[tuple[World, Mapping[str, Measure]]]:
        with World(daemon) as world:
            port = free_port()
            hub = world.node("hub", listen=port)
            alone = world.node("alone", work={"echo": "echo hi"})
            linked = world.node("linked", peers=[port], work={"echo": "echo hi"})
            yield (
                world,
                {
                    "start": lambda: _start(alone, times),
                    "idle memory": lambda: _settled(alone),
                    "start, with a link": lambda: _start(linked, times),
                    "idle memory, with a link": lambda: _settled(linked, after=hub),
                },
            )

    held = contest.hold(
        options, {"libraries": lambda: _libraries(times), "trio": _trio_resident}, contender
    )
    return Report(
        rows=[
            held.row("start", "ms", Target(2), floor="libraries"),
            held.row("start, with a link", "ms", Target(2), floor="libraries"),
            held.row("idle memory", "MiB", Target(2), floor="trio"),
            held.row("idle memory, with a link", "MiB", Target(2), floor="trio"),
        ]
    )


def _start(node: Node, times: int) -> float:
    """Return the milliseconds from the start of the process until it accepts a client."""
    taken = []
    for _ in range(times):
        node.stop()
        begun = time.perf_counter()
        node.start()
        taken.append(time.perf_counter() - begun)
    return statistics.mean(taken) * MILLI


def _settled(node: Node, after: Node | None = None) -> float:
    """Return what is resident of a node that has been left alone since its start."""
    if after is not None:
        after.wait_for(node.name)
    time.sleep(SETTLED)
    return resident(node.process.pid) / MIB


def _libraries(times: int) -> float:
    begun = time.perf_counter()
    for _ in range(times):
        subprocess.run([sys.executable, "-c", LIBRARIES], check=True)
    return (time.perf_counter() - begun) / times * MILLI


def _trio_resident() -> float:
    done = subprocess.run([sys.executable, "-c", RESIDENT], stdout=subprocess.PIPE, check=True)
    return int(done.stdout) * 1024 / MIB
