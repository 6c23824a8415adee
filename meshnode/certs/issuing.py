"""Makes keys, certificate authorities, requests and certificates: values, no files.

They are as receptor's: what may be in them, and what is not taken over from a request. A
certificate is for both ends of TLS, since a node that dials one peer lets another dial it.
"""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshnode.config.cert_directives import MAX_COMMON_NAME
from meshnode.errors import UnusableRequest
from meshnode.security.certificates import NODE_ID_OID, encode_node_id
from meshnode.security.tls import PrivateKey

YEARS_OF_CA: Final = 10
"""How long a CA's certificate holds, unless it is said: as in receptor."""

YEARS_OF_NODE: Final = 1
"""How long a certificate that is signed holds."""

LAST: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
"""The last moment that a certificate can name (RFC 5280, 4.1.2.5)."""

_PUBLIC_EXPONENT = 65537

_BOTH_ENDS = x509.ExtendedKeyUsage(
    [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
)


@dataclass(frozen=True, slots=True)
class Names:
    """Whom a certificate is to name."""

    node_ids: Sequence[str] = ()
    dns_names: Sequence[str] = ()
    addresses: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.node_ids or self.dns_names or self.addresses)


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when a certificate is to hold."""

    begins: datetime.datetime
    ends: datetime.datetime


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA that can sign."""

    certificate: x509.Certificate
    key: PrivateKey


def make_key(bits: int | None) -> PrivateKey:
    """Return a new key: RSA of so many bits, or ECDSA P-256."""
    if bits is None:
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(_PUBLIC_EXPONENT, bits)


def make_authority(key: PrivateKey, common_name: str, validity: Validity) -> Authority:
    """Return a CA with its own certificate, which it has signed itself."""
    name = _name(common_name)
    builder = _dated(name, name, key.public_key(), validity)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(_usage(is_ca=True), critical=True)
    return Authority(builder.sign(key, _hash(key)), key)


def make_request(key: PrivateKey, common_name: str, names: Names) -> x509.CertificateSigningRequest:
    """Return a request for a certificate of a key and these names."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(common_name))
    if names:
        found: list[x509.GeneralName] = [x509.DNSName(name) for name in names.dns_names]
        found += [x509.IPAddress(ipaddress.ip_address(one)) for one in names.addresses]
        found += [encode_node_id(node) for node in names.node_ids]
        builder = builder.add_extension(x509.SubjectAlternativeName(found), critical=False)
    return builder.sign(key, _hash(key))


def sign_request(
    request: x509.CertificateSigningRequest, authority: Authority, validity: Validity
) -> x509.Certificate:
    """Return the certificate that a request asks for.

    Subject, key, and the names of :func:`names_taken` come from the request, and nothing else: it
    could ask to be a CA.

    Raises:
        UnusableRequest: it names nobody.
    """
    names = names_taken(request)
    if not names:
        raise UnusableRequest("names no node, host or address, so no certificate is made of it")
    issuer = authority.certificate
    builder = _dated(request.subject, issuer.subject, request.public_key(), validity)
    for extension, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(is_ca=False), True),
        (_BOTH_ENDS, False),
        # Critical if there is nothing else to know its holder by (RFC 5280, 4.2.1.6).
        (x509.SubjectAlternativeName(names), not list(request.subject)),
        (_key_of(issuer), False),
    ):
        builder = builder.add_extension(extension, critical)
    return builder.sign(authority.key, _hash(authority.key))


def names_taken(request: x509.CertificateSigningRequest) -> list[x509.GeneralName]:
    """Return the names of a request that its certificate will have: nodes, hosts, addresses.

    Others, such as mail addresses, mean nothing to nodes, and are not shown to who signs.
    """
    return [name for name in _names(request) if _means_something(name)]


def names_left(request: x509.CertificateSigningRequest) -> int:
    """Return how many names of a request its certificate will not have."""
    return sum(not _means_something(name) for name in _names(request))


def _names(request: x509.CertificateSigningRequest) -> list[x509.GeneralName]:
    try:
        found = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return list(found.value)


def _means_something(name: x509.GeneralName) -> bool:
    if isinstance(name, x509.OtherName):
        return name.type_id == NODE_ID_OID
    return isinstance(name, x509.DNSName | x509.IPAddress)


def lasting(
    begins: datetime.datetime | None,
    ends: datetime.datetime | None,
    years: int,
    now: datetime.datetime,
) -> Validity:
    """Return how long a certificate holds: as given, else from now, and for so many years."""
    return Validity(begins or now, ends or years_after(max(begins or now, now), years))


def years_after(moment: datetime.datetime, years: int) -> datetime.datetime:
    """Return the same day so many years later; 1 March for a 29 February that there is not."""
    if moment.year + years >= LAST.year:
        return LAST
    try:
        return moment.replace(year=moment.year + years)
    except ValueError:
        return moment.replace(year=moment.year + years, month=3, day=1)


def days_after(moment: datetime.datetime, days: int) -> datetime.datetime:
    """Return the moment so many days later, or the last that there is."""
    return LAST if LAST - moment < datetime.timedelta(days) else moment + datetime.timedelta(days)


def shortened(name: str) -> str:
    """Return as much of a name as a common name can have."""
    return name.encode()[:MAX_COMMON_NAME].decode(errors="ignore")


# --- PEM -----------------------------------------------------------------------------------------


def key_pem(key: PrivateKey) -> bytes:
    """Return a private key as text, in the form that receptor can read, too."""
    # Of RSA keys receptor's tool takes PKCS#1 only; of others it knows no form but PKCS#8.
    is_rsa = isinstance(key, rsa.RSAPrivateKey)
    form = PrivateFormat.TraditionalOpenSSL if is_rsa else PrivateFormat.PKCS8
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def public_key_pem(key: PrivateKey) -> bytes:
    """Return the public key of a private one as text."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def pem(made: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    """Return a certificate or request as text."""
    return made.public_bytes(Encoding.PEM)


def key_words(owner: x509.Certificate | x509.CertificateSigningRequest | PrivateKey) -> str:
    """Return what kind of key something has: ``RSA, 2048 bits``, ``ECDSA P-256``."""
    try:
        key = owner.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return "unknown"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA, {key.key_size} bits"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"ECDSA {CURVES.get(key.curve.name, key.curve.name)}"
    return type(key).__name__.removesuffix("PublicKey")


CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
"""What people call the curves that nodes can use."""

_HASHES: Final = {"secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512()}
"""Hashes that are as strong as their curve; with other keys SHA-256 is."""


# --- Parts ---------------------------------------------------------------------------------------


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _dated(
    subject: x509.Name,
    issuer: x509.Name,
    key: object,
    validity: Validity,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)  # type: ignore[arg-type]  # checked by the library
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity.begins)
        .not_valid_after(validity.ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)  # type: ignore[arg-type]
    )


def _key_of(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        found = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found)


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _hash(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None:
    """Return what is signed of; Ed25519 has its own."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _HASHES.get(key.curve.name, hashes.SHA256())  # type: ignore[return-value]
    return hashes.SHA256()
