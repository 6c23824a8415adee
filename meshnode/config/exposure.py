"""What a configuration opens to everybody who can reach this machine: ``meshnode check`` warns.

The defaults are receptor's, and receptor's listen on all interfaces. See docs/exposure.md.
"""

import ipaddress
from collections.abc import Iterator

from meshnode.config.directives import ControlService, NodeConfig
from meshnode.config.faults import Fault
from meshnode.config.link_directives import ListenerDirective
from meshnode.config.names import split_listen_address
from meshnode.config.schema import Directive
from meshnode.config.service_directives import TcpServer, UdpServer


def exposures(config: NodeConfig) -> list[Fault]:
    """Return one warning for each socket that everybody may use, in the order of the directives."""
    return [
        *(_fault(d, "bindaddr", _of_link(d)) for d in config.listeners if _is_open(d.bindaddr)),
        *_of_control(config.control_services),
        *(
            _fault(d, "bindaddr", _of_service(d))
            for d in config.services
            if isinstance(d, TcpServer | UdpServer) and _is_open(d.bindaddr)
        ),
    ]


def _of_link(directive: ListenerDirective) -> str:
    who = "whoever can reach it may join the mesh"
    if directive.allowedpeers is not None:
        who = "whoever can reach it may join the mesh under the name of an allowed peer"
    return f"port {directive.port} is open on all interfaces without TLS: {who}"


def _of_service(directive: TcpServer | UdpServer) -> str:
    return (
        f"port {directive.port} is open on all interfaces: whoever can reach it may use the "
        f"service {directive.remoteservice} of {directive.remotenode}"
    )


def _of_control(directives: tuple[ControlService, ...]) -> Iterator[Fault]:
    for directive in directives:
        if not directive.tcplisten:
            continue
        host, port = split_listen_address(directive.tcplisten)
        if _is_open(host):
            text = f"port {port} is open on all interfaces: whoever can reach it controls the node"
            yield _fault(directive, "tcplisten", text)


def _fault(directive: Directive, parameter: str, text: str) -> Fault:
    remedy = "write 127.0.0.1 and the port" if parameter == "tcplisten" else "set bindaddr"
    advice = f"{text}; {remedy}, or let a firewall choose who can"
    return Fault(directive.place_of(parameter), ("warning", directive.INFO.name), advice)


def _is_open(host: str) -> bool:
    """Whether an address to listen on means all interfaces; a host name never does."""
    try:
        return not host or ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False
