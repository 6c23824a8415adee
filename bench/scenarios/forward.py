"""How much of others' data a node passes on: 16-KB messages from one neighbour to another."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

from bench import contest, processes
from bench.neighbour import Neighbour
from bench.nodes import Daemon, World, free_port
from bench.processes import MIB
from bench.pump import Pump, connect
from bench.report import Report
from bench.rows import Measure, Options, Target

PAYLOAD = 16_000
"""Bytes of a message's payload: a large datagram of a stream."""

MESSAGES = 64
"""Messages in the block that is sent again and again."""

MEGA = 1e6
RATE = "forward 16-KB messages"
PER_CPU = "forward, a CPU second"


def run(options: Options) -> Report:
    """Pump messages through a real node, and through a relay that only parses lengths.

    The pump needs a core as well, and may be what is slow; so the rate for each second of
    processor time of what lies between its ends is told too, which no other load changes.
    """
    blocks = (64 if options.quick else 512) * MIB // (PAYLOAD * MESSAGES)

    @contextmanager
    def contender(daemon: Daemon) -> Iterator[tuple[World, Mapping[str, Measure]]]:
        port = free_port()
        with World(daemon) as world:
            middle = world.node("middle", listen=port)
            with (
                closing(Neighbour("left", "middle", port)) as left,
                closing(Neighbour("right", "middle", port)) as right,
            ):
                left.wait_for_way_to(right)
                passage = _Passage(
                    Pump(left.socket, right.socket, _block(left, right)), middle.process.pid, blocks
                )

                def measure() -> float:
                    left.say_hello()
                    right.say_hello()
                    return passage.rate()

                yield world, {RATE: measure, PER_CPU: passage.rate_per_cpu}

    with _Relay() as relay:
        passage = _Passage(relay.pump(), relay.pid, blocks)
        floors = {RATE: passage.rate, PER_CPU: passage.rate_per_cpu}
        held = contest.hold(options, floors, contender)
    target = Target(0.6, at_least=True)
    return Report(rows=[held.row(name, "MB/s", target, floor=name) for name in (RATE, PER_CPU)])


def _block(source: Neighbour, destination: Neighbour) -> bytes:
    return source.message_to(destination, bytes(PAYLOAD)) * MESSAGES


class _Passage:
    """A process between the ends of a pump."""

    def __init__(self, pump: Pump, pid: int, blocks: int) -> None:
        self._pump = pump
        self._pid = pid
        self._blocks = blocks
        self._cpu = 0.0

    def rate(self) -> float:
        """Pump once; return the MB a second."""
        before = processes.cpu_seconds(self._pid, with_children=False)
        rate = self._pump.run(self._blocks)
        self._cpu = processes.cpu_seconds(self._pid, with_children=False) - before
        return rate / MEGA

    def rate_per_cpu(self) -> float:
        """Return the MB for each second of processor time in the last run."""
        return self._blocks * MESSAGES * PAYLOAD / MEGA / self._cpu


class _Relay:
    """The floor: ``bench.relay`` as a process, between the ends of a pump."""

    def __enter__(self) -> "_Relay":
        port = free_port()
        self._process = subprocess.Popen([sys.executable, "-m", "bench.relay", str(port)])
        self.pid = self._process.pid
        self._left, self._right = connect(port), connect(port)
        return self

    def __exit__(self, *exc: object) -> None:
        self._left.close()
        self._right.close()
        self._process.wait()

    def pump(self) -> Pump:
        # The same bytes as through the node: only the names of the neighbours count, not links.
        frame = (36 + PAYLOAD).to_bytes(2, "little") + bytes(36 + PAYLOAD)
        return Pump(self._left, self._right, frame * MESSAGES)
