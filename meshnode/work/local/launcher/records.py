"""What a supervisor records in the status of its unit: that it runs, how it ended, or why not."""

from __future__ import annotations

import json
import os
import signal
import time

from meshnode import files
from meshnode.work.local.launcher import cancelsignal, command, limits
from meshnode.work.local.launcher.statusfile import CANCELED, FAILED, RUNNING, SUCCEEDED, sync
from meshnode.work.local.launcher.wire import Record

FULL_BYTES = 64 * 1024
"""Free bytes below which a disk counts as full: what a write did not find room for may be more than
is left."""


STDOUT, STDERR, INDEX = "stdout", "stderr", "index"
"""The files of a unit that its command prints to, and the file that says when it did."""

FILES = "files"
"""The tar of what a job brings back; the node makes it, after the command's end."""

SIZE_KEYS = {STDOUT: "StdoutSize", STDERR: "StderrSize", INDEX: "IndexSize", FILES: "FilesSize"}
"""The keys of a status with the bytes of each."""

Files = dict[str, int]
"""Descriptors of the files of output that a unit has, by their names."""

CANCEL_FILE = "/cancel"
"""In the unit's directory: what the node has the record of a cancel say of who asked for it."""

CANCEL_BYTES = 16 * 1024
"""Bytes of that file: an identity, and the same in words."""


def start() -> Record:
    """Return the record of a command that is about to be executed."""
    return {"State": RUNNING, "Detail": "Running", "Started": now()}


def running(pid: int) -> Record:
    """Return the record of a command that was executed."""
    return {"Detail": f"Running: PID {pid}", "Pid": pid}


def failure(detail: str, output: Files) -> Record:
    """Return the record of a command that was never executed."""
    readable = detail.encode(errors="backslashreplace").decode()
    return _final(FAILED, readable, output) | {"ExitCode": None, "Signal": None}


def canceled(unit_dir: str, info: signal.struct_siginfo) -> Record:
    """Return what the record of a cancel says beside how the command took it."""
    record: Record = {"State": CANCELED, "Detail": "Canceled"}
    if not cancelsignal.is_from_node(info):
        return record | {
            "Detail": f"Canceled by a signal of process {info.si_pid}, uid {info.si_uid}",
            "EndedBy": {"Cause": "signal", "Pid": info.si_pid, "Uid": info.si_uid},
        }
    try:
        told = json.loads(files.read_file(unit_dir + CANCEL_FILE, CANCEL_BYTES))
    except (OSError, ValueError, RecursionError):
        # No node of an older version writes it, nor one whose disk is full.
        return record
    if isinstance(told, dict) and isinstance(told.get("Detail"), str):
        record |= {"Detail": told["Detail"], "EndedBy": told.get("EndedBy")}
    return record


def stopped(detail: str, cause: str = "") -> Record:
    """Return what the record of a command says that was ended for a limit."""
    cause = cause or ("timeout" if detail.startswith(limits.TIMED_OUT) else "output")
    return {"State": FAILED, "Detail": detail, "EndedBy": {"Cause": cause}}


def end(
    pid: int,
    wait_status: int,
    output: Files,
    ended: Record | None = None,
    left: int = 0,
    going_on: int = 0,
) -> Record:
    """Return the record of a command's end; sync its output.

    ``ended`` is what the record says if the supervisor ended it, ``left`` how many processes were
    ended that it had left behind, ``going_on`` how many go on.
    """
    detail = command.end_text(wait_status)
    state = SUCCEEDED if wait_status == 0 else FAILED
    if left:
        detail += f"; ended {_processes(left)} that it left behind"
    if going_on:
        detail += f"; left {_processes(going_on)} running"
    if _is_full(output[STDOUT]):
        # Most commands tell that on their standard error, for which there was no room either. Some
        # do not even look whether their writes succeed, and nobody else can tell.
        lost = ", which may be incomplete" if state == SUCCEEDED else ""
        detail += f"; no space left on the disk of its output{lost}"
    own: Record = {}
    if ended is not None:
        own, detail = ended, str(ended["Detail"])
    for name, descriptor in output.items():
        try:
            # Before the record of the end is written: a final state says that output is complete.
            if os.fstat(descriptor).st_size:
                sync(descriptor)
        except OSError as error:
            # What the command wrote may be lost although it was told that all was well.
            own, state = {}, FAILED
            detail = f"{name} is incomplete: {command.error_text(error)}"
            break
    return (
        _final(state, detail, output)
        | own
        | {
            "Pid": pid,
            "ExitCode": command.exit_code(wait_status),
            "Signal": command.signal_name(wait_status),
        }
    )


def held(end: Record, holds: bool) -> Record:
    """Return what is recorded of an end; if it ``holds``, the node makes it the unit's end."""
    return {"Detail": "Collecting files", "Held": end} if holds else end


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _final(state: int, detail: str, output: Files) -> Record:
    sizes = {SIZE_KEYS[name]: os.fstat(descriptor).st_size for name, descriptor in output.items()}
    return {"State": state, "Detail": detail, **sizes, "Finished": now()}


def _is_full(fd: int) -> bool:
    disk = os.fstatvfs(fd)
    return disk.f_bavail * disk.f_frsize < FULL_BYTES


def now() -> str:
    """Return the time as RFC 3339 in UTC: ``2026-11-22T03:00:00.123456Z``.

    Without the module datetime, which takes memory in each supervisor.
    """
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    year, month, day, hour, minute, second = time.gmtime(seconds)[:6]
    return (
        f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}"
        f".{nanoseconds // 1000:06d}Z"
    )
