"""The directives of the node itself: who it is, what it logs, who controls it.

Each class is the whole truth about its directive: the checks, the help and the reference are all
made from it.
"""

import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import yaml

from meshnode.config import names
from meshnode.config.kinds import (
    Kind,
    boolean,
    choice,
    duration,
    map_of,
    node_id,
    parsed,
    path,
    permissions,
    size,
    text,
    whole,
)
from meshnode.config.names import Address, Wrong, check_node_id
from meshnode.config.rules import firewall_rules
from meshnode.config.schema import (
    MESH_SERVICE,
    TCP_PORT,
    UNIX_SOCKET,
    Directive,
    directive,
    parameter,
)
from meshnode.config.tls_directives import SERVER_NAME
from meshnode.config.work_directives import MOST_AT_ONCE
from meshnode.logs import FORMATS, LEVELS
from meshnode.policies import Rule

DEFAULT_DATADIR = Path("/tmp/receptor")  # noqa: S108  # receptor's default, which scripts rely on
"""Where units are kept unless ``datadir`` says otherwise."""

REMOTE_MAX_OUTPUT = 16 << 30
"""Bytes of output that a unit on another node may bring, unless configured: more than work is known
to print, and a bound on a node that never stops sending."""

MAX_UNITS = 1_000_000
"""Units that a submitter may be allowed at most: a node that has as many is slow."""

REMEMBER_SECONDS = 7 * 86400.0
"""Seconds for which released units are remembered. A node that submitted work and is away for
longer cannot learn what became of it."""

LEAST_IDLE_SECONDS = 21.0
"""Two of the 10-s routing updates, which keep a link alive, and a second (protocol section 5)."""


def _parse_tcplisten(value: str) -> Address | None:
    return names.parse_listen_address(value) if value else None


def node_labels() -> Kind[Mapping[str, str]]:
    """Return the kind of a node's labels."""
    each = map_of(
        text("name of a label", names.check_label_name),
        text("value", names.check_label_value),
        "map of name to value",
    )

    def read(node: yaml.Node) -> Mapping[str, str]:
        labels = each.read(node)
        if not names.are_few_labels(labels):
            raise Wrong(
                f"are more than {names.MAX_LABELS} labels, or more than "
                f"{names.MAX_LABEL_CHARACTERS} characters in all"
            )
        return labels

    return Kind(each.label, read)


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


@directive(
    "node",
    "Who this node is, and where it keeps its data.",
    section="The node",
    example=(("id", "foo"), ("datadir", "/var/lib/meshnode")),
    once=True,
    ignored=(
        "receptorkubesupportreconnect",
        "receptorkubeclientsetqps",
        "receptorkubeclientsetburst",
        "receptorkubeclientsetratelimiter",
    ),
)
class Node(Directive):
    """The node itself.

    ``max_idle_connection_timeout``, ``unit_retention`` and ``remember_submissions`` are in seconds,
    ``remote_maxoutput`` in bytes.
    """

    id: str = parameter(
        node_id(),
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
    unit_retention: float | None = parameter(
        duration(1, "1s"),
        "release units by themselves so long after their end; days and weeks are 30d and 4w",
        default=None,
        default_text="keep them",
        name="unit-retention",
    )
    remember_submissions: float = parameter(
        duration(1, "1s"),
        "know for so long after the release of a unit what became of it, so that a node which has "
        "lost our answer does not submit its work again; days and weeks are 30d and 4w",
        default=REMEMBER_SECONDS,
        default_text="7d",
        name="remember-submissions",
    )
    remote_maxoutput: int = parameter(
        size(),
        "cancel a unit that this node has submitted to another one, and fail it here, when more "
        "than that has come of its output",
        default=REMOTE_MAX_OUTPUT,
        default_text="16GiB",
        name="remote-maxoutput",
    )
    labels: Mapping[str, str] = parameter(
        node_labels(),
        "what this node is or has, as other nodes see it that look for one to run work",
        default_factory=lambda: MappingProxyType({}),
        default_text="none",
        reloadable=True,
    )
    maxrunning: int | None = parameter(
        whole(1, MOST_AT_ONCE),
        "run at most so many units at once, of all work types together; the others wait",
        default=None,
        default_text="any number",
        reloadable=True,
    )
    submitter_maxunits: int | None = parameter(
        whole(1, MAX_UNITS),
        "refuse work of who has so many units here: of each user, node, certificate or, without "
        "one, address; units count until they are released",
        default=None,
        default_text="no limit",
        name="submitter-maxunits",
        reloadable=True,
    )
    submitter_maxpayload: int | None = parameter(
        size(),
        "refuse payloads of whose units here have that much together",
        default=None,
        default_text="no limit",
        name="submitter-maxpayload",
        reloadable=True,
    )
    allowforwarding: bool = parameter(
        boolean(),
        "let clients that come over the mesh use this node to reach others: "
        "work submit for another node, connect",
        default=False,
    )
    firewallrules: tuple[Rule, ...] = parameter(
        firewall_rules(),
        "which messages may pass this node; the first rule that matches decides",
        default=(),
        default_text="accept everything",
        reloadable=True,
    )


@directive(
    "log-level",
    "How much is logged to stderr, and in which form.",
    section="The node",
    example=(("level", "debug"),),
    once=True,
    overridable=True,
)
class LogLevel(Directive):
    """Keys of ``logs.LEVELS`` and ``logs.FORMATS``."""

    RELOADABLE = True

    level: str = parameter(choice(tuple(LEVELS)), "least level to log", default="info", bare=True)
    format: str = parameter(
        choice(tuple(FORMATS)), "lines of text, or one JSON object a line", default="text"
    )


@directive(
    "local-only",
    "Let this node run without a link to any other node.",
    section="The node",
    example=(("local", "true"),),
    once=True,
)
class LocalOnly(Directive):
    """This node is meant to have no links."""

    RELOADABLE = True

    local: bool = parameter(
        boolean(), "false is as if the directive were not there", default=True, bare=True
    )


@directive(
    "control-service",
    "Let clients control this node: from the mesh, a unix socket, a TCP port.",
    section="Control",
    example=(("service", "control"), ("filename", "/tmp/foo.sock")),  # noqa: S108  # the guide's
    claims={MESH_SERVICE: ("service",), UNIX_SOCKET: ("filename",), TCP_PORT: ("tcplisten",)},
)
class ControlService(Directive):
    """Where clients reach the node; an empty ``filename`` means none."""

    service: str = parameter(
        text("service name of at most 8 bytes", names.check_service),
        "name of the service on the mesh",
        default="control",
    )
    filename: str = parameter(
        text("path of at most 107 bytes", names.check_socket_path, on_disk="file"),
        "unix socket to listen on as well",
        default="",
        default_text="none",
    )
    permissions: int = parameter(
        permissions(), "who may open the unix socket, as for chmod", default=0o600
    )
    tcplisten: Address | None = parameter(
        parsed(_parse_tcplisten, "port or host:port"),
        "TCP port to listen on as well; without tcptls nobody is asked who they are",
        default=None,
        default_text="none",
    )
    tcptls: str = parameter(
        SERVER_NAME,
        "tls-server to use at the TCP port",
        default="",
        default_text="no TLS",
    )
    tls: str = parameter(
        SERVER_NAME, "tls-server to use on the mesh", default="", default_text="no TLS"
    )


@directive(
    "audit-log",
    "Append a line of JSON to a file for each thing that is asked of this node or becomes of it.",
    section="Control",
    example=(("filename", "/var/log/meshnode/audit.log"),),
    once=True,
)
class AuditLogDirective(Directive):
    """Where the lines go."""

    RELOADABLE = True

    filename: Path = parameter(
        path("file"),
        "file that is appended to, and opened anew at SIGHUP; nobody else may write to it",
        bare=True,
    )
    required: bool = parameter(
        boolean(),
        "refuse work and connections while no line can be written; their line is on disk before "
        "anything is done",
        default=False,
    )


NODE_DIRECTIVES: Final[tuple[type[Directive], ...]] = (Node, LogLevel, LocalOnly)
"""Those of the section "The node", in the order in which help lists them."""
