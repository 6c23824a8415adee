"""A group where the controllers are on v2: one directory, and the kernel ends all of it at once."""

from __future__ import annotations

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


class UnifiedGroup(Group):
    """One group with all of its controllers; the arguments are those of ``groups.open_group``."""

    def __init__(self, layout: Layout, name: str, values: Values) -> None:
        self._path = f"{layout.bases['unified']}/{name}"
        self._has_swap = layout.swap
        home = layout.homes["unified"]
        kills = self._path if layout.kills else ""
        super().__init__([(self._path, home, "/cgroup.procs")], self._path, kills)

    def settings(self, values: Values) -> list[tuple[str, str]]:
        """Return the limits, with room for the supervisor."""
        files: list[tuple[str, str]] = []
        if "cpu" in values:
            quota = round(values["cpu"] * PERIOD_MICROSECONDS)
            files.append((self._path + "/cpu.max", f"{quota} {PERIOD_MICROSECONDS}"))
        if "memory" in values:
            # What is left of a command when the kernel has ended one of its processes is of no use.
            files.append((self._path + "/memory.oom.group", "1"))
            memory = max(int(values["memory"]), SPAWN_ROOM_BYTES)
            files.append((self._path + "/memory.max", str(memory)))
            if self._has_swap:
                files.append((self._path + "/memory.swap.max", str(int(values.get("swap", 0)))))
        if "pids" in values:
            # With the supervisor.
            files.append((self._path + "/pids.max", str(int(values["pids"]) + 1)))
        rates = [
            f"{key}={int(values[limit])}"
            for limit, key in (("io-read", "rbps"), ("io-write", "wbps"))
            if limit in values
        ]
        if rates:
            files += [(self._path + "/io.max", " ".join([disk, *rates])) for disk in disks()]
        return files

    def final_settings(self, values: Values) -> list[tuple[str, str]]:
        """Return what the supervisor's being inside has put off."""
        files: list[tuple[str, str]] = []
        if "pids" in values:
            files.append((self._path + "/pids.max", str(int(values["pids"]))))
        if values.get("memory", SPAWN_ROOM_BYTES) < SPAWN_ROOM_BYTES:
            files.append((self._path + "/memory.max", str(int(values["memory"]))))
        return files

    def ended_for_memory(self) -> bool:
        """Whether the kernel has ended a process of it."""
        return bool(read_keys(self._path + "/memory.events").get("oom_kill"))

    def cpu_seconds(self) -> float | None:
        """Return the processor time of all that was inside."""
        used = read_keys(self._path + "/cpu.stat").get("usage_usec")
        return None if used is None else used / 1e6

    def peak_memory(self) -> int | None:
        """Return the most memory at once, cached files included; kernels before 5.19 know none."""
        return read_number(self._path + "/memory.peak")

    def moved_bytes(self) -> tuple[int, int] | None:
        """Return what was read from and written to disks, all of them together."""
        text = read(self._path + "/io.stat")
        if not text:
            return None
        pairs = [word.partition("=")[::2] for word in text.split()]
        return tuple(
            sum(int(value) for key, value in pairs if key == wanted)
            for wanted in ("rbytes", "wbytes")
        )  # type: ignore[return-value]

    def freeze(self, is_frozen: bool) -> None:
        """Stop or release all."""
        write(self._path + "/cgroup.freeze", "1" if is_frozen else "0")
        for _ in range(FREEZE_LOOKS if is_frozen else 0):
            if read_keys(self._path + "/cgroup.events").get("frozen"):
                return
