"""The directives of services that run over the mesh: names and meaning are receptor's.

``…-server`` listens on this machine and leads to a service of another node; ``…-client`` is such
a service and leads to something on its own machine.
"""

import ipaddress
from typing import Final

import yaml

from meshnode.config import names
from meshnode.config.faults import quote
from meshnode.config.kinds import (
    Kind,
    parsed,
    permissions,
    scalar_text,
    shell_words,
    text,
    whole,
)
from meshnode.config.names import Address, Wrong, check_node_id
from meshnode.config.schema import (
    MESH_SERVICE,
    TCP_PORT,
    UDP_PORT,
    UNIX_SOCKET,
    Directive,
    directive,
    parameter,
)
from meshnode.config.tls_directives import CLIENT_NAME, SERVER_NAME

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
"""A network as ``ip-router`` takes and advertises it."""

SECTION = "Services over the mesh"

MAX_INTERFACE_BYTES = 15
"""The kernel's names of network interfaces have 16 bytes, of which one is NUL (IFNAMSIZ)."""

LINK_PREFIX = 30
"""Bits of the prefix of an ip-router's own network: room for two addresses, ours and one for the
other end (as receptor has it)."""


def _checked_remote(value: str) -> str:
    return "localhost" if value.lower() == "localhost" else check_node_id(value)


def _checked_filename(value: str) -> str:
    if not value:
        raise Wrong("is empty; the path of a unix socket is needed")
    return names.check_socket_path(value)


def _checked_interface(value: str) -> str:
    length = len(value.encode(errors="surrogateescape"))
    if length > MAX_INTERFACE_BYTES:
        raise Wrong(
            f"{quote(value)} is {length} bytes long; "
            f"the name of an interface has at most {MAX_INTERFACE_BYTES}"
        )
    if value in {".", ".."} or any(c.isspace() or c in "/:%" for c in value):
        raise Wrong(f"{quote(value)} cannot be the name of an interface")
    return value


def _network(value: str) -> Network:
    # Bits behind the prefix are dropped, as receptor does: 10.0.0.1/30 is 10.0.0.0/30.
    try:
        if "/" not in value:
            raise ValueError
        return ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise Wrong(f"{quote(value)} is not a network such as 192.168.7.0/24") from None


def _link_network() -> Kind[ipaddress.IPv4Network]:
    label = f"IPv4 network with a /{LINK_PREFIX} prefix"

    def read(node: yaml.Node) -> ipaddress.IPv4Network:
        network = _network(scalar_text(node, label))
        if not isinstance(network, ipaddress.IPv4Network) or network.prefixlen != LINK_PREFIX:
            raise Wrong(f"{network} is not an {label}")
        return network

    return Kind(label, read)


def _networks() -> Kind[tuple[Network, ...]]:
    label = "networks, separated by commas"

    def read(node: yaml.Node) -> tuple[Network, ...]:
        value = scalar_text(node, label)
        return tuple(_network(part.strip()) for part in value.split(",")) if value else ()

    return Kind(label, read, lambda networks: ",".join(map(str, networks)))


PORT = whole(0, names.MAX_PORT)
BIND_ADDRESS = text("IP address or host name", names.check_bind_address)
NODE = text("node ID", _checked_remote)
SERVICE = text("service name of at most 8 bytes", names.check_service)
ADDRESS = parsed(names.parse_address, "host:port")
SOCKET_PATH = text("path of at most 107 bytes", _checked_filename, on_disk="file")


class ServiceDirective(Directive):
    """Base of the directives that make a service; ``meshnode.services`` has one for each."""

    __slots__ = ()


@directive(
    "tcp-server",
    "Listen on a TCP port and lead each connection to a service on the mesh.",
    section=SECTION,
    example=(
        ("port", "8080"),
        ("bindaddr", "127.0.0.1"),
        ("remotenode", "bar"),
        ("remoteservice", "web"),
    ),
    claims={TCP_PORT: ("bindaddr", "port")},
)
class TcpServer(ServiceDirective):
    """Where clients connect, and which stream service they reach."""

    port: int = parameter(PORT, "TCP port to listen on; 0 lets the system choose one")
    remotenode: str = parameter(NODE, "node that has the service; localhost is this one")
    remoteservice: str = parameter(SERVICE, "service to connect to")
    bindaddr: str = parameter(
        BIND_ADDRESS, "address to listen on", default="", default_text="all interfaces"
    )
    tlsserver: str = parameter(
        SERVER_NAME, "tls-server to use at the TCP port", default="", default_text="no TLS"
    )
    tlsclient: str = parameter(
        CLIENT_NAME, "tls-client to use to the service", default="", default_text="no TLS"
    )


@directive(
    "tcp-client",
    "Offer a service on the mesh that leads each stream to a TCP address.",
    section=SECTION,
    example=(("service", "web"), ("address", "localhost:80")),
    claims={MESH_SERVICE: ("service",)},
)
class TcpClient(ServiceDirective):
    """A stream service, and where its streams go."""

    service: str = parameter(SERVICE, "name of the service on the mesh")
    address: Address = parameter(ADDRESS, "where to connect for each stream")
    tlsserver: str = parameter(
        SERVER_NAME, "tls-server to use on the mesh", default="", default_text="no TLS"
    )
    tlsclient: str = parameter(
        CLIENT_NAME, "tls-client to use to the address", default="", default_text="no TLS"
    )


@directive(
    "udp-server",
    "Listen on a UDP port and pass each datagram to a service on the mesh.",
    section=SECTION,
    example=(
        ("port", "5353"),
        ("bindaddr", "127.0.0.1"),
        ("remotenode", "bar"),
        ("remoteservice", "dns"),
    ),
    claims={UDP_PORT: ("bindaddr", "port")},
)
class UdpServer(ServiceDirective):
    """Where clients send, and which datagram service they reach."""

    port: int = parameter(PORT, "UDP port to listen on; 0 lets the system choose one")
    remotenode: str = parameter(NODE, "node that has the service; localhost is this one")
    remoteservice: str = parameter(SERVICE, "service to send to")
    bindaddr: str = parameter(
        BIND_ADDRESS, "address to listen on", default="", default_text="all interfaces"
    )


@directive(
    "udp-client",
    "Offer a service on the mesh that passes each datagram to a UDP address.",
    section=SECTION,
    example=(("service", "dns"), ("address", "localhost:53")),
    claims={MESH_SERVICE: ("service",)},
)
class UdpClient(ServiceDirective):
    """A datagram service, and where its datagrams go."""

    service: str = parameter(SERVICE, "name of the service on the mesh")
    address: Address = parameter(ADDRESS, "where to send")


@directive(
    "unix-socket-server",
    "Listen on a unix socket and lead each connection to a service on the mesh.",
    section=SECTION,
    example=(("filename", "/run/db.sock"), ("remotenode", "bar"), ("remoteservice", "db")),
    claims={UNIX_SOCKET: ("filename",)},
)
class UnixSocketServer(ServiceDirective):
    """Where clients connect, and which stream service they reach."""

    filename: str = parameter(SOCKET_PATH, "unix socket to listen on; a stale one is replaced")
    remotenode: str = parameter(NODE, "node that has the service; localhost is this one")
    remoteservice: str = parameter(SERVICE, "service to connect to")
    permissions: int = parameter(
        permissions(), "who may open the unix socket, as for chmod", default=0o600
    )
    tls: str = parameter(
        CLIENT_NAME, "tls-client to use to the service", default="", default_text="no TLS"
    )


@directive(
    "unix-socket-client",
    "Offer a service on the mesh that leads each stream to a unix socket.",
    section=SECTION,
    example=(("service", "db"), ("filename", "/run/postgresql/.s.PGSQL.5432")),
    claims={MESH_SERVICE: ("service",)},
)
class UnixSocketClient(ServiceDirective):
    """A stream service, and where its streams go."""

    service: str = parameter(SERVICE, "name of the service on the mesh")
    filename: str = parameter(SOCKET_PATH, "unix socket to connect to for each stream")
    tls: str = parameter(
        SERVER_NAME, "tls-server to use on the mesh", default="", default_text="no TLS"
    )


@directive(
    "command-service",
    "Offer a service on the mesh that runs a command on a terminal for each stream.",
    section=SECTION,
    example=(("service", "shell"), ("command", "bash -l")),
    claims={MESH_SERVICE: ("service",)},
)
class CommandService(ServiceDirective):
    """A stream service, and the words of the command that it runs."""

    service: str = parameter(SERVICE, "name of the service on the mesh")
    command: tuple[str, ...] = parameter(shell_words(least=1), "command to run; no shell runs it")
    tls: str = parameter(
        SERVER_NAME, "tls-server to use on the mesh", default="", default_text="no TLS"
    )


@directive(
    "ip-router",
    "Join IP networks of several nodes, by a TUN interface on each.",
    section=SECTION,
    example=(
        ("networkname", "lan"),
        ("localnet", "10.9.1.0/30"),
        ("routes", "192.168.7.0/24"),
    ),
    claims={
        MESH_SERVICE: ("networkname",),
        "interface": ("interface",),
        "network": ("localnet",),
    },
)
class IpRouter(ServiceDirective):
    """A router of a network; the first address of ``localnet`` is this node's."""

    networkname: str = parameter(
        SERVICE, "name of the network, and of the service by which its routers talk"
    )
    localnet: ipaddress.IPv4Network = parameter(
        _link_network(), "network of the interface, another one on each node"
    )
    interface: str = parameter(
        text("name of at most 15 bytes", _checked_interface),
        "name of the interface",
        default="",
        default_text="the kernel's choice",
    )
    routes: tuple[Network, ...] = parameter(
        _networks(),
        "networks that this node leads to for the others",
        default=(),
        default_text="none",
    )


SERVICE_DIRECTIVES: Final[tuple[type[ServiceDirective], ...]] = (
    TcpServer,
    TcpClient,
    UdpServer,
    UdpClient,
    UnixSocketServer,
    UnixSocketClient,
    CommandService,
    IpRouter,
)
"""Every directive of a service over the mesh, in the order in which help lists them."""
