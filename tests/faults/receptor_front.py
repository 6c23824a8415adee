"""A node that behaves as receptor does: a mesh of its own, and a meshnode behind it that works.

``receptor_front.py NODE SOCKET [listen:PORT|dial:PORT]…`` joins the mesh as NODE and serves its
control service from the node at SOCKET, which has no link. On the way it takes from commands and
replies what receptor does not have (recorded in tests/data/captures): ``work watch``, the keys of
submissions and statuses that are our own, conditions of a cancel, more than one stream on a
connection, words for what a restart found. Whoever sends it our own keys all the same is written
down in ``NODE.misled``: receptor would take them for parameters of the work.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from meshnode.mesh.links.tcp import TcpDialer, TcpListener
from meshnode.mesh.mesh import Mesh, open_mesh
from meshnode.mesh.peers.own_services import LocalService
from meshnode.protocol.routing import ConnType, WorkType

RECEIVE = 64 * 1024
OWN_KEYS = frozenset(
    {"submissionkey", "submissionfollow", "stdinsize", "stdinsha256", "onbehalfof"}
)
STATUS_KEYS = ("State", "StateName", "Detail", "StdoutSize", "WorkType", "ExtraData")
OWN_WORDS = "lost: the node ended before"
RECEPTOR_WORDS = "Pending at restart"
CONTROL = "control"

JsonObject = dict[str, Any]


class Lines:
    """The lines of a stream, and the bytes after them."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._buffer = b""

    async def line(self) -> bytes:
        """Return the next line with its end; without one the rest, empty at the end."""
        while b"\n" not in self._buffer:
            data = await self._stream.receive_some(RECEIVE)
            if not data:
                break
            self._buffer += data
        end = self._buffer.find(b"\n") + 1 or len(self._buffer)
        line, self._buffer = self._buffer[:end], self._buffer[end:]
        return line

    async def pass_on(self, sink: trio.abc.SendStream) -> None:
        """Send all the rest to another stream."""
        data = self._buffer
        self._buffer = b""
        while data or (data := await self._stream.receive_some(RECEIVE)):
            await sink.send_all(data)
            data = b""


class Session:
    """One control session of another node, and the one with the node behind that it leads to."""

    def __init__(
        self,
        client: trio.abc.HalfCloseableStream,
        node: trio.abc.HalfCloseableStream,
        misled: Callable[[str], None],
    ) -> None:
        self._client = client
        self._node = node
        self._commands = Lines(client)
        self._replies = Lines(node)
        self._misled = misled

    async def run(self) -> None:
        """Serve it to its end.

        Raises:
            trio.BrokenResourceError: either side is gone.
        """
        await self._client.send_all(await self._reply())
        while line := await self._commands.line():
            command = as_receptor_reads(line, self._misled)
            if command is None:
                await self._client.send_all(b"ERROR: bad command\n")
                continue
            await self._node.send_all(command)
            reply = await self._reply()
            await self._client.send_all(as_receptor_says(reply))
            if reply.startswith(b"Work unit created"):
                await self._take_payload()
                return
            if reply.startswith(b"Streaming results"):
                await self._replies.pass_on(self._client)
                break
        await self._client.send_eof()

    async def _reply(self) -> bytes:
        line = await self._replies.line()
        if not line.endswith(b"\n"):
            raise trio.BrokenResourceError("the node behind is gone")
        return line

    async def _take_payload(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_payload)
            reply = await self._reply()
            await self._client.send_all(as_receptor_says(reply))
            await self._client.send_eof()
            nursery.cancel_scope.cancel()

    async def _pass_payload(self) -> None:
        await self._commands.pass_on(self._node)
        # Only after an end that was meant: of a payload that broke off, the node must not think so.
        await self._node.send_eof()


def as_receptor_reads(line: bytes, misled: Callable[[str], None]) -> bytes | None:
    """Return what receptor sees in a command line; None if it is no command to it."""
    if not line.startswith(b"{"):
        return None if line.split()[:2] == [b"work", b"watch"] else line
    command: JsonObject = json.loads(line)
    if command.get("subcommand") == "watch":
        return None
    if own := sorted(OWN_KEYS & set(command)):
        misled(f"{command['subcommand']} with {', '.join(own)}")
    kept = {key: value for key, value in command.items() if key not in {*OWN_KEYS, "unless"}}
    return json.dumps(kept).encode() + b"\n"


def as_receptor_says(line: bytes) -> bytes:
    """Return a reply line as receptor words it."""
    if not line.startswith(b"{"):
        return line
    reply = json.loads(line)
    if "State" in reply:
        reply = _as_status(reply)
    elif reply and all(isinstance(value, dict) for value in reply.values()):
        reply = {unit: _as_status(status) for unit, status in reply.items()}
    return json.dumps(reply, separators=(",", ":"), sort_keys=True).encode() + b"\n"


def _as_status(status: JsonObject) -> JsonObject:
    kept = {key: status[key] for key in STATUS_KEYS}
    if kept["Detail"].startswith(OWN_WORDS):
        kept["Detail"] = RECEPTOR_WORDS
    return kept


async def serve(
    client: trio.abc.HalfCloseableStream, *, socket: str, misled: Callable[[str], None]
) -> None:
    """Serve one stream; what breaks on one side breaks on the other."""
    try:
        node = await trio.open_unix_socket(socket)
        async with node:
            await Session(client, node, misled).run()
    except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
        await trio.aclose_forcefully(client)
    else:
        await client.aclose()


async def listen_as_receptor(mesh: Mesh) -> trio.abc.Listener[trio.abc.HalfCloseableStream]:
    """Advertise the control service without the tag by which a meshnode knows another."""
    listener = mesh._streams.listen(CONTROL)
    work = tuple(WorkType(name, secure=False) for name in ("job", "bound", "apart"))
    tags = {"type": "Control Service"}
    mesh._link_state.announcer.add(LocalService(CONTROL, ConnType.STREAM, tags, work))
    return listener


async def main(name: str, socket: str, links: list[str]) -> None:
    """Be that node until killed."""
    record = Path(socket).with_name(f"{name}.misled")

    def misled(what: str) -> None:
        with record.open("a") as file:
            file.write(f"{what}\n")

    async with open_mesh(name) as mesh:
        for link in links:
            kind, port = link.split(":")
            if kind == "listen":
                for listener in await TcpListener.open(int(port), "127.0.0.1"):
                    mesh.add_listener(listener)
            else:
                mesh.add_dialer(TcpDialer("127.0.0.1", int(port)))
        service = await listen_as_receptor(mesh)
        print("listening", flush=True)
        await trio.serve_listeners(partial(serve, socket=socket, misled=misled), [service])


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3:])
