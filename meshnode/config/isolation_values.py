"""How work is kept apart from the machine that it runs on: values, and how they are written."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import yaml

from meshnode.config.faults import quote, suggestion
from meshnode.config.kinds import (
    Kind,
    WrongPart,
    boolean,
    choice,
    list_of,
    read_part,
    scalar_text,
    text,
    unfolded,
)
from meshnode.config.names import Wrong, check_absolute

NONE, LOOPBACK, HOST = "none", "loopback", "host"
PRIVATE, READONLY = "private", "readonly"


@dataclass(frozen=True, slots=True)
class Isolation:
    """What units of a type see of their machine.

    Attributes:
        pid: whether they see no other processes.
        network: ``none``, ``loopback`` (one of their own), or the machine's.
        mount: ``private``, or ``readonly``: where they may write is listed.
        tmp: whether /tmp and /var/tmp are their own.
        hostname: whether their machine is called as the unit is.
        visible: paths in /run, /dev and /tmp that they see in spite of that.
        writable: paths that they may write below if the rest is read-only.
        hidden: paths that they do not see.
    """

    pid: bool = False
    network: str = HOST
    mount: str = PRIVATE
    tmp: bool = False
    hostname: bool = False
    visible: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()


FULL: Final = Isolation(True, NONE, READONLY, tmp=True, hostname=True)
"""What ``isolation: full`` means."""


def _check_place(value: str) -> str:
    """Return an absolute path without detours. Raises Wrong."""
    path = check_absolute(value).rstrip("/")
    if not path:
        raise Wrong("/ is everything; name what is below it")
    if any(part in {"", ".", ".."} for part in path[1:].split("/")):
        raise Wrong(f"{quote(value)} is no plain path: write it without //, . and ..")
    return path


_PLACES = list_of(text("absolute path", _check_place), "list of absolute paths")

_KEYS: Final[Mapping[str, tuple[Kind[Any], Callable[[Any], Any]]]] = MappingProxyType(
    {
        "pid": (boolean(), bool),
        "network": (choice((NONE, LOOPBACK, HOST)), str),
        "mount": (choice((PRIVATE, READONLY)), str),
        "tmp": (choice(("private", "shared")), lambda value: value == "private"),
        "hostname": (choice(("job", "host")), lambda value: value == "job"),
        "visible": (_PLACES, tuple),
        "writable": (_PLACES, tuple),
        "hidden": (_PLACES, tuple),
    }
)
"""Each key of ``isolation``: how its value is read, and what of it the field holds."""


def isolation() -> Kind[Isolation | None]:
    """Return the kind of ``isolation``: ``full``, ``none``, or a map."""
    label = f"full, none, or a map of {', '.join(_KEYS)}"

    def read(node: yaml.Node) -> Isolation | None:
        node = unfolded(node, "{")
        if not isinstance(node, yaml.MappingNode):
            word = scalar_text(node, label).lower()
            if word not in {"full", "none"}:
                raise Wrong(f"{quote(word)} is neither full nor none nor a map; expected: {label}")
            return FULL if word == "full" else None
        values: dict[str, Any] = {}
        for key, value in node.value:
            name = scalar_text(key, "name").lower()
            if name not in _KEYS:
                hint = suggestion(name, _KEYS, otherwise=f"it takes {', '.join(_KEYS)}")
                raise WrongPart(f"{quote(name)} is unknown; {hint}", key)
            if name in values:
                raise WrongPart(f"{quote(name)} is given twice", key)
            kind, held = _KEYS[name]
            values[name] = held(read_part(kind, value, name))
        made = Isolation(**values)
        if made.writable and made.mount != READONLY:
            raise Wrong("writable: says nothing without mount: readonly")
        return made

    return Kind(label, read)


# --- Users, groups, umask -------------------------------------------------------------------------

_OCTAL = re.compile(r"0o?([0-7]{3})")


def umask() -> Kind[int | None]:
    """Return the kind of a umask: octal as for chmod, so that nobody has to guess."""
    label = "octal number such as 0077"

    def read(node: yaml.Node) -> int | None:
        value = scalar_text(node, label)
        match = _OCTAL.fullmatch(value)
        if match is None:
            raise Wrong(f"{quote(value)} is not an {label}")
        return int(match[1], 8)

    return Kind(label, read, lambda value: f"{value:04o}")


def check_account(value: str) -> str:
    """Return what may be the name or number of a user or group. Raises Wrong."""
    if not value or value != value.strip() or not value.isprintable() or ":" in value:
        raise Wrong(f"{quote(value)} is neither the name nor the number of a user or group")
    if value.isdecimal() and int(value) >= NO_ID:
        raise Wrong(f"{value} is no number of a user or group")
    return value


NO_ID = 0xFFFF_FFFF
"""The number that no user has: calls of the system take it for "as it is"."""

ACCOUNT: Final = text("name or number", check_account)


# --- Capabilities ---------------------------------------------------------------------------------

CAPABILITIES: Final = (
    *("chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid"),
    *("setpcap", "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw"),
    *("ipc_lock", "ipc_owner", "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct"),
    *("sys_admin", "sys_boot", "sys_nice", "sys_resource", "sys_time", "sys_tty_config", "mknod"),
    *("lease", "audit_write", "audit_control", "setfcap", "mac_override", "mac_admin", "syslog"),
    *("wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf", "checkpoint_restore"),
)
"""Linux's capabilities; the place of each is its number."""

UNDOING: Final = frozenset(
    {"sys_admin", "sys_module", "sys_rawio", "sys_ptrace", "sys_boot", "mknod", "bpf", "perfmon"}
    | {"dac_read_search", "mac_admin", "mac_override", "sys_chroot", "checkpoint_restore"}
)
"""Those with which a command could take its isolation off, or look past it."""


ALL: Final = ("all",)
"""What ``capabilities: all`` reads as."""


def _check_capability(value: str) -> str:
    """Return a capability's name in lower case, without ``CAP_``. Raises Wrong."""
    name = value.lower().removeprefix("cap_")
    if name not in CAPABILITIES:
        hint = suggestion(name, CAPABILITIES, otherwise="capabilities(7) has them all")
        raise Wrong(f"{quote(value)} is no capability; {hint}")
    return name


def capabilities() -> Kind[tuple[str, ...]]:
    """Return the kind of a list of capabilities, which may be empty; or ``all`` of them."""
    label = "list of capabilities, which may be empty, or all"
    item = text("capability", _check_capability)

    def read(node: yaml.Node) -> tuple[str, ...]:
        node = unfolded(node, "[")
        if isinstance(node, yaml.SequenceNode):
            return _in_order(read_part(item, part) for part in node.value)
        word = scalar_text(node, label)
        if word.lower() == "all":
            return ALL
        return () if word.lower() == "none" else (item.read(node),)

    return Kind(label, read, repeatable=True)


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
