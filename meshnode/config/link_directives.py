"""The directives that make links: where to accept them, where to open them.

A kind of link has two, one of each base class here; mesh/links/registry.py says what is done with
them, and nothing in between knows the kinds apart.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from meshnode.config import names
from meshnode.config.kinds import boolean, list_of, map_of, node_id, positive, text, whole
from meshnode.config.schema import Directive, directive, directive_base, parameter
from meshnode.config.websocket_values import http_header, url_path, ws_url

LINKS = "Links to other nodes"
"""The heading under which help lists these directives."""

NODE_IDS = list_of(node_id(), "list of node IDs")
COSTS = map_of(node_id(), positive(), "map of node ID to number above 0")
EVERY_PEER = "every node"


def _checked_address(value: str) -> str:
    names.split_address(value)
    return value


def _no_costs() -> Mapping[str, float]:
    return MappingProxyType({})


HOST_AND_PORT = text("host:port", _checked_address)


@directive_base
class ListenerDirective(Directive):
    """What all directives that accept links have; an empty ``bindaddr`` means all interfaces."""

    RELOADABLE = True

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


@directive_base
class PeerDirective(Directive):
    """What all directives that open a link have; ``names`` takes the address apart."""

    RELOADABLE = True

    address: str = parameter(HOST_AND_PORT, "where the other node listens", bare=True)
    redial: bool = parameter(
        boolean(), "dial again when the link cannot be opened or is lost", default=True
    )
    cost: float = parameter(positive(), "cost of the link; both ends must agree", default=1.0)
    allowedpeers: tuple[str, ...] | None = parameter(
        NODE_IDS, "nodes that may be at the other end", default=None, default_text=EVERY_PEER
    )


@directive(
    "tcp-listener",
    "Accept links from other nodes over TCP.",
    section=LINKS,
    example=(("port", "2222"), ("bindaddr", "127.0.0.1")),
    unique=(("bindaddr", "port"),),
    later=("tls",),
)
class TcpListener(ListenerDirective):
    """Accepts links over TCP."""


@directive(
    "tcp-peer",
    "Open a link to another node over TCP.",
    section=LINKS,
    example=(("address", "foo.example.org:2222"), ("cost", "1.5")),
    unique=(("address",),),
    later=("tls",),
)
class TcpPeer(PeerDirective):
    """Opens a link over TCP."""


@directive(
    "ws-listener",
    "Accept links from other nodes over websockets.",
    section=LINKS,
    example=(("port", "8080"), ("path", "/mesh")),
    unique=(("bindaddr", "port"),),
    later=("tls",),
)
class WsListener(ListenerDirective):
    """Accepts links over websockets; a path that ends in ``/`` has all paths below it too."""

    path: str = parameter(url_path(), "path of the URL that peers dial", default="/")


@directive(
    "ws-peer",
    "Open a link to another node over a websocket.",
    section=LINKS,
    example=(("address", "ws://foo.example.org:8080/mesh"),),
    unique=(("address",),),
    later=("tls",),
)
class WsPeer(PeerDirective):
    """Opens a link over a websocket; ``split_ws_url`` takes the address apart."""

    address: str = parameter(ws_url(), "where the other node listens", bare=True)
    extraheader: tuple[str, str] | None = parameter(
        http_header(),
        "HTTP header to send when the link is opened, as a proxy on the way may want",
        default=None,
        default_text="none",
    )


@directive(
    "udp-listener",
    "Accept links from other nodes over UDP.",
    section=LINKS,
    example=(("port", "2222"),),
    unique=(("bindaddr", "port"),),
)
class UdpListener(ListenerDirective):
    """Accepts links over UDP."""


@directive(
    "udp-peer",
    "Open a link to another node over UDP.",
    section=LINKS,
    example=(("address", "foo.example.org:2222"),),
    unique=(("address",),),
)
class UdpPeer(PeerDirective):
    """Opens a link over UDP."""


LINK_DIRECTIVES: Final[tuple[type[ListenerDirective] | type[PeerDirective], ...]] = (
    TcpListener,
    TcpPeer,
    WsListener,
    WsPeer,
    UdpListener,
    UdpPeer,
)
"""Every directive that makes links, in the order in which help lists them."""
