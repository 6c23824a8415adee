"""``connect``: bytes between a client and a stream service anywhere on the mesh."""

import trio

from meshnode.control.mesh_face import ControlMesh
from meshnode.control.registry import Command, ControlSession, Handler, JsonObject
from meshnode.control.session import CHUNK
from meshnode.errors import CommandError


def connect_command(mesh: ControlMesh) -> Command:
    """Return the ``connect`` command: it turns its session into the stream, and ends it."""

    def run_to(node: str, service: str, tls: str) -> Handler:
        async def run(session: ControlSession) -> None:
            if tls:
                raise CommandError(f"unknown TLS config {tls}")
            stream = await mesh.dial(node, service)
            session.finish()
            try:
                await _bridge(session, stream)
            finally:
                # Closed it is already, unless something failed, and then this is a reset: half of
                # something must not look like all of it.
                await trio.aclose_forcefully(stream)

        return run

    def parse_text(rest: str) -> Handler:
        words = rest.split(" ")
        if len(words) < 2:
            raise CommandError("no connect target")
        if len(words) > 3:
            raise CommandError("too many parameters")
        return run_to(words[0], words[1], words[2] if len(words) == 3 else "")

    def parse_json(body: JsonObject) -> Handler:
        return run_to(
            _field(body, "node", "connect target node"),
            _field(body, "service", "connect target service"),
            _field(body, "tls", "connect tls name") if "tls" in body else "",
        )

    return Command("connect", parse_text, parse_json)


def _field(body: JsonObject, key: str, what: str) -> str:
    if key not in body:
        raise CommandError(f"no {what}")
    value = body[key]
    if not isinstance(value, str):
        raise CommandError(f"{what} must be string")
    return value


async def _bridge(session: ControlSession, stream: trio.abc.HalfCloseableStream) -> None:
    """Copy both ways until both sides have ended theirs, each end passed on as it comes."""

    async def to_service() -> None:
        while data := await session.receive_some(CHUNK):
            await stream.send_all(data)
        await stream.send_eof()

    async def to_client() -> None:
        while data := await stream.receive_some(CHUNK):
            await session.send(bytes(data))
        await session.send_eof()

    await session.send(b"Connecting\n")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(to_service)
        nursery.start_soon(to_client)
    await stream.aclose()
