"""Find and end the processes that carry a mark in their environment, and nobody else."""

import os
import select
import signal
from pathlib import Path

MARK = "MESHNODE_TEST_CLUSTER"
"""The environment variable; what a marked process starts inherits it."""

KILL_PATIENCE = 20.0
"""Seconds to wait for the end of a killed process; the kernel needs far less."""


def kill_marked(mark: str) -> list[int]:
    """Kill every process that has the mark in its environment; return their PIDs.

    The mark is read again once a pidfd holds on to the process, so that a reused PID is safe.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or not _is_marked(entry, mark):
            continue
        try:
            pidfd = os.pidfd_open(int(entry.name))
        except ProcessLookupError:
            continue
        try:
            if _is_marked(entry, mark):
                found.append(int(entry.name))
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                # It is not our child, so we cannot wait() for it; its pidfd tells of its end.
                select.select([pidfd], [], [], KILL_PATIENCE)
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)
    return found


def _is_marked(process: Path, mark: str) -> bool:
    """Whether that process carries the mark and has not ended (a zombie has no environment)."""
    try:
        return f"{MARK}={mark}".encode() in (process / "environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
