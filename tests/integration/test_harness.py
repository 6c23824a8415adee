"""What the tests share must not let one of them disturb another."""

import ast
import hashlib
import itertools
import os
import re
import select
from functools import partial
from pathlib import Path

import harness
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from meshnode.work.local.cgroups import groups_of
from meshnode.work.local.hierarchies import look


@given(st.integers(1, 64))
def test_no_port_is_given_to_two_processes_that_run_tests(workers: int) -> None:
    shares = [harness.own_ports(f"gw{number}", workers) for number in range(workers)]
    given_out = sorted(itertools.chain.from_iterable(shares))
    assert given_out == list(harness.PORTS)


def test_a_port_that_nobody_listens_on_yet_is_not_given_again() -> None:
    ports = [harness.free_port() for _ in range(50)]
    assert len(set(ports)) == len(ports)


@pytest.mark.skipif(look().refusal(("pids",)) is not None, reason=str(look().refusal(("pids",))))
def test_no_control_group_and_nothing_in_one_is_left_of_a_node_that_was_killed() -> None:
    cluster = harness.Cluster()
    pidfds: list[int] = []
    try:
        # One goes on without the mark, and outside of its session.
        script = "env -i setsid sleep 600 & sleep 600; :"
        foo = cluster.node("foo", work={"hides": {**harness.bash(script), "limits": {"pids": 50}}})
        foo.submit("hides", "--no-payload")

        def inside() -> set[int]:
            return {pid for group in groups_of(foo.root) for pid in group.processes()}

        harness.wait_until(lambda: len(inside()) == 3, what="all that the unit starts")
        pidfds = [os.pidfd_open(pid) for pid in inside()]
        foo.kill()
        assert len(inside()) == 3
        cluster.close()
        assert groups_of(foo.root) == []
        assert sorted(select.select(pidfds, [], [], 0)[0]) == sorted(pidfds)
    finally:
        cluster.close()
        for pidfd in pidfds:
            os.close(pidfd)


async def test_no_time_passes_by_a_clock_that_jumps_while_threads_work(
    autojump_clock: MockClock,
) -> None:
    began = trio.current_time()
    work = partial(hashlib.pbkdf2_hmac, "sha256", b"word", b"salt", 50_000)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(trio.to_thread.run_sync, work)
    assert trio.current_time() == began
    await trio.sleep(1_000_000)
    assert trio.current_time() == began + 1_000_000


async def test_a_cushion_of_a_clock_that_jumps_is_kept(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.01
    await trio.to_thread.run_sync(os.getpid)
    assert autojump_clock.autojump_threshold == 0.01


def test_no_property_is_false_since_a_machine_is_slow() -> None:
    # What a test asks to be spared takes the place of what all tests are spared.
    found = [
        f"{path.name}:{node.value.lineno}"
        for path in Path(__file__).parents[1].rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword) and node.arg == "suppress_health_check"
        if not {"too_slow", "list"} & set(re.split(r"\W+", ast.unparse(node.value)))
    ]
    assert found == []
