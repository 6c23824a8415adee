"""The target ``farwork``: what a hostile node says about the work that it was given."""

import base64
import json
import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio
from hostile.forge import Raw, to_json
from hostile.runner import CREATED, GONE, STREAMING, UNIT

from fuzz import mutate
from fuzz.engine import Target, World
from fuzz.workworld import FakeMesh, FakeNode, ask, disk, retaining, works
from meshnode.protocol.control import greeting

LISTENS = 10.0
"""Simulated seconds for which a user waits for a unit that the hostile node has."""

LATENCY = 2.0
"""Simulated seconds until the hostile node greets: what is tried again and again must take time."""

CANCEL_PATIENCE = 25.0
"""Simulated seconds for the answer to a cancel or a release."""


@dataclass(frozen=True, slots=True)
class Lies:
    """What the hostile node answers, by what it is asked: bytes as they go over the stream.

    ``statuses`` come one after another, the last one again and again. ``breaks`` is the number of
    answers after which it breaks the stream off. ``then`` is what the user does.
    """

    greeting: bytes
    created: bytes
    submitted: bytes
    statuses: tuple[bytes, ...]
    streaming: bytes
    results: bytes
    other: bytes
    breaks: int
    is_meshnode: bool
    then: str


class HostileNode:
    """A member of a FakeMesh that answers as it is told."""

    node_id = "evil"
    is_receptor = False

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.lies: Lies | None = None

    async def serve(self, stream: trio.abc.HalfCloseableStream, kind: str, peer: str) -> None:
        """Serve one conversation."""
        lies = self.lies
        assert lies is not None
        with suppress(*GONE):
            async with stream:
                await trio.sleep(LATENCY)
                await stream.send_all(lies.greeting)
                await self._answer_all(stream, lies)

    async def _answer_all(self, stream: trio.abc.HalfCloseableStream, lies: Lies) -> None:
        buffer = b""
        asked = 0
        while data := await stream.receive_some(65536):
            buffer += bytes(data)
            while b"\n" in buffer:
                line, _, buffer = buffer.partition(b"\n")
                asked += 1
                if asked > lies.breaks:
                    return
                await self._answer(line, stream, lies)

    async def _answer(self, line: bytes, stream: trio.abc.HalfCloseableStream, lies: Lies) -> None:
        subcommand = json.loads(line).get("subcommand")
        match subcommand:
            case "submit":
                await stream.send_all(lies.created)
                while await stream.receive_some(65536):
                    pass
                await stream.send_all(lies.submitted)
                if b"follows" in lies.submitted:
                    await self._tell(stream, lies)
            case "watch":
                await self._tell(stream, lies)
            case "status":
                await stream.send_all(lies.statuses[-1])
            case "results":
                await stream.send_all(lies.streaming + lies.results)
                await stream.send_eof()
            case _:
                await stream.send_all(lies.other)

    async def _tell(self, stream: trio.abc.HalfCloseableStream, lies: Lies) -> None:
        for status in lies.statuses:
            await stream.send_all(status)
            await trio.sleep(0.1)


class FarworkWorld(World):
    """``foo`` submits to ``evil``, and its honest units go on, here and on ``bar``."""

    def __init__(self, foo: FakeNode, evil: HostileNode) -> None:
        self._life = AsyncExitStack()
        self._foo = foo
        self._evil = evil

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator["FarworkWorld"]:
        """Start the nodes."""
        mesh = FakeMesh()
        with disk() as root:
            async with FakeNode(mesh, "bar", root).running(), trio.open_nursery() as nursery:
                evil = HostileNode(nursery)
                mesh.join(evil)  # type: ignore[arg-type]
                world = cls(FakeNode(mesh, "foo", root), evil)
                await world.start()
                try:
                    yield world
                finally:
                    await world.stop()
                    nursery.cancel_scope.cancel()

    async def start(self) -> None:
        """Start the submitting node."""
        await self._life.enter_async_context(retaining(self._foo))

    async def stop(self) -> None:
        """Stop it; its units are on disk."""
        await self._life.aclose()

    async def feed(self, item: object) -> None:
        """Submit a unit to the hostile node, and have the user act on it."""
        assert isinstance(item, Lies)
        self._evil.lies = item
        self._evil.is_receptor = not item.is_meshnode
        unit = await self._submit()
        if unit is None:
            return
        with trio.move_on_after(LISTENS):
            await ask(self._foo, f"work results {unit}")
        await ask(self._foo, f"work status {unit}")
        if item.then in {"cancel", "release", "force-release"}:
            with trio.move_on_after(CANCEL_PATIENCE):
                await ask(self._foo, f"work {item.then} {unit}")
        # Only what has ended is kept: the next start of the node is to read what was said of it.
        if item.then != "keep" or not self._foo.status(unit).state.is_final:
            with trio.move_on_after(CANCEL_PATIENCE):
                await ask(self._foo, f"work force-release {unit}")

    async def _submit(self) -> str | None:
        line = {"command": "work", "subcommand": "submit", "node": "evil", "worktype": "echo"}
        with trio.move_on_after(LISTENS):
            lines = await self._foo.talk(line, b"payload")
            found = lines[0].partition("with ID ")[2][:8]
            return found or None
        return None

    async def check(self) -> None:
        """See that honest work goes on, restart the node from its disk, and see it again."""
        await works(self._foo, "bar")
        await self.stop()
        self._life = AsyncExitStack()
        await self.start()
        kept = await works(self._foo, "foo")
        await works(self._foo, "bar")
        await ask(self._foo, f"work release {kept}")
        for unit in [u.unit_id for u in self._foo.units.all()][:-20]:
            with trio.move_on_after(CANCEL_PATIENCE):
                await ask(self._foo, f"work force-release {unit}")


def _good_status(chance: random.Random) -> dict[str, Any]:
    state = chance.choices([0, 1, 2, 3, 4], [1, 3, 8, 3, 2])[0]
    output = chance.choice([b"", b"output\n", bytes(100)])
    return {
        "State": state,
        "StateName": "x",
        "Detail": chance.choice(["Running: PID 7", "exit status 0", "exit status 1", "Canceled"]),
        "StdoutSize": len(output),
        "WorkType": "echo",
        "ExtraData": None,
        "Created": "2026-11-02T03:00:00.000000Z",
        "Started": "2026-11-02T03:00:01.000000Z",
        "Finished": "2026-11-02T03:00:02.000000Z" if state >= 2 else None,
        "ExitCode": 0,
        "Signal": None,
        "StdinSize": 7,
        "EndedBy": {"Cause": "cancel", "By": {"Kind": "unix", "Uid": 1, "Gid": 1, "Pid": 7}},
        "Stdout": base64.b64encode(output).decode(),
    }


class Farwork(Target):
    """See the module."""

    name = "farwork"
    about = "greetings, answers, statuses and results of a hostile node for work it was given"
    episode = 100
    check_every = 25

    def make(self, chance: random.Random) -> Lies:
        """Return the lies about one unit, in one or two of what is said."""
        lie = partial(self._lie, chance)
        submitted = {"unitid": UNIT, "result": "Job Started"}
        if chance.random() < 0.5:
            submitted["follows"] = Raw("true")
        count = chance.choice([1, 1, 2, 3])
        return Lies(
            greeting=lie(greeting("evil"), 0.03),
            created=lie(CREATED, 0.05),
            submitted=self._object(chance, submitted, 0.1),
            statuses=tuple(
                self._object(chance, _good_status(chance), 0.8, most=4) for _ in range(count)
            ),
            streaming=lie(STREAMING, 0.05),
            results=chance.choice([b"", b"output\n", bytes(100), bytes(200_000)]),
            other=lie(chance.choice([b'{"released":"x"}\n', b"ERROR: no\n", b"{}\n"]), 0.2),
            breaks=chance.choice([99, 99, 99, 0, 1, 2]),
            is_meshnode=chance.random() < 0.7,
            then=chance.choice(["keep", "keep", "cancel", "release", "force-release"]),
        )

    def _lie(self, chance: random.Random, good: bytes, share: float) -> bytes:
        return mutate.damaged(good, chance) if chance.random() < share else good

    def _object(
        self, chance: random.Random, good: dict[str, Any], share: float, most: int = 2
    ) -> bytes:
        if chance.random() >= share:
            return to_json(good) + b"\n"
        text = to_json(mutate.fields(good, chance, most=most)) + b"\n"
        return mutate.damaged(text, chance) if chance.random() < 0.05 else text

    def world(self) -> AbstractAsyncContextManager[World]:
        """Open a node that has work to give away."""
        return FarworkWorld.open()
