"""Shows what is in files of certificates, and judges a certificate as a node would."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL, crypto

from meshnode.certs.inputs import load_key_alone, read_request
from meshnode.certs.issuing import key_words
from meshnode.certs.outputs import plain, shown
from meshnode.errors import TlsRefused, UnusableCertificate, UnusableKey
from meshnode.security.certificates import (
    MAX_BUNDLE,
    MAX_SHOWN,
    Certificate,
    Usage,
    decode_bundle,
    fingerprint,
    load_certificates,
)
from meshnode.security.identity import shown_text
from meshnode.security.tls import WARNED_AHEAD, PrivateKey, public_bytes, trust_in
from meshnode.security.verification import Expected, told, verify_chain

_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_REQUEST: Final = b"CERTIFICATE REQUEST-----"
_PRIVATE_KEY: Final = b"PRIVATE KEY-----"

_COLUMN = 12
"""Characters of what a line is about."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """As what a certificate is to be good: who must have signed it, and whom it must name."""

    ca: Path
    key: Path | None = None
    node: str = ""
    host: str = ""
    usage: Usage | None = None


def describe(path: Path, now: datetime.datetime) -> list[str]:
    """Return the lines that show what is in a file.

    Raises:
        UnusableCertificate, UnusableRequest, UnusableKey: nothing, or nothing that can be read.
    """
    data, name = _read(path), plain(path)
    lines: list[str] = []
    if _CERTIFICATE in data:
        found = _certificates(path, data)
        for number, certificate in enumerate(found, 1):
            count = f" {number} of {len(found)}" if len(found) > 1 else ""
            lines += [
                f"{name}: certificate{count}",
                *_indented(_of_certificate(certificate, now)),
            ]
    if _REQUEST in data:
        lines += [
            f"{name}: request for a certificate",
            *_indented(read_request(path, data.decode("ascii", "replace")).lines()),
        ]
    if _PRIVATE_KEY in data:
        lines += [f"{name}: private key", *_indented(_of_key(load_key_alone(path)))]
    if not lines:
        raise UnusableCertificate(
            f"{shown(path)} holds no certificate, request or private key (PEM)"
        )
    return lines


def verify(path: Path, wanted: Wanted, now: datetime.datetime) -> str:
    """Return the line that says that a certificate is good.

    Raises:
        TlsRefused: it is not.
        UnusableCertificate, UnusableKey: a file cannot be read, or the key is another's.
    """
    chain = load_certificates(path)
    try:
        trust = trust_in(wanted.ca, SSL.Context(SSL.TLS_METHOD))
    except crypto.Error as error:
        raise UnusableCertificate(f"{shown(wanted.ca)} cannot be trusted: {error}") from error
    usages = list(Usage) if wanted.usage is None else [wanted.usage]
    for usage in usages:
        expected = Expected(usage, trust, host=wanted.host, node=wanted.node)
        try:
            verify_chain([one.der for one in chain], expected, now)
        except TlsRefused as error:
            raise TlsRefused(error.problem, f"{shown(path)} is not good: {error}") from error
    if wanted.key is not None:
        _check_key(path, wanted.key)
    served = " and ".join(f"as a {usage.value}'s" for usage in usages)
    certificate = chain[0]
    return (
        f"{plain(path)}: good {served}; names {certificate.names}; "
        f"holds until {told(certificate.not_after)} ({_left(certificate, now)})"
    )


def _certificates(path: Path, data: bytes) -> tuple[Certificate, ...]:
    """Return those in a file that was read: it may be a pipe, which is read once."""
    try:
        return decode_bundle(data)
    except UnusableCertificate as error:
        raise UnusableCertificate(f"{shown(path)} holds no usable certificate: {error}") from error


def _check_key(path: Path, key_file: Path) -> None:
    """Check that a key is a certificate's. Raises UnusableKey."""
    certificate = x509.load_der_x509_certificate(load_certificates(path)[0].der)
    if public_bytes(certificate) != public_bytes(load_key_alone(key_file)):
        raise UnusableKey(f"{shown(key_file)} is not the key of the certificate in {shown(path)}")


def _left(certificate: Certificate, now: datetime.datetime) -> str:
    left = certificate.not_after - now
    if certificate.not_before > now:
        return "not yet valid"
    if left <= datetime.timedelta(0):
        return "expired"
    words = f"{left.days} days left" if left.days else "less than a day left"
    return f"{words}; renew it" if left <= WARNED_AHEAD else words


def _of_certificate(certificate: Certificate, now: datetime.datetime) -> Iterator[str]:
    yield _line("Subject", certificate.subject or "none")
    yield _line("Issuer", certificate.issuer or "none")
    begins, ends = told(certificate.not_before), told(certificate.not_after)
    yield _line("Valid", f"from {begins} to {ends} ({_left(certificate, now)})")
    for kind, names in (
        ("Node ID", certificate.node_ids),
        ("DNS name", certificate.dns_names),
        ("IP address", certificate.addresses),
    ):
        for name in names:
            yield _line(kind, shown_text(name, MAX_SHOWN))
    yield _line("For", _uses(certificate))
    yield _line("Key", key_words(x509.load_der_x509_certificate(certificate.der)))
    yield _line("SHA-256", fingerprint(certificate.sha256))
    yield _line("SHA-512", fingerprint(certificate.sha512))


def _uses(certificate: Certificate) -> str:
    """Return what a certificate may be used for."""
    ends = [usage for usage in Usage if certificate.may_be(usage)]
    ways = [f"a {usage.value}'s end of TLS" for usage in ends]
    if certificate.is_ca:
        # A CA that does not say so may be an end of TLS, too; it is not meant to.
        ways = ["signing others (CA)", *(ways if certificate.usages is not None else [])]
    return ", ".join(ways) or "nothing here"


def _of_key(key: PrivateKey) -> Iterator[str]:
    yield _line("Key", key_words(key))
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    yield _line("Public key", f"SHA-256 {fingerprint(digest.finalize())}")


def _line(kind: str, text: str) -> str:
    return f"{kind + ':':{_COLUMN}} {text}"


def _indented(lines: Iterator[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _read(path: Path) -> bytes:
    """Return what is in a file, up to a bound. Raises UnusableCertificate."""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BUNDLE + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UnusableCertificate(f"{shown(path)} cannot be read: {reason}") from error
