"""Whatever is killed, and whenever: a unit's command runs at most once and its end is known."""

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
from launching import (
    Fifo,
    FileEvents,
    end_units,
    kill,
    launcher_of,
    make_unit,
    read_status,
    run_unit,
    running_launcher,
    start_lasting,
    supervisor_of,
    wait_gone,
)

from meshnode.errors import WorkError
from meshnode.work.local import client, launcherprocess
from meshnode.work.local.client import Launcher
from meshnode.work.local.launcher import tree
from meshnode.work.local.launcherprocess import LauncherClosed, StartRequest
from meshnode.work.local.processes import ProcessId, find_unit_processes


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[Launcher]:
    async with running_launcher(tmp_path) as launcher:
        yield launcher


@pytest.fixture
def says(tmp_path: Path) -> Iterator[Fifo]:
    with Fifo(tmp_path / "says") as fifo:
        yield fifo


@pytest.fixture
def go(tmp_path: Path) -> Iterator[Fifo]:
    with Fifo(tmp_path / "go") as fifo:
        yield fifo


class Ledger:
    """A command that writes a line to a ledger, says that it runs, and ends when it is let on."""

    def __init__(self, root: Path, says: Fifo, go: Fifo) -> None:
        self._ledger = root / "ledger"
        script = "echo ran >>$1; echo up >$2; read <$3; echo done"
        self.argv = (
            "bash", "-c", script, "bash", str(self._ledger), str(says.path), str(go.path),
        )  # fmt: skip

    def request(self, unit: Path) -> StartRequest:
        return StartRequest(unit.name, unit, self.argv)

    @property
    def runs(self) -> int:
        return self._ledger.read_text().count("ran\n") if self._ledger.exists() else 0


@pytest.fixture
def ledger(tmp_path: Path, says: Fifo, go: Fifo) -> Ledger:
    return Ledger(tmp_path, says, go)


@contextlib.contextmanager
def locked(unit: Path) -> Iterator[None]:
    """Hold the unit's lock, so that its supervisor comes to the claim and no further."""
    directory = os.open(unit, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def only_child_of(parent: int) -> tree.Process:
    (child,) = [p for p in tree.all_processes() if p.parent == parent and not p.dead]
    return child


class Start:
    """One start that runs beside the test."""

    def __init__(self) -> None:
        self.process: ProcessId | None = None
        self.error: WorkError | None = None
        self._ended = trio.Event()

    async def run(self, launcher: Launcher, request: StartRequest) -> None:
        try:
            self.process = await start_lasting(launcher, request)
        except WorkError as error:
            self.error = error
        self._ended.set()

    async def wait(self) -> ProcessId | None:
        await self._ended.wait()
        return self.process


async def test_units_do_not_notice_the_end_of_their_launcher(
    launcher: Launcher, tmp_path: Path, ledger: Ledger, says: Fifo, go: Fifo
) -> None:
    unit = make_unit(tmp_path)
    supervisor = await start_lasting(launcher, ledger.request(unit))
    assert await says.line() == "up"
    process = launcher_of(os.getpid())
    kill(process)
    await wait_gone(ProcessId(process.pid, process.started))
    # The next start brings the next launcher.
    assert (await run_unit(launcher, make_unit(tmp_path, "other"), "true"))["State"] == 2
    assert launcher_of(os.getpid()).pid != process.pid
    go.write("")
    await wait_gone(supervisor)
    assert read_status(unit)["Detail"] == "exit status 0"
    assert (unit / "stdout").read_bytes() == b"done\n"


async def test_a_request_that_a_killed_launcher_had_not_read_goes_to_the_next_one(
    launcher: Launcher, tmp_path: Path, ledger: Ledger, says: Fifo, go: Fifo
) -> None:
    process = launcher_of(os.getpid())
    kill(process, signal.SIGSTOP)
    async with trio.open_nursery() as nursery:
        starts = [Start() for _ in range(3)]
        for i, start in enumerate(starts):
            nursery.start_soon(start.run, launcher, ledger.request(make_unit(tmp_path, f"unit{i}")))
        await trio.testing.wait_all_tasks_blocked()
        kill(process)
        for start in starts:
            assert await start.wait() is not None
    for _ in starts:
        assert await says.line() == "up"
        go.write("")
    for start in starts:
        await wait_gone(start.process)
    assert ledger.runs == 3


async def test_a_supervisor_answers_although_its_launcher_is_killed(
    launcher: Launcher, tmp_path: Path, ledger: Ledger, says: Fifo, go: Fifo
) -> None:
    unit = make_unit(tmp_path)
    process = launcher_of(os.getpid())
    start = Start()
    async with trio.open_nursery() as nursery:
        with locked(unit), FileEvents(unit) as events:
            nursery.start_soon(start.run, launcher, ledger.request(unit))
            await events.wait_opened("stdout")
            kill(process)
            await wait_gone(ProcessId(process.pid, process.started))
        supervisor = await start.wait()
    assert supervisor == supervisor_of(unit)
    assert await says.line() == "up"
    go.write("")
    await wait_gone(supervisor)
    assert (ledger.runs, read_status(unit)["State"]) == (1, 2)


@pytest.mark.parametrize("with_launcher", [False, True])
async def test_a_supervisor_killed_before_its_claim_is_replaced(
    launcher: Launcher, tmp_path: Path, ledger: Ledger, says: Fifo, go: Fifo, with_launcher: bool
) -> None:
    unit = make_unit(tmp_path)
    process = launcher_of(os.getpid())
    start = Start()
    async with trio.open_nursery() as nursery:
        with locked(unit), FileEvents(unit) as events:
            nursery.start_soon(start.run, launcher, ledger.request(unit))
            await events.wait_opened("stdout")
            first = only_child_of(process.pid)
            if with_launcher:
                kill(process)
            kill(first)
            await events.wait_opened("stdout")
        supervisor = await start.wait()
    assert supervisor is not None
    assert supervisor.pid != first.pid
    assert await says.line() == "up"
    go.write("")
    await wait_gone(supervisor)
    assert (ledger.runs, read_status(unit)["State"]) == (1, 2)


async def test_a_start_is_given_up_when_no_supervisor_lives_to_its_claim(
    launcher: Launcher, tmp_path: Path, ledger: Ledger
) -> None:
    unit = make_unit(tmp_path)
    process = launcher_of(os.getpid())
    start = Start()
    async with trio.open_nursery() as nursery:
        with locked(unit), FileEvents(unit) as events:
            nursery.start_soon(start.run, launcher, ledger.request(unit))
            for _ in range(client.START_ATTEMPTS):
                await events.wait_opened("stdout")
                kill(only_child_of(process.pid))
            assert await start.wait() is None
    assert "3 times" in str(start.error)
    assert read_status(unit)["State"] == 0
    assert (ledger.runs, find_unit_processes(unit)) == (0, [])


async def test_what_a_killed_supervisor_leaves_can_be_found_and_ended(
    launcher: Launcher, tmp_path: Path, says: Fifo, caplog: pytest.LogCaptureFixture
) -> None:
    unit = make_unit(tmp_path)
    script = "setsid sleep 1000 & echo up >$1; sleep 1000; true"
    argv = ("bash", "-c", script, "bash", str(says.path))
    supervisor = await start_lasting(launcher, StartRequest("unit", unit, argv))
    assert await says.line() == "up"
    pid = read_status(unit)["Pid"]
    kill(supervisor)
    await wait_gone(supervisor)
    assert read_status(unit)["Detail"] == f"Running: PID {pid}"
    assert len(find_unit_processes(unit)) == 3
    await end_units(tmp_path)
    assert find_unit_processes(unit) == []
    # The launcher told the node before it answered anything else.
    with caplog.at_level(logging.WARNING):
        await run_unit(launcher, make_unit(tmp_path, "other"), "true")
    assert "unit unit: its supervisor ended: signal: killed" in caplog.text


async def test_a_second_start_names_the_first_supervisor_and_runs_nothing(
    launcher: Launcher, tmp_path: Path, ledger: Ledger, says: Fifo
) -> None:
    unit = make_unit(tmp_path)
    supervisor = await start_lasting(launcher, ledger.request(unit))
    assert await says.line() == "up"
    assert await start_lasting(launcher, ledger.request(unit)) == supervisor
    kill(supervisor)
    await wait_gone(supervisor)
    assert await start_lasting(launcher, ledger.request(unit)) == supervisor
    assert ledger.runs == 1


async def test_a_start_that_a_killed_node_had_asked_for_is_not_done_again_by_the_next(
    launcher: Launcher, tmp_path: Path, ledger: Ledger, says: Fifo, go: Fifo
) -> None:
    unit = make_unit(tmp_path)
    starts = [Start(), Start()]
    async with trio.open_nursery() as nursery:
        with locked(unit), FileEvents(unit) as events:
            for start in starts:
                # Both supervisors are at the claim when the lock is let go of.
                nursery.start_soon(start.run, launcher, ledger.request(unit))
                await events.wait_opened("stdout")
        assert await starts[0].wait() == await starts[1].wait() == supervisor_of(unit)
    assert await says.line() == "up"
    go.write("")
    await wait_gone(supervisor_of(unit))
    assert (ledger.runs, read_status(unit)["State"]) == (1, 2)


async def test_a_launcher_that_cannot_run_fails_each_start_and_does_not_spin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_launcher(tmp_path) as launcher:
        process = launcher_of(os.getpid())
        spawned = []

        def argv(descriptors: int | None) -> list[str]:
            spawned.append("once")
            return ["false"]

        monkeypatch.setattr(launcherprocess, "_launcher_argv", argv)
        kill(process)
        await wait_gone(ProcessId(process.pid, process.started))
        unit = make_unit(tmp_path)
        for attempt in (1, 2):
            with pytest.raises(WorkError, match="the command was not started"):
                await launcher.start(StartRequest("unit", unit, ("true",)))
            assert client.START_ATTEMPTS * attempt - 1 <= len(spawned)
            assert len(spawned) <= client.START_ATTEMPTS * attempt
        assert read_status(unit)["State"] == 0
        monkeypatch.undo()
        assert (await run_unit(launcher, unit, "true"))["State"] == 2


async def test_a_node_whose_launcher_is_missing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcherprocess, "_launcher_argv", lambda descriptors: ["/no/such/python"])
    with pytest.raises(WorkError, match=r"cannot start the launcher: No such file"):
        await Launcher().run()
    with pytest.raises(LauncherClosed):
        await Launcher().start(StartRequest("unit", Path("/nowhere"), ("true",)))


async def test_a_node_that_ends_says_so_to_starts_under_way_and_they_go_on(
    tmp_path: Path, ledger: Ledger, says: Fifo, go: Fifo
) -> None:
    unit = make_unit(tmp_path)
    start = Start()
    async with trio.open_nursery() as nursery:
        with locked(unit), FileEvents(unit) as events:
            async with running_launcher(tmp_path / "nothing") as launcher:
                nursery.start_soon(start.run, launcher, ledger.request(unit))
                await events.wait_opened("stdout")
        await start.wait()
    try:
        assert isinstance(start.error, LauncherClosed)
        assert await says.line() == "up"
        go.write("")
        await wait_gone(supervisor_of(unit))
        assert (ledger.runs, read_status(unit)["State"]) == (1, 2)
    finally:
        await end_units(tmp_path)


NODE = """
import sys, trio
from pathlib import Path
from meshnode.work.local.client import Launcher
from meshnode.work.local.launcherprocess import StartRequest

async def main():
    launcher = Launcher()
    async with trio.open_nursery() as nursery:
        await nursery.start(launcher.run)
        unit = Path(sys.argv[1])
        await launcher.start(StartRequest(unit.name, unit, tuple(sys.argv[2:])))
        print("started", flush=True)

trio.run(main)
"""


@pytest.mark.parametrize("together", [False, True], ids=["node", "node and launcher"])
async def test_units_outlive_a_killed_node_and_record_their_end(
    tmp_path: Path, ledger: Ledger, says: Fifo, go: Fifo, together: bool
) -> None:
    unit = make_unit(tmp_path)
    argv = [sys.executable, "-c", NODE, str(unit), *ledger.argv]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as node:
        try:
            assert node.stdout is not None
            assert node.stdout.readline() == b"started\n"
            assert await says.line() == "up"
            launcher = launcher_of(node.pid)
            if together:
                kill(launcher)
            node.kill()
            # End-of-file on both: neither launcher nor supervisor holds the node's output open.
            assert node.communicate()[0] == b""
            await wait_gone(ProcessId(launcher.pid, launcher.started))
            assert read_status(unit)["State"] == 1
            go.write("")
            await wait_gone(supervisor_of(unit))
            status = read_status(unit)
            assert (status["State"], status["Detail"]) == (2, "exit status 0")
            assert ledger.runs == 1
        finally:
            node.kill()
            await end_units(tmp_path)
