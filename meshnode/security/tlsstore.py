"""The TLS settings of one node, by the names of their directives.

A connection asks for its settings when it begins. So what :meth:`TlsStore.apply` puts in serves the
next connection, and those that are up go on with what they began with.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from meshnode.config import NodeConfig
from meshnode.config.faults import ConfigFaults, Fault
from meshnode.config.link_directives import ListenerDirective, PeerDirective
from meshnode.config.service_directives import (
    CommandService,
    TcpClient,
    TcpServer,
    UnixSocketClient,
    UnixSocketServer,
)
from meshnode.config.tls_directives import TlsClient, TlsDirective, TlsServer

if TYPE_CHECKING:  # OpenSSL is loaded only for who asks for TLS
    from meshnode.security.certificates import Certificate
    from meshnode.security.tls import TlsSettings, TlsSource

_Key = tuple[type[TlsDirective], str]

DEFAULT_CLIENT: Final = ""
"""The name of the settings of a ``wss://`` peer that names none: no certificate is shown, and the
system's CAs are trusted."""


@dataclass(frozen=True, slots=True)
class TlsChange:
    """The settings of a configuration, with all files read; ``doubts`` are warnings of them."""

    settings: Mapping[_Key, "TlsSettings"]
    doubts: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class ShownCertificate:
    """A certificate that this node shows: by which directive, and from which file."""

    directive: str
    name: str
    file: Path
    certificate: "Certificate"


class TlsStore:
    """Where listeners and dialers get the settings that their directives name."""

    def __init__(self) -> None:
        self._settings: dict[_Key, TlsSettings] = {}
        self.doubts: tuple[Fault, ...] = ()
        """What is wrong with certificates that this node shows."""

    def apply(self, change: TlsChange) -> None:
        """Use other settings for connections that begin from now on."""
        # Names that are gone stay: a listener that named one may still be closing.
        self._settings |= change.settings
        self.doubts = change.doubts

    @property
    def certificates(self) -> tuple[ShownCertificate, ...]:
        """The certificates that this node shows, by the names of their directives."""
        shown = (
            ShownCertificate(kind.INFO.name, name, settings.own.file, settings.own.certificate)
            for (kind, name), settings in self._settings.items()
            if settings.own is not None
        )
        return tuple(sorted(shown, key=lambda one: (one.directive, one.name)))

    def server(self, name: str) -> "TlsSource":
        """Return where to get the settings of a ``tls-server``."""
        return lambda: self._settings[TlsServer, name]

    def client(self, name: str) -> "TlsSource":
        """Return where to get the settings of a ``tls-client``."""
        return lambda: self._settings[TlsClient, name]

    def find_server(self, name: str) -> "TlsSource | None":
        """Return the same for a name that may be empty, or not there: then None."""
        return self.server(name) if name and (TlsServer, name) in self._settings else None

    def find_client(self, name: str) -> "TlsSource | None":
        """Return the same for a name that may be empty, or not there: then None."""
        return self.client(name) if name and (TlsClient, name) in self._settings else None

    def of_listener(self, directive: ListenerDirective) -> "TlsSource | None":
        """Return where to get the settings of a listener of links; None if it has no TLS."""
        return self.server(directive.tls) if directive.tls else None

    def of_peer(self, directive: PeerDirective) -> "TlsSource | None":
        """Return where to get the settings of a dialed link; None if it has no TLS."""
        return self.client(directive.tls) if directive.has_tls else None


NO_TLS: Final = TlsStore()
"""The store of a node without TLS; nothing is put into it."""


def read_settings(config: NodeConfig) -> TlsChange:
    """Return the settings of all TLS directives of a configuration.

    Raises:
        ConfigFaults: files are missing or wrong; it has every fault.
    """
    directives: list[TlsDirective] = [*config.tls_servers, *config.tls_clients]
    if any(peer.has_tls and not peer.tls for peer in config.peers):
        directives.append(TlsClient(name=DEFAULT_CLIENT))
    if not directives:
        return TlsChange({}, ())
    # Imported here: most checks and starts need no OpenSSL.
    from meshnode.security import tls  # noqa: PLC0415

    above = used_above(config)
    settings: dict[_Key, TlsSettings] = {}
    faults: list[Fault] = []
    doubts: list[Fault] = []
    now = datetime.datetime.now(datetime.UTC)
    for directive in directives:
        try:
            found = tls.load(directive, config.node.id)
        except ConfigFaults as error:
            faults += error.faults
            continue
        key: _Key = type(directive), directive.name
        settings[key] = found
        place, subject = directive.place_of("cert"), (directive.INFO.name, "cert")
        doubts += [Fault(place, subject, text) for text in tls.doubts(found, now)]
        if (unfit := tls.unfit_above(found)) and key in above:
            faults.append(Fault(place, subject, unfit))
        elif unfit and isinstance(directive, TlsClient):
            # Clients may still name it.
            doubts.append(Fault(place, subject, unfit))
    if faults:
        raise ConfigFaults(faults)
    return TlsChange(settings, tuple(doubts))


def used_above(config: NodeConfig) -> set[_Key]:
    """Return which TLS directives are for streams over the mesh.

    Clients may name each ``tls-client``, so these are all that are not for links or TCP.
    """
    used: set[_Key] = {(TlsServer, one.tls) for one in config.control_services}
    for service in config.services:
        match service:
            case TcpServer(tlsclient=name) | UnixSocketServer(tls=name):
                used.add((TlsClient, name))
            case TcpClient(tlsserver=name) | UnixSocketClient(tls=name) | CommandService(tls=name):
                used.add((TlsServer, name))
    below = {peer.tls for peer in config.peers}
    below |= {one.tlsclient for one in config.services if isinstance(one, TcpClient)}
    return used | {(TlsClient, one.name) for one in config.tls_clients if one.name not in below}
