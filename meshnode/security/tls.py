"""What ``tls-server`` and ``tls-client`` mean: files read once, checked, and made contexts.

A :class:`TlsSettings` is a value. Whoever opens a connection asks a :class:`TlsSource` for the
present one, so settings that were read anew serve the next connection and disturb none that is up.
Links, control ports and the QUIC engine take from it what they need: OpenSSL's context, or the
certificates, the key and what is expected of the other end.
"""

import datetime
import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from OpenSSL import SSL, crypto

from meshnode.config.tls_directives import TlsClient, TlsDirective, TlsServer
from meshnode.errors import UnusableCertificate, UnusableKey
from meshnode.security.certificates import (
    Certificate,
    Usage,
    load_certificates,
)
from meshnode.security.keys import read_pem
from meshnode.security.verification import Expected, Trust, Verdict, told

CIPHERS_OF_1_2: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20"
"""With TLS 1.2: keys that are forgotten after the connection, and ciphers that authenticate. All
that receptor offers there are among them, but for one without ECDHE."""

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
"""A key that a certificate may be for."""

MAX_CHAIN: Final = 15 * 1024
"""Bytes of the certificates that an end of a stream shows. Receptor's QUIC takes 16 KiB of a
handshake's flight; with the largest keys half a KiB of it is not certificates."""

CURVES: Final = frozenset({"secp256r1", "secp384r1", "secp521r1"})
"""Curves that certificates may have in TLS 1.3 (RFC 8446, section 4.2.3)."""

WARNED_AHEAD: Final = datetime.timedelta(days=30)
"""How long before its end a certificate is warned of."""


class Demand(enum.Enum):
    """Whether a server wants a certificate of its clients."""

    NONE = "none"
    CHECKED = "checked"
    """It may be left out; one that is shown is checked."""
    REQUIRED = "required"


_MODES: Final = {
    Demand.NONE: SSL.VERIFY_NONE,
    Demand.CHECKED: SSL.VERIFY_PEER,
    Demand.REQUIRED: SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
}


@dataclass(frozen=True, slots=True)
class OwnCertificate:
    """What this end shows.

    Attributes:
        file: where it is from.
        chain: the node's own certificate, then those between it and its CA.
        key: the private key of the first.
    """

    file: Path
    chain: tuple[Certificate, ...]
    key: PrivateKey = field(repr=False)

    @property
    def certificate(self) -> Certificate:
        """The node's own certificate."""
        return self.chain[0]


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """One end's TLS, ready to use.

    Attributes:
        name: of the directive.
        usage: what this end is.
        own: what it shows; None if nothing.
        demand: whether it wants a certificate of the other end.
        expected: what the other end's certificate must be. A client adds the host or node that it
            dials, a server of the mesh the node that the data come from.
        context: OpenSSL's; its verification asks the ``Verdict`` of the connection.
    """

    name: str
    usage: Usage
    own: OwnCertificate | None
    demand: Demand
    expected: Expected
    context: SSL.Context = field(repr=False, compare=False)


TlsSource = Callable[[], TlsSettings]
"""Returns the settings for a connection that begins now."""

TlsClients = Callable[[str], TlsSource | None]
"""Returns where to get the settings of the ``tls-client`` of a name; None if there is none."""


def load_server(directive: TlsServer, node_id: str) -> TlsSettings:
    """Return what a ``tls-server`` means.

    Raises:
        ConfigFaults: a file is missing or wrong; the fault names directive, parameter and remedy.
    """
    own = _own(directive, directive.cert, directive.key, node_id)
    demand = Demand.NONE
    if directive.requireclientcert:
        demand = Demand.REQUIRED
    elif directive.clientcas is not None:
        demand = Demand.CHECKED
    context = _context(directive, Usage.SERVER, own, demand)
    trust = _trust(directive, "clientcas", directive.clientcas, context)
    expected = Expected(Usage.CLIENT, trust, directive.pinnedclientcert)
    return TlsSettings(directive.name, Usage.SERVER, own, demand, expected, context)


def load_client(directive: TlsClient, node_id: str) -> TlsSettings:
    """Return what a ``tls-client`` means. Raises as :func:`load_server` does."""
    own = None
    if directive.cert is not None and directive.key is not None:
        own = _own(directive, directive.cert, directive.key, node_id)
    context = _context(directive, Usage.CLIENT, own, Demand.REQUIRED)
    trust = None
    if not directive.insecureskipverify:
        trust = _trust(directive, "rootcas", directive.rootcas, context)
    expected = Expected(Usage.SERVER, trust, directive.pinnedservercert)
    return TlsSettings(directive.name, Usage.CLIENT, own, Demand.REQUIRED, expected, context)


def load(directive: TlsDirective, node_id: str) -> TlsSettings:
    """Return what a directive means. Raises as :func:`load_server` does."""
    if isinstance(directive, TlsServer):
        return load_server(directive, node_id)
    assert isinstance(directive, TlsClient)
    return load_client(directive, node_id)


def doubts(settings: TlsSettings, now: datetime.datetime) -> list[str]:
    """Return what is wrong with a certificate that this end shows, and others will refuse."""
    if settings.own is None:
        return []
    own, *above = settings.own.chain
    file = f'"{settings.own.file}"'
    found = [f"{file} {text}" for text in _doubts_of_dates(own, now)]
    for certificate in above:
        subject = f"{file}: the CA's certificate in it ({certificate})"
        found += [f"{subject} {text}" for text in _doubts_of_dates(certificate, now)]
    if not own.may_be(settings.usage):
        text = f"may not be used as a {settings.usage.value}'s: its extended key usage forbids it"
        found.append(f"{file} {text}")
    return found


def doubts_of_trust(settings: TlsSettings, now: datetime.datetime) -> list[str]:
    """Return what is wrong with the CAs that this end trusts: soon none of them may hold."""
    trust = settings.expected.trust
    if trust is None or trust.last is None:
        return []
    # Old ones beside a new one are usual.
    subject = f"{trust.words}: the one that ends last ({trust.last})"
    return [f"{subject} {text}" for text in _doubts_of_dates(trust.last, now)]


def _doubts_of_dates(certificate: Certificate, now: datetime.datetime) -> list[str]:
    begins, ends = certificate.not_before, certificate.not_after
    left = ends - now
    if begins > now:
        text = f"is not yet valid: it begins at {told(begins)}, and now it is {told(now)}"
        return [f"{text}; check the clocks"]
    if left <= datetime.timedelta(0):
        text = f"expired at {told(ends)}, and now it is {told(now)}"
        return [f"{text}; renew it, or check the clocks"]
    if left <= WARNED_AHEAD:
        return [f"expires at {told(ends)}, in {left.days} days; renew it"]
    return []


def unfit_above(settings: TlsSettings) -> str:
    """Return why settings cannot be used for streams over the mesh; empty if they can.

    Said before the first connection would fail: QUIC takes less than TLS over TCP does.
    """
    own = settings.own
    if own is None:
        return ""
    size = sum(len(one.der) for one in own.chain)
    if size > MAX_CHAIN:
        return (
            f'"{own.file}" has certificates of {size} bytes; over the mesh at most {MAX_CHAIN} '
            "may be shown: leave out the root and CAs of others, or use ECDSA keys"
        )
    if isinstance(own.key, ec.EllipticCurvePrivateKey) and own.key.curve.name not in CURVES:
        return (
            f'"{own.file}" has a key of curve {own.key.curve.name}, which TLS 1.3 does not know; '
            "use P-256"
        )
    return ""


# --- files ---------------------------------------------------------------------------------------


def _own(directive: TlsDirective, file: Path, key_file: Path, node_id: str) -> OwnCertificate:
    """Return the certificate that a directive shows. Raises ConfigFaults."""
    try:
        chain = load_certificates(file)
    except UnusableCertificate as error:
        raise directive.error("cert", str(error)) from error
    try:
        key = load_key(key_file)
    except UnusableKey as error:
        raise directive.error("key", str(error)) from error
    if public_bytes(x509.load_der_x509_certificate(chain[0].der)) != public_bytes(key):
        text = f'"{key_file}" is not the key of the certificate in "{file}" ({chain[0]})'
        raise directive.error("key", text)
    if not directive.skipreceptornamescheck and node_id not in chain[0].node_ids:
        raise directive.error("cert", _not_named(file, chain[0], node_id))
    return OwnCertificate(file, chain, key)


def _not_named(file: Path, certificate: Certificate, node_id: str) -> str:
    return (
        f'"{file}" does not name this node, {node_id}; it names {certificate.names}; '
        f"make one with: meshnode cert request --node {node_id}, or set "
        "skipreceptornamescheck: true"
    )


def load_key(path: Path) -> PrivateKey:
    """Return the private key of a certificate.

    Raises:
        UnusableKey: there is none; the text says why, and what to do.
    """
    text = read_pem(path, "name the key that the certificate was made with")
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except TypeError:
        remedy = f"store it without: openssl pkey -in {path} -out NEW.pem"
        why = f'"{path}" has a passphrase, for which a node cannot ask; {remedy}'
        raise UnusableKey(why) from None
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableKey(f'"{path}" holds no private key that could be read (PEM)') from None
    if not isinstance(key, PrivateKey):
        raise UnusableKey(f'"{path}" holds a key of a kind that no certificate here can have')
    return key


def public_bytes(owner: x509.Certificate | PrivateKey) -> bytes:
    """Return the public key of a certificate or of a private key, as comparable bytes."""
    try:
        key = owner.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return b""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _trust(
    directive: TlsDirective, parameter: str, file: Path | None, context: SSL.Context
) -> Trust:
    """Have a context trust the CAs in a file, or the system's. Raises ConfigFaults."""
    if file is None:
        context.set_default_verify_paths()
        return Trust(context, "a CA of the system")
    try:
        return trust_in(file, context)
    except (UnusableCertificate, crypto.Error) as error:
        raise directive.error(parameter, str(error)) from error


def trust_in(file: Path, context: SSL.Context) -> Trust:
    """Have a context trust the CAs in a file. Raises UnusableCertificate or crypto.Error."""
    cas = load_certificates(file)
    last = max(cas, key=lambda ca: ca.not_after)
    trust = Trust(context, f'a CA in "{file}"', last)
    # As for receptor, whatever is in the file is trusted, be it a root or below one.
    trust.store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    for found in cas:
        certificate = x509.load_der_x509_certificate(found.der)
        trust.store.add_cert(crypto.X509.from_cryptography(certificate))
    return trust


# --- OpenSSL -------------------------------------------------------------------------------------


def _choose_protocol(connection: SSL.Connection, offered: list[bytes]) -> Any:
    """Return which protocol is spoken, for who listens on that connection."""
    verdict = connection.get_app_data()
    assert isinstance(verdict, Verdict)
    return verdict.choose(offered) or SSL.NO_OVERLAPPING_PROTOCOLS


def _context(
    directive: TlsDirective, usage: Usage, own: OwnCertificate | None, demand: Demand
) -> SSL.Context:
    server = usage is Usage.SERVER
    context = SSL.Context(SSL.TLS_SERVER_METHOD if server else SSL.TLS_CLIENT_METHOD)
    least = SSL.TLS1_3_VERSION if directive.mintls13 else SSL.TLS1_2_VERSION
    context.set_min_proto_version(least)
    context.set_cipher_list(CIPHERS_OF_1_2)
    if server:
        context.set_alpn_select_callback(_choose_protocol)
    # A session that is taken up again would not show its certificate again.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    if own is not None:
        try:
            _show(context, own)
        except SSL.Error as error:
            text = f'"{own.file}" cannot be shown: OpenSSL refuses it as too weak ({error})'
            raise directive.error("cert", text) from error
    context.set_verify(_MODES[demand], _hear)
    return context


def _show(context: SSL.Context, own: OwnCertificate) -> None:
    leaf, *others = (x509.load_der_x509_certificate(c.der) for c in own.chain)
    context.use_certificate(leaf)
    for other in others:
        context.add_extra_chain_cert(other)
    context.use_privatekey(own.key)


def _hear(connection: SSL.Connection, shown: crypto.X509, code: int, depth: int, ok: int) -> bool:
    verdict = connection.get_app_data()
    assert isinstance(verdict, Verdict)
    return verdict.hear(shown, code, depth)
