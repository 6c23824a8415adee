"""The control group of a unit's processes, which limits and counts them, and names each of them.

A group is a directory in a cgroup file system. Where the controllers are on v1 it is one directory
in each hierarchy that is needed (:mod:`.groupsv1`), on v2 it is one (:mod:`.groupsv2`). A
supervisor goes in, spawns the command, which is born inside, and comes out: no moment passes at
which the command is outside, and the supervisor's memory stays charged to where it was.

The node uses the same objects for a group whose supervisor is gone.
"""

from __future__ import annotations

import errno
import os
import signal

SPAWN_ROOM_BYTES = 32 * 1024 * 1024
"""Least memory that a group has while its supervisor is inside. What the kernel ends in a group
without room may be the supervisor, which has some 12 MB; a smaller limit is set right after."""

FREEZE_LOOKS = 1_000
"""Looks at a group that freezes, some 5 µs each. A process in an uninterruptible wait stays out;
SIGKILL is then as good as it can be."""

MOVE_LOOKS = 100
"""Looks for what is still inside of a group that is to be left."""

PERIOD_MICROSECONDS = 100_000
"""Period of processor time in which a group may use its share; the kernel's default."""

READ_BYTES = 64 * 1024
"""Bytes read at once of a file of a group: more than any of them has, but for a list of PIDs."""

Values = dict[str, float]
"""Limits by the names that a configuration has: ``memory``, ``io-read``."""


class Layout:
    """Where a node's groups are.

    Attributes:
        version: of the hierarchies that have the controllers, 1 or 2.
        kills: whether ``cgroup.kill`` is there.
        swap: whether memory and swap can be limited together (v1) or swap by itself (v2).
        bases: by hierarchy the directory that groups are made in; ``unified`` is that of v2.
        homes: by hierarchy the directory of processes that are in no group.
    """

    __slots__ = ("bases", "homes", "kills", "swap", "version")

    def __init__(
        self,
        version: int,
        kills: bool,
        swap: bool,
        bases: dict[str, str],
        homes: dict[str, str],
    ) -> None:
        self.version = version
        self.kills = kills
        self.swap = swap
        self.bases = bases
        self.homes = homes

    def to_wire(self) -> dict[str, object]:
        """Return the arguments that make it again."""
        return {name: getattr(self, name) for name in self.__slots__}


class Group:
    """What both versions have in common.

    Args:
        places: each hierarchy's directory of the group, its home (where a process goes back to),
            and the file in both that moves a process which writes 0 to it.
        members: the directory that tells who is inside.
        kills: the directory whose ``cgroup.kill`` ends all; empty where the kernel has none.
    """

    def __init__(self, places: list[tuple[str, str, str]], members: str, kills: str) -> None:
        self._places = places
        self._members = members
        self._kills = kills

    # --- what the versions differ in ----------------------------------------------------------

    def settings(self, values: Values) -> list[tuple[str, str]]:
        """Return files and what is written to them before a command is inside."""
        raise NotImplementedError

    def final_settings(self, values: Values) -> list[tuple[str, str]]:
        """Return the same for when the supervisor has come out again."""
        raise NotImplementedError

    def ended_for_memory(self) -> bool:
        """Whether the kernel has ended a process of the group for want of memory."""
        raise NotImplementedError

    def watch_memory(self, signum: int) -> None:
        """Have this process get a signal when :meth:`ended_for_memory` becomes true.

        Nothing is done where the kernel ends all of the group by itself.
        """

    def cpu_seconds(self) -> float | None:
        """Return the processor time that was used, None where nobody counts."""
        raise NotImplementedError

    def peak_memory(self) -> int | None:
        """Return the most bytes that were in use at once, None where nobody counts."""
        raise NotImplementedError

    def moved_bytes(self) -> tuple[int, int] | None:
        """Return the bytes read from and written to disks, None where nobody counts."""
        raise NotImplementedError

    def freeze(self, is_frozen: bool) -> None:
        """Stop all processes in one step, or let them go on."""
        raise NotImplementedError

    # --- what they share ----------------------------------------------------------------------

    def make(self, values: Values) -> None:
        """Make the group, with its limits.

        Raises:
            OSError: it cannot be made; nothing is left of it.
        """
        try:
            for directory, _, _ in self._places:
                make_directory(directory)
            for path, text in self.settings(values):
                write(path, text)
        except OSError:
            self.remove()
            raise

    def enter(self) -> None:
        """Move this process in.

        Raises:
            OSError: it is where it was.
        """
        try:
            for directory, _, entry in self._places:
                write(directory + entry, "0")
        except OSError:
            self.leave()
            raise

    def leave(self) -> bool:
        """Move this process out again; return whether it is out everywhere."""
        is_out = True
        for _, home, entry in self._places:
            try:
                write(home + entry, "0")
            except OSError:
                is_out = False
        return is_out

    def tighten(self, values: Values) -> bool:
        """Set what could not be set with the supervisor inside; False if it is exceeded already.

        Raises:
            OSError: a limit is not kept.
        """
        try:
            for path, text in self.final_settings(values):
                write(path, text)
        except OSError as error:
            if error.errno == errno.EBUSY:
                return False
            raise
        return True

    def processes(self) -> list[int]:
        """Return the PIDs of all that is inside."""
        return [pid for directory in tree_of(self._members) for pid in _pids(directory)]

    def send_signal(self, signum: int, but: set[int]) -> list[int]:
        """Signal everything inside once ``but`` these; return their PIDs."""
        signalled = []
        for pid in set(self.processes()) - but - {os.getpid()}:
            try:
                # Held first, looked for again after: the PID may be another process's by now.
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                if pid in self.processes():
                    signal.pidfd_send_signal(pidfd, signum)
                    signalled.append(pid)
            except (ProcessLookupError, PermissionError):
                continue
            finally:
                os.close(pidfd)
        return signalled

    def kill(self) -> None:
        """Send SIGKILL to everything inside, whatever is born meanwhile included."""
        if self._kills:
            try:
                write(self._kills + "/cgroup.kill", "1")
            except FileNotFoundError:
                # It is gone: there is nothing inside.
                return
            return
        try:
            self.freeze(True)
        except FileNotFoundError:
            return
        # What is frozen does not end, so no PID becomes another process's, and forks nothing.
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        self.freeze(False)

    def move_out(self) -> None:
        """Have what is inside go on outside, whatever is born meanwhile included."""
        for directory, home, _ in self._places:
            for _ in range(MOVE_LOOKS):
                pids = [pid for below in tree_of(directory) for pid in _pids(below)]
                if not pids:
                    break
                for pid in pids:
                    try:
                        write(home + "/cgroup.procs", str(pid))
                    except OSError:
                        # It has ended, or may not be moved.
                        continue

    def remove(self) -> bool:
        """Remove the group; return whether nothing is left of it."""
        is_gone = True
        for directory, _, _ in self._places:
            # What the command has made below it goes first.
            for below in reversed(tree_of(directory)):
                try:
                    os.rmdir(below)
                except FileNotFoundError:
                    continue
                except OSError:
                    is_gone = False
        return is_gone


# --- files of a cgroup file system ----------------------------------------------------------------


def write(path: str, text: str) -> None:
    """Write to a file of a group, which must be there."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def read(path: str) -> str:
    """Return a file of a group, empty where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return ""
        raise
    try:
        text = b""
        while piece := os.read(fd, READ_BYTES):
            text += piece
    except OSError as error:
        # The group was removed between the two.
        if error.errno != errno.ENODEV:
            raise
        return ""
    finally:
        os.close(fd)
    return text.decode()


def read_number(path: str) -> int | None:
    """Return the number in a file of a group, None where there is none."""
    text = read(path).strip()
    return int(text) if text.isdigit() else None


def read_keys(path: str) -> dict[str, int]:
    """Return a file of lines with a name and a number."""
    pairs = (line.split() for line in read(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def make_directory(path: str) -> None:
    """Make a directory of a group; one that is there already is left of an earlier try."""
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return


def tree_of(directory: str) -> list[str]:
    """Return a directory and all below it, each after the one that it is in."""
    found = [directory]
    for one in found:
        try:
            found += [entry.path for entry in os.scandir(one) if entry.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            continue
    return found


def _pids(directory: str) -> list[int]:
    # 0 stands for a process of a PID namespace that this one cannot see into.
    return [int(pid) for pid in read(directory + "/cgroup.procs").split() if pid != "0"]


def disks() -> list[str]:
    """Return the numbers of the disks that hold something: ``254:0``.

    Throttling is by whole disk, and each is limited by itself.
    """
    names = os.listdir("/sys/block")
    held = [name for name in names if read_number(f"/sys/block/{name}/size")]
    return [read(f"/sys/block/{name}/dev").strip() for name in held]
