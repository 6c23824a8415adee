"""A certificate as a value: whom it names, how long it holds, and its fingerprints.

Decoding is total. Certificates come from files that anybody may have made, and from peers before
they are trusted: whatever the bytes are, the result is a :class:`Certificate` or
:class:`UnusableCertificate`.

Node IDs stand in subjectAltName as otherName with an object identifier of receptor's (protocol
section 9).
"""

import datetime
import enum
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from meshnode.errors import UnusableCertificate
from meshnode.security.identity import MAX_NODE, MAX_SUBJECT, shown_text

NODE_ID_OID: Final = ObjectIdentifier("1.3.6.1.4.1.2312.19.1")
"""What marks an otherName as a node ID."""

MAX_CERTIFICATE: Final = 64 * 1024
"""Bytes of one certificate: with the 100 names of a large site it has 5 KiB."""

MAX_BUNDLE: Final = 4 * 1024 * 1024
"""Bytes of a file of certificates: those of all public CAs have 250 KiB."""

MAX_SHOWN: Final = 200
"""Characters of a subject or list of names in a message."""

LONGEST_ESCAPE: Final = 10
"""Characters for one that is not printable."""

_UTF8_STRING = 0x0C
"""The tag of a UTF8String (X.680), which a node ID is."""

_LONG_FORM = 0x80
"""The bit of a length that says that the length is in so many further bytes (X.690, 8.1.3.5)."""


_BEGIN: Final = b"-----BEGIN"
_END_OF_BLOCK: Final = re.compile(rb"-----END [A-Z0-9 ]{1,60}-----")


class Usage(enum.Enum):
    """What a certificate may be used for, as far as that matters here."""

    SERVER = "server"
    CLIENT = "client"


_USAGES = {
    ExtendedKeyUsageOID.SERVER_AUTH: frozenset({Usage.SERVER}),
    ExtendedKeyUsageOID.CLIENT_AUTH: frozenset({Usage.CLIENT}),
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE: frozenset(Usage),
}

BAD_BYTES = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises of bytes that are no certificate, or a malformed one."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says; nothing of it is proved by that.

    Attributes:
        der: the certificate itself.
        subject: and ``issuer``, as one printable line each.
        not_before: when it begins to hold, and ``not_after``, when it ends.
        node_ids: the nodes that it names.
        dns_names: the hosts that it names; ``addresses`` are IP addresses.
        usages: what it may be used for; None if it does not say.
        is_ca: whether it may sign others.
    """

    der: bytes = field(repr=False)
    subject: str
    issuer: str
    not_before: datetime.datetime
    not_after: datetime.datetime
    node_ids: tuple[str, ...]
    dns_names: tuple[str, ...]
    addresses: tuple[str, ...]
    usages: frozenset[Usage] | None
    is_ca: bool

    @property
    def sha256(self) -> bytes:
        """The SHA-256 fingerprint."""
        return hashlib.sha256(self.der).digest()

    @property
    def sha512(self) -> bytes:
        """The SHA-512 fingerprint."""
        return hashlib.sha512(self.der).digest()

    @property
    def names(self) -> str:
        """All names in it, for a message: ``node foo, foo.example.org, 10.0.0.7``."""
        nodes = [f"node {node}" for node in self.node_ids]
        found = ", ".join((*nodes, *self.dns_names, *self.addresses))
        return shown_text(found, MAX_SHOWN) if found else "none"

    def may_be(self, usage: Usage) -> bool:
        """Whether it may be used as a server's, or a client's."""
        return self.usages is None or usage in self.usages

    def __str__(self) -> str:
        subject = shown_text(self.subject, MAX_SHOWN)
        return subject or f"without a subject, SHA-256 {fingerprint(self.sha256)}"


def decode_certificate(der: bytes) -> Certificate:
    """Return what a certificate in DER says.

    Raises:
        UnusableCertificate: the bytes are no certificate, or one that cannot be understood.
    """
    if len(der) > MAX_CERTIFICATE:
        raise UnusableCertificate(f"it has {len(der)} bytes of at most {MAX_CERTIFICATE}")
    try:
        return _described(x509.load_der_x509_certificate(der))
    except BAD_BYTES as error:
        raise UnusableCertificate(_why(error)) from error


def decode_bundle(data: bytes) -> tuple[Certificate, ...]:
    """Return the certificates of a PEM text, in its order: at least one.

    Raises:
        UnusableCertificate: there is none, or one of them cannot be understood.
    """
    if len(data) > MAX_BUNDLE:
        raise UnusableCertificate(f"more than {MAX_BUNDLE} bytes")
    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise UnusableCertificate('no line says "-----BEGIN CERTIFICATE-----" (PEM)')
    if _is_cut(data):
        raise UnusableCertificate("it ends within a block of PEM; copy it again")
    try:
        return tuple(map(_described, x509.load_pem_x509_certificates(data)))
    except BAD_BYTES as error:
        raise UnusableCertificate(_why(error)) from error


def _is_cut(data: bytes) -> bool:
    """Whether a PEM text ends within a block. The library takes those before it, and says nothing.

    Half a file of CAs would be less than what is to be trusted.
    """
    rest = _END_OF_BLOCK.split(data)[-1]
    lines = (line.strip() for line in rest.splitlines())
    return any(line.startswith(_BEGIN) or (line and _BEGIN.startswith(line)) for line in lines)


def load_certificates(path: Path) -> tuple[Certificate, ...]:
    """Return the certificates in a PEM file: a node's own one, then its CAs; or CAs.

    Raises:
        UnusableCertificate: the text names the file, what is wrong, and the remedy.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BUNDLE + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UnusableCertificate(f'"{path}" cannot be read: {reason}') from error
    try:
        return decode_bundle(data)
    except UnusableCertificate as error:
        raise UnusableCertificate(f'"{path}" holds no usable certificate: {error}') from error


def fingerprint(digest: bytes) -> str:
    """Return a fingerprint as openssl writes it: ``E6:9B:98``."""
    return digest.hex(":").upper()


def encode_node_id(node: str) -> x509.OtherName:
    """Return the name of a node as it stands in a certificate."""
    text = node.encode()
    length = len(text)
    if length < _LONG_FORM:
        head = bytes([length])
    else:
        size = (length.bit_length() + 7) // 8
        head = bytes([_LONG_FORM | size]) + length.to_bytes(size, "big")
    return x509.OtherName(NODE_ID_OID, bytes([_UTF8_STRING]) + head + text)


def _described(certificate: x509.Certificate) -> Certificate:
    """Return what a certificate says. Raises one of ``BAD_BYTES``."""
    nodes, hosts, addresses = alternative_names(certificate)
    return Certificate(
        der=certificate.public_bytes(Encoding.DER),
        subject=_whole_name(certificate.subject),
        issuer=shown_name(certificate.issuer),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        node_ids=nodes,
        dns_names=hosts,
        addresses=addresses,
        usages=_usages(certificate),
        is_ca=_is_ca(certificate),
    )


def _whole_name(name: x509.Name) -> str:
    """Return a subject as one printable line, with all that is in it. Raises ValueError.

    Access rules go by it: if it were cut, two would be the same.
    """
    text = name.rfc4514_string()
    line = shown_text(text, LONGEST_ESCAPE * len(text))
    if len(line) > MAX_SUBJECT:
        raise ValueError(f"its subject has {len(line)} characters of at most {MAX_SUBJECT}")
    return line


def shown_name(name: x509.Name) -> str:
    """Return a subject or issuer as one printable line."""
    return shown_text(name.rfc4514_string(), MAX_SHOWN)


def alternative_names(
    certificate: x509.Certificate | x509.CertificateSigningRequest,
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return node IDs, host names and addresses. Raises one of ``BAD_BYTES``."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return (), (), ()
    nodes = tuple(
        _node_id(other.value)
        for other in names.get_values_for_type(x509.OtherName)
        if other.type_id == NODE_ID_OID
    )
    hosts = tuple(names.get_values_for_type(x509.DNSName))
    addresses = tuple(str(address) for address in names.get_values_for_type(x509.IPAddress))
    return nodes, hosts, addresses


def _node_id(value: bytes) -> str:
    """Return the text of a UTF8String in DER. Raises ValueError if it is none, or no name."""
    if len(value) < 2 or value[0] != _UTF8_STRING:
        raise ValueError("a node ID in it is not a UTF8String")
    length, start = value[1], 2
    if length & _LONG_FORM:
        start += length & ~_LONG_FORM
        length = int.from_bytes(value[2:start], "big")
    text = value[start:]
    if not text or len(text) != length:
        raise ValueError("the length of a node ID in it is wrong")
    node = text.decode("utf-8")
    if len(node) > MAX_NODE:
        raise ValueError(f"a node ID in it has {len(node)} characters of at most {MAX_NODE}")
    return node


def _usages(certificate: x509.Certificate) -> frozenset[Usage] | None:
    try:
        listed = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return None
    nothing: frozenset[Usage] = frozenset()
    return nothing.union(*(_USAGES.get(oid, nothing) for oid in listed))


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _why(error: Exception) -> str:
    return shown_text(f"it is malformed: {error or type(error).__name__}", MAX_SHOWN)
