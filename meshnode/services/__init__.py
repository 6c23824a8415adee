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
from meshnode.mesh.mesh import Mesh
from meshnode.security.tlsstore import NO_TLS, TlsStore
from meshnode.services.base import Service
from meshnode.services.ip_router import IpRouterService
from meshnode.services.sockets import (
    TcpClientProxy,
    TcpServerProxy,
    UnixClientProxy,
    UnixServerProxy,
)
from meshnode.services.terminal import TerminalService
from meshnode.services.udp import UdpClientProxy, UdpServerProxy


def make_service(directive: ServiceDirective, mesh: Mesh, tls: TlsStore = NO_TLS) -> Service:
    """Return the service that a directive describes, not running yet.

    ``tls`` has the settings of TLS that directives name.
    """
    match directive:
        case TcpServer():
            return TcpServerProxy(directive, mesh, tls)
        case TcpClient():
            return TcpClientProxy(directive, mesh, tls)
        case UdpServer():
            return UdpServerProxy(directive, mesh)
        case UdpClient():
            return UdpClientProxy(directive, mesh)
        case UnixSocketServer():
            return UnixServerProxy(directive, mesh, tls)
        case UnixSocketClient():
            return UnixClientProxy(directive, mesh, tls)
        case CommandService():
            return TerminalService(directive, mesh, tls)
        case IpRouter():
            return IpRouterService(directive, mesh)
    raise AssertionError(f"no service for {directive.INFO.name}")
