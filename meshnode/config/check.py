"""Checks a configuration against this machine: can it run here, and whom does it let in?

``meshnode check`` and a start both look. Nothing is created or changed: a check leaves no trace.
"""

import importlib.util
import ipaddress
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from meshnode.config.directives import NodeConfig
from meshnode.config.faults import Fault, FaultLog, printable
from meshnode.config.http_directives import HttpService
from meshnode.config.link_directives import ListenerDirective
from meshnode.config.node_directives import AuditLogDirective, ControlService, Node
from meshnode.config.schema import Directive
from meshnode.config.service_directives import TcpServer, UdpServer, UnixSocketServer
from meshnode.ownership import (
    NODE_DIRECTORIES,
    check_ownership,
    cleaned_place,
    ownership_warnings,
)

PLAIN_CONTROL = (
    "can be reached from other machines without TLS: whoever reaches it controls the node, and "
    "what passes can be read on the way; write 127.0.0.1 and the port, or name a tls-server with "
    "requireclientcert as tcptls"
)
"""The warning of a control service that no TLS protects."""


WEB_PACKAGES = ("hypercorn", "starlette", "prometheus_client", "python_multipart")
"""What an HTTP service imports that nodes without one need not have."""


WithSocket = ControlService | HttpService | UnixSocketServer
"""Directives that may have a unix socket."""


def check_environment(config: NodeConfig) -> None:
    """Check that the directories a node needs are there, or can be made, and can be written.

    Raises:
        ConfigFaults: some are not.
    """
    faults = FaultLog()
    _check_datadir(config.node, faults)
    for service in (*config.control_services, *config.http_services, *config.services):
        if isinstance(service, WithSocket) and service.filename:
            _check_socket(service, faults)
    if config.audit_log is not None:
        _check_audit_log(config.audit_log, faults)
    _check_packages(config, faults)
    faults.raise_if_any()


def check_packages(config: NodeConfig) -> None:
    """Check that the Python packages of the HTTP service are there, if there is one.

    Raises:
        ConfigFaults: some are not.
    """
    faults = FaultLog()
    _check_packages(config, faults)
    faults.raise_if_any()


def _check_packages(config: NodeConfig, faults: FaultLog) -> None:
    if not config.http_services:
        return  # to look for packages takes a while
    missing = [name for name in WEB_PACKAGES if importlib.util.find_spec(name) is None]
    for directive in config.http_services if missing else ():
        text = f"needs the Python packages {', '.join(missing)}: pip install 'meshnode[web]'"
        faults.add(directive.place_of(), directive.INFO.name, text=text)


def _check_datadir(node: Node, faults: FaultLog) -> None:
    _check_owners(node, faults)
    for directory in (node.datadir / node.id, *(node.datadir / node.id).parents):
        try:
            mode = directory.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue  # it, or the file that is in its way, shows at one of its parents
        except OSError as error:
            _note(faults, node, "datadir", directory, f"cannot be used: {_reason(error)}")
            return
        if not stat.S_ISDIR(mode):
            _note(faults, node, "datadir", directory, "is not a directory")
        elif not os.access(directory, os.W_OK | os.X_OK):
            _note(faults, node, "datadir", directory, "cannot be written by this user")
        return


def _check_owners(node: Node, faults: FaultLog) -> None:
    try:
        refusal = check_ownership(node.datadir / node.id, own=NODE_DIRECTORIES).refusal
    except OSError:
        return  # _check_datadir meets the same error and reports it
    if refusal:
        faults.add(node.place_of("datadir"), node.INFO.name, "datadir", text=printable(refusal))


def _check_socket(service: WithSocket, faults: FaultLog) -> None:
    path = Path(service.filename)
    try:
        # lstat of the socket: a node replaces what is at the path itself, link or not.
        if not stat.S_ISDIR(path.parent.stat().st_mode):
            _note(faults, service, "filename", path.parent, "is not a directory")
        elif not os.access(path.parent, os.W_OK | os.X_OK):
            _note(faults, service, "filename", path.parent, "cannot be written by this user")
        elif os.path.lexists(path) and not stat.S_ISSOCK(path.lstat().st_mode):
            _note(faults, service, "filename", path, "is there and is not a socket")
    except FileNotFoundError:
        _note(faults, service, "filename", path.parent, "does not exist; create it first")
    except OSError as error:
        _note(faults, service, "filename", path.parent, f"cannot be used: {_reason(error)}")


def _check_audit_log(directive: AuditLogDirective, faults: FaultLog) -> None:
    path = directive.filename
    try:
        found = path.lstat()
    except FileNotFoundError:
        if not path.parent.is_dir():
            _note(faults, directive, "filename", path.parent, "does not exist; create it first")
        elif not os.access(path.parent, os.W_OK | os.X_OK):
            _note(faults, directive, "filename", path.parent, "cannot be written by this user")
        return
    except OSError as error:
        _note(faults, directive, "filename", path, f"cannot be used: {_reason(error)}")
        return
    if not stat.S_ISREG(found.st_mode):
        _note(faults, directive, "filename", path, "is there and is not a file")
    elif found.st_uid != os.geteuid():
        text = f"belongs to another user (uid {found.st_uid}); move it away, or name another file"
        _note(faults, directive, "filename", path, text)
    elif not os.access(path, os.R_OK | os.W_OK):
        _note(faults, directive, "filename", path, "cannot be read and written by this user")
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        _note(faults, directive, "filename", path, "can be written by other users: chmod go-w it")


def _note(faults: FaultLog, directive: Directive, parameter: str, path: Path, text: str) -> None:
    place = directive.place_of(parameter)
    faults.add(place, directive.INFO.name, parameter, text=f'"{printable(str(path))}" {text}')


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


# --- What everybody who can reach this machine may use
#
# The defaults are receptor's, which listen on all interfaces. ``meshnode check`` warns of them; see
# docs/exposure.md.


def exposures(config: NodeConfig) -> list[Fault]:
    """Return one warning for each socket that everybody may use, in the order of the directives."""
    return [
        *_of_links(config),
        *_of_control(config),
        *_of_http(config),
        *(
            _fault(d, "bindaddr", _of_service(d))
            for d in config.services
            if isinstance(d, TcpServer | UdpServer)
            and _is_open(d.bindaddr)
            and not (isinstance(d, TcpServer) and _asks_who(config, d.tlsserver))
        ),
    ]


def cleaned_datadir(node: Node) -> list[Fault]:
    """Return a warning if the system may delete the units of the node."""
    place = cleaned_place(node.datadir)
    if place is None:
        return []
    text = (
        f"units are kept in {place}, where systems delete what is old, and all when they start; "
        "name a lasting directory, for instance /var/lib/meshnode"
    )
    return [Fault(node.place_of("datadir"), (node.INFO.name, "datadir"), text)]


def replaceable_audit_log(config: NodeConfig) -> list[Fault]:
    """Return a warning for each way by which others can put another file in the log's place."""
    directive = config.audit_log
    if directive is None:
        return []
    try:
        found = ownership_warnings(directive.filename.absolute().parent)
    except OSError:
        return []  # whoever opens it says what is wrong
    file = printable(str(directive.filename))
    return [
        Fault(
            directive.place_of("filename"),
            (directive.INFO.name, "filename"),
            f'"{file}" can be replaced by other users: {printable(doubt)}',
        )
        for doubt in found
    ]


def _of_links(config: NodeConfig) -> Iterator[Fault]:
    for directive in config.listeners:
        if _is_open(directive.bindaddr) and not _asks_who(config, directive.tls):
            yield _fault(directive, "bindaddr", _of_link(directive))


def _asks_who(config: NodeConfig, tls: str) -> bool:
    """Whether a ``tls-server`` lets only those in who have a certificate."""
    return any(server.name == tls and server.requireclientcert for server in config.tls_servers)


def _of_link(directive: ListenerDirective) -> str:
    who = "whoever can reach it may join the mesh"
    if directive.allowedpeers is not None:
        who = "whoever can reach it may join the mesh under the name of an allowed peer"
    lacking = "requireclientcert" if directive.tls else "TLS"
    return f"port {directive.port} is open on all interfaces without {lacking}: {who}"


def _of_service(directive: TcpServer | UdpServer) -> str:
    return (
        f"port {directive.port} is open on all interfaces: whoever can reach it may use the "
        f"service {directive.remoteservice} of {directive.remotenode}"
    )


def _of_control(config: NodeConfig) -> Iterator[Fault]:
    for directive in config.control_services:
        if not directive.tcplisten or _asks_who(config, directive.tcptls):
            continue
        if _is_open(directive.tcplisten.host):
            port = directive.tcplisten.port
            without = " without requireclientcert" if directive.tcptls else ""
            text = f"port {port} is open on all interfaces{without}"
            yield _fault(directive, "tcplisten", f"{text}: whoever can reach it controls the node")


def _of_http(config: NodeConfig) -> Iterator[Fault]:
    for service in config.http_services:
        is_near = service.port is None or _is_loopback(service.bindaddr)
        nobody_asked = service.allowanonymous is None and service.port is not None and is_near
        if nobody_asked and not config.access_rules:
            text = (
                f"every user of this machine may do everything at port {service.port}: nobody here "
                "has to show who they are; write allowanonymous: false and tokens, or access rules"
            )
            yield Fault(service.place_of("port"), (service.INFO.name,), text)


def open_https(config: NodeConfig) -> list[Fault]:
    """Return a warning for each HTTP service that lets in whoever comes, or can be listened to."""
    found = []
    for service in config.http_services:
        info = service.INFO.name
        if service.allowanonymous:
            text = (
                "whoever reaches it may do what the access rules let anybody, and all if there are "
                "none: nobody is asked who they are; leave it out, and name a file of tokens, or a "
                "tls-server with clientcas"
            )
            found.append(Fault(service.place_of("allowanonymous"), (info, "allowanonymous"), text))
        if service.port is not None and not service.tls and not _is_loopback(service.bindaddr):
            text = (
                "can be reached from other machines without TLS: tokens and all that passes can be "
                "read on the way; write 127.0.0.1, or name a tls-server as tls"
            )
            found.append(Fault(service.place_of("bindaddr"), (info, "bindaddr"), text))
    return found


def plain_controls(config: NodeConfig) -> list[Fault]:
    """Return a warning for each TCP port of a control service that others reach without TLS."""
    return [
        Fault(directive.place_of("tcplisten"), (directive.INFO.name, "tcplisten"), PLAIN_CONTROL)
        for directive in config.control_services
        if directive.tcplisten
        and not directive.tcptls
        and not _is_loopback(directive.tcplisten.host)
    ]


def _is_loopback(host: str) -> bool:
    """Whether an address to listen on is of this machine alone; no host name is but one."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _fault(directive: Directive, parameter: str, text: str) -> Fault:
    remedy = "write 127.0.0.1 and the port" if parameter == "tcplisten" else "set bindaddr"
    advice = f"{text}; {remedy}, or let a firewall choose who can"
    return Fault(directive.place_of(parameter), (directive.INFO.name,), advice)


def _is_open(host: str) -> bool:
    """Whether an address to listen on means all interfaces; a host name never does."""
    try:
        return not host or ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False
