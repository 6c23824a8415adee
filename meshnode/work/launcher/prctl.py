"""The call of prctl(2) that supervisors need and the standard library lacks."""

from __future__ import annotations

import ctypes
import os

_SET_CHILD_SUBREAPER = 36

_prctl = ctypes.CDLL(None, use_errno=True).prctl
# Declared once, so that a call after a fork makes no objects: each one there is a page copied.
_prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)


def become_subreaper() -> None:
    """Make orphaned descendants our children, whatever session they moved to."""
    if _prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
