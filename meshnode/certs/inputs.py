"""Reads what certificates are made of: a CA with its key, a request, a key. Each from one file.

Whatever is in a file, the result is a value or an error that names the file and the remedy. A
request is from somebody else: its signature must show that who asks has the key.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from meshnode.certs.issuing import CURVES, Authority, key_words, names_left
from meshnode.certs.outputs import shown
from meshnode.config.cert_directives import LEAST_BITS, MOST_BITS
from meshnode.errors import UnusableCertificate, UnusableKey, UnusableRequest
from meshnode.security.certificates import (
    BAD_BYTES,
    MAX_SHOWN,
    Certificate,
    alternative_names,
    load_certificates,
    shown_name,
)
from meshnode.security.identity import shown_text
from meshnode.security.keys import read_pem
from meshnode.security.tls import PrivateKey, load_key, public_bytes

_BEGINS_REQUEST: Final = ("-----BEGIN CERTIFICATE REQUEST-----", "-----BEGIN NEW CERTIFICATE REQU")

MAX_SHOWN_NAME: Final = 2560
"""Characters of a name that is to be signed: all of it, also if each is shown as its number."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a certificate, as somebody has sent it."""

    path: Path
    value: x509.CertificateSigningRequest
    subject: str
    node_ids: tuple[str, ...]
    dns_names: tuple[str, ...]
    addresses: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """Yield what a person must know who is to sign it, line by line."""
        yield f"Subject: {self.subject or 'none'}"
        yield f"Key: {key_words(self.value)}"
        yield "Names:"
        for kind, names in (
            ("Node ID", self.node_ids),
            ("DNS name", self.dns_names),
            ("IP address", self.addresses),
        ):
            for name in names:
                yield f"  {kind}: {shown_text(name, MAX_SHOWN_NAME)}"
        if left := names_left(self.value):
            yield f"  {left} of other kinds, which the certificate will not have"


def load_request(path: Path) -> Request:
    """Return the request in a file.

    Raises:
        UnusableRequest: there is none, or not one that can be signed.
    """
    try:
        text = read_pem(path, "make one with: meshnode cert request")
    except UnusableKey as error:
        raise UnusableRequest(str(error)) from None
    return read_request(path, text)


def read_request(path: Path, text: str) -> Request:
    """Return the request in a file's text. Raises UnusableRequest."""
    if not any(begin in text for begin in _BEGINS_REQUEST):
        raise UnusableRequest(
            f'{shown(path)} holds no request: no line says "{_BEGINS_REQUEST[0]}" (PEM)'
        )
    try:
        value = x509.load_pem_x509_csr(text.encode())
        nodes, hosts, addresses = alternative_names(value)
        request = Request(path, value, shown_name(value.subject), nodes, hosts, addresses)
        fault = _fault(value)
    except BAD_BYTES as error:
        why = shown_text(str(error) or type(error).__name__, MAX_SHOWN)
        raise UnusableRequest(f"{shown(path)} holds no request that can be read: {why}") from None
    if fault:
        raise UnusableRequest(f"{shown(path)} {fault}")
    return request


def _key_fault(key: object) -> str:
    """Return why nodes cannot use a public key; empty if they can."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return ""
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name in CURVES:
            return ""
        # receptor offers no others in its handshakes.
        return f"has a key of the curve {key.curve.name}; P-256, P-384 and P-521 are allowed"
    if not isinstance(key, rsa.RSAPublicKey):
        return "has a key that is neither RSA, ECDSA nor Ed25519"
    if not LEAST_BITS <= key.key_size <= MOST_BITS:
        return f"has an RSA key of {key.key_size} bits; {LEAST_BITS} to {MOST_BITS} are allowed"
    return ""


def _fault(request: x509.CertificateSigningRequest) -> str:
    """Return why a request must not be signed; empty if it may be. Raises one of BAD_BYTES."""
    if fault := _key_fault(request.public_key()):
        return fault
    if not request.is_signature_valid:
        return "was changed, or not made with the key in it: its signature is wrong"
    return ""


def load_authority(certificate_file: Path, key_file: Path) -> Authority:
    """Return a CA.

    Raises:
        UnusableCertificate, UnusableKey: it is none that could sign; the text says why.
    """
    certificate = load_ca(certificate_file)
    key = load_key_alone(key_file)
    parsed = x509.load_der_x509_certificate(certificate.der)
    if public_bytes(parsed) != public_bytes(key):
        raise UnusableKey(
            f"{shown(key_file)} is not the key of the CA in {shown(certificate_file)} "
            f"({certificate})"
        )
    return Authority(parsed, key)


def load_ca(path: Path) -> Certificate:
    """Return the certificate of a CA that is alone in a file. Raises UnusableCertificate."""
    found = load_certificates(path)
    if len(found) > 1:
        raise UnusableCertificate(
            f"{shown(path)} holds {len(found)} certificates; exactly that of the CA is needed here"
        )
    if not found[0].is_ca:
        raise UnusableCertificate(
            f"{shown(path)} holds no CA but {found[0]}: it may not sign others"
        )
    return found[0]


def load_key_alone(path: Path) -> PrivateKey:
    """Return the one private key in a file. Raises UnusableKey."""
    text = read_pem(path, "make one with: meshnode cert init, or meshnode cert request")
    if (count := text.count("PRIVATE KEY-----") // 2) > 1:
        raise UnusableKey(f"{shown(path)} holds {count} private keys; exactly one is expected")
    key = load_key(path)
    if fault := _key_fault(key.public_key()):
        raise UnusableKey(f"{shown(path)} {fault}")
    return key
