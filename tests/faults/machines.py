"""The nodes of a storm: each with a disk of its own, and one of them perhaps behaving as receptor.

Nodes are harness nodes. What the storm knows of one beside that is whether it is meant to be there,
and what it has gone through.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import trio
import yaml
from disks import Disk
from harness import COMMANDS, Cluster, Node, wait_until

REPLY_PATIENCE = 120.0
"""Seconds for one conversation with a node: only what is stuck takes so long."""

RETRY_PAUSE = 0.05
"""Seconds until a client whose session was broken off tries again."""

LAST_LINES = 40
"""Lines of the log of a node that ended by itself which are shown."""

FRONT = Path(__file__).with_name("receptor_front.py")

FORGOTTEN = "forgotten there"
"""The hit of a unit whose directory was deleted on the node that another one had it from: that node
cannot know any more that it came, and says that it never did."""

T = TypeVar("T")


@dataclass(slots=True)
class Hit:
    """What a node or a unit has gone through, and when, in seconds since the epoch."""

    kind: str
    begun: float = field(default_factory=time.time)
    over: float | None = None

    def meets(self, begun: float, ended: float) -> bool:
        """Whether it was on at any moment of that time."""
        return self.begun <= ended and (self.over is None or self.over >= begun)


class Machine(Node):
    """A harness node on a disk of its own; with ``front``, one that is reached through that."""

    def __init__(self, plain: Node, disk: Disk, front: Sequence[str]) -> None:
        directives = yaml.safe_load(plain.config.read_text())
        directives[0]["node"]["datadir"] = str(disk.datadir)
        super().__init__(plain.cluster, plain.name, directives)
        self.disk = disk
        self.units = disk.seen / "data" / self.name
        self._front_links = front
        self._front: subprocess.Popen[bytes] | None = None
        plain.cluster.nodes[self.name] = self

    def start(self) -> "Machine":
        """Start the process, and then its front."""
        self.process = self._open(self.disk.entering, COMMANDS / "meshnode", "-c", self.config)
        wait_until(
            self._greets,
            watch=[self.directory, self.log],
            what=f"node {self.name} to greet on its control socket",
        )
        if self._front_links:
            words = [FRONT, self.name, self.socket, *self._front_links]
            self._front = self._open([], sys.executable, *words)
        return self

    def _open(self, before: Sequence[str], *words: str | Path) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*before, *words],
                env=self.cluster.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def pids(self) -> list[int]:
        """The node's process, and its front's."""
        return [self.pid] + ([self._front.pid] if self._front is not None else [])

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """End the front and the node, each in the same way."""
        if self._front is not None:
            self._front.send_signal(signal_number)
            self._front.wait()
            self._front = None
        return super().stop(signal_number)

    def close(self) -> None:
        """End the front, which the cluster does not know."""
        if self._front is not None:
            self._front.kill()
            self._front.wait()
            self._front = None


class Conversation:
    """A bare control session."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def line(self) -> str:
        """Return the next line. Raises trio.BrokenResourceError where there is none."""
        while b"\n" not in self._buffer:
            data = await self.stream.receive_some(65536)
            if not data:
                raise trio.BrokenResourceError("the node closed the session")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    async def ask(self, line: str) -> str:
        """Send a command line and return the first line of the answer."""
        await self.stream.send_all(line.encode() + b"\n")
        return await self.line()

    async def rest(self) -> bytes:
        """Return everything up to the end of the session."""
        data = self._buffer
        while more := await self.stream.receive_some(1 << 18):
            data += more
        return data


class StormNode:
    """A node, whether it is meant to be there at the moment, and what it has gone through."""

    def __init__(self, node: Machine) -> None:
        self.node = node
        self.busy = trio.Lock()
        """Held by whoever ends and starts it."""
        self.disk_busy = trio.Lock()
        """Held by whoever fills its disk."""
        self.store = 0
        """Which datadir is in its place: 0 is its own."""
        self.stores = 0
        """How many others have been."""
        self.hits: list[Hit] = []
        self._up = trio.Event()

    async def start(self) -> None:
        """Start it, and let clients come."""
        await trio.to_thread.run_sync(self.node.start)
        self._up.set()

    @property
    def pid(self) -> int:
        """The PID of the node, which is meant to be there. Raises AssertionError if it is not."""
        process = self.node.process
        assert process is not None
        if process.poll() is not None:
            log = self.node.log.read_text(errors="replace").splitlines()[-LAST_LINES:]
            text = f"node {self.node.name} ended by itself, with exit code {process.returncode}"
            raise AssertionError("\n".join([f"{text}; the end of its log:", *log]))
        return process.pid

    async def end(self, how: Callable[[], object]) -> None:
        """End it, which nothing else has; clients wait until it is back."""
        assert self.pid
        self._up = trio.Event()
        await trio.to_thread.run_sync(how)

    def freeze(self) -> None:
        """Stop its processes where they stand."""
        for pid in self.node.pids:
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo :meth:`freeze`."""
        for pid in self.node.pids:
            os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def hit(self, kind: str) -> Iterator[None]:
        """Have a hit go on in the context."""
        hit = Hit(kind)
        self.hits.append(hit)
        try:
            yield
        finally:
            hit.over = time.time()

    @contextlib.asynccontextmanager
    async def talk(self, patience: float = REPLY_PATIENCE) -> AsyncIterator[Conversation]:
        """Open a session as soon as there is a node. Raises trio.BrokenResourceError, OSError."""
        await self._up.wait()
        stream = await trio.open_unix_socket(str(self.node.socket))
        with trio.fail_after(patience):
            async with stream:
                conversation = Conversation(stream)
                await conversation.line()
                yield conversation

    async def again(
        self, ask: Callable[[Conversation], Awaitable[T]], patience: float = REPLY_PATIENCE
    ) -> T:
        """Have a conversation, as often as it takes for one that is not broken off."""
        while True:
            try:
                async with self.talk(patience) as conversation:
                    return await ask(conversation)
            except (trio.BrokenResourceError, OSError):
                await trio.sleep(RETRY_PAUSE)


def make_machine(
    cluster: Cluster, name: str, *, mounted: bool, front: Sequence[str], **options: object
) -> Machine:
    """Configure a node that runs on a disk of its own, and is not started yet.

    With ``front`` (links as ``receptor_front.py`` takes them) it behaves as receptor.
    """
    plain = cluster.node(name, start=False, **options)  # type: ignore[arg-type]
    disk = Disk(cluster.directory / f"{name}.disk", mounted=mounted)
    return Machine(plain, disk, front)
