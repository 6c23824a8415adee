"""What each directive that makes links does: the one place that knows all kinds of link.

A new kind is a module beside this one, its two directives in config/link_directives.py, and a
line in :data:`KINDS`.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from meshnode.config import (
    ListenerDirective,
    PeerDirective,
    TcpListener,
    TcpPeer,
    UdpListener,
    UdpPeer,
    WsListener,
    WsPeer,
)
from meshnode.mesh.links.base import LinkDialer, LinkListener
from meshnode.net.addresses import format_address
from meshnode.security.tlsstore import NO_TLS, TlsStore

if TYPE_CHECKING:
    from meshnode.security.tls import TlsSource


class LinkModule(Protocol):
    """What the module of a kind of link offers."""

    async def listen(self, directive: Any, tls: "TlsSource | None") -> Sequence[LinkListener]:
        """Open a listener on each address that the directive means; raises OSError."""
        ...

    def dialer(self, directive: Any, tls: "TlsSource | None") -> LinkDialer:
        """Return what opens the directive's link."""
        ...


@dataclass(frozen=True, slots=True)
class LinkKind:
    """A kind of link.

    Attributes:
        listener: the directive that accepts links of this kind.
        peer: the directive that opens a link of this kind.
        name: of its module. It is imported with the first such directive, so that nodes without one
            start faster.
        secure: the name of the module for links with TLS.
    """

    listener: type[ListenerDirective]
    peer: type[PeerDirective]
    name: str
    secure: str = ""

    def module(self, tls: "TlsSource | None") -> LinkModule:
        """Return the module for links with or without TLS, imported."""
        name = self.name if tls is None else self.secure
        module: Any = importlib.import_module(f"meshnode.mesh.links.{name}")
        return module  # type: ignore[no-any-return]  # a module is checked by no type


KINDS: Final = (
    LinkKind(TcpListener, TcpPeer, "tcp", secure="tls"),
    LinkKind(WsListener, WsPeer, "websocket", secure="websocket"),
    LinkKind(UdpListener, UdpPeer, "udp"),
)
"""Every kind of link that a configuration may name."""


async def open_listeners(
    directive: ListenerDirective, tls: TlsStore = NO_TLS
) -> list[LinkListener]:
    """Listen as the directive says: one listener for each address that its ``bindaddr`` means.

    ``tls`` has the settings of the ``tls-server`` that it may name.

    Raises:
        ConfigError: that cannot be; the error names the directive and its place.
    """
    kind = next(kind for kind in KINDS if isinstance(directive, kind.listener))
    try:
        source = tls.of_listener(directive)
        return list(await kind.module(source).listen(directive, source))
    except UnicodeError as exc:
        text = f"{directive.bindaddr} is no name that could be looked up"
        raise directive.error("bindaddr", text) from exc
    except OSError as exc:
        where = format_address((directive.bindaddr or "*", directive.port))
        text = f"cannot listen on {where}: {exc.strerror or exc}"
        raise directive.unavailable("port", text) from exc


def make_dialer(directive: PeerDirective, tls: TlsStore = NO_TLS) -> LinkDialer:
    """Return what opens the directive's link; ``tls`` has the settings it may name."""
    kind = next(kind for kind in KINDS if isinstance(directive, kind.peer))
    source = tls.of_peer(directive)
    return kind.module(source).dialer(directive, source)
