"""The node's end of the launcher: starts units' commands, and the launcher itself again.

Why a start that was interrupted is safe to repeat: the launcher's end of the socket is held by the
launcher and by every supervisor that has not answered yet, or watches over the first moment of its
command. End-of-file therefore says that none of them is left, and every answer has been read before
it. A unit that is still Pending on disk then was never executed and never will be, and the
supervisor's claim (launcher/statusfile.py) lets no second supervisor execute a unit anyway.
"""

import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import trio

from meshnode import files
from meshnode.errors import WorkError
from meshnode.logs import subject_logger
from meshnode.resources import in_thread
from meshnode.work.local import launcher
from meshnode.work.local.launcher import wire
from meshnode.work.local.launcher.statusfile import MAX_STATUS_BYTES
from meshnode.work.local.processes import ProcessId, mark_of
from meshnode.work.units.shortage import NotNow, Pauses

START_ATTEMPTS = 3
"""Launchers tried for one start. One may be killed, and so may the next; three in the time of one
start are a fault that trying does not mend."""

LAUNCHER_END_SECONDS = 1.0
"""Time for a launcher to end after its socket was closed, before it is killed. It needs about a
millisecond; a stopped one must not keep the node from ending within its own 2 s."""

DEFAULT_GRACE_SECONDS = 10.0
"""Time between SIGINT and SIGKILL at a cancel, as receptor gives it."""


class LauncherClosed(WorkError):
    """The node is ending; whether the unit was started stands in its status, now or soon."""


class OutcomeUnknown(WorkError):
    """A start may have happened: there is no answer, and the status does not tell."""


@dataclass(frozen=True, slots=True)
class StartRequest:
    """One command to start.

    The unit's directory must hold a ``status`` with ``State`` Pending; ``stdin`` may be missing.

    Attributes:
        unit_id: for messages, and MESHNODE_UNIT_ID of the command.
        unit_dir: the unit's directory; MESHNODE_UNIT_DIR of the command.
        argv: program and arguments, passed on as they are, never through a shell.
        grace: seconds between asking the command's processes to end and killing them.
        env: the whole environment (PATH is looked up in it), None for the node's own.
        cwd: working directory, None for the node's own.
        timeout: seconds that the command may run, None for ever.
        max_output: bytes that it may print, None for any number.
        known: keys of the status that are not on disk yet, and are written when it starts.
    """

    unit_id: str
    unit_dir: Path
    argv: tuple[str, ...]
    grace: float = DEFAULT_GRACE_SECONDS
    env: Mapping[str, str] | None = None
    cwd: str | None = None
    timeout: float | None = None
    max_output: int | None = None
    known: Mapping[str, object] = field(default_factory=dict)

    def encode(self, number: int) -> bytes:
        """Return the request as the launcher reads it; answers carry ``number``.

        Raises:
            WorkError: it is larger than any command line can be.
        """
        body = {
            "start": number,
            "unit": self.unit_id,
            # As bytes mean it: the launcher always runs in UTF-8 mode, whatever the node's locale.
            "dir": os.fsencode(mark_of(self.unit_dir)).decode("utf-8", "surrogateescape"),
            "argv": self.argv,
            "grace": self.grace,
            "env": None if self.env is None else dict(self.env),
            "cwd": self.cwd,
            "timeout": self.timeout,
            "max_output": self.max_output,
            "known": dict(self.known),
        }
        request = json.dumps(body).encode()
        if len(request) > wire.MAX_REQUEST_BYTES:
            raise WorkError(f"the command line of unit {self.unit_id} is too long")
        return request


class _Asked:
    """One start that was asked for, and what is heard of it."""

    __slots__ = ("answered", "end", "reply", "settled")

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.reply: dict[str, Any] | None = None
        """Stays None when none will come."""
        self.settled = trio.Event()
        """Set when no more is to come."""
        self.end: dict[str, Any] | None = None

    def take(self, reply: dict[str, Any]) -> None:
        if "supervisor" in reply or "error" in reply:
            self.reply = reply
        self.end = reply.get("ended")
        self.answered.set()
        if "supervisor" not in reply or self.end is not None:
            self.settled.set()

    def close(self) -> None:
        self.answered.set()
        self.settled.set()


@dataclass(frozen=True, slots=True)
class Started:
    """A start that has happened.

    Attributes:
        process: the unit's supervisor.
        record: what the supervisor has changed in the unit's status; None if only the disk tells.
    """

    process: ProcessId
    record: Mapping[str, Any] | None = None
    asked: _Asked | None = None

    async def first_moment(self) -> Mapping[str, Any] | None:
        """Return the record of its end if the command ends at once.

        None if it goes on, or if nobody can tell: then its supervisor is to be watched, which has
        nothing else to do any more.
        """
        if self.asked is None:
            return None
        await self.asked.settled.wait()
        return self.asked.end


class _LauncherProcess:
    """One launcher process and the starts that were asked of it."""

    def __init__(self, descriptors: int | None) -> None:
        self._descriptors = descriptors
        self.usable = False
        self._closed = False
        self._asked: dict[int, _Asked] = {}
        self._numbers = itertools.count(1)
        self._sending = trio.Lock()
        self._log = subject_logger("launcher")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the process; return when it has ended and every answer has been read.

        Raises:
            OSError: it cannot be started.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = trio.socket.from_stdlib_socket(ours)
        with self._socket:
            with theirs:
                # Not trio's own, which knows no remedy where the system starts no thread.
                argv = _launcher_argv(self._descriptors)
                process = await in_thread(_spawn, argv, theirs)
            try:
                await self._serve(process, task_status)
            except BaseException:
                # The node ends (or fails): supervisors on their way go on, with nobody to tell.
                self._closed = True
                raise
            finally:
                self.usable = False
                self._socket.close()
                for asked in self._asked.values():
                    asked.close()
                await _end_process(process)

    async def _serve(
        self, process: subprocess.Popen[bytes], task_status: trio.TaskStatus[None]
    ) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, process)
            self.usable = True
            task_status.started()
            await self._read_replies()

    async def ask(self, request: StartRequest) -> _Asked:
        """Ask for one start; return once it is answered, or will not be.

        Raises:
            LauncherClosed: nobody will read an answer.
            WorkError: the request is too large.
        """
        number = next(self._numbers)
        packets = wire.split_request(request.encode(number))
        asked = self._asked[number] = _Asked()
        try:
            async with self._sending:
                for packet in packets:
                    await self._socket.send(packet)
            await asked.answered.wait()
        except (OSError, trio.ClosedResourceError):
            # The last packet did not get out, so there is nothing that the launcher could act on.
            self.usable = False
            del self._asked[number]
        if self._closed and asked.reply is None:
            raise LauncherClosed("the node is ending")
        return asked

    async def _watch(self, process: subprocess.Popen[bytes]) -> None:
        # A supervisor may hold the socket open a little longer; new starts must not go there.
        code = await _wait_end(process)
        self.usable = False
        self._log.warning("process %d ended (%d); the next start brings another", process.pid, code)

    async def _read_replies(self) -> None:
        reset = False
        while True:
            try:
                packet = await self._socket.recv(wire.MAX_PACKET_BYTES)
            except ConnectionResetError:
                # The launcher ended with requests unread. The kernel says so once, before it
                # hands out the answers that had been sent.
                if reset:
                    break
                reset = True
                continue
            if not packet:
                break
            self._take_reply(json.loads(packet))
        self.usable = False

    def _take_reply(self, reply: dict[str, Any]) -> None:
        if "gone" in reply:
            subject_logger("unit", reply["unit"]).warning("its supervisor ended: %s", reply["gone"])
        asked = self._asked.get(reply["start"])
        if asked is not None:
            asked.take(reply)
            if asked.settled.is_set():
                del self._asked[reply["start"]]


class Starter(Protocol):
    """What starts supervisors: :class:`Launcher`, or a stand-in."""

    async def run(self, *, task_status: trio.TaskStatus[None] = ...) -> None:
        """Be able to start, until cancelled."""
        ...

    async def start(self, request: StartRequest) -> Started:
        """Return when the command runs, or its failure to is on disk.

        Raises:
            LauncherClosed: the node is ending; the unit's status tells, now or soon.
            NotNow: the machine lacks something; the same may be tried again.
            OutcomeUnknown: nobody can tell whether it was started.
            WorkError: no supervisor could be started.
        """
        ...


class Launcher:
    """Starts commands for units; one per node."""

    def __init__(self, descriptors: int | None = None) -> None:
        """``descriptors`` is the soft limit that commands get, None for this process's own."""
        self._descriptors = descriptors
        self._nursery: trio.Nursery | None = None
        self._process: _LauncherProcess | None = None
        self._spawning = trio.Lock()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the launcher process until cancelled; supervisors and their commands go on then.

        A launcher that dies is logged, and replaced by the next start, so one that always dies
        costs one process a start and never spins.

        Raises:
            WorkError: the first launcher cannot be started.
        """
        failure: WorkError | None = None
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    await self._usable_process()
                except WorkError as error:
                    # Raised outside, because a nursery would wrap it in a group.
                    failure = error
                else:
                    task_status.started()
                    await trio.sleep_forever()
        finally:
            self._nursery = self._process = None
        if failure is not None:
            raise failure

    async def start(self, request: StartRequest) -> Started:
        """Start a unit's command, unless that has happened; return what is known of it.

        When it returns, the command was executed, or could not be and that is recorded in the
        status. When the supervisor was killed in between, its id is returned all the same: its
        handle then cannot be opened, and what was recorded so far stands in the status. So it is
        when the unit turns out to have been started before (say, by the launcher of a node that
        was killed a moment ago): one start more never does harm.
        A caller that is cancelled does not know the outcome; the status tells, now or soon.

        Raises:
            LauncherClosed: the node is ending.
            NotNow: the command was not executed for want of something; it may be tried again.
            OutcomeUnknown: nobody can tell what was started.
            WorkError: there is no supervisor, and the command was not and will not be executed.
        """
        for _ in range(START_ATTEMPTS):
            process = await self._usable_process()
            asked = await process.ask(request)
            reply = asked.reply
            if reply is not None and "supervisor" in reply:
                supervisor = ProcessId(reply["supervisor"], reply["started"])
                return Started(supervisor, reply["record"], asked)
            if reply is not None and not reply.get("taken"):
                raise (NotNow if reply.get("again") else WorkError)(reply["error"])
            recorded = await _recorded_supervisor(request.unit_dir)
            if recorded is not None:
                return Started(recorded)
            if reply is not None:
                raise WorkError(reply["error"])
        raise WorkError(f"the launcher ended {START_ATTEMPTS} times, the command was not started")

    async def _usable_process(self) -> _LauncherProcess:
        async with self._spawning:
            if self._nursery is None:
                raise LauncherClosed("the node is ending")
            if self._process is None or not self._process.usable:
                process = _LauncherProcess(self._descriptors)
                try:
                    await self._nursery.start(process.run)
                except OSError as error:
                    kind = NotNow if files.is_passing(error) else WorkError
                    raise kind(f"cannot start the launcher: {error.strerror}") from error
                self._process = process
            return self._process


def _launcher_argv(descriptors: int | None) -> list[str]:
    program = Path(launcher.__file__).with_name("__main__.py")
    options = [] if descriptors is None else [str(descriptors)]
    return [sys.executable, "-I", "-S", "-X", "utf8", str(program.absolute()), *options]


def _spawn(argv: list[str], stdin: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, stdin=stdin.fileno())


async def _end_process(process: subprocess.Popen[bytes]) -> None:
    """Wait for the process, which sees its socket closed; kill it when it does not end."""
    with trio.CancelScope(shield=True):
        with trio.move_on_after(LAUNCHER_END_SECONDS):
            await _wait_end(process)
        if process.poll() is None:
            process.kill()
            await _wait_end(process)


async def _wait_end(process: subprocess.Popen[bytes]) -> int:
    """Return how a child has ended, as soon as it has."""
    pauses = Pauses()
    while (code := process.poll()) is None:
        try:
            pidfd = os.pidfd_open(process.pid)
        except OSError:
            # No descriptor is left for the event.
            await pauses.take()
            continue
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
    return code


async def _recorded_supervisor(unit_dir: Path) -> ProcessId | None:
    """Return the supervisor that took the unit out of Pending, None when none did.

    Raises:
        OutcomeUnknown: the status cannot be read.
    """
    pauses = Pauses()
    while True:
        try:
            return await in_thread(_read_supervisor, unit_dir / "status")
        except (
            OSError,
            ValueError,
            RecursionError,
            LookupError,
            TypeError,
            AttributeError,
        ) as error:
            if not files.is_passing(error):
                text = f"cannot tell from {unit_dir}/status what was started: {error}"
                raise OutcomeUnknown(text) from error
        await pauses.take()


def _read_supervisor(path: Path) -> ProcessId | None:
    recorded = json.loads(files.read_file(path, MAX_STATUS_BYTES)).get("Supervisor")
    return None if recorded is None else ProcessId(recorded["Pid"], recorded["Started"])
