"""The TLS settings of one node, by the names of their directives.

A connection asks for its settings when it begins. So what :meth:`TlsStore.apply` puts in serves the
next connection, and those that are up go on with what they began with; who wants to judge them
again is told (:meth:`TlsStore.when_renewed`).
"""

import datetime
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from meshnode.config import NodeConfig
from meshnode.config.faults import ConfigFaults, Fault
from meshnode.config.link_directives import ListenerDirective, PeerDirective
from meshnode.config.schema import Directive
from meshnode.config.service_directives import (
    CommandService,
    TcpClient,
    TcpServer,
    UnixSocketClient,
    UnixSocketServer,
)
from meshnode.config.tls_directives import TlsClient, TlsDirective, TlsServer
from meshnode.security.keyfiles import tls_files

if TYPE_CHECKING:  # OpenSSL is loaded only for who asks for TLS
    from meshnode.security.certificates import Certificate
    from meshnode.security.tls import TlsSettings, TlsSource

_Key = tuple[type[TlsDirective], str]

DEFAULT_CLIENT: Final = ""
"""The name of the settings of a ``wss://`` peer that names none: no certificate is shown, and the
system's CAs are trusted."""


@dataclass(frozen=True, slots=True)
class TlsUse:
    """One directive, and what it means; ``doubt`` is what cannot work with it, if anything."""

    directive: TlsDirective
    settings: "TlsSettings"
    doubt: str = ""

    @property
    def label(self) -> str:
        """Kind and name of the directive: ``tls-server myserver``."""
        return f"{self.directive.INFO.name} {self.directive.name}".rstrip()

    @property
    def shown(self) -> "Certificate | None":
        """The certificate that this end shows, if any."""
        return None if self.settings.own is None else self.settings.own.certificate

    def doubts(self, now: datetime.datetime) -> list[Fault]:
        """Return what is wrong with the certificate that this end shows, and with its CAs."""
        from meshnode.security import tls  # noqa: PLC0415 - there are settings: it is loaded

        cas = "clientcas" if isinstance(self.directive, TlsServer) else "rootcas"
        found = [("cert", text) for text in tls.doubts(self.settings, now)]
        found += [("cert", self.doubt)] if self.doubt else []
        found += [(cas, text) for text in tls.doubts_of_trust(self.settings, now)]
        return [
            Fault(self.directive.place_of(name), (self.directive.INFO.name, name), text)
            for name, text in found
        ]

    def has_changed(self, old: "TlsUse", changed: frozenset[Path]) -> bool:
        """Whether directive or files are others than in an old one."""
        files = {file.path for file in tls_files(self.directive)}
        return old.directive != self.directive or bool(files & changed)

    def __str__(self) -> str:
        if self.shown is None:
            return "it shows no certificate"
        from meshnode.security.verification import told  # noqa: PLC0415 - it is loaded

        return f"it shows {self.shown}, which holds until {told(self.shown.not_after)}"


@dataclass(frozen=True, slots=True)
class TlsChange:
    """What TLS directives mean, with all files read."""

    uses: Mapping[_Key, TlsUse]

    @property
    def doubts(self) -> tuple[Fault, ...]:
        """What is wrong with certificates that this node would show, as of now."""
        return _doubts(self.uses.values())


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
        self._uses: dict[_Key, TlsUse] = {}
        """Those of the configuration; of others a listener may still be closing."""
        self._when_renewed: list[Callable[[], None]] = []

    def when_renewed(self, tell: Callable[[], None]) -> None:
        """Have somebody told each time that settings are others than before."""
        self._when_renewed.append(tell)

    def admit(self, change: TlsChange) -> None:
        """Have the settings of names that are new, before anybody asks for them."""
        new = {key: use for key, use in change.uses.items() if key not in self._uses}
        self._settings |= {key: use.settings for key, use in new.items()}

    def apply(self, change: TlsChange, changed: frozenset[Path] = frozenset()) -> list[str]:
        """Use other settings for connections that begin from now on; return what differs.

        Directives of other names are gone from now on. ``changed`` are files that hold something
        else than before.
        """
        told = [
            f"{use.label}: removed" for key, use in self._uses.items() if key not in change.uses
        ]
        self._uses = {key: use for key, use in self._uses.items() if key in change.uses}
        return told + self.renew(change, changed)

    def renew(self, change: TlsChange, changed: frozenset[Path]) -> list[str]:
        """Use other settings for these names, all else stays; return what differs."""
        told = []
        for key, use in change.uses.items():
            old = self._uses.get(key)
            if old is not None and not use.has_changed(old, changed):
                # Streams share a connection only if it was made with the very same settings.
                self._uses[key] = replace(use, settings=old.settings)
                continue
            self._uses[key] = use
            # Names that are gone stay: a listener that named one may still be closing.
            self._settings[key] = use.settings
            told.append(f"{use.label}: {'added' if old is None else 'read anew'}; {use}")
        if told:
            for tell in self._when_renewed:
                tell()
        return told

    @property
    def doubts(self) -> tuple[Fault, ...]:
        """What is wrong with certificates that this node shows, as of now."""
        return _doubts(self._uses.values())

    @property
    def certificates(self) -> tuple[ShownCertificate, ...]:
        """The certificates that this node shows, by the names of their directives."""
        shown = (
            ShownCertificate(kind.INFO.name, name, own.file, own.certificate)
            for (kind, name), use in self._uses.items()
            if (own := use.settings.own) is not None
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
        return self.server(name) if name and (TlsServer, name) in self._uses else None

    def find_client(self, name: str) -> "TlsSource | None":
        """Return the same for a name that may be empty, or not there: then None."""
        return self.client(name) if name and (TlsClient, name) in self._uses else None

    def of_listener(self, directive: ListenerDirective) -> "TlsSource | None":
        """Return where to get the settings of a listener of links; None if it has no TLS."""
        return self.server(directive.tls) if directive.tls else None

    def of_peer(self, directive: PeerDirective) -> "TlsSource | None":
        """Return where to get the settings of a dialed link; None if it has no TLS."""
        return self.client(directive.tls) if directive.has_tls else None


NO_TLS: Final = TlsStore()
"""The store of a node without TLS; nothing is put into it."""


def _doubts(uses: Iterable[TlsUse]) -> tuple[Fault, ...]:
    now = datetime.datetime.now(datetime.UTC)
    return tuple(doubt for use in uses for doubt in use.doubts(now))


# --- from a configuration ------------------------------------------------------------------------


def read_settings(config: NodeConfig) -> TlsChange:
    """Return the settings of all TLS directives of a configuration.

    Raises:
        ConfigFaults: files are missing or wrong; it has every fault.
    """
    change, failed = _read(config, _directives(config))
    if failed:
        raise ConfigFaults([fault for error in failed.values() for fault in error.faults])
    return change


def read_changed(
    config: NodeConfig, changed: frozenset[Path]
) -> tuple[TlsChange, Mapping[Directive, ConfigFaults]]:
    """Return the settings of those directives whose files have changed, and why others have none.

    Each stands for itself: a file that cannot be used holds no other directive back.
    """
    wanted = [
        directive
        for directive in _directives(config)
        if any(file.path in changed for file in tls_files(directive))
    ]
    return _read(config, wanted)


def _directives(config: NodeConfig) -> list[TlsDirective]:
    directives: list[TlsDirective] = [*config.tls_servers, *config.tls_clients]
    if any(peer.has_tls and not peer.tls for peer in config.peers):
        directives.append(TlsClient(name=DEFAULT_CLIENT))
    return directives


def _read(
    config: NodeConfig, directives: list[TlsDirective]
) -> tuple[TlsChange, dict[Directive, ConfigFaults]]:
    if not directives:
        return TlsChange({}), {}
    # Imported here: most checks and starts need no OpenSSL.
    from meshnode.security import tls  # noqa: PLC0415

    above = used_above(config)
    uses: dict[_Key, TlsUse] = {}
    failed: dict[Directive, ConfigFaults] = {}
    for directive in directives:
        key: _Key = type(directive), directive.name
        try:
            settings = tls.load(directive, config.node.id)
            unfit = tls.unfit_above(settings)
            if unfit and key in above:
                raise directive.error("cert", unfit)
        except ConfigFaults as error:
            failed[directive] = error
            continue
        # Clients may still name a client that only links do.
        doubt = unfit if isinstance(directive, TlsClient) else ""
        uses[key] = TlsUse(directive, settings, doubt)
    return TlsChange(uses), failed


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
