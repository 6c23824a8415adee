"""System calls that isolate a command and that Python's standard library lacks.

Each raises OSError; its ``filename`` says what was to be done, for a person.
"""

from __future__ import annotations

import ctypes
import fcntl
import os

NEW_MOUNTS = 0x0002_0000
NEW_HOSTNAME = 0x0400_0000
NEW_IPC = 0x0800_0000
NEW_USER = 0x1000_0000
NEW_PIDS = 0x2000_0000
NEW_NETWORK = 0x4000_0000
"""Flags of clone3(2): which namespaces a process gets of its own."""

NOSUID, NODEV, NOEXEC = 2, 4, 8
_BIND, _RECURSIVE, _PRIVATE = 0x1000, 0x4000, 0x4_0000

_OPEN_TREE, _MOVE_MOUNT, _CLONE3, _MOUNT_SETATTR = 428, 429, 435, 442
"""Numbers of system calls that are the same on every architecture."""

_HERE = -100
_EMPTY_PATH, _AT_RECURSIVE = 4, 0x8000
_TREE_CLONE = 1
_ATTR_READONLY = 1

_SIGCHLD = 17

_SET_PARENT_DEATH, _SET_DUMPABLE, _SET_KEEPCAPS, _SET_SECCOMP = 1, 4, 8, 22
_DROP_BOUNDING, _SET_NO_NEW_PRIVILEGES, _AMBIENT = 24, 38, 47
_SECCOMP_FILTER, _AMBIENT_RAISE, _AMBIENT_CLEAR = 2, 2, 4

_CAPABILITY_VERSION = 0x2008_0522

_INET, _DATAGRAM = 2, 2
_SET_INTERFACE_FLAGS, _INTERFACE_UP = 0x8914, 1

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_libc.mount.argtypes = (*[ctypes.c_char_p] * 3, ctypes.c_ulong, ctypes.c_char_p)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
# The process that this call makes goes on with Python's lock held, as its parent does.
_forking_syscall = ctypes.PyDLL(None, use_errno=True).syscall
_forking_syscall.restype = ctypes.c_long


class _CloneArguments(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("flags", "pidfd", "child", "parent", "signal", "stack", "size", "tls")
    )


class _MountAttributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "user"))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


# --- Processes ------------------------------------------------------------------------------------


def fork_into(namespaces: int) -> int:
    """Fork into new namespaces; return the child's PID, 0 in the child.

    One call where unshare(2) and a fork would be two processes more: the new namespace of PIDs is
    for children only. The caller has one thread, and none of its code asks glibc for its own ID.
    """
    arguments = _CloneArguments(namespaces, 0, 0, 0, _SIGCHLD, 0, 0, 0)
    result = _forking_syscall(_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments))
    return _checked(int(result), "new namespaces")


def _prctl(what: str, option: int, *values: int) -> None:
    filled = (*values, 0, 0, 0, 0)[:4]
    _checked(_libc.prctl(option, *filled), what)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    _prctl("parent death signal", _SET_PARENT_DEATH, 9)


def hide_memory() -> None:
    """Let nobody without privilege trace this process, or read its environment and memory."""
    _prctl("dumpable", _SET_DUMPABLE, 0)


def gain_nothing() -> None:
    """No program that this process executes gives it privileges, set-uid ones included."""
    _prctl("no new privileges", _SET_NO_NEW_PRIVILEGES, 1)


def keep_capabilities_over_users() -> None:
    """Do not drop all capabilities when the user changes."""
    _prctl("keepcaps", _SET_KEEPCAPS, 1)


def drop_bounding(capability: int) -> None:
    """Take a capability out of what this process can ever have."""
    _prctl("capabilities", _DROP_BOUNDING, capability)


def set_capabilities(kept: int) -> None:
    """Have these capabilities (a bit each) and no others, and hand them on to what is executed."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    low, high = kept & 0xFFFF_FFFF, kept >> 32
    _prctl("capabilities", _AMBIENT, _AMBIENT_CLEAR)
    data = (ctypes.c_uint32 * 6)(low, low, low, high, high, high)
    _checked(_libc.capset(header, data), "capabilities")
    for number in range(kept.bit_length()):
        if kept >> number & 1:
            _prctl("capabilities", _AMBIENT, _AMBIENT_RAISE, number)


def filter_calls(program: bytes) -> None:
    """Filter the system calls of this process and all that it starts (seccomp(2))."""
    instructions = _Program(len(program) // 8, program)
    address = ctypes.addressof(instructions)
    _prctl("seccomp", _SET_SECCOMP, _SECCOMP_FILTER, address)


# --- Network and name -----------------------------------------------------------------------------


def bring_up_loopback() -> None:
    """Make 127.0.0.1 and ::1 of this network namespace work."""
    fd = _checked(_libc.socket(_INET, _DATAGRAM | os.O_CLOEXEC, 0), "loopback")
    try:
        request = b"lo".ljust(16, b"\0") + _INTERFACE_UP.to_bytes(2, "little").ljust(24, b"\0")
        fcntl.ioctl(fd, _SET_INTERFACE_FLAGS, request)
    finally:
        os.close(fd)


def set_hostname(name: str) -> None:
    """Name this machine, in this namespace."""
    raw = name.encode()
    _checked(_libc.sethostname(raw, len(raw)), "hostname")


# --- Mounts ---------------------------------------------------------------------------------------


def keep_mounts_private() -> None:
    """Let no mount pass between this namespace and the machine's, either way."""
    _checked(_libc.mount(None, b"/", None, _RECURSIVE | _PRIVATE, None), "private mounts")


def mount(kind: str, path: str, flags: int, options: str = "") -> None:
    """Mount a new file system of that kind, over what is there."""
    arguments = (kind.encode(), os.fsencode(path), kind.encode(), flags, options.encode())
    _checked(_libc.mount(*arguments), f"{kind} at {path}")


def bind(source: str, path: str) -> None:
    """Show at ``path`` what is at ``source``."""
    result = _libc.mount(os.fsencode(source), os.fsencode(path), None, _BIND, None)
    _checked(result, f"bind {path}")


def open_tree(path: str) -> int:
    """Return a descriptor of a copy of all that is mounted at ``path`` and below."""
    flags = _TREE_CLONE | os.O_CLOEXEC | _AT_RECURSIVE
    return _checked(int(_syscall(_OPEN_TREE, _HERE, os.fsencode(path), flags)), path)


def attach(tree: int, path: str) -> None:
    """Mount what :func:`open_tree` has copied, over what is there."""
    result = _syscall(_MOVE_MOUNT, tree, b"", _HERE, os.fsencode(path), _EMPTY_PATH)
    _checked(int(result), f"mount at {path}")


def set_readonly(path: str, *, below: bool = False, undo: bool = False) -> None:
    """Let nothing be written to what is mounted at ``path``, ``below`` also to what is below."""
    change = (0, _ATTR_READONLY) if undo else (_ATTR_READONLY, 0)
    attributes = _MountAttributes(*change, 0, 0)
    flags = _AT_RECURSIVE if below else 0
    result = _syscall(
        _MOUNT_SETATTR,
        _HERE,
        os.fsencode(path),
        flags,
        ctypes.byref(attributes),
        ctypes.sizeof(attributes),
    )
    _checked(int(result), f"read-only {path}")
