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
        before = _seconds(foo)
        time.sleep(seconds)
        after = _seconds(foo)
        usage = world.usage()
        for name in names:
            own.release(name)
    shares = {who: (after[who] - before[who]) / seconds * 100 for who in before}
    return Report(
        rows=[
            Row(f"idle: {who}", "% of a core", [share], Target(0.5), usage=usage)
            for who, share in shares.items()
        ],
        notes=[
            f"{units} units run for {seconds:g} s and {clients} clients wait: half for results, "
            "half for a change. A fifth of the units are on the next node."
        ],
    )


def _seconds(node: Node) -> dict[str, float]:
    """Return the processor time so far of the node, and of everything that it has started."""
    pid = node.process.pid
    return {
        # Its threads come and go, so only the whole process's ticks are complete.
        "node": processes.cpu_seconds(pid, with_children=False),
        "launcher, supervisors, units": sum(map(processes.run_seconds, _family(node))),
    }


def _family(node: Node) -> list[int]:
    found: list[int] = []
    todo = processes.children(node.process.pid)
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += processes.children(pid)
    return found
