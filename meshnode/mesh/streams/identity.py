"""What an end of a connection shows; without TLS settings a certificate known to be nobody's."""

import datetime
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

INSECURE_NAME = "netceptor-insecure-common-name"
"""Common name of the certificate that a listener without TLS settings presents, and the only one
that a dialer without TLS settings accepts (protocol section 7)."""

CERTIFICATE_DAYS = 3650
"""Nobody checks how old the throw-away identity is; ten years outlast any node's run."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate, its key, and the certificates between it and its CA."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
    chain: tuple[x509.Certificate, ...] = ()


def make_insecure_identity() -> Identity:
    """Make the self-signed identity of a listener without TLS settings (protocol section 7)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, INSECURE_NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(INSECURE_NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Identity(certificate, key)


def is_insecure(certificate: x509.Certificate) -> bool:
    """Whether a certificate is that of a service without TLS settings (protocol section 7)."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return [n.value for n in names] == [INSECURE_NAME]
