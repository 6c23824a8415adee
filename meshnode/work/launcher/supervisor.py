"""The supervisor: one small process per unit, parent of the command, writer of the unit's status.

Its life, and what holds when it (or anything else) is killed at any point of it:

1. It forks the command's process, which waits at a gate. 2. Under the lock it takes the unit from
Pending to Running, once (:meth:`~.statusfile.StatusFile.claim`), and takes the room on the disk
that the record of the end will need. 3. It opens the gate: only now is the command executed, so a
unit that is still Pending on disk never ran, and one that is not can never be started again. 4. It
tells the node and lets go of the node's socket; node and launcher may end from here on. 5. It waits
until no process of the unit is left, syncs stdout, and records the end. When the supervisor itself
is killed, the kernel kills the command; the node finds and ends what the command left behind.

Two decisions that a user can see:

* **Left-behind processes are ended.** When the command ends by itself and leaves processes (a
  daemon, a job in the background), these get SIGTERM, the grace time and SIGKILL before the end is
  recorded. A final state says that stdout is complete, and they could still write to it.
* **Cancel against end.** What the supervisor sees first counts: a cancel taken after the command
  has ended changes nothing, and the state is what the command's end says; before, it is Canceled,
  also when the command handled SIGINT and left with 0 (its exit code is recorded either way).
"""

from __future__ import annotations

import json
import os
import signal
import time

from meshnode.work.launcher import command, prctl, tree
from meshnode.work.launcher.limits import LONGEST_WAIT_SECONDS, Limits
from meshnode.work.launcher.statusfile import (
    CANCELED,
    FAILED,
    FILE_MODE,
    RUNNING,
    SUCCEEDED,
    NotPending,
    StatusFile,
    UnitVanished,
    sync,
)

UNIT_ID_VARIABLE = "MESHNODE_UNIT_ID"
"""Environment variable that tells a command (and its descendants) its unit."""

UNIT_DIR_VARIABLE = "MESHNODE_UNIT_DIR"
"""The unit's directory: unique on a machine, so it marks the processes that belong to a unit."""

RECORD_RETRY_SECONDS = 1.0
"""Wait before another try to record an end on a disk that is full or failing. No event says that
there is room again; a try costs some microseconds, so one a second does not load the machine."""

FULL_BYTES = 64 * 1024
"""Free bytes below which a disk counts as full: what a write did not find room for may be more than
is left."""

KILL_RETRY_SECONDS = 1.0
"""Wait before another look for survivors of SIGKILL. Every end wakes the supervisor at once; the
time only bounds how long a process that a look at /proc missed could go on."""

_WAKING = (signal.SIGCHLD, signal.SIGTERM)

Request = dict[str, object]
"""What :mod:`meshnode.work.launch` asks for: ``start`` (number of the request), ``unit``, ``dir``,
``argv``, ``grace`` (seconds), ``env`` (str to str) or null for the launcher's own, ``cwd`` or null,
``timeout`` (seconds) or null, ``max_output`` (bytes of stdout) or null.
"""


def supervise(request: Request, reply_fd: int) -> None:
    """Start the command of ``request``, answer on ``reply_fd``, and watch to the recorded end.

    Runs in a process of its own, freshly forked, with only descriptors 0-2 and ``reply_fd`` open.
    """
    # Beside what the launcher holds back already; from now on it is only ever waited for.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
    os.setsid()
    prctl.become_subreaper()
    supervisor = Supervisor(request)
    try:
        running = supervisor.start()
    except NotPending as error:
        answer(reply_fd, request, {"error": str(error), "taken": True})
        return
    except (OSError, ValueError, UnitVanished) as error:
        answer(reply_fd, request, {"error": _describe(error)})
        return
    answer(reply_fd, request, supervisor.identity)
    os.close(reply_fd)
    if running:
        supervisor.watch()


def answer(reply_fd: int, request: Request, outcome: dict[str, object]) -> None:
    """Tell the node what became of a request; a node that is gone will read the disk instead."""
    packet = {"start": request["start"], "unit": request["unit"]} | outcome
    try:
        os.write(reply_fd, json.dumps(packet).encode())
    except (BrokenPipeError, ConnectionResetError):
        return


class Supervisor:
    """What one supervisor process knows of its unit.

    Attributes:
        identity: own ``supervisor`` pid and ``started`` ticks, as the reply carries them.
    """

    def __init__(self, request: Request) -> None:
        self._argv: list[str] = list(request["argv"])  # type: ignore[call-overload]
        self._cwd: str | None = request["cwd"]  # type: ignore[assignment]
        self._grace = float(request["grace"])  # type: ignore[arg-type]
        self._dir = str(request["dir"])
        self._limits = Limits(request["timeout"], request["max_output"])  # type: ignore[arg-type]
        env: dict[str, str] | None = request["env"]  # type: ignore[assignment]
        own = {UNIT_ID_VARIABLE: str(request["unit"]), UNIT_DIR_VARIABLE: self._dir}
        self._env = (dict(os.environ) if env is None else env) | own
        self._status = StatusFile(self._dir)
        self._stdout = -1
        self._pid = 0
        self._end: int | None = None
        """Wait status of the command, once it has ended."""
        myself = tree.read_process(os.getpid())
        assert myself is not None
        self.identity: dict[str, object] = {"supervisor": myself.pid, "started": myself.started}

    # --- the start ----------------------------------------------------------------------------

    def start(self) -> bool:
        """Start the command; return whether it runs (else its failure is recorded).

        Raises:
            OSError, ValueError, NotPending, UnitVanished: it was not started, nothing is recorded.
        """
        flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC
        self._stdout = os.open(self._dir + "/stdout", flags, FILE_MODE)
        try:
            search_path = self._env.get("PATH", command.DEFAULT_PATH)
            program = command.find_executable(self._argv[0], search_path)
        except command.CannotExecute as error:
            self._status.claim(self._myself() | self._failure(str(error)), durable=True)
            return False
        failure = self._execute(program)
        if failure is None:
            return True
        os.waitpid(self._pid, 0)
        self._record(self._failure(failure))
        return False

    def _execute(self, program: str) -> str | None:
        """Fork, claim, open the gate; return why the command could not be executed, if so."""
        stdin = self._open_stdin()
        gate_read, gate_write = os.pipe()
        failure_read, failure_write = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(gate_write)
            self._be_command(program, stdin, gate_read, failure_write)
        for fd in (stdin, gate_read, failure_write):
            os.close(fd)
        try:
            self._status.claim(self._running())
            # Before the command can fill the disk with what it prints.
            self._status.reserve()
        except BaseException:
            # At the pipe's end the process at the gate leaves; it must be gone before the answer.
            os.close(gate_write)
            os.waitpid(self._pid, 0)
            raise
        _open_gate(gate_write)
        with open(failure_read, "rb") as pipe:
            return pipe.read().decode(errors="replace") or None

    def _open_stdin(self) -> int:
        try:
            return os.open(self._dir + "/stdin", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _be_command(self, program: str, stdin: int, gate: int, failure: int) -> None:
        """In the child: wait at the gate, then become the command; does not return.

        Every other descriptor closes itself at exec, the node's socket among them.
        """
        try:
            prctl.die_with_parent()
            os.setpgid(0, 0)
            if os.read(gate, 1) == command.GO:
                os.dup2(stdin, 0)
                os.dup2(self._stdout, 1)
                os.dup2(self._stdout, 2)
                command.become(program, self._argv, self._env, self._cwd)
        except BaseException as error:  # noqa: BLE001 - the forked child must not run on as us
            os.write(failure, str(error).encode(errors="backslashreplace"))
        finally:
            os._exit(command.NOT_EXECUTED)

    # --- the watch ----------------------------------------------------------------------------

    def watch(self) -> None:
        """Wait until no process of the unit is left, and record the end."""
        self._limits.begin(self._dir, self._stdout)
        self._record(self._outcome(self._wait_tree()))

    def _wait_tree(self) -> tuple[int, str] | None:
        """Return when the whole tree is gone: state and detail if it was ended, not by itself."""
        while True:
            signum = self._limits.wait(_WAKING)
            if self._reap():
                return None
            if self._end is not None:
                self._end_tree(signal.SIGTERM)
                return None
            broken = self._limits.broken()
            if signum == signal.SIGTERM:
                self._end_tree(signal.SIGINT)
                return CANCELED, "Canceled"
            if broken is not None:
                self._end_tree(signal.SIGINT)
                return FAILED, broken

    def _reap(self) -> bool:
        """Collect the dead children; return whether no process of the tree is left.

        Orphans become children of this process, so without children there is no tree.
        """
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self._pid:
                self._end = wait_status

    def _end_tree(self, first: int) -> None:
        """Signal every process of the tree, after the grace time kill what is left of it."""
        tree.signal_all(tree.own_descendants(), first)
        deadline = time.monotonic() + self._grace
        while not self._reap():
            left = deadline - time.monotonic()
            if left <= 0:
                break
            signal.sigtimedwait((signal.SIGCHLD,), min(left, LONGEST_WAIT_SECONDS))
        while not self._reap():
            tree.kill_own_descendants()
            signal.sigtimedwait((signal.SIGCHLD,), KILL_RETRY_SECONDS)

    # --- what is recorded ---------------------------------------------------------------------

    def _running(self) -> dict[str, object]:
        return {
            "State": RUNNING,
            "Detail": f"Running: PID {self._pid}",
            "Started": _now(),
            "Pid": self._pid,
        } | self._myself()

    def _myself(self) -> dict[str, object]:
        identity = self.identity
        return {"Supervisor": {"Pid": identity["supervisor"], "Started": identity["started"]}}

    def _failure(self, detail: str) -> dict[str, object]:
        """Return the record of a command that was never executed."""
        readable = detail.encode(errors="backslashreplace").decode()
        return self._final(FAILED, readable) | {"ExitCode": None, "Signal": None}

    def _outcome(self, ended: tuple[int, str] | None) -> dict[str, object]:
        """Return the record of the command's end; ``ended`` is what :meth:`_wait_tree` returned."""
        assert self._end is not None
        detail = command.end_text(self._end)
        state = SUCCEEDED if self._end == 0 else FAILED
        if state == FAILED and _is_full(self._stdout):
            # Most commands tell that on their standard error, for which there was no room either.
            detail += "; no space left on the disk of its output"
        if ended is not None:
            state, detail = ended
        try:
            sync(self._stdout)
        except OSError as error:
            # What the command wrote may be lost although it was told that all was well.
            state, detail = FAILED, f"stdout is incomplete: {command.error_text(error)}"
        return self._final(state, detail) | {
            "ExitCode": command.exit_code(self._end),
            "Signal": command.signal_name(self._end),
        }

    def _final(self, state: int, detail: str) -> dict[str, object]:
        return {
            "State": state,
            "Detail": detail,
            "StdoutSize": os.fstat(self._stdout).st_size,
            "Finished": _now(),
        }

    def _record(self, end: dict[str, object]) -> None:
        """Bring the end to the disk, however long that takes, unless the unit was released."""
        while True:
            try:
                self._status.finish(end)
            except UnitVanished:
                return
            except OSError:
                time.sleep(RECORD_RETRY_SECONDS)
            else:
                return


def _is_full(fd: int) -> bool:
    disk = os.fstatvfs(fd)
    return disk.f_bavail * disk.f_frsize < FULL_BYTES


def _open_gate(gate: int) -> None:
    try:
        os.write(gate, command.GO)
    except BrokenPipeError:
        # Killed while it waited: that is an end like any other, and will be recorded as such.
        return
    finally:
        os.close(gate)


def _now() -> str:
    """Return the time as RFC 3339 in UTC: ``2026-11-22T03:00:00.123456Z``."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    year, month, day, hour, minute, second = time.gmtime(seconds)[:6]
    return (
        f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}"
        f".{nanoseconds // 1000:06d}Z"
    )


def _describe(error: Exception) -> str:
    """Return one line for a person: why there is no supervisor for the unit."""
    if isinstance(error, UnitVanished):
        return f"the unit's directory is gone: {error}"
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"cannot start the command: {command.error_text(error)}{where}"
    return str(error)
