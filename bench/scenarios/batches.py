"""What a batch costs: 1,000 members of `true`, beside as many submissions by themselves."""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from bench import contest
from bench.nodes import Daemon, Node, World
from bench.report import Report
from bench.rows import Measure, Options, Target
from meshctl.api import batch

CLIENTS = 20
"""Clients that submit units by themselves; a batch has one."""

MILLI = 1000


def run(options: Options) -> Report:
    """Count from the first connection until all have ended; what is left is released untimed."""
    members = 100 if options.quick else 1000

    @contextmanager
    def contender(daemon: Daemon) -> Iterator[tuple[World, Mapping[str, Measure]]]:
        with World(daemon) as world:
            foo, _ = world.line("foo", "bar", work={"true": "/bin/true"})
            yield (
                world,
                {
                    "units, local": lambda: _units(foo, "", members),
                    "batch, local": lambda: _batch(foo, "", members),
                    "units, one hop": lambda: _units(foo, "bar", members),
                    "batch, one hop": lambda: _batch(foo, "bar", members),
                },
            )

    # receptor has no batches.
    held = contest.hold(replace(options, peer=None), {}, contender)
    count = f"batch of {members:,}"
    return Report(
        rows=[
            held.row(f"batch, {where}", "ms", Target(1.5), floor=f"units, {where}", title=title)
            for where, title in (("local", f"{count}, local"), ("one hop", f"{count}, one hop"))
        ],
        notes=[f"floor: {members:,} submissions from {CLIENTS} clients"],
    )


def _batch(node: Node, target: str, members: int) -> float:
    with node.client() as client:
        begun = time.perf_counter()
        fields = {"worktype": "true", "node": target, "array": f"1-{members}"}
        done = batch.submit_batch(client, fields)
        *_, status = batch.watch_batch(client, done.batch_id)
        took = time.perf_counter() - begun
        assert status["Succeeded"] == members, status
        batch.end_batch(client, "release", done.batch_id)
    return took * MILLI


def _units(node: Node, target: str, units: int) -> float:
    with ThreadPoolExecutor(CLIENTS) as clients:
        begun = time.perf_counter()
        parts = [clients.submit(_submit, node, target, units // CLIENTS) for _ in range(CLIENTS)]
        submitted = [unit for part in parts for unit in part.result()]
        took = time.perf_counter() - begun
    with node.client() as client:
        for unit in submitted:
            client.release(unit)
    return took * MILLI


def _submit(node: Node, target: str, units: int) -> list[str]:
    """Submit units one after the other, then see each of them succeed."""
    with node.client() as client:
        submitted = [client.submit("true", node=target).unit_id for _ in range(units)]
        for unit in submitted:
            status = client.wait(unit)
            assert status["State"] == 2, status
    return submitted
