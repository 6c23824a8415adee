"""Certificates that are nearly right: DER taken apart, changed, written and signed again.

All follows from the source of chance: keys, dates and serial numbers are fixed, and Ed25519 makes
the same signature each time.
"""

import base64
import datetime
import ipaddress
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshnode.security.certificates import encode_node_id

BEGIN = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
END = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)

OCTETS, CONSTRUCTED = 0x04, 0x20
"""The tag of an OCTET STRING, which in extensions holds DER; the bit of what holds elements."""

DEEP = 30
"""Elements within elements that are taken apart: a certificate has ten."""

CONTENTS = (
    *(b"", b"\0", b"\xff", b"\x80", b"\x7f" * 8, b"\x80" + bytes(20), bytes(3000), b"*" * 70_000),
    *(b"*.", b"xn--", b"foo\0.example", "f\u00f6\u00f6".encode(), b"\xed\xa0\x80", b"\x1b[2J\n"),
    *(b"0" * 13 + b"Z", b"99991231235959Z", b"000101000000Z", b"20200230000000Z", b"1.2.3"),
)
"""What stands in place of what an element has."""

TAGS = (0x02, 0x03, 0x04, 0x05, 0x06, 0x0C, 0x13, 0x16, 0x17, 0x18, 0x1E, 0x30, 0x31, 0x80, 0xA0)
TAGS_OF_NAMES = (0xA0, 0x81, 0x82, 0xA3, 0xA4, 0xA5, 0x86, 0x87, 0x88)
"""Of kinds of elements, and of the kinds of names in subjectAltName."""


@dataclass(slots=True)
class Element:
    """One element of DER: its tag, and either bytes or elements."""

    tag: int
    content: bytes = b""
    parts: "list[Element] | None" = None

    @classmethod
    def read(cls, data: bytes, depth: int = DEEP) -> list[Self]:
        """Take bytes apart. Raises ValueError if they are no elements of DER."""
        found = []
        while data:
            tag, content, data = _split(data)
            parts = None
            if depth and content and (tag & CONSTRUCTED or tag == OCTETS):
                try:
                    parts = cls.read(content, depth - 1)
                except ValueError:
                    parts = None
            found.append(cls(tag, content, parts))
        return found

    def write(self) -> bytes:
        """Return the element with right lengths all through."""
        content = self.content if self.parts is None else b"".join(p.write() for p in self.parts)
        return bytes([self.tag]) + length_of(len(content)) + content

    def lists(self) -> "Iterator[list[Element]]":
        """Yield the lists of elements in it, its own first."""
        if self.parts is not None:
            yield self.parts
            for part in self.parts:
                yield from part.lists()

    def copy(self) -> Self:
        """Return a copy that may be changed."""
        return replace(self, parts=None if self.parts is None else [p.copy() for p in self.parts])


def _split(data: bytes) -> tuple[int, bytes, bytes]:
    if len(data) < 2 or data[0] & 0x1F == 0x1F:
        raise ValueError("no element")
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start])
    if start + length > len(data):
        raise ValueError("cut off")
    return data[0], data[start : start + length], data[start + length :]


def length_of(size: int) -> bytes:
    """Return a length as DER writes it."""
    if size < 0x80:
        return bytes([size])
    text = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([0x80 | len(text)]) + text


# --- A CA that signs anything


def _key(number: int) -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.from_private_bytes(number.to_bytes(32))


ROOT, MIDDLE, LEAF = _key(1), _key(2), _key(3)


@dataclass(frozen=True, slots=True)
class Base:
    """A good certificate, and the key of who signed it."""

    der: bytes
    signer: ed25519.Ed25519PrivateKey = field(repr=False)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _made(
    subject: str,
    key: ed25519.Ed25519PrivateKey,
    issuer: str,
    signer: ed25519.Ed25519PrivateKey,
    extensions: Sequence[x509.ExtensionType],
) -> Base:
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(1000 + len(subject))
        .not_valid_before(BEGIN)
        .not_valid_after(END)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return Base(builder.sign(signer, None).public_bytes(Encoding.DER), signer)


_CA = x509.BasicConstraints(ca=True, path_length=None)
_BOTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])


def names(*nodes: str) -> x509.SubjectAlternativeName:
    """Return names of every kind, those of nodes first."""
    return x509.SubjectAlternativeName(
        [
            *map(encode_node_id, nodes),
            x509.DNSName("localhost"),
            x509.DNSName("*.example.org"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.IPAddress(ipaddress.ip_address("::1")),
            x509.RFC822Name("ops@example.org"),
            x509.UniformResourceIdentifier("spiffe://example.org/foo"),
            x509.DirectoryName(_name("directory")),
        ]
    )


CA = _made("Root", ROOT, "Root", ROOT, [_CA])
BETWEEN = _made("Middle", MIDDLE, "Root", ROOT, [_CA])
GOOD = {
    node: _made(node, LEAF, "Middle", MIDDLE, [names(node), _BOTH])
    for node in ("foo", "victim", "evil")
}
STRANGER = _made("stranger", LEAF, "Nobody", LEAF, [names("foo", "evil")])
BASES = (CA, BETWEEN, *GOOD.values(), STRANGER)


def chain(node: str) -> tuple[bytes, ...]:
    """Return what a good end shows."""
    return GOOD[node].der, BETWEEN.der


def pem(ders: Sequence[bytes]) -> bytes:
    """Return certificates as they stand in a file."""
    begin, end = b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n"
    return b"".join(begin + base64.encodebytes(one) + end for one in ders)


@dataclass(frozen=True, slots=True)
class Files:
    """Where a node's certificate, its key and the CA are."""

    cert: Path
    key: Path
    ca: Path


def write_files(place: Path, node: str) -> Files:
    """Write what a node of GOOD needs for TLS below a directory."""
    files = Files(*(place / name for name in (f"{node}.crt", f"{node}.key", "ca.crt")))
    files.cert.write_bytes(pem(chain(node)))
    key = LEAF.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files.key.write_bytes(key)
    files.key.chmod(0o600)
    files.ca.write_bytes(pem([CA.der]))
    return files


# --- Changes


def changed(base: Base, chance: random.Random) -> bytes:
    """Return a certificate with some elements changed; most are signed as if they were good."""
    (whole,) = Element.read(base.der)
    assert whole.parts is not None
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        lists = list(whole.lists())
        # The first ones are what every certificate has, the version among them.
        lists = lists[:4] if chance.random() < 0.3 else lists
        chance.choice(_CHANGES)(chance.choice(lists), chance)
    if chance.random() < 0.8 and len(whole.parts) > 1:
        signature = base.signer.sign(whole.parts[0].write())
        whole.parts[-1] = Element(0x03, b"\0" + signature)
    return whole.write()


def with_node_ids(base: Base, values: Sequence[bytes]) -> bytes:
    """Return a certificate whose node IDs have these bytes for values, well signed."""
    (whole,) = Element.read(base.der)
    body = whole.parts[0] if whole.parts else whole
    oid = encode_node_id("x").type_id
    marker = x509.SubjectAlternativeName([x509.OtherName(oid, b"\x05\0")]).public_bytes()
    (listed,) = Element.read(marker)
    assert listed.parts is not None
    (other,) = listed.parts
    assert other.parts is not None
    for elements in body.lists():
        for element in elements:
            if element.tag == OCTETS and element.parts and element.parts[0].parts is not None:
                inner = element.parts[0].parts
                if inner and inner[0].tag == 0xA0:
                    inner[:1] = [
                        Element(0xA0, parts=[other.parts[0], Element(0xA0, value)])
                        for value in values
                    ]
    assert whole.parts is not None
    whole.parts[-1] = Element(0x03, b"\0" + base.signer.sign(body.write()))
    return whole.write()


def _replace(parts: list[Element], chance: random.Random) -> None:
    if parts:
        content = chance.choice([*CONTENTS, chance.randbytes(chance.randrange(40))])
        place = chance.randrange(len(parts))
        parts[place] = Element(parts[place].tag, content)


def _retag(parts: list[Element], chance: random.Random) -> None:
    if parts:
        chance.choice(parts).tag = chance.choice([*TAGS, *TAGS_OF_NAMES])


def _remove(parts: list[Element], chance: random.Random) -> None:
    if parts:
        del parts[chance.randrange(len(parts))]


def _double(parts: list[Element], chance: random.Random) -> None:
    if parts:
        place = chance.randrange(len(parts))
        times = chance.choice([1, 1, 2, 30, 300])
        parts[place:place] = [parts[place].copy() for _ in range(times)]


def _swap(parts: list[Element], chance: random.Random) -> None:
    chance.shuffle(parts)


def _nest(parts: list[Element], chance: random.Random) -> None:
    if parts:
        place = chance.randrange(len(parts))
        data = parts[place].write()
        for _ in range(chance.choice([1, 5, 200])):
            data = b"\x30" + length_of(len(data)) + data
        parts[place] = Element(chance.choice(TAGS), data)


def _bit(parts: list[Element], chance: random.Random) -> None:
    bare = [part for part in parts if part.parts is None and part.content]
    if bare:
        part = chance.choice(bare)
        content = bytearray(part.content)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        part.content = bytes(content)


_CHANGES: tuple[Callable[[list[Element], random.Random], None], ...] = (
    *(_replace, _retag, _remove, _double, _swap, _nest, _bit, _bit),
)
