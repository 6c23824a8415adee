"""Nodes with units on disk, commands that are not run, and streams in memory between them."""

import json
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from unittest import mock

import trio

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "work"))

from work_fakes import FakeDialer, FakeMesh, FakeNode, inline_run_sync

from fuzz.engine import Harm
from meshnode.work.units.retention import Retention

MEMORY = Path("/dev/shm")
"""Where syncing a file costs nothing, on most machines."""

PAYLOAD = b"as it was sent"

RETENTION = 30 * 86_400.0
"""Seconds after which units are released, as many nodes are configured."""

PATIENCE = 600.0
"""Simulated seconds that honest work may take: a node that was lied to may be waited for."""


@contextmanager
def disk() -> Iterator[Path]:
    """Yield an empty directory; files are not touched in threads, which no clock jumps over."""
    place = MEMORY if MEMORY.is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="mn-fuzz-", dir=place) as directory,
        mock.patch.object(trio.to_thread, "run_sync", inline_run_sync),
    ):
        yield Path(directory)


@asynccontextmanager
async def retaining(node: FakeNode) -> AsyncIterator[FakeNode]:
    """Run a node that releases units long after their end."""
    async with node.running(), trio.open_nursery() as nursery:
        nursery.start_soon(Retention(node.units, RETENTION, node.mesh.now).run)
        yield node
        nursery.cancel_scope.cancel()


async def ask(node: FakeNode, line: str) -> bytes:
    """Send one command and return all that comes until the session ends, whatever it is."""
    client = node.connect()
    await client.send_all(line.encode() + b"\n")
    await client.send_eof()
    return b"".join([bytes(chunk) async for chunk in client])


async def works(node: FakeNode, target: str) -> str:
    """Have honest work done, here or elsewhere, and return its unit.

    Raises:
        Harm: it is not done, or wrongly.
    """
    with trio.move_on_after(PATIENCE) as patience:
        unit = await node.submit(target, "cat", PAYLOAD)
        lines = await node.talk(f"work results {unit}")
        if lines[1:] != [PAYLOAD.decode()]:
            raise Harm(f"the output of cat on {target} is {lines}")
        status = json.loads((await node.talk(f"work status {unit}"))[0])
        if status["StateName"] != "Succeeded":
            raise Harm(f"cat on {target} is {status}")
        return unit
    assert patience.cancelled_caught
    raise Harm(f"cat on {target} is not done")


__all__ = ["PAYLOAD", "FakeDialer", "FakeMesh", "FakeNode", "ask", "disk", "retaining", "works"]
