"""What a queue of 10,000 units costs: to start over it, list it, hold it, and start the next."""

import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench import contest
from bench.nodes import Daemon, Node, World
from bench.report import Report
from bench.rows import Measure, Options, Target
from bench.scenarios.finished import Listing, settled, start

UNITS = 10_000
FEW = 100
"""Units of the short queue: enough for every repeat."""

KILO = 1000
MILLI = 1000

STATUS = {
    "State": 0,
    "Detail": "Queued",
    "StdoutSize": 0,
    "WorkType": "held",
    "ExtraData": None,
    "Started": None,
    "Finished": None,
    "ExitCode": None,
    "Signal": None,
    "StdinSize": 0,
    "Pid": None,
    "Supervisor": None,
    "Queued": True,
}


def run(options: Options) -> Report:
    """Start nodes over a long queue, a short one and none; cancel what runs, see the next start."""
    units = 1000 if options.quick else UNITS

    @contextmanager
    def contender(daemon: Daemon) -> Iterator[tuple[World, Mapping[str, Measure]]]:
        with World(daemon) as world:
            queues = {"empty": 0, "short": FEW, "long": units}
            nodes = {name: _node(world, name, count) for name, count in queues.items()}
            turns = {name: _Turns(world, nodes[name]) for name in ("short", "long")}
            listing = Listing(nodes["long"])
            yield (
                world,
                {
                    "next of few": turns["short"].next,
                    "next": turns["long"].next,
                    "json.dumps": listing.dumps,
                    "work list": listing.ask,
                    "memory": lambda: (
                        (settled(nodes["long"]) - settled(nodes["empty"])) / units / KILO
                    ),
                    "start without": lambda: start(nodes["empty"]),
                    "start": lambda: start(nodes["long"]),
                },
            )

    held = contest.hold(options, {}, contender)
    count = f"{units:,} queued units"
    return Report(
        rows=[
            held.row("next", "ms", Target(1.5), floor="next of few", title=f"next of {count}"),
            held.row("start", "ms", Target(5), floor="start without", title=f"start, {count}"),
            held.row("work list", "ms", Target(4), floor="json.dumps", title=f"work list, {count}"),
            held.row("memory", "KB", Target(2.5), title=f"memory of each of {count}"),
        ]
    )


def _node(world: World, name: str, units: int) -> Node:
    """Start a node with so many units in its queue, one of which runs."""
    pipe = world.place / f"{name}.pipe"
    os.mkfifo(pipe)
    script = f"echo $MESHNODE_UNIT_ID > {pipe}; exec sleep 1000"
    _fill(world.place / "data" / name, units, script)
    work = {"worktype": "held", "command": "bash", "maxconcurrent": 1}
    return world.node(name, more=[{"work-command": work}])


def _fill(root: Path, units: int, script: str) -> None:
    """Write units that wait, as a node leaves them."""
    for number in range(units):
        unit = root / secrets.token_hex(4)
        unit.mkdir(mode=0o700, parents=True)
        created = f"2026-11-22T03:{number // 60 % 60:02}:{number % 60:02}.{number:06}Z"
        text = json.dumps(STATUS | {"Created": created, "Params": ["bash", "-c", script]})
        for name, content in (("status", text), ("stdout", ""), ("stdin", "")):
            (unit / name).write_text(content)


class _Turns:
    """Ends the unit that runs, and sees the next one start."""

    def __init__(self, world: World, node: Node) -> None:
        self._pipe = world.place / f"{node.name}.pipe"
        self._node = node
        self._runs = ""

    def next(self) -> float:
        """Return the milliseconds from a cancel until the next unit's command runs."""
        # A node that was started anew goes on with the unit that ran, which tells nobody again.
        self._runs = self._runs or self._read()
        with self._node.client() as client:
            client.connect()
            begun = time.perf_counter()
            client.command(f"work cancel {self._runs}")
            self._runs = self._read()
            return (time.perf_counter() - begun) * MILLI

    def _read(self) -> str:
        return self._pipe.read_text().strip()
