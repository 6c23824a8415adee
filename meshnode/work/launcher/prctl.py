"""The two calls of prctl(2) that supervisors need and the standard library lacks."""

from __future__ import annotations

import ctypes
import os
import signal

_SET_PDEATHSIG = 1
_SET_CHILD_SUBREAPER = 36
_KILL = int(signal.SIGKILL)

_prctl = ctypes.CDLL(None, use_errno=True).prctl
# Declared once, so that a call after a fork makes no objects: each one there is a page copied.
_prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)


def _call(option: int, argument: int) -> None:
    if _prctl(option, argument, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def become_subreaper() -> None:
    """Make orphaned descendants our children, whatever session they moved to."""
    _call(_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends; outlives exec.

    A parent that has ended before the call is not noticed.
    """
    _call(_SET_PDEATHSIG, _KILL)
