"""How fast many small units come and go: 200 of `true` from 20 clients, here and over one hop."""

import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from bench import contest
from bench.nodes import Daemon, Node, World
from bench.report import Report
from bench.rows import Measure, Options, Target

CLIENTS = 20
AT_A_TIME = 2
"""Processes of the floor at once: one for each core of the kind of machine that targets are for."""

TRUE = "/bin/true"
MILLI = 1000


def run(options: Options) -> Report:
    """Count from the first connection until all units are final; figures are for all units."""
    units = 40 if options.quick else 200

    @contextmanager
    def contender(daemon: Daemon) -> Iterator[tuple[World, Mapping[str, Measure]]]:
        with World(daemon) as world:
            foo, _ = world.line("foo", "bar", work={"true": TRUE})
            yield (
                world,
                {
                    "units of true, local": lambda: _storm(foo, "", units),
                    "units of true, one hop": lambda: _storm(foo, "bar", units),
                },
            )

    held = contest.hold(options, {"posix_spawn": lambda: _spawn(units)}, contender)
    return Report(
        rows=[
            held.row("units of true, local", "ms", Target(5), floor="posix_spawn"),
            held.row("units of true, one hop", "ms", Target(10), floor="posix_spawn"),
        ],
        notes=[f"{units} units from {CLIENTS} clients; floor: as many posix_spawn and wait"],
    )


def _spawn(times: int) -> float:
    begun = time.perf_counter()
    running = 0
    for _ in range(times):
        if running == AT_A_TIME:
            os.wait()
            running -= 1
        os.posix_spawn(TRUE, [TRUE], os.environ)
        running += 1
    for _ in range(running):
        os.wait()
    return (time.perf_counter() - begun) * MILLI


def _storm(node: Node, target: str, units: int) -> float:
    with ThreadPoolExecutor(CLIENTS) as clients:
        begun = time.perf_counter()
        done = [clients.submit(_one_client, node, target, units // CLIENTS) for _ in range(CLIENTS)]
        for client in done:
            client.result()
        return (time.perf_counter() - begun) * MILLI


def _one_client(node: Node, target: str, units: int) -> None:
    """Submit units one after the other, then see each of them succeed."""
    with node.client() as client:
        submitted = [client.submit("true", node=target).unit_id for _ in range(units)]
        for unit in submitted:
            status = client.wait(unit)
            assert status["State"] == 2, status
