"""The filter of system calls, made once by libseccomp and handed to commands as a program.

It refuses what jobs have no use for and attacks on a kernel do, and lets all else pass: a list of
what is allowed would break programs with each new version of the C library. What needs a capability
is refused by that already; the filter spares the kernel's code behind it.
"""

import ctypes
import errno
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from meshnode.errors import WorkError

LIBRARY: Final = "libseccomp.so.2"
"""libseccomp knows the numbers of system calls on each architecture; no package for Python has it
with it, and nearly every Linux has it for systemd."""

REFUSED: Final = (
    # Mounts and namespaces: what an isolation is made of.
    *("mount", "umount", "umount2", "pivot_root", "chroot", "setns", "unshare", "move_mount"),
    *("open_tree", "open_tree_attr", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr"),
    *("open_by_handle_at", "sethostname", "setdomainname", "quotactl", "quotactl_fd", "acct"),
    # Other processes.
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "process_madvise"),
    # The kernel itself.
    *("bpf", "perf_event_open", "userfaultfd", "kexec_load", "kexec_file_load", "init_module"),
    *("finit_module", "delete_module", "create_module", "query_module", "get_kernel_syms"),
    *("iopl", "ioperm", "modify_ldt", "vm86", "vm86old", "reboot", "swapon", "swapoff", "syslog"),
    *("settimeofday", "stime", "clock_settime", "clock_settime64", "clock_adjtime"),
    *("clock_adjtime64", "nfsservctl", "_sysctl", "uselib", "ustat", "sysfs", "lookup_dcookie"),
    *("fanotify_init", "personality", "vhangup", "pciconfig_read", "pciconfig_write"),
    # The keys of whoever started the node are not in any namespace.
    *("keyctl", "add_key", "request_key"),
    # A second way past a filter: what is asked of a ring is not seen here.
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
)
"""System calls that fail with EPERM."""

NOT_THERE: Final = ("clone3", "socketcall")
"""System calls that fail with ENOSYS, so that programs take an older or newer one whose arguments
can be seen: these have them in memory."""

NEW_NAMESPACES: Final = (
    *(0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000),
)
"""Flags of clone(2), each of which asks for a namespace."""

TERMINAL_INPUT: Final = (0x5412, 0x541C)
"""Requests of ioctl(2) that type into a terminal: TIOCSTI and TIOCLINUX."""

OUTSIDE_FAMILIES: Final = (38, 40)
"""Families of sockets that no network namespace holds: AF_ALG and AF_VSOCK, by which a virtual
machine speaks with its host."""

_ALLOW = 0x7FFF_0000
_ERRNO = 0x0005_0000
_EQUAL, _MASKED_EQUAL = 4, 7
_BAD_ARCHITECTURE = 2
_UNKNOWN = -1

_SECOND_ARCHITECTURES = {"x86_64": (0x4000_0003,), "aarch64": (0x4000_0028,)}
"""The 32-bit architectures that a machine executes as well: i386, ARM. Any other, x32 included, is
refused as a whole."""


class NoSeccomp(WorkError):
    """A filter cannot be made."""


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


@dataclass(frozen=True, slots=True)
class _Rule:
    """One system call that fails with ``error``, if its argument has these bits."""

    name: str
    error: int = errno.EPERM
    argument: int | None = None
    mask: int = 0
    value: int = 0


def rules() -> tuple[_Rule, ...]:
    """Return all that the filter refuses."""
    low = 0xFFFF_FFFF
    return (
        *(_Rule(name) for name in REFUSED),
        *(_Rule(name, errno.ENOSYS) for name in NOT_THERE),
        *(_Rule("clone", argument=0, mask=flag, value=flag) for flag in NEW_NAMESPACES),
        # The kernel looks at the lower 32 bits alone.
        *(_Rule("ioctl", argument=1, mask=low, value=one) for one in TERMINAL_INPUT),
        *(_Rule("socket", argument=0, mask=low, value=one) for one in OUTSIDE_FAMILIES),
    )


def make_program() -> bytes:
    """Return the filter as instructions for the kernel.

    Raises:
        NoSeccomp: libseccomp is not installed, or cannot do it.
    """
    library = _load()
    context = library.seccomp_init(_ALLOW)
    if not context:
        raise NoSeccomp("libseccomp makes no filter for this machine")
    try:
        _check(library.seccomp_attr_set(context, _BAD_ARCHITECTURE, _ERRNO | errno.EPERM))
        for architecture in _SECOND_ARCHITECTURES.get(os.uname().machine, ()):
            _check(library.seccomp_arch_add(context, architecture))
        for rule in rules():
            _add(library, context, rule)
        with tempfile.TemporaryFile() as file:
            _check(library.seccomp_export_bpf(context, file.fileno()))
            file.seek(0)
            return file.read()
    finally:
        library.seccomp_release(context)


def unknown(names: Iterable[str]) -> list[str]:
    """Return those system calls that the installed libseccomp has no number for."""
    library = _load()
    return [n for n in names if library.seccomp_syscall_resolve_name(n.encode()) == _UNKNOWN]


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        raise NoSeccomp(
            f"{LIBRARY} is not installed; install libseccomp (Debian: libseccomp2), or write "
            "seccomp: none"
        ) from None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    library.seccomp_arch_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_rule_add_array.argtypes = (
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint),
        ctypes.POINTER(_Comparison),
    )
    return library


def _add(library: ctypes.CDLL, context: int, rule: _Rule) -> None:
    number = library.seccomp_syscall_resolve_name(rule.name.encode())
    if number == _UNKNOWN:
        # Newer than this libseccomp; capabilities refuse what it would do.
        return
    count = 0 if rule.argument is None else 1
    compared = _Comparison(rule.argument or 0, _MASKED_EQUAL, rule.mask, rule.value)
    action = _ERRNO | rule.error
    _check(library.seccomp_rule_add_array(context, action, number, count, compared))


def _check(result: int) -> None:
    if result < 0:
        raise NoSeccomp(f"libseccomp: {os.strerror(-result)}")
