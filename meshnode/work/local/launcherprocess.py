"""One process of the launcher, as the node sees it: starts are asked of it, answers come back."""

import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from meshnode.errors import WorkError
from meshnode.logs import subject_logger
from meshnode.resources import in_thread
from meshnode.work.local import launcher
from meshnode.work.local.launcher import wire
from meshnode.work.local.processes import ProcessId
from meshnode.work.units.shortage import Pauses

LAUNCHER_END_SECONDS = 1.0
"""Seconds for a launcher to end after its socket was closed; then it is killed. It needs about 1
ms; a stopped one must not delay the end of the node, which has 2 s."""

DEFAULT_GRACE_SECONDS = 10.0
"""Seconds between SIGINT and SIGKILL at a cancel, as in receptor."""


class LauncherClosed(WorkError):
    """The node is ending; whether the unit was started stands in its status, now or soon."""


@dataclass(frozen=True, slots=True)
class StartRequest:
    """One command to start.

    The unit's directory must hold a ``status`` with ``State`` Pending; ``stdin`` may be missing.

    Attributes:
        unit_id: for messages, and MESHNODE_UNIT_ID of the command.
        unit_dir: the unit's directory, with no link in its path; MESHNODE_UNIT_DIR of the command.
        argv: program and arguments, passed on as they are, never through a shell.
        grace: seconds between asking the command's processes to end and killing them.
        env: the whole environment (PATH is looked up in it), None for the node's own.
        cwd: working directory, None for the node's own.
        timeout: seconds that the command may run, None for ever.
        max_output: bytes that it may print, None for any number.
        leave: which processes go on after the unit's end: all that the command leaves, those that
            match a pattern, or None.
        separate: whether its errors go to a file of their own, ``stderr``.
        indexed: whether it is kept in ``index`` when each piece of its output came.
        known: keys of the status that are not on disk yet, and are written when it starts.
        isolation: how it is isolated (``isolation.IsolationPlan.order``), None for not at all.
        limits: what ``cgroups.JobGroups.order`` writes of its limits, None if it has none.
        holds: whether the record of the end is for the node to complete, with the job's files.
    """

    unit_id: str
    unit_dir: Path
    argv: tuple[str, ...]
    grace: float = DEFAULT_GRACE_SECONDS
    env: Mapping[str, str] | None = None
    cwd: str | None = None
    timeout: float | None = None
    max_output: int | None = None
    leave: bool | tuple[str, ...] | None = None
    separate: bool = False
    indexed: bool = False
    known: Mapping[str, object] = field(default_factory=dict)
    isolation: Mapping[str, object] | None = None
    limits: str | None = None
    holds: bool = False

    def encode(self, number: int) -> bytes:
        """Return the request as the launcher reads it; answers carry ``number``.

        Raises:
            WorkError: it is larger than any command line can be.
        """
        start = wire.Start(
            number,
            self.unit_id,
            # As bytes mean it: the launcher always runs in UTF-8 mode, whatever the node's locale.
            os.fsencode(self.unit_dir).decode("utf-8", "surrogateescape"),
            list(self.argv),
            self.grace,
            env=None if self.env is None else dict(self.env),
            cwd=self.cwd,
            timeout=self.timeout,
            output=self._output_plan(),
            leave=list(self.leave) if isinstance(self.leave, tuple) else self.leave,
            known=dict(self.known),
            isolation=None if self.isolation is None else dict(self.isolation),
            limits=self.limits,
            holds=self.holds,
        )
        request = start.encode()
        if len(request) > wire.MAX_REQUEST_BYTES:
            raise WorkError(f"the command line of unit {self.unit_id} is too long")
        return request

    def _output_plan(self) -> wire.OutputPlan | None:
        """Return what is asked of the output; None if all of it may simply go to one file."""
        if self.max_output is None and not self.separate and not self.indexed:
            return None
        return wire.OutputPlan(self.max_output, separate=self.separate, indexed=self.indexed)


class PendingStart:
    """One start that was asked for, and what is heard of it."""

    __slots__ = ("answered", "end", "reply", "settled")

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.reply: wire.Started | wire.Refused | None = None
        """Stays None when none will come."""
        self.settled = trio.Event()
        """Set when no more is to come."""
        self.end: wire.Record | None = None
        """What was recorded of a command that ended within its first moment."""

    def take(self, answer: wire.Answer) -> None:
        """Take an answer of the launcher, or of the supervisor."""
        goes_on = False
        match answer:
            case wire.Started():
                self.reply, self.end = answer, answer.end
                goes_on = answer.end is None
            case wire.Refused():
                self.reply = answer
            case wire.Ended():
                self.end = answer.record
        self.answered.set()
        if not goes_on:
            self.settled.set()

    def close(self) -> None:
        """Have nobody wait any more: nothing else will come."""
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
    asked: PendingStart | None = None

    async def first_moment(self) -> Mapping[str, Any] | None:
        """Return the record of its end if the command ends at once.

        None if it goes on, or if nobody can tell: then its supervisor is to be watched, which has
        nothing else to do any more.
        """
        if self.asked is None:
            return None
        await self.asked.settled.wait()
        return self.asked.end


class LauncherProcess:
    """One launcher process, and the starts that were asked of it.

    Attributes:
        usable: whether new starts may be asked of it.
    """

    def __init__(self, descriptors: int | None) -> None:
        self._descriptors = descriptors
        self.usable = False
        self._closed = False
        self._asked: dict[int, PendingStart] = {}
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
            await self._read_answers()

    async def ask(self, request: StartRequest) -> PendingStart:
        """Ask for one start; return once it is answered, or will not be.

        Raises:
            LauncherClosed: nobody will read an answer.
            WorkError: the request is too large.
        """
        number = next(self._numbers)
        packets = wire.split_request(request.encode(number))
        asked = self._asked[number] = PendingStart()
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

    async def _read_answers(self) -> None:
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
            self._take(wire.parse_answer(packet))
        self.usable = False

    def _take(self, answer: wire.Answer) -> None:
        if isinstance(answer, wire.Gone):
            log = subject_logger("unit", answer.unit_id)
            log.warning("its supervisor ended: %s", answer.reason)
        asked = self._asked.get(answer.number)
        if asked is not None:
            asked.take(answer)
            if asked.settled.is_set():
                del self._asked[answer.number]


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
