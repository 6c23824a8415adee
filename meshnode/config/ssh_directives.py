"""The directive of work on hosts that have only an SSH server: the hosts, and what they run."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml

from meshnode.config import names
from meshnode.config.faults import FaultLog, quote, suggestion
from meshnode.config.kinds import (
    Kind,
    WrongPart,
    boolean,
    choice,
    duration,
    list_of,
    map_of,
    path,
    read_part,
    shell_words,
    size,
    text,
    unfolded,
    whole,
)
from meshnode.config.names import MAX_PORT, Wrong
from meshnode.config.schema import Directive, directive, parameter
from meshnode.config.work_directives import NAME_OF_TYPE, WORK_TYPE

CHOICES: Final = ("random", "least")
"""How the host of a unit is chosen that names none."""

MAX_HOST_NAME: Final = 100
"""Characters of the name of a host, which stands in the details of units."""

MOST_AT_ONCE: Final = 10_000
"""Units or connections at once to one host: more than any takes."""

_OPTION: Final = re.compile(r"([A-Za-z][A-Za-z0-9]*)\s*[=\s]\s*(\S.*)")

OURS: Final = frozenset(
    {
        *("batchmode", "requesttty", "remotecommand", "sessiontype", "stdinnull"),
        *("forkafterauthentication", "loglevel", "escapechar"),
    }
)
"""Options of ssh that meshnode sets itself, or that would keep it from talking to the host."""

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _no_entries() -> Mapping[str, Any]:
    return MappingProxyType({})


def _check_name(value: str) -> str:
    names.check_host_word(value, "the name of a host", MAX_HOST_NAME)
    if value in CHOICES:
        raise Wrong(f"{quote(value)} cannot be the name of a host: it is a way to choose one")
    return value


def _check_address(value: str) -> str:
    return names.check_host_word(value, "the address of a host", 255)


def _check_user(value: str) -> str:
    return names.check_host_word(value, "a user", 255)


def _check_option(value: str) -> str:
    """Return an option as ssh takes it behind ``-o``."""
    found = _OPTION.fullmatch(value)
    if found is None or not value.isprintable():
        raise Wrong(f"{quote(value)} is not an option of ssh such as ProxyJump=gate")
    if found[1].lower() in OURS:
        raise Wrong(f"{quote(found[1])} is an option that meshnode sets itself")
    return f"{found[1]}={found[2]}"


def _check_variable(value: str) -> str:
    if not _VARIABLE.fullmatch(value):
        raise Wrong(f"{quote(value)} cannot name an environment variable of a shell")
    return value


@dataclass(frozen=True, slots=True)
class SshHost:
    """A host as the directive names it; what is empty or None, OpenSSH's configuration says."""

    name: str
    address: str = ""
    port: int | None = None
    user: str = ""
    key: Path | None = None
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return its name."""
        return self.name


_FIELDS: Final[Mapping[str, Kind[Any]]] = {
    "name": text("name", _check_name),
    "address": text("host name or address", _check_address),
    "port": whole(1, MAX_PORT),
    "user": text("name", _check_user),
    "key": path("file"),
    "options": list_of(text("option such as ProxyJump=gate", _check_option), "list of options"),
}


def hosts_kind() -> Kind[tuple[SshHost, ...]]:
    """Return the kind of a list of hosts; one that is only a name has all else from OpenSSH."""
    label = "list of hosts"

    def read(node: yaml.Node) -> tuple[SshHost, ...]:
        node = unfolded(unfolded(node, "["), "{")
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found: dict[str, SshHost] = {}
        for part in parts:
            host = _read_host(part)
            if host.name in found:
                raise WrongPart(f"{quote(host.name)} is named twice", part)
            found[host.name] = host
        if not found:
            raise Wrong("is an empty list; name at least one host")
        return tuple(found.values())

    return Kind(label, read, lambda hosts: ", ".join(map(str, hosts)), repeatable=True)


def _read_host(node: yaml.Node) -> SshHost:
    node = unfolded(node, "{")
    if not isinstance(node, yaml.MappingNode):
        return SshHost(read_part(_FIELDS["name"], node))
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = read_part(text("name"), key_node).lower()
        if key not in _FIELDS:
            hint = suggestion(key, _FIELDS, otherwise=f"a host has {', '.join(_FIELDS)}")
            raise WrongPart(f"{quote(key)} is nothing that a host has; {hint}", key_node)
        if key in values:
            raise WrongPart(f"{quote(key)} is given twice", key_node)
        values[key] = read_part(_FIELDS[key], value_node, key)
    if "name" not in values and "address" in values:
        values["name"] = values["address"]
    if "name" not in values:
        raise WrongPart("a host has neither name nor address", node)
    return SshHost(**values)


@directive(
    "work-ssh",
    "Offer a type of work that runs a command on hosts that have only an SSH server.",
    section="Work",
    example=(("worktype", "render"), ("hosts", "[anna, bert]"), ("command", "nice")),
    claims=WORK_TYPE,
)
class WorkSsh(Directive):
    """Hosts, and the command or script that runs on one of them; see docs/ssh.md."""

    RELOADABLE = True

    worktype: str = parameter(NAME_OF_TYPE, "name by which clients ask for it")
    hosts: tuple[SshHost, ...] = parameter(
        hosts_kind(),
        "where it may run: names, or maps with name, address, port, user, key and options (of "
        "ssh); what is left out, OpenSSH's own configuration says",
    )
    choice: str = parameter(
        choice(CHOICES),
        "which host a unit gets that names none: any, or the one with the fewest running units of "
        "this type",
        default="least",
    )
    command: str = parameter(
        text(), "program to run there, by path or as found in PATH", default="", default_text="none"
    )
    script: Path | None = parameter(
        path("file"),
        "file of this node that is sent there and run instead of a command",
        default=None,
        default_text="none",
    )
    params: tuple[str, ...] = parameter(
        shell_words(), "its arguments; no shell splits them", default=(), default_text="none"
    )
    allowruntimeparams: bool = parameter(
        boolean(), "let clients add arguments of their own", default=False
    )
    allowscripts: bool = parameter(
        boolean(),
        "let clients send scripts, which it runs as the word after params: docs/files.md",
        default=False,
    )
    verifysignature: bool = parameter(
        boolean(), "run only signed work, except from the unix socket", default=False
    )
    env: Mapping[str, str] = parameter(
        map_of(text("name", _check_variable), text(), "map of name to value"),
        "environment variables that it gets beside the user's own there",
        default_factory=_no_entries,
        default_text="none",
    )
    cwd: str = parameter(
        text("path"),
        "directory there that it starts in",
        default="",
        default_text="one of its own",
    )
    timeout: float | None = parameter(
        duration(1, "1s"),
        "end it, as failed, when it has run for so long, also while nobody is connected",
        default=None,
        default_text="never",
    )
    maxoutput: int | None = parameter(
        size(),
        "end it, as failed, when it has printed more than that, errors included",
        default=None,
        default_text="no limit",
    )
    grace: float = parameter(
        duration(0, "0s"),
        "time from SIGTERM to SIGKILL when it is canceled or exceeds a limit",
        default=10.0,
    )
    maxconcurrent: int | None = parameter(
        whole(1, MOST_AT_ONCE),
        "most units of this type at once on one host; more wait",
        default=None,
        default_text="as many as sessions",
    )
    sessions: int = parameter(
        whole(1, MOST_AT_ONCE),
        "most connections to one host at once: servers refuse bursts (MaxStartups)",
        default=8,
    )
    connect: float = parameter(
        duration(0.1, "100ms"), "time to connect and log in, for one try", default=30.0
    )
    copy: float = parameter(
        duration(0.1, "100ms"), "time to send script, dependencies and payload", default=600.0
    )
    start: float = parameter(duration(0.1, "100ms"), "time to start the command", default=30.0)
    collect: float = parameter(
        duration(0.1, "100ms"), "time to bring files back (output), for one try", default=600.0
    )
    patience: float = parameter(
        duration(0, "0s"),
        "fail a unit when no host could be reached for so long; what was started is never given up",
        default=3600.0,
    )
    directory: str = parameter(
        text("path", least=1),
        "directory there, from the user's home, in which each unit has one of its own",
        default=".meshnode",
    )
    sshconfig: Path | None = parameter(
        path("file"),
        "configuration of OpenSSH's client to use instead of the user's and the system's",
        default=None,
        default_text="none",
    )
    ssh: str = parameter(
        text(least=1), "OpenSSH's client, by path or as found in PATH", default="ssh"
    )


SSH_DIRECTIVES: Final[tuple[type[WorkSsh], ...]] = (WorkSsh,)


def check_ssh(typed: Iterable[Directive], faults: FaultLog) -> None:
    """Note each type of work on hosts that has not exactly one of command and script."""
    for one in typed:
        if not isinstance(one, WorkSsh):
            continue
        if one.command and one.script is not None:
            wrong = "cannot stand beside command: give one of the two"
            faults.add(one.place_of("script"), one.INFO.name, "script", text=wrong)
        elif not one.command and one.script is None:
            wrong = "is missing: program to run there; or give a script"
            faults.add(one.origin.place, one.INFO.name, "command", text=wrong)
