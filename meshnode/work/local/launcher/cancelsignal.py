"""The signal that cancels a unit, and says which: its supervisor may have another one by then.

It is SIGTERM with a number in it, as sigqueue(3) sends it, through a pidfd, which is safe from PIDs
that are used again. A SIGTERM of anybody else, a service manager's for instance, has no number and
means whatever unit there is.
"""

from __future__ import annotations

import ctypes
import os
import signal

_PIDFD_SEND_SIGNAL = 424
"""Number of the system call, the same on every architecture; Python's wrapper takes no number."""

_SI_QUEUE = -1
"""Code of a signal that was sent with a number."""

_SIGINFO_BYTES = 128

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)


class _Queued(ctypes.Structure):
    _fields_ = (("pid", ctypes.c_int), ("uid", ctypes.c_uint), ("value", ctypes.c_size_t))


class _Sent(ctypes.Structure):
    _fields_ = (
        ("signo", ctypes.c_int),
        ("errno", ctypes.c_int),
        ("code", ctypes.c_int),
        ("queued", _Queued),
    )


class _SigInfo(ctypes.Union):
    """What the kernel takes as siginfo_t."""

    _fields_ = (("sent", _Sent), ("all", ctypes.c_char * _SIGINFO_BYTES))


def number_of(unit_id: str) -> int:
    """Return the number that stands for a unit: 31 bits, which hardly two units share."""
    number = 0
    for byte in unit_id.encode():
        number = (number * 257 + byte) % 0x7FFFFFFF
    return number


def send(pidfd: int, unit_id: str) -> None:
    """Ask a supervisor to end a unit.

    Raises:
        ProcessLookupError: it has ended.
        PermissionError: it belongs to another user.
    """
    info = _SigInfo()
    info.sent = _Sent(
        signal.SIGTERM,
        0,
        _SI_QUEUE,
        _Queued(os.getpid(), os.getuid(), number_of(unit_id)),
    )
    if _syscall(_PIDFD_SEND_SIGNAL, pidfd, int(signal.SIGTERM), ctypes.byref(info), 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def is_from_node(info: signal.struct_siginfo) -> bool:
    """Whether a SIGTERM is a node's cancel, and not one that anybody may send."""
    return info.si_code == _SI_QUEUE


def is_for(info: signal.struct_siginfo, unit_id: str) -> bool:
    """Whether a SIGTERM that a supervisor got is for its unit."""
    # siginfo_t has the number where a SIGCHLD has the status, and Python shows it by that name.
    return not is_from_node(info) or info.si_status == number_of(unit_id)


# --- The call of prctl(2) that supervisors need and the standard library lacks

_SET_CHILD_SUBREAPER = 36

_prctl = ctypes.CDLL(None, use_errno=True).prctl
# Declared once, so that a call after a fork makes no objects: each one there is a page copied.
_prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)


def become_subreaper() -> None:
    """Make orphaned descendants children of this process, whatever session they moved to."""
    if _prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
