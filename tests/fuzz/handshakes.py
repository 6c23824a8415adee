"""The target ``handshakes``: ends of streams with TLS that show anything for a certificate."""

import random
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import trio
from cryptography.hazmat.primitives.serialization import Encoding
from hostile import der

from fuzz.certificates import any_chain
from fuzz.engine import Harm, Target
from fuzz.meshworld import GONE, MeshWorld, serve
from meshnode.config.tls_directives import TlsClient, TlsServer
from meshnode.errors import MeshError
from meshnode.mesh.mesh import Mesh, open_mesh
from meshnode.mesh.streams import certified
from meshnode.mesh.streams.identity import Identity
from meshnode.security.tls import OwnCertificate, TlsSettings, load_client, load_server

PRIVATE = "private"
"""The service with TLS, of the victim and of the enemy."""

PATIENCE = 40.0
"""Simulated seconds for a dial of the enemy's or to it."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What the enemy shows, as the listener that the victim dials or as its dialer.

    ``has_key`` is whether it can prove that the first certificate is its own.
    """

    listens: bool
    ders: tuple[bytes, ...]
    has_key: bool


@dataclass(frozen=True, slots=True)
class AnyBytes:
    """What stands for a certificate on the wire."""

    der: bytes

    def public_bytes(self, encoding: Encoding) -> bytes:
        """Return the bytes, whatever they are."""
        return self.der


class HandshakesWorld(MeshWorld):
    """A fourth node, the enemy's: it takes part in the mesh, and shows what it is told to."""

    async def prepare(self, stack: AsyncExitStack) -> None:
        """Join the enemy's node to the victim; both have a service with TLS."""
        place = Path(stack.enter_context(TemporaryDirectory(prefix="mn-fuzz-")))
        self._tls = {node: _settings(place, node) for node in ("victim", "evil")}
        self._shows: Identity | None = None
        original = certified._identity

        def shown(own: OwnCertificate) -> Identity:
            evil = "evil" in own.certificate.node_ids
            return self._shows if evil and self._shows is not None else original(own)

        stack.enter_context(mock.patch.object(certified, "_identity", shown))
        self.evil = await stack.enter_async_context(open_mesh("evil"))
        self.join(self.victim, self.evil)
        for node, mesh in (("victim", self.victim), ("evil", self.evil)):
            server = self._tls[node][0]
            listener = await mesh.listen(PRIVATE, tls=lambda server=server: server)
            self.nursery.start_soon(serve, listener)
        await self.victim.wait_reachable("evil")

    async def feed(self, item: object) -> None:
        """Shake hands once."""
        assert isinstance(item, Shown)
        first, *others = map(AnyBytes, item.ders or (b"",))
        key = der.LEAF if item.has_key else der.ROOT
        self._shows = Identity(first, key, tuple(others))  # type: ignore[arg-type]
        dialer, node = (self.victim, "evil") if item.listens else (self.evil, "victim")
        with suppress(MeshError, *GONE), trio.move_on_after(PATIENCE):
            await self._exchange(dialer, node)
        self._shows = None
        await self.settle()

    async def check(self) -> None:
        """See that those who show what they should still get in."""
        await super().check()
        await self.works("a good certificate", lambda: self._exchange(self.evil, "victim"))
        await self.works("a good listener", lambda: self._exchange(self.victim, "evil"))

    async def _exchange(self, mesh: Mesh, node: str) -> None:
        client = self._tls[mesh.node_id][1]
        stream = await mesh.dial(node, PRIVATE, tls=lambda: client)
        async with stream:
            await stream.send_all(b"x")
            if await stream.receive_some(1) != b"x":
                raise Harm("a stream ended")


def _settings(place: Path, node: str) -> tuple[TlsSettings, TlsSettings]:
    """Return the settings of a node's service and of its dials."""
    files = der.write_files(place, node)
    shows = {"cert": files.cert, "key": files.key}
    serves = TlsServer(name="s", requireclientcert=True, clientcas=files.ca, **shows)
    dials = TlsClient(name="c", rootcas=files.ca, **shows)
    return load_server(serves, node), load_client(dials, node)


class Handshakes(Target):
    """See the module."""

    name = "handshakes"
    about = "QUIC handshakes in which dialer or listener shows any chain of certificates"
    episode = 50
    check_every = 10

    def make(self, chance: random.Random) -> Shown:
        """Return one chain and who shows it."""
        return Shown(chance.random() < 0.5, any_chain(chance, "evil"), chance.random() < 0.8)

    def world(self) -> AbstractAsyncContextManager[HandshakesWorld]:
        """Open the mesh with the enemy's node in it."""
        return HandshakesWorld.open()
