"""Processes that go on after their unit's end, since its type of work says so.

``leave-processes`` is either of two things.

* ``true``: the command starts a daemon. What it leaves when it ends by itself goes on.
* A list of patterns: helpers that the units of a user share, such as the pause process of rootless
  podman or a master connection of ssh, and keepers of what is to stay, such as conmon.

A pattern is a shell's, compared with the name of a process (``ps -o comm``) and with its command
line (``ps -o args``, without the directory of the program). A process in a PID namespace of its own
matches none: what runs in a container cannot stay by the name that it takes.

Imported only for types of work that leave something.
"""

from __future__ import annotations

import fnmatch
import os
import time
from collections.abc import Iterable

from meshnode.work.local.launcher import tree

COMMAND_LINE_BYTES = 64 * 1024
"""Bytes of a command line that are compared; a longer one is no helper's."""

EXEC_PAUSE = 0.001
"""Seconds between looks at a process that executes a program at this moment: that takes some 100
µs, in which the kernel shows no words of it. Nobody tells when it has."""

EXEC_LOOKS = 20
"""Looks at such a process before it is taken for one that hides its words."""

Leave = bool | list[str] | tuple[str, ...]
"""What is to be left: all, or what matches one of these patterns."""


class Names:
    """What a process can be called by."""

    __slots__ = ("is_contained", "line", "name")

    def __init__(self, name: str, line: str, *, is_contained: bool = False) -> None:
        self.name = name
        self.line = line
        self.is_contained = is_contained


def names_of(pid: int) -> Names:
    """Return what a process is called now; one that has ended is called nothing."""
    line = _command_line(pid)
    for _ in range(EXEC_LOOKS):
        if line or not _has_program(pid):
            break
        time.sleep(EXEC_PAUSE)
        line = _command_line(pid)
    # After the line: once that is the new program's, the name is, too.
    name = tree.read_proc(pid, "comm", tree.STAT_BYTES).rstrip(b"\n")
    return Names(os.fsdecode(name), line, is_contained=tree.is_contained(pid))


def _command_line(pid: int) -> str:
    words = tree.read_proc(pid, "cmdline", COMMAND_LINE_BYTES).rstrip(b"\0").split(b"\0")
    if words[0].startswith(b"/"):
        words[0] = words[0].rpartition(b"/")[2]
    return os.fsdecode(b" ".join(words))


def _has_program(pid: int) -> bool:
    """Whether a process executes a file; one that ends does not."""
    try:
        os.readlink(f"/proc/{pid}/exe")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return True


class Leaving:
    """Which processes of a unit go on.

    Args:
        leave: what is to be left.
        command: PID of the command itself, which always ends with its unit.
    """

    __slots__ = ("_command", "_leave")

    def __init__(self, leave: Leave, command: int) -> None:
        self._leave = leave
        self._command = command

    def after_the_command(self, processes: list[tree.Process]) -> set[int]:
        """Return the PIDs of those that go on when the command has ended by itself.

        A process that matches stays with all that it has started.
        """
        if self._leave is True:
            return {process.pid for process in processes}
        matching = self._matching(processes)
        return matching | {below.pid for below in tree.descendants(matching, processes)}

    def at_a_cancel(self, processes: list[tree.Process]) -> set[int]:
        """Return the PIDs of those that go on although their unit is ended: canceled, over a limit,
        or lost.

        A process that matches stays if it keeps nothing running that does not. So a pause process
        stays, while conmon ends with its container.
        """
        if self._leave is True:
            return set()
        kept = self._matching(processes)
        parents = {process.pid: process.parent for process in processes}
        for process in processes:
            pid: int | None = process.pid
            if pid in kept:
                continue
            while pid is not None:
                kept.discard(pid)
                # Taken out: who is above has been seen to.
                pid = parents.pop(pid, None)
        return kept

    def _matching(self, processes: list[tree.Process]) -> set[int]:
        patterns = () if isinstance(self._leave, bool) else self._leave
        return {
            process.pid
            for process in processes
            if process.pid != self._command and matches(names_of(process.pid), patterns)
        }


def matches(names: Names, patterns: Iterable[str]) -> bool:
    """Whether a process has one of these names."""
    return not names.is_contained and any(
        fnmatch.fnmatchcase(text, pattern)
        for pattern in patterns
        for text in (names.name, names.line)
    )
