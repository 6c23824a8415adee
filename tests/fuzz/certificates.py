"""The target ``certificates``: chains of certificates, as files and as the other end's."""

import datetime
import random
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from hostile import der
from OpenSSL import SSL

from fuzz import mutate
from fuzz.engine import Target
from fuzz.functions import FunctionWorld, check_line, must
from meshnode.errors import TlsRefused, UnusableCertificate
from meshnode.security.certificates import (
    Certificate,
    Usage,
    decode_bundle,
    decode_certificate,
)
from meshnode.security.tls import trust_in
from meshnode.security.verification import Expected, verify_chain

NOW = datetime.datetime(2026, 11, 26, tzinfo=datetime.UTC)

NODE_IDS = (b"\x0c\x03foo", b"\x0c\x81\x03foo", b"\x0c\x80", b"\x0c\x84\xff\xff\xff\xff", b"\x0c\0")
"""Values of node IDs: right, and of wrong or strange lengths."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Certificates in their order, and what becomes of them as a file."""

    ders: tuple[bytes, ...]
    damage: int | None


class CertificatesWorld(FunctionWorld):
    """A node that trusts one CA, and expects ``foo``."""

    def prepare(self, stack: AsyncExitStack) -> None:
        """Trust the CA."""
        place = Path(stack.enter_context(TemporaryDirectory(prefix="mn-fuzz-"))) / "ca.crt"
        place.write_bytes(der.pem([der.CA.der]))
        trust = trust_in(place, SSL.Context(SSL.TLS_METHOD))
        self._expected = [Expected(usage, trust, node="foo", host="localhost") for usage in Usage]

    def call(self, item: object) -> None:
        """Read them one by one, as a file, and as a chain."""
        assert isinstance(item, Chain)
        for one in item.ders:
            try:
                check_certificate(decode_certificate(one))
            except UnusableCertificate as error:
                check_line(str(error))
        text = der.pem(item.ders)
        if item.damage is not None:
            text = mutate.damaged(text, random.Random(item.damage))
        with suppress(UnusableCertificate):
            for found in decode_bundle(text):
                check_certificate(found)
        for expected in self._expected:
            try:
                shown = verify_chain(item.ders, expected, NOW)
            except TlsRefused as refusal:
                check_line(str(refusal))
            else:
                must("foo" in shown.node_ids, "a chain was taken that does not name the node")
                must(shown.may_be(expected.usage), "a chain was taken for what it may not be")

    def try_good(self) -> None:
        """Verify a good chain."""
        for expected in self._expected:
            must(verify_chain(der.chain("foo"), expected, NOW).node_ids == ("foo",), "a good chain")


def check_certificate(found: Certificate) -> None:
    """See that what a certificate says can be shown. Raises Harm."""
    for text in (str(found), found.subject, found.issuer, found.names):
        check_line(text)
    for node in found.node_ids:
        must(0 < len(node) <= 255, "a node ID is empty or too long")
        node.encode()


def one_der(chance: random.Random) -> bytes:
    """Return a certificate, or something near one."""
    base = chance.choice(der.BASES)
    return mutate.choose(
        chance,
        [
            (6, lambda: der.changed(base, chance)),
            (2, lambda: der.with_node_ids(der.GOOD["foo"], _node_ids(chance))),
            (3, lambda: base.der),
            (1, lambda: mutate.damaged(base.der, chance)),
            (1, lambda: chance.randbytes(chance.choice([0, 1, 40, 2000]))),
        ],
    )


def _node_ids(chance: random.Random) -> list[bytes]:
    values = []
    for _ in range(chance.choice([1, 1, 2, 300])):
        text = mutate.text(chance)[:3000].encode(errors="surrogatepass")
        made = b"\x0c" + der.length_of(len(text)) + text
        values.append(chance.choice([made, made, *NODE_IDS, mutate.damaged(made, chance)]))
    return values


def any_chain(chance: random.Random, node: str) -> tuple[bytes, ...]:
    """Return a chain: mostly that of a node with one of its certificates replaced."""
    found = list(der.chain(node))
    if chance.random() < 0.9:
        found[chance.randrange(len(found))] = one_der(chance)
    for _ in range(chance.choice([0, 0, 0, 1, 3, 30])):
        found.insert(chance.randrange(len(found) + 1), one_der(chance))
    if chance.random() < 0.05:
        found = [one_der(chance)] * chance.choice([0, 1, 100])
    return tuple(found)


class Certificates(Target):
    """See the module."""

    name = "certificates"
    about = "certificates, otherNames and chains, most of them well signed"

    def make(self, chance: random.Random) -> Chain:
        """Return one chain."""
        damage = chance.randrange(1 << 30) if chance.random() < 0.3 else None
        return Chain(any_chain(chance, "foo"), damage)

    def world(self) -> AbstractAsyncContextManager[CertificatesWorld]:
        """Open a world without a mesh."""
        return CertificatesWorld.open()
