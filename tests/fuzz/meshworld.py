"""Three honest nodes in a line, left, victim and right, and an enemy that is linked to one."""

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self

import trio
import trio.testing
from hostile import forge

from fuzz.engine import Harm, World
from meshnode.errors import MeshError
from meshnode.mesh.links.memory import MemoryLink, memory_link_pair
from meshnode.mesh.mesh import Mesh, open_mesh
from meshnode.mesh.streams.stream import MeshStream
from meshnode.protocol.framing import MAX_MESSAGE
from meshnode.protocol.messages import MessageType
from meshnode.protocol.namehash import name_hash

PEER_HASH = b"@PEERHSH"
"""Stands in messages for the 8 bytes of the sender's name."""

A_SECOND = 1 << 24
"""By so much are the epochs of two nodes apart that start a second apart."""

GONE = (trio.BrokenResourceError, trio.ClosedResourceError)

ECHO = "control"
"""The stream service that each honest node has."""

GREETING = b"there and back"

_MARK = re.compile(rb"@(PEER|DIALER|ID|EPOCH|LATER|SEQ|NOW|SOON)@")
"""What stands in messages for values that are only known when they are sent."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What the enemy sends in one go, and to whom."""

    to: str
    messages: tuple[bytes, ...]


class EvilLink:
    """The enemy's end of an established link."""

    def __init__(self, link: MemoryLink, name: str) -> None:
        self.link = link
        self.name = name
        self.is_over = False
        self.on_message: Callable[[bytes], None] = lambda message: None

    async def read(self) -> None:
        """Read until the other end closes."""
        with suppress(*GONE):
            while batch := await self.link.receive():
                for message in batch:
                    self.on_message(bytes(message))
        self.is_over = True


class MeshWorld(World):
    """See the module. Nodes serve streams of ``control`` by sending everything back."""

    pause = 0.2
    """Simulated seconds between two inputs: none is to be dropped for coming too fast."""

    settled = 60.0
    """Simulated seconds after which a node is no longer in its first moments, when it believes
    more."""

    healed = 120.0
    """Simulated seconds within which all must work again: lies about an honest node are mended by
    what that node says next, and services are said again every minute."""

    def __init__(self, nursery: trio.Nursery, nodes: dict[str, Mesh]) -> None:
        self.nursery = nursery
        self.nodes = nodes
        self.links: dict[str, EvilLink] = {}
        self.epochs: dict[str, int] = {}
        self.kept: MeshStream | None = None
        """A stream from left to right that lasts as long as the world."""
        self.dialer = b"nobody"
        """The enemy's service that has a connection with the victim, if it has one."""
        self._opened = 0
        self._sent = 0
        self._lost = ""

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Self]:
        """Start the nodes and let them find together."""
        async with (
            open_mesh("left") as left,
            open_mesh("victim") as victim,
            open_mesh("right") as right,
            trio.open_nursery() as nursery,
        ):
            world = cls(nursery, {node.node_id: node for node in (left, victim, right)})
            for node in (left, right):
                world.join(node, victim)
            for node in world.nodes.values():
                nursery.start_soon(serve, await node.listen(ECHO))
            async with AsyncExitStack() as stack:
                await world.prepare(stack)
                await trio.sleep(world.settled)
                await left.wait_reachable("right")
                world.kept = await stack.enter_async_context(await left.dial("right", ECHO))
                await world.check()
                yield world
            world._lost = ""
            nursery.cancel_scope.cancel()

    async def prepare(self, stack: AsyncExitStack) -> None:
        """Start what else a target needs; ``stack`` ends it."""

    @property
    def victim(self) -> Mesh:
        """The node that is attacked."""
        return self.nodes["victim"]

    def join(self, one: Mesh, other: Mesh) -> None:
        """Link two honest nodes; that this link ends is harm."""
        for mesh, end in zip((one, other), memory_link_pair(), strict=True):
            self.nursery.start_soon(self._keep, mesh, end, f"{one.node_id}–{other.node_id}")

    async def _keep(self, mesh: Mesh, end: MemoryLink, name: str) -> None:
        await mesh.run_link(end)
        self._lost = self._lost or f"the link {name} ended"

    # --- the enemy ---------------------------------------------------------------------------

    async def link(self, to: str) -> EvilLink:
        """Return an established link to a node: the last one, unless that node has ended it."""
        found = self.links.get(to)
        if found is not None and not found.is_over:
            return found
        self._opened += 1
        near, far = memory_link_pair(f"evil{self._opened}")
        found = self.links[to] = EvilLink(far, f"ev{self._opened:06}")
        found.on_message = self._hear
        mesh = self.nodes[to]
        self.nursery.start_soon(self._run_evil, mesh, near)
        self.nursery.start_soon(found.read)
        await found.link.send([forge.update(found.name, Connections={to: 1}, UpdateID=found.name)])
        await trio.testing.wait_all_tasks_blocked()
        return found

    async def _run_evil(self, mesh: Mesh, near: MemoryLink) -> None:
        await mesh.run_link(near)

    def _hear(self, message: bytes) -> None:
        """Learn the epochs of honest nodes, as everybody can."""
        if message[:1] == bytes([MessageType.ROUTE]):
            with suppress(ValueError, KeyError):
                said = json.loads(message[1:])
                self.epochs[said["NodeID"]] = said["UpdateEpoch"]

    def fill(self, message: bytes, name: str) -> bytes:
        """Put in what is only known now: the sender's name, numbers that pass."""
        epoch = self.epochs.get("victim", 0)
        values = {
            b"PEER": name.encode(),
            b"DIALER": self.dialer,
            b"ID": b"i%d" % self._sent,
            b"EPOCH": b"%d" % epoch,
            b"LATER": b"%d" % (epoch + A_SECOND),
            b"SEQ": b"%d" % (1000 + self._sent),
            b"NOW": forge.now_text().encode(),
            b"SOON": forge.now_text(3600).encode(),
        }
        filled = _MARK.sub(lambda found: values[found[1]], message)
        return filled.replace(PEER_HASH, name_hash(name))[:MAX_MESSAGE]

    async def feed(self, item: object) -> None:
        """Send messages over an established link."""
        assert isinstance(item, Sent)
        link = await self.link(item.to)
        filled = []
        for message in item.messages:
            self._sent += 1
            filled.append(self.fill(message, link.name))
        with suppress(*GONE):
            await link.link.send([message for message in filled if message])
        await self.settle()

    async def settle(self) -> None:
        """Wait until what was sent has had its effects."""
        await trio.testing.wait_all_tasks_blocked()
        self.see_links()
        await trio.sleep(self.pause)

    def see_links(self) -> None:
        """Raise Harm if an honest link has ended."""
        if self._lost:
            raise Harm(self._lost)

    # --- what must work ----------------------------------------------------------------------

    async def check(self) -> None:
        """See that links are up, a ping passes through the victim, and streams reach it."""
        self.see_links()
        left, right = self.nodes["left"], self.nodes["right"]
        await self._use_kept_stream()
        await self.works("a ping from left to right", lambda: left.ping("right"))
        await self.works("a ping from right to left", lambda: right.ping("left"))
        await self.works("a stream from left to victim", lambda: exchange(left, "victim"))
        await self.works(
            "the services of honest nodes", lambda: self._sees_services(left, "victim", "right")
        )
        self.see_links()

    async def _use_kept_stream(self) -> None:
        """Send something back and forth on the stream that was opened at the beginning."""
        assert self.kept is not None
        with trio.move_on_after(self.healed) as patience:
            try:
                await self.kept.send_all(GREETING)
                back = b""
                while len(back) < len(GREETING):
                    back += await self.kept.receive_some(65536) or b"\0" * len(GREETING)
            except (MeshError, *GONE) as exc:
                raise Harm(f"a stream from left to right broke: {exc!r}") from exc
            if back != GREETING:
                raise Harm("a stream from left to right ended")
        if patience.cancelled_caught:
            raise Harm(f"a stream from left to right stood still for {self.healed:g} s")

    async def works(self, what: str, attempt: Callable[[], object]) -> None:
        """Try something until it works, or ``healed`` has passed."""
        failure: Exception | None = None
        with trio.move_on_after(self.healed):
            while True:
                try:
                    await attempt()  # type: ignore[misc]
                except (MeshError, Harm, *GONE) as exc:
                    failure = exc
                else:
                    return
                await trio.sleep(1)
        raise Harm(f"{what} does not work: {failure!r}")

    async def _sees_services(self, observer: Mesh, *nodes: str) -> None:
        await trio.lowlevel.checkpoint()
        seen = {ad.node_id for ad in observer.status().advertisements if ad.service == ECHO}
        if missing := set(nodes) - seen:
            raise Harm(f"{observer.node_id} does not see control of {sorted(missing)}")


async def serve(listener: trio.abc.Listener[MeshStream]) -> None:
    """Send back all that comes on each stream."""

    async def echo(stream: MeshStream) -> None:
        with suppress(*GONE, MeshError):
            async with stream:
                while data := await stream.receive_some(65536):
                    await stream.send_all(data)
                await stream.send_eof()

    async with trio.open_nursery() as nursery:
        while True:
            nursery.start_soon(echo, await listener.accept())


async def exchange(mesh: Mesh, node: str) -> None:
    """Send something to a node's service and see it come back."""
    stream = await mesh.dial(node, ECHO)
    async with stream:
        await stream.send_all(GREETING)
        await stream.send_eof()
        back = bytearray()
        while data := await stream.receive_some(65536):
            back += data
    if back != GREETING:
        raise Harm(f"{bytes(back)!r} came back from {node}")
