"""Launcher, supervisors and node without descriptors: nothing that was accepted is lost."""

import os
import resource
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import Cluster, wait_until
from launching import launcher_of, make_unit, read_status, run_unit, running_launcher

from meshnode.work.local.client import Launcher
from meshnode.work.local.processes import find_unit_processes
from meshnode.work.units.shortage import NotNow


@contextmanager
def descriptors_of(pid: int, soft: int) -> Iterator[None]:
    """Let a process open nothing that gets a number from ``soft`` on."""
    before, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (before, hard))


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[Launcher]:
    async with running_launcher(tmp_path) as launcher:
        yield launcher


async def test_a_start_at_any_lack_of_descriptors_is_not_now_and_later_happens_once(
    launcher: Launcher, tmp_path: Path
) -> None:
    # Whose supervisor takes no other unit, since it lasts, and which shows that the launcher is
    # there.
    await run_unit(launcher, make_unit(tmp_path, "first"), "sleep", "0.2")
    process = launcher_of(os.getpid())
    unit = make_unit(tmp_path, stdin=b"")
    argv = ("bash", "-c", f"echo ran >>{tmp_path}/ledger")
    refused = 0
    for soft in range(3, 40):
        with descriptors_of(process.pid, soft):
            try:
                status = await run_unit(launcher, unit, *argv, max_output=100)
            except NotNow:
                refused += 1
                assert read_status(unit)["State"] == 0
                assert not (tmp_path / "ledger").exists()
            else:
                break
    assert refused > 3
    assert status["Detail"] == "exit status 0"
    assert (tmp_path / "ledger").read_text() == "ran\n"


def test_a_node_without_descriptors_lives_and_ends_its_units_when_it_has_some(
    cluster: Cluster,
) -> None:
    node = cluster.node("foo", work={"sleep": {"command": "sleep", "params": "1000"}})
    units = [node.submit("sleep", "--no-payload") for _ in range(3)]
    for unit in units:
        wait_until(lambda unit=unit: node.stored_status(unit).get("Pid"), what="the command's PID")
    with descriptors_of(node.pid, 5):
        supervisor = node.stored_status(units[0])["Supervisor"]["Pid"]
        os.kill(supervisor, signal.SIGKILL)
        # The end of a supervisor is an event, so the node is at it by now or will be in a moment.
        wait_until(
            lambda: not Path(f"/proc/{supervisor}/exe").exists(), what="the supervisor's end"
        )
        os.kill(node.pid, 0)
    status = node.wait_unit(units[0], "Failed")
    assert status["Detail"].startswith("lost: its supervisor")
    assert find_unit_processes(node.units / units[0]) == []
    for unit in units[1:]:
        assert node.unit_status(unit)["StateName"] == "Running"
        node.meshctl("work", "cancel", unit)
        assert node.unit_status(unit)["StateName"] == "Canceled"
