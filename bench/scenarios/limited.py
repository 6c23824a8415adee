"""What limits cost a unit: `true` with those of control groups, beside a plain one."""

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from bench import contest
from bench.nodes import Daemon, Node, World
from bench.report import Report
from bench.rows import Measure, Options, Target

TRUE = "/bin/true"
LIMITS = {"cpu": 1, "memory": "256MiB", "pids": 64, "io-write": "100MiB/s"}
LIMITED = {"work-command": {"worktype": "limited", "command": TRUE, "limits": LIMITS}}
"""Without `files` and `core`: for these, a node without CAP_SYS_RESOURCE forks its commands."""

MILLI = 1000


def run(options: Options) -> Report:
    """Time units from their submission to their known end; figures are medians of one unit."""
    units = 20 if options.quick else 100

    @contextmanager
    def contender(daemon: Daemon) -> Iterator[tuple[World, Mapping[str, Measure]]]:
        with World(daemon) as world:
            (foo,) = world.line("foo", work={"true": TRUE}, more=[LIMITED])
            yield (
                world,
                {
                    "unit of true": lambda: _median(foo, "true", units),
                    "unit of true, limited": lambda: _median(foo, "limited", units),
                },
            )

    # Only ours: another daemon, or an older build, knows no limits.
    held = contest.hold(replace(options, peer=None), {}, contender)
    return Report(
        rows=[held.row("unit of true, limited", "ms", Target(1.5), floor="unit of true")],
        notes=[f"{units} units, one after the other; floor: as many plain ones"],
    )


def _median(node: Node, kind: str, units: int) -> float:
    times = []
    with node.client() as client:
        for _ in range(units):
            begun = time.perf_counter()
            status = client.wait(client.submit(kind).unit_id)
            times.append((time.perf_counter() - begun) * MILLI)
            assert status["State"] == 2, status
    return statistics.median(times)
