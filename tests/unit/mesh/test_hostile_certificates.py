"""Ends that show anything for a certificate: it costs their connection, and nothing else."""

import logging
from dataclasses import dataclass
from unittest import mock

import hypothesis
import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import strategies as st
from mesh_helpers import line
from tls_makers import authority, good_ends, other_authority

from meshnode.errors import MeshError
from meshnode.mesh.streams.certified import Judge
from meshnode.mesh.streams.identity import Identity
from meshnode.security.tls import Usage

GOOD = {
    Usage.SERVER: authority().issue("foo", nodes=["foo"]),
    Usage.CLIENT: authority().issue("bar", nodes=["bar"]),
}

KEY = ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True)
class Shown:
    """What stands for a certificate on the wire."""

    der: bytes

    def public_bytes(self, encoding: Encoding) -> bytes:
        return self.der


def cut(der: bytes, at: int, byte: int) -> bytes:
    changed = bytearray(der)
    changed[at % len(der)] = byte
    return bytes(changed)


REAL = st.sampled_from(
    [made.der for made in GOOD.values()]
    + [other_authority().issue("eve", nodes=["foo", "bar"]).der]
    + [authority().certificate.public_bytes(Encoding.DER)]
)

ONE = st.one_of(
    REAL,
    st.binary(max_size=100),
    st.just(b""),
    st.builds(cut, REAL, st.integers(0, 2000), st.integers(0, 255)),
    st.builds(lambda der, more: der + more, REAL, st.binary(min_size=1, max_size=20)),
    st.integers(1, 20_000).map(bytes),
)

CHAINS = st.lists(ONE, min_size=1, max_size=6)


async def check(side: Usage, chain: list[bytes], has_key: bool) -> None:
    """Have one end show a chain, and another dial go on as if nothing had been."""
    tls = good_ends()
    made = Judge.__init__
    hostile = [True]

    def show(self, settings, node):
        made(self, settings, node)
        if hostile and settings.usage is side:
            first, *others = map(Shown, chain)
            key = GOOD[side].key if has_key else KEY
            self.shows = Identity(first, key, tuple(others))

    async with line("bar", "foo") as (bar, foo):
        listener = await foo.listen("svc", tls=lambda: tls.server)
        with mock.patch.object(Judge, "__init__", show):
            with pytest.raises(MeshError):
                await bar.dial("foo", "svc", lambda: tls.client)
            hostile.clear()
            near = await bar.dial("foo", "svc", lambda: tls.client)
            far = await listener.accept()
            await near.send_all(b"x")
            assert await far.receive_some() == b"x"
            await trio.sleep(5)
            assert len(foo._streams.connections) == 1
            assert len(bar._streams.connections) == 1


@hypothesis.settings(max_examples=30)
@hypothesis.given(st.sampled_from(list(Usage)), CHAINS, st.booleans())
def test_whatever_is_shown_costs_its_connection_only(side, chain, has_key):
    if has_key and chain[0] == GOOD[side].der:
        has_key = False
    failures = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            failures.append(record.getMessage())

    ear, log = Ear(logging.ERROR), logging.getLogger("meshnode")
    log.addHandler(ear)
    try:
        trio.run(check, side, chain, has_key, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        log.removeHandler(ear)
    assert failures == []
