"""Starts a command that is isolated, or runs as somebody else: between its fork and its execution.

A command without a PID namespace of its own is forked, changes itself, and executes its program:
it is a child of its supervisor as any other is. One with a PID namespace has an *init*, process 1
of that namespace, which is forked from the supervisor and

* changes itself to what the command may do, spawns it, and reaps whatever ends,
* tells the supervisor through a pipe that the command runs, and later with which wait status it
  ended: process 1 cannot end by a signal itself, so its own end could not tell,
* ends when no process is left in the namespace, and takes all with it when it is killed,
* is killed by the kernel when its supervisor ends, however that happens.

A signal of the supervisor reaches the command's processes, never the init: it is known by its PID.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import stat
import sys
from collections.abc import Iterable

from meshnode import files
from meshnode.work.local.launcher import command, tree
from meshnode.work.local.launcher import isolationcalls as calls
from meshnode.work.local.launcher.isolationview import View
from meshnode.work.local.launcher.privileges import Privileges
from meshnode.work.local.launcher.wire import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TOLD_BYTES = 4096
"""Bytes read at once of what a new process tells; it is one short line, or two."""

RUNS = b"runs "
LEAVES = b"left "
ENDED = b"ends "
FAILED = b"fail "
LACKS = b"lack "
"""How the lines begin that a new process tells. LEAVES and ENDED have the command's wait status: it
has left processes behind, or the init is about to end. LACKS is a failure for want of what the
machine may have later."""

_F_SETSIG = 10
"""Which signal a descriptor sends (fcntl(2)); the module has no name for it."""

READABLE, WRITABLE = 0o644, 0o622
"""Modes of a command's input and output where it runs as another user than its supervisor."""

_BROKEN = 127
"""Exit code of a new process that could not become what it should."""

_PIPE = 3
"""Descriptor by which an init tells its supervisor; it has no others above."""


class Isolation:
    """How one command is to be started; the keys of a Start's ``isolation``."""

    __slots__ = ("_hostname", "_network", "_own_user", "_rlimits", "pids", "privileges", "view")

    def __init__(
        self, record: Record, unit_id: str, unit_dir: str, rlimits: dict[int, int]
    ) -> None:
        self._rlimits = rlimits
        self.privileges = Privileges(record)
        self.pids = bool(record.get("pid"))
        self.view = View(record, unit_dir) if record.get("mounts") else None
        self._own_user = bool(record.get("userns"))
        self._network = str(record.get("network") or "host")
        self._hostname = unit_id if record.get("hostname") else ""

    @property
    def namespaces(self) -> int:
        """The namespaces that the command gets of its own."""
        return (
            (calls.NEW_MOUNTS if self.view else 0)
            | (calls.NEW_PIDS | calls.NEW_IPC if self.pids else 0)
            | (calls.NEW_NETWORK if self._network != "host" else 0)
            | (calls.NEW_HOSTNAME if self._hostname else 0)
            | (calls.NEW_USER if self._own_user else 0)
        )

    def fork(self) -> int:
        """Fork into the namespaces; return the PID, 0 in the child.

        Raises:
            OSError: the kernel refuses.
        """
        return calls.fork_into(self.namespaces) if self.namespaces else os.fork()

    def enter(self, uid: int, gid: int) -> None:
        """Change this process, freshly forked, to what the command may see and do.

        All but the filter of system calls, which may refuse what is still to be done.

        Raises:
            OSError: it cannot be done; ``filename`` says what.
        """
        if self._own_user:
            _map_user(uid, gid)
        last_capability = self.privileges.last_capability()
        if self._hostname:
            calls.set_hostname(self._hostname)
        if self._network == "loopback":
            calls.bring_up_loopback()
        if self.view is not None:
            self.view.make()
        for kind, limit in self._rlimits.items():
            resource.setrlimit(kind, (limit, limit))
        self.privileges.take(last_capability)


def _map_user(uid: int, gid: int) -> None:
    """Be the same user and group within the namespace; there are no others."""
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


class Init:
    """The init of a PID namespace, as its supervisor knows it.

    Attributes:
        pid: its PID, which no other process can have before the supervisor has reaped it.
    """

    def __init__(self, pid: int, pipe: int, told: bytes) -> None:
        self.pid = pid
        self._pipe = pipe
        self._told = told
        # Wakes the one wait of the supervisor, as the end of a child does.
        fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pipe, _F_SETSIG, signal.SIGCHLD)
        flags = fcntl.fcntl(pipe, fcntl.F_GETFL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, flags | os.O_NONBLOCK | os.O_ASYNC)

    def command_pid(self) -> int:
        """Return the PID of the command, the init's own if it has ended."""
        try:
            with open(f"/proc/{self.pid}/task/{self.pid}/children", "rb", buffering=0) as file:
                found = file.read(TOLD_BYTES).split()
        except OSError:
            # A kernel that was built without this list.
            below = tree.descendants({self.pid}, tree.all_processes())
            found = [b"%d" % process.pid for process in below[:1]]
        return int(found[0]) if found else self.pid

    def end_before_others(self) -> int | None:
        """Return the command's wait status if it has ended and left processes behind, else None."""
        return self._told_status(LEAVES)

    def end(self, wait_status: int) -> int:
        """Return the command's wait status, when the init has ended with this one itself."""
        told = self._told_status(ENDED, LEAVES)
        # Untold: the init was killed, and the command with it.
        return wait_status if told is None else told

    def _told_status(self, *how: bytes) -> int | None:
        try:
            while piece := os.read(self._pipe, TOLD_BYTES):
                self._told += piece
        except BlockingIOError:
            pass
        for line in self._told.split(b"\n"):
            if line.startswith(how):
                return int(line[len(ENDED) :])
        return None

    def close(self) -> None:
        """Let go of the pipe."""
        os.close(self._pipe)


class IsolatedSpawn:
    """Makes the process of a unit's command, isolated; once.

    Args:
        record: the ``isolation`` of a Start.
        unit_id: what the command's machine may be called.
        unit_dir: what the command sees of the units.
        cwd: directory that it starts in, as it sees it; None for the one that its process has.
        rlimits: limits that it gets, soft and hard, by their kind.

    Attributes:
        init: what is above the command, if it has a PID namespace of its own.
    """

    def __init__(
        self,
        record: Record,
        unit_id: str,
        unit_dir: str,
        cwd: str | None,
        rlimits: dict[int, int],
    ) -> None:
        self._isolation = Isolation(record, unit_id, unit_dir, rlimits)
        self._cwd = cwd
        self.init: Init | None = None

    def posix_spawn(self, path: str, argv: list[str], env: dict[str, str], **options: Any) -> int:
        """Do what ``os.posix_spawn`` does; return the PID of the command, or of its init.

        Raises:
            CannotExecute: it was not executed.
        """
        isolation = self._isolation
        if isolation.privileges.has_own_user:
            _open_to_others(options["file_actions"])
        wanted = _Wanted(path, argv, env, self._cwd, options)
        reading = -1
        try:
            reading, writing = os.pipe()
            try:
                pid = _fork(isolation, wanted, writing)
            finally:
                os.close(writing)
            told = os.read(reading, TOLD_BYTES)
            if isolation.pids and told.startswith(RUNS):
                self.init = Init(pid, reading, told)
                reading = -1
                return pid
            if not isolation.pids and not told:
                return pid
        except OSError as error:
            passing = files.is_passing(error) or error.errno == errno.ENOSPC
            raise command.CannotExecute(_failure(error), is_passing=passing) from None
        finally:
            if reading >= 0:
                os.close(reading)
        _, wait_status = os.waitpid(pid, 0)
        if not told:
            text = f"cannot isolate: its first process ended ({command.end_text(wait_status)})"
            raise command.CannotExecute(text)
        reason = told[len(FAILED) :].decode().rstrip("\n")
        raise command.CannotExecute(reason, is_passing=told.startswith(LACKS))


class _Wanted:
    """What is to be executed; all but ``cwd`` as ``os.posix_spawn`` takes it."""

    __slots__ = ("argv", "cwd", "env", "options", "path")

    def __init__(
        self,
        path: str,
        argv: list[str],
        env: dict[str, str],
        cwd: str | None,
        options: dict[str, Any],
    ) -> None:
        self.path = path
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.options = options


def _open_to_others(actions: Iterable[tuple[int, int, int]]) -> None:
    """Let another user open its standard streams anew, as ``/dev/stdout``.

    Nobody else reaches the files: they are in a directory of the node's user alone.
    """
    for _, fd, target in actions:
        kind = os.fstat(fd).st_mode
        if stat.S_ISREG(kind) or stat.S_ISFIFO(kind):
            os.fchmod(fd, READABLE if target == 0 else WRITABLE)


def _failure(error: OSError) -> str:
    what = f"{error.filename}: " if error.filename else ""
    return f"cannot isolate: {what}{command.error_text(error)}"


# --- In the new process ---------------------------------------------------------------------------


def _fork(isolation: Isolation, wanted: _Wanted, supervisor: int) -> int:
    """Fork what becomes the command, or the init above it; return its PID. Raises OSError."""
    uid, gid = os.getuid(), os.getgid()
    pid = isolation.fork()
    if pid != 0:
        return pid
    try:
        isolation.enter(uid, gid)
        if isolation.pids:
            _be_init(isolation, wanted, supervisor)
        else:
            _execute(isolation, wanted)
    except command.CannotExecute as error:
        _tell(supervisor, LACKS if error.is_passing else FAILED, str(error))
    except OSError as error:
        _tell(supervisor, LACKS if files.is_passing(error) else FAILED, _failure(error))
    except BaseException:  # noqa: BLE001 - a forked process must not go on as the supervisor
        _tell(supervisor, FAILED, f"cannot isolate: {sys.exc_info()[1]!r}")
    finally:
        os._exit(_BROKEN)


def _tell(supervisor: int, what: bytes, text: str) -> None:
    os.write(supervisor, what + text.encode(errors="backslashreplace") + b"\n")


def _execute(isolation: Isolation, wanted: _Wanted) -> None:
    """Execute the command in this process. Raises CannotExecute."""
    os.setpgid(0, wanted.options["setpgroup"])
    for _, source, target in wanted.options["file_actions"]:
        os.dup2(source, target)
    with command.working_directory(wanted.cwd):
        isolation.privileges.filter()
        signal.pthread_sigmask(signal.SIG_SETMASK, wanted.options["setsigmask"])
        try:
            os.execve(wanted.path, wanted.argv, wanted.env)  # noqa: S606 - no shell is wanted
        except (OSError, ValueError) as error:
            raise command.failed(wanted.path, error) from None


def _be_init(isolation: Isolation, wanted: _Wanted, supervisor: int) -> None:
    """Spawn the command and reap until nothing is left. Raises CannotExecute."""
    # Only now: a change of user undoes both.
    calls.hide_memory()
    calls.die_with_parent()
    isolation.privileges.filter()
    try:
        with command.working_directory(wanted.cwd):
            pid = os.posix_spawn(wanted.path, wanted.argv, wanted.env, **wanted.options)
    except (OSError, ValueError) as error:
        raise command.failed(wanted.path, error) from None
    # Fails where the supervisor ended before its death could be a signal: nobody reads any more.
    _tell(supervisor, RUNS, "")
    os.dup2(supervisor, _PIPE)
    os.closerange(_PIPE + 1, os.sysconf("SC_OPEN_MAX"))
    _, wait_status = os.waitpid(pid, 0)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
        _tell(_PIPE, LEAVES, str(wait_status))
        while os.waitpid(-1, 0)[0]:
            continue
    except ChildProcessError:
        _tell(_PIPE, ENDED, str(wait_status))
        os._exit(0)
