"""What a node pays for the finished units in its datadir: to start, to list them, to hold them."""

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import contest
from bench.nodes import Daemon, Node, World
from bench.processes import resident
from bench.report import Report
from bench.rows import Measure, Options, Target

UNITS = 10_000
SETTLED = 2.0
"""Seconds after which a node that was started holds no more than it needs."""

KILO = 1000
MILLI = 1000

STATUS = {
    "State": 2,
    "Detail": "exit status 0",
    "StdoutSize": 3,
    "WorkType": "echo",
    "ExtraData": None,
    "Created": "2026-11-22T03:00:00.000000Z",
    "Started": "2026-11-22T03:00:00.010000Z",
    "Finished": "2026-11-22T03:00:00.020000Z",
    "ExitCode": 0,
    "Signal": None,
    "StdinSize": 0,
    "Params": ["echo", "hi"],
    "Pid": 4711,
    "Supervisor": {"Pid": 4710, "Started": 123456},
    "Boot": "0bc5e3a5-6c4f-4f0c-9a8b-6f0f1d8a3a55",
}


def run(options: Options) -> Report:
    """Start a node over finished units and one over none; list; compare what they hold."""
    units = 1000 if options.quick else UNITS

    @contextmanager
    def contender(daemon: Daemon) -> Iterator[tuple[World, Mapping[str, Measure]]]:
        with World(daemon) as world:
            fill(world.place / "data" / "full", units)
            empty, full = world.node("empty"), world.node("full")
            listing = Listing(full)
            yield (
                world,
                {
                    "start without": lambda: start(empty),
                    "start": lambda: start(full),
                    "memory": lambda: (settled(full) - settled(empty)) / units / KILO,
                    "json.dumps": listing.dumps,
                    "work list": listing.ask,
                },
            )

    held = contest.hold(options, {}, contender)
    count = f"{units:,} finished units"
    return Report(
        rows=[
            held.row("start", "ms", Target(5), floor="start without", title=f"start, {count}"),
            held.row("work list", "ms", Target(4), floor="json.dumps", title=f"work list, {count}"),
            held.row("memory", "KB", Target(1.5), title=f"memory of each of {count}"),
        ]
    )


def fill(root: Path, units: int) -> None:
    """Write finished units as a node leaves them."""
    root.mkdir(parents=True)
    for number in range(units):
        unit = root / secrets.token_hex(4)
        unit.mkdir(mode=0o700)
        # No two have the same times and processes, or a node could share what in truth it cannot.
        pid = 1000 + 3 * number
        text = json.dumps(
            STATUS
            | dict.fromkeys(TIMES, f"2026-11-22T03:00:{number % 60:02}.{number:06}Z")
            | {"Pid": pid, "Supervisor": {"Pid": pid - 1, "Started": 100_000 + 7 * number}}
        )
        for name, content in (("status", text), ("stdout", "hi\n"), ("stdin", "")):
            (unit / name).write_text(content)
        (unit / "status.lock").touch()


TIMES = ("Created", "Started", "Finished")


def start(node: Node) -> float:
    """Return the milliseconds from the start of the process until it accepts a client."""
    node.stop()
    begun = time.perf_counter()
    node.start()
    return (time.perf_counter() - begun) * MILLI


def settled(node: Node) -> int:
    """Return what is resident of a node that has listed its units once, in peace."""
    with node.client() as client:
        client.command("work list")
    time.sleep(SETTLED)
    return resident(node.process.pid)


class Listing:
    """``work list``, and the part of it that every node has to do."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._reply: dict[str, Any] = {}

    def ask(self) -> float:
        with self._node.client() as client:
            client.connect()
            begun = time.perf_counter()
            self._reply = client.command("work list")
            return (time.perf_counter() - begun) * MILLI

    def dumps(self) -> float:
        if not self._reply:
            self.ask()
        begun = time.perf_counter()
        json.dumps(self._reply)
        return (time.perf_counter() - begun) * MILLI
