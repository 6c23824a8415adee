"""Certificate authorities and certificates for tests, good and bad."""

import datetime
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from meshnode.config.tls_directives import TlsClient, TlsServer
from meshnode.security.certificates import encode_node_id
from meshnode.security.tls import TlsSettings, load_client, load_server

DAY = datetime.timedelta(days=1)
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True)
class Made:
    """A certificate, its key, and the certificates between it and its root."""

    certificate: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        certificates = (self.certificate, *self.chain)
        return b"".join(c.public_bytes(Encoding.PEM) for c in certificates)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Write certificate and key to files and return their paths."""
        certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
        certificate.write_bytes(self.pem)
        key.write_bytes(self.key_pem)
        key.chmod(0o600)
        return certificate, key


@dataclass(frozen=True)
class Wanted:
    """What a certificate is to say."""

    nodes: Sequence[str] = ()
    hosts: Sequence[str] = ("localhost",)
    addresses: Sequence[str] = ("127.0.0.1",)
    usages: Sequence[ObjectIdentifier] | None = (SERVER, CLIENT)
    begins: datetime.timedelta = -DAY
    ends: datetime.timedelta = 365 * DAY
    extra_names: Sequence[x509.GeneralName] = ()
    key: CertificateIssuerPrivateKeyTypes | None = None
    """Its key; without one it gets a new one of the ordinary kind."""


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """A CA that signs what it is asked to."""

    def __init__(
        self,
        title: str = "Test CA",
        *,
        above: "Authority | None" = None,
        ends: datetime.timedelta = 3650 * DAY,
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        signer = above or self
        self._name = name(title)
        builder = _dated(self._name, self.key, -10 * DAY, ends)
        builder = builder.issuer_name(signer._name)
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        builder = builder.add_extension(constraints, critical=True)
        self.certificate = builder.sign(signer.key, hashes.SHA256())
        self.above = above

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        return () if self.above is None else (self.certificate, *self.above.chain)

    def write(self, directory: Path, filename: str = "ca") -> Path:
        path = directory / f"{filename}.crt"
        path.write_bytes(self.pem)
        return path

    def issue(self, title: str, wanted: Wanted | None = None, **changes: object) -> Made:
        """Return a certificate of a name; ``changes`` are fields of :class:`Wanted`."""
        wanted = replace(wanted or Wanted(), **changes)  # type: ignore[arg-type]
        key = wanted.key or ec.generate_private_key(ec.SECP256R1())
        builder = _dated(name(title), key, wanted.begins, wanted.ends).issuer_name(self._name)
        names: list[x509.GeneralName] = [encode_node_id(node) for node in wanted.nodes]
        names += [x509.DNSName(host) for host in wanted.hosts]
        names += [x509.IPAddress(ipaddress.ip_address(a)) for a in wanted.addresses]
        names += wanted.extra_names
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if wanted.usages is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(wanted.usages), critical=False)
        return Made(builder.sign(self.key, hashes.SHA256()), key, self.chain)


def _dated(
    subject: x509.Name,
    key: CertificateIssuerPrivateKeyTypes,
    begins: datetime.timedelta,
    ends: datetime.timedelta,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
    )


@dataclass(frozen=True)
class Ends:
    """What a server and a client of a link use."""

    server: TlsSettings
    client: TlsSettings


def ends(
    server: Made | None = None,
    client: Made | None = None,
    *,
    of_server: Mapping[str, object] = MappingProxyType({}),
    of_client: Mapping[str, object] = MappingProxyType({}),
    shows_none: bool = False,
) -> Ends:
    """Return the settings of two ends that trust the shared CA, each with a certificate.

    ``of_server`` and ``of_client`` are further parameters of their directives; with ``shows_none``
    the client has no certificate.
    """
    with TemporaryDirectory() as name:
        directory = Path(name)
        ca = authority().write(directory)
        cert, key = (server or authority().issue("server", nodes=["foo"])).write(directory, "s")
        asks = {"requireclientcert": True, "clientcas": ca} | dict(of_server)
        serving = TlsServer(name="s", cert=cert, key=key, skipreceptornamescheck=True, **asks)  # type: ignore[arg-type]
        shown: dict[str, Path] = {}
        if not shows_none:
            made = client or authority().issue("client", nodes=["bar"])
            shown = dict(zip(("cert", "key"), made.write(directory, "c"), strict=True))
        trusts = {"rootcas": ca} | shown | dict(of_client)
        asking = TlsClient(name="c", skipreceptornamescheck=True, **trusts)  # type: ignore[arg-type]
        return Ends(load_server(serving, "foo"), load_client(asking, "bar"))


@cache
def good_ends() -> Ends:
    """Return the settings of two ends that trust each other."""
    return ends()


@cache
def nameless_ends() -> Ends:
    """Return the settings of two ends that trust each other; their certificates name no node."""
    return ends(authority().issue("server"), authority().issue("client"))


@cache
def authority() -> Authority:
    """Return the CA that tests share."""
    return Authority()


@cache
def other_authority() -> Authority:
    """Return a CA of the same kind that nobody trusts."""
    return Authority("Other CA")
