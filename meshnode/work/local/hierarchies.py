"""The cgroup hierarchies of this machine as this process may use them; nothing is changed here.

On v1 each controller has a hierarchy of its own. On v2 there is one for all, and a process can be
in a directory with limited children only if that is the root: so a node goes into a child itself
(``OWN_GROUP``) before it makes groups beside that. Where some controllers are on v1 and v2 is
mounted as well, the node uses v1 and, of v2, ``cgroup.kill``.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

CONTROLLERS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "cpu": ("cpu", "cpu"),
        "memory": ("memory", "memory"),
        "swap": ("memory", "memory"),
        "pids": ("pids", "pids"),
        "io-read": ("blkio", "io"),
        "io-write": ("blkio", "io"),
    }
)
"""The controller that keeps each limit, by its name on v1 and on v2; others are rlimits."""

OF_V1: Final[tuple[str, ...]] = ("cpu", "cpuacct", "memory", "pids", "blkio", "freezer")
"""The hierarchies of v1 that limit, count or freeze."""

OF_V2: Final[tuple[str, ...]] = ("cpu", "memory", "pids", "io")
"""The controllers of v2 that limit or count."""

UNIFIED: Final = "unified"
"""The hierarchy of v2."""

OWN_GROUP: Final = "meshnode-itself"
"""The child that a node goes into on v2. ``DelegateSubgroup=`` of a service may name it as well, so
that systemd starts a node there."""

DELEGATED: Final = ("user.delegate", "trusted.delegate")
"""Attributes by which systemd marks a directory whose insides are a service's own."""


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """What this process finds.

    Attributes:
        version: of the hierarchies with the controllers; 0 where there are none.
        directories: where this process is, by hierarchy.
        controllers: what of v2 can be used in that directory.
        kills: whether ``cgroup.kill`` is there.
        swap: whether swap is accounted.
        is_ours: whether the directory of v2 may be divided: it is the root, or delegated.
    """

    version: int
    directories: Mapping[str, str]
    controllers: frozenset[str] = frozenset()
    kills: bool = False
    swap: bool = False
    is_ours: bool = False

    @property
    def in_words(self) -> str:
        """What is used, for the log and for status."""
        how = "cgroup.kill" if self.kills else "the freezer"
        if self.version == 0:
            return "no control groups"
        if self.version == 2:
            return f"cgroup v2 ({', '.join(sorted(self.controllers))})"
        found = [name for name in OF_V1 if name in self.directories]
        return f"cgroup v1 ({', '.join(found)}) with {how}"

    def refusal(self, limits: Iterable[str]) -> str | None:
        """Return why one of these limits cannot be kept here, and what would help."""
        for limit in limits:
            if limit in CONTROLLERS and (reason := self._lack(limit)):
                return f"{limit}: {reason}"
        return None

    def _lack(self, limit: str) -> str | None:
        of_v1, of_v2 = CONTROLLERS[limit]
        if self.version == 0:
            return "no cgroup controllers are mounted here; mount /sys/fs/cgroup"
        if self.version == 2:
            return self._lack_of_v2(limit, of_v2)
        directory = self.directories.get(of_v1)
        if directory is None:
            return f"the kernel's cgroup v1 has no controller {of_v1} mounted here"
        if reason := _not_writable(directory):
            return reason
        if limit == "swap" and not self.swap and has_swap():
            return "the kernel does not account swap; boot it with swapaccount=1"
        return None

    def _lack_of_v2(self, limit: str, controller: str) -> str | None:
        directory = self.directories[UNIFIED]
        if controller not in self.controllers:
            return (
                f"{directory} has no controller {controller}; run the node as a service with "
                "Delegate=yes"
            )
        if reason := _not_writable(directory):
            return reason
        if not self.is_ours:
            return (
                f"{directory} is not this node's to divide; run it as a service with Delegate=yes, "
                "or with systemd-run --scope -p Delegate=yes"
            )
        if limit == "swap" and not self.swap and has_swap():
            return "the kernel does not account swap"
        return None


def _not_writable(directory: str) -> str | None:
    if os.access(directory, os.W_OK | os.X_OK):
        return None
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        return (
            f"{directory} is mounted read-only, as in a container; give the container a writable "
            "/sys/fs/cgroup"
        )
    return (
        f"{directory} cannot be written by this user; run the node as root, or as a service with "
        "Delegate=yes"
    )


def look(proc: Path = Path("/proc/self")) -> Hierarchies:
    """Return the hierarchies that this process is in.

    Raises:
        OSError: /proc cannot be read.
    """
    own = dict(_own_groups((proc / "cgroup").read_text(encoding="utf-8", errors="replace")))
    mounts = (proc / "mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    found = {
        name: directory
        for name, root, point in _mounted(mounts)
        if name in own and (directory := _inside(point, root, own[name]))
    }
    unified = found.get(UNIFIED, "")
    of_v1 = {name: found[name] for name in OF_V1 if name in found}
    if any(of_v1.get(controller) for controller, _ in CONTROLLERS.values()):
        kills = bool(unified) and _has_kill(unified)
        memory = of_v1.get("memory", "")
        return Hierarchies(
            1,
            MappingProxyType({**of_v1, **({UNIFIED: unified} if kills else {})}),
            kills=kills,
            swap=os.path.exists(f"{memory}/memory.memsw.limit_in_bytes"),
        )
    if not unified:
        return Hierarchies(0, MappingProxyType({}))
    return _look_at_v2(unified, own[UNIFIED])


def _look_at_v2(directory: str, own: str) -> Hierarchies:
    if os.path.basename(directory) == OWN_GROUP:
        directory, own = os.path.dirname(directory), os.path.dirname(own)
    available = Path(directory, "cgroup.controllers").read_text(encoding="ascii").split()
    return Hierarchies(
        2,
        MappingProxyType({UNIFIED: directory}),
        frozenset(available).intersection(OF_V2),
        kills=_has_kill(directory),
        # The root has no such file.
        swap=os.path.exists(f"{directory}/memory.swap.max") or own == "/",
        is_ours=own == "/" or any(_is_marked(directory, name) for name in DELEGATED),
    )


def _has_kill(directory: str) -> bool:
    """Whether groups below a directory have ``cgroup.kill``, which no root has."""
    if os.path.exists(f"{directory}/cgroup.kill"):
        return True
    release = os.uname().release.split(".")
    return [int(part) for part in release[:2] if part.isdigit()] >= [5, 14]


def _is_marked(directory: str, name: str) -> bool:
    try:
        return os.getxattr(directory, name) == b"1"
    except OSError:
        return False


def _own_groups(text: str) -> Iterable[tuple[str, str]]:
    """Yield hierarchy and path of each line of /proc/PID/cgroup."""
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            for name in parts[1].split(",") if parts[1] else (UNIFIED,):
                yield name, parts[2]


def _mounted(text: str) -> Iterable[tuple[str, str, str]]:
    """Yield hierarchy, root and mount point of each cgroup file system in mountinfo (proc(5))."""
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields, (kind, *more) = before.split(), after.split() or [""]
        if not separator or len(fields) < 5 or len(more) < 2:
            continue
        root, point = (_unescaped(field) for field in fields[3:5])
        if kind == "cgroup2":
            yield UNIFIED, root, point
        elif kind == "cgroup":
            for name in more[1].split(","):
                yield name, root, point


def _unescaped(field: str) -> str:
    for character in " \t\n\\":
        field = field.replace(f"\\{ord(character):03o}", character)
    return field


def _inside(point: str, root: str, own: str) -> str:
    """Return the directory of a group, empty where the mount does not show it."""
    root = root.rstrip("/")
    if own != root and not own.startswith(f"{root}/"):
        # A mount of another part of the tree, as in a container without a namespace of cgroups.
        return ""
    return (point.rstrip("/") + own.removeprefix(root)).rstrip("/")


def has_swap() -> bool:
    """Whether this machine has any swap in use."""
    try:
        return len(Path("/proc/swaps").read_text(encoding="utf-8").splitlines()) > 1
    except OSError:
        return False


USERS_OF_MACHINE: Final = 0xEFFFFFFD
"""Number of the first user namespace. A capability of another one raises no limits, and a map of
users may look the same there."""


def may_raise_limits(proc: Path = Path("/proc/self")) -> bool:
    """Whether this process may raise hard limits again: CAP_SYS_RESOURCE of the whole machine."""
    capability = 24
    try:
        text = (proc / "status").read_text(encoding="utf-8", errors="replace")
        users = os.stat(proc / "ns/user").st_ino
    except OSError:
        return False
    line = next((one for one in text.splitlines() if one.startswith("CapEff:")), "CapEff: 0")
    return users == USERS_OF_MACHINE and bool(int(line.split()[1], 16) >> capability & 1)
