"""The target ``answers``: what a hostile service says to a victim that has dialed it."""

import random
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass

import trio
import trio.testing
from hostile import forge
from hostile.dialer import Answerer

from fuzz import mutate
from fuzz.engine import Target
from fuzz.meshworld import GONE, EvilLink, MeshWorld
from fuzz.quic import ROUND_PAUSE, ROUNDS, one_frame
from meshnode.errors import MeshError
from meshnode.mesh.streams.identity import make_insecure_identity
from meshnode.protocol.messages import HEADER_LENGTH, MessageType

SERVICE = "web"

LISTENS = 20.0
"""Simulated seconds for which the victim's user waits for the service."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Packets for each connection that the victim dials; ``damage`` seeds what becomes of the
    handshake's own packets, ``refuses`` has the service say that there is none."""

    packets: tuple[bytes, ...]
    damage: int | None
    notice: bytes | None
    shares: bool


class AnswersWorld(MeshWorld):
    """The victim dials a service of the enemy's node, and uses the stream as it can."""

    async def prepare(self, stack: AsyncExitStack) -> None:
        """Make what the service presents."""
        self._identity = make_insecure_identity()
        self._talks: dict[bytes, Answerer] = {}
        self._heard: list[bytes] = []
        self._shares = False

    async def feed(self, item: object) -> None:
        """Have the victim dial, answer it, and let its user go on until it has had enough."""
        assert isinstance(item, Answers)
        link = await self.link("victim")
        link.on_message = self._note
        self._talks.clear()
        self._shares = item.shares
        if item.shares:
            tags = {"type": "x", "meshnode": "many-streams"}
            await self._send(link, [forge.advert(link.name, SERVICE, Tags=tags)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._use, link.name, nursery.cancel_scope)
            damage = None if item.damage is None else random.Random(item.damage)
            for round_number in range(ROUNDS):
                await self._answer(link, damage)
                if round_number == 10 and item.notice is not None:
                    await self._send(link, [self.fill(item.notice, link.name)])
                for talk in list(self._talks.values()):
                    if talk.is_up and not talk.is_over and round_number >= 8:
                        await self._send(link, [talk.packet(p) for p in item.packets])
                await trio.sleep(ROUND_PAUSE)
        await self.settle()

    async def _use(self, node: str, scope: trio.CancelScope) -> None:
        with trio.move_on_after(LISTENS), suppress(MeshError, *GONE):
            stream = await self.victim.dial(node, SERVICE)
            async with stream:
                await stream.send_all(b"question")
                while await stream.receive_some(65536):
                    await stream.send_all(b"more")
                await stream.send_eof()
        scope.cancel()

    def _note(self, message: bytes) -> None:
        self._hear(message)
        if message[0] == MessageType.DATA and message[28:36] == forge.service_field(SERVICE):
            self._heard.append(message)

    async def _answer(self, link: EvilLink, damage: random.Random | None) -> None:
        heard, self._heard = self._heard, []
        now = trio.current_time()
        for message in heard:
            dialer = message[20:28]
            talk = self._talks.get(dialer)
            if talk is None:
                with suppress(ValueError):
                    talk = self._talks[dialer] = Answerer(
                        link.name, SERVICE, message, self._identity, many_streams=self._shares
                    )
            if talk is not None:
                talk.take(message, now)
        for talk in self._talks.values():
            messages = talk.outgoing(now)
            if damage is not None:
                messages = [_damaged(m, damage) for m in messages]
            await self._send(link, messages)

    async def _send(self, link: EvilLink, messages: list[bytes]) -> None:
        if messages:
            with suppress(*GONE):
                await link.link.send(messages)
        await trio.testing.wait_all_tasks_blocked()


def _damaged(message: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.5:
        return message
    return message[:HEADER_LENGTH] + mutate.damaged(message[HEADER_LENGTH:], chance)


class AnswersTarget(Target):
    """See the module."""

    name = "answers"
    about = "QUIC of a hostile service towards a victim that dials it"
    episode = 50
    check_every = 10

    def make(self, chance: random.Random) -> Answers:
        """Return the answers to one call."""
        packets = tuple(
            b"".join(one_frame(chance) for _ in range(chance.choice([1, 1, 2, 4])))[:1100]
            for _ in range(chance.choice([0, 1, 1, 2, 4]))
        )
        fields = forge.notice_fields("victim", "@PEER@", ToService=SERVICE)
        return Answers(
            packets=packets,
            damage=chance.randrange(1 << 30) if chance.random() < 0.2 else None,
            notice=(
                forge.data("left", "victim", "unreach", "unreach", forge.to_json(fields))
                if chance.random() < 0.1
                else None
            ),
            shares=chance.random() < 0.3,
        )

    def world(self) -> AbstractAsyncContextManager[MeshWorld]:
        """Open the ordinary mesh."""
        return AnswersWorld.open()
