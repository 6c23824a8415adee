"""Units on disk, commands that say when they have come to a point, and waits for real processes.

Nothing here looks again after a while: ends come from pidfds, lines from pipes, files from inotify.
"""

import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trio
from inotify_simple import INotify, flags

from meshnode.work.local.client import Launcher
from meshnode.work.local.launcher import tree
from meshnode.work.local.launcherprocess import Started, StartRequest
from meshnode.work.local.processes import ProcessHandle, ProcessId, end_unit_processes

PATIENCE = 60.0
"""Seconds until a wait fails. Only what is broken takes so long; a passing test never waits it."""

Status = dict[str, Any]


def make_unit(root: Path, name: str = "unit", stdin: bytes | None = None) -> Path:
    """Return the directory of a new pending unit."""
    directory = root / name
    directory.mkdir(mode=0o700)
    status = {"State": 0, "Detail": "x", "WorkType": "t", "ExtraData": None, "Created": "now"}
    (directory / "status").write_text(json.dumps(status))
    if stdin is not None:
        (directory / "stdin").write_bytes(stdin)
    return directory


def read_status(directory: Path) -> Status:
    """Return the unit's status."""
    status: Status = json.loads((directory / "status").read_bytes())
    return status


def supervisor_of(directory: Path) -> ProcessId | None:
    """Return the recorded supervisor."""
    recorded = read_status(directory).get("Supervisor")
    return None if recorded is None else ProcessId(recorded["Pid"], recorded["Started"])


def launcher_of(parent: int) -> tree.Process:
    """Return the one living launcher process of the node with this pid."""

    def is_launcher(process: tree.Process) -> bool:
        if process.parent != parent or process.dead:
            return False
        try:
            arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return False
        if not arguments:
            # Its spawner goes on within its exec: for a moment the kernel shows none. Or it has
            # just ended.
            now = tree.read_process(process.pid)
            return now is not None and not now.dead
        return b"launcher/__main__.py" in arguments

    (launcher,) = filter(is_launcher, tree.all_processes())
    return launcher


async def wait_gone(process: ProcessId | None) -> None:
    """Wait until a process has ended."""
    assert process is not None
    try:
        handle = ProcessHandle.open(process)
    except ProcessLookupError:
        return
    with handle, trio.fail_after(PATIENCE):
        await handle.wait_end()


def kill(process: ProcessId | tree.Process, signum: int = signal.SIGKILL) -> None:
    """Signal one process."""
    assert tree.send_signal(process.pid, process.started, signum)


async def run_unit(launcher: Launcher, directory: Path, *argv: str, **options: Any) -> Status:
    """Start a unit's command, wait for its recorded end, and return the status."""
    await wait_end(await launcher.start(StartRequest(directory.name, directory, argv, **options)))
    return read_status(directory)


async def run_on(
    launcher: Launcher, root: Path, supervisor: ProcessId, *argv: str, **options: Any
) -> Status:
    """Run units until this free supervisor has one; return that one's status.

    The launcher may not know yet that it is free, and start others. The more units run at once, the
    fewer are left that could be chosen in its place.
    """
    for count in range(1, 9):
        units = [make_unit(root, f"next-{count}-{number}") for number in range(count)]
        async with trio.open_nursery() as nursery:
            for unit in units:
                nursery.start_soon(partial(run_unit, launcher, unit, *argv, **options))
        for unit in units:
            if supervisor_of(unit) == supervisor:
                return read_status(unit)
    raise AssertionError(f"no unit came to {supervisor}")


async def wait_end(started: Started) -> None:
    """Wait until the supervisor has recorded the unit's end, or is gone without."""
    with trio.fail_after(PATIENCE):
        end = await started.first_moment()
    if end is None:
        await wait_gone(started.process)


async def start_lasting(launcher: Launcher, request: StartRequest) -> ProcessId:
    """Start a command that goes on; return its supervisor once that has nothing else to do."""
    started = await launcher.start(request)
    with trio.fail_after(PATIENCE):
        assert await started.first_moment() is None
    return started.process


@contextlib.asynccontextmanager
async def running_launcher(root: Path) -> AsyncIterator[Launcher]:
    """Run a launcher; afterwards nothing of the units below ``root`` is left."""
    launcher = Launcher()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(launcher.run)
            yield launcher
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await end_units(root)


async def end_units(root: Path) -> None:
    """End the supervisors and commands of all units below ``root``."""
    for directory in root.glob("*/"):
        with contextlib.suppress(FileNotFoundError):
            process = supervisor_of(directory)
            if process is not None:
                tree.send_signal(process.pid, process.started, signal.SIGKILL)
                await wait_gone(process)
        await end_unit_processes(directory, grace=0)


class Fifo:
    """A named pipe: commands write lines into it to say where they are, or read to be let on."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        # Open both ways, so that no end of a command is an end of the pipe.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._text = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def write(self, text: str) -> None:
        """Write a line for a command to read."""
        os.write(self._fd, text.encode() + b"\n")

    async def line(self) -> str:
        """Return the next line that a command wrote."""
        with trio.fail_after(PATIENCE):
            while b"\n" not in self._text:
                await trio.lowlevel.wait_readable(self._fd)
                self._text += os.read(self._fd, 4096)
        line, self._text = self._text.split(b"\n", 1)
        return line.decode()


class FileEvents:
    """Tells when a file is opened or made in a directory, from when this object is made."""

    def __init__(self, directory: Path) -> None:
        self._inotify = INotify(nonblocking=True)
        self._inotify.add_watch(directory, flags.CREATE | flags.OPEN)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._inotify.close()

    async def wait_opened(self, name: str) -> None:
        """Wait until a file of that name is opened or made."""
        with trio.fail_after(PATIENCE):
            while True:
                await trio.lowlevel.wait_readable(self._inotify.fileno())
                if any(event.name == name for event in self._inotify.read(timeout=0)):
                    return
