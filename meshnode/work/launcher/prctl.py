"""The three calls of prctl(2) that supervisors need and the standard library lacks."""

from __future__ import annotations

import ctypes
import os
import signal

_SET_PDEATHSIG = 1
_SET_NAME = 15
_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: int | bytes) -> None:
    zero = ctypes.c_ulong(0)
    value = ctypes.c_ulong(argument) if isinstance(argument, int) else ctypes.c_char_p(argument)
    if _libc.prctl(option, value, zero, zero, zero) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def become_subreaper() -> None:
    """Make orphaned descendants our children, whatever session they moved to."""
    _prctl(_SET_CHILD_SUBREAPER, 1)


def set_process_name(name: str) -> None:
    """Set the name that ``ps`` and ``top`` show (15 bytes)."""
    _prctl(_SET_NAME, name.encode())


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends; outlives exec.

    A parent that has ended before the call is not noticed.
    """
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)
