"""The directives of TLS: what a server shows and asks for, and what a client does.

A directive has no effect by itself: links, control services and services name it by ``tls``.
Names, parameters and their meaning are receptor's, but for ``mintls13``, which is true by default.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import yaml

from meshnode.config.faults import FaultLog, quote, suggestion
from meshnode.config.kinds import NULL_TAG, Kind, boolean, list_of, path, text
from meshnode.config.names import Wrong
from meshnode.config.schema import Directive, directive, parameter

SECTION: Final = "TLS"
"""The heading under which help lists these directives."""

DIGEST_SIZES: Final = {32: "SHA-256", 64: "SHA-512"}
"""Bytes of a fingerprint, by which its algorithm is known."""


def _check_pin(value: str) -> str:
    """Return a fingerprint as lower-case hexadecimal digits. Raises Wrong."""
    try:
        digest = bytes.fromhex(value.replace(":", ""))
    except ValueError:
        digest = b""
    if len(digest) not in DIGEST_SIZES:
        raise Wrong(
            f"{quote(value)} is not a fingerprint: 32 bytes of SHA-256 or 64 of SHA-512, as "
            "hexadecimal digits, with or without colons"
        )
    return digest.hex()


def _check_name(value: str) -> str:
    if not value or value != value.strip() or not value.isprintable():
        raise Wrong(f"{quote(value)} is no name for a TLS configuration")
    return value


TLS_NAME = text("name of a TLS configuration", _check_name)
PINS = list_of(
    text("SHA-256 or SHA-512 fingerprint", _check_pin), "list of SHA-256 or SHA-512 fingerprints"
)


def _reference(directive: str) -> Kind[str]:
    """The name of a TLS directive; an empty one, as templates leave it, is none."""
    label = f"name of a {directive}"
    inner = text(label, _check_name)

    def read(node: yaml.Node) -> str:
        if node.tag == NULL_TAG or node.value == "":
            return ""
        return inner.read(node)

    return Kind(label, read, refers_to=directive)


SERVER_NAME: Final = _reference("tls-server")
CLIENT_NAME: Final = _reference("tls-client")
"""The kinds of parameters that name a TLS directive: each such name is checked."""


def optional_file() -> Kind[Path | None]:
    """The path of a file; an empty one, as templates leave it, is none."""
    inner = path("file")

    def read(node: yaml.Node) -> Path | None:
        if node.tag == NULL_TAG or node.value == "":
            return None
        return inner.read(node)

    return Kind("file", read, on_disk=inner.on_disk)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class TlsDirective(Directive):
    """What both directives have."""

    RELOADABLE = True

    name: str = parameter(TLS_NAME, "name by which other directives refer to it")
    skipreceptornamescheck: bool = parameter(
        boolean(), "start although the certificate does not name this node", default=False
    )
    mintls13: bool = parameter(
        boolean(), "speak TLS 1.3 only; false allows 1.2, with ECDHE and AEAD", default=True
    )


@directive(
    "tls-server",
    "Say what a listener or service shows its clients, and what it asks of them.",
    section=SECTION,
    example=(
        ("name", "srv"),
        ("cert", "foo.crt"),
        ("key", "foo.key"),
        ("clientcas", "ca.crt"),
    ),
    claims={"TLS server": ("name",)},
)
class TlsServer(TlsDirective):
    """The server's side of TLS; pins are lower-case hexadecimal digits."""

    cert: Path = parameter(path("file"), "file of the certificate and its chain, as PEM")
    key: Path = parameter(path("file"), "file of the certificate's private key, as PEM")
    requireclientcert: bool = parameter(
        boolean(), "refuse clients without a certificate", default=False
    )
    clientcas: Path | None = parameter(
        optional_file(),
        "file of the CAs that sign clients' certificates, as PEM; with it a certificate that a "
        "client shows is checked in any case",
        default=None,
        default_text="the system's CAs",
    )
    pinnedclientcert: tuple[str, ...] = parameter(
        PINS,
        "fingerprints of clients' certificates; others are refused",
        default=(),
        default_text="any",
    )


@directive(
    "tls-client",
    "Say what a peer or client shows to servers, and which of them it trusts.",
    section=SECTION,
    example=(
        ("name", "cli"),
        ("cert", "foo.crt"),
        ("key", "foo.key"),
        ("rootcas", "ca.crt"),
    ),
    claims={"TLS client": ("name",)},
)
class TlsClient(TlsDirective):
    """The client's side of TLS; pins are lower-case hexadecimal digits."""

    cert: Path | None = parameter(
        optional_file(),
        "file of the certificate to show and its chain, as PEM",
        default=None,
        default_text="none",
    )
    key: Path | None = parameter(
        optional_file(),
        "file of the certificate's private key, as PEM",
        default=None,
        default_text="none",
    )
    rootcas: Path | None = parameter(
        optional_file(),
        "file of the CAs that sign servers' certificates, as PEM",
        default=None,
        default_text="the system's CAs",
    )
    insecureskipverify: bool = parameter(
        boolean(), "accept any certificate of a server, whoever signed it", default=False
    )
    pinnedservercert: tuple[str, ...] = parameter(
        PINS,
        "fingerprints of servers' certificates; others are refused",
        default=(),
        default_text="any",
    )


TLS_DIRECTIVES: Final[tuple[type[TlsDirective], ...]] = (TlsServer, TlsClient)

_REFERRED: Final[Mapping[int, type[TlsDirective]]] = MappingProxyType(
    {id(SERVER_NAME): TlsServer, id(CLIENT_NAME): TlsClient}
)
"""What each kind of reference refers to."""


def check_tls(typed: Iterable[Directive], faults: FaultLog) -> None:
    """Note names of TLS configurations that there are not, and certificates without a key."""
    directives = list(typed)
    check_pairs(directives, faults)
    known = {(type(one), one.name) for one in directives if isinstance(one, TlsDirective)}
    for one in directives:
        for parameter_info in one.INFO.parameters:
            wanted = _REFERRED.get(id(parameter_info.kind))
            name = getattr(one, parameter_info.field)
            if wanted is None or not name or (wanted, name) in known:
                continue
            text = _no_such(wanted, name, known)
            place = one.place_of(parameter_info.name)
            faults.add(place, one.INFO.name, parameter_info.name, text=text)


def _no_such(
    wanted: type[TlsDirective], name: str, known: set[tuple[type[TlsDirective], str]]
) -> str:
    other = TlsClient if wanted is TlsServer else TlsServer
    if (other, name) in known:
        return f"{quote(name)} is a {other.INFO.name}; a {wanted.INFO.name} is needed here"
    names = sorted(n for kind, n in known if kind is wanted)
    hint = suggestion(name, names, otherwise=f"add a {wanted.INFO.name} of that name")
    return f"there is no {wanted.INFO.name} {quote(name)}; {hint}"


def check_pairs(typed: Iterable[Directive], faults: FaultLog) -> None:
    """Note each client with a certificate and no key, or a key and no certificate."""
    for one in typed:
        if isinstance(one, TlsClient) and (one.cert is None) != (one.key is None):
            given, missing = ("cert", "key") if one.key is None else ("key", "cert")
            text = f"needs {missing} as well: a certificate is of use only with its key"
            faults.add(one.place_of(given), one.INFO.name, given, text=text)
