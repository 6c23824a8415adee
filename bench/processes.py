"""What /proc says of a process: memory, processor time, descriptors."""

import os
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """What one process has used: ``peak`` resident bytes, ``cpu`` seconds.

    The processor time of a launcher includes that of the supervisors and commands that ended.
    """

    name: str
    peak: int
    cpu: float


def _status_bytes(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def resident(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    return _status_bytes(pid, "VmRSS:")


def peak(pid: int) -> int:
    """Return the most resident memory since the start or :func:`forget_peak`, in bytes."""
    return _status_bytes(pid, "VmHWM:")


def forget_peak(pid: int) -> None:
    """Begin a new peak at what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_seconds(pid: int, *, with_children: bool = True) -> float:
    """Return the processor time of a process, and of its children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if with_children else 13])) / _TICKS


def children(pid: int) -> list[int]:
    """Return the pids of a process's children, whichever of its threads made them."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """Return the pids of a process's children, of theirs, and so on."""
    found: list[int] = []
    todo = children(pid)
    while todo:
        found.append(todo.pop())
        todo += children(found[-1])
    return found


def descriptors(pid: int) -> int:
    """Return the number of open descriptors."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def thread_seconds(pid: int) -> dict[int, float]:
    """Return the processor time of each thread to the nanosecond; ticks may be too coarse."""
    return {
        int(task.name): int((task / "schedstat").read_text().split()[0]) / 1e9
        for task in Path(f"/proc/{pid}/task").iterdir()
    }
