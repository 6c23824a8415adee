"""The supervisor: one small process per running unit, parent of its command, writer of its status.

Its life, and what holds when it (or anything else) is killed at any point of it:

1. It claims the unit under the lock: Pending to Running, once
   (:meth:`~.statusfile.StatusFile.claim`). Then it reserves the room on the disk that the record of
   the end will need.
2. Only now it executes the command. So a unit that is Pending on disk never ran, and one that is
   not is never started again.
3. It tells the node.
4. It waits until no process of the unit is left that is not to go on, syncs its output, and
   records the end; where files are to be collected, for the node to make it the unit's.

If the supervisor itself is killed, the node finds and ends what is left of the unit.

A command that ends within its first moment leaves a supervisor that takes the next unit: to make
another one costs more than all else that a short unit needs. A command that goes on keeps its
supervisor, which lets go of node and launcher. Both may end from then on.

Two decisions that a user can see:

* **Left-behind processes are ended.** When the command ends by itself and leaves processes (a
  daemon, a job in the background), these get SIGTERM, the grace time and SIGKILL before the end is
  recorded. A final state says that output is complete, and they could still write to it. A type of
  work may let them go on (:mod:`.leaving`); the record then has the sizes of this moment.
* **Cancel against end.** What the supervisor sees first counts: a cancel taken after the command
  has ended changes nothing, and the state is what the command's end says; before, it is Canceled,
  also when the command handled SIGINT and left with 0 (its exit code is recorded either way).
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time

from meshnode import files
from meshnode.work.local.launcher import cancelsignal, command, records, tree, wire
from meshnode.work.local.launcher.commandtree import CommandTree, PlainRun
from meshnode.work.local.launcher.limits import TimeLimit
from meshnode.work.local.launcher.output import make_output
from meshnode.work.local.launcher.statusfile import (
    RUNNING,
    NotPending,
    StatusFile,
    UnitVanished,
)
from meshnode.work.local.launcher.wire import Record, Start, SupervisorChannel

UNIT_ID_VARIABLE = "MESHNODE_UNIT_ID"
"""Environment variable that tells a command (and its descendants) its unit."""

UNIT_DIR_VARIABLE = "MESHNODE_UNIT_DIR"
"""The unit's directory: unique on a machine, so it marks the processes that belong to a unit."""

RECORD_RETRY_SECONDS = 1.0
"""Seconds between tries to record an end on a disk that is full or fails; no event announces
room."""

FIRST_MOMENT_SECONDS = 0.1
"""Seconds that a command may run and still leave its supervisor to the next unit. For a longer one
the milliseconds of a new supervisor do not matter."""

SUPERVISOR_FAILED = 1
"""Exit code of a supervisor that met an error in its own code."""


def supervise(start: Start, node: int, channel: SupervisorChannel) -> None:
    """Supervise the unit of ``start``, and others while each ends at once; does not return.

    Runs in a process of its own, freshly forked, with only descriptors 0-2, ``node`` (the socket
    that answers go to) and those of ``channel`` open.
    """
    try:
        # The launcher blocks the others already. From now on this one is only waited for.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
        os.setsid()
        cancelsignal.become_subreaper()
        try:
            myself = tree.read_process(os.getpid())
        except OSError as error:
            wire.send(node, _refusal(start, error))
            os._exit(0)
        assert myself is not None
        # Once for all units: each look at os.environ decodes it.
        environment = dict(os.environ)
        following: Start | None = start
        while following is not None:
            start = following
            supervisor = Supervisor(start, myself, environment, node, channel)
            supervisor.run()
            following = channel.next_start() if supervisor.is_free else None
    except BaseException:  # noqa: BLE001 - a forked process must not go on as the launcher
        _log_crash(start.unit_dir)
        os._exit(SUPERVISOR_FAILED)
    os._exit(0)


def _refusal(start: Start, error: Exception, *, is_claimed: bool = False) -> wire.Refused:
    """Return the answer that there is no supervisor for a unit, and why."""
    passing = files.is_passing(error) and not is_claimed
    return wire.Refused(start, _describe(error), is_passing=passing)


class Supervisor:
    """What a supervisor process knows of its unit.

    Attributes:
        is_free: whether this process may take another unit after this one.
    """

    def __init__(
        self,
        start: Start,
        myself: tree.Process,
        environment: dict[str, str],
        node: int,
        channel: SupervisorChannel,
    ) -> None:
        self._request = start
        self._unit_id = start.unit_id
        self._dir = start.unit_dir
        self._time = TimeLimit(start.timeout)
        self._output = make_output(start.unit_dir, start.output)
        own = {UNIT_ID_VARIABLE: start.unit_id, UNIT_DIR_VARIABLE: start.unit_dir}
        self._env = (environment if start.env is None else start.env) | own
        self._run = _run_of(start)
        self._status = StatusFile(self._dir)
        self._myself = myself
        self._node = node
        self._channel = channel
        self._stdin = -1
        self._tree = CommandTree(self._output.wait_for, self._run, start.leave)
        self._command = 0
        """PID of the command."""
        self._left = 0
        """Processes that were ended since the command had left them behind."""
        self._moment_ends = 0.0
        self.is_free = True

    def run(self) -> None:
        """Start the command, tell the node, and watch to the recorded end."""
        # Cancels that came too late for the unit before this one. None can be for this unit: nobody
        # knows yet which process has it.
        while signal.sigtimedwait((signal.SIGTERM,), 0) is not None:
            pass
        try:
            record = self._start()
        except NotPending as error:
            self._tell_last(wire.Refused(self._request, str(error), is_taken=True))
        except (OSError, ValueError, UnitVanished) as error:
            # Not free: if the claim stands on disk after all, the end of this process shows that.
            self.is_free = False
            is_claimed = self._status.is_claimed
            wire.send(self._node, _refusal(self._request, error, is_claimed=is_claimed))
        else:
            process = self._myself
            if record["State"] == RUNNING:
                self._tell(wire.Started(self._request, process.pid, process.started, record))
                self._watch()
            else:
                self._tell_last(
                    wire.Started(self._request, process.pid, process.started, record, record)
                )
        finally:
            self._output.close()
            if self._tree.init is not None:
                self._tree.init.close()
            if self._stdin >= 0:
                os.close(self._stdin)

    def _tell(self, answer: wire.Answer) -> None:
        self.is_free = wire.send(self._node, answer)

    def _tell_last(self, answer: wire.Answer) -> None:
        # The node first. The launcher does not report the end of a free supervisor, so one that is
        # killed in between would leave a unit that runs for ever in the node's memory.
        self._tell(answer)
        self.is_free = self.is_free and self._run.is_reusable and self._channel.be_free()

    def _keep_for_itself(self) -> None:
        """Let go of node and launcher: this process stays with the unit, and may outlive both."""
        if not self.is_free:
            return
        self.is_free = False
        if self._tree.end is None:
            self._note_pid()
            self._run.watch()
        wire.send(self._node, wire.Alone(self._request))
        os.close(self._node)
        self._channel.leave()

    # --- the start ----------------------------------------------------------------------------

    def _start(self) -> Record:
        """Start the command, or record why that cannot be; return what is recorded.

        Raises:
            OSError, ValueError, NotPending, UnitVanished: it was not started.
        """
        stdout, stderr = self._output.open()
        self._stdin = self._open_stdin()
        known = self._request.known
        supervisor = {"Pid": self._myself.pid, "Started": self._myself.started}
        try:
            search_path = self._env.get("PATH", command.DEFAULT_PATH)
            program = command.find_executable(self._request.argv[0], search_path)
        except command.CannotExecute as error:
            failure = records.failure(str(error), self._output.files)
            record = known | {"Supervisor": supervisor} | failure
            self._status.claim(record, durable=True)
            return record
        record = known | records.start() | {"Supervisor": supervisor}
        self._status.claim(record)
        # Before the command can fill the disk with what it prints.
        self._status.reserve()
        try:
            self._run.make()
            self._spawn(program, (self._stdin, stdout, stderr))
        except command.CannotExecute as error:
            self._run.end()
            if error.is_passing:
                self._give_back(str(error))
            failure = records.failure(str(error), self._output.files)
            self._record(failure)
            return record | failure
        return record | records.running(self._command)

    def _spawn(self, program: str, standard: tuple[int, int, int]) -> None:
        """Execute the command. Raises CannotExecute."""
        request, how = self._request, self._request.isolation
        argv, env, cwd = request.argv, self._env, request.cwd
        if how is None:
            make = self._run.spawner()
            pid = command.spawn(program, argv, env, cwd, standard, posix_spawn=make)
            self._command = self._tree.pid = pid
            return
        # Imported here: no other unit needs the memory.
        from meshnode.work.local.launcher.isolation import IsolatedSpawn  # noqa: PLC0415

        isolated = IsolatedSpawn(how, self._unit_id, self._dir, cwd, self._run.rlimits)
        make = self._run.spawner(isolated.posix_spawn)
        pid = command.spawn(program, argv, env, None, standard, posix_spawn=make)
        self._tree.pid, self._tree.init = pid, isolated.init
        self._command = pid if isolated.init is None else isolated.init.command_pid()

    def _give_back(self, reason: str) -> None:
        """Undo the claim of a unit that cannot be executed now, if the disk takes that.

        Raises:
            OSError: with the reason; the unit is Pending.
        """
        try:
            self._status.unclaim()
        except (OSError, UnitVanished):
            return
        raise OSError(errno.EAGAIN, reason)

    def _open_stdin(self) -> int:
        try:
            stdin = files.open_file(self._dir + "/stdin", os.O_RDONLY)
        except FileNotFoundError:
            return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        # The command gets it as it expects one: it blocks.
        os.set_blocking(stdin, True)
        return stdin

    def _note_pid(self) -> None:
        """Write down the PID for the next run of the node; short commands need no such write."""
        try:
            self._status.note(records.running(self._command))
        except (UnitVanished, OSError):
            # Nothing depends on it. On a full disk, the record of the end has its own room.
            return

    # --- the watch ----------------------------------------------------------------------------

    def _watch(self) -> None:
        """Wait until the unit's processes are gone, and record the end."""
        self._moment_ends = time.monotonic() + FIRST_MOMENT_SECONDS
        self._time.begin()
        self._output.begin()
        ended = self._wait_tree()
        self._output.finish()
        if ended is None and self._output.overflow is not None:
            ended = records.stopped(self._output.overflow)
        wait_status = self._tree.end
        assert wait_status is not None
        ended = ended or self._run.broken()
        end = records.end(
            self._command, wait_status, self._output.files, ended, self._left, self._tree.left
        )
        # First: a final state says that nothing is left, and what it took.
        end = records.held(end | self._run.end(), self._request.holds)
        self._record(end)
        if self.is_free:
            self._tell_last(wire.Ended(self._request, end))

    def _wait_tree(self) -> Record | None:
        """Return when the tree is gone: what to record if it was ended, not by itself."""
        while True:
            info = self._wait()
            if self._tree.reap():
                return None
            if self._tree.end is not None:
                # First, since it takes as long as the processes please; and what goes on descends
                # from this process, which may not take another unit.
                self._keep_for_itself()
                self._left = self._tree.end_left(self._request.grace)
                return None
            is_late = self._time.broken()
            broken = is_late or self._output.overflow
            if info is not None and self._is_cancel(info):
                # Read now: who asks again meanwhile has not ended it.
                record = records.canceled(self._dir, info)
                self._end_tree()
                return record
            if broken is not None:
                # As timeout(1) has it; a shell in the background is deaf to SIGINT.
                self._end_tree(signal.SIGTERM if is_late else signal.SIGINT)
                return records.stopped(broken)
            if self._run.broken() is not None:
                # The kernel has killed a part; what is left of the command is of no use.
                self._tree.end_all(0, signal.SIGKILL)
                return None

    def _end_tree(self, first: int = signal.SIGINT) -> None:
        self._keep_for_itself()
        self._tree.end_all(self._request.grace, first)

    def _is_cancel(self, info: signal.struct_siginfo) -> bool:
        # The node may have meant the unit before this one, if it did not know of its end yet.
        return info.si_signo == signal.SIGTERM and cancelsignal.is_for(info, self._unit_id)

    def _wait(self) -> signal.struct_siginfo | None:
        """Return the next signal, None when a limit should be looked at."""
        seconds = self._time.left()
        if self.is_free:
            moment = self._moment_ends - time.monotonic()
            if moment > 0:
                seconds = moment if seconds is None else min(moment, seconds)
                return self._output.wait_for(self._run.WAKING, seconds)
            self._keep_for_itself()
        return self._output.wait_for(self._run.WAKING, seconds)

    def _record(self, end: Record) -> None:
        """Record the end, however long the disk refuses it, unless the unit was released."""
        while True:
            try:
                self._status.finish(end)
            except UnitVanished:
                # The node is told of no end that is not on disk. It looks there, and sees why.
                self._keep_for_itself()
                return
            except OSError:
                self._keep_for_itself()
                time.sleep(RECORD_RETRY_SECONDS)
            else:
                return


def _run_of(start: Start) -> PlainRun:
    """Return what makes, bounds, counts and ends the processes of a unit."""
    if start.limits is None:
        return PlainRun()
    # Imported here: most units have no limits.
    from meshnode.work.local.launcher.limitedrun import LimitedRun  # noqa: PLC0415

    # An init counts as a process of the group, and is none of the command's.
    helpers = 1 if start.isolation is not None and start.isolation.get("pid") else 0
    is_left = start.leave is not None
    return LimitedRun(start.limits, start.unit_id, is_left=is_left, helpers=helpers)


def _describe(error: Exception) -> str:
    """Return one line for a person: why there is no supervisor for the unit."""
    if isinstance(error, UnitVanished):
        return f"the unit's directory is gone: {error}"
    if isinstance(error, OSError):
        if isinstance(error, files.NotOurs):
            return f"cannot start the command: {error}"
        where = f" ({error.filename})" if error.filename else ""
        text = error.strerror or str(error)
        return f"cannot start the command: {text[:1].lower()}{text[1:]}{where}"
    return str(error)


def _log_crash(unit_dir: str) -> None:
    """Write the current exception's traceback to ``supervisor.log`` in the unit's directory."""
    try:
        flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY
        os.dup2(files.open_file(unit_dir + "/supervisor.log", flags), 2)
    except OSError:
        # The unit is gone or the disk is broken: the exit code is all that can be said.
        return
    # Written in C, without importing the traceback module in the middle of a failure.
    sys.__excepthook__(*sys.exc_info())
