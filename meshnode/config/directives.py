"""The directives that meshnode supports, and the configuration made of them.

Each class is the whole truth about its directive: the checks, the help and the reference are all
made from it. Directives that are known but not supported yet are in later.py.
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from meshnode.config import names
from meshnode.config.kinds import (
    boolean,
    choice,
    duration,
    list_of,
    map_of,
    path,
    permissions,
    positive,
    shell_words,
    text,
    whole,
)
from meshnode.config.names import Wrong, check_node_id
from meshnode.config.schema import Directive, directive, parameter
from meshnode.logs import LEVELS

DEFAULT_DATADIR = Path("/tmp/receptor")  # noqa: S108  # receptor's default, which scripts rely on
"""Where units are kept unless ``datadir`` says otherwise."""

LEAST_IDLE_SECONDS = 21.0
"""Two of the 10-s routing updates, which keep a link alive, and a second (reference section 5)."""

NODE_ID = text("node ID", check_node_id)
NODE_IDS = list_of(NODE_ID, "list of node IDs")
COSTS = map_of(NODE_ID, positive(), "map of node ID to number above 0")
EVERY_PEER = "every node"


def _checked_address(value: str) -> str:
    names.split_address(value)
    return value


def _checked_listen_address(value: str) -> str:
    if value:
        names.split_listen_address(value)
    return value


def default_node_id() -> str:
    """Return the host name, which is a node's ID unless one is given.

    Raises:
        Wrong: the host has no name that could tell it from others.
    """
    name = socket.gethostname()
    try:
        if name.lower().startswith("localhost."):
            raise Wrong(f'"{name}" is reserved: it means the node itself')
        return check_node_id(name)
    except Wrong as wrong:
        raise Wrong(f"is not given, and the host name cannot stand in for it: {wrong}") from None


def _no_costs() -> Mapping[str, float]:
    return MappingProxyType({})


@directive(
    "node",
    "Who this node is, and where it keeps its data.",
    section="The node",
    example=(("id", "foo"), ("datadir", "/var/lib/meshnode")),
    once=True,
    later=("firewallrules", "unit-retention"),
)
class Node(Directive):
    """The node itself; ``max_idle_connection_timeout`` is in seconds."""

    id: str = parameter(
        NODE_ID,
        "name of the node, unlike any other in the mesh",
        default_factory=default_node_id,
        default_text="the host name",
        bare=True,
    )
    datadir: Path = parameter(
        path(),
        "where units of work are kept, in a directory named as the node",
        default=DEFAULT_DATADIR,
    )
    max_idle_connection_timeout: float = parameter(
        duration(LEAST_IDLE_SECONDS, "21s"),
        "close a link from which nothing has come for so long",
        default=LEAST_IDLE_SECONDS,
        name="maxidleconnectiontimeout",
    )


@directive(
    "log-level",
    "How much is logged to stderr.",
    section="The node",
    example=(("level", "debug"),),
    once=True,
    overridable=True,
)
class LogLevel(Directive):
    """A key of ``logs.LEVELS``."""

    level: str = parameter(choice(tuple(LEVELS)), "least level to log", default="info", bare=True)


@directive(
    "local-only",
    "Run alone, without a link to any other node.",
    section="The node",
    once=True,
)
class LocalOnly(Directive):
    """This node is meant to have no links."""


@directive(
    "tcp-listener",
    "Accept links from other nodes over TCP.",
    section="Links to other nodes",
    example=(("port", "2222"), ("bindaddr", "127.0.0.1")),
    unique=(("bindaddr", "port"),),
    later=("tls",),
)
class TcpListener(Directive):
    """Where links are accepted; an empty ``bindaddr`` means all interfaces."""

    port: int = parameter(
        whole(0, names.MAX_PORT), "port to listen on; 0 lets the system choose one", bare=True
    )
    bindaddr: str = parameter(
        text("IP address or host name", names.check_bind_address),
        "address to listen on",
        default="",
        default_text="all interfaces",
    )
    cost: float = parameter(
        positive(), "cost of a link, where nodecost says nothing else", default=1.0
    )
    nodecost: Mapping[str, float] = parameter(
        COSTS,
        "cost of the link to each of these nodes; both ends must agree",
        default_factory=_no_costs,
        default_text="cost, for every node",
    )
    allowedpeers: tuple[str, ...] | None = parameter(
        NODE_IDS, "nodes that may link here", default=None, default_text=EVERY_PEER
    )


@directive(
    "tcp-peer",
    "Open a link to another node over TCP.",
    section="Links to other nodes",
    example=(("address", "foo.example.org:2222"), ("cost", "1.5")),
    unique=(("address",),),
    later=("tls",),
)
class TcpPeer(Directive):
    """Where to dial; ``names.split_address`` takes the address apart."""

    address: str = parameter(
        text("host:port", _checked_address), "where the other node listens", bare=True
    )
    redial: bool = parameter(
        boolean(), "dial again when the link cannot be opened or is lost", default=True
    )
    cost: float = parameter(positive(), "cost of the link; both ends must agree", default=1.0)
    allowedpeers: tuple[str, ...] | None = parameter(
        NODE_IDS, "nodes that may be at the other end", default=None, default_text=EVERY_PEER
    )


@directive(
    "control-service",
    "Let clients control this node: from the mesh, a unix socket, a TCP port.",
    section="Control",
    example=(("service", "control"), ("filename", "/tmp/foo.sock")),  # noqa: S108  # the guide's
    unique=(("service",), ("filename",), ("tcplisten",)),
    later=("tls", "tcptls"),
)
class ControlService(Directive):
    """Where clients reach the node; an empty ``filename`` or ``tcplisten`` means none."""

    service: str = parameter(
        text("service name of at most 8 bytes", names.check_service),
        "name of the service on the mesh",
        default="control",
    )
    filename: str = parameter(
        text("path of at most 107 bytes", names.check_socket_path),
        "unix socket to listen on as well",
        default="",
        default_text="none",
    )
    permissions: int = parameter(
        permissions(), "who may open the unix socket, as for chmod", default=0o600
    )
    tcplisten: str = parameter(
        text("port or host:port", _checked_listen_address),
        "TCP port to listen on as well, without any authentication",
        default="",
        default_text="none",
    )


@directive(
    "work-command",
    "Offer a type of work that runs a command.",
    section="Work",
    example=(("worktype", "echo"), ("command", "bash"), ("params", '-c "echo hi"')),
    unique=(("worktype",),),
    later=("env", "cwd", "timeout", "maxoutput", "grace"),
)
class WorkCommand(Directive):
    """A command that clients may run; ``params`` is split by ``shlex``, never run by a shell."""

    worktype: str = parameter(
        text("name without spaces", names.check_work_type), "name by which clients ask for it"
    )
    command: str = parameter(text(least=1), "program to run, by path or as found in PATH")
    params: str = parameter(
        shell_words(), "its arguments; no shell runs them", default="", default_text="none"
    )
    allowruntimeparams: bool = parameter(
        boolean(), "let clients add arguments of their own", default=False
    )
    verifysignature: bool = parameter(
        boolean(), "run only signed work, except from the unix socket", default=False
    )


DIRECTIVES: Final[tuple[type[Directive], ...]] = (
    Node,
    LogLevel,
    LocalOnly,
    TcpListener,
    TcpPeer,
    ControlService,
    WorkCommand,
)
"""Every supported directive, in the order in which help lists them."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """A whole, checked configuration."""

    node: Node
    log_level: LogLevel = field(default_factory=LogLevel)
    tcp_listeners: tuple[TcpListener, ...] = ()
    tcp_peers: tuple[TcpPeer, ...] = ()
    control_services: tuple[ControlService, ...] = ()
    work_commands: tuple[WorkCommand, ...] = ()
    local_only: bool = False

    def summary(self) -> str:
        """Say in a few words what is configured: ``node foo: 1 listener, 1 work type``."""
        counts = (
            (len(self.tcp_listeners), "listener"),
            (len(self.tcp_peers), "peer"),
            (len(self.control_services), "control service"),
            (len(self.work_commands), "work type"),
        )
        parts = ["local only"] if self.local_only else []
        parts += [f"{count} {what}{'s' if count > 1 else ''}" for count, what in counts if count]
        return f"node {self.node.id}: {', '.join(parts)}"
