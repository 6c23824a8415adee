"""The directives of certificates: each makes files once, and no node is started.

Names, parameters and their meaning are receptor's, but for ``force``: receptor overwrites files.
Without ``bits`` a new key is ECDSA P-256, for which receptor has no way to ask.
"""

import datetime
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from meshnode.config.faults import FaultLog, quote
from meshnode.config.kinds import Kind, boolean, list_of, node_id, path, scalar_text, text, whole
from meshnode.config.names import Wrong
from meshnode.config.schema import Directive, directive, parameter
from meshnode.config.tls_directives import optional_file

SECTION: Final = "Certificates"
"""The heading under which help lists these directives."""

LEAST_BITS: Final = 2048
"""Bits of an RSA key: OpenSSL refuses certificates with shorter ones as too weak."""

MOST_BITS: Final = 8192
"""Bits of an RSA key: receptor verifies no signature of a longer one."""

MAX_COMMON_NAME: Final = 64
"""Bytes of a common name (X.520)."""

MAX_DNS_NAME: Final = 253
"""Characters of a host name."""

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*\.?")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)")

YEARS: Final = range(1950, 10000)
"""Years that a certificate can name (RFC 5280, 4.1.2.5)."""


def check_common_name(value: str) -> str:
    """Return a common name. Raises Wrong if no certificate can have it."""
    if not value or not value.isprintable():
        raise Wrong(f"{quote(value)} is no common name: it is empty, or has control characters")
    if (length := len(value.encode())) > MAX_COMMON_NAME:
        raise Wrong(f"{quote(value)} is {length} bytes long; a common name has {MAX_COMMON_NAME}")
    return value


def check_dns_name(value: str) -> str:
    """Return the name of a host, or of all hosts of a domain. Raises Wrong if it is none."""
    if is_address(value):
        raise Wrong(f"{quote(value)} is an IP address; it is no DNS name but an address of its own")
    if not value.isascii():
        raise Wrong(f"{quote(value)} is not ASCII; write it as DNS has it: xn--…")
    if len(value) > MAX_DNS_NAME or not _DNS_NAME.fullmatch(value):
        raise Wrong(f"{quote(value)} is not a DNS name such as foo.example.org or *.example.org")
    return value


def check_address(value: str) -> str:
    """Return an IP address in its usual form. Raises Wrong if it is none."""
    if not is_address(value):
        raise Wrong(f"{quote(value)} is not an IP address such as 10.0.0.7 or 2001:db8::7")
    return str(ipaddress.ip_address(value))


def is_address(value: str) -> bool:
    """Whether a text is an IP address; one with a zone is of one machine only, and is none."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return "%" not in value


def _moment() -> Kind[datetime.datetime | None]:
    label = "time such as 2027-01-31T00:00:00Z (RFC 3339)"

    def read(node: yaml.Node) -> datetime.datetime | None:
        value = scalar_text(node, label)
        if not value:
            return None
        return read_moment(value, label)

    return Kind(label, read)


def read_moment(value: str, label: str) -> datetime.datetime:
    """Return the moment that a text names, in UTC and whole seconds. Raises Wrong."""
    try:
        if not _MOMENT.fullmatch(value):
            raise ValueError(value)
        moment = datetime.datetime.fromisoformat(value).astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        raise Wrong(f"{quote(value)} is not a {label}") from None
    if moment.year not in YEARS:
        raise Wrong(f"{quote(value)}: a certificate names years from {YEARS[0]} to {YEARS[-1]}")
    return moment.replace(microsecond=0)


COMMON_NAME: Final = text("common name", check_common_name)
DNS_NAME: Final = text("DNS name", check_dns_name)
IP_ADDRESS: Final = text("IP address", check_address)
MOMENT: Final = _moment()
BITS: Final = whole(LEAST_BITS, MOST_BITS)
NODE_ID: Final = node_id()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class CertDirective(Directive):
    """Base of the directives that make files of certificates."""

    force: bool = parameter(boolean(), "replace files that are there already", default=False)


@directive(
    "cert-init",
    "Make a certificate authority (CA): its key, and its certificate.",
    section=SECTION,
    example=(
        ("commonname", "test CA"),
        ("outcert", "ca.crt"),
        ("outkey", "ca.key"),
    ),
)
class CertInit(CertDirective):
    """A new CA."""

    commonname: str = parameter(COMMON_NAME, "name of the CA")
    outcert: Path = parameter(path("file"), "file to write its certificate to")
    outkey: Path = parameter(path("file"), "file to write its private key to; keep it safe")
    bits: int | None = parameter(
        BITS, "length of an RSA key", default=None, default_text="no RSA key, but ECDSA P-256"
    )
    notbefore: datetime.datetime | None = parameter(
        MOMENT, "when the certificate begins to hold", default=None, default_text="now"
    )
    notafter: datetime.datetime | None = parameter(
        MOMENT, "when it ends", default=None, default_text="in ten years"
    )


@directive(
    "cert-makereq",
    "Make a request for a certificate, and the key that the certificate will be for.",
    section=SECTION,
    example=(
        ("commonname", "foo"),
        ("nodeid", "foo"),
        ("outreq", "foo.csr"),
        ("outkey", "foo.key"),
    ),
)
class CertMakereq(CertDirective):
    """A new request."""

    commonname: str = parameter(COMMON_NAME, "name of the certificate's holder")
    outreq: Path = parameter(path("file"), "file to write the request to")
    nodeid: tuple[str, ...] = parameter(
        list_of(NODE_ID, "list of node IDs"),
        "nodes whose certificate it is",
        default=(),
        default_text="none",
    )
    dnsname: tuple[str, ...] = parameter(
        list_of(DNS_NAME, "list of DNS names"),
        "names under which others dial the host",
        default=(),
        default_text="none",
    )
    ipaddress: tuple[str, ...] = parameter(
        list_of(IP_ADDRESS, "list of IP addresses"),
        "addresses under which others dial the host",
        default=(),
        default_text="none",
    )
    bits: int | None = parameter(
        BITS, "length of a new RSA key", default=None, default_text="no RSA key, but ECDSA P-256"
    )
    outkey: Path | None = parameter(
        optional_file(), "file to write a new private key to", default=None, default_text="none"
    )
    inkey: Path | None = parameter(
        optional_file(),
        "file of a private key that there is already, in place of outkey",
        default=None,
        default_text="none",
    )


@directive(
    "cert-signreq",
    "Sign a request with a CA: that makes the certificate.",
    section=SECTION,
    example=(
        ("req", "foo.csr"),
        ("cacert", "ca.crt"),
        ("cakey", "ca.key"),
        ("outcert", "foo.crt"),
    ),
)
class CertSignreq(CertDirective):
    """A request to be signed."""

    req: Path = parameter(path("file"), "file of the request")
    cacert: Path = parameter(path("file"), "file of the CA's certificate")
    cakey: Path = parameter(path("file"), "file of the CA's private key")
    outcert: Path = parameter(path("file"), "file to write the certificate to")
    verify: bool = parameter(
        boolean(), "sign without showing the request and asking", default=False
    )
    notbefore: datetime.datetime | None = parameter(
        MOMENT, "when the certificate begins to hold", default=None, default_text="now"
    )
    notafter: datetime.datetime | None = parameter(
        MOMENT, "when it ends", default=None, default_text="in a year, or with the CA"
    )


CERT_DIRECTIVES: Final[tuple[type[CertDirective], ...]] = (CertInit, CertMakereq, CertSignreq)
"""In the order in which those of one configuration are done, wherever they stand in it."""


def check_errands(typed: Iterable[CertDirective], faults: FaultLog) -> None:
    """Note parameters that do not go together."""
    for one in typed:
        if isinstance(one, CertMakereq):
            _check_keys(one, faults)
        elif isinstance(one, CertInit | CertSignreq):
            _check_dates(one, faults)


def _check_keys(one: CertMakereq, faults: FaultLog) -> None:
    name = one.INFO.name
    if one.inkey is None and one.outkey is None:
        text = "needs outkey, the file for a new key, or inkey, the file of one that there is"
        faults.add(one.origin.place, name, text=text)
    if one.inkey is not None and one.outkey is not None:
        text = "cannot stand beside outkey: the key is read, or a new one is made"
        faults.add(one.place_of("inkey"), name, "inkey", text=text)
    if one.inkey is not None and one.bits is not None:
        text = "is the length of a new key; the one in inkey has its length"
        faults.add(one.place_of("bits"), name, "bits", text=text)


def _check_dates(one: CertInit | CertSignreq, faults: FaultLog) -> None:
    if one.notbefore and one.notafter and one.notafter <= one.notbefore:
        text = "is not after notbefore: the certificate would never hold"
        faults.add(one.place_of("notafter"), one.INFO.name, "notafter", text=text)
