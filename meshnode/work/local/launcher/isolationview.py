"""What an isolated command sees of the machine's files, made in a mount namespace of its own.

It is the machine's tree with things mounted over it. A command has no capability that could take
one away again. In this order, since each step may uncover what an earlier one has covered:

1. ``/run`` and ``/dev`` are new and empty, and ``/tmp`` and ``/var/tmp`` if they are private: other
   programs have their sockets there, and the disks of the machine are in ``/dev``.
2. What is to be visible in spite of that is brought back.
3. What is the node's own is covered, also below what was brought back.
4. The unit's own directory is brought back, read-only.
5. ``/sys``, and what of ``/proc`` would change the kernel, become read-only; or all does, but for
   what is writable, and the directory of the unit with files that came along.
"""

from __future__ import annotations

import os
import stat

from meshnode.work.local.launcher import isolationcalls as calls
from meshnode.work.local.launcher.wire import Record

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
"""Devices that give nobody anything, and that programs count on."""

LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
"""Names in /dev that lead elsewhere."""

TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - these are meant

KNOBS = ("sys", "irq", "bus", "fs", "acpi", "scsi", "sysrq-trigger")
"""Below /proc: what changes the machine, and belongs to root with or without capabilities."""

SECRETS = ("kcore", "keys", "timer_list", "kmsg", "kallsyms")
"""Below /proc: what tells root more than it should know."""

KERNELS_OWN = ("/proc", "/dev/pts", "/dev/shm")  # noqa: S108
"""What holds nothing of the machine's, and is written to by many a program that reads only."""

RESOLVER = "/etc/resolv.conf"

_SYSTEM = calls.NOSUID | calls.NODEV | calls.NOEXEC
_NOTHING = os.devnull
_MODE_OF_COVER = "mode=755,size=1m,nr_inodes=4096"
_MODE_OF_TEMPORARY = "mode=1777"


class View:
    """What a command sees; keys of a Start (``work/local/isolation.py``).

    Attributes:
        readonly: whether nothing can be written but what is listed, /tmp and /dev/shm.
        tmp: whether /tmp and /var/tmp are its own.
        pids: whether /proc is to show a new PID namespace.
        guards: whether /proc has to be guarded from a command that is root to the machine.
        resolves: whether it has the machine's network, and so needs its resolver's file.
        visible, writable, hidden: paths.
    """

    __slots__ = (
        *("guards", "hidden", "pids", "readonly", "resolves", "tmp", "unit_dir"),
        *("visible", "writable"),
    )

    def __init__(self, record: Record, unit_dir: str) -> None:
        self.unit_dir = unit_dir
        self.readonly = bool(record.get("readonly"))
        self.tmp = bool(record.get("tmp"))
        self.pids = bool(record.get("pid"))
        self.guards = bool(record.get("guards"))
        self.resolves = record.get("network") == "host"
        self.visible: list[str] = record.get("visible") or []  # type: ignore[assignment]
        self.writable: list[str] = record.get("writable") or []  # type: ignore[assignment]
        self.hidden: list[str] = record.get("hidden") or []  # type: ignore[assignment]

    def make(self) -> None:
        """Make the view, for this process and all that it starts, and go to ``/``.

        Raises:
            OSError: it cannot be made.
        """
        calls.keep_mounts_private()
        # What is made on the way is for whoever the command will be.
        umask = os.umask(0o022)
        devices = [f"/dev/{name}" for name in DEVICES if os.path.exists(f"/dev/{name}")]
        unit = calls.open_tree(self.unit_dir)
        work = calls.open_tree(self._work) if os.path.isdir(self._work) else None
        back = [(path, calls.open_tree(path)) for path in (*devices, *self._wanted())]
        # One for each: what is a directory now may be a file when it is covered.
        nothing = [calls.open_tree(_NOTHING) for _ in self.hidden]
        self._cover()
        for path, tree in back:
            _attach(tree, path)
        for path in self.hidden:
            _hide(path, nothing)
        self._attach_unit(unit)
        writable = [(path, calls.open_tree(path)) for path in self.writable]
        self._mount_system()
        self._protect()
        for path, tree in writable:
            _attach(tree, path)
        if work is not None:
            _attach(work, self._work)
        # What the supervisor stands in may be covered now.
        os.chdir("/")
        os.umask(umask)

    @property
    def _work(self) -> str:
        """Where the files lie that came along with the unit, if any did."""
        return f"{self.unit_dir}/work"

    def _wanted(self) -> list[str]:
        """Return what is to be visible although it lies in what is covered, parents first."""
        wanted = {*self.visible, *self.writable}
        if self.resolves:
            resolver = os.path.realpath(RESOLVER)
            if resolver.startswith("/run/") and os.path.exists(resolver):
                wanted.add(resolver)
        return sorted(wanted)

    def _cover(self) -> None:
        calls.mount("tmpfs", "/dev", calls.NOSUID | calls.NOEXEC, _MODE_OF_COVER)
        if os.path.isdir("/run"):
            calls.mount("tmpfs", "/run", _SYSTEM, _MODE_OF_COVER)
        if self.tmp:
            for path in TEMPORARY:
                if os.path.isdir(path):
                    calls.mount("tmpfs", path, calls.NOSUID | calls.NODEV, _MODE_OF_TEMPORARY)
        for name in ("shm", "pts"):
            os.mkdir(f"/dev/{name}")
        calls.mount("tmpfs", "/dev/shm", calls.NOSUID | calls.NODEV, _MODE_OF_TEMPORARY)  # noqa: S108
        calls.mount("devpts", "/dev/pts", calls.NOSUID | calls.NOEXEC, "newinstance,ptmxmode=0666")
        for name, target in LINKS.items():
            os.symlink(target, f"/dev/{name}")

    def _attach_unit(self, tree: int) -> None:
        _attach(tree, self.unit_dir)
        calls.set_readonly(self.unit_dir)

    def _mount_system(self) -> None:
        if self.pids:
            calls.mount("proc", "/proc", _SYSTEM)
        if self.guards:
            for name in KNOBS:
                path = f"/proc/{name}"
                if os.path.exists(path):
                    calls.bind(path, path)
                    calls.set_readonly(path)
            for name in SECRETS:
                if os.path.exists(f"/proc/{name}"):
                    calls.bind(_NOTHING, f"/proc/{name}")

    def _protect(self) -> None:
        if self.readonly:
            calls.set_readonly("/", below=True)
            own = (*KERNELS_OWN, *(TEMPORARY if self.tmp else ()))
            for path in own:
                if os.path.isdir(path):
                    calls.set_readonly(path, undo=True)
            return
        for path in ("/sys", "/run", "/dev"):
            if os.path.ismount(path):
                calls.set_readonly(path, below=path == "/sys")


def _hide(path: str, nothing: list[int]) -> None:
    """Cover a file or directory, if it can be seen at all."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        # Gone, covered already, or in a directory that this user may not enter.
        return
    if stat.S_ISDIR(mode):
        calls.mount("tmpfs", path, _SYSTEM, _MODE_OF_COVER)
    else:
        _attach(nothing.pop(), path)


def _attach(tree: int, path: str) -> None:
    """Mount a copy where it was copied from; make the place, which only what is new can lack."""
    try:
        if not os.path.exists(path):
            _make_place(tree, path)
        calls.attach(tree, path)
    finally:
        os.close(tree)


def _make_place(tree: int, path: str) -> None:
    is_directory = stat.S_ISDIR(os.fstat(tree).st_mode)
    os.makedirs(path if is_directory else os.path.dirname(path), mode=0o755, exist_ok=True)
    if not is_directory:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
