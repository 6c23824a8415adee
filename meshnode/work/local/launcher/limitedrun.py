"""The run of a unit with limits, as its supervisor sees to it: its group, its rlimits, its usage.

Only a supervisor whose unit has limits imports this.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from collections.abc import Callable, Iterable, Sequence

from meshnode.files import is_passing
from meshnode.work.local.launcher import command, records, tree
from meshnode.work.local.launcher.commandtree import PlainRun
from meshnode.work.local.launcher.groups import Group, Layout, Values
from meshnode.work.local.launcher.wire import Record

MEMORY_SIGNAL = signal.SIGUSR1
"""Tells a supervisor that its unit is out of memory. The launcher has blocked it for all."""

RLIMITS = {"files": resource.RLIMIT_NOFILE, "core": resource.RLIMIT_CORE}
"""The limits that the kernel keeps for each process, which no group has."""

BLOCK_BYTES = 512
"""Bytes in which the kernel counts what a process has moved (getrusage(2))."""

ERROR_BYTES = 16
"""Bytes at most of the number of an error."""

CANNOT_EXECUTE = 127
"""Exit code of a process that could not execute the command; nobody sees it."""

MEMORY = "memory"
"""Cause of the end of a unit that needed more memory than it may have."""

LIMIT = "limit"
"""Cause of the end of a unit whose limits could not be set."""

FileActions = Sequence[tuple[int, int, int]]


def open_group(layout: Layout, name: str, values: Values) -> Group:
    """Return the group of a unit in the hierarchies of a node, made or not.

    Args:
        layout: where they are.
        name: the unit.
        values: its limits, which say what of the layout is needed.
    """
    # Only the version that this machine has is imported.
    if layout.version == 2:
        from meshnode.work.local.launcher.groupsv2 import UnifiedGroup  # noqa: PLC0415

        return UnifiedGroup(layout, name, values)
    from meshnode.work.local.launcher.groupsv1 import GroupOfSeveral  # noqa: PLC0415

    return GroupOfSeveral(layout, name, values)


class LimitedRun(PlainRun):
    """What makes, bounds, counts and ends the processes of a unit with limits.

    Args:
        order: what ``cgroups.JobGroups.order`` writes.
        name: the unit.
        is_left: whether processes may go on after the unit's end.
        helpers: how many processes of ours are in the group as long as the command.
    """

    WAKING = (*PlainRun.WAKING, MEMORY_SIGNAL)

    def __init__(self, order: str, name: str, *, is_left: bool = False, helpers: int = 0) -> None:
        super().__init__()
        told = json.loads(order)
        self._values: Values = told["values"]
        if "pids" in self._values:
            self._values["pids"] += helpers
        self._may_raise: bool = told["may_raise"]
        layout = told["layout"]
        self._group: Group | None = layout and open_group(Layout(**layout), name, self._values)
        self._is_left = is_left
        self._before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._has_exceeded = False
        """Whether it had more memory than its limit before that could be set."""
        self._fault: str | None = None
        """Why a limit could not be set."""

    def make(self) -> None:
        """Make the group. Raises CannotExecute; nothing is left of it then."""
        if self._group is None:
            return
        try:
            self._group.make(self._values)
        except OSError as error:
            raise _cannot_limit(error) from None

    def spawner(self, make: Callable[..., int] | None = None) -> Callable[..., int] | None:
        """Return what makes the command's process inside of all limits, from its birth on."""
        return lambda *what, **how: self._spawn_inside(make or self._spawn, *what, **how)

    def _spawn_inside(self, make: Callable[..., int], *what: object, **how: object) -> int:
        group = self._group
        if group is None:
            return make(*what, **how)
        try:
            group.enter()
        except OSError as error:
            raise _cannot_limit(error) from None
        try:
            pid = make(*what, **how)
        finally:
            self.is_reusable &= group.leave()
        try:
            self._has_exceeded = not group.tighten(self._values)
        except OSError as error:
            # It runs by now, and must not without its limits.
            self._fault = f"cannot set its limits: {command.error_text(error)}"
        if self._has_exceeded or self._fault is not None:
            os.kill(os.getpid(), MEMORY_SIGNAL)
        return pid

    # --- rlimits ------------------------------------------------------------------------------

    @property
    def rlimits(self) -> dict[int, int]:
        """The rlimits that this process does not have: soft and hard are to be the same."""
        wanted = {}
        for name, kind in RLIMITS.items():
            if name in self._values:
                now = resource.getrlimit(kind)
                limit = _least(int(self._values[name]), now[1])
                if now != (limit, limit):
                    wanted[kind] = limit
        return wanted

    def _spawn(
        self,
        path: str,
        argv: list[str],
        env: dict[str, str],
        *,
        file_actions: FileActions,
        setpgroup: int,
        setsigmask: Iterable[int],
    ) -> int:
        """Make a process with the rlimits that the command is to have."""
        wanted = _Process(path, argv, env, file_actions, setpgroup, setsigmask)
        limits = self.rlimits
        if not limits:
            return wanted.spawn()
        if not self._may_raise:
            return wanted.fork(limits)
        before = {kind: resource.getrlimit(kind) for kind in limits}
        try:
            for kind, limit in limits.items():
                resource.setrlimit(kind, (limit, limit))
            return wanted.spawn()
        finally:
            for kind, pair in before.items():
                self.is_reusable &= _restored(kind, pair)

    # --- the end ------------------------------------------------------------------------------

    def watch(self) -> None:
        """Have MEMORY_SIGNAL come when the unit is out of memory, however it takes that."""
        if self._group is None or "memory" not in self._values:
            return
        try:
            self._group.watch_memory(MEMORY_SIGNAL)
        except OSError:
            # No descriptor is left for it. What the kernel has killed shows when the command ends.
            return

    def broken(self) -> Record | None:
        """Return what the record says if a limit was exceeded that ends the unit."""
        if self._fault is not None:
            return records.stopped(self._fault, LIMIT)
        group = self._group
        if group is None or "memory" not in self._values:
            return None
        if not (self._has_exceeded or group.ended_for_memory()):
            return None
        peak = group.peak_memory()
        shown = "" if peak is None else f", peak {size_text(peak)}"
        detail = f"out of memory (limit {size_text(int(self._values['memory']))}{shown})"
        return records.stopped(detail, MEMORY)

    def send_signal(self, signum: int, choose: tree.Choose | None) -> list[int]:
        """Signal each process once, also one in the group that does not descend from this one."""
        known = super().send_signal(signum, choose)
        if self._group is None or choose is not None:
            return known
        return known + self._group.send_signal(signum, but=set(known))

    def kill(self, choose: tree.Choose | None) -> int:
        """Kill all; return how many there were."""
        count = 0
        if self._group is not None and self.is_reusable and choose is None:
            count = len(self._group.processes())
            self._group.kill()
        # A command may leave its group if it is of a user who may.
        return count + super().kill(choose)

    def end(self) -> Record:
        """Remove the group; return what the unit has used."""
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        before = self._before
        seconds = now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime
        moved = (
            (now.ru_inblock - before.ru_inblock) * BLOCK_BYTES,
            (now.ru_oublock - before.ru_oublock) * BLOCK_BYTES,
        )
        group = self._group
        if group is None:
            return usage_record(seconds, None, moved)
        counted = group.cpu_seconds()
        usage = usage_record(seconds if counted is None else counted, group.peak_memory(), moved)
        if self._is_left:
            # The limits are the unit's, which has ended; what goes on does without.
            group.move_out()
        if not group.remove():
            # Something is inside that is none of the command's.
            group.kill()
        return usage


class _Process:
    """A process that is to be; the arguments are those of ``os.posix_spawn``."""

    __slots__ = ("argv", "env", "file_actions", "path", "setpgroup", "setsigmask")

    def __init__(
        self,
        path: str,
        argv: list[str],
        env: dict[str, str],
        file_actions: FileActions,
        setpgroup: int,
        setsigmask: Iterable[int],
    ) -> None:
        self.path = path
        self.argv = argv
        self.env = env
        self.file_actions = file_actions
        self.setpgroup = setpgroup
        self.setsigmask = setsigmask

    def spawn(self) -> int:
        """Make it; return its PID. Raises OSError, ValueError."""
        return os.posix_spawn(
            self.path,
            self.argv,
            self.env,
            file_actions=self.file_actions,
            setpgroup=self.setpgroup,
            setsigmask=self.setsigmask,
        )

    def fork(self, limits: dict[int, int]) -> int:
        """Make it by a fork, whose child takes rlimits for good; return its PID. Raises OSError.

        Without a capability this process could never take them off again, and it opens files for as
        long as the unit runs.
        """
        told, telling = os.pipe()
        try:
            pid = os.fork()
            if pid == 0:
                self._become(limits, telling)
        finally:
            os.close(telling)
        try:
            failure = os.read(told, ERROR_BYTES)
        finally:
            os.close(told)
        if failure:
            os.waitpid(pid, 0)
            raise OSError(int(failure), os.strerror(int(failure)), self.path)
        return pid

    def _become(self, limits: dict[int, int], telling: int) -> None:
        """Execute the command in this process; tell the number of an error. Does not return."""
        try:
            for _, source, target in self.file_actions:
                os.dup2(source, target)
            os.setpgid(0, self.setpgroup)
            for kind, limit in limits.items():
                resource.setrlimit(kind, (limit, limit))
            signal.pthread_sigmask(signal.SIG_SETMASK, self.setsigmask)
            os.execve(self.path, self.argv, self.env)  # noqa: S606 - no shell is wanted
        except BaseException as error:  # noqa: BLE001 - it must not go on from here
            number = error.errno if isinstance(error, OSError) else errno.EINVAL
            os.write(telling, str(number).encode())
        finally:
            os._exit(CANNOT_EXECUTE)


def _cannot_limit(error: OSError) -> command.CannotExecute:
    where = f" ({error.filename})" if error.filename else ""
    text = f"cannot make its control group: {command.error_text(error)}{where}"
    # A node that ends takes away what groups are made in; its next start brings that back.
    is_away = error.errno == errno.ENOENT
    return command.CannotExecute(text, is_passing=is_away or is_passing(error))


def usage_record(seconds: float | None, peak: int | None, moved: tuple[int, int] | None) -> Record:
    """Return the key ``Usage`` of a unit's status; what nobody counts is left out."""
    usage: Record = {}
    if seconds is not None:
        usage["CpuSeconds"] = round(seconds, 6)
    if peak is not None:
        usage["PeakMemory"] = peak
    if moved is not None:
        usage["ReadBytes"], usage["WrittenBytes"] = moved
    return {"Usage": usage}


def size_text(size: int) -> str:
    """Return a number of bytes for a person: ``256 MiB``."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= 10 * unit or (size >= unit and size % unit == 0):
            return f"{size // unit} {name}"
    return f"{size} bytes"


def _restored(kind: int, pair: tuple[int, int]) -> bool:
    """Give this process a limit back; return whether it may have it."""
    try:
        resource.setrlimit(kind, pair)
    except (OSError, ValueError):
        return False
    return True


def _least(one: int, other: int) -> int:
    return one if other == resource.RLIM_INFINITY else min(one, other)
