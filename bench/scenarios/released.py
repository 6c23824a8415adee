"""What is left in nodes of work that was done elsewhere, fetched, and released."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from bench.nodes import Node, World
from bench.processes import MIB, descriptors, resident
from bench.report import Report
from bench.rows import Options, Row, Target

UNITS = 2000
WARM_UP = 200
"""Units before, all released: threads, buffers and caches that they leave are no unit's."""
CLIENTS = 20
SETTLED = 3.0
"""Seconds for what was released to be closed and given back."""


def run(options: Options) -> Report:
    """Run units on the next node, take their results, release them; compare before and after."""
    units = 100 if options.quick else UNITS
    with World() as world:
        nodes = foo, _ = world.line("foo", "bar", work={"echo": "echo hi"})
        _work(foo, WARM_UP)
        before = _held(nodes)
        _work(foo, units)
        after = _held(nodes)
        usage = world.usage()
    kept = [(a[0] - b[0], a[1] - b[1]) for b, a in zip(before, after, strict=True)]
    rows = []
    for node, (memory, files) in zip(("submitter", "executor"), kept, strict=True):
        rows += [
            Row(f"released: memory kept, {node}", "MB", [memory / 1e6], Target(5), usage=usage),
            Row(f"released: descriptors kept, {node}", "", [float(files)], Target(0)),
        ]
    note = f"{units} remote units, all released, after {WARM_UP} others that were, too."
    return Report(
        rows=rows,
        notes=[note],
        figures={"peaks_mib": {use.name: use.peak / MIB for use in usage}},
    )


def _held(nodes: Sequence[Node]) -> list[tuple[int, int]]:
    time.sleep(SETTLED)
    return [(resident(n.process.pid), descriptors(n.process.pid)) for n in nodes]


def _work(node: Node, units: int) -> None:
    """Have clients submit units, wait for them, read them and release them all at the end."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        names = list(pool.map(lambda _: _echo(node), range(units)))
        list(pool.map(lambda name: _release(node, name), names))


def _echo(node: Node) -> str:
    with node.client() as client:
        unit = client.submit("echo", node="bar").unit_id
        with client.results(unit) as results:
            assert b"".join(results) == b"hi\n"
        client.wait(unit)
    return unit


def _release(node: Node, unit: str) -> None:
    with node.client() as client:
        assert client.release(unit) == "released"
