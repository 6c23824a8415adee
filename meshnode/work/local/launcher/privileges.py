"""What a command may do: its user, groups and umask, its capabilities, its system calls."""

from __future__ import annotations

import os

from meshnode.work.local.launcher import isolationcalls as calls
from meshnode.work.local.launcher.wire import Record

LAST_CAPABILITY = "/proc/sys/kernel/cap_last_cap"
"""Number of the last capability that this kernel knows."""


class Privileges:
    """What :func:`take` makes of a process; a key of a Start each (``work/local/isolation.py``).

    Attributes:
        uid, gid, groups: whom it runs as, None for the node's own.
        umask: which permissions its files do not get, None for the node's own.
        kept: capabilities that it keeps, a bit each, None for all that the node has.
        gains_nothing: whether set-uid programs and the like give it no privileges.
        program: the filter of its system calls, empty for none.
    """

    __slots__ = ("gains_nothing", "gid", "groups", "kept", "program", "uid", "umask")

    def __init__(self, record: Record) -> None:
        self.uid: int | None = record.get("uid")  # type: ignore[assignment]
        self.gid: int | None = record.get("gid")  # type: ignore[assignment]
        self.groups: list[int] | None = record.get("groups")  # type: ignore[assignment]
        self.umask: int | None = record.get("umask")  # type: ignore[assignment]
        self.kept: int | None = record.get("kept")  # type: ignore[assignment]
        self.gains_nothing = bool(record.get("gains_nothing"))
        self.program = bytes.fromhex(str(record.get("seccomp") or ""))

    @property
    def has_own_user(self) -> bool:
        """Whether it runs as another user or in another group than its supervisor."""
        return self.uid is not None or self.gid is not None

    def last_capability(self) -> int:
        """Return the number of the last capability; before /proc is hidden or read-only."""
        if self.kept is None:
            return -1
        with open(LAST_CAPABILITY, "rb", buffering=0) as file:
            return int(file.read())

    def take(self, last_capability: int) -> None:
        """Change this process to that, for ever. The filter comes later: :meth:`filter`.

        Raises:
            OSError: it may not.
        """
        if self.umask is not None:
            os.umask(self.umask)
        if self.kept is not None:
            # First of all, since it takes a capability.
            for number in range(last_capability + 1):
                if not self.kept >> number & 1:
                    calls.drop_bounding(number)
            if self.kept and self.uid:
                calls.keep_capabilities_over_users()
        if self.groups is not None:
            os.setgroups(self.groups)
        if self.gid is not None:
            os.setresgid(self.gid, self.gid, self.gid)
        if self.uid is not None:
            os.setresuid(self.uid, self.uid, self.uid)
        if self.kept is not None:
            calls.set_capabilities(self.kept)
        if self.gains_nothing:
            calls.gain_nothing()

    def filter(self) -> None:
        """Filter this process's system calls from now on, and those of all that it starts."""
        if self.program:
            calls.filter_calls(self.program)
