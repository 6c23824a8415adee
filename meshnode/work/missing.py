"""What work of a configuration cannot find on this machine, for ``meshnode check``.

A node starts without it, as receptor does: a command may be installed later. Commands and plugins
are looked for where a unit would look, with this process's environment. No code of a plugin runs.
"""

import importlib.metadata
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from meshnode.config import NodeConfig, WorkCommand, WorkPython, WorkSsh
from meshnode.config.faults import Fault, printable
from meshnode.config.schema import Directive
from meshnode.config.service_directives import CommandService
from meshnode.work.local.launcher.command import (
    DEFAULT_PATH,
    CannotExecute,
    environment,
    find_executable,
)
from meshnode.work.local.pluginmain import GROUPS, trusted_places


def missing(config: NodeConfig) -> list[Fault]:
    """Return one warning for each command or plugin that is not there."""
    return [*_of_work(config), *_of_hosts(config), *_of_services(config)]


def _of_work(config: NodeConfig) -> Iterator[Fault]:
    for directive in config.work_types:
        fate = f"units of type {directive.worktype} will fail"
        match directive:
            case WorkCommand():
                problem = _lack(directive.command, directive.cwd, directive.env)
                if problem:
                    yield _warning(directive, "command", f"{problem}; {fate}")
            case WorkPython() if not _has_plugin(directive):
                groups = " or ".join(GROUPS)
                text = (
                    f"no plugin {_quoted(directive.plugin)} is installed (entry point of {groups})"
                )
                yield _warning(directive, "plugin", f"{text}; {fate}")
        if directive.cwd and not Path(directive.cwd).is_dir():
            yield _warning(directive, "cwd", f"{_quoted(directive.cwd)} is no directory; {fate}")


def _of_hosts(config: NodeConfig) -> Iterator[Fault]:
    for directive in config.ssh_types:
        fate = f"units of type {directive.worktype} will fail"
        if problem := _lack(directive.ssh, "", {}):
            yield _warning(directive, "ssh", f"{problem}; install OpenSSH's client, or {fate}")
        for parameter, path in _files_of(directive):
            if not os.access(path, os.R_OK):
                text = f"{_quoted(str(path))} cannot be read by this user; {fate}"
                yield _warning(directive, parameter, text)


def _files_of(directive: WorkSsh) -> Iterator[tuple[str, Path]]:
    """Yield the files of this node that a type needs, with the parameters that name them."""
    named = {"script": directive.script, "sshconfig": directive.sshconfig}
    yield from ((name, path) for name, path in named.items() if path is not None)
    yield from (("hosts", host.key) for host in directive.hosts if host.key is not None)


def _of_services(config: NodeConfig) -> Iterator[Fault]:
    for directive in config.services:
        if isinstance(directive, CommandService):
            problem = _lack(directive.command[0], "", {})
            if problem:
                text = f"{problem}; connections to {directive.service} will fail"
                yield _warning(directive, "command", text)


def _lack(command: str, cwd: str, environment: Mapping[str, str]) -> str:
    """Return what is wrong with a command, or nothing."""
    search_path = environment.get("PATH", os.environ.get("PATH", DEFAULT_PATH))
    try:
        path = Path(cwd, find_executable(command, search_path))
    except CannotExecute:
        return f"{_quoted(command)} is not found in PATH"
    if not path.exists():
        return f"{_quoted(command)} does not exist"
    if path.is_dir() or not os.access(path, os.X_OK):
        return f"{_quoted(command)} cannot be executed by this user"
    return ""


def _has_plugin(directive: WorkPython) -> bool:
    its = environment(directive.env, is_clean=directive.cleanenv)
    # The interpreter that runs plugins never looks in the directory where it is started.
    own = [place for place in sys.path if os.path.isabs(place)]
    places = [*own, *trusted_places(os.environ if its is None else its)]
    return any(
        entry.group in GROUPS and entry.name == directive.plugin
        for distribution in importlib.metadata.distributions(path=places)
        for entry in distribution.entry_points
    )


def _warning(directive: Directive, parameter: str, text: str) -> Fault:
    return Fault(directive.place_of(parameter), (directive.INFO.name, parameter), text)


def _quoted(text: str) -> str:
    return f'"{printable(text)}"'
