"""Whether a certificate is the other end's: one judgement for links, control ports and streams.

OpenSSL verifies chains, by pyOpenSSL: in the handshakes of links and TCP, and of a chain that the
QUIC engine hands over (:func:`verify_chain`), with the same store. So what is trusted on a link is
trusted above it. ``cryptography.x509.verification`` would do the second only, and holds to the
rules of browsers: it refuses Ed25519 keys and certificates that openssl and receptor make and
accept. Python's ``ssl`` would do the first only, and tells no more of a refused certificate than
a number: neither whose it is nor its dates.

What OpenSSL knows nothing of comes on top: names of nodes, pins, and for chains the host and usage.
"""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from OpenSSL import SSL, crypto

from meshnode.errors import TlsProblem, TlsRefused, UnusableCertificate
from meshnode.security.certificates import (
    BAD_BYTES,
    MAX_SHOWN,
    Certificate,
    Usage,
    decode_certificate,
    fingerprint,
)
from meshnode.security.identity import shown_text

WRONG_CA_CODES: Final = frozenset({2, 7, 18, 19, 20, 21, 27, 28})
"""OpenSSL's errors (X509_V_ERR_…) of a chain that leads to no CA of ours: no issuer at hand, a bad
signature, self-signed, untrusted, rejected."""

NOT_YET_CODE: Final = 9
EXPIRED_CODE: Final = 10

WRONG_USAGE_CODES: Final = frozenset({24, 26, 32, 79, 37})
"""OpenSSL's errors of a certificate that may not do what it does here."""

WRONG_PURPOSE_CODE: Final = 26
SHORT_KEY_CODE: Final = 66
SHORT_CA_KEY_CODE: Final = 67
WEAK_DIGEST_CODE: Final = 68
UNKNOWN_CODE: Final = 1

LEAST_RSA: Final = 2048
LEAST_EC: Final = 224
"""Bits of keys at OpenSSL's level 2, which its handshakes ask for: 112 bits of security."""

LEAST_DIGEST: Final = 28
"""Bytes of a signature's digest at that level: SHA-1 has 20."""

UNFIT_WORDS: Final = {
    22: "the chain is too long",
    23: "it is revoked",
    25: "the chain is longer than a CA in it allows",
    34: "it has a critical extension that OpenSSL does not know",
    47: "a CA above it forbids its names",
    48: "a CA above it excludes its names",
    66: "its key is too short",
    67: "the key of a CA above it is too short",
    68: "a signature in the chain is of an algorithm that is too weak",
}
"""What else OpenSSL may find."""


@dataclass(frozen=True, slots=True)
class Trust:
    """The CAs that are trusted. ``words`` says which: ``a CA in "/etc/ca.crt"``."""

    context: SSL.Context
    """Has OpenSSL's store, and keeps it alive."""
    words: str
    last: Certificate | None = None
    """The one of a file that ends last: after that none of its CAs holds."""

    @property
    def store(self) -> crypto.X509Store:
        """The store; it may be used as long as this value is there."""
        store = self.context.get_cert_store()
        assert store is not None
        return store


@dataclass(frozen=True, slots=True)
class Expected:
    """What the certificate of the other end must be.

    Attributes:
        usage: what the other end is.
        trust: who must have signed it; None if anybody may.
        pins: fingerprints in lower-case hexadecimal digits, of which it must have one; none
            means any.
        host: that it must name: a host name or an IP address; empty means any.
        node: that it must name; empty means any.
    """

    usage: Usage
    trust: Trust | None
    pins: tuple[str, ...] = ()
    host: str = ""
    node: str = ""

    def judge(self, certificate: Certificate) -> None:
        """Check what OpenSSL does not: names and pins. Raises TlsRefused."""
        who = self.whose(certificate)
        if self.trust is not None and self.host and not _names_host(certificate, self.host):
            raise TlsRefused(
                TlsProblem.WRONG_NAME,
                f"{who} does not name the host that was dialed, {shown_text(self.host, MAX_SHOWN)}"
                f"; it names {certificate.names}",
            )
        if self.trust is not None and self.node and self.node not in certificate.node_ids:
            raise TlsRefused(
                TlsProblem.WRONG_NODE,
                f"{who} does not name node {shown_text(self.node, MAX_SHOWN)}; "
                f"it names {certificate.names}",
            )
        if self.pins and not {certificate.sha256.hex(), certificate.sha512.hex()} & {*self.pins}:
            raise TlsRefused(
                TlsProblem.NOT_PINNED,
                f"{who} is not pinned here; its SHA-256 is {fingerprint(certificate.sha256)}",
            )

    def whose(self, certificate: Certificate) -> str:
        """Return the words for a certificate of the other end: ``the client's certificate …``."""
        return f"the {self.usage.value}'s certificate ({certificate})"

    def refusal(
        self, code: int, depth: int, certificate: Certificate, now: datetime.datetime
    ) -> TlsRefused:
        """Return the refusal for an error that OpenSSL found in a chain.

        Args:
            code: of X509_V_ERR_….
            depth: where in the chain: 0 is the other end's own certificate.
            certificate: the one that it is about.
            now: the present time.
        """
        who = self.whose(certificate) if depth == 0 else f"the CA's certificate ({certificate})"
        trust = "a CA that is trusted here" if self.trust is None else self.trust.words
        if code == EXPIRED_CODE:
            return TlsRefused(
                TlsProblem.EXPIRED,
                f"{who} expired at {told(certificate.not_after)}, and here it is {told(now)}; "
                "renew it, or check the clocks",
            )
        if code == NOT_YET_CODE:
            return TlsRefused(
                TlsProblem.NOT_YET_VALID,
                f"{who} is not yet valid: it begins at {told(certificate.not_before)}, and here "
                f"it is {told(now)}; check the clocks",
            )
        if code in WRONG_CA_CODES:
            return TlsRefused(
                TlsProblem.WRONG_CA,
                f"{who} is not signed by {trust}; its issuer is {certificate.issuer or 'unnamed'}",
            )
        if code in WRONG_USAGE_CODES:
            role = f"a {self.usage.value}'s" if depth == 0 else "a CA's"
            return TlsRefused(
                TlsProblem.WRONG_USAGE, f"{who} may not be used as {role}: its extensions forbid it"
            )
        why = UNFIT_WORDS.get(code, f"OpenSSL's error {code} (openssl-verification-options(1))")
        return TlsRefused(TlsProblem.UNFIT, f"{who} cannot be used: {why}")


class Verdict:
    """What the verification of one connection's other end comes to.

    OpenSSL tells of each certificate in turn: the first refusal counts.
    """

    __slots__ = ("certificate", "expected", "protocols", "refusal")

    def __init__(self, expected: Expected, protocols: Sequence[bytes] = ()) -> None:
        self.expected = expected
        self.protocols = protocols
        """What may be spoken over the connection, best first; none at all is not talked about."""
        self.certificate: Certificate | None = None
        """The other end's, once it was found to be good."""
        self.refusal: TlsRefused | None = None

    def hear(self, shown: crypto.X509, code: int, depth: int) -> bool:
        """Take what OpenSSL found about one certificate; return whether the handshake goes on."""
        try:
            if code and self.expected.trust is not None:
                raise self._refusal(shown, code, depth)
            if depth == 0 and not code:
                self.judge(shown)
        except TlsRefused as refusal:
            self.refusal = self.refusal or refusal
        return self.refusal is None

    def choose(self, offered: Sequence[bytes]) -> bytes | None:
        """Return which of the protocols that a client offers is to be spoken; None if none."""
        return next((one for one in self.protocols if one in offered), None)

    def judge(self, shown: crypto.X509) -> None:
        """Check the other end's own certificate. Raises TlsRefused."""
        certificate = _decode(shown, self.expected)
        self.expected.judge(certificate)
        self.certificate = certificate

    def _refusal(self, shown: crypto.X509, code: int, depth: int) -> TlsRefused:
        certificate = _decode(shown, self.expected)
        now = datetime.datetime.now(datetime.UTC)
        return self.expected.refusal(code, depth, certificate, now)


def verify_chain(ders: Sequence[bytes], expected: Expected, now: datetime.datetime) -> Certificate:
    """Verify a chain that was shown outside of OpenSSL; return the certificate of the other end.

    Args:
        ders: the certificates as they came, the other end's own one first.
        expected: what it must be.
        now: the present time, for messages.

    Raises:
        TlsRefused: it must not be trusted.
    """
    if not ders:
        text = f"the {expected.usage.value} showed no certificate"
        raise TlsRefused(TlsProblem.MISSING, text)
    certificate = decode_shown(ders[0], expected)
    if expected.trust is not None:
        chain = _verify_by_openssl(ders, expected, expected.trust, now)
        for depth, one in enumerate(chain):
            if code := _find_weakness(one, expected.usage, depth, is_last=depth == len(chain) - 1):
                raise expected.refusal(code, depth, _decode(one, expected), now)
    expected.judge(certificate)
    return certificate


def decode_shown(der: bytes, expected: Expected) -> Certificate:
    """Return what a certificate says that the other end showed. Raises TlsRefused."""
    try:
        return decode_certificate(der)
    except UnusableCertificate as error:
        text = f"the {expected.usage.value}'s certificate cannot be used: {error}"
        raise TlsRefused(TlsProblem.MALFORMED, text) from error


def _verify_by_openssl(
    ders: Sequence[bytes], expected: Expected, trust: Trust, now: datetime.datetime
) -> list[crypto.X509]:
    """Return the whole chain, from the other end's own certificate to the CA that is trusted."""
    try:
        leaf, *others = (
            crypto.X509.from_cryptography(x509.load_der_x509_certificate(der)) for der in ders
        )
    except (*BAD_BYTES, crypto.Error) as error:
        text = f"a certificate of the {expected.usage.value}'s chain is malformed"
        raise TlsRefused(TlsProblem.MALFORMED, text) from error
    try:
        return crypto.X509StoreContext(trust.store, leaf, others).get_verified_chain()
    except crypto.X509StoreContextError as error:
        code, depth, _ = error.errors
        certificate = _decode(error.certificate, expected)
        raise expected.refusal(int(code), int(depth), certificate, now) from error


def _find_weakness(shown: crypto.X509, usage: Usage, depth: int, *, is_last: bool) -> int:
    """Return OpenSSL's error of a certificate that a handshake of OpenSSL would refuse, or 0.

    A chain outside of a handshake is verified for no purpose and at no level of security, and
    pyOpenSSL has no way to ask for them.
    """
    try:
        certificate = shown.to_cryptography()
        usages = decode_certificate(crypto.dump_certificate(crypto.FILETYPE_ASN1, shown)).usages
        digest = certificate.signature_hash_algorithm
        key = certificate.public_key()
        allowed = _key_usage(certificate)
    except (*BAD_BYTES, crypto.Error, UnusableCertificate):
        return UNKNOWN_CODE
    if usages is not None and usage not in usages:
        return WRONG_PURPOSE_CODE
    if depth == 0 and allowed is not None and not _may_shake_hands(allowed, usage):
        return WRONG_PURPOSE_CODE
    if isinstance(key, rsa.RSAPublicKey | dsa.DSAPublicKey) and key.key_size < LEAST_RSA:
        return SHORT_KEY_CODE if depth == 0 else SHORT_CA_KEY_CODE
    if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < LEAST_EC:
        return SHORT_KEY_CODE if depth == 0 else SHORT_CA_KEY_CODE
    # What is trusted is so by itself, whoever has signed it, and however.
    is_weak = digest is not None and digest.digest_size < LEAST_DIGEST
    return WEAK_DIGEST_CODE if is_weak and not is_last else 0


def _key_usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None


def _may_shake_hands(allowed: x509.KeyUsage, usage: Usage) -> bool:
    may_agree = allowed.digital_signature or allowed.key_agreement
    return may_agree or (usage is Usage.SERVER and allowed.key_encipherment)


def without_root(chain: Sequence[crypto.X509], expected: Expected) -> list[bytes]:
    """Return a verified chain without a root in it, which the other end need not have shown.

    Raises:
        TlsRefused: a certificate in it is malformed.
    """
    decoded = [_decode(one, expected) for one in chain]
    return [one.der for depth, one in enumerate(decoded) if not depth or one.issuer != one.subject]


def _decode(shown: crypto.X509, expected: Expected) -> Certificate:
    """Return what a certificate says that OpenSSL holds. Raises TlsRefused."""
    try:
        der = crypto.dump_certificate(crypto.FILETYPE_ASN1, shown)
    except crypto.Error as error:
        # OpenSSL took it in, and finds only when it verifies that it is none.
        text = f"a certificate of the {expected.usage.value}'s chain is malformed"
        raise TlsRefused(TlsProblem.MALFORMED, text) from error
    return decode_shown(der, expected)


def _names_host(certificate: Certificate, host: str) -> bool:
    """Whether a certificate names a host (RFC 6125): a wildcard stands for the first label only.

    The common name does not count, as in receptor.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return any(_matches(pattern, host) for pattern in certificate.dns_names)
    return str(address) in certificate.addresses


def _matches(pattern: str, host: str) -> bool:
    own, wanted = pattern.lower().rstrip("."), host.lower().rstrip(".")
    if not own.startswith("*."):
        return own == wanted
    first, _, rest = wanted.partition(".")
    # A wildcard of a top-level domain would stand for everybody's hosts.
    return bool(first) and own[2:] == rest and "." in rest


def told(moment: datetime.datetime) -> str:
    """Return a moment as messages name it."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
