"""What a node costs that has nothing to do but to wait, with many clients and many units."""

import time
from contextlib import ExitStack

from bench import processes
from bench.nodes import Node, World
from bench.report import Report
from bench.rows import Options, Row, Target

UNITS = 100
CLIENTS = 100
SECONDS = 60.0
STRETCHES = 5
LEAST = Target(0.5)
SETTLED = 3.0
"""Seconds after which nothing is left of the work of starting."""


def run(options: Options) -> Report:
    """Let clients wait for units that do nothing, and see who needs the processor meanwhile."""
    units, clients, seconds = (10, 10, 10.0) if options.quick else (UNITS, CLIENTS, SECONDS)
    with World() as world, ExitStack() as stack:
        foo, _ = world.line("foo", "bar", work={"wait": "sleep 3600"})
        own = stack.enter_context(foo.client())
        # A fifth of the units run on the next node: their states travel, and so might a question.
        names = [own.submit("wait", node="bar" if i % 5 == 0 else "").unit_id for i in range(units)]
        watches = []
        for i in range(clients):
            client = stack.enter_context(foo.client())
            name = names[i % units]
            if i % 2:
                stack.enter_context(client.results(name))
            else:
                watches.append(client.watch(name))
                next(watches[-1])
        time.sleep(SETTLED)
        stretches = [_stretch(foo, seconds / STRETCHES) for _ in range(STRETCHES)]
        usage = world.usage()
        for name in names:
            own.release(name)
    return Report(
        rows=[
            Row(
                f"idle: {who}", "% of a core", [s[who] for s in stretches], Target(0.5), usage=usage
            )
            for who in stretches[0]
        ],
        notes=[
            f"{units} units run for {seconds:g} s and {clients} clients wait: half for results, "
            "half for a change. A fifth of the units are on the next node."
        ],
    )


def _stretch(node: Node, seconds: float) -> dict[str, float]:
    """Return which part of a core the node needs, and everything that it has started, in %."""
    before = _seconds(node)
    time.sleep(seconds)
    after = _seconds(node)
    return {
        # A thread that ended meanwhile had slept for ten seconds, so what it did is not missed.
        who: sum(threads[t] - before[who].get(t, 0) for t in threads) / seconds * 100
        for who, threads in after.items()
    }


def _seconds(node: Node) -> dict[str, dict[int, float]]:
    """Return the processor time so far of each thread, of the node and of what it has started."""
    started = map(processes.thread_seconds, processes.descendants(node.process.pid))
    return {
        "node": processes.thread_seconds(node.process.pid),
        "launcher, supervisors, units": {t: s for threads in started for t, s in threads.items()},
    }
