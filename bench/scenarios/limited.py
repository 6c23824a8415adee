"""What limits cost a unit: `true` with those of control groups, beside a plain one; what is left.

With `files` and `core` a node without CAP_SYS_RESOURCE forks its commands, which is a row of its
own.
"""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from bench import contest, processes
from bench.nodes import Daemon, Node, World
from bench.report import Report
from bench.rows import Measure, Options, Row, Target
from meshnode.work.local.cgroups import groups_of
from meshnode.work.local.launcher.groups import tree_of

TRUE = "/bin/true"
LIMITS: Mapping[str, Any] = {"cpu": 1, "memory": "256MiB", "pids": 64, "io-write": "100MiB/s"}
RLIMITS: Mapping[str, Any] = {"files": 1024, "core": 0}


def _type(name: str, limits: Mapping[str, Any]) -> dict[str, Any]:
    return {"work-command": {"worktype": name, "command": TRUE, "limits": dict(limits)}}


LIMITED = _type("limited", LIMITS)
TYPES = (LIMITED, _type("all-limits", {**LIMITS, **RLIMITS}))

UNITS = 10_000
"""Units of which nothing may be left."""
WARM_UP = 200
"""Units before: threads, buffers and caches that they leave are no unit's."""
CLIENTS = 20
SETTLED = 3.0
"""Seconds for what was released to be given back."""

MILLI = 1000


def run(options: Options) -> Report:
    """Time units from their submission to their known end; figures are medians of one unit."""
    units = 20 if options.quick else 100
    many = 200 if options.quick else UNITS

    @contextmanager
    def contender(daemon: Daemon) -> Iterator[tuple[World, Mapping[str, Measure]]]:
        with World(daemon) as world:
            (foo,) = world.line("foo", work={"true": TRUE}, more=TYPES)
            yield (
                world,
                {
                    "unit of true": lambda: _median(foo, "true", units),
                    "unit of true, limited": lambda: _median(foo, "limited", units),
                    "unit of true, limited, with rlimits": lambda: _median(
                        foo, "all-limits", units
                    ),
                },
            )

    # Only ours: another daemon, or an older build, knows no limits.
    held = contest.hold(replace(options, peer=None), {}, contender)
    return Report(
        rows=[
            *(
                held.row(name, "ms", Target(1.5), floor="unit of true")
                for name in ("unit of true, limited", "unit of true, limited, with rlimits")
            ),
            *_left_behind(many),
        ],
        notes=[
            f"{units} units, one after the other; floor: as many plain ones",
            f"left: by {many} limited units from {CLIENTS} clients, all released",
        ],
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


# --- what is left ---------------------------------------------------------------------------------


def _left_behind(units: int) -> Sequence[Row]:
    """Return the groups that units have left, and the memory that node and launcher have kept."""
    with World() as world:
        (foo,) = world.line("foo", more=[LIMITED])
        _work(foo, WARM_UP)
        before = _memory(foo)
        _work(foo, units)
        after = _memory(foo)
        groups = sum(len(tree_of(base.path)) - 1 for base in groups_of(foo.units))
        usage = world.usage()
    kept = [(a - b) / 1e6 for a, b in zip(after, before, strict=True)]
    return (
        Row("limited: groups left", "", [float(groups)], Target(0), usage=usage),
        Row("limited: memory kept, node", "MB", [kept[0]], Target(5), usage=usage),
        Row("limited: memory kept, launcher", "MB", [sum(kept[1:])], Target(5), usage=usage),
    )


def _memory(node: Node) -> list[int]:
    time.sleep(SETTLED)
    pid = node.process.pid
    return [processes.resident(one) for one in (pid, *processes.children(pid))]


def _work(node: Node, units: int) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        done = [pool.submit(_one_client, node, units // CLIENTS) for _ in range(CLIENTS)]
        for client in done:
            client.result()


def _one_client(node: Node, units: int) -> None:
    """Submit units, see each of them succeed, and release it."""
    with node.client() as client:
        for _ in range(units):
            unit = client.submit("limited").unit_id
            status = client.wait(unit)
            assert status["State"] == 2, status
            client.release(unit)
