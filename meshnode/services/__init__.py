"""What runs over the mesh besides control: proxies of sockets, commands on a terminal, IP."""

from meshnode.config.service_directives import (
    CommandService,
    IpRouter,
    ServiceDirective,
    TcpClient,
    TcpServer,
    UdpClient,
    UdpServer,
    UnixSocketClient,
    UnixSocketServer,
)
from meshnode.services.base import Service
from meshnode.services.ip_router import IpMesh, IpRouterService
from meshnode.services.sockets import (
    TcpClientService,
    TcpServerService,
    UnixSocketClientService,
    UnixSocketServerService,
)
from meshnode.services.terminal import CommandServiceService
from meshnode.services.udp import UdpClientService, UdpServerService

# --- Which directive makes which service


def make_service(directive: ServiceDirective, mesh: IpMesh) -> Service:
    """Return the service that a directive describes, not running yet."""
    match directive:
        case TcpServer():
            return TcpServerService(directive, mesh)
        case TcpClient():
            return TcpClientService(directive, mesh)
        case UdpServer():
            return UdpServerService(directive, mesh)
        case UdpClient():
            return UdpClientService(directive, mesh)
        case UnixSocketServer():
            return UnixSocketServerService(directive, mesh)
        case UnixSocketClient():
            return UnixSocketClientService(directive, mesh)
        case CommandService():
            return CommandServiceService(directive, mesh)
        case IpRouter():
            return IpRouterService(directive, mesh)
    raise AssertionError(f"no service for {directive.INFO.name}")
