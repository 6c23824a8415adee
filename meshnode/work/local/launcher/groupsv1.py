"""A group where the controllers are on v1: a directory in each hierarchy that is needed.

``cgroup.kill`` may be there all the same, on the v2 hierarchy that such hosts mount beside them; it
is a place like the others then. Without it the freezer does for ending all at once.
"""

from __future__ import annotations

import _thread
import os
import time

from meshnode.work.local.launcher.groups import (
    FREEZE_LOOKS,
    PERIOD_MICROSECONDS,
    SPAWN_ROOM_BYTES,
    Group,
    Layout,
    Values,
    disks,
    read,
    read_keys,
    read_number,
    write,
)

KILL_FOLLOWS_LOOKS = 100
"""Looks for a process that the kernel ends. It tells that a group is out of memory before it looks
for one, and may find some memory instead."""

KILL_FOLLOWS_SECONDS = 0.01
"""Seconds between them; it took 7 ms."""

WATCH_STACK_BYTES = 128 * 1024
"""Stack of the thread that waits for the kernel's word; it calls nothing deep."""

ENTRIES = {"unified": "/cgroup.procs"}
"""The file that moves a process in, where it is not ``tasks``."""

CONTROLLER_OF = {"cpu": "cpu", "pids": "pids", "io-read": "blkio", "io-write": "blkio"}
"""The controllers that are needed for a limit only; others count as well."""


class GroupOfSeveral(Group):
    """One group in several hierarchies; the arguments are those of ``groups.open_group``."""

    def __init__(self, layout: Layout, name: str, values: Values) -> None:
        needed = {"cpuacct", "memory", *(CONTROLLER_OF.get(limit, "") for limit in values)}
        kills = "unified" if layout.kills else "freezer"
        self._paths = {
            hierarchy: f"{base}/{name}"
            for hierarchy, base in layout.bases.items()
            if hierarchy in needed or hierarchy == kills
        }
        # By path: hierarchies may share a mount, as cpu and cpuacct mostly do.
        places = {
            path: (path, layout.homes[hierarchy], ENTRIES.get(hierarchy, "/tasks"))
            for hierarchy, path in self._paths.items()
        }
        self._has_swap = layout.swap
        members = self._paths.get(kills) or next(iter(places), "")
        super().__init__([*places.values()], members, self._paths.get("unified", ""))

    def settings(self, values: Values) -> list[tuple[str, str]]:
        """Return the limits, with room for the supervisor."""
        files: list[tuple[str, str]] = []
        if "cpu" in values:
            quota = round(values["cpu"] * PERIOD_MICROSECONDS)
            files += [
                (self._paths["cpu"] + "/cpu.cfs_period_us", str(PERIOD_MICROSECONDS)),
                (self._paths["cpu"] + "/cpu.cfs_quota_us", str(quota)),
            ]
        if "memory" in values:
            files += self._memory(values, max(int(values["memory"]), SPAWN_ROOM_BYTES))
        if "pids" in values:
            # With the supervisor.
            files.append((self._paths["pids"] + "/pids.max", str(int(values["pids"]) + 1)))
        for limit, file in (("io-read", "read"), ("io-write", "write")):
            if limit in values:
                path = f"{self._paths['blkio']}/blkio.throttle.{file}_bps_device"
                files += [(path, f"{disk} {int(values[limit])}") for disk in disks()]
        return files

    def _memory(self, values: Values, memory: int) -> list[tuple[str, str]]:
        base = self._paths["memory"] + "/memory."
        files = [(base + "limit_in_bytes", str(memory))]
        if self._has_swap:
            total = memory + int(values.get("swap", 0))
            files.append((base + "memsw.limit_in_bytes", str(total)))
        return files

    def final_settings(self, values: Values) -> list[tuple[str, str]]:
        """Return what the supervisor's being inside has put off."""
        files: list[tuple[str, str]] = []
        if "pids" in values:
            files.append((self._paths["pids"] + "/pids.max", str(int(values["pids"]))))
        if values.get("memory", SPAWN_ROOM_BYTES) < SPAWN_ROOM_BYTES:
            files += self._memory(values, int(values["memory"]))
        return files

    def ended_for_memory(self) -> bool:
        """Whether the kernel has ended a process of it."""
        memory = self._paths.get("memory", "")
        return bool(read_keys(memory + "/memory.oom_control").get("oom_kill"))

    def watch_memory(self, signum: int) -> None:
        """Have a thread wait for the kernel's word that the group is out of memory."""
        directory = self._paths["memory"]
        event = os.eventfd(0, os.EFD_CLOEXEC)
        control = os.open(directory + "/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        write(directory + "/cgroup.event_control", f"{event} {control}")
        os.close(control)
        _thread.stack_size(WATCH_STACK_BYTES)
        _thread.start_new_thread(self._tell_when_ended, (event, signum))

    def _tell_when_ended(self, event: int, signum: int) -> None:
        # Looked at first: it may have happened before the kernel was asked.
        while not self._kill_follows():
            os.read(event, 8)
        os.kill(os.getpid(), signum)

    def _kill_follows(self) -> bool:
        for _ in range(KILL_FOLLOWS_LOOKS):
            if self.ended_for_memory():
                return True
            if read_keys(self._paths["memory"] + "/memory.oom_control").get("under_oom") == 0:
                time.sleep(KILL_FOLLOWS_SECONDS)
        return False

    def cpu_seconds(self) -> float | None:
        """Return the processor time of all that was inside."""
        used = read_number(self._paths.get("cpuacct", "") + "/cpuacct.usage")
        return None if used is None else used / 1e9

    def peak_memory(self) -> int | None:
        """Return the most memory at once, cached files included."""
        return read_number(self._paths.get("memory", "") + "/memory.max_usage_in_bytes")

    def moved_bytes(self) -> tuple[int, int] | None:
        """Return what the processes inside have moved, with those that they have waited for.

        The controller itself counts only what it throttles.
        """
        read_bytes = written = 0
        for pid in self.processes():
            try:
                counts = read_keys_of_io(pid)
            except OSError:
                # It has ended, or is another user's.
                continue
            read_bytes += counts.get("read_bytes:", 0)
            written += counts.get("write_bytes:", 0)
        return read_bytes, written

    def freeze(self, is_frozen: bool) -> None:
        """Stop or release all, by the freezer."""
        path = self._paths["freezer"] + "/freezer.state"
        write(path, "FROZEN" if is_frozen else "THAWED")
        for _ in range(FREEZE_LOOKS if is_frozen else 0):
            if read(path) == "FROZEN\n":
                return


def read_keys_of_io(pid: int) -> dict[str, int]:
    """Return the counts of /proc/PID/io. Raises OSError."""
    return read_keys(f"/proc/{pid}/io")
