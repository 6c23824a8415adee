"""How the commands of a type of work are isolated: made of the configuration and this machine.

The configuration says what is wanted (``config/isolation_directives.py``), the machine what can be
had (:mod:`.isolationhost`). What comes out is an order, which travels with each start of a command
(``launcher/isolation.py`` carries it out).
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from meshnode.config import NodeConfig, WorkDirective
from meshnode.config.isolation_values import CAPABILITIES, HOST, READONLY
from meshnode.work.local.accounts import Account, NoAccount, find_account
from meshnode.work.local.isolationhost import SETGID, SETPCAP, SETUID, SYS_ADMIN, Host, try_out
from meshnode.work.local.seccomp import NoSeccomp, make_program

FOR_OTHERS: Final = 0o007
"""What a directory's permissions let everybody do. Where they let nobody, all of it is hidden that
holds a key or a socket of the node: a file that replaces a hidden one could be seen again."""

TEMPORARY = "/tmp"  # noqa: S108 - the directory itself is meant


@dataclass(frozen=True, slots=True)
class IsolationPlan:
    """How the commands of one type are isolated.

    Attributes:
        order: what the launcher is told; the same for each unit.
        summary: the same for a person, as the status of a unit has it.
        env: variables that follow from it.
        cwd: where commands start that name no directory, None for where the node is.
    """

    order: Mapping[str, Any]
    summary: Mapping[str, Any]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None

    @property
    def line(self) -> str:
        """The summary as one line: ``network none, mount readonly, pid, no-new-privileges``."""
        return ", ".join(_in_words(name, value) for name, value in self.summary.items())


def _in_words(name: str, value: object) -> str:
    if isinstance(value, list):
        return f"{name} {' '.join(value) or 'none'}"
    return name if value is True else f"{name} {value}"


def isolation_plans(config: NodeConfig) -> Mapping[str, IsolationPlan]:
    """Return how types of work are isolated that are, by name; each is tried out on this machine.

    Raises:
        ConfigFaults: this machine cannot do it.
    """
    planner = Planner(config)
    return {one.worktype: planner.plan(one) for one in config.work_types if one.is_isolated}


class Planner:
    """Makes the plans of a configuration, each tried out once on this machine."""

    def __init__(self, config: NodeConfig, host: Host | None = None) -> None:
        self._config = config
        self._host = host
        self._hidden: tuple[str, ...] | None = None
        self._tried = cache(lambda order: try_out(dict(order)))

    def plan(self, directive: WorkDirective) -> IsolationPlan:
        """Return how commands of a type are isolated that ``is_isolated``.

        Raises:
            ConfigFaults: this machine cannot do it.
        """
        self._host = self._host or Host.look()
        made = _Plan(directive, self._host)
        order = made.order()
        if directive.isolation is not None:
            if self._hidden is None:
                self._hidden = hidden_paths(self._config)
            order["hidden"] = [*self._hidden, *directive.isolation.hidden]
        failure = self._try(order)
        if failure:
            raise directive.error("isolation", self._host.explain(failure))
        return replace(made.plan(), order=order)

    def _try(self, order: Mapping[str, Any]) -> str:
        frozen = {k: tuple(v) if isinstance(v, list) else v for k, v in order.items()}
        return self._tried(tuple(frozen.items()))


class _Plan:
    """One type's plan while it is made."""

    def __init__(self, directive: WorkDirective, host: Host) -> None:
        self._directive = directive
        self._host = host
        self._account = self._find_account()
        # An ordinary user is root in a namespace of its own, for as long as that is set up.
        self._has_own_namespace = directive.isolation is not None and not host.may(SYS_ADMIN)

    def _find_account(self) -> Account | None:
        """Return as whom it runs, None for as the node. Raises ConfigFaults."""
        directive, host = self._directive, self._host
        if not (directive.user or directive.group):
            return None
        try:
            account = find_account(directive.user, directive.group)
        except NoAccount as error:
            raise directive.error(error.parameter, error.text) from None
        if (account.uid, account.gid) == (host.uid, host.gid):
            return None
        if not host.may(SETUID, SETGID):
            parameter = "user" if directive.user else "group"
            text = (
                f"this node runs as uid {host.uid} and may not become another; run it as root, or "
                f"leave out {parameter}"
            )
            raise directive.error(parameter, text)
        return account

    def order(self) -> dict[str, Any]:
        """Return what the launcher is told, without what is hidden. Raises ConfigFaults."""
        order: dict[str, Any] = {"umask": self._directive.umask, **self._capabilities()}
        if self._account is not None:
            account = self._account
            order |= {"uid": account.uid, "gid": account.gid, "groups": list(account.groups)}
        if self._directive.has_filter:
            order["seccomp"] = self._filter()
        isolation = self._directive.isolation
        if isolation is not None:
            order |= {
                "mounts": True,
                "userns": self._has_own_namespace,
                "guards": self._can_be_root(),
                "pid": isolation.pid,
                "network": isolation.network,
                "readonly": isolation.mount == READONLY,
                "tmp": isolation.tmp,
                "hostname": isolation.hostname,
                "visible": list(isolation.visible),
                "writable": list(isolation.writable),
            }
        return order

    def _can_be_root(self) -> bool:
        """Whether the kernel takes the command for root, with or without capabilities."""
        if self._has_own_namespace:
            return False
        uid = self._host.uid if self._account is None else self._account.uid
        return uid == 0 or not self._directive.gains_nothing

    def _capabilities(self) -> dict[str, Any]:
        kept = self._directive.kept_capabilities
        gains_nothing = self._directive.gains_nothing
        if kept is None:
            return {"gains_nothing": gains_nothing}
        bits = sum(1 << CAPABILITIES.index(name) for name in kept)
        if self._has_own_namespace:
            return {"kept": bits, "gains_nothing": gains_nothing}
        if lacking := [name for name in kept if not self._host.may(CAPABILITIES.index(name))]:
            text = f"this node has no {', '.join(lacking)} that it could leave to its work"
            raise self._directive.error("capabilities", text)
        if not self._host.may(SETPCAP):
            # It has none to drop, and this is the other way to none.
            return {"gains_nothing": True}
        return {"kept": bits, "gains_nothing": gains_nothing}

    def _filter(self) -> str:
        try:
            return make_program().hex()
        except NoSeccomp as error:
            raise self._directive.error("seccomp", str(error)) from None

    def plan(self) -> IsolationPlan:
        """Return the plan, without its order."""
        account, isolation = self._account, self._directive.isolation
        env = dict(account.environment) if account is not None and self._directive.user else {}
        cwd = None
        if isolation is not None and isolation.tmp:
            env["TMPDIR"] = cwd = TEMPORARY
        elif account is not None and self._directive.user:
            cwd = account.start_directory
        elif isolation is not None:
            cwd = "/"
        return IsolationPlan({}, self._summary(), env, cwd)

    def _summary(self) -> dict[str, Any]:
        directive, isolation = self._directive, self._directive.isolation
        summary: dict[str, Any] = {}
        if isolation is not None:
            summary = {"network": isolation.network, "mount": isolation.mount}
            wanted = {"pid": isolation.pid, "tmp": isolation.tmp, "hostname": isolation.hostname}
            words = {"pid": True, "tmp": "private", "hostname": "job"}
            summary |= {name: words[name] for name, given in wanted.items() if given}
            if isolation.network == HOST:
                del summary["network"]
        if directive.user or directive.group:
            summary |= {"user": directive.user, "group": directive.group}
        if directive.umask is not None:
            summary["umask"] = f"{directive.umask:04o}"
        if directive.gains_nothing:
            summary["no-new-privileges"] = True
        if directive.kept_capabilities is not None:
            summary["capabilities"] = list(directive.kept_capabilities)
        if directive.has_filter:
            summary["seccomp"] = "default"
        return {name: value for name, value in summary.items() if value != ""}


# --- What is hidden -------------------------------------------------------------------------------


def hidden_paths(config: NodeConfig) -> tuple[str, ...]:
    """Return what of the node isolated commands may not see: its units, sockets, keys and files."""
    needed = [Path(path) for path in _needed(config)]
    paths = {os.path.realpath(config.node.datadir)}
    for name in _files(config):
        file = Path(os.path.realpath(name))
        paths.add(str(file))
        if _is_nodes_own(file.parent) and not any(file.parent in (p, *p.parents) for p in needed):
            paths.add(str(file.parent))
    return tuple(path for path in sorted(paths) if not paths & {*map(str, Path(path).parents)})


def _files(config: NodeConfig) -> Iterator[str | Path]:
    for service in (*config.control_services, *config.services):
        if filename := getattr(service, "filename", ""):
            yield filename
    for tls in (*config.tls_servers, *config.tls_clients):
        if key := getattr(tls, "key", None):
            yield key
    if config.work_signing is not None:
        yield config.work_signing.privatekey
    if config.audit_log is not None:
        yield config.audit_log.filename
    for directive in (config.node, *config.control_services, *config.work_types):
        if Path(source := directive.origin.place.source).is_file():
            yield source


def _needed(config: NodeConfig) -> Iterator[str]:
    """Yield what isolated commands are configured to see."""
    for directive in config.work_types:
        if directive.isolation is not None:
            yield from (*directive.isolation.visible, *directive.isolation.writable)
            yield from (directive.cwd, os.path.realpath(getattr(directive, "command", "")))


def _is_nodes_own(directory: Path) -> bool:
    """Whether a directory is closed to others, and no user's home."""
    try:
        mode = directory.stat().st_mode
    except OSError:
        return False
    return not mode & FOR_OTHERS and directory != Path(os.path.expanduser("~"))
