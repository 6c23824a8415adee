"""Configuration: a file or arguments in, frozen and checked directives out.

Nobody past this package meets a dict, a YAML node or an unchecked value.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from meshnode.config.build import are_errands, build, build_errands
from meshnode.config.check import check_environment
from meshnode.config.directives import NodeConfig
from meshnode.config.faults import COMMAND_LINE, ConfigFaults, FaultLog, Place
from meshnode.config.files import read_file
from meshnode.config.http_directives import HttpService
from meshnode.config.link_directives import (
    LINK_DIRECTIVES,
    ListenerDirective,
    PeerDirective,
    TcpListener,
    TcpPeer,
    UdpListener,
    UdpPeer,
    WsListener,
    WsPeer,
    WsUrl,
    parse_ws_url,
)
from meshnode.config.names import Address, parse_address, parse_listen_address
from meshnode.config.node_directives import (
    AuditLogDirective,
    ControlService,
    LocalOnly,
    LogLevel,
    Node,
)
from meshnode.config.signing_directives import WorkSigning, WorkVerification
from meshnode.config.sources import RawDirective, read_arguments
from meshnode.config.ssh_directives import SshHost, WorkSsh
from meshnode.config.work_directives import WorkCommand, WorkDirective, WorkPython

if TYPE_CHECKING:
    from meshnode.config.cert_directives import CertDirective


def load_file(path: str) -> NodeConfig:
    """Return the configuration in a YAML file, which is named as ``path`` in faults.

    Raises:
        ConfigFaults: the file cannot be read or is wrong; every fault has its line.
    """
    faults = FaultLog()
    raws = read_file(path, faults)
    # A file that could not be read as a list has no directives to speak of.
    if not raws:
        faults.raise_if_any()
    return build(raws, Place(path), faults)


def load_arguments(argv: Sequence[str], *, for_reload: bool = False) -> NodeConfig:
    """Return the configuration in arguments: ``--directive name=value …`` and ``--config FILE``.

    Directives of files come first, in order, then those of the command line; what ``--log-level``
    gives there goes before a file's. A node that runs may lose its last link (``for_reload``);
    one that starts without any must be ``local-only``.

    Raises:
        ConfigFaults: an argument or a file is wrong.
    """
    faults = FaultLog()
    raws, whole = _read(argv, faults)
    return build(raws, whole, faults, for_reload=for_reload)


def load_task(argv: Sequence[str]) -> "NodeConfig | tuple[CertDirective, ...]":
    """Return what arguments ask for: a node, or files of certificates that are made once.

    Raises:
        ConfigFaults: an argument or a file is wrong.
    """
    faults = FaultLog()
    raws, whole = _read(argv, faults)
    return build_errands(raws, faults) if are_errands(raws) else build(raws, whole, faults)


def _read(argv: Sequence[str], faults: FaultLog) -> tuple[list[RawDirective], Place]:
    """Return the directives of arguments and the files that they name, and the place of all."""
    arguments = read_arguments(argv, faults)
    raws = [raw for path in arguments.files for raw in read_file(path, faults)]
    raws += arguments.directives
    if not raws:
        faults.raise_if_any()
    return raws, Place(arguments.files[0] if arguments.files else COMMAND_LINE)


__all__ = [
    "LINK_DIRECTIVES",
    "Address",
    "AuditLogDirective",
    "ConfigFaults",
    "ControlService",
    "HttpService",
    "ListenerDirective",
    "LocalOnly",
    "LogLevel",
    "Node",
    "NodeConfig",
    "PeerDirective",
    "SshHost",
    "TcpListener",
    "TcpPeer",
    "UdpListener",
    "UdpPeer",
    "WorkCommand",
    "WorkDirective",
    "WorkPython",
    "WorkSigning",
    "WorkSsh",
    "WorkVerification",
    "WsListener",
    "WsPeer",
    "WsUrl",
    "check_environment",
    "load_arguments",
    "load_file",
    "load_task",
    "parse_address",
    "parse_listen_address",
    "parse_ws_url",
]
