"""What work of a configuration cannot find on this machine, for ``meshnode check``.

A node starts without it, as receptor does: a command may be installed later. Commands and plugins
are looked for where a unit would look, with this process's environment. No code of a plugin runs.
"""

import importlib.metadata
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from meshnode.config import NodeConfig, WorkCommand, WorkDirective, WorkPython, WorkSsh
from meshnode.config.faults import Fault, printable
from meshnode.config.schema import Directive
from meshnode.config.service_directives import CommandService
from meshnode.work.local.launcher.command import (
    DEFAULT_PATH,
    CannotExecute,
    environment,
    find_executable,
)
from meshnode.work.local.launcher.isolationview import TEMPORARY
from meshnode.work.local.pluginmain import GROUPS, trusted_places

RENEWED = ("/run", "/dev")
"""Directories of which each isolated unit has its own."""


def missing(config: NodeConfig) -> list[Fault]:
    """Return one warning for each command or plugin that is not there."""
    return [*_of_work(config), *_of_hosts(config), *_of_services(config)]


def _of_work(config: NodeConfig) -> Iterator[Fault]:
    for directive in config.work_types:
        fate = f"units of type {directive.worktype} will fail"
        match directive:
            case WorkCommand():
                problem = _lack(directive.command, directive.cwd, directive.env)
                if problem or (problem := _unseen_command(directive)):
                    yield _warning(directive, "command", f"{problem}; {fate}")
            case WorkPython() if not _has_plugin(directive):
                groups = " or ".join(GROUPS)
                text = (
                    f"no plugin {_quoted(directive.plugin)} is installed (entry point of {groups})"
                )
                yield _warning(directive, "plugin", f"{text}; {fate}")
            case WorkPython() if problem := _unseen(directive, sys.executable):
                yield _warning(directive, "isolation", f"{problem}; {fate}")
        if directive.cwd and not Path(directive.cwd).is_dir():
            yield _warning(directive, "cwd", f"{_quoted(directive.cwd)} is no directory; {fate}")
        elif directive.cwd and (problem := _unseen(directive, directive.cwd)):
            yield _warning(directive, "cwd", f"{problem}; {fate}")


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


def _unseen_command(directive: WorkCommand) -> str:
    """Return why isolated units do not see a command that is there, or nothing."""
    search_path = directive.env.get("PATH", os.environ.get("PATH", DEFAULT_PATH))
    found = find_executable(directive.command, search_path)
    return _unseen(directive, os.path.join(directive.cwd, found))


def _unseen(directive: WorkDirective, path: str) -> str:
    """Return why isolated units do not see a path, or nothing; the node's own is not looked at."""
    isolation = directive.isolation
    if isolation is None:
        return ""
    renewed = (*RENEWED, *(TEMPORARY if isolation.tmp else ()))
    # A link and what it leads to are in two places, and both must be seen.
    for place in (os.path.normpath(path), os.path.realpath(path)):
        above = set(map(str, Path(place).parents))
        within = {place, *above}
        if covers := within.intersection(isolation.hidden):
            return f"{_quoted(path)} is not seen by its units, since {min(covers)} is hidden"
        brought_back = within.intersection((*isolation.visible, *isolation.writable))
        if (covers := above.intersection(renewed)) and not brought_back:
            text = f"each has a {min(covers)} of its own; move it, or name it in visible"
            return f"{_quoted(path)} is not seen by its units, since {text}"
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
