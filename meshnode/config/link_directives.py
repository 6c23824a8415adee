"""The directives that make links: where to accept them, where to open them.

A kind of link has two, one of each base class here. mesh/links/registry.py says which module
drives them; no other code tells the kinds of link apart.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

from meshnode.config import names
from meshnode.config.faults import FaultLog, quote
from meshnode.config.kinds import (
    Kind,
    boolean,
    link_cost,
    list_of,
    map_of,
    node_id,
    parsed,
    text,
    whole,
)
from meshnode.config.names import Address, Wrong, parse_address
from meshnode.config.schema import (
    TCP_PORT,
    UDP_PORT,
    Directive,
    directive,
    directive_base,
    parameter,
)
from meshnode.config.tls_directives import CLIENT_NAME, SERVER_NAME
from meshnode.policies import LinkPolicy

# --- Values that only websocket links have: URLs, paths, an HTTP header

DEFAULT_PORT = 80
"""The port of ``ws://`` URLs that name none (RFC 6455 section 3)."""

DEFAULT_SECURE_PORT = 443
"""The port of ``wss://`` URLs that name none."""

_VISIBLE = re.compile(r"[!-~]+")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([!-~](?:[ \t]*[!-~])*)[ \t]*")

HANDSHAKE_HEADERS = ("host", "upgrade", "connection")
"""Headers that make the handshake what it is, as all that begin with ``sec-websocket-`` do."""


@dataclass(frozen=True, slots=True)
class WsUrl(Address):
    """Where a websocket is.

    Attributes:
        host_and_port: as the URL has them, for the ``Host`` header.
        target: path and query.
        is_secure: whether it is over TLS (``wss://``).
    """

    host_and_port: str
    target: str
    is_secure: bool = False

    def __str__(self) -> str:
        return f"{'wss' if self.is_secure else 'ws'}://{self.host_and_port}{self.target}"


def parse_ws_url(url: str) -> WsUrl:
    """Return the parts of ``ws://host:port/path``, or ``wss://…``.

    Raises:
        Wrong: it is not of that form.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that are no IPv6 address
        parts = urlsplit("")
    if not _VISIBLE.fullmatch(url) or parts.scheme not in ("ws", "wss") or not parts.netloc:
        raise Wrong(f"{quote(url)} is not a URL of the form ws://host:port/path")
    if "@" in parts.netloc or parts.fragment:
        raise Wrong(f"{quote(url)}: a websocket's URL has no user and no fragment")
    whole = parts.netloc
    is_secure = parts.scheme == "wss"
    if re.search(r":[0-9]*$", whole) is None or whole.endswith("]"):
        whole = f"{whole}:{DEFAULT_SECURE_PORT if is_secure else DEFAULT_PORT}"
    where = parse_address(whole)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return WsUrl(where.host, where.port, parts.netloc, target, is_secure)


def url_path() -> Kind[str]:
    """The path of a URL."""

    def check(value: str) -> str:
        if not value.startswith("/") or not _VISIBLE.fullmatch(value) or set(value) & set("?#"):
            raise Wrong(f"{quote(value)} is not a path that begins with /")
        return value

    return text("path", check)


def http_header() -> Kind[tuple[str, str]]:
    """A header as ``Name: value``; it becomes the pair of both."""
    label = "Name: value"
    inner = text(label)

    def split(value: str) -> tuple[str, str]:
        found = _HEADER.fullmatch(value)
        if found is None:
            raise Wrong(f"{quote(value)} is not a header of the form {label}")
        name = found[1].lower()
        if name in HANDSHAKE_HEADERS or name.startswith("sec-websocket-"):
            raise Wrong(f"{found[1]} belongs to the websocket handshake itself")
        return found[1], found[2]

    return Kind(label, lambda node: split(inner.read(node)), ": ".join)


# --- The directives

LINKS = "Links to other nodes"
"""The heading under which help lists these directives."""

NODE_IDS = list_of(node_id(), "list of node IDs")
COSTS = map_of(node_id(), link_cost(), "map of node ID to number above 0")
EVERY_PEER = "every node"
HOST_AND_PORT = parsed(parse_address, "host:port")


def server_name() -> Any:
    """Declare the parameter of a listener that names its ``tls-server``."""
    return parameter(SERVER_NAME, "tls-server to use", default="", default_text="no TLS")


def client_name() -> Any:
    """Declare the parameter of a peer that names its ``tls-client``."""
    return parameter(CLIENT_NAME, "tls-client to use", default="", default_text="no TLS")


def _no_costs() -> Mapping[str, float]:
    return MappingProxyType({})


def _set_of(peers: tuple[str, ...] | None) -> frozenset[str] | None:
    return None if peers is None else frozenset(peers)


@directive_base
class ListenerDirective(Directive):
    """What all directives that accept links have; an empty ``bindaddr`` means all interfaces."""

    RELOADABLE = True

    tls = ""
    """Name of a ``tls-server``; empty without TLS. Kinds that can have it have it as parameter."""

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
        link_cost(), "cost of a link, where nodecost says nothing else", default=1.0
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

    @property
    def policy(self) -> LinkPolicy:
        """Who may be at the other end of its links, and what they cost."""
        return LinkPolicy(self.cost, self.nodecost, _set_of(self.allowedpeers))


@directive_base
class PeerDirective(Directive):
    """What all directives that open a link have."""

    RELOADABLE = True

    tls = ""
    """Name of a ``tls-client``. Kinds that can have it have it as parameter."""

    address: Address = parameter(HOST_AND_PORT, "where the other node listens", bare=True)
    redial: bool = parameter(
        boolean(), "dial again when the link cannot be opened or is lost", default=True
    )
    cost: float = parameter(link_cost(), "cost of the link; both ends must agree", default=1.0)
    allowedpeers: tuple[str, ...] | None = parameter(
        NODE_IDS, "nodes that may be at the other end", default=None, default_text=EVERY_PEER
    )

    @property
    def has_tls(self) -> bool:
        """Whether the link is over TLS."""
        return bool(self.tls)

    @property
    def policy(self) -> LinkPolicy:
        """Who may be at the other end of its link, and what that costs."""
        return LinkPolicy(self.cost, {}, _set_of(self.allowedpeers))


@directive(
    "tcp-listener",
    "Accept links from other nodes over TCP.",
    section=LINKS,
    example=(("port", "2222"), ("bindaddr", "127.0.0.1")),
    claims={TCP_PORT: ("bindaddr", "port")},
)
class TcpListener(ListenerDirective):
    """Accepts links over TCP."""

    tls: str = server_name()


@directive(
    "tcp-peer",
    "Open a link to another node over TCP.",
    section=LINKS,
    example=(("address", "foo.example.org:2222"), ("cost", "1.5")),
    claims={"tcp link": ("address",)},
)
class TcpPeer(PeerDirective):
    """Opens a link over TCP."""

    tls: str = client_name()


@directive(
    "ws-listener",
    "Accept links from other nodes over websockets.",
    section=LINKS,
    example=(("port", "8080"), ("bindaddr", "127.0.0.1"), ("path", "/mesh")),
    claims={TCP_PORT: ("bindaddr", "port")},
)
class WsListener(ListenerDirective):
    """Accepts links over websockets; a path that ends in ``/`` has all paths below it too."""

    path: str = parameter(url_path(), "path of the URL that peers dial", default="/")
    tls: str = server_name()


@directive(
    "ws-peer",
    "Open a link to another node over a websocket.",
    section=LINKS,
    example=(("address", "ws://foo.example.org:8080/mesh"),),
    claims={"ws link": ("address",)},
)
class WsPeer(PeerDirective):
    """Opens a link over a websocket."""

    address: WsUrl = parameter(
        parsed(parse_ws_url, "ws://host:port/path"), "where the other node listens", bare=True
    )
    extraheader: tuple[str, str] | None = parameter(
        http_header(),
        "HTTP header to send when the link is opened, as a proxy on the way may want",
        default=None,
        default_text="none",
    )
    tls: str = parameter(
        CLIENT_NAME,
        "tls-client to use; the address must be a wss:// one",
        default="",
        default_text="for wss:// the system's CAs, and no certificate",
    )

    @property
    def has_tls(self) -> bool:
        """Whether the link is over TLS: the URL decides."""
        return self.address.is_secure


@directive(
    "udp-listener",
    "Accept links from other nodes over UDP.",
    section=LINKS,
    example=(("port", "2222"), ("bindaddr", "127.0.0.1")),
    claims={UDP_PORT: ("bindaddr", "port")},
)
class UdpListener(ListenerDirective):
    """Accepts links over UDP."""


@directive(
    "udp-peer",
    "Open a link to another node over UDP.",
    section=LINKS,
    example=(("address", "foo.example.org:2222"),),
    claims={"udp link": ("address",)},
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


def check_schemes(typed: Iterable[Directive], faults: FaultLog) -> None:
    """Note websocket peers that ask for TLS at an address without it."""
    for one in typed:
        if isinstance(one, WsPeer) and one.tls and not one.address.is_secure:
            text = (
                f"asks for TLS, and the address has none: write wss://{one.address.host_and_port}"
            )
            faults.add(one.place_of("tls"), one.INFO.name, "tls", text=text)
