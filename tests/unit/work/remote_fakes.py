"""A node of a FakeMesh that runs nobody's work and says about it whatever a test wants."""

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from work_fakes import FakeMesh

UNIT = "farUnit1"
CREATED = f"Work unit created with ID {UNIT}. Send stdin data and EOF.\n".encode()
STARTED = b'{"result":"Job Started","unitid":"%s"}\n' % UNIT.encode()
STREAMING = f"Streaming results for work unit {UNIT}\n".encode()
OUTPUT = b"all of the output"

Stream = trio.abc.HalfCloseableStream
Answer = Callable[["RemoteNode", Stream], Awaitable[bool | None]]
"""Answers one command; True says that it was refused, and that no payload comes."""


def says(*lines: bytes, closes: bool = False) -> Answer:
    """Answer with these bytes; then go on with the session, or end it."""

    async def answer(far: "RemoteNode", stream: Stream) -> None:
        for line in lines:
            await stream.send_all(line)
        if closes:
            await stream.aclose()

    return answer


async def says_endlessly(far: "RemoteNode", stream: Stream) -> None:
    """Answer with a line without end."""
    while True:
        far.sent += 65536
        await stream.send_all(b"x" * 65536)


async def says_nothing(far: "RemoteNode", stream: Stream) -> None:
    """Do not answer."""
    await trio.sleep_forever()


class RemoteNode:
    """The node ``bar``; honest, and as receptor is, where ``lies`` holds no other answer.

    Attributes:
        lies: the answers of the test, by ``greeting``, by subcommand, and ``submitted`` for what
            follows the payload.
        asked: the subcommands that came.
        sent: bytes of endless lines and results that somebody took.
    """

    node_id = "bar"

    def __init__(self, mesh: FakeMesh, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.is_receptor = True
        self.lies: dict[str, Answer] = {}
        self.asked: list[dict] = []
        self.sent = 0
        self.submissions = 0
        self.state = 1
        self.detail = "Running: PID 7"
        self.size: int | None = None
        mesh.join(self)

    def finish(self, state: int = 2, detail: str = "exit status 0") -> None:
        self.state, self.detail = state, detail

    def status(self, **changes) -> bytes:
        size = len(OUTPUT) if self.size is None else self.size
        told = {"State": self.state, "Detail": self.detail, "StdoutSize": size, "WorkType": "cat"}
        return json.dumps(told | changes).encode() + b"\n"

    async def serve(self, stream: Stream, kind: str, peer: str) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._say("greeting", b"Receptor Control, node bar\n", stream)
            buffer = b""
            while data := await stream.receive_some(65536):
                buffer += data
                while b"\n" in buffer:
                    line, _, buffer = buffer.partition(b"\n")
                    command = json.loads(line)
                    self.asked.append(command)
                    await self._answer(command, stream)
            await stream.aclose()

    async def _say(self, what: str, honest: bytes, stream: Stream) -> bool | None:
        return await self.lies.get(what, says(honest))(self, stream)

    async def _answer(self, command: dict, stream: Stream) -> None:
        match command["subcommand"]:
            case "submit":
                self.submissions += 1
                if await self._say("submit", CREATED, stream):
                    return
                while await stream.receive_some(65536):
                    pass
                await self._say("submitted", STARTED, stream)
            case "status":
                await self._say("status", self.status(), stream)
            case "results":
                await self._say("results line", STREAMING, stream)
                await self._say("results", OUTPUT[command["startpos"] :], stream)
                await stream.send_eof()
            case "cancel":
                self.finish(4, "Canceled")
                await self._say("cancel", b'{"cancelled":"%s"}\n' % UNIT.encode(), stream)
            case "release":
                await self._say("release", b'{"released":"%s"}\n' % UNIT.encode(), stream)
            case other:
                await self._say(other, b"ERROR: bad command\n", stream)
