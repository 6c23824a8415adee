"""The directives of TLS: what a server shows and asks for, and what a client does.

A directive has no effect by itself: links, control services and services name it by ``tls``.
Names, parameters and their meaning are receptor's, but for ``mintls13``, which is true by default.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meshnode.config.faults import FaultLog, quote
from meshnode.config.kinds import Kind, boolean, list_of, path, text
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


def optional_file() -> Kind[Path | None]:
    """The path of a file; an empty one, as templates leave it, is none."""
    inner, words = path("file"), text("file")
    return Kind("file", lambda node: inner.read(node) if words.read(node) else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsDirective(Directive):
    """What both directives have."""

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
        ("name", "myserver"),
        ("cert", "/etc/meshnode/foo.crt"),
        ("key", "/etc/meshnode/foo.key"),
        ("requireclientcert", "true"),
        ("clientcas", "/etc/meshnode/ca.crt"),
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
        ("name", "myclient"),
        ("cert", "/etc/meshnode/foo.crt"),
        ("key", "/etc/meshnode/foo.key"),
        ("rootcas", "/etc/meshnode/ca.crt"),
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


@dataclass(frozen=True, slots=True)
class TlsReference:
    """A parameter that names a TLS directive: which, and of which kind."""

    parameter: str
    kind: type[TlsDirective]


def check_pairs(typed: Iterable[Directive], faults: FaultLog) -> None:
    """Note each client with a certificate and no key, or a key and no certificate."""
    for one in typed:
        if isinstance(one, TlsClient) and (one.cert is None) != (one.key is None):
            given, missing = ("cert", "key") if one.key is None else ("key", "cert")
            text = f"needs {missing} as well: a certificate is of use only with its key"
            faults.add(one.place_of(given), one.INFO.name, given, text=text)
